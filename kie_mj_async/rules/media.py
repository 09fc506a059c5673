"""Media: whether the bytes of a file are the picture or video they claim to be."""

from __future__ import annotations

import struct
from typing import Final

import attrs

HEAD: Final = 256 * 1024
"""Bytes from the start of a file that :func:`inspect` wants to see, at most."""

TAIL: Final = 64
"""Bytes from the end of a file that :func:`inspect` wants to see, at most."""

ENOUGH: Final = 12
"""Bytes from the start of a file that tell whether :func:`inspect` knows its kind."""


@attrs.frozen
class Media:
    """What a file's content says of it.

    Attributes:
        media_type: Such as ``image/jpeg``.
        extension: The file extension that goes with it, with its dot.
        width: In pixels, or ``None`` where the content seen does not tell.
        height: In pixels, or ``None``.
        ends_well: Whether the end of the file is the end of its format.
    """

    media_type: str
    extension: str
    width: int | None
    height: int | None
    ends_well: bool


def inspect(head: bytes, tail: bytes, size: int) -> Media | None:
    """Recognise a picture or video by its content; ``None`` for anything else.

    Args:
        head: The first bytes of the file, up to ``HEAD``.
        tail: The last bytes of the file, up to ``TAIL``.
        size: The file's size.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return Media("image/jpeg", ".jpeg", *_jpeg_size(head), b"\xff\xd9" in tail)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Media("image/png", ".png", *_png_size(head), _PNG_END in tail)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        announced = int.from_bytes(head[4:8], "little") + 8
        return Media("image/webp", ".webp", *_webp_size(head), size >= announced)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return Media("image/gif", ".gif", *_gif_size(head), tail.rstrip(b"\0").endswith(b";"))
    if head[4:8] == b"ftyp":
        kind = ("video/quicktime", ".mov") if head[8:12] == b"qt  " else ("video/mp4", ".mp4")
        return Media(*kind, *_mp4_size(head), _boxes_fit(head, size))
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Media("video/webm", ".webm", None, None, ends_well=True)
    return None


_PNG_END: Final = b"IEND\xae\x42\x60\x82"

_Size = tuple[int | None, int | None]
_UNKNOWN: Final[_Size] = (None, None)


def _jpeg_size(head: bytes) -> _Size:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return _UNKNOWN
        marker = head[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(head[at + 2 : at + 4], "big"))
    return _UNKNOWN


def _png_size(head: bytes) -> _Size:
    return struct.unpack(">II", head[16:24]) if len(head) >= 24 else _UNKNOWN


def _gif_size(head: bytes) -> _Size:
    return struct.unpack("<HH", head[6:10]) if len(head) >= 10 else _UNKNOWN


def _webp_size(head: bytes) -> _Size:
    if len(head) < 30:
        return _UNKNOWN
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(
                head[27:30], "little"
            )
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack("<HH", head[26:30])
            return width & 0x3FFF, height & 0x3FFF
    return _UNKNOWN


def _mp4_size(head: bytes) -> _Size:
    """The largest track's size, from the track headers, where they are at the front."""
    found: tuple[int, int] | None = None
    at = head.find(b"tkhd")
    while at != -1:
        end = at + 4 + (96 if head[at + 4 : at + 5] == b"\x01" else 84)
        if end > len(head):
            break
        width, height = (value >> 16 for value in struct.unpack(">II", head[end - 8 : end]))
        if width and height and (found is None or width * height > found[0] * found[1]):
            found = (width, height)
        at = head.find(b"tkhd", end)
    return found or _UNKNOWN


def _boxes_fit(head: bytes, size: int) -> bool:
    """Whether the top-level boxes, as far as they are seen, end within the file."""
    at = 0
    while at + 8 <= len(head):
        length = int.from_bytes(head[at : at + 4], "big")
        if length == 1:
            if at + 16 > len(head):
                break
            length = int.from_bytes(head[at + 8 : at + 16], "big")
        if length == 0:
            return True
        if length < 8 or at + length > size:
            return False
        at += length
    return at == size or size > len(head)
