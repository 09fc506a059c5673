"""A directory that takes files: whole under their names, or not at all, and in place of nothing."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from support import picture

from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.parts import PartFile, Parts
from kie_mj_async.archive.store import MAX_NAMES, Place
from kie_mj_async.errors import WriteFailed


def name(extension: str, attempt: int) -> str:
    return f"fox{'' if attempt == 1 else f'-{attempt}'}{extension}"


pytestmark = pytest.mark.anyio


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    made = Place(Directory(tmp_path / "out"), Parts(tmp_path / "out" / ".parts"))
    await made.prepare()
    return made


def root(place: Place) -> Path:
    return Path(place.store.root)


def left(place: Place) -> list[str]:
    """What lies in the folder of part files."""
    return [path.name for path in place.parts.folder.iterdir()]


def written(place: Place, content: bytes) -> PartFile:
    part = place.parts.new()
    part.write(content)
    return part


async def test_a_file_comes_under_its_name_whole(place: Place) -> None:
    """What was written is under the final name, and nothing is left beside."""
    content = picture()
    part = written(place, content)
    assert part.sha256 == hashlib.sha256(content).hexdigest()
    assert part.size == len(content)
    final = await place.store.keep(part, ".png", name)
    assert final == "fox.png"
    assert (root(place) / final).read_bytes() == content
    assert left(place) == []
    assert part.closed


async def test_a_users_file_is_not_overwritten(place: Place) -> None:
    """A name that is taken by another file, a folder or a link is left alone; the next one is used."""
    (root(place) / "fox.png").write_bytes(b"mine")
    (root(place) / "fox-2.png").mkdir()
    (root(place) / "fox-3.png").symlink_to("nowhere")
    final = await place.store.keep(written(place, picture()), ".png", name)
    assert final == "fox-4.png"
    assert (root(place) / "fox.png").read_bytes() == b"mine"
    assert (root(place) / "fox-3.png").is_symlink()
    assert not (root(place) / "nowhere").exists()


async def test_the_same_file_is_adopted(place: Place) -> None:
    """The same content under the name (a crash came before the ledger) is taken as it is."""
    first = await place.store.keep(written(place, picture()), ".png", name)
    before = (root(place) / first).stat().st_ino
    again = await place.store.keep(written(place, picture()), ".png", name)
    assert again == first
    assert (root(place) / first).stat().st_ino == before
    assert [path.name for path in root(place).iterdir() if path.is_file()] == ["fox.png"]
    assert left(place) == []


async def test_the_same_size_is_not_the_same_file(place: Place) -> None:
    """Another content of the same size is another file."""
    (root(place) / "fox.png").write_bytes(b"x" * len(picture()))
    assert await place.store.keep(written(place, picture()), ".png", name) == "fox-2.png"


async def test_a_link_to_the_same_content_is_not_adopted(place: Place, tmp_path: Path) -> None:
    """A symbolic link under the name is somebody's, whatever it leads to."""
    (tmp_path / "elsewhere").write_bytes(picture())
    (root(place) / "fox.png").symlink_to(tmp_path / "elsewhere")
    assert await place.store.keep(written(place, picture()), ".png", name) == "fox-2.png"


async def test_names_run_out(place: Place) -> None:
    """When every name is taken the error says so, after a bounded number of tries."""
    (root(place) / "fox.png").write_bytes(b"mine")
    tries: list[int] = []

    def stubborn(_extension: str, attempt: int) -> str:
        tries.append(attempt)
        return "fox.png"

    with pytest.raises(WriteFailed, match="taken"):
        await place.store.keep(written(place, picture()), ".png", stubborn)
    assert len(tries) <= MAX_NAMES


@pytest.mark.parametrize("taken", [False, True])
async def test_without_hard_links(
    place: Place, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """On a file system without hard links files are renamed, and still overwrite nothing."""

    def link(_source: object, _target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if taken:
        (root(place) / "fox.png").write_bytes(b"mine")
    final = await place.store.keep(written(place, picture()), ".png", name)
    assert final == ("fox-2.png" if taken else "fox.png")
    assert (root(place) / final).read_bytes() == picture()
    assert left(place) == []


async def test_on_windows_a_rename_is_the_step(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a rename fails if the name is taken, and folders are not synced."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.exists():
            raise FileExistsError(target)
        return real(self, target)

    part = written(place, picture())
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("folders cannot be opened there"))
    (root(place) / "fox.png").write_bytes(b"mine")
    final = await place.store.keep(part, ".png", name)
    assert final == "fox-2.png"
    assert (root(place) / final).read_bytes() == picture()
    assert (root(place) / "fox.png").read_bytes() == b"mine"


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory below a file is refused with the system's words before anything else."""
    (tmp_path / "file").write_text("")
    blocked = Place(Directory(tmp_path / "file" / "out"), Parts(tmp_path / "file" / "out"))
    with pytest.raises(WriteFailed, match="Not a directory"):
        await blocked.prepare()
    with pytest.raises(WriteFailed, match="Not a directory"):
        blocked.parts.prepare()
    with pytest.raises(WriteFailed, match="cannot be written"):
        blocked.parts.new()


async def test_a_disk_that_fails_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be synced does not come under its name."""

    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    part = written(place, picture())
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteFailed, match="No space left"):
        await place.store.keep(part, ".png", name)
    part.close()
    assert not (root(place) / "fox.png").exists()
