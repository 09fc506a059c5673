"""An object store that takes files: whole under their names, or not at all, and in place of nothing."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from s3_support import ACCESS_KEY, SECRET, Seen, Shelf, part_of, shelf_in
from support import picture

from kie_mj_async.archive import object_store, object_upload
from kie_mj_async.archive.object_store import PARTS, ObjectStore
from kie_mj_async.archive.parts import PartFile
from kie_mj_async.errors import ConfigError, WriteFailed

pytestmark = pytest.mark.anyio

CHUNK = 5 << 20
"""Bytes of a part in most tests: the smallest that the protocol allows."""

LARGE = 2 * CHUNK + 1234
"""Bytes that go as three parts."""

WHOLE = object_upload.WHOLE

Written = Callable[[bytes], PartFile]


def name(extension: str, attempt: int) -> str:
    return f"fox{'' if attempt == 1 else f'-{attempt}'}{extension}"


def video(size: int, seed: int = 0) -> bytes:
    """What looks like an MP4."""
    return b"\0\0\0\x10ftypisom\0\0\0\0" + random.Random(seed).randbytes(size - 16)


@pytest.fixture
def true_sizes() -> bool:
    """Whether files are large and parts are cut as for users; else smaller, so that tests are quick."""
    return False


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, true_sizes: bool) -> Iterator[Shelf]:
    if not true_sizes:
        monkeypatch.setattr(object_upload, "CHUNK", CHUNK)
        monkeypatch.setattr(object_upload, "WHOLE", CHUNK)
    for variable in list(os.environ):
        if variable.startswith("AWS_"):
            monkeypatch.delenv(variable)
    with shelf_in(tmp_path / "data") as made:
        yield made


@pytest.fixture
async def store(shelf: Shelf) -> ObjectStore:
    made = shelf.store("renders")
    await made.prepare()
    shelf.requests.clear()
    return made


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    parts: list[PartFile] = []

    def write(content: bytes) -> PartFile:
        parts.append(part_of(tmp_path / "parts", content))
        return parts[-1]

    yield write
    for part in parts:
        part.close()


def stored(shelf: Shelf, path: str) -> bytes:
    return (shelf.folder / path).read_bytes()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("true_sizes", [True])
@pytest.mark.parametrize("size", [0, WHOLE, WHOLE + 1, 40 << 20])
async def test_a_file_comes_under_its_name_whole(
    shelf: Shelf, store: ObjectStore, written: Written, size: int
) -> None:
    """Small or large, it is there byte for byte, nothing else is, and the part file is gone."""
    content = video(size) if size else picture()
    part = written(content)
    final = await store.keep(part, ".mp4", name)
    assert final == "fox.mp4"
    assert digest(stored(shelf, "renders/fox.mp4")) == digest(content)
    assert shelf.names == ["renders/fox.mp4"]
    assert shelf.unfinished == []
    assert part.closed
    assert not part.path.exists()


@pytest.mark.parametrize(("size", "kind"), [(0, "image/png"), (LARGE, "video/mp4")])
async def test_an_object_says_what_it_is(
    shelf: Shelf, store: ObjectStore, written: Written, size: int, kind: str
) -> None:
    """Its content type is what the content is, whatever way it went."""
    await store.keep(written(video(size) if size else picture()), ".bin", name)
    assert shelf.labels["/shelf/renders/fox.bin"]["content-type"] == kind


@pytest.mark.parametrize("content", [picture(1), video(LARGE, 1)], ids=["small", "large"])
async def test_a_users_object_is_not_overwritten(
    shelf: Shelf, store: ObjectStore, written: Written, content: bytes
) -> None:
    """A name that is taken by another object is left alone, whatever its size; the next is used."""
    (shelf.folder / "renders").mkdir(exist_ok=True)
    (shelf.folder / "renders" / "fox.png").write_bytes(b"mine")
    (shelf.folder / "renders" / "fox-2.png").write_bytes(b"x" * len(content))
    assert await store.keep(written(content), ".png", name) == "fox-3.png"
    assert stored(shelf, "renders/fox.png") == b"mine"
    assert stored(shelf, "renders/fox-2.png") == b"x" * len(content)
    assert stored(shelf, "renders/fox-3.png") == content


@pytest.mark.parametrize("content", [picture(1), video(LARGE, 1)], ids=["small", "large"])
@pytest.mark.parametrize("labelled", [True, False])
async def test_the_same_content_is_adopted(
    shelf: Shelf, store: ObjectStore, written: Written, content: bytes, labelled: bool
) -> None:
    """The same content under the name (a crash came before the ledger) is taken as it is."""
    await store.keep(written(content), ".png", name)
    if not labelled:
        shelf.labels.clear()
    shelf.requests.clear()
    again = written(content)
    assert await store.keep(again, ".png", name) == "fox.png"
    assert shelf.names == ["renders/fox.png"]
    assert not any(seen.sends_part for seen in shelf.requests)
    assert not again.path.exists()


async def test_a_wrong_label_of_somebody_elses_is_not_trusted(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """A label that is no SHA-256 in hex is not ours: the content is compared."""
    await store.keep(written(picture()), ".png", name)
    shelf.labels["/shelf/renders/fox.png"]["x-amz-meta-sha256"] = "something"
    assert await store.keep(written(picture()), ".png", name) == "fox.png"


@pytest.mark.parametrize("size", [0, LARGE])
async def test_of_two_writers_one_gets_the_name(
    shelf: Shelf, store: ObjectStore, written: Written, size: int
) -> None:
    """Two that create one name at the same moment both keep their files: one under the next name."""
    other = shelf.store("renders")
    await other.prepare()
    contents = [video(size, 1), video(size, 2)] if size else [picture(1), picture(2)]
    together = threading.Barrier(2, timeout=20)
    waited: list[str] = []

    def wait(seen: Seen) -> None:
        if seen.creates and seen.name == "fox.mp4" and len(waited) < 2:
            waited.append(seen.method)
            together.wait()

    shelf.on_request = wait
    kept: list[str] = []

    async def keep(at: ObjectStore, content: bytes) -> None:
        kept.append(await at.keep(written(content), ".mp4", name))

    parts = iter(contents)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep, store, next(parts))
        tasks.start_soon(keep, other, next(parts))
    assert len(waited) == 2
    assert sorted(kept) == ["fox-2.mp4", "fox.mp4"]
    found = {digest(stored(shelf, f"renders/{path}")) for path in kept}
    assert found == {digest(content) for content in contents}
    assert shelf.names == ["renders/fox-2.mp4", "renders/fox.mp4"]


async def test_names_run_out(
    shelf: Shelf, store: ObjectStore, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When every name is taken the error says so, after a bounded number of tries."""
    monkeypatch.setattr(object_store, "MAX_NAMES", 5)
    (shelf.folder / "renders").mkdir()
    (shelf.folder / "renders" / "fox.png").write_bytes(b"mine")
    with pytest.raises(WriteFailed, match="taken"):
        await store.keep(written(picture()), ".png", lambda _extension, _attempt: "fox.png")


async def test_a_name_that_comes_and_goes(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """A name that is refused as taken and is not there is tried again, and not for ever."""
    shelf.on_request = lambda seen: 412 if seen.creates else None
    with pytest.raises(WriteFailed, match="others are writing"):
        await store.keep(written(picture()), ".png", name)
    refusals = iter([412, 412])
    shelf.on_request = lambda seen: next(refusals, None) if seen.creates else None
    assert await store.keep(written(picture()), ".png", name) == "fox.png"


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


async def test_an_object_that_arrived_short(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """A store that has fewer bytes than it was sent is not believed."""

    def cut(seen: Seen, _status: int) -> bool:
        if seen.creates:
            with (shelf.folder / "renders" / "fox.png").open("r+b") as file:
                file.truncate(10)
        return True

    shelf.on_reply = cut
    part = written(picture())
    with pytest.raises(WriteFailed, match=r"10 of .* bytes arrived"):
        await store.keep(part, ".png", name)
    assert part.path.exists()


async def test_an_object_that_is_gone_at_once(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """An object that cannot be found after its creation was not saved."""

    def lose(seen: Seen, _status: int) -> bool:
        if seen.creates:
            (shelf.folder / "renders" / "fox.png").unlink()
        return True

    shelf.on_reply = lose
    with pytest.raises(WriteFailed, match=r"0 of .* bytes arrived"):
        await store.keep(written(picture()), ".png", name)


@pytest.mark.parametrize(
    "prefix", ["", "Füchse im Schnee/100% #1", "a%20b/c+d", "*[x]~{y}|^`\"'&=;,$!@()\\", "雪/🦊"]
)
async def test_odd_prefixes_and_names(shelf: Shelf, written: Written, prefix: str) -> None:
    """A prefix and names are taken literally, whatever is in them; an empty prefix is the bucket."""
    odd = "ein Fuchs %2F #2 ~ 狐.png"
    store = shelf.store(prefix)
    await store.prepare()
    assert store.root == f"s3://shelf/{prefix}".rstrip("/")
    for content in (picture(), video(CHUNK + 1)):
        kept = await store.keep(written(content), ".png", lambda _e, attempt: f"{attempt} {odd}")
        path = f"{store.root}/{kept}".removeprefix("s3://shelf/")
        assert stored(shelf, path) == content
    assert len(shelf.names) == 2


async def test_leftovers_of_killed_runs_are_swept(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary names older than a day go, a bounded number at a time, and nothing else."""
    monkeypatch.setattr(object_store, "MAX_SWEPT", 2)
    long_ago = time.time() - 25 * 3600
    for path, old in [
        (f"{PARTS}/a", True), (f"{PARTS}/b", True), (f"{PARTS}/c", True), (f"{PARTS}/new", False),
        (f"{PARTS}x/mine", True), ("fox.png", True), (f"sub/{PARTS}/mine", True),
    ]:  # fmt: skip
        file = shelf.folder / "renders" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"left")
        if old:
            os.utime(file, (long_ago, long_ago))
    await shelf.store("renders").prepare()
    left = [f"{PARTS}/new", f"{PARTS}x/mine", "fox.png", f"sub/{PARTS}/mine"]
    assert len(shelf.names) == len(left) + 1
    await shelf.store("renders").prepare()
    assert shelf.names == sorted(f"renders/{path}" for path in left)


async def test_preparing_leaves_nothing_and_is_done_once(shelf: Shelf) -> None:
    """The trial objects are gone afterwards; a second call asks nothing."""
    store = shelf.store("renders")
    await store.prepare()
    assert shelf.names == []
    assert shelf.unfinished == []
    asked = len(shelf.requests)
    await store.prepare()
    assert len(shelf.requests) == asked


async def test_a_store_that_ignores_conditions_is_refused(shelf: Shelf) -> None:
    """One that would overwrite is found out before anything is spent."""
    shelf.ignores = lambda _seen: True
    with pytest.raises(ConfigError, match="overwrites what should only be created"):
        await shelf.store("renders").prepare()
    assert shelf.names == []


@pytest.mark.parametrize("way", ["copy", None])
async def test_a_store_that_copies_otherwise_or_not_at_all(
    shelf: Shelf, written: Written, way: str | None
) -> None:
    """Where a condition is kept for some requests only, large files come by one that keeps it."""

    def ignores(seen: Seen) -> bool:
        return seen.method == "POST" or (seen.copies and way is None)

    shelf.ignores = ignores
    store = shelf.store("renders")
    await store.prepare()
    (shelf.folder / "renders").mkdir(exist_ok=True)
    (shelf.folder / "renders" / "fox.mp4").write_bytes(b"mine")
    shelf.requests.clear()
    content = video(LARGE)
    assert await store.keep(written(content), ".mp4", name) == "fox-2.mp4"
    assert stored(shelf, "renders/fox-2.mp4") == content
    assert stored(shelf, "renders/fox.mp4") == b"mine"
    assert [seen.copies for seen in shelf.wrote("fox-2.mp4")] == [way is not None]
    assert shelf.names == ["renders/fox-2.mp4", "renders/fox.mp4"]


async def test_a_chosen_way_of_copying_is_kept_to(shelf: Shelf, written: Written) -> None:
    """The user's own setting for copies is the only one that is tried."""
    store = shelf.store("renders", copy_if_not_exists="header:if-none-match:*")
    await store.prepare()
    assert not any("uploads" in seen.query for seen in shelf.requests)
    await store.keep(written(video(LARGE)), ".mp4", name)
    assert [seen.copies for seen in shelf.wrote("fox.mp4")] == [True]


async def test_bad_credentials_are_told_before_anything_is_spent(shelf: Shelf) -> None:
    """A wrong key is a setting to change; neither it nor the secret is in the message."""
    shelf.access_key = "AKIAANOTHER"
    with pytest.raises(ConfigError) as caught:
        await shelf.store("renders").prepare()
    said = str(caught.value)
    assert "credentials were refused (HTTP 403" in said
    assert len(said) < 300
    for secret in (ACCESS_KEY, SECRET, "Signature", "Authorization", "127.0.0.1"):
        assert secret not in said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_what_may_not_be_deleted_is_told(shelf: Shelf) -> None:
    """Rights that lack one of the four are found out at the start."""
    shelf.on_request = lambda seen: 403 if seen.method == "DELETE" else None
    with pytest.raises(ConfigError, match="list, read, write and delete"):
        await shelf.store("renders").prepare()


async def test_a_bucket_that_is_missing(shelf: Shelf) -> None:
    """A bucket that does not exist is a setting to change."""
    missing = ObjectStore.from_url(
        "s3://nothing-here/renders",
        endpoint=shelf.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET, allow_http=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no such bucket"):
        await missing.prepare()


async def test_a_bucket_that_goes_missing(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """In the middle of a run it is an error of the file, not of the local disk."""
    shutil.rmtree(shelf.folder)
    with pytest.raises(WriteFailed, match="no such bucket"):
        await store.keep(written(picture()), ".png", name)


async def test_a_server_that_cannot_be_reached(shelf: Shelf) -> None:
    """Nobody there: told within the patience, and not as a setting, since it may be back later."""
    shelf.stop()
    try:
        with pytest.raises(WriteFailed, match="cannot be reached") as caught:
            await shelf.store("renders", patience=0.5).prepare()
        assert caught.value.billed == "no"
    finally:
        shelf.start()


async def test_a_server_that_hangs(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes requests and never answers does not hold up the start for long."""
    monkeypatch.setattr(object_store, "TRIAL_SECONDS", 0.3)
    go_on = threading.Event()

    def hang(_seen: Seen) -> None:
        assert go_on.wait(20)

    shelf.on_request = hang
    try:
        with (
            anyio.fail_after(5),
            pytest.raises(WriteFailed, match="did not answer in time") as caught,
        ):
            await shelf.store("renders").prepare()
        assert caught.value.billed == "no"
    finally:
        go_on.set()


async def test_settings_from_the_environment(
    shelf: Shelf, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other tools take from the environment is taken from there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shelf.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    store = ObjectStore.from_url("s3://shelf/renders/")
    await store.prepare()
    assert await store.keep(written(picture()), ".png", name) == "fox.png"
    assert repr(store) == "ObjectStore('s3://shelf/renders')"


async def test_a_part_file_that_changed_on_disk(
    shelf: Shelf, store: ObjectStore, written: Written
) -> None:
    """Bytes that are not those that were verified are not stored, in one request or in parts."""
    for content in (picture(), video(LARGE)):
        part = written(content)
        part.close()
        damaged = bytearray(content)
        damaged[-1] ^= 1
        part.path.write_bytes(damaged)
        with pytest.raises(WriteFailed, match="not what was written"):
            await store.keep(part, ".png", name)
        part.path.write_bytes(content[:-1])
        with pytest.raises(WriteFailed, match="not what was written"):
            await store.keep(part, ".png", name)
        part.path.unlink()
        with pytest.raises(WriteFailed, match="cannot be read: No such file"):
            await store.keep(part, ".png", name)
    assert shelf.names == []
    assert shelf.unfinished == []


@pytest.mark.parametrize("size", [100, LARGE])
async def test_a_derived_file_is_replaced(
    shelf: Shelf, store: ObjectStore, tmp_path: Path, size: int
) -> None:
    """The manifest is ours: the new one stands in place of the old one, whole."""
    file = tmp_path / "manifest.jsonl"
    for letter in (b"a", b"b"):
        file.write_bytes(letter * size)
        await store.publish("manifest.jsonl", file)
        assert stored(shelf, "renders/manifest.jsonl") == letter * size
    assert shelf.names == ["renders/manifest.jsonl"]
    labels = shelf.labels["/shelf/renders/manifest.jsonl"]
    assert labels["content-type"] == "application/x-ndjson"


async def test_a_derived_file_that_cannot_be_put(
    shelf: Shelf, store: ObjectStore, tmp_path: Path
) -> None:
    """Errors of the file and of the store are told apart."""
    with pytest.raises(WriteFailed, match=r"manifest\.jsonl: cannot be read"):
        await store.publish("manifest.jsonl", tmp_path / "manifest.jsonl")
    (tmp_path / "manifest.jsonl").write_bytes(b"{}\n")
    shelf.on_request = lambda _seen: 403
    with pytest.raises(WriteFailed, match="credentials were refused"):
        await store.publish("manifest.jsonl", tmp_path / "manifest.jsonl")


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
