"""An object store that takes files: whole under their names, or not at all, and in place of nothing."""

from __future__ import annotations

import threading
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
    digest,
    name,
    stored,
    video,
)
from support import picture

from kie_mj_async.archive import object_store
from kie_mj_async.archive.object_store import ObjectStore
from kie_mj_async.errors import WriteFailed

pytestmark = pytest.mark.anyio


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
