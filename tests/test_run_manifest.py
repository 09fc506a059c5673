"""A run and the manifest of its directory: left alone where it fits, mended where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import VIRTUAL, Rig

from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.base import each_job
from kie_mj_async.requests import Request, TextToImage

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    """Virtual time."""
    return VIRTUAL


def prompts(count: int) -> list[Request]:
    return [TextToImage(f"prompt {number}") for number in range(count)]


async def test_a_manifest_that_fits_is_left_alone(tmp_path: Path) -> None:
    """A run that goes on where another has stopped begins by adding to its manifest."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite3", "test")
    rig = Rig(ledger=ledger, max_credits=50)
    await rig.render(tmp_path, prompts(3))
    manifest = tmp_path / "manifest.jsonl"
    before = manifest.stat().st_ino, manifest.read_bytes()
    again = Rig(ledger=ledger, service=rig.service)
    await again.render(tmp_path, None)
    assert manifest.stat().st_ino == before[0]
    assert manifest.read_bytes().startswith(before[1])
    assert len(manifest.read_bytes().splitlines()) == 6
    await ledger.aclose()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a torn last line": lambda whole: whole[:-30],
    "a lost last line": lambda whole: whole[: whole.rindex(b"\n", 0, -1) + 1],
    "lost lines": lambda whole: b"".join(whole.splitlines(keepends=True)[::2]),
    "lines of files that the ledger does not have": lambda whole: whole + whole.replace(b"0", b"1"),
    "as many lines of another batch": lambda whole: whole.replace(
        b'"task_id": "t', b'"task_id": "x'
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_resume_mends_the_manifest(tmp_path: Path, damage: str) -> None:
    """Whatever a crash or a hand has left of it, after the next run it tells what the ledger does."""
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite3", "test")
    rig = Rig(ledger=ledger, max_credits=75)
    await rig.render(tmp_path, prompts(5))
    manifest = tmp_path / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(DAMAGE[damage](whole))
    again = Rig(ledger=ledger, service=rig.service)
    outcomes, error = await again.render(tmp_path, None)
    assert error is None
    assert len(outcomes) == 2
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    files = [
        (job.key, file.index, file.path, file.sha256)
        async for job in each_job(ledger)
        for file in job.files
    ]
    named = [(one["job"], one["index"], one["path"], one["sha256"]) for one in lines]
    assert sorted(named) == sorted(files)
    assert len(named) == 10
    assert set(whole.splitlines()) <= set(manifest.read_bytes().splitlines())
    assert not list(tmp_path.glob(".manifest*"))
    await ledger.aclose()
