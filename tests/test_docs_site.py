"""The documentation's site, built as CI builds it: whole, linked, and alone in the world."""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import pytest
from browser_support import BROWSER, Opened

import kie_mj_async
from kie_mj_async import cluster, events, testing

pytest.importorskip("mkdocs", reason="no mkdocs: pip install -e '.[docs]'")

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow

ASSETS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
"""What a page loads by itself."""


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in ASSETS and ASSETS[tag] in given:
            self.assets.append(given[ASSETS[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self._code += tag in ("code", "pre", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WARNING" not in ended.stderr, ended.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """The pages by their places; the one for what is not found has places of its own."""
    return {
        path.relative_to(site).as_posix(): Page(path)
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }


def test_every_page_is_there(pages: dict[str, Page]) -> None:
    """Each Markdown file is a page."""
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert written == pages.keys()


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    """No font, script, style or picture comes from another host."""
    assets = {asset for page in pages.values() for asset in page.assets}
    assert {one for one in assets if urlsplit(one).netloc or one.startswith("//")} == set()
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import[^;]*", text) == [], style


def test_every_link_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    """Within the site, each page and each anchor that is linked to exists."""
    dead = []
    for place, page in pages.items():
        for link in (*page.links, *page.assets):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(place), unquote(parts.path))
                if parts.path
                else place
            )
            anchor = unquote(parts.fragment)
            found = (site / target).is_file() or (site / target / "index.html").is_file()
            known = pages[target].anchors if target in pages else {anchor}
            if not found or (anchor and anchor not in known):
                dead.append(f"{place}: {link}")
    assert dead == []


def test_every_public_name_is_described(pages: dict[str, Page]) -> None:
    """Whatever a user may import has its place in the reference."""
    public = {
        f"{module.__name__}.{name}"
        for module in (kie_mj_async, cluster, testing)
        for name in module.__all__
        if not name.startswith("__")
    }
    public |= {f"kie_mj_async.events.{one.__name__}" for one in get_args(events.Event)}
    described = {anchor for page in pages.values() for anchor in page.anchors}
    assert public - described == set()


def test_nothing_is_left_in_another_markup(pages: dict[str, Page]) -> None:
    """No role, literal block, directive or private source of the docstrings shows as it was written."""
    left = re.compile(
        r":(?:class|meth|func|data|attr|mod):|::\s*$|<!--|kie-api\.md|``|\]\[kie_|\\[^\w\s]"
    )
    found = [
        f"{place}: {words.strip()[:80]}"
        for place, page in pages.items()
        for words in page.words
        if left.search(words)
    ]
    assert found == []


def test_private_files_stay_out(site: Path) -> None:
    """What makes the site is no part of it."""
    assert [path for path in site.rglob("*") if "_make" in path.parts or path.suffix == ".py"] == []


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The site's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class TestInABrowser:
    """Whoever opens it: nothing is asked of another host, and nothing is complained of."""

    pytestmark = BROWSER

    def test_search_finds_what_is_meant(self, served: str, opened: Opened) -> None:
        """A word that is typed leads to its page."""
        from playwright.sync_api import TimeoutError as TimedOut

        page = opened(f"{served}/index.html", allow=served)
        found = page.locator(".md-search-result__link").first
        for _ in range(20):  # what is typed before the page's script is there, nobody hears
            page.fill("input[name=query]", "")
            page.locator("input[name=query]").press_sequentially("unresolved")
            with suppress(TimedOut):
                found.wait_for(timeout=2000)
                break
        links = page.eval_on_selector_all(
            ".md-search-result__link", "all => all.map(one => one.href)"
        )
        assert any("howto/resolve.html" in link for link in links), links

    def test_pages_fit_a_phone(self, served: str, opened: Opened, pages: dict[str, Page]) -> None:
        """No page is wider than the screen; tables and code scroll by themselves."""
        page = opened(f"{served}/index.html", allow=served, viewport={"width": 390, "height": 844})
        wide = []
        for place in sorted(pages):
            page.goto(f"{served}/{place}")
            if page.evaluate("document.documentElement.scrollWidth") > 390:
                wide.append(place)
        assert wide == []

    def test_it_can_be_dark(self, served: str, opened: Opened) -> None:
        """It follows the system, pictures too."""
        light, dark = (
            opened(f"{served}/explanation/states.html", allow=served, color_scheme=scheme)
            for scheme in ("light", "dark")
        )
        colour = "getComputedStyle(document.querySelector('.kie-drawing')).color"
        assert light.evaluate(colour) != dark.evaluate(colour)
