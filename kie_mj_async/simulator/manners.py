"""The manners in which the simulator paints: ridges, currents, waves, blooms, worlds, tiles.

Each is a function from a canvas to a finished picture; ``pictures.py`` picks one and encodes it.
Only this module and that one touch Pillow, and only when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from .colours import Colour, Palette, mix
from .strokes import disc, dot, glow, gradient, light, mist, round_mask

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

TAU: Final = 2 * math.pi


@attrs.frozen
class Canvas:
    """What a manner paints on, and with.

    Args:
        width: Pixels.
        height: Pixels.
        palette: The colours.
        random: Chance for this picture alone.
        detail: Pixels of the longer side that the drawing is made for; 0 for its own.
    """

    width: int
    height: int
    palette: Palette
    random: Random
    detail: int = 0

    @property
    def side(self) -> int:
        """The longer side, in pixels: what sizes are measured by."""
        return max(self.width, self.height)

    def many(self, count: int) -> int:
        """How many of something to draw: fewer where they could not be told apart."""
        return max(3, round(count * min(1.0, 0.05 + (self.detail or self.side) / 700)))

    def tone(self, position: float) -> Colour:
        """A colour of the ramp; the ramp is turned over at night."""
        return self.palette.at(1 - position if self.palette.night else position)


def ridges(canvas: Canvas) -> Image:
    """Mountains behind mountains, a sun or a moon, mist between them."""
    from PIL import ImageDraw

    random, palette = canvas.random, canvas.palette
    wide, high = canvas.width, canvas.height
    night = palette.night
    top, low = (palette.at(0.06), palette.at(0.5)) if night else (palette.at(0.6), palette.at(1))
    horizon = random.uniform(0.42, 0.6) * high
    image = gradient(wide, high, top, mix(low, palette.accent, 0.25 if night else 0.35))
    draw = ImageDraw.Draw(image)
    if night:
        for _ in range(canvas.many(140)):
            x, y = random.uniform(0, wide), random.uniform(0, horizon)
            dot(draw, x, y, canvas.side * random.uniform(0.0004, 0.0018), palette.at(0.9))
    x, y = random.uniform(0.2, 0.8) * wide, horizon * random.uniform(0.35, 0.9)
    radius = canvas.side * random.uniform(0.045, 0.1)
    sun = palette.at(0.97) if night else mix(palette.accent, palette.at(1), 0.5)
    glow(image, x, y, radius * 4.5, colour=sun, strength=0.55)
    disc(image, x, y, radius, sun)
    layers = random.randint(5, 7)
    for layer in range(layers):
        near = (layer + 1) / layers
        base = horizon + (high - horizon) * (near**1.5) * 0.85
        colour = mix(low, palette.at(0.03 if night else 0.1), near**0.8)
        points = _ridge(canvas, base, high * (0.17 - 0.07 * near), 1.2 + 1.6 * near)
        if layer == layers - 1:
            _firs(canvas, draw, points, colour)
        draw.polygon([*points, (wide, high), (0, high)], fill=colour)
        if layer < layers - 2:
            mist(image, base + 0.03 * high, high * 0.16, mix(low, sun, 0.2))
    return image


def _ridge(canvas: Canvas, base: float, rise: float, rough: float) -> list[tuple[float, float]]:
    """A skyline from the left edge to the right one."""
    random = canvas.random
    waves = [
        (rise * 0.75**step / (1 + step * 0.35), rough * 1.9**step, random.uniform(0, TAU))
        for step in range(6)
    ]
    count = canvas.many(110)
    line = []
    for step in range(count + 1):
        share = step / count
        # A folded sine has peaks as mountains have them.
        height = sum(
            size * (1 - 2 * abs(math.sin(pace * share * math.pi + shift)))
            for size, pace, shift in waves
        )
        line.append((share * canvas.width, base - 0.5 * rise - 0.55 * height))
    return line


def _firs(canvas: Canvas, draw: ImageDraw, line: list[tuple[float, float]], colour: Colour) -> None:
    random = canvas.random
    for _ in range(canvas.many(70)):
        x, y = random.choice(line)
        x += random.uniform(-0.5, 0.5) * canvas.width / len(line)
        tall = canvas.side * random.uniform(0.012, 0.05)
        for tier in range(3):
            foot = y + tall * 0.25 - tall * 0.28 * tier
            half = tall * (0.24 - 0.06 * tier)
            draw.polygon([(x - half, foot), (x + half, foot), (x, foot - tall * 0.55)], fill=colour)


def currents(canvas: Canvas) -> Image:
    """Lines that drift through a field over soft light."""
    from PIL import ImageDraw

    random, palette = canvas.random, canvas.palette
    image = _haze(canvas, 0.1, 0.6)
    draw = ImageDraw.Draw(image)
    swirls = [
        (random.uniform(0, 1), random.uniform(0, 1), random.choice((-1, 1)) * random.uniform(2, 5))
        for _ in range(4)
    ]
    drift = random.uniform(0, TAU)
    step = canvas.side / 40
    for number in range(canvas.many(150)):
        x, y = (
            random.uniform(-0.05, 1.05) * canvas.width,
            random.uniform(-0.05, 1.05) * canvas.height,
        )
        line = [(x, y)]
        for _ in range(random.randint(8, 22)):
            turn = drift
            for left, above, force in swirls:
                dx, dy = x / canvas.width - left, y / canvas.height - above
                turn += force / (1 + 9 * (dx * dx + dy * dy)) * 0.6
            x += step * math.cos(turn)
            y += step * math.sin(turn)
            line.append((x, y))
        colour = palette.accent if number % 11 == 0 else canvas.tone(random.uniform(0.45, 1))
        width = max(1, round(canvas.side * random.choice((0.0012, 0.002, 0.003, 0.006))))
        draw.line(line, fill=colour, width=width, joint="curve")
        dot(draw, x, y, width * 1.1, colour)
    return image


def waves(canvas: Canvas) -> Image:
    """Ribbons of water, one before the other, each with a crest of light."""
    from PIL import ImageDraw

    random, palette = canvas.random, canvas.palette
    wide, high = canvas.width, canvas.height
    sky = (
        (palette.at(0.12), palette.at(0.45)) if palette.night else (palette.at(0.75), palette.at(1))
    )
    image = gradient(wide, high, *sky)
    radius = canvas.side * random.uniform(0.09, 0.16)
    x, y = random.uniform(0.25, 0.75) * wide, random.uniform(0.16, 0.26) * high
    glow(image, x, y, radius * 3, colour=palette.accent, strength=0.5)
    disc(image, x, y, radius, mix(palette.accent, palette.at(1), 0.2))
    draw = ImageDraw.Draw(image)
    rows = random.randint(11, 15)
    pace = random.uniform(1.2, 2.4)
    count = canvas.many(90)
    for row in range(rows):
        near = row / (rows - 1)
        base = high * (0.3 + 0.75 * near**1.15)
        size = high * (0.018 + 0.045 * near)
        shift, second = random.uniform(0, TAU), random.uniform(0, TAU)
        line = [
            (
                wide * step / count,
                base
                + size * math.sin(pace * TAU * step / count + shift)
                + 0.45 * size * math.sin(2.7 * pace * TAU * step / count + second),
            )
            for step in range(count + 1)
        ]
        colour = palette.at(0.82 - 0.72 * near) if row % 4 else palette.at(0.62 - 0.5 * near)
        draw.polygon([*line, (wide, high), (0, high)], fill=colour)
        for crest in range(3):
            depth = canvas.side * (0.004 + 0.011 * crest * (0.6 + near))
            light = mix(palette.at(1), colour, 0.25 + 0.27 * crest)
            wide_line = max(1, round(canvas.side * (0.0034 - 0.001 * crest)))
            draw.line([(a, b + depth) for a, b in line], fill=light, width=wide_line)
    return image


def blooms(canvas: Canvas) -> Image:
    """Flowers of many petals, seen from above."""
    from PIL import ImageDraw

    random, palette = canvas.random, canvas.palette
    image = _haze(canvas, 0.0, 0.4)
    draw = ImageDraw.Draw(image, "RGBA")
    spots = [(random.uniform(0.3, 0.7), random.uniform(0.3, 0.7), random.uniform(0.3, 0.4))]
    spots += [
        (random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.07, 0.17)) for _ in range(6)
    ]
    for x, y, size in sorted(spots, key=lambda spot: spot[2]):
        reach = size * canvas.side
        petals = random.randint(7, 13)
        rings = 5 if size > 0.25 else 3
        for ring in range(rings):
            share = 1 - ring / rings
            turn = random.uniform(0, TAU)
            colour = canvas.tone(0.25 + 0.65 * (1 - share) + 0.1 * random.random())
            edge = mix(colour, canvas.tone(1), 0.45)
            for petal in range(petals):
                outline = _petal(
                    (x * canvas.width, y * canvas.height),
                    reach * share,
                    turn + TAU * petal / petals,
                    wide=TAU / petals * 0.75,
                    count=canvas.many(16),
                )
                draw.polygon(outline, fill=(*colour, 205))
                draw.line(outline, fill=(*edge, 230), width=max(1, round(canvas.side / 700)))
        dot(draw, x * canvas.width, y * canvas.height, reach * 0.13, palette.accent)
        for seed in range(canvas.many(34)):
            angle, far = seed * 2.39996, reach * 0.024 * math.sqrt(seed)
            dot(
                draw,
                x * canvas.width + far * math.cos(angle),
                y * canvas.height + far * math.sin(angle),
                reach * 0.009,
                mix(palette.accent, palette.at(0), 0.55),
            )
    return image


def _petal(
    spot: tuple[float, float], reach: float, turn: float, *, wide: float, count: int
) -> list[tuple[float, float]]:
    x, y = spot
    outline = []
    for step in range(2 * count + 1):
        share = step / count - 1
        bulge = math.cos(share * math.pi / 2) ** 0.6
        angle = turn + wide * share * 0.9
        outline.append((x + reach * bulge * math.cos(angle), y + reach * bulge * math.sin(angle)))
    return outline


def worlds(canvas: Canvas) -> Image:
    """A planet with its rings and moons, in a field of stars."""
    from PIL import Image, ImageChops, ImageDraw

    random, palette = canvas.random, canvas.palette
    image = _haze(canvas, 0.0, 0.28, dark=True)
    draw = ImageDraw.Draw(image)
    for _ in range(canvas.many(420)):
        x, y = random.uniform(0, canvas.width), random.uniform(0, canvas.height)
        size = canvas.side * random.choice((0.0004, 0.0006, 0.0009, 0.0016))
        dot(draw, x, y, size, palette.at(random.uniform(0.5, 1)))
    x, y = random.uniform(0.35, 0.65) * canvas.width, random.uniform(0.4, 0.62) * canvas.height
    radius = canvas.side * random.uniform(0.17, 0.25)
    glow(image, x, y, radius * 1.7, colour=palette.at(0.6), strength=0.5)
    across = max(4, round(2 * radius))
    bands = Image.new("RGB", (1, 48))
    tone = random.uniform(0.4, 0.7)
    for row in range(48):
        tone = min(max(tone + random.uniform(-0.13, 0.13), 0.3), 0.95)
        colour = palette.at(tone)
        bands.putpixel((0, row), mix(colour, palette.accent, 0.55) if row % 13 == 5 else colour)
    tilt = random.uniform(-28, 28)
    globe = bands.resize((across, across), Image.Resampling.BICUBIC).rotate(
        tilt, Image.Resampling.BILINEAR, fillcolor=palette.at(0.5)
    )
    shade = light().resize((2 * across, 2 * across), Image.Resampling.BILINEAR)
    left, above = round(across * 0.68), round(across * 0.66)
    shade = shade.crop((left, above, left + across, above + across))
    globe = ImageChops.multiply(globe, Image.merge("RGB", (shade, shade, shade)))
    image.paste(globe, (round(x - across / 2), round(y - across / 2)), round_mask(across))
    _rings(canvas, draw, (x, y, radius, math.radians(-tilt + random.uniform(-8, 8))))
    for _ in range(random.randint(1, 3)):
        angle, far = random.uniform(0, TAU), radius * random.uniform(1.7, 2.4)
        moon = radius * random.uniform(0.05, 0.13)
        spot = (x + far * math.cos(angle), y + far * math.sin(angle))
        disc(image, *spot, moon, palette.at(0.35))
        disc(image, spot[0] - moon * 0.18, spot[1] - moon * 0.18, moon * 0.8, palette.at(0.85))
    return image


def _rings(canvas: Canvas, draw: ImageDraw, planet: tuple[float, float, float, float]) -> None:
    """Rings around a planet: whole in front of it, hidden behind it."""
    x, y, radius, tilt = planet
    flat = canvas.random.uniform(0.16, 0.3)
    count = canvas.many(90)
    for ring in range(canvas.many(15)):
        reach = radius * (1.35 + 0.045 * ring)
        colour = canvas.palette.at(canvas.random.uniform(0.45, 0.95))
        line: list[tuple[float, float]] = []
        for step in range(count + 1):
            angle = TAU * step / count
            a, b = reach * math.cos(angle), reach * flat * math.sin(angle)
            if b < 0 and a * a + b * b < radius * radius:
                _polyline(draw, line, colour, canvas.side)
                line = []
                continue
            line.append(
                (
                    x + a * math.cos(tilt) - b * math.sin(tilt),
                    y + a * math.sin(tilt) + b * math.cos(tilt),
                )
            )
        _polyline(draw, line, colour, canvas.side)


def _polyline(draw: ImageDraw, line: list[tuple[float, float]], colour: Colour, side: int) -> None:
    if len(line) > 1:
        draw.line(line, fill=colour, width=max(1, round(side * 0.003)))


def tiles(canvas: Canvas) -> Image:
    """A quilt of arcs and leaves, as printed around 1960."""
    from PIL import Image, ImageDraw

    random = canvas.random
    image = Image.new("RGB", (canvas.width, canvas.height), canvas.tone(0.97))
    draw = ImageDraw.Draw(image)
    cell = canvas.side / random.randint(5, 7)
    tones = [canvas.tone(place) for place in (0.08, 0.3, 0.5, 0.7, 0.86, 0.97)]
    tones.append(canvas.palette.accent)
    for row in range(math.ceil(canvas.height / cell)):
        for column in range(math.ceil(canvas.width / cell)):
            ground, first, second, third = random.sample(tones, 4)
            x, y = column * cell, row * cell
            draw.rectangle((x, y, x + cell, y + cell), fill=ground)
            _tile(draw, random, (x, y, cell), (first, second, third))
    return image


def _tile(
    draw: ImageDraw,
    random: Random,
    place: tuple[float, float, float],
    colours: tuple[Colour, Colour, Colour],
) -> None:
    x, y, cell = place
    first, second, third = colours
    quarter = random.randrange(4)
    corner_x, corner_y = x + cell * (quarter in (1, 2)), y + cell * (quarter in (2, 3))
    kind = random.randrange(4)
    if kind == 0:
        for colour, share in ((first, 1.0), (second, 0.68), (third, 0.36)):
            _pie(draw, (corner_x, corner_y), cell * share, quarter, colour)
    elif kind == 1:
        other = (quarter + 2) % 4
        far_x, far_y = x + cell * (other in (1, 2)), y + cell * (other in (2, 3))
        _pie(draw, (corner_x, corner_y), cell * 0.5, quarter, first)
        _pie(draw, (far_x, far_y), cell * 0.5, other, second)
    elif kind == 2:
        arc = [
            (corner_x + cell * (1 - 2 * (quarter in (1, 2))) * math.sin(step * math.pi / 24),
             corner_y + cell * (1 - 2 * (quarter in (2, 3))) * (1 - math.cos(step * math.pi / 24)))
            for step in range(13)
        ]  # fmt: skip
        back = [
            (corner_x + cell * (1 - 2 * (quarter in (1, 2))) * (1 - math.cos(step * math.pi / 24)),
             corner_y + cell * (1 - 2 * (quarter in (2, 3))) * math.sin(step * math.pi / 24))
            for step in range(12, -1, -1)
        ]  # fmt: skip
        draw.polygon(arc + back, fill=first)
    else:
        for colour, share in ((first, 0.42), (second, 0.28), (third, 0.12)):
            dot(draw, x + cell / 2, y + cell / 2, cell * share, colour)


def _pie(
    draw: ImageDraw, spot: tuple[float, float], radius: float, quarter: int, colour: Colour
) -> None:
    x, y = spot
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.pieslice(box, 90 * quarter, 90 * quarter + 90, fill=colour)


def _haze(canvas: Canvas, low: float, high: float, *, dark: bool = False) -> Image:
    """Soft patches of light; painted small, since nothing in it is sharp."""
    from PIL import Image

    random = canvas.random
    tone = canvas.palette.at if dark else canvas.tone
    wide = max(8, 128 * canvas.width // canvas.side)
    tall = max(8, 128 * canvas.height // canvas.side)
    small = gradient(wide, tall, tone(low), tone((low + high) / 2))
    for _ in range(canvas.many(9)):
        spot = tone(random.uniform(low, high))
        if random.random() < 0.2:
            spot = mix(spot, canvas.palette.accent, 0.5)
        x, y = random.uniform(0, wide), random.uniform(0, tall)
        reach, strength = random.uniform(24, 64), random.uniform(0.35, 0.8)
        glow(small, x, y, reach, colour=spot, strength=strength)
    return small.resize((canvas.width, canvas.height), Image.Resampling.BICUBIC)


Manner: TypeAlias = "Callable[[Canvas], Image]"

MANNERS: Final[tuple[Manner, ...]] = (
    ridges, currents, waves, blooms, worlds, tiles,
)  # fmt: skip
"""Every manner there is."""
