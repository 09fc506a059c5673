"""The gallery's full view in a real browser: keys, buttons, touches, videos."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_support import BROWSER, Opened, loaded, source, until
from gallery_support import apart, fill, pictures, put, saved

from kie_mj_async.gallery import build

pytestmark = BROWSER


def test_full_view_goes_by_keys(batch: Path, opened: Opened) -> None:
    """Arrows, Home and End go through all files; Escape comes back to the picture that was last."""
    page = opened(batch)
    page.locator(".tile").first.click()
    assert (page.locator("#place").text_content(), source(page)) == ("1 / 17", "fox_0.jpeg")
    assert page.locator("#previous").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert source(page) == "fox_0.jpeg"
    page.keyboard.press("ArrowRight")
    assert (page.locator("#place").text_content(), source(page)) == ("2 / 17", "fox_1.jpeg")
    page.keyboard.press("End")
    assert (page.locator("#place").text_content(), source(page)) == ("17 / 17", "old_0.jpeg")
    assert page.locator("#next").is_disabled()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert source(page) == "again_1.jpeg"
    page.wait_for_selector("#stage img.ready")
    page.keyboard.press("Escape")
    until(page, "document.activeElement.item?.file.src === 'again_1.jpeg'")
    assert not page.locator("#full").is_visible()


@pytest.mark.slow
def test_full_view_goes_by_buttons(batch: Path, opened: Opened) -> None:
    """Every control has a name, and the focus does not leave full view."""
    page = opened(batch)
    page.get_by_role("button", name="Picture 2 of 4: a red fox").click()
    full = page.get_by_role("dialog", name="Full view")
    full.get_by_role("button", name="Next").click()
    assert source(page) == "fox_2.jpeg"
    full.get_by_role("button", name="Previous").click()
    assert source(page) == "fox_1.jpeg"
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || "
            "document.getElementById('full').contains(document.activeElement)"
        )
    full.get_by_role("button", name="Close").click()
    assert not full.is_visible()
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((one) => "
        "!(one.ariaLabel || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert nameless == []


@pytest.mark.slow
def test_the_other_keys(batch: Path, opened: Opened) -> None:
    """Slash searches, also out of full view; the question mark shows the keys."""
    page = opened(batch)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("c/?o")
    assert page.locator("#search").input_value() == "c/?o"
    page.locator("#search").fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.wait_for_selector(".tile")
    page.locator(".tile").first.click()
    page.keyboard.press("?")
    page.keyboard.press("Escape")
    assert page.locator("#full").is_visible()
    page.keyboard.press("/")
    page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.id") == "search"
    assert not page.locator("#full").is_visible()


@pytest.mark.slow
def test_arrows_in_the_page(batch: Path, opened: Opened) -> None:
    """From a picture that has the focus, arrows lead to its neighbours; Enter opens it."""
    page = opened(batch)
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert source(page) == "fox_1.jpeg"


@pytest.mark.slow
def test_the_original_opens(batch: Path, opened: Opened) -> None:
    """``o`` opens the file itself, from the page and from full view."""
    page = opened(batch)
    page.locator(".tile").nth(1).focus()
    with page.context.expect_page() as other:
        page.keyboard.press("o")
    assert other.value.url == (batch.parent / "fox_1.jpeg").as_uri()
    page.bring_to_front()
    page.locator(".tile").nth(2).click()
    with page.context.expect_page() as other:
        page.keyboard.press("o")
    assert other.value.url == (batch.parent / "fox_2.jpeg").as_uri()


def test_videos_play(batch: Path, opened: Opened) -> None:
    """A video has a first frame in the page and plays in full view."""
    page = opened(batch)
    tile = page.locator(".tile:has(video)").first
    tile.scroll_into_view_if_needed()
    until(page, "document.querySelector('.tile video').readyState > 0")
    tile.click()
    until(page, "document.querySelector('#stage video')?.currentTime > 0.05")
    assert page.locator("#stage video").evaluate("(one) => one.controls")
    page.keyboard.press("ArrowRight")
    assert source(page) == "waves_1.mp4"
    page.keyboard.press("Escape")
    page.locator("#stage video").wait_for(state="detached")


@pytest.mark.slow
def test_videos_stand_still_for_those_who_wish_it(batch: Path, opened: Opened) -> None:
    """With less motion asked for, a video waits for its own button."""
    page = opened(batch, reduced_motion="reduce")
    page.locator(".tile:has(video)").first.click()
    until(page, "document.querySelector('#stage video')?.readyState > 1")
    assert page.locator("#stage video").evaluate("(one) => one.paused && one.currentTime === 0")


def test_files_that_are_gone_or_broken(tmp_path: Path, opened: Opened) -> None:
    """A clear placeholder stands for each, in the page and in full view; no broken icon."""
    out = tmp_path / "out"
    files = [
        *pictures(out, "fox", 3),
        put(out, "v.mp4", b"no video", media_type="video/mp4", width=None, height=None),
    ]
    fill(out, [saved("1", "a fox", files)])
    (out / "fox_0.jpeg").unlink()
    (out / "fox_1.jpeg").write_bytes(b"no picture")
    path = apart(build, out).path
    (out / "fox_2.jpeg").unlink()  # after the page was made: its thumbnail is still there
    page = opened(path, expected="ERR_FILE_NOT_FOUND")
    until(page, "document.querySelectorAll('.tile.gone').length === 3")
    texts = page.locator(".gone-text").all_text_contents()
    assert texts == [
        "not in the directory any morefox_0.jpeg",
        "cannot be shownfox_1.jpeg",
        "cannot be shownv.mp4",
    ]
    loaded(page)
    page.locator(".tile").nth(2).click()
    page.locator("#stage .gone-text").wait_for()
    page.keyboard.press("Home")
    assert "not in the directory" in page.locator("#stage").text_content()


@pytest.mark.slow
def test_swiping(batch: Path, opened: Opened) -> None:
    """On a touch screen one swipes from picture to picture, and down to leave."""
    page = opened(batch, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    touch = page.context.new_cdp_session(page)

    def swipe(start: tuple[int, int], end: tuple[int, int]) -> None:
        for kind, points in (("touchStart", [start]), ("touchMove", [end]), ("touchEnd", [])):
            where = [{"x": x, "y": y} for x, y in points]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

    page.locator(".tile").first.tap()
    swipe((300, 400), (100, 410))
    until(page, "document.getElementById('place').textContent === '2 / 17'")
    swipe((100, 400), (300, 390))
    until(page, "document.getElementById('place').textContent === '1 / 17'")
    swipe((200, 300), (205, 302))
    assert source(page) == "fox_0.jpeg"
    page.evaluate("document.getElementById('stage').style.touchAction = 'none'")
    swipe((200, 300), (205, 500))
    page.locator("#full").wait_for(state="hidden")
