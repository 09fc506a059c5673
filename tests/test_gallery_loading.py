"""How the gallery loads in a real browser: links, data files, many jobs, moved and served."""

from __future__ import annotations

import functools
import http.server
import shutil
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest
from browser_support import BROWSER, Opened, made, paint_all, prompts, until
from gallery_support import apart, fill, jpeg, pictures, put, saved, stuck

from kie_mj_async.archive import page as page_text
from kie_mj_async.archive.thumbnails import shrink
from kie_mj_async.gallery import build
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import TextToImage

pytestmark = BROWSER

SHIFT = """
() => new Promise((done) => {
  let sum = 0;
  const watcher = new PerformanceObserver((list) => {
    for (const one of list.getEntries()) sum += one.value;
  });
  watcher.observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 300);
})
"""


@pytest.mark.slow
@pytest.mark.parametrize("pillow", [True, False])
def test_names_of_every_kind_in_a_directory_that_was_moved(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, pillow: bool
) -> None:
    """Links are relative and encoded, with thumbnails and without."""
    if not pillow:
        monkeypatch.setattr("kie_mj_async.archive.thumbnails.shrink", lambda _source: None)
    out = tmp_path / "old #1"
    names = [
        "a b.jpeg",
        "100%25 #1?.jpeg",
        "狐 é.jpeg",
        "x&y;'\"z.jpeg",
        "javascript:alert(1).jpeg",
    ]
    files = [put(out, name, jpeg(n), n) for n, name in enumerate(names)]
    made(out, [saved("1", "a fox", files)])
    moved = tmp_path / "new %20?é"
    out.rename(moved)
    page = opened(moved / "index.html")
    paint_all(page)
    assert page.locator(".tile img").count() == 5
    first = page.locator(".tile img").first.get_attribute("src")
    assert first.startswith(".kie-mj/") == pillow
    page.locator(".tile").nth(4).click()
    page.wait_for_selector("#stage img.ready")


@pytest.mark.slow
def test_nothing_moves_while_it_loads(batch: Path, opened: Opened) -> None:
    """The place of every picture is known before it comes."""
    page = opened(batch)
    assert page.evaluate(SHIFT) < 0.01


@pytest.mark.slow
def test_from_a_server(batch: Path, opened: Opened) -> None:
    """The same directory can be put on a web server: the page's own policy lets it work there."""
    handler = functools.partial(Quiet, directory=str(batch.parent))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            page = opened(url, allow=url)
            paint_all(page)
            page.locator(".tile:has(video)").first.click()
            until(page, "document.querySelector('#stage video')?.readyState > 1")
        finally:
            server.shutdown()
            thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that keeps no log."""

    def log_message(self, *_: Any) -> None:
        pass


def many(number: int) -> list[Job]:
    """Jobs without files, some hundreds more than one data file holds."""
    return [stuck(f"k{n}", f"prompt {n}", State.PLANNED, None) for n in range(number)]


def all_read(page: Any) -> None:
    until(page, "document.body.dataset.read === 'all'")


def test_the_rest_comes_after_the_first_screen(tmp_path: Path, opened: Opened) -> None:
    """Jobs of later data files are found, counted, and put to their prompt's group."""
    out = tmp_path / "out"
    again = attrs.evolve(many(1)[0], key="again")
    later = saved("last", "a late fox", pictures(out, "late", 1))
    page = opened(made(out, [*many(600), again, later]))
    all_read(page)
    assert page.locator(".group").first.locator(".trouble").count() == 2
    page.locator("#search").fill("late fox")
    until(page, "document.querySelectorAll('.group').length === 1")
    assert page.locator("#count").text_content() == "1 job of 602"
    page.locator(".tile").click()
    page.wait_for_selector("#stage img.ready")


@pytest.mark.slow
def test_scrolling_draws_more(tmp_path: Path, opened: Opened) -> None:
    """Only what is near the screen is drawn; scrolling brings the rest, to the last."""
    page = opened(made(tmp_path / "out", many(400)))
    all_read(page)
    drawn = page.locator(".group").count()
    assert drawn < 150
    for _ in range(60):
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_timeout(30)
        if page.locator(".group").count() == 400:
            break
    assert prompts(page)[-1] == "prompt 399"


@pytest.mark.slow
def test_a_prompt_with_very_many_jobs(tmp_path: Path, opened: Opened) -> None:
    """A group shows its first jobs and offers the others."""
    jobs = [stuck(f"k{n}", "the same", State.PLANNED, None) for n in range(300)]
    page = opened(made(tmp_path / "out", jobs))
    all_read(page)
    assert page.locator(".trouble").count() == 24
    page.get_by_role("button", name="Show 276 more jobs").click()
    assert page.locator(".trouble").count() == 96


@pytest.mark.slow
def test_a_page_whose_data_are_gone(tmp_path: Path, opened: Opened) -> None:
    """A page that was made anew meanwhile, or was copied alone, says that it is not whole."""
    path = made(tmp_path / "out", many(600))
    shutil.rmtree(path.parent / ".kie-mj" / "gallery")
    page = opened(path, expected="ERR_FILE_NOT_FOUND")
    page.get_by_text("Not all could be read").wait_for()
    assert page.locator(".group").count() > 0


@pytest.mark.slow
def test_an_empty_batch(tmp_path: Path, opened: Opened) -> None:
    """A page without jobs says so."""
    page = opened(made(tmp_path / "out", []))
    page.get_by_text("No jobs yet").wait_for()


@pytest.mark.slow
def test_ten_thousand_pictures(
    tmp_path: Path, opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch of 2,500 jobs opens from disk with its first screen there at once, and is searched."""
    out = tmp_path / "large"
    path = large(out)
    best = 99_999.0
    for _ in range(3):
        page = opened(path)
        seen, after = page.evaluate(FIRST_SCREEN)
        assert seen >= 8
        best = min(best, after)
    all_read(page)
    read = page.evaluate("performance.now()")
    page.locator("#search").fill("prompt 2499 fox")
    until(page, "document.querySelectorAll('.group').length === 1")
    assert page.locator(".tile").count() == 4
    page.get_by_role("button", name="Clear").click()
    page.locator(".tile").first.click()
    page.keyboard.press("End")
    assert page.locator("#place").text_content() == "10,000 / 10,000"
    with capsys.disabled():
        sys.stdout.write(
            f"\n10,000 pictures: first screen after {best:.0f} ms, all read after {read:.0f} ms\n"
        )
    assert best < 5000


FIRST_SCREEN = """
async () => {
  const frames = async () => {
    for (let n = 0; n < 2; n++) await new Promise(requestAnimationFrame);
  };
  await frames();
  const seen = [...document.querySelectorAll('.tile img')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  await Promise.all(seen.map((one) => one.decode()));
  await frames();
  return [seen.length, performance.now()];
}
"""
"""How many pictures are on the screen, and when (ms since the page was asked for) all are painted."""


def large(out: Path) -> Path:
    """The page of 2,500 jobs with four pictures each; their thumbnails are there already."""
    basis = [jpeg(n, 768, 768) for n in range(16)]
    small = []
    for n, content in enumerate(basis):
        source = out.parent / f"{n}.jpeg"
        source.write_bytes(content)
        made_small = shrink(source)
        assert made_small is not None
        small.append(made_small[0])
    jobs = []
    for n in range(2500):
        files = []
        for index in range(4):
            which = (n * 4 + index) % 16
            # What follows a picture's end is no part of it, and makes each file one of its own.
            content = basis[which] + f"{n}/{index}".encode()
            file = put(out, f"prompt-{n}_{index}.jpeg", content, index, width=768, height=768)
            folder = out / ".kie-mj" / "thumbnails" / file.sha256[:2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file.sha256}.webp").write_bytes(small[which])
            files.append(file)
        request = TextToImage(f"prompt {n} of a fox in the snow", speed=("fast", "turbo")[n % 2])
        jobs.append(saved(f"k{n}", request, files))
    fill(out, jobs)
    result = apart(build, out)
    assert (result.jobs, result.pictures, result.thumbnails) == (2500, 10_000, 0)
    assert head_chunks(result.path) == 2500 // page_text.JOBS_PER_CHUNK
    return result.path


def head_chunks(path: Path) -> int:
    build_folder = next((path.parent / ".kie-mj" / "gallery").iterdir())
    return len(list(build_folder.iterdir())) + 1
