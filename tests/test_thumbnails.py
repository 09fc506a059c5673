"""Thumbnails: what they look like, what has none, and that each is made once."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import anyio
import attrs
import pytest
from gallery_support import jpeg, pictures, put
from PIL import Image

from kie_mj_async.archive import thumbnails
from kie_mj_async.archive.thumbnails import AT_ONCE, SIDE, Thumbnails, shrink
from kie_mj_async.errors import WriteFailed

pytestmark = pytest.mark.anyio


@pytest.fixture
def of(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path, tmp_path / "small")


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def shown(content: tuple[bytes, str] | None) -> Image.Image:
    assert content is not None
    return Image.open(io.BytesIO(content[0]))


@pytest.mark.parametrize(("size", "small"), [((1456, 816), (400, 224)), ((816, 1456), (224, 400))])
def test_the_longer_side_fits(
    tmp_path: Path, size: tuple[int, int], small: tuple[int, int]
) -> None:
    """A thumbnail keeps the picture's shape, within a square of ``SIDE``."""
    source = tmp_path / "a.jpeg"
    source.write_bytes(jpeg(1, *size))
    assert shown(shrink(source)).size == small


def test_it_is_much_smaller(tmp_path: Path) -> None:
    """A screen full of thumbnails is quick to read."""
    source = tmp_path / "a.jpeg"
    source.write_bytes(jpeg(1, 1456, 816))
    made = shrink(source)
    assert made is not None
    assert len(made[0]) < 30_000
    assert made[1] == ".webp"


def test_a_picture_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    """The camera's note of orientation is obeyed."""
    lying = Image.new("RGB", (800, 600), "blue")
    lying.paste("red", (0, 0, 100, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    source = tmp_path / "a.jpeg"
    source.write_bytes(encoded(lying, "JPEG", exif=exif))
    upright = shown(shrink(source)).convert("RGB")
    assert upright.size == (300, 400)
    top = upright.getpixel((150, 5))
    assert isinstance(top, tuple)
    assert top[0] > 200


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("P", "PNG"), ("L", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("P", "GIF")],
)
def test_every_kind_of_picture(tmp_path: Path, mode: str, kind: str) -> None:
    """Whatever colours a picture has, it is made small."""
    source = tmp_path / "any"
    source.write_bytes(encoded(Image.new(mode, (900, 900)), kind))
    assert shown(shrink(source)).size == (400, 400)


def test_what_can_be_seen_through_stays_so(tmp_path: Path) -> None:
    """Transparency is kept."""
    source = tmp_path / "a.png"
    source.write_bytes(encoded(Image.new("RGBA", (900, 900), (255, 0, 0, 0)), "PNG"))
    assert shown(shrink(source)).mode == "RGBA"


def test_without_webp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow that knows no WebP makes JPEGs."""
    monkeypatch.setattr("PIL.features.check", lambda _name: False)
    source = tmp_path / "a.png"
    source.write_bytes(encoded(Image.new("RGBA", (900, 900)), "PNG"))
    made = shrink(source)
    assert made is not None
    assert made[1] == ".jpeg"
    assert shown(made).format == "JPEG"


@pytest.mark.parametrize(
    "content", [b"", b"no picture", jpeg()[:3000], b"\x89PNG\r\n\x1a\n" + b"\xff" * 99]
)
def test_a_damaged_picture_has_none(tmp_path: Path, content: bytes) -> None:
    """What cannot be decoded is shown as it is."""
    source = tmp_path / "a.jpeg"
    source.write_bytes(content)
    assert shrink(source) is None


def test_a_picture_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of too many pixels is not opened further than its head."""
    source = tmp_path / "a.png"
    source.write_bytes(encoded(Image.new("L", (1200, 1200)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200 * 1200 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        assert shrink(source) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert shrink(source) is None


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra there are no thumbnails, and nothing breaks."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    source = tmp_path / "a.jpeg"
    source.write_bytes(jpeg())
    assert shrink(source) is None


async def test_made_once(tmp_path: Path, of: Thumbnails) -> None:
    """They are kept by content: a second look, or another name for the same, makes none anew."""
    files = pictures(tmp_path, "fox", 3)
    first = await of.of(files)
    assert [look.made for look in first.values()] == [True] * 3
    digest = files[0].sha256
    assert first["fox_0.jpeg"].thumbnail == tmp_path / "small" / digest[:2] / f"{digest}.webp"
    again = await of.of([*files, put(tmp_path, "copy.jpeg", jpeg(0))])
    assert not any(look.made for look in again.values())
    assert again["copy.jpeg"].thumbnail == first["fox_0.jpeg"].thumbnail
    assert len(list((tmp_path / "small").rglob("*.*"))) == 3


async def test_what_has_no_thumbnail(tmp_path: Path, of: Thumbnails) -> None:
    """Videos and small pictures are shown as they are; a file that is gone is said to be."""
    small = put(tmp_path, "s.jpeg", jpeg(1, 200, 100), width=200, height=SIDE)
    video = put(tmp_path, "v.mp4", b"clip", media_type="video/mp4", width=None, height=None)
    gone = attrs.evolve(small, path="gone.jpeg")
    unusual = attrs.evolve(small, path="a\0b.jpeg")
    looks = await of.of([small, video, gone, unusual])
    assert [looks[one.path].there for one in (small, video, gone, unusual)] == [1, 1, 0, 0]
    assert not any(look.thumbnail for look in looks.values())
    assert not (tmp_path / "small").exists()


async def test_a_file_of_unknown_size_is_looked_at(tmp_path: Path, of: Thumbnails) -> None:
    """A picture of which the ledger knows no size gets a thumbnail all the same."""
    looks = await of.of([put(tmp_path, "a.jpeg", jpeg(), width=None, height=None)])
    assert looks["a.jpeg"].made


async def test_a_disk_that_refuses(tmp_path: Path, of: Thumbnails) -> None:
    """That thumbnails cannot be written is said, with the folder."""
    files = pictures(tmp_path, "fox", 1)
    (tmp_path / "small").write_text("a file where the folder should be")
    with pytest.raises(WriteFailed, match=r"small: cannot be written"):
        await of.of(files)


async def test_few_at_once_and_off_the_loop(
    tmp_path: Path, of: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most two pictures are in hand, in other threads than the loop's."""
    running, most, threads = 0, 0, set()
    lock = threading.Lock()
    both = threading.Barrier(AT_ONCE)

    def watched(_source: Path) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            threads.add(threading.get_ident())
        both.wait(10)
        with lock:
            running -= 1

    monkeypatch.setattr(thumbnails, "shrink", watched)
    await of.of(pictures(tmp_path, "fox", 8))
    assert most == AT_ONCE
    assert threading.get_ident() not in threads


async def test_cancelled_between_pictures(
    tmp_path: Path, of: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling finishes the pictures in hand and begins no other; nothing is left half made."""
    begun = []
    real = shrink

    def slow(source: Path) -> tuple[bytes, str] | None:
        begun.append(source)
        anyio.from_thread.run_sync(scope.cancel)
        return real(source)

    monkeypatch.setattr(thumbnails, "shrink", slow)
    with anyio.CancelScope() as scope:
        await of.of(pictures(tmp_path, "fox", 12))
    assert scope.cancelled_caught
    assert len(begun) <= AT_ONCE
    made = [path.name for path in (tmp_path / "small").rglob("*.*")]
    assert len(made) == len(begun)
    assert all(name.endswith(".webp") for name in made)


async def test_a_thumbnail_comes_whole(
    tmp_path: Path, of: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that could not be finished is not there, nor is any part of it."""

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, os.strerror(28))

    files = pictures(tmp_path, "fox", 1)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteFailed, match="free some disk space"):
        await of.of(files)
    assert not list((tmp_path / "small").rglob("*.*"))
