"""Local images on real disks: checked, kept once by content, and never half."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import picture, until

from kie_mj_async import inputs
from kie_mj_async.errors import InvalidRequest, KieError, WriteFailed
from kie_mj_async.inputs import Inputs
from kie_mj_async.rules import uploads

pytestmark = pytest.mark.anyio
PNG = picture(7)
SHA = hashlib.sha256(PNG).hexdigest()


@pytest.fixture
def kept(tmp_path: Path) -> Inputs:
    """A folder that does not exist yet."""
    return Inputs(tmp_path / "out" / ".kie-mj" / "inputs")


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    return path


def names(kept: Inputs) -> list[str]:
    return sorted(one.name for one in kept.folder.iterdir()) if kept.folder.exists() else []


async def refused(kept: Inputs, source: Any, **options: Any) -> str:
    """The words a source is refused with; nothing of it is kept."""
    before = names(kept)
    with pytest.raises(InvalidRequest) as caught:
        await kept.take(source, **options)
    assert names(kept) == before
    assert caught.value.field == options.get("field", "image")
    assert caught.value.billed == "no"
    return str(caught.value)


# --- What is taken in ----------------------------------------------------------------------------


async def test_a_picture_is_kept_by_its_content(kept: Inputs, cat: Path) -> None:
    """A path, as text or not, and bytes with the same content are one kept file."""
    taken = {await kept.take(str(cat)), await kept.take(cat), await kept.take(PNG)}
    assert taken == {f"input:{SHA}.png"}
    assert names(kept) == [f"{SHA}.png"]
    path = kept.path(taken.pop())
    assert path == kept.folder / f"{SHA}.png"
    assert path.read_bytes() == PNG


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
async def test_what_is_kept_is_its_users_alone(kept: Inputs, cat: Path) -> None:
    """Nobody else can read a user's pictures."""
    path = kept.path(await kept.take(cat))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700


async def test_the_content_tells_the_kind(kept: Inputs, tmp_path: Path) -> None:
    """A picture under a wrong or no extension is what it is."""
    path = tmp_path / "cat.txt"
    path.write_bytes(PNG)
    assert await kept.take(path) == f"input:{SHA}.png"
    gif = b"GIF89a\x01\0\x01\0\0\0\0;"
    assert (await kept.take(gif)).endswith(".gif")


async def test_a_symlink_is_followed(kept: Inputs, cat: Path, tmp_path: Path) -> None:
    """A link to a picture is that picture; what is kept is no link."""
    link = tmp_path / "link.png"
    link.symlink_to(cat)
    path = kept.path(await kept.take(link))
    assert not path.is_symlink()
    assert path.read_bytes() == PNG


async def test_a_large_picture_is_kept_whole(kept: Inputs, tmp_path: Path) -> None:
    """More than a block arrives byte for byte."""
    content = PNG[:-12] + os.urandom(3 << 20) + PNG[-12:]
    path = tmp_path / "big.png"
    path.write_bytes(content)
    assert kept.path(await kept.take(path)).read_bytes() == content


# --- What is refused -----------------------------------------------------------------------------


async def test_what_is_not_there(kept: Inputs, tmp_path: Path) -> None:
    """A missing file, a broken link, a blank: named, with what to do."""
    missing = tmp_path / "none.png"
    assert await refused(kept, missing) == f"image: {missing}: does not exist; check the path"
    link = tmp_path / "broken.png"
    link.symlink_to(missing)
    assert "broken.png: does not exist" in await refused(kept, str(link), field="images")
    assert "does not exist" in await refused(kept, "")


async def test_a_folder(kept: Inputs, tmp_path: Path) -> None:
    """A folder is no picture."""
    assert await refused(kept, tmp_path) == f"image: {tmp_path}: is a folder; name one picture"


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
async def test_pipes_and_devices_do_not_hang(kept: Inputs, tmp_path: Path) -> None:
    """What could be read for ever, or never, is not even opened."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        with anyio.fail_after(5):
            assert "is a pipe or a device" in await refused(kept, path)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
async def test_a_pipe_that_comes_at_the_last_moment(
    kept: Inputs, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that becomes a pipe between the look and the opening does not hang either."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    real = inputs._Taking._check
    looks: list[os.stat_result] = []

    def looked(taking: Any, found: os.stat_result) -> object:
        looks.append(found)
        return real(taking, cat.stat() if len(looks) == 1 else found)

    monkeypatch.setattr(inputs._Taking, "_check", looked)
    with anyio.fail_after(5):
        assert "is a pipe or a device" in await refused(kept, pipe)


@pytest.mark.skipif(sys.platform == "win32", reason="other rules for names")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nul\0byte", "is no path that a file can have"),
        ("half\ud83d", "is no path that a file can have"),
        ("x" * 300, "cannot be read: File name too long"),
        ("cat.png/inside", "cannot be read: Not a directory"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
    ],
)
async def test_paths_that_no_file_has(
    kept: Inputs, cat: Path, tmp_path: Path, name: str, words: str
) -> None:
    """Whatever the system says, it is one error, and one that can be written to a log."""
    (tmp_path / "loop").symlink_to("loop")
    said = await refused(kept, os.path.join(tmp_path, name))  # noqa: PTH118
    assert words in said
    said.encode()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """Without permission to read, the error says so."""
    tmp_path.chmod(0o755)
    path = tmp_path / "secret.png"
    path.write_bytes(PNG)
    path.chmod(0)
    script = """
import asyncio, concurrent.futures.thread, os
from pathlib import Path
from kie_mj_async.inputs import Inputs
if os.geteuid() == 0:  # once all is imported: the interpreter may be out of nobody's reach
    os.seteuid(65534)
async def main():
    print(await Inputs(Path("unused")).take("secret.png"))
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert ended.stdout == (
        "InvalidRequest image: secret.png: cannot be read: Permission denied; "
        "check its permissions\n"
    ), ended.stderr


async def test_a_disk_that_fails_while_reading(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of a file is about that file."""
    real = inputs._Taking.open

    class Broken:
        def read(self, _size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def close(self) -> None:
            """Nothing to close."""

    def opened(taking: Any) -> object:
        mark = real(taking)
        taking._from.close()
        taking._from = Broken()
        return mark

    monkeypatch.setattr(inputs._Taking, "open", opened)
    assert await refused(kept, cat) == f"image: {cat}: cannot be read: Input/output error"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; use a picture"),
        (b"a cat\n", "is a text file, not a picture; use JPEG, PNG, WebP or GIF"),
        (b"<html>404</html>", "is a web page (HTML), not a picture; use JPEG, PNG, WebP or GIF"),
        (PNG[:-30], "is cut off; get it again, or open it and save it anew"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42", "is a video (video/mp4), not a picture"),
    ],
)
async def test_what_is_no_picture(kept: Inputs, tmp_path: Path, content: bytes, words: str) -> None:
    """By content, not by name; from a file or as bytes."""
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert (await refused(kept, path)).startswith(f"image: {path}: {words}")
    plural = "are " + words.removeprefix("is ")
    assert (await refused(kept, content)).startswith(f"image: these bytes {plural}")


async def test_a_huge_file_is_refused_unread(kept: Inputs, tmp_path: Path) -> None:
    """A file over the limit is refused by its size, at once."""
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    began = time.monotonic()
    assert "has 1,048,576.0 MiB; an image may have 100 MiB" in await refused(kept, path)
    assert time.monotonic() - began < 1


async def test_the_limit_itself(kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as are allowed, and not one more; also where the file grows meanwhile."""
    monkeypatch.setattr(uploads, "MAX_BYTES", len(PNG))
    await kept.take(cat)
    await kept.take(PNG)
    assert "these bytes have" in await refused(kept, PNG + b"\0")
    monkeypatch.setattr(inputs._Taking, "_check", lambda *_: None)
    with cat.open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(kept, "_known", type(kept._known)())
    assert "has 0.0 MiB" in await refused(kept, cat)


async def test_a_file_that_changes_while_it_is_read(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else still writes to is refused rather than kept half."""
    real = inputs._Taking.step

    def touched(taking: Any) -> bool:
        os.utime(cat, ns=(1, 1))
        return real(taking)

    monkeypatch.setattr(inputs._Taking, "step", touched)
    assert "changed while it was read; try again" in await refused(kept, cat)


# --- Once per content ----------------------------------------------------------------------------


async def test_the_same_file_is_read_once(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list with the same picture in each row reads it for the first one; a changed one again."""
    read: list[object] = []
    real = inputs._Taking.finish

    def counted(taking: Any) -> str:
        read.append(taking)
        return real(taking)

    monkeypatch.setattr(inputs._Taking, "finish", counted)
    for _ in range(50):
        await kept.take(cat)
    assert len(read) == 1
    other = picture(8)
    cat.write_bytes(other)
    os.utime(cat, ns=(5, 5))
    assert await kept.take(cat) == f"input:{hashlib.sha256(other).hexdigest()}.png"
    assert len(names(kept)) == 2


async def test_memory_does_not_grow_with_the_list(
    kept: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many images are remembered."""
    monkeypatch.setattr(inputs, "_REMEMBERED", 3)
    for shade in range(8):
        await kept.take(picture(shade))
    assert len(kept._known) == 3
    assert len(names(kept)) == 8


async def test_many_at_once_are_one_file(tmp_path: Path, cat: Path) -> None:
    """Two folders' users (as two processes would be) with the same file at once get one file."""
    both = [Inputs(tmp_path / "in"), Inputs(tmp_path / "in")]
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(both[number % 2].take, cat)
    assert names(both[0]) == [f"{SHA}.png"]


async def test_what_was_damaged_is_mended(tmp_path: Path, cat: Path) -> None:
    """A kept file that is not what its name says is replaced when the original comes again."""
    first = Inputs(tmp_path / "in")
    path = first.path(await first.take(cat))
    for content in (b"", PNG[:-1], b"x" * len(PNG)):
        path.write_bytes(content)
        await Inputs(tmp_path / "in").take(cat)
        assert path.read_bytes() == PNG


async def test_a_whole_one_is_left_alone(tmp_path: Path, cat: Path) -> None:
    """Taken in again, by another run, the kept file stays the same one."""
    kept = Inputs(tmp_path / "in")
    path = kept.path(await kept.take(cat))
    before = path.stat()
    await Inputs(tmp_path / "in").take(cat)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


# --- Cut off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("place", ["open", "step", "finish"])
async def test_cancelled_it_leaves_nothing_half(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch, how: str, place: str
) -> None:
    """Cancelled anywhere: a whole file under the name or none, no part, nothing left open."""
    begun, release = threading.Event(), threading.Event()
    real: Callable[[Any], object] = getattr(inputs._Taking, place)
    made: list[Any] = []

    def slowly(taking: Any) -> object:
        made.append(taking)
        begun.set()
        release.wait(5)
        return real(taking)

    monkeypatch.setattr(inputs._Taking, place, slowly)
    scope = anyio.CancelScope()

    async def work() -> None:
        with scope:
            await kept.take(cat)

    task = asyncio.create_task(work())
    await until(begun.is_set)
    (scope.cancel if how == "scope" else task.cancel)()
    await asyncio.sleep(0)
    release.set()
    await asyncio.wait([task])
    assert names(kept) in ([], [f"{SHA}.png"])
    assert made[0]._from.closed
    monkeypatch.undo()
    assert await kept.take(cat) == f"input:{SHA}.png"


async def test_a_file_is_on_disk_before_it_has_its_name(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced, then named, then the name synced."""
    log: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        log.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replaced(path: Path, to: Path) -> Path:
        log.append("name")
        assert path.read_bytes() == PNG
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    await kept.take(cat)
    assert log == ["file", "name", "folder"]


async def test_a_disk_that_is_full(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's disk is at fault, not the picture; nothing stays."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteFailed, match="free some disk space") as caught:
        await kept.take(cat)
    assert caught.value.billed == "no"
    assert str(kept.folder) in str(caught.value)
    assert names(kept) == []


async def test_a_folder_that_cannot_be_made(cat: Path) -> None:
    """A file stands where the folder belongs."""
    with pytest.raises(WriteFailed, match=r"cat\.png"):
        await Inputs(cat / "inputs").take(PNG)


async def test_what_killed_processes_left_is_swept(kept: Inputs, cat: Path) -> None:
    """Old parts go; a young one may be another process's."""
    kept.folder.mkdir(parents=True)
    old, young = kept.folder / "0.part", kept.folder / "1.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    await kept.take(cat)
    assert names(kept) == ["1.part", f"{SHA}.png"]


# --- Before an upload ----------------------------------------------------------------------------


async def test_an_unharmed_image_can_be_sent(kept: Inputs, cat: Path) -> None:
    """The check gives the file; the user's own may be gone by then."""
    reference = await kept.take(cat)
    cat.unlink()
    assert await kept.check(reference) == kept.folder / f"{SHA}.png"


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(PNG[:-1]), "has changed since"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file any more"),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), "cannot be read"),
    ],
)
async def test_a_harmed_image_is_named(
    kept: Inputs, cat: Path, harm: Callable[[Path], object], words: str
) -> None:
    """What was kept and is not what it was is an error that says which file, and what to do."""
    reference = await kept.take(cat)
    path = kept.path(reference)
    harm(path)
    with pytest.raises(KieError, match=words) as caught:
        await kept.check(reference)
    assert not isinstance(caught.value, InvalidRequest)
    assert str(path) in str(caught.value)
    assert "with the original" in str(caught.value)


@pytest.mark.parametrize("text", ["cat.png", "input:../../etc/passwd", "https://x.test/cat.png"])
async def test_only_references_lead_into_the_folder(kept: Inputs, text: str) -> None:
    """Nothing else has a path there."""
    with pytest.raises(ValueError, match="refers to no kept image"):
        kept.path(text)
    with pytest.raises(ValueError, match="refers to no kept image"):
        await kept.check(text)


# --- The loop ------------------------------------------------------------------------------------


async def test_the_loop_is_never_blocked(
    kept: Inputs, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever touches a file does so in a thread."""
    threads: dict[str, set[int]] = {}

    def watched(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: object) -> object:
            threads.setdefault(name, set()).add(threading.get_ident())
            return real(*args)

        monkeypatch.setattr(owner, name, call)

    for name in ("open", "step", "finish", "close"):
        watched(inputs._Taking, name)
    watched(inputs.Inputs, "_sweep")
    watched(inputs, "_harm")
    await kept.check(await kept.take(cat))
    assert len(threads) == 6
    assert threading.get_ident() not in set.union(*threads.values())
