"""Line charts as SVG, written by hand: both axes logarithmic, several panels side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import attrs

PANEL, HEIGHT, LEFT, TOP, BOTTOM, GAP = 300, 260, 56, 40, 80, 44


@attrs.frozen
class Line:
    """A named curve, or a named point where it has only one.

    Attributes:
        name: What it is.
        colour: As SVG writes it.
        points: x and y, both positive.
        dashed: Whether the line is.
        labels: What to write beside its points, if anything.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    labels: Sequence[str] = ()


@attrs.frozen
class Panel:
    """One chart: its title and lines."""

    title: str
    lines: Sequence[Line]


def svg(panels: Sequence[Panel], x_name: str, y_name: str) -> str:
    """The charts side by side, with the same axes and one legend."""
    points = [one for panel in panels for line in panel.lines for one in line.points]
    x_low, x_high = min(x for x, _ in points) / 1.2, max(x for x, _ in points) * 1.8
    y_low, y_high = min(y for _, y in points) / 1.2, max(y for _, y in points) * 1.5

    def across(x: float) -> float:
        return PANEL * math.log(x / x_low) / math.log(x_high / x_low)

    def down(y: float) -> float:
        return HEIGHT * (1 - math.log(y / y_low) / math.log(y_high / y_low))

    width = LEFT + len(panels) * (PANEL + GAP)
    height = TOP + HEIGHT + BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        out.append(f'<g transform="translate({LEFT + number * (PANEL + GAP)},{TOP})">')
        out.append(f'<text x="0" y="-12" font-size="13">{escape(panel.title)}</text>')
        for x in ticks(x_low, x_high):
            at = across(x)
            out.append(f'<path d="M{at:.1f} 0V{HEIGHT}" stroke="#e4e4e4"/>')
            out.append(f'<text x="{at:.1f}" y="{HEIGHT + 15}" text-anchor="middle">{x:g}</text>')
        for y in ticks(y_low, y_high):
            at = down(y)
            out.append(f'<path d="M0 {at:.1f}H{PANEL}" stroke="#e4e4e4"/>')
            out.append(f'<text x="-6" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
        for line in panel.lines:
            out.extend(drawn(line, [(across(x), down(y)) for x, y in line.points]))
        out.append(f'<rect width="{PANEL}" height="{HEIGHT}" fill="none" stroke="#999"/>')
        out.append(
            f'<text x="{PANEL}" y="{HEIGHT + 34}" text-anchor="end">{escape(x_name)}</text></g>'
        )
    middle = TOP + HEIGHT / 2
    out.append(
        f'<text transform="translate(14,{middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    out.extend(legend(panels))
    return "\n".join([*out, "</svg>", ""])


def drawn(line: Line, places: Sequence[tuple[float, float]]) -> list[str]:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    style = f'fill="none" stroke="{line.colour}" stroke-width="1.8"{dashes}'
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in places]
    texts = [
        f'<text x="{x + 6:.1f}" y="{y - 5:.1f}" fill="{line.colour}">{escape(label)}</text>'
        for (x, y), label in zip(places, line.labels, strict=False)
    ]
    return [f'<path d="{path}" {style}/>', *(dots if len(places) < 8 else []), *texts]


def legend(panels: Sequence[Panel]) -> list[str]:
    out, x = [], float(LEFT)
    y = TOP + HEIGHT + 62
    names = {line.name: line for panel in panels for line in panel.lines}
    for line in names.values():
        dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
        out.append(f'<path d="M{x:.0f} {y}h22" stroke="{line.colour}" stroke-width="3"{dashes}/>')
        out.append(f'<text x="{x + 27:.0f}" y="{y + 4}">{escape(line.name)}</text>')
        x += 50 + 6.2 * len(line.name)
    return out


def ticks(low: float, high: float) -> list[float]:
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [float(f"{one}e{power}") for one in (1, 2, 5)]
    return [one for one in found if low <= one <= high]
