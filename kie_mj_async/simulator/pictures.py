"""The simulator's pictures: drawn from a text, the same bytes each time.

The prompt gives the palette and the manner, the result's own source gives the rest: the four images
of a task belong together without being alike. JPEGs need Pillow, which is imported when the first
one is drawn; without it there are plain PNGs from the standard library. Drawing is CPU work (about
30 ms at full size): callers run it in a worker thread.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import attrs

from . import chance

if TYPE_CHECKING:
    from .manners import Manner


@attrs.frozen
class Sketch:
    """What to draw.

    Args:
        prompt: Gives the palette and the manner.
        source: Gives everything else; unlike for every picture.
        width: Pixels.
        height: Pixels.
        detail: Pixels of the longer side that the drawing was made for; 0 for its own. An
            enlargement has as many things in it as what it enlarges.
    """

    prompt: str
    source: str
    width: int
    height: int
    detail: int = 0


def size(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height in pixels of a picture whose longer side has ``side`` pixels."""
    wide, high = shape
    longer = max(wide, high)
    return max(1, round(side * wide / longer)), max(1, round(side * high / longer))


@cache
def suffix() -> str:
    """The ending of picture files: JPEG needs Pillow."""
    return "jpeg" if importlib.util.find_spec("PIL") else "png"


def draw(sketch: Sketch) -> bytes:
    """Draw it: a JPEG, or a PNG where Pillow is missing."""
    return _png(sketch) if suffix() == "png" else _jpeg(sketch)


def manner_of(prompt: str) -> Manner:
    """The manner that a prompt is painted in."""
    from . import manners

    return manners.MANNERS[int(chance.unit("manner", prompt) * len(manners.MANNERS))]


def _jpeg(sketch: Sketch) -> bytes:
    from PIL import ImageFilter

    from . import colours, manners

    canvas = manners.Canvas(
        sketch.width,
        sketch.height,
        colours.palette(sketch.prompt, sketch.source),
        Random(chance.digest("picture", sketch.prompt, sketch.source)),  # noqa: S311 - art
        sketch.detail,
    )
    image = manner_of(sketch.prompt)(canvas)
    if sketch.width > 400:
        # Pillow draws hard edges; this rounds them off, cheaper than drawing larger would.
        image = image.filter(ImageFilter.BoxBlur(0.5))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def _png(sketch: Sketch) -> bytes:
    """A plain picture of one colour that needs nothing but the standard library."""
    colour = bytes.fromhex(chance.digest(sketch.prompt, sketch.source, size=3))
    row = b"\0" + colour * sketch.width

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", sketch.width, sketch.height, 8, 2, 0, 0, 0)
    body = zlib.compress(row * sketch.height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
