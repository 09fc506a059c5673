"""A directory that takes files: whole under their names, or not at all, and in place of nothing."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from support import picture

from kie_mj_async.archive.directory import MAX_NAMES, Directory, PartFile
from kie_mj_async.errors import WriteFailed


def name(extension: str, attempt: int) -> str:
    return f"fox{'' if attempt == 1 else f'-{attempt}'}{extension}"


@pytest.fixture
def place(tmp_path: Path) -> Directory:
    made = Directory(tmp_path / "out", tmp_path / "out" / ".parts")
    made.prepare()
    return made


def written(place: Directory, content: bytes) -> PartFile:
    part = place.new_part()
    part.write(content)
    return part


def test_a_file_comes_under_its_name_whole(place: Directory) -> None:
    """What was written is under the final name, and nothing is left beside."""
    content = picture()
    part = written(place, content)
    assert part.sha256 == hashlib.sha256(content).hexdigest()
    assert part.size == len(content)
    final = place.keep(part, ".png", name)
    assert final == place.root / "fox.png"
    assert final.read_bytes() == content
    assert list(place.parts.iterdir()) == []
    assert part.closed


def test_content_is_recognised_while_it_is_written(place: Directory) -> None:
    """However the bytes come in, a part knows its digest, its kind, its size and its end."""
    content = picture(size=40)
    part = place.new_part()
    for at in range(0, len(content), 7):
        assert part.write(memoryview(content)[at : at + 7]) == len(content[at : at + 7])
    media = part.media()
    part.close()
    assert media is not None
    assert (media.media_type, media.width, media.height, media.ends_well) == (
        "image/png", 40, 40, True,
    )  # fmt: skip
    assert part.sha256 == hashlib.sha256(content).hexdigest()


def test_a_users_file_is_not_overwritten(place: Directory) -> None:
    """A name that is taken by another file, a folder or a link is left alone; the next one is used."""
    (place.root / "fox.png").write_bytes(b"mine")
    (place.root / "fox-2.png").mkdir()
    (place.root / "fox-3.png").symlink_to("nowhere")
    final = place.keep(written(place, picture()), ".png", name)
    assert final.name == "fox-4.png"
    assert (place.root / "fox.png").read_bytes() == b"mine"
    assert (place.root / "fox-3.png").is_symlink()
    assert not (place.root / "nowhere").exists()


def test_the_same_file_is_adopted(place: Directory) -> None:
    """The same content under the name (a crash came before the ledger) is taken as it is."""
    first = place.keep(written(place, picture()), ".png", name)
    before = first.stat().st_ino
    again = place.keep(written(place, picture()), ".png", name)
    assert again == first
    assert first.stat().st_ino == before
    assert [path.name for path in place.root.iterdir() if path.is_file()] == ["fox.png"]
    assert list(place.parts.iterdir()) == []


def test_the_same_size_is_not_the_same_file(place: Directory) -> None:
    """Another content of the same size is another file."""
    (place.root / "fox.png").write_bytes(b"x" * len(picture()))
    assert place.keep(written(place, picture()), ".png", name).name == "fox-2.png"


def test_a_link_to_the_same_content_is_not_adopted(place: Directory, tmp_path: Path) -> None:
    """A symbolic link under the name is somebody's, whatever it leads to."""
    (tmp_path / "elsewhere").write_bytes(picture())
    (place.root / "fox.png").symlink_to(tmp_path / "elsewhere")
    assert place.keep(written(place, picture()), ".png", name).name == "fox-2.png"


def test_names_run_out(place: Directory) -> None:
    """When every name is taken the error says so, after a bounded number of tries."""
    (place.root / "fox.png").write_bytes(b"mine")
    tries: list[int] = []

    def stubborn(_extension: str, attempt: int) -> str:
        tries.append(attempt)
        return "fox.png"

    with pytest.raises(WriteFailed, match="taken"):
        place.keep(written(place, picture()), ".png", stubborn)
    assert len(tries) <= MAX_NAMES


@pytest.mark.parametrize("taken", [False, True])
def test_without_hard_links(place: Directory, monkeypatch: pytest.MonkeyPatch, taken: bool) -> None:
    """On a file system without hard links files are renamed, and still overwrite nothing."""

    def link(_source: object, _target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if taken:
        (place.root / "fox.png").write_bytes(b"mine")
    final = place.keep(written(place, picture()), ".png", name)
    assert final.name == ("fox-2.png" if taken else "fox.png")
    assert final.read_bytes() == picture()
    assert list(place.parts.iterdir()) == []


def test_on_windows_a_rename_is_the_step(place: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a rename fails if the name is taken, and folders are not synced."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.exists():
            raise FileExistsError(target)
        return real(self, target)

    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("folders cannot be opened there"))
    (place.root / "fox.png").write_bytes(b"mine")
    final = place.keep(written(place, picture()), ".png", name)
    assert final.name == "fox-2.png"
    assert final.read_bytes() == picture()
    assert (place.root / "fox.png").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory below a file is refused with the system's words before anything else."""
    (tmp_path / "file").write_text("")
    blocked = Directory(tmp_path / "file" / "out", tmp_path / "file" / "out")
    with pytest.raises(WriteFailed, match="Not a directory"):
        blocked.prepare()
    with pytest.raises(WriteFailed, match="cannot be written"):
        blocked.new_part()


def test_a_disk_that_fails_at_the_end(place: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be synced does not come under its name."""

    def fsync(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    part = written(place, picture())
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteFailed, match="No space left"):
        place.keep(part, ".png", name)
    part.close()
    assert not (place.root / "fox.png").exists()


def test_leftovers_are_swept(place: Directory) -> None:
    """What a killed run left half written is deleted; other files stay."""
    left = place.new_part()
    left.write(b"half")
    left.close()
    (place.parts / "notes.txt").write_text("mine")
    place.sweep()
    assert [path.name for path in place.parts.iterdir()] == ["notes.txt"]
