"""The gallery in a real browser, opened from disk: what one sees, looks for and copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser_support import BROWSER, HOSTILE, Opened, paint_all, pasted, prompts, until

pytestmark = BROWSER

ROWS = """
() => [...document.querySelectorAll('.tiles[data-number="4"]')].map((tiles) => {
  const rows = new Map();
  for (const one of tiles.children) rows.set(one.offsetTop, (rows.get(one.offsetTop) ?? 0) + 1);
  return [...rows.values()].join(',');
})
"""
"""How many pictures are in each row, for every job of four."""


def test_the_page_of_a_batch(batch: Path, opened: Opened) -> None:
    """One sees the directory's name, what it holds, and prompts with their pictures."""
    page = opened(batch)
    assert page.title() == page.locator("h1").text_content() == "my foxes"
    assert page.locator("#summary").text_content().startswith("10 jobs · 15 images · 2 videos")
    assert prompts(page)[0] == "a red fox"
    paint_all(page)
    first = page.locator(".tile img").first
    assert ".kie-mj/thumbnails/" in first.get_attribute("src")


def test_jobs_of_one_prompt_are_one_group(batch: Path, opened: Opened) -> None:
    """What they have in common is said once, what differs with each."""
    page = opened(batch)
    group = page.locator(".group", has=page.get_by_role("heading", name="a red fox"))
    assert group.count() == 1
    assert group.locator(".tile").count() == 6
    assert group.locator(".about .chips li").all_text_contents() == ["Text to image"]
    assert group.locator(".job .chips li").all_text_contents() == ["speed fast", "speed turbo"]


def test_hostile_prompts_are_text(batch: Path, opened: Opened) -> None:
    """What looks like markup in prompts and reasons is shown as it was written, and does nothing."""
    page = opened(batch)
    assert HOSTILE in prompts(page)
    assert page.locator(".trouble", has_text=HOSTILE).count() == 1
    assert page.locator("main script, main svg, main a").count() == 0
    page.locator(".group", has_text="alert(1)").locator(".tile").first.click()
    assert page.locator("#full-prompt").text_content() == HOSTILE
    page.keyboard.press("Escape")
    page.locator("#search").fill(HOSTILE)
    until(page, "document.querySelectorAll('.group').length === 1")


@pytest.mark.slow
def test_a_task_without_a_prompt(batch: Path, opened: Opened) -> None:
    """It goes by the name of its task."""
    page = opened(batch)
    group = page.locator(".group").last
    assert group.locator("h2").text_content() == "task t-10"
    assert group.get_by_role("button", name="Copy prompt").count() == 0
    assert group.get_by_role("button", name="Picture 1 of 1: task t-10").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["", "Object.defineProperty(navigator, 'clipboard', { value: undefined })"]
)
def test_prompts_are_copied(batch: Path, opened: Opened, script: str) -> None:
    """By button and by key, with the browser's clipboard and without."""
    page = opened(batch, script=script)
    page.get_by_role("button", name="Copy prompt").nth(1).click()
    page.wait_for_selector("#toast.on")
    assert pasted(page) == "Ein Fuchs im Schnee, Café Zürich"
    page.goto(batch.as_uri())
    page.locator(".tile").first.click()
    page.keyboard.press("c")
    page.wait_for_selector("#full .toast.on")
    page.keyboard.press("/")
    assert pasted(page) == "a red fox"


def test_search(batch: Path, opened: Opened) -> None:
    """Every word must be in the prompt; neither case nor accents matter."""
    page = opened(batch)
    for query, found in [
        ("fox", 1),
        ("FOX red", 1),
        ("zurich cafe", 1),
        ("schnee  ZÜRICH", 1),
        ("fox schnee", 0),
        ("ein fuchs", 1),
        ("<img src=x", 1),
    ]:
        page.locator("#search").fill(query)
        asked = json.dumps(query)
        until(page, f"new URLSearchParams(location.hash.slice(1)).get('q') === {asked}")
        assert page.locator(".group").count() == found
        assert (page.locator(".empty").count() == 1) == (found == 0)


def test_nothing_is_found(batch: Path, opened: Opened) -> None:
    """A friendly line says so, and leads back to everything."""
    page = opened(batch)
    everything = len(prompts(page))
    page.locator("#search").fill("zebra")
    page.get_by_text("Nothing fits").wait_for()
    assert page.locator("#count").text_content() == "0 jobs of 10"
    page.get_by_role("button", name="Show everything").click()
    assert len(prompts(page)) == everything
    assert page.locator("#search").input_value() == ""
    assert page.evaluate("location.hash") == ""


def test_filters(batch: Path, opened: Opened) -> None:
    """State, kind and parameters narrow the page down; the address keeps them."""
    page = opened(batch)
    page.get_by_role("button", name="unresolved").click()
    assert prompts(page) == ["a glass city"]
    assert "None is repeated by itself" in page.locator("#note").text_content()
    page.get_by_role("button", name="all").click()
    page.get_by_role("button", name="videos").click()
    assert prompts(page) == ["waves roll in"]
    page.get_by_role("button", name="videos").click()
    page.get_by_label("speed").select_option(label="speed: turbo (1)")
    assert page.locator(".tile").count() == 2
    assert page.locator("#count").text_content() == "1 job of 10"
    page.locator("#search").fill("red")
    until(page, "location.hash === '#q=red&p.speed=turbo'")
    page.reload()
    assert page.locator("#search").input_value() == "red"
    assert page.locator(".tile").count() == 2
    page.locator(".tile").first.click()
    assert page.locator("#place").text_content() == "1 / 2"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".group").count() == 8


@pytest.mark.slow
def test_a_parameter_that_was_not_given(batch: Path, opened: Opened) -> None:
    """Jobs that left a parameter to the service can be found too."""
    page = opened(batch)
    page.get_by_label("speed").select_option(label="speed: not given (4)")
    assert "a red fox" not in prompts(page)
    assert "a glass city" in prompts(page)


@pytest.mark.slow
def test_an_address_that_means_nothing(batch: Path, opened: Opened) -> None:
    """Whatever stands in the address, the page is there."""
    page = opened(batch.as_uri() + "#state=constructor&kind=__proto__&x=%E0%A4%A&p.zzz=1")
    page.get_by_text("Nothing fits").wait_for()
    page.get_by_role("button", name="Show everything").click()
    assert page.locator(".group").count() == 8


def test_jobs_that_are_not_saved(batch: Path, opened: Opened) -> None:
    """Each has its state, its reason, its task, and the commands that go on with it."""
    page = opened(batch)
    box = page.locator(".trouble", has_text="the reply was lost")
    assert box.locator(".state").text_content() == "unresolved"
    box.get_by_text("What to do").click()
    assert box.locator("code").all_text_contents() == [
        "kie-mj resolve 'my foxes' 6 --adopt TASK_ID",
        "kie-mj resolve 'my foxes' 6 --retry",
        "kie-mj resolve 'my foxes' 6 --abandon",
    ]
    box.get_by_role("button", name="Copy").nth(1).click()
    page.wait_for_selector("#toast.on")
    assert pasted(page) == "kie-mj resolve 'my foxes' 6 --retry"
    page.goto(batch.as_uri())
    assert "task t7" in page.locator(".trouble", has_text="failed").first.text_content()
    named = page.locator(".trouble", has_text="given up by you")
    assert named.locator("code").text_content() == ("kie-mj resolve 'my foxes' 'named-a b' --retry")
    page.get_by_role("button", name="planned").click()
    assert page.locator("#note code").text_content() == "kie-mj resume 'my foxes'"


def test_light_and_dark(batch: Path, opened: Opened) -> None:
    """The page follows the system until its own switch is used, which is remembered."""

    def background(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(colour.removeprefix("rgb(").split(",")[0])

    assert background(opened(batch, color_scheme="dark")) < 60
    page = opened(batch)
    assert background(page) > 200
    page.emulate_media(color_scheme="dark")
    until(page, "document.documentElement.hasAttribute('data-dark')")
    assert background(page) < 60
    page.emulate_media(color_scheme="light")
    until(page, "!document.documentElement.hasAttribute('data-dark')")
    page.get_by_role("button", name="Colours: as the system").click()
    assert background(page) < 60
    # The browser keeps it in another process, which may hear of it a moment later.
    for _ in range(50):
        page.reload()
        if background(page) < 60:
            break
    page.get_by_role("button", name="Colours: dark").click()
    assert background(page) > 200


@pytest.mark.slow
def test_without_storage(batch: Path, opened: Opened) -> None:
    """A browser that keeps nothing from pages on disk shows the page, and the switch works."""
    refuse = (
        "Object.defineProperty(window, 'localStorage', "
        "{ get() { throw new DOMException('no', 'SecurityError') } })"
    )
    page = opened(batch, script=refuse)
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.hasAttribute('data-dark')")
    assert page.locator(".group").count() == 8


def test_nothing_is_wider_than_the_screen(batch: Path, opened: Opened) -> None:
    """On a phone as on a wall, one scrolls in one direction only, and four stand in tidy rows."""
    page = opened(batch)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    paint_all(page)
    for width in (320, 390, 768, 1280, 2400):
        page.set_viewport_size({"width": width, "height": 800})
        until(page, f"innerWidth === {width}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert set(page.evaluate(ROWS)) <= {"4", "2,2"}
        page.locator(".tile").first.click()
        assert page.evaluate("document.getElementById('full').scrollWidth") <= width
        assert page.locator("#full-close").bounding_box()["x"] < width - 30
        page.locator("#full-close").click()
