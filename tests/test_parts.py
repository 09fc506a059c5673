"""Part files: counted, hashed and recognised; taken up again only as they were left; swept."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from pathlib import Path

import pytest
from file_host import padded

from kie_mj_async.archive import parts as module
from kie_mj_async.archive import sidecar
from kie_mj_async.archive.parts import MAX_AGE, PartFile, Parts
from kie_mj_async.errors import WriteFailed
from kie_mj_async.rules.transfer import Source, Validator

CONTENT = padded(400)
SOURCE = Source("https://files.test/a.png", Validator('"one"'), 5000, resumable=True)
HALF = b"half" * 50


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(module, "WORTH", 100)
    monkeypatch.setattr(module, "CHECKPOINT", 1000)
    made = Parts(tmp_path / "parts")
    made.prepare()
    return made


def left(parts: Parts) -> list[str]:
    return sorted(path.name for path in parts.folder.iterdir())


def leave(parts: Parts, content: bytes = HALF, source: Source | None = SOURCE) -> Path:
    """A part that a run has left; its path."""
    part = parts.take_up("fox-0")
    part.start(source)
    part.write(content)
    part.leave()
    assert part.closed
    assert part.gone
    return part.path


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("step", [7, 300_000])
def test_content_is_recognised_while_it_is_written(parts: Parts, kind: type, step: int) -> None:
    """However the bytes come in, a part knows its digest, its kind, its size and its end."""
    content = CONTENT[:-12] + bytes(700_000) + CONTENT[-12:]
    part = parts.new()
    for at in range(0, len(content), step if step > 7 else 7000):
        piece = content[at : at + (step if step > 7 else 7000)]
        assert part.write(kind(piece)) == len(piece)
    media = part.media()
    part.close()
    assert media is not None
    assert (media.media_type, media.width, media.height, media.ends_well) == (
        "image/png", 8, 8, True,
    )  # fmt: skip
    assert part.is_media
    assert part.sha256 == hashlib.sha256(content).hexdigest()
    assert part.path.read_bytes() == content


def test_what_is_no_picture_shows_early(parts: Parts) -> None:
    """A few bytes tell."""
    part = parts.new()
    part.write(b"<html>Welcome</html>")
    assert not part.is_media
    part.discard()
    assert left(parts) == []


def test_a_part_is_taken_up_as_it_was_left(parts: Parts) -> None:
    """Its bytes, their digest and their source are there again, and it goes on behind them."""
    leave(parts)
    assert left(parts) == ["fox-0.json", "fox-0.part"]
    part = parts.take_up("fox-0")
    assert part.checkpoint == SOURCE.at(len(HALF), hashlib.sha256(HALF).hexdigest())
    part.write(b"more")
    assert part.sha256 == hashlib.sha256(HALF + b"more").hexdigest()
    assert part.path.read_bytes() == HALF + b"more"
    part.discard()
    assert left(parts) == []


def test_a_taken_up_part_is_recognised(parts: Parts) -> None:
    """Its beginning and its end are looked at again."""
    leave(parts, CONTENT[:-20])
    part = parts.take_up("fox-0")
    part.write(CONTENT[-20:])
    media = part.media()
    assert media is not None
    assert (media.width, media.ends_well) == (8, True)
    part.discard()


def test_what_is_not_recorded_is_cut_off(parts: Parts) -> None:
    """Bytes behind the record may never have reached the disk: they do not count."""
    path = leave(parts)
    with path.open("ab") as file:
        file.write(b"lost")
    part = parts.take_up("fox-0")
    assert part.size == len(HALF)
    part.close()
    assert path.read_bytes() == HALF
    part.discard()


def damage_content(path: Path) -> None:
    path.write_bytes(b"x" + HALF[1:])


def shorten(path: Path) -> None:
    path.write_bytes(HALF[:-1])


def remove(path: Path) -> None:
    path.unlink()


def forget(path: Path) -> None:
    path.with_suffix(".json").unlink()


def garble(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def link(path: Path) -> None:
    os.link(path, path.with_name("final.png"))


def symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "harm",
    [damage_content, shorten, remove, forget, garble, link, symlink],
    ids=lambda f: f.__name__,
)
def test_what_was_harmed_starts_over(
    parts: Parts, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A part that is not what its record says is a fresh one; nothing else is touched."""
    caplog.set_level(logging.INFO)
    path = leave(parts)
    harm(path)  # type: ignore[operator]
    others = {name for name in left(parts) if not name.startswith("fox-0")}
    part = parts.take_up("fox-0")
    assert (part.size, part.checkpoint, part.source) == (0, None, None)
    part.write(b"new")
    part.close()
    assert path.read_bytes() == b"new"
    for name in others:
        assert (parts.folder / name).read_bytes() == HALF
    assert ("starting over" in caplog.text) is (harm is not remove)
    part.discard()
    assert set(left(parts)) == others


def test_a_part_that_cannot_be_read_starts_over(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad disk is no reason to stop."""
    leave(parts)

    def readinto(_self: object, _block: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PartFile, "readinto", readinto)
    part = parts.take_up("fox-0")
    assert part.size == 0
    part.discard()


def test_a_part_that_may_not_be_opened_starts_over(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither are permissions."""
    path = leave(parts)

    def lstat(_self: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", lstat)
        part = parts.take_up("fox-0")
    assert (part.size, part.path) == (0, path)
    part.discard()


@pytest.mark.parametrize(
    ("content", "source"),
    [
        (HALF[:99], SOURCE),
        (HALF, None),
        (HALF, Source("https://files.test/a.png", total=5000)),
        (HALF, Source("https://files.test/a.png", Validator('"one"'), 5000, resumable=False)),
    ],
    ids=["too little", "no source", "no validator", "no ranges"],
)
def test_what_nobody_can_go_on_with_is_not_left(
    parts: Parts, content: bytes, source: Source | None
) -> None:
    """Without a version to go by, or with too little, nothing stays."""
    leave(parts, content, source)
    assert left(parts) == []


def test_a_whole_file_is_left_without_a_version(parts: Parts) -> None:
    """What is complete needs no host any more."""
    leave(parts, HALF, Source("https://files.test/a.png", total=len(HALF)))
    part = parts.take_up("fox-0")
    assert part.complete
    part.discard()


def test_a_nameless_part_is_not_left(parts: Parts) -> None:
    """Nobody can ask for it."""
    part = parts.new()
    part.start(SOURCE)
    part.write(HALF)
    assert not part.is_due
    part.record()
    part.leave()
    assert left(parts) == []


def test_a_disk_that_cannot_record(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be recorded is deleted: on a full disk that is of use too."""

    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    leave(parts)
    assert left(parts) == []


def test_a_record_is_due_now_and_then(parts: Parts) -> None:
    """So many bytes after the last one, for what can be gone on with."""
    part = parts.take_up("fox-0")
    part.start(SOURCE)
    due = []
    for size in (999, 1, 999, 1):
        part.write(bytes(size))
        due.append(part.is_due)
        if part.is_due:
            part.record()
            assert sidecar.read(parts.folder / "fox-0.json") == part.checkpoint
            due.append(part.is_due)
    assert due == [False, True, False, False, True, False]
    part.discard()


def test_bytes_are_synced_before_they_are_recorded(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record never tells of bytes that are not on disk."""
    part = parts.take_up("fox-0")
    part.start(SOURCE)
    part.write(HALF)
    order: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        order.append("part" if handle == part.fileno() else "record")
        assert not (parts.folder / "fox-0.json").exists()
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    part.record()
    assert order == ["part", "record"]
    part.discard()


def test_starting_over_forgets_the_record(parts: Parts) -> None:
    """What comes now has nothing to do with what was there."""
    leave(parts)
    part = parts.take_up("fox-0")
    part.start(SOURCE)
    assert left(parts) == ["fox-0.part"]
    part.write(b"new")
    part.close()
    assert part.path.read_bytes() == b"new"
    assert part.sha256 == hashlib.sha256(b"new").hexdigest()
    part.discard()


def test_a_part_that_gets_its_name_forgets_the_record(parts: Parts) -> None:
    """From then on it may be a finished file, which nobody must go on with."""
    leave(parts)
    part = parts.take_up("fox-0")
    part.commit()
    assert left(parts) == ["fox-0.part"]
    part.discard()


def test_a_part_is_in_use_once(parts: Parts) -> None:
    """While one has the name, another gets a file of its own; afterwards the name is free."""
    first = parts.take_up("fox-0")
    second = parts.take_up("fox-0")
    assert first.path != second.path
    second.discard()
    first.discard()
    third = parts.take_up("fox-0")
    assert third.path == first.path
    third.discard()


@pytest.mark.parametrize("name", ["", ".", "a/b", "/etc/x", "../x"])
def test_a_name_stays_within_the_folder(parts: Parts, name: str) -> None:
    """A name is no path."""
    with pytest.raises(ValueError, match="no name"):
        parts.take_up(name)


def test_a_folder_that_is_gone(parts: Parts) -> None:
    """The error says where, and the name is free again."""
    parts.folder.rmdir()
    for _ in range(2):
        with pytest.raises(WriteFailed, match="No such file"):
            parts.take_up("fox-0")
    parts.prepare()
    part = parts.take_up("fox-0")
    assert part.path.name == "fox-0.part"
    part.discard()


def test_closing_waits_for_a_write(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is not closed under a write that goes on in another thread."""
    part = parts.take_up("fox-0")
    inside, release = threading.Event(), threading.Event()
    real = part._count

    def count(data: bytes) -> None:
        inside.set()
        release.wait(5)
        assert not part.closed
        real(data)

    monkeypatch.setattr(part, "_count", count)
    writing = threading.Thread(target=part.write, args=(HALF,))
    writing.start()
    inside.wait(5)
    closing = threading.Thread(target=part.close)
    closing.start()
    closing.join(0.02)
    assert closing.is_alive()
    release.set()
    writing.join()
    closing.join()
    assert part.closed
    part.discard()


def test_leftovers_are_swept(parts: Parts) -> None:
    """What nobody can go on with is deleted; what somebody can, and other files, stay."""
    leave(parts)
    for name in ("cut.part", "lone.json", "fox-0.json.new", "bad.part", "bad.json"):
        (parts.folder / name).write_text("half")
    (parts.folder / "notes.txt").write_text("mine")
    in_use = parts.take_up("wolf-0")
    parts.sweep()
    assert left(parts) == ["fox-0.json", "fox-0.part", "notes.txt", "wolf-0.part"]
    in_use.discard()


@pytest.mark.parametrize(("age", "stays"), [(MAX_AGE - 60, True), (MAX_AGE + 60, False)])
def test_what_is_too_old_is_swept(parts: Parts, age: float, stays: bool) -> None:
    """After 15 days the service has no such result any more."""
    path = leave(parts)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    parts.sweep()
    assert left(parts) == (["fox-0.json", "fox-0.part"] if stays else [])
