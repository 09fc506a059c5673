"""The documentation: what its pages show runs, and what they list is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docs_support
import pytest
from cli_support import Shell
from docs_support import DOCS, PAGES, ROOT, SCALE, Story, blocks, skipped

import kie_mj_async as mj
from kie_mj_async.failpoints import HINT_POINTS, POINTS
from kie_mj_async.rules.lifecycle import TABLE
from kie_mj_async.testing import simulated_in_thread

WITH_BLOCKS = [page for page in PAGES if any(block.skipped is None for block in blocks(page))]
QUICK = [page for page in WITH_BLOCKS if any(not block.is_slow for block in blocks(page))]
SLOW = [page for page in WITH_BLOCKS if any(block.is_slow for block in blocks(page))]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def play(page: str, story: Story, *, slow: bool) -> None:
    """Run the blocks of a page; without ``slow`` only those that are quick."""
    try:
        for block in blocks(page):
            if block.skipped is None and (slow or not block.is_slow):
                story.play(block)
    finally:
        story.end()


@pytest.mark.parametrize("page", QUICK)
def test_what_a_page_shows_runs(page: str, shell: Shell, tmp_path: Path, stack: ExitStack) -> None:
    """Whoever copies a page's blocks, from its top, gets what it promises."""
    service = stack.enter_context(simulated_in_thread(time_scale=SCALE, picture_side=16))
    play(page, Story(tmp_path, service, shell), slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_what_takes_longer_runs_too(
    page: str, shell: Shell, tmp_path: Path, stack: ExitStack, request: pytest.FixtureRequest
) -> None:
    """Fleets with a real database, object stores, and tests that pytest runs."""

    def database() -> str:
        from fleet_runs import prepare

        url = stack.enter_context(request.getfixturevalue("postgres").fresh(prepare))
        return str(url)

    def shelf() -> dict[str, str]:
        server = request.getfixturevalue("shelf")
        for bucket in ("bucket", "renders"):
            (server.folder.parent / bucket).mkdir(exist_ok=True)
        environment: dict[str, str] = server.environment
        return environment

    service = stack.enter_context(simulated_in_thread(time_scale=SCALE, picture_side=16))
    story = Story(tmp_path, service, shell, database=database, shelf=shelf)
    play(page, story, slow=True)


def test_blocks_that_are_not_run_say_why() -> None:
    """They are few."""
    found = list(skipped())
    assert all(block.skipped for block in found), found
    assert len(found) <= 6, [f"{block}: {block.skipped}" for block in found]


def test_code_is_formatted_as_ours_is() -> None:
    """Python on the pages has the format of the package."""
    command = [sys.executable, "-m", "ruff", "format", "--check", "docs", "README.md"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def first_cells(page: str) -> list[str]:
    """What stands in the first cells of a page's tables, as code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"(?m)^\| (?:\[)?`([^`]+)`", text)


def test_every_error_is_explained() -> None:
    """Each error that can be caught has a row that says what it means and what to do."""
    public = {
        name
        for name in mj.__all__
        if isinstance(one := getattr(mj, name), type) and issubclass(one, mj.KieError)
    }
    assert sorted(set(first_cells("reference/errors.md"))) == sorted(public)


def test_every_point_of_a_crash_is_explained() -> None:
    """What happens in each crash is told for each point that the crash tests kill at."""
    assert first_cells("explanation/crashes.md") == [*POINTS, *HINT_POINTS]


def test_the_picture_of_states_shows_every_move() -> None:
    """No arrow is missing and none is made up."""
    drawn = re.findall(
        r'data-move="(\w+) (\w+) (\w+)"', (DOCS / "explanation/states.svg").read_text()
    )
    assert {(str(now), str(event), str(then)) for (now, event), then in TABLE.items()} == set(drawn)


def test_every_kind_of_file_is_described() -> None:
    """The fields of a manifest's line, and the tables of the ledger."""
    page = (DOCS / "reference/files.md").read_text(encoding="utf-8")
    manifest = (ROOT / "kie_mj_async/archive/manifest.py").read_text(encoding="utf-8")
    fields = re.findall(r'(?m)^        "(\w+)": ', manifest)
    assert len(fields) == 15
    schema = (ROOT / "kie_mj_async/ledger/schema.sql").read_text(encoding="utf-8")
    tables = re.findall(r"CREATE TABLE (\w+)", schema)
    assert [name for name in (*fields, *tables) if f"| `{name}`" not in page] == []


def test_a_prelude_gives_what_pieces_use(shell: Shell, tmp_path: Path, stack: ExitStack) -> None:
    """A piece that uses a client without making one gets one; a mistake is found at its line."""
    service = stack.enter_context(simulated_in_thread(time_scale=SCALE, picture_side=16))
    story = Story(tmp_path, service, shell)
    block = docs_support.Block("page.md", 7, "python", "await client.credits()\n", None, {})
    story.play(block)
    wrong = docs_support.Block("page.md", 7, "python", "import mj_typo\n", None, {})
    with pytest.raises(ModuleNotFoundError) as caught:
        story.play(wrong)
    assert caught.traceback[-1].lineno == 6
    assert os.fspath(caught.traceback[-1].path).endswith("page.md")
