"""The manifest: one line per file, made from the ledger, whole after every start."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
from support import until

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


async def test_lines_that_wait_are_written_together(tmp_path: Path) -> None:
    """Whoever comes while others are being written shares the next hand-over with all that wait."""
    manifest = Manifest(tmp_path)
    await manifest.rebuild(jobs())
    opened: list[object] = []
    real = os.open

    def counted(*args: Any) -> int:
        opened.append(args)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", counted)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(manifest.append, JOB, attrs.evolve(FILE, index=number))
    assert len(opened) <= 3
    assert [one["index"] for one in entries(manifest.path)] == list(range(100))


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("writing", [True, False])
async def test_a_cancelled_line_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, writing: bool
) -> None:
    """Whether its write has begun or not; the others' lines are there too, and nothing goes on."""
    manifest = Manifest(tmp_path)
    await manifest.rebuild(jobs())
    reached, release = threading.Event(), threading.Event()
    real = os.write

    def write(handle: int, data: bytes) -> int:
        reached.set()
        release.wait(10)
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    scope = anyio.CancelScope()

    async def cut_off() -> None:
        with scope:
            await manifest.append(JOB, attrs.evolve(FILE, index=1))
            await anyio.lowlevel.checkpoint()
            raise AssertionError

    tasks = [] if writing else [asyncio.create_task(manifest.append(JOB, FILE))]
    if not writing:
        await until(reached.is_set)
    cut = asyncio.create_task(cut_off())
    tasks.append(asyncio.create_task(manifest.append(JOB, attrs.evolve(FILE, index=2))))
    await until(reached.is_set)
    await asyncio.sleep(0)
    (scope.cancel if how == "scope" else cut.cancel)()
    await asyncio.sleep(0.01)
    assert not cut.done()
    release.set()
    await asyncio.wait([cut, *tasks])
    assert cut.cancelled() is (how == "task")
    assert [one["index"] for one in entries(manifest.path)] == ([1, 2] if writing else [0, 1, 2])


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
    ends = await asyncio.gather(
        *(manifest.append(JOB, FILE) for _ in range(5)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [WriteFailed] * 5
    assert len({id(end) for end in ends}) == 5
    assert manifest.path.read_bytes() == before
    monkeypatch.undo()
    await manifest.append(JOB, FILE)
    assert manifest.path.read_bytes() == before + line(JOB, FILE).encode()


# --- Whether it fits ------------------------------------------------------------------------------


def batch(number: int) -> dict[str, Job]:
    """Saved jobs with two files each."""
    return {f"1-{n}": attrs.evolve(JOB, key=f"1-{n}", task_id=f"t{n}") for n in range(number)}


async def glance(manifest: Manifest, ledger: dict[str, Job]) -> bool:
    async def job_of(key: str) -> Job | None:
        return ledger.get(key)

    return await manifest.fits(sum(len(job.files) for job in ledger.values()), job_of)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 40])
async def test_what_was_rebuilt_or_lengthened_fits(tmp_path: Path, number: int) -> None:
    """There is nothing to mend."""
    manifest = Manifest(tmp_path)
    ledger = batch(number)
    assert not await glance(manifest, ledger)  # it is not there yet
    await manifest.rebuild(jobs(*ledger.values()))
    assert await glance(manifest, ledger)
    ledger["1-new"] = attrs.evolve(JOB, key="1-new")
    assert not await glance(manifest, ledger)
    for file in JOB.files:
        await manifest.append(ledger["1-new"], file)
    assert await glance(manifest, ledger)


def _in_the_middle(whole: bytes, harm: Callable[[bytes], bytes]) -> bytes:
    lines = whole.splitlines(keepends=True)
    lines[len(lines) // 2] = harm(lines[len(lines) // 2])
    return b"".join(lines)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "gone": lambda _: b"",
    "torn": lambda whole: whole[:-9],
    "only the last line break is missing": lambda whole: whole[:-1],
    "the last line is missing": lambda whole: whole[: whole.rindex(b"\n", 0, -1) + 1],
    "the first line is missing": lambda whole: whole[whole.index(b"\n") + 1 :],
    "one in the middle is missing": lambda whole: _in_the_middle(whole, lambda _: b""),
    "a line twice": lambda whole: whole + whole[: whole.index(b"\n") + 1],
    "a line too many": lambda whole: whole + b'{"job": "1-1", "index": 0}\n',
    "a block that was never written": lambda whole: _in_the_middle(
        whole, lambda line: bytes(len(line) - 1) + b"\n"
    ),
    "no text": lambda whole: bytes(range(128, 256)) * 9 + b"\n" * whole.count(b"\n"),
    "lines of something else": lambda whole: b'["job"]\n' * whole.count(b"\n"),
    "lines without a job": lambda whole: b"{}\n" * whole.count(b"\n"),
    "of another version": lambda whole: whole.replace(b'"sha256"', b'"sha"'),
    "of other jobs": lambda whole: whole.replace(b'"job": "1-', b'"job": "2-'),
    "of other files of these jobs": lambda whole: whole.replace(b'"index": 1', b'"index": 7'),
    "of these jobs in another directory": lambda whole: whole.replace(b"fox_", b"owl_"),
    "the first line is another's": lambda whole: whole.replace(b'"t0"', b'"x0"', 1),
    "the last line is another's": lambda whole: whole[:-4] + b"9" + whole[-3:],
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("number", [2, 40])
async def test_what_was_harmed_does_not_fit(tmp_path: Path, harm: str, number: int) -> None:
    """Lines that were torn, lost, doubled, or are another ledger's are seen at a glance."""
    manifest = Manifest(tmp_path)
    ledger = batch(number)
    await manifest.rebuild(jobs(*ledger.values()))
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(HARMS[harm](whole))
    assert manifest.path.read_bytes() != whole
    assert not await glance(manifest, ledger)
    await manifest.rebuild(jobs(*ledger.values()))
    assert manifest.path.read_bytes() == whole
    assert await glance(manifest, ledger)


async def test_one_that_cannot_be_read_does_not_fit(tmp_path: Path) -> None:
    """What stands in the way is told by whoever writes it."""
    (tmp_path / "manifest.jsonl").mkdir()
    assert not await glance(Manifest(tmp_path), {})


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    """Whenever the process is killed, what it has answered for is there, and can be read."""
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
        *whole, rest = (tmp_path / "manifest.jsonl").read_bytes().split(b"\n")
        request = TextToImage("狐" * 2000, speed="fast", callback_url="https://me.test/hook")
        big = attrs.evolve(JOB, request=request)
        written = line(big, FILE).encode()
        assert whole
        assert set(whole) == {written.rstrip()}
        # A kill at the very moment: the kernel looks for one between two pages of a write.
        assert written.startswith(rest)
