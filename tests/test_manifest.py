"""The manifest: one line per file, made from the ledger, whole after every start."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import anyio
import attrs
import pytest

from kie_mj_async.archive.manifest import Manifest, line
from kie_mj_async.errors import WriteFailed
from kie_mj_async.jobs import Job, SavedFile, State
from kie_mj_async.requests import TextToImage

pytestmark = pytest.mark.anyio
AT = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
FILE = SavedFile(0, "fox_0.jpeg", "http://x.test/0", "ab" * 32, 70_000, "image/jpeg", 64, 48, AT)
JOB = Job(
    key="1-abc",
    request=TextToImage("ein Fuchs ~ 狐", speed="fast", callback_url="https://me.test/hook"),
    state=State.SAVED,
    task_id="t1",
    created_at=AT,
    completed_at=AT,
    files=(FILE, attrs.evolve(FILE, index=1, path="fox_1.jpeg")),
)


async def jobs(*given: Job) -> AsyncIterator[Job]:
    for job in given:
        yield job


def entries(path: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_the_fields_of_a_line() -> None:
    """A line holds what design and docs promise, in that order, and no callback."""
    entry = json.loads(line(JOB, FILE))
    assert list(entry.items()) == [
        ("job", "1-abc"),
        ("prompt", "ein Fuchs ~ 狐"),
        ("params", {"type": "TextToImage", "speed": "fast"}),
        ("task_id", "t1"),
        ("index", 0),
        ("path", "fox_0.jpeg"),
        ("url", "http://x.test/0"),
        ("sha256", "ab" * 32),
        ("bytes", 70_000),
        ("media_type", "image/jpeg"),
        ("width", 64),
        ("height", 48),
        ("created_at", "2026-11-01T12:00:00.123+00:00"),
        ("completed_at", "2026-11-01T12:00:00.123+00:00"),
        ("saved_at", "2026-11-01T12:00:00.123+00:00"),
    ]
    assert line(JOB, FILE).endswith("}\n")
    assert "狐" in line(JOB, FILE)


def test_times_that_are_not_known() -> None:
    """A time that the service never told is null."""
    entry = json.loads(line(attrs.evolve(JOB, created_at=None, completed_at=None), FILE))
    assert entry["created_at"] is entry["completed_at"] is None


async def test_rebuilt_from_the_ledger(tmp_path: Path) -> None:
    """A rebuild writes a line for every file of every job, whatever was there before."""
    manifest = Manifest(tmp_path)
    manifest.path.write_text('{"job": "old"}\n{"job": "to', encoding="utf-8")
    other = attrs.evolve(JOB, key="1-other", files=())
    await manifest.rebuild(jobs(JOB, other))
    assert [(one["job"], one["index"]) for one in entries(manifest.path)] == [
        ("1-abc", 0),
        ("1-abc", 1),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


async def test_lengthened_file_by_file(tmp_path: Path) -> None:
    """Files saved at the same time each get a whole line."""
    manifest = Manifest(tmp_path)
    await manifest.rebuild(jobs())
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(manifest.append, JOB, attrs.evolve(FILE, index=number))
    assert sorted(one["index"] for one in entries(manifest.path)) == list(range(30))  # type: ignore[type-var]


async def test_a_rebuild_that_is_cut_off_leaves_the_old_one(tmp_path: Path) -> None:
    """The manifest under its name is always a whole one."""
    manifest = Manifest(tmp_path)
    await manifest.rebuild(jobs(JOB))
    before = manifest.path.read_text(encoding="utf-8")

    async def broken() -> AsyncIterator[Job]:
        yield attrs.evolve(JOB, key="1-new")
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        await manifest.rebuild(broken())
    assert manifest.path.read_text(encoding="utf-8") == before


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A manifest that cannot be written is a ``WriteFailed`` that names it."""
    (tmp_path / "file").write_text("")
    manifest = Manifest(tmp_path / "file")
    with pytest.raises(WriteFailed, match=r"manifest\.jsonl: cannot be written"):
        await manifest.rebuild(jobs(JOB))
    with pytest.raises(WriteFailed, match=r"manifest\.jsonl: cannot be written"):
        await manifest.append(JOB, FILE)


async def test_a_line_that_does_not_fit_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes half a line is told to give it back, and the lines before stay whole."""
    manifest = Manifest(tmp_path)
    await manifest.rebuild(jobs(JOB))
    before = manifest.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[: len(data) // 2]))
    with pytest.raises(WriteFailed, match="No space left"):
        await manifest.append(JOB, FILE)
    assert manifest.path.read_bytes() == before


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    """Whenever the process is killed, every line of the manifest can be read."""
    program = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_manifest import FILE, JOB, Manifest, attrs, jobs
async def main():
    manifest = Manifest(Path(sys.argv[1]))
    await manifest.rebuild(jobs())
    big = attrs.evolve(JOB, request=attrs.evolve(JOB.request, prompt="\u72d0" * 2000))
    print("ready", flush=True)
    while True:
        await manifest.append(big, FILE)
asyncio.run(main())
"""
    chance = random.Random(7)
    for _ in range(5):
        command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0.05, 0.2))
            child.kill()
        found = entries(tmp_path / "manifest.jsonl")
        assert found
        assert all(len(str(one["prompt"])) == 2000 for one in found)
