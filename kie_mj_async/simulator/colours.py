"""Colours that go together, chosen by chance. Pure arithmetic; knows no picture.

Palettes are built in OKLCH, where equal steps look equal: one ramp from dark to light that wanders
a little through the hues, and one accent from the other side of the circle.
"""

from __future__ import annotations

import math

import attrs

from . import chance

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@attrs.frozen
class Palette:
    """Colours that go together.

    Args:
        ramp: From dark to light.
        accent: What stands out against all of them.
        night: Whether the picture should be dark as a whole.
    """

    ramp: tuple[Colour, ...]
    accent: Colour
    night: bool

    def at(self, position: float) -> Colour:
        """The colour at a place on the ramp, from 0 (dark) to 1 (light)."""
        place = min(max(position, 0.0), 1.0) * (len(self.ramp) - 1)
        low = min(int(place), len(self.ramp) - 2)
        return mix(self.ramp[low], self.ramp[low + 1], place - low)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """The colour between two, at ``share`` of the way to the other one."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def palette(prompt: str, source: str) -> Palette:
    """A palette: the prompt gives the mood, the source a slight turn of it."""
    hue = 360 * chance.unit("hue", prompt) + 24 * (chance.unit("turn", source) - 0.5)
    spread = (30, 55, 80, 110, -40, -70)[int(6 * chance.unit("spread", prompt))]
    strength = 0.075 + 0.05 * chance.unit("strength", prompt)
    ramp = tuple(
        oklch(
            0.2 + 0.75 * step / 7,
            0.03 + strength * math.sin(math.pi * (0.15 + 0.7 * step / 7)),
            hue + spread * step / 7,
        )
        for step in range(8)
    )
    accent = oklch(0.74, 0.15, hue + spread / 2 + 180 + 50 * (chance.unit("accent", prompt) - 0.5))
    return Palette(ramp, accent, night=chance.unit("night", prompt) < 0.45)


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """An OKLCH colour in sRGB, cut off where sRGB ends.

    Args:
        lightness: 0 to 1.
        chroma: 0 (grey) to about 0.3.
        hue: Degrees.
    """
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _srgb(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _srgb(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _srgb(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _srgb(linear: float) -> int:
    value = min(max(linear, 0.0), 1.0)
    curved = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return round(255 * curved)
