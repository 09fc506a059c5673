"""Prompt lists with fields: CSV and JSONL rows, read one at a time.

A row's fields are read here (which they are, and of which type); their ranges are the request's.
Lists of plain lines are ``prompts.parse_lines``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final, Literal

import attrs

from ..errors import InvalidRequest
from ..fields import short
from .prompts import Prompt, decoded, parse_lines

Format = Literal["text", "csv", "jsonl"]

_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": (),
    "task_type": (),
    "version": ("model", "v"),
    "speed": (),
    "aspect_ratio": ("aspect", "ar"),
    "stylization": ("stylize", "s"),
    "weirdness": ("weird", "w"),
    "variety": ("chaos", "c"),
    "omni_weight": ("ow",),
    "image": ("fileUrl",),
    "images": ("fileUrls",),
    "motion": (),
    "batch_size": ("videoBatchSize", "bs"),
    "hd": (),
    "translate": ("enableTranslation",),
    "watermark": (),
    "callback_url": (),
    "then": (),
}
"""Our names, and how else the API, Midjourney's flags and the command line call them.

Case, blanks, hyphens and underscores do not count, so ``aspectRatio`` and ``--aspect-ratio`` are
``aspect_ratio``.
"""
_WHOLE: Final = frozenset({"stylization", "weirdness", "variety", "omni_weight", "batch_size"})
_SWITCHES: Final = frozenset({"hd", "translate"})
_SEVERAL: Final = frozenset({"images", "then"})
_YES_NO: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CLOCK: Final = re.compile(r"0?([0-9]{1,2}):0?([0-9]{1,2})(?::00)?")

FIELDS: Final = tuple(name for name in _SPELLINGS if name != "prompt")
"""The fields that a row may have where the caller allows them all."""


def format_of(name: str) -> Format:
    """How a list is written, by its file's name: CSV, JSONL, or else one prompt a line."""
    lower = name.lower()
    if lower.endswith((".csv", ".tsv")):
        return "csv"
    return "jsonl" if lower.endswith((".jsonl", ".ndjson")) else "text"


def read_rows(
    lines: Iterable[bytes], source: str, form: Format, allowed: Collection[str] = FIELDS
) -> Iterator[Prompt]:
    """The rows of a list in any format, one at a time.

    Args:
        lines: Its lines, as a file open in binary mode gives them.
        source: What messages call it.
        form: How it is written.
        allowed: The fields that a row may have.

    Raises:
        InvalidRequest: It cannot be read as that, or holds no prompt; the message names the file,
            the line, and the column where there is one.
    """
    if form == "text":
        return parse_lines(lines, source)
    return (csv_rows if form == "csv" else jsonl_rows)(lines, source, allowed)


def csv_rows(
    lines: Iterable[bytes], source: str, allowed: Collection[str] = FIELDS
) -> Iterator[Prompt]:
    """Rows of a table: a header, then one prompt a row; blank rows are skipped.

    Cells are parted by commas, or by the semicolons or tabs that the header shows. A blank cell
    means "not given". Several images or steps in one cell are parted by ``|``.

    Raises:
        InvalidRequest: See :func:`read_rows`.
    """
    texts = (text for _, text in decoded(lines, source, "prompt"))
    before, head = next(((n, text) for n, text in enumerate(texts) if text.strip()), (0, ""))
    reader = csv.reader(chain([head], texts), delimiter=_delimiter(head), strict=True)
    records = _records(reader, source, before)
    line, titles = next(records, (1, ["prompt"]))
    # Spreadsheets leave columns without a name behind; only a cell under one is an error.
    known = iter(_names([title for title in titles if title], f"{source}:{line}", allowed))
    names = [next(known) if title else None for title in titles]
    found = False
    for line, cells in records:
        found = True
        yield _table_row(cells, titles, names, Prompt("", source, line))
    if not found:
        raise _empty(source, "write a header with a column prompt, then one a row")


def jsonl_rows(
    lines: Iterable[bytes], source: str, allowed: Collection[str] = FIELDS
) -> Iterator[Prompt]:
    """Rows of a JSONL list: an object a line; blank lines and ``#`` comments are skipped.

    ``null`` means "not given".

    Raises:
        InvalidRequest: See :func:`read_rows`.
    """
    found = False
    for line, text in decoded(lines, source, "prompt"):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        pairs = _object(text, f"{source}:{line}")
        names = _names([name for name, _value in pairs], f"{source}:{line}", allowed)
        given = {
            name: (title, _typed(name, value, f"{source}:{line}: {title}"))
            for name, (title, value) in zip(names, pairs, strict=True)
            if value is not None
        }
        found = True
        yield _row(given, Prompt("", source, line))
    if not found:
        raise _empty(source, 'write one object a line, such as {"prompt": "a fox"}')


def _empty(source: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{source}: no prompts in it; {what}", field="prompt")


def _delimiter(head: str) -> str:
    """What parts the header's names; none of them has a tab, a semicolon or a comma in it."""
    if "\t" in head:
        return "\t"
    return ";" if ";" in head and "," not in head else ","


def _records(reader: Any, source: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that say something, with the line on which each begins."""
    while True:
        line = before + reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            message = f"{source}:{line}: not CSV: {_csv_reason(error)}"
            raise InvalidRequest(message, field="prompt") from None
        if any(cells):
            yield line, cells


def _csv_reason(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a double quote that opens a cell of this row is never closed"
    if "new-line" in str(error):
        return "a carriage return outside quotes; save the file with the usual line ends"
    return f"{error}; put a cell with commas or quotes in double quotes, and double those in it"


def _names(titles: Sequence[str], where: str, allowed: Collection[str]) -> list[str]:
    """The fields that a header or an object names."""
    meant = {
        _plain(one): name
        for name, others in _SPELLINGS.items()
        if name in allowed or name == "prompt"
        for one in (name, *others)
    }
    names: list[str] = []
    for title in titles:
        name = meant.get(_plain(title))
        if name is None:
            near = get_close_matches(_plain(title[:40]), meant, n=1, cutoff=0.7)
            known = ", ".join(dict.fromkeys(meant.values()))
            advice = f"did you mean {meant[near[0]]}?" if near else f"use {known}"
            message = f"{where}: {short(title)} is no field of this list; {advice}"
            raise InvalidRequest(message, field="prompt", value=title)
        if name in names:
            message = f"{where}: {titles[names.index(name)]} and {title} both give {name}; keep one"
            raise InvalidRequest(message, field=name, value=title)
        names.append(name)
    if "prompt" not in names:
        message = f"{where}: prompt is missing; name the text to draw that way"
        raise InvalidRequest(message, field="prompt")
    return names


def _plain(title: str) -> str:
    return re.sub(r"[\s_-]+", "", title).casefold()


def _table_row(
    cells: Sequence[str], titles: Sequence[str], names: Sequence[str | None], at: Prompt
) -> Prompt:
    given: dict[str, tuple[str, Any]] = {}
    for number, cell in enumerate(cells):
        if not cell:
            continue
        name = names[number] if number < len(names) else None
        if name is None:
            message = (
                f"{at.place}: column {number + 1}: {short(cell)} stands under no name; put a "
                f"prompt with commas in double quotes"
            )
            raise InvalidRequest(message, field="prompt", value=cell)
        given[name] = (titles[number], _parsed(name, cell, f"{at.place}: {titles[number]}"))
    return _row(given, at)


def _row(given: Mapping[str, tuple[str, Any]], at: Prompt) -> Prompt:
    title, text = given.get("prompt", ("prompt", ""))
    if not text:
        raise InvalidRequest(f"{at.place}: {title}: blank; a prompt is a text", field="prompt")
    beside = {name: pair for name, pair in given.items() if name != "prompt"}
    return attrs.evolve(
        at,
        text=text,
        fields={name: value for name, (_title, value) in beside.items()},
        columns={name: title for name, (title, _value) in beside.items()},
    )


def _parsed(name: str, cell: str, where: str) -> Any:
    """A cell's value, of the field's type."""
    if name in _WHOLE:
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", cell):
            raise _not_allowed(name, cell, where, "use a whole number")
        return int(cell)
    if name in _SWITCHES:
        if cell.casefold() not in _YES_NO:
            raise _not_allowed(name, cell, where, "use true or false")
        return _YES_NO[cell.casefold()]
    if name in _SEVERAL:
        return [one.strip() for one in cell.split("|") if one.strip()]
    # Spreadsheets take 16:9 for a time of day and save 16:09 or 16:09:00.
    if name == "aspect_ratio" and (clock := _CLOCK.fullmatch(cell)):
        return f"{clock[1]}:{clock[2]}"
    return cell


class _Object(list[tuple[str, Any]]):
    """A JSON object as it was written: a name that is there twice is not lost."""


def _object(text: str, where: str) -> _Object:
    try:
        value = json.loads(text, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        message = f"{where}:{error.pos + 1}: not JSON: {error.msg}; write one object a line"
        raise InvalidRequest(message, field="prompt") from None
    except (ValueError, RecursionError):
        message = f"{where}: JSON that nests too deep, or has too long a number"
        raise InvalidRequest(message, field="prompt") from None
    if not isinstance(value, _Object):
        message = f'{where}: {short(value)} is no object; write {{"prompt": "a fox"}}'
        raise InvalidRequest(message, field="prompt")
    return value


def _typed(name: str, value: Any, where: str) -> Any:
    """A JSON value, if it is of the field's type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _WHOLE:
        fits, rule = number and isinstance(value, int), "use a whole number, without quotes"
    elif name in _SWITCHES:
        fits, rule = isinstance(value, bool), "use true or false, without quotes"
    elif name in _SEVERAL:
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
        rule = "use a list of texts"
    else:
        fits, rule = isinstance(value, str) or (name == "version" and number), "use a text"
    if not fits:
        raise _not_allowed(name, value, where, rule)
    return value.strip() if name == "prompt" else value


def _not_allowed(name: str, value: Any, where: str, rule: str) -> InvalidRequest:
    message = f"{where}: {short(value)} is not allowed; {rule}"
    return InvalidRequest(message, field=name, value=value)
