"""Strokes that every manner uses: gradients, glows, mist, discs.

They take colours and places in pixels and know nothing of prompts. Pillow is imported when the
first one is drawn.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from .colours import Colour, mix

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw


def gradient(wide: int, high: int, top: Colour, bottom: Colour) -> Image:
    """From one colour at the top to another at the bottom."""
    from PIL import Image

    strip = Image.new("RGB", (1, 32))
    for row in range(32):
        strip.putpixel((0, row), mix(top, bottom, row / 31))
    return strip.resize((wide, high), Image.Resampling.BICUBIC)


@cache
def light() -> Image:
    """A round light whose strength is 0 at the rim, so that no edge shows."""
    from PIL import Image

    return (
        Image.radial_gradient("L")
        .crop((37, 37, 219, 219))
        .point([max(0, round(255 - level * 2)) if level < 128 else 0 for level in range(256)])
    )


@lru_cache(maxsize=32)
def round_mask(size: int) -> Image:
    """A disc with a smooth rim, as a mask of ``size`` pixels."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(mask).ellipse((0, 0, 2 * size - 1, 2 * size - 1), fill=255)
    return mask.reduce(2)


def glow(
    image: Image, x: float, y: float, reach: float, *, colour: Colour, strength: float
) -> None:
    """Brighten a round place, with no edge to it; ``strength`` is 0 to 1."""
    from PIL import Image

    across = max(2, round(2 * reach))
    mask = light().point([round(level * strength) for level in range(256)])
    mask = mask.resize((across, across), Image.Resampling.BILINEAR)
    image.paste(colour, (round(x - reach), round(y - reach)), mask)


def mist(image: Image, y: float, tall: float, colour: Colour) -> None:
    """Lay mist over the image: thin at the height ``y``, denser down to ``y + tall``."""
    from PIL import Image

    strength = Image.linear_gradient("L").point([round(level * 0.5) for level in range(256)])
    mask = strength.resize((image.width, max(2, round(tall))), Image.Resampling.BILINEAR)
    image.paste(colour, (0, round(y)), mask)


def disc(image: Image, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc with a smooth rim."""
    size = max(1, round(2 * radius))
    image.paste(colour, (round(x - size / 2), round(y - size / 2)), round_mask(size))


def dot(draw: ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc, drawn fast; for small ones."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
