"""An object store in trouble, and ends in the middle: nothing half has a name, the next try works."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from s3_support import (
    CHUNK,
    LARGE,
    WHOLE,
    Seen,
    Shelf,
    Written,
    name,
    stored,
    video,
)
from support import picture

from kie_mj_async.archive import object_store, object_upload
from kie_mj_async.archive.object_store import PARTS, ObjectStore
from kie_mj_async.errors import WriteFailed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [0, LARGE])
async def test_trouble_that_passes_is_waited_out(
    shelf: Shelf, store: ObjectStore, written: Written, size: int
) -> None:
    """Answers of 503 in between cost time and nothing else."""
    content = video(size) if size else picture()
    troubles = iter([503, 503])
    shelf.on_request = lambda seen: next(troubles, None) if seen.method == "PUT" else None
    assert await store.keep(written(content), ".mp4", name) == "fox.mp4"
    assert stored(shelf, "renders/fox.mp4") == content
    assert next(troubles, None) is None


@pytest.mark.parametrize("size", [0, LARGE])
async def test_trouble_that_stays_leaves_the_part_for_later(
    shelf: Shelf, store: ObjectStore, written: Written, size: int
) -> None:
    """When the patience ends the error says what to do; nothing is stored, and another try works."""
    part = written(video(size) if size else picture())
    shelf.on_request = lambda seen: 503 if seen.method == "PUT" else None
    with pytest.raises(WriteFailed) as caught:
        await store.keep(part, ".mp4", name)
    assert str(caught.value) == (
        "s3://shelf/renders: cannot be written: it is in trouble (HTTP 503 SlowDown); resume later"
    )
    assert caught.value.billed == "yes"
    assert shelf.names == []
    assert part.path.exists()
    assert not part.closed  # closed would say that it was synced
    shelf.on_request = lambda _seen: None
    assert await store.keep(part, ".mp4", name) == "fox.mp4"


async def test_a_server_that_goes_away(shelf: Shelf, store: ObjectStore, written: Written) -> None:
    """A server that is gone ends in an error within the patience; once it is back, so is the store."""
    part = written(picture())
    shelf.stop()
    with pytest.raises(WriteFailed, match="cannot be reached"):
        await store.keep(part, ".png", name)
    shelf.start()
    assert await store.keep(part, ".png", name) == "fox.png"


async def test_a_reply_that_is_lost(shelf: Shelf, store: ObjectStore, written: Written) -> None:
    """The object was created and the reply was lost: the second try finds its own."""
    lost: list[int] = []

    def lose(seen: Seen, status: int) -> bool:
        if seen.creates and not lost:
            lost.append(status)
            return False
        return True

    shelf.on_reply = lose
    assert await store.keep(written(picture()), ".png", name) == "fox.png"
    assert lost == [200]
    assert shelf.names == ["renders/fox.png"]
    assert len(shelf.wrote("fox.png")) == 2


async def test_a_bucket_that_goes_missing(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """In the middle of a run it is an error of the file, not of the local disk."""
    shutil.rmtree(shelf.folder)
    with pytest.raises(WriteFailed, match="no such bucket"):
        await store.keep(written(picture()), ".png", name)


async def _until(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, 20)


@pytest.mark.parametrize("size", [0, 8 * CHUNK])
async def test_cancelled_in_the_middle(
    shelf: Shelf, store: ObjectStore, written: Written, size: int
) -> None:
    """Nothing is under the final name, the parts are taken back, and the part file can be sent again."""
    content = video(size) if size else picture()
    part = written(content)
    under_way, go_on = threading.Event(), threading.Event()

    def hold(seen: Seen) -> int | None:
        if seen.method == "PUT":
            under_way.set()
            assert go_on.wait(20)
            return None if size else 503
        return None

    shelf.on_request = hold
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.keep, part, ".mp4", name)
        await _until(under_way)
        tasks.cancel_scope.cancel()
        go_on.set()
    shelf.on_request = lambda _seen: None
    assert shelf.names == []
    assert shelf.unfinished == []
    assert sum(seen.sends_part for seen in shelf.requests) < 8
    assert await store.keep(part, ".mp4", name) == "fox.mp4"
    assert stored(shelf, "renders/fox.mp4") == content


async def test_cancelled_while_the_server_hangs(
    shelf: Shelf, store: ObjectStore, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking back what was sent is bounded in time."""
    monkeypatch.setattr("kie_mj_async.archive.object_upload.LAST_SECONDS", 0.2)
    monkeypatch.setattr(object_store, "LAST_SECONDS", 0.2)
    under_way, go_on = threading.Event(), threading.Event()

    def hang(seen: Seen) -> None:
        if seen.sends_part or seen.method == "DELETE":
            under_way.set()
            assert go_on.wait(20)

    shelf.on_request = hang
    try:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.keep, written(video(LARGE)), ".mp4", name)
                await _until(under_way)
                tasks.cancel_scope.cancel()
    finally:
        go_on.set()
    assert shelf.names == []


KILLED = """
import sys, anyio
from pathlib import Path
sys.path.insert(0, {tests!r})
from s3_support import ACCESS_KEY, SECRET, part_of
from kie_mj_async.archive.object_store import ObjectStore

async def main():
    store = ObjectStore.from_url("s3://shelf/renders", endpoint={endpoint!r}, allow_http=True,
                                 access_key_id=ACCESS_KEY, secret_access_key=SECRET)
    await store.prepare()
    print("ready", flush=True)
    part = part_of(Path({folder!r}), Path({content!r}).read_bytes())
    print(await store.keep(part, ".mp4", lambda extension, n: f"fox-{{n}}{{extension}}"), flush=True)

anyio.run(main)
"""


def _stops_at_third_part(seen: Seen) -> bool:
    return seen.sends_part and seen.query["partNumber"] == "3" and not seen.copies


def _stops_at_copy(seen: Seen) -> bool:
    return "uploads" in seen.query and seen.name == "fox-1.mp4"


def _stops_at_the_end(seen: Seen) -> bool:
    return seen.method == "DELETE" and PARTS in seen.path and "-" not in seen.name


@pytest.mark.slow
@pytest.mark.parametrize("true_sizes", [True])
@pytest.mark.parametrize(
    ("stops", "there"),
    [
        (_stops_at_third_part, []),
        (_stops_at_copy, []),
        (_stops_at_the_end, ["renders/fox-1.mp4"]),
    ],
    ids=["third part", "copy", "end"],
)
async def test_killed_in_the_middle(
    shelf: Shelf,
    store: ObjectStore,
    tmp_path: Path,
    written: Written,
    stops: Callable[[Seen], bool],
    there: list[str],
) -> None:
    """A process that dies in an upload leaves nothing or all under the name; the next one works."""
    content = video(WHOLE + 1)
    (tmp_path / "content").write_bytes(content)
    reached, go_on = threading.Event(), threading.Event()

    def hold(seen: Seen) -> None:
        if stops(seen):
            reached.set()
            assert go_on.wait(20)

    shelf.on_request = hold
    code = KILLED.format(
        tests=str(Path(__file__).parent), endpoint=shelf.endpoint,
        folder=str(tmp_path / "killed"), content=str(tmp_path / "content"),
    )  # fmt: skip
    async with await anyio.open_process(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL
    ) as process:
        try:
            await _until(reached)
        finally:
            process.kill()
    go_on.set()
    shelf.on_request = lambda _seen: None
    assert [path for path in shelf.names if PARTS not in path] == there
    final = await store.keep(written(content), ".mp4", lambda ext, n: f"fox-{n}{ext}")
    assert final == "fox-1.mp4"
    assert stored(shelf, "renders/fox-1.mp4") == content


PEAK = """
import sys, anyio, re
from pathlib import Path
sys.path.insert(0, {tests!r})
from s3_support import ACCESS_KEY, SECRET, part_of
from kie_mj_async.archive.object_store import ObjectStore

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

async def main():
    store = ObjectStore.from_url("s3://shelf/renders", endpoint={endpoint!r}, allow_http=True,
                                 access_key_id=ACCESS_KEY, secret_access_key=SECRET)
    await store.prepare()
    part = part_of(Path({folder!r}), b"")
    for _ in range({mib}):
        part.write(bytes(1 << 20))
    before = peak()
    await store.keep(part, ".mp4", lambda extension, n: f"{mib}{{extension}}")
    print(peak() - before)

anyio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("true_sizes", [True])
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
async def test_memory_does_not_grow_with_the_file(shelf: Shelf, tmp_path: Path) -> None:
    """A file of 200 MiB needs no more memory than its chunks under way."""
    grown = {}
    for mib in (32, 200):
        code = PEAK.format(
            tests=str(Path(__file__).parent), endpoint=shelf.endpoint,
            folder=str(tmp_path / f"parts-{mib}"), mib=mib,
        )  # fmt: skip
        run = await anyio.run_process([sys.executable, "-c", code])
        grown[mib] = int(run.stdout)
    assert grown[200] < 8 * object_upload.CHUNK >> 20
    assert grown[200] < grown[32] + 24
