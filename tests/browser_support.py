"""What the tests of the gallery in a real browser share."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from gallery_support import apart, clip, fill, pictures, put, saved, stuck

from kie_mj_async.gallery import build
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import ExistingTask, ImageToVideo, TextToImage

Opened = Callable[..., Any]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="no playwright: pip install -e '.[dev]'",
    ),
]
"""What such tests are marked with: they are skipped where the browser or its driver is missing."""

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> "
    '"><svg onload=alert(3)> javascript:alert(4) {{data}} ${x} &lt;'
)


@contextmanager
def running() -> Iterator[Any]:
    """The system's chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opening(browser: Any) -> Iterator[Opened]:
    """Opens a page; whatever it complains of or asks for elsewhere fails the test.

    Options: a ``script`` to run first, what addresses to ``allow``, and a complaint of the browser's
    that is ``expected``.
    """
    trouble: list[str] = []
    contexts: list[Any] = []

    def go(
        url: Path | str,
        *,
        script: str = "",
        allow: str = "file:",
        expected: str = "",
        **options: Any,
    ) -> Any:
        given = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **options}
        context = browser.new_context(**given)
        contexts.append(context)
        context.set_default_timeout(10_000)
        if script:
            context.add_init_script(script)

        def asking(dialog: Any) -> None:
            trouble.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def asked(request: Any) -> None:
            if not request.url.startswith((allow, "data:")):
                trouble.append(f"network: {request.url}")

        context.on("request", asked)
        page = context.new_page()
        page.on("dialog", asking)
        page.on("pageerror", lambda error: trouble.append(str(error)))

        def told(message: Any) -> None:
            if not expected or expected not in message.text:
                trouble.append(f"{message.type}: {message.text}")

        page.on("console", told)
        page.goto(url.as_uri() if isinstance(url, Path) else url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


def made(out: Path, jobs: list[Job]) -> Path:
    fill(out, jobs)
    return apart(build, out).path


def make_batch(out: Path) -> Path:
    """The page of a batch with something of everything."""
    wide = TextToImage("Ein Fuchs im Schnee, Café Zürich", aspect_ratio="16:9", speed="fast")
    waves = ImageToVideo("waves roll in", image="https://files.test/a.png")
    clips = [
        put(out, f"waves_{n}.mp4", clip() + bytes([n]), n,
            media_type="video/mp4", width=None, height=None)
        for n in range(2)
    ]  # fmt: skip
    return made(
        out,
        [
            saved("1", TextToImage("a red fox", speed="fast"), pictures(out, "fox")),
            saved("2", wide, pictures(out, "schnee", seed=1, size=(896, 512))),
            saved("3", TextToImage(HOSTILE, speed="relaxed"), pictures(out, "odd", seed=2)),
            saved("4", TextToImage("a red fox", speed="turbo"), pictures(out, "again", 2, seed=3)),
            saved("5", waves, clips),
            stuck("6", "a glass city", State.UNRESOLVED, "the reply was lost"),
            stuck("7", HOSTILE, State.FAILED, HOSTILE, "t7"),
            stuck("8", "a paper boat", State.PLANNED, None),
            stuck("named-a b", "a bridge", State.ABANDONED, "given up by you"),
            saved("10", ExistingTask("old-task"), pictures(out, "old", 1, seed=4)),
        ],
    )


def loaded(page: Any) -> None:
    """Wait until every picture that is drawn has come."""
    until(
        page,
        "() => [...document.querySelectorAll('.tile img')]"
        ".every((one) => one.complete && one.naturalWidth > 0)",
    )


def paint_all(page: Any) -> None:
    """Let pictures below the screen come too."""
    page.evaluate(
        "document.querySelectorAll('.group')"
        ".forEach((one) => { one.style.contentVisibility = 'visible' });"
        "document.querySelectorAll('img').forEach((one) => { one.loading = 'eager' })"
    )
    loaded(page)


def until(page: Any, script: str) -> None:
    """Wait until something holds. Playwright's own way to wait is what the page's policy forbids."""
    deadline = time.monotonic() + 10
    while not page.evaluate(script):
        assert time.monotonic() < deadline, f"it never came about: {script}"
        page.wait_for_timeout(15)


def prompts(page: Any) -> list[str]:
    return list(page.locator(".group h2").all_text_contents())


def source(page: Any) -> str:
    """The file in full view."""
    return unquote(page.locator("#full-open").evaluate("(one) => one.href").rsplit("/", 1)[1])


def pasted(page: Any) -> str:
    """What was copied last."""
    page.locator("#search").fill("")
    page.locator("#search").press("Control+v")
    return str(page.locator("#search").input_value())
