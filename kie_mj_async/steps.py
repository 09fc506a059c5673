"""Steps of a chain, as data: "render, then upscale images 0 and 2, then animate the first of those".

What a step becomes is decided in ``rules/chains.py``; here is only how one is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import attrs
from attrs import field

from .errors import InvalidRequest
from .fields import check_prompt, refuse

KINDS: Final = ("upscale", "vary", "video", "video-hd", "extend")
"""What a step can do to a result."""

MAX_INDEX: Final = 99

_WRITTEN: Final = re.compile(
    r"([A-Za-z_-]+)\s*:\s*([0-9]+(?:\s*,\s*[0-9]+)*)(?:\s+([^\s,].*))?", re.DOTALL
)


def _indexes(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _kind(value: Any) -> Any:
    return value.strip().lower().replace("_", "-") if isinstance(value, str) else value


def _check_kind(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in KINDS:
        raise refuse(attribute.name, value, f"is no step; use one of {', '.join(KINDS)}")


def _check_indexes(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    fits = isinstance(value, tuple) and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= MAX_INDEX
        for one in value
    )
    if not fits or not value:
        rule = "is not allowed; say which results the step is for, counted from 0"
        raise refuse(attribute.name, value, rule)
    if len(set(value)) != len(value):
        raise refuse(attribute.name, value, "names a result twice")


def _check_words(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value != "":
        check_prompt(_self, attribute, value)


@attrs.frozen
class Step:
    """One step of a chain: what to do with results of the step before it.

    As text: ``upscale:0,2``, or ``video:0 a slow pan --motion low``.

    Args:
        kind: ``upscale``, ``vary``, ``video``, ``video-hd`` or ``extend`` (a video, by some seconds).
        indexes: Which results of the step before, from 0, in their order: those of all its tasks,
            one task after the other.
        prompt: Words for a video, or for how it is extended, with Midjourney's flags if you like. A
            video without words is of the chain's own prompt.

    Raises:
        InvalidRequest: A field is not allowed.
    """

    kind: str = field(converter=_kind, validator=_check_kind)
    indexes: tuple[int, ...] = field(converter=_indexes, validator=_check_indexes)
    prompt: str = field(default="", validator=_check_words)

    def __attrs_post_init__(self) -> None:
        if self.prompt and self.kind in ("upscale", "vary"):
            raise refuse("then", self.prompt, f"is not allowed; {self.kind} takes no prompt")

    @classmethod
    def parse(cls, text: str) -> Step:
        """Read a step as it is written.

        Raises:
            InvalidRequest: It cannot be read, or is not allowed.
        """
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            rule = "is no step; write STEP:INDEX, such as upscale:0,2"
            raise refuse("then", text, rule)
        kind, indexes, prompt = found.groups()
        try:
            # Cut short: what has more digits is too large anyway.
            numbers = [int(one.strip().lstrip("0")[:9] or "0") for one in indexes.split(",")]
            return cls(kind, numbers, prompt or "")
        except InvalidRequest as error:
            message = f"then: {text[:60]!r}: {error}"
            raise InvalidRequest(message, field="then", value=text) from None

    def __str__(self) -> str:
        where = ",".join(map(str, self.indexes))
        return f"{self.kind}:{where} {self.prompt}".rstrip()


def steps(value: Any) -> Any:
    """A chain from steps in any form: texts, values, or one of them."""
    if value is None:
        return ()
    listed = [value] if isinstance(value, str | Step) or not isinstance(value, Iterable) else value
    return tuple(Step.parse(one) if isinstance(one, str) else one for one in listed)


def check_steps(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A chain is made of steps."""
    for one in value:
        if not isinstance(one, Step):
            raise refuse(attribute.name, one, "is no step; write STEP:INDEX, such as upscale:0,2")
