"""The picture of the layers, drawn from the rules that the imports are checked by."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

_FAMILIES: Final = {
    "cli": "users of the client",
    "client": "the client",
    "engine": "the engine",
    "settings": "shells",
    "rules": "rules: pure",
    "progress": "values",
}
"""What begins with the layer that a module is in."""

_OUTSIDE: Final = {
    "cli": "you",
    "cluster": "PostgreSQL",
    "transport": "KIE.ai's API, with the key",
    "ledger": "SQLite: the ledger, the window",
    "archive": "result hosts; disk, object stores",
    "receiver": "callbacks that come in",
}
"""What a module talks to."""

_WIDTH: Final = 1000
_LEFT: Final = 172
_RIGHT: Final = 740
_ROW: Final = 30
_GAP: Final = 8


@attrs.frozen
class Layer:
    """Modules that do not import each other; they may import what is below.

    Attributes:
        modules: Their names.
        family: What kind of layer it is.
    """

    modules: tuple[str, ...]
    family: str

    @property
    def rows(self) -> list[list[str]]:
        """The names in rows that fit."""
        rows: list[list[str]] = [[]]
        for name in self.modules:
            if sum(map(_wide, [*rows[-1], name])) > _RIGHT - _LEFT - _GAP:
                rows.append([])
            rows[-1].append(name)
        return rows

    @property
    def outside(self) -> list[str]:
        """What it talks to."""
        return [_OUTSIDE[name] for name in self.modules if name in _OUTSIDE]

    @property
    def height(self) -> int:
        """Of its band."""
        return max(len(self.rows) * _ROW, len(self.outside) * 20 + 4) + _GAP


def layers(project: Path) -> list[Layer]:
    """The layers, the topmost first.

    Args:
        project: The ``pyproject.toml``.
    """
    tool = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]
    contract = tool["importlinter"]["contracts"][0]["layers"]
    found: list[Layer] = []
    family = ""
    for line in contract:
        names = tuple(one.strip().removeprefix("kie_mj_async.") for one in line.split("|"))
        family = next((_FAMILIES[name] for name in names if name in _FAMILIES), family)
        found.append(Layer(names, family))
    return found


def architecture_in_svg(project: Path) -> str:
    """The picture."""
    found = layers(project)
    height = sum(layer.height + _GAP for layer in found) + _GAP
    return "\n".join(
        [
            f'<svg class="kie-drawing layers" viewBox="0 0 {_WIDTH} {height}" '
            'xmlns="http://www.w3.org/2000/svg">',
            "<title>The layers of the package; imports go down</title>",
            *_bands(found),
            "</svg>",
        ]
    )


def _bands(found: list[Layer]) -> Iterator[str]:
    y = _GAP
    begun, family = y, found[0].family
    for layer in found:
        if layer.family != family:
            yield _bracket(family, begun, y - _GAP)
            begun, family = y, layer.family
        yield f'<g class="band" data-layer="{" ".join(layer.modules)}">'
        yield f'<rect x="{_LEFT}" y="{y}" width="{_RIGHT - _LEFT}" height="{layer.height}" rx="6"/>'
        for number, row in enumerate(layer.rows):
            yield from _chips(row, y + 5 + number * _ROW)
        for number, place in enumerate(layer.outside):
            at = y + (layer.height - 20 * len(layer.outside)) // 2 + 20 * number + 10
            yield f'<path class="talk" d="M{_RIGHT},{at} h34"/>'
            yield f'<text x="{_RIGHT + 42}" y="{at + 4}">{place}</text>'
        yield "</g>"
        y += layer.height + _GAP
    yield _bracket(family, begun, y - _GAP)


def _bracket(family: str, top: int, bottom: int) -> str:
    name, _, remark = family.partition(": ")
    middle = (top + bottom) // 2
    lines = [f'<text class="family" x="{_LEFT - 26}" y="{middle + 4}">{name}</text>']
    if remark:
        lines.append(f'<text class="remark" x="{_LEFT - 26}" y="{middle + 20}">{remark}</text>')
    path = f"M{_LEFT - 10},{top + 2} h-6 V{bottom - 2} h6"
    return "\n".join([*lines, f'<path class="bracket" d="{path}"/>'])


def _chips(names: list[str], y: int) -> Iterator[str]:
    x = _LEFT + _GAP
    for name in names:
        yield f'<text class="module" x="{x}" y="{y + 20}">{name}</text>'
        x += _wide(name)


def _wide(name: str) -> int:
    return round(len(name) * 7.9) + 22
