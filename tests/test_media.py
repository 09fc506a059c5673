"""Media: whether the bytes of a file are what they claim to be."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kie_mj_async.rules.media import ENOUGH, HEAD, TAIL, Media, inspect


def look(data: bytes) -> Media | None:
    """What inspect() says of a whole file."""
    return inspect(data[:HEAD], data[-TAIL:], len(data))


def picture(kind: str, width: int = 37, height: int = 23, mode: str = "RGB", **how: Any) -> bytes:
    noise = bytes((x * 7 + x * x // 11) % 256 for x in range(width * height * len(mode)))
    out = io.BytesIO()
    Image.frombytes(mode, (width, height), noise).save(out, kind, **how)
    return out.getvalue()


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = "a fox " * 900
    return made


# --- MP4 boxes made by hand ----------------------------------------------------------------------


def box(kind: bytes, payload: bytes = b"", *, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, kind, len(payload) + 16) + payload
    return struct.pack(">I4s", len(payload) + 8, kind) + payload


def track(width: int, height: int, version: int = 0) -> bytes:
    head = bytes([version, 0, 0, 7]) + bytes(84 if version else 72)
    return box(b"trak", box(b"tkhd", head + struct.pack(">II", width << 16, height << 16)))


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2")
MOOV = box(b"moov", box(b"mvhd", bytes(100)) + track(0, 0) + track(320, 180) + track(64, 36))
MDAT = box(b"mdat", bytes(range(256)) * 8)
VIDEO = FTYP + MOOV + MDAT

# --- Whole files ----------------------------------------------------------------------------------

WHOLE = [
    pytest.param(picture("JPEG"), "image/jpeg", ".jpeg", id="jpeg"),
    pytest.param(picture("JPEG", progressive=True), "image/jpeg", ".jpeg", id="progressive jpeg"),
    pytest.param(picture("JPEG", exif=exif()), "image/jpeg", ".jpeg", id="jpeg with exif"),
    pytest.param(picture("JPEG", mode="L"), "image/jpeg", ".jpeg", id="grey jpeg"),
    pytest.param(
        picture("JPEG", optimize=True, comment=b"x" * 999),
        "image/jpeg",
        ".jpeg",
        id="a long comment",
    ),
    pytest.param(picture("PNG"), "image/png", ".png", id="png"),
    pytest.param(picture("PNG", mode="RGBA"), "image/png", ".png", id="png with alpha"),
    pytest.param(picture("WEBP"), "image/webp", ".webp", id="lossy webp"),
    pytest.param(picture("WEBP", lossless=True), "image/webp", ".webp", id="lossless webp"),
    pytest.param(picture("WEBP", mode="RGBA"), "image/webp", ".webp", id="webp with alpha"),
    pytest.param(picture("WEBP", exif=exif()), "image/webp", ".webp", id="webp with exif"),
    pytest.param(picture("GIF"), "image/gif", ".gif", id="gif"),
]


@pytest.mark.parametrize(("data", "media_type", "extension"), WHOLE)
def test_a_whole_picture(data: bytes, media_type: str, extension: str) -> None:
    """A picture is known by its content, with its size, and is seen to be whole."""
    assert look(data) == Media(media_type, extension, 37, 23, ends_well=True)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (4000, 2), (255, 257)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_sizes(kind: str, width: int, height: int) -> None:
    """Width and height are not mixed up, also where they need more than a byte."""
    found = look(picture(kind, width, height))
    assert found is not None
    assert (found.width, found.height, found.ends_well) == (width, height, True)


@pytest.mark.parametrize(("data", "media_type", "extension"), WHOLE)
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 9, 20, 100])
def test_a_cut_off_picture(data: bytes, media_type: str, extension: str, cut: int) -> None:
    """A picture that lacks its last bytes, be it one, is seen not to be whole (law 3)."""
    found = look(data[:-cut])
    assert found is not None
    assert (found.media_type, found.extension) == (media_type, extension)
    assert not found.ends_well


def test_a_jpeg_with_its_tables_first() -> None:
    """Tables before the frame, fill bytes and stand-alone markers are not taken for the size."""
    tables = b"".join(
        b"\xff" + bytes([kind]) + struct.pack(">H6s", 8, b"\x08\x01\x01\x02\x02\x03")
        for kind in (0xC4, 0xCC, 0xC8, 0xDB)
    )
    frame = b"\xff\xff\xff\xc2" + struct.pack(">HBHHB", 11, 8, 23, 37, 1) + b"\x01\x11\x00"
    data = b"\xff\xd8" + tables + b"\xff\xd0\xff\x01" + frame + bytes(20) + b"\xff\xd9"
    assert look(data) == Media("image/jpeg", ".jpeg", 37, 23, ends_well=True)


def test_bytes_after_the_end_do_no_harm() -> None:
    """A few bytes of padding behind a picture leave it whole."""
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        found = look(picture(kind) + b"\0\0")
        assert found is not None
        assert found.ends_well


VIDEOS = [
    pytest.param(VIDEO, "video/mp4", (320, 180), id="moov first"),
    pytest.param(FTYP + MDAT + MOOV, "video/mp4", (320, 180), id="moov last"),
    pytest.param(
        FTYP + MOOV + box(b"mdat", bytes(99), large=True), "video/mp4", (320, 180), id="64 bit"
    ),
    pytest.param(VIDEO + box(b"free"), "video/mp4", (320, 180), id="ends with an empty box"),
    pytest.param(
        VIDEO + box(b"free", b"1234567"), "video/mp4", (320, 180), id="ends with 15 bytes"
    ),
    pytest.param(
        FTYP + MOOV + struct.pack(">I4s", 0, b"mdat") + bytes(50),
        "video/mp4",
        (320, 180),
        id="a box to the end of the file",
    ),
    pytest.param(
        FTYP + box(b"moov", track(640, 480, 1)) + MDAT, "video/mp4", (640, 480), id="tkhd v1"
    ),
    pytest.param(FTYP + MDAT, "video/mp4", (None, None), id="no track seen"),
    pytest.param(
        FTYP.replace(b"isom", b"qt  ", 1) + MOOV + MDAT, "video/quicktime", (320, 180), id="mov"
    ),
]


@pytest.mark.parametrize(("data", "media_type", "size"), VIDEOS)
def test_a_whole_video(data: bytes, media_type: str, size: tuple[int | None, int | None]) -> None:
    """A video is known by its boxes, with the size of its largest track, and is seen to be whole."""
    extension = ".mov" if media_type == "video/quicktime" else ".mp4"
    assert look(data) == Media(media_type, extension, *size, ends_well=True)


@pytest.mark.parametrize("at", range(-20, 21))
def test_a_large_video_is_whole_wherever_the_head_ends(at: int) -> None:
    """A box that begins at the edge of what is seen does not spoil a whole video."""
    padding = box(b"free", bytes(HEAD - len(FTYP + MOOV) - 8 + at))
    data = FTYP + MOOV + padding + MDAT
    assert len(data) > HEAD + 100
    assert look(data) == Media("video/mp4", ".mp4", 320, 180, ends_well=True)


@pytest.mark.parametrize("cut", [1, 9, 500, len(MDAT) - 1])
def test_a_cut_off_video(cut: int) -> None:
    """A video that lacks the end of its last box is seen not to be whole."""
    found = look(VIDEO[:-cut])
    assert found is not None
    assert not found.ends_well


def test_a_large_video_cut_behind_the_head() -> None:
    """A cut far behind what is seen shows in the file's size."""
    data = FTYP + MOOV + box(b"mdat", bytes(HEAD * 2))
    assert look(data) == Media("video/mp4", ".mp4", 320, 180, ends_well=True)
    found = look(data[:-1])
    assert found is not None
    assert not found.ends_well


def test_a_video_cut_in_a_boxs_head() -> None:
    """A video that ends within the head of a box is seen not to be whole."""
    data = FTYP + MOOV + box(b"mdat", bytes(99), large=True)
    for left in range(1, 16):
        found = look(data[: len(FTYP + MOOV) + left])
        assert found is not None
        assert not found.ends_well


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\xff\xd8\xff\xe0\x00\x04\x00\x00no marker here", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "image/png"),
        (b"GIF89a\x01", "image/gif"),
        (b"RIFF\xff\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\xff\x00\x00\x00WEBPABCD" + bytes(30), "image/webp"),
    ],
)
def test_a_size_that_is_not_there(data: bytes, media_type: str) -> None:
    """A picture that ends before its size is known as what it is, without one, and not as whole."""
    found = look(data)
    assert found is not None
    assert (found.media_type, found.width, found.height) == (media_type, None, None)
    assert not found.ends_well


@pytest.mark.parametrize("length", [2, 7])
def test_a_box_of_no_length(length: int) -> None:
    """A box shorter than its own head is no video's."""
    found = look(FTYP + struct.pack(">I4s", length, b"moov") + bytes(50))
    assert found is not None
    assert not found.ends_well


def test_webm() -> None:
    """WebM is known by its first bytes; more is not asked of it."""
    found = look(b"\x1a\x45\xdf\xa3" + bytes(50))
    assert found == Media("video/webm", ".webm", None, None, ends_well=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><html><body>Gone</body></html>",
        b'{"code": 404}',
        b"\xff\xd8",
        b"\x89PNG",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF88a",
        b"%PDF-1.7",
        bytes(100),
    ],
)
def test_what_is_no_picture(data: bytes) -> None:
    """A web page, an error or anything else is not taken for a picture or a video."""
    assert look(data) is None


HEADS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"\x1a\x45\xdf\xa3",
    FTYP,
    b"\0\0\0\0ftyp",
]
HEADS += [b"RIFF\0\0\0\0WEBP" + kind for kind in (b"VP8X", b"VP8L", b"VP8 ", b"")]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(HEADS),
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([b"tkhd", b"\xff\xc0", b"\xff\xff", b"IEND", b"\0\0\0\1mdat", MOOV]),
        max_size=6,
    ),
    st.integers(0, 2**40),
)
def test_any_bytes_are_media_or_not(head: bytes, rest: list[bytes], size: int) -> None:
    """Whatever the bytes, there is an answer; sizes in it are whole numbers or unknown."""
    data = head + b"".join(rest)
    for said in (len(data), size):
        found = inspect(data, data[-TAIL:], said)
        if found is not None:
            assert (found.width is None) is (found.height is None)
            assert found.width is None or found.width >= 0


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([one.values[0] for one in WHOLE] + [VIDEO]), st.data())
def test_a_cut_anywhere_is_answered(data: Any, draw: st.DataObject) -> None:
    """However little of a file came, looking at it never raises."""
    cut = draw.draw(st.integers(0, len(data)))
    found = look(data[:cut])
    assert found is None or found.media_type.startswith(("image/", "video/"))


@pytest.mark.parametrize("data", [one.values[0] for one in WHOLE] + [VIDEO])
def test_few_bytes_tell_the_kind(data: Any) -> None:
    """So many bytes from the start decide whether a file is looked at further."""
    assert inspect(data[:ENOUGH], b"", ENOUGH) is not None
