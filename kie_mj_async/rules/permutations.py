r"""Permutations: ``a {red, green} bird`` is two prompts, as Midjourney expands them.

What Midjourney documents, and what holds here: options stand in curly braces with commas between;
several groups make every combination, the first group's options slowest; groups may stand in
options; ``\,`` in a group is a comma of the text. Besides: ``\{`` and ``\}`` are braces of the
text, an option may be empty, blanks around an option are not part of it, and one option alone in
braces is itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

import attrs

from ..errors import InvalidRequest

MAX_EXPANSIONS: Final = 1000
"""How many prompts one text may make, unless the user allows more."""
MAX_DEPTH: Final = 20
"""How deep groups may stand within options."""
TELLABLE: Final = 10**15
"""From here on a number of prompts is only said to be large."""


@attrs.define
class _Group:
    """Options in braces; each is a sequence of texts and groups."""

    options: list[list[str | _Group]]
    column: int


def count(text: str) -> int:
    """How many prompts a text makes, without making them.

    Raises:
        InvalidRequest: A brace has no partner, or groups stand too deep; the message names the column.
    """
    return _total(_parsed(text), None)


def expand(text: str, cap: int = MAX_EXPANSIONS) -> Iterator[str]:
    """The prompts that a text makes, in Midjourney's order.

    A text without braces is itself. Everything is checked before the first prompt is made, when
    this is called.

    Args:
        text: The prompt as written.
        cap: How many prompts it may make.

    Raises:
        InvalidRequest: It makes more than ``cap``, a brace has no partner, or groups stand too deep;
            the message says how many, or names the column.
    """
    parsed = _parsed(text)
    if (total := _total(parsed, max(cap, TELLABLE))) > cap:
        many = f"{total:,}" if total < TELLABLE else "more than 10^15"
        message = f"prompt: its braces make {many} prompts; at most {cap:,} are allowed"
        raise InvalidRequest(message, field="prompt", value=text)
    return _strings(parsed)


def _refuse(text: str, column: int, what: str) -> InvalidRequest:
    message = f"prompt: column {column}: {what}; \\{{ and \\}} are plain braces"
    return InvalidRequest(message, field="prompt", value=text)


def _parsed(text: str) -> list[str | _Group]:
    """The text as a sequence of texts and groups. Iterative: nothing here recurses on input."""
    if "{" not in text and "}" not in text:
        return [text]
    top: list[str | _Group] = []
    sequence, opened = top, list[tuple[_Group, list[str | _Group]]]()
    plain = ""
    at = 0
    while at < len(text):
        c = text[at]
        if c == "\\" and text[at + 1 : at + 2] in _escapable(opened):
            # As documented: {red, pastel \, yellow} makes "pastel, yellow".
            plain = (plain.rstrip() if text[at + 1] == "," else plain) + text[at + 1]
            at += 2
            continue
        if c not in "{}" and not (c == "," and opened):
            plain += c
            at += 1
            continue
        sequence.append(plain)
        plain = ""
        if c == "{":
            if len(opened) == MAX_DEPTH:
                raise _refuse(text, at + 1, f"braces within more than {MAX_DEPTH} others")
            group = _Group([[]], at + 1)
            sequence.append(group)
            opened.append((group, sequence))
            sequence = group.options[-1]
        elif c == ",":
            sequence = []
            opened[-1][0].options.append(sequence)
        elif opened:
            sequence = opened.pop()[1]
        else:
            raise _refuse(text, at + 1, "} closes nothing")
        at += 1
    if opened:
        raise _refuse(text, opened[-1][0].column, "{ is never closed")
    sequence.append(plain)
    return top


def _escapable(opened: list[tuple[_Group, list[str | _Group]]]) -> tuple[str, ...]:
    return ("{", "}", ",") if opened else ("{", "}")


def _total(sequence: list[str | _Group], ceiling: int | None) -> int:
    """How many texts a sequence makes; not counted on beyond the ceiling."""
    total = 1
    for piece in sequence:
        if isinstance(piece, _Group):
            total *= sum(_total(option, ceiling) for option in piece.options)
            if ceiling is not None and total > ceiling:
                return total
    return total


def _strings(sequence: list[str | _Group]) -> Iterator[str]:
    """The texts that a sequence makes."""
    if all(isinstance(piece, str) for piece in sequence):
        return iter(["".join(str(piece) for piece in sequence)])
    pools = [[piece] if isinstance(piece, str) else _chosen(piece) for piece in sequence]
    return (_joined(choice) for choice in product(*pools))


def _chosen(group: _Group) -> list[str]:
    return [made.strip() for option in group.options for made in _strings(option)]


def _joined(pieces: tuple[str, ...]) -> str:
    """The pieces as one text; where a group chose nothing, its two blanks are one.

    Texts and groups take turns, so every second piece is a group's.
    """
    made = ""
    for number, piece in enumerate(pieces):
        gap = number > 0 and not pieces[number - 1] and number % 2 == 0
        made += piece.lstrip() if gap and (not made or made[-1].isspace()) else piece
    return made.strip()
