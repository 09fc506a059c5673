"""Flags: what a Midjourney user writes at the end of a prompt (``--ar 16:9 --v 7``).

A flag whose field the API has moves there; every other stays where it stands, since recorded tasks
show that the service passes it on. Pure functions of the text as written, which itself is never
changed: a job's key is made of it.

What Midjourney documents, and what holds here: a flag begins with two hyphens, or with the dash
that some devices make of them, after a blank; its name is of any case; flags come after the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from math import gcd
from typing import Any, Final

import attrs

from ..errors import InvalidRequest
from ..fields import MAX_PROMPT, short
from ..requests import ASPECT_RATIOS, BATCH_SIZES, MOTIONS, VERSIONS, PromptRequest

_FLAG: Final = re.compile(r"(?<!\S)(--|[\u2013\u2014])([A-Za-z]\S*)")
_QUOTED: Final = re.compile(r'(?<!\S)(?:"[^"]*"|“[^“”]*”)(?!\w)')
_WORD: Final = re.compile(r"\S")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_RATIO: Final = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_VERSION: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")

_Value = str | int | None
"""What the field is given; ``None``: Midjourney may take it, but the field does not have it."""


@attrs.frozen
class _Known:
    """A flag with a field.

    Attributes:
        field: Our name for the field.
        read: Its value. A ``ValueError`` says what Midjourney itself would refuse, and what to use.
        least: How many words it needs.
        most: How many it takes.
    """

    field: str
    read: Callable[[str], _Value]
    least: int = 1
    most: int = 1


def _between(low: int, high: int) -> Callable[[str], _Value]:
    def read(word: str) -> _Value:
        if not _WHOLE.fullmatch(word) or not low <= int(word) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(word)

    return read


def _one_of(choices: Collection[str | int]) -> Callable[[str], _Value]:
    meant = {str(one): one for one in choices}

    def read(word: str) -> _Value:
        if word.lower() not in meant:
            raise ValueError(f"use one of {', '.join(meant)}")
        return meant[word.lower()]

    return read


def _ratio(word: str) -> _Value:
    match = _RATIO.fullmatch(word)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not width or not height:
        raise ValueError("use two whole numbers, width to height, such as 16:9")
    by = gcd(width, height)
    plain = f"{width // by}:{height // by}"
    return plain if plain in ASPECT_RATIOS else None


def _version(prefix: str) -> Callable[[str], _Value]:
    def read(word: str) -> _Value:
        if word and not _VERSION.fullmatch(word):
            raise ValueError("use the number of a version, such as 7 or 6.1")
        name = prefix + word.removesuffix(".0")
        return name if name in VERSIONS else None

    return read


def _always(value: str) -> Callable[[str], _Value]:
    return lambda _word: value


_STYLIZE: Final = _Known("stylization", _between(0, 1000))
_WEIRD: Final = _Known("weirdness", _between(0, 3000))
_CHAOS: Final = _Known("variety", _between(0, 100))
_RATIOS: Final = _Known("aspect_ratio", _ratio)
_MODEL: Final = _Known("version", _version(""))
_KNOWN: Final[Mapping[str, _Known]] = {
    "ar": _RATIOS,
    "aspect": _RATIOS,
    "v": _MODEL,
    "version": _MODEL,
    "niji": _Known("version", _version("niji"), least=0),
    "s": _STYLIZE,
    "stylize": _STYLIZE,
    "w": _WEIRD,
    "weird": _WEIRD,
    "c": _CHAOS,
    "chaos": _CHAOS,
    "ow": _Known("omni_weight", _between(1, 1000)),
    "relax": _Known("speed", _always("relaxed"), least=0, most=0),
    "fast": _Known("speed", _always("fast"), least=0, most=0),
    "turbo": _Known("speed", _always("turbo"), least=0, most=0),
    "motion": _Known("motion", _one_of(MOTIONS)),
    "bs": _Known("batch_size", _one_of(BATCH_SIZES)),
}
_FIELDLESS: Final = frozenset(
    re.findall(
        r"\w+",
        "cref cw draft end exp hd iw loop no oref p personalize profile q quality r raw repeat"
        " sameseed seed sref stealth stop style sv sw test testp tile video public zoom",
    )
)
"""Midjourney's flags without a field; asked only for a word after a single dash, which may be prose."""

FIELDS: Final = frozenset(one.field for one in _KNOWN.values())
"""The fields that a flag can fill, by our names."""


@attrs.frozen
class Flag:
    """A flag with a field, found in a prompt.

    Attributes:
        field: The field, by our name.
        value: What the field is given; ``None`` when the flag stays in the prompt, because the API
            does not list its value and Midjourney may well take it (``--ar 7:3``).
        written: The flag as the user wrote it.
    """

    field: str
    value: str | int | None
    written: str


@attrs.frozen
class Flags:
    """A prompt and what its flags said.

    Attributes:
        text: The prompt without the flags that have moved.
        found: For each field the flag that counts: the last one, as in Midjourney.
    """

    text: str
    found: tuple[Flag, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that flags have moved to."""
        return {one.field: one.value for one in self.found if one.value is not None}


@attrs.frozen
class _Place:
    """Where a flag stands: from its dash to the next flag, or to the prompt's end."""

    start: int
    stop: int
    name: str
    words: tuple[str, ...]
    """What follows the name: up to two words, and the rest as one."""
    written: str

    @property
    def known(self) -> _Known | None:
        return _KNOWN.get(self.name)


def split_flags(text: str, takes: Collection[str] = FIELDS) -> Flags:
    """Move the flags that have a field out of a prompt.

    Args:
        text: The prompt as written.
        takes: The fields that the type of request takes; other flags stay in the prompt, unread.

    Raises:
        InvalidRequest: A flag has a value that Midjourney refuses too, or text stands after it, or
            there is no text before the flags; the message names the flag.
    """
    places = list(_places(text))
    if places and not text[: places[0].start].strip():
        message = f"prompt: {short(text)} is nothing but flags; Midjourney needs a text before them"
        raise InvalidRequest(message, field="prompt", value=text)
    last: dict[str, Flag] = {}
    for place in places:
        if (known := place.known) and known.field in takes:
            last[known.field] = Flag(known.field, _read(known, place), place.written)
    flags = Flags(text, tuple(last.values()))
    moved = flags.fields
    if not moved:
        return flags
    stays, at = "", 0
    for place in places:
        if place.known and place.known.field in moved:
            stays += text[at : place.start]
            at = place.stop
    return attrs.evolve(flags, text=(stays + text[at:]).rstrip())


def merge(
    flags: Flags, options: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The fields of a request: those its prompt's flags say, and those given beside it.

    Args:
        flags: What :func:`split_flags` found.
        options: The fields given beside the prompt; ``None`` is not given.
        names: What the user calls a field, for messages (``{"version": "--model"}``).

    Raises:
        InvalidRequest: A flag and an option say different things; the message names both.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for flag in flags.found:
        if flag.field in given and not _same(flag, given[flag.field]):
            value = given[flag.field]
            called = (names or {}).get(flag.field, flag.field)
            message = (
                f"{flag.written} in the prompt and {called} {_plain(str(value))} contradict each "
                f"other; keep one of them"
            )
            raise InvalidRequest(message, field=flag.field, value=value)
    return given | flags.fields


def parts(text: str) -> tuple[str, str]:
    """A prompt's text and its flags, each without the blanks between them."""
    start = next((place.start for place in _places(text)), len(text))
    words = text[:start]
    return (words, "") if start == len(text) else (words.rstrip(), text[start:])


def _places(text: str) -> Iterator[_Place]:
    """The flags of a prompt. What stands in quotes is meant to be drawn."""
    unquoted = _QUOTED.sub(lambda match: "x" * len(match[0]), text)
    found: list[_Place] = []
    stop = len(text)
    for match in reversed(list(_FLAG.finditer(unquoted))):
        name = match[2].lower()
        # What cannot be one is passed over unread: each would read the whole rest of the prompt.
        if (
            match[1] != "--"
            and name not in _FIELDLESS
            and (name not in _KNOWN or _WORD.search(text, match.end() + MAX_PROMPT, stop))
        ):
            continue
        rest = text[match.end() : stop]
        words = tuple(rest.split(None, 2))
        written = text[match.start() : match.end()] + rest.rstrip()
        place = _Place(match.start(), stop, name, words, written)
        # A single dash before a word is as likely prose: "a road —fast and empty".
        if match[1] == "--" or name in _FIELDLESS or _reads(place):
            found.append(place)
            stop = match.start()
    return reversed(found)


def _reads(place: _Place) -> bool:
    try:
        if place.known is not None:
            _read(place.known, place)
    except InvalidRequest:
        return False
    return place.known is not None


def _read(known: _Known, place: _Place) -> _Value:
    flag, words = place.written.split(None, 1)[0], place.words
    if len(words) < known.least:
        message = f"{flag} in the prompt has no value; write it after the flag"
        raise InvalidRequest(message, field=known.field, value=place.written)
    if len(words) > known.most:
        own = " ".join((flag, *map(_plain, words[: known.most])))
        rest = short(" ".join(words[known.most :]))
        message = f"{own} in the prompt is followed by {rest}; put the flags after the whole text"
        raise InvalidRequest(message, field=known.field, value=place.written)
    try:
        return known.read("".join(words))
    except ValueError as error:
        message = f"{flag} {_plain(words[0])} in the prompt is not allowed; {error}"
        raise InvalidRequest(message, field=known.field, value=place.written) from None


def _same(flag: Flag, value: Any) -> bool:
    """Whether an option says what the flag says, in any spelling that a request accepts."""
    about = attrs.fields_dict(PromptRequest).get(flag.field)
    convert: Any = about.converter if about is not None else None
    if convert is not None:
        value = convert(value)
    elif isinstance(value, str):
        value = value.strip().lower()
    return type(value) is type(flag.value) and bool(value == flag.value)


def _plain(word: str) -> str:
    return word if word.isprintable() and len(word) <= 60 else short(word)
