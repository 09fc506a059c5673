"""Checks and spellings that requests are made of: what a field's value may be, and what to say if not.

A check raises :class:`~kie_mj_async.errors.InvalidRequest` that names the field, its value and what is
allowed. Allowed values: kie-api.md, "POST /api/v1/mj/generate".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from .errors import InvalidRequest

SPEEDS: Final = ("relaxed", "fast", "turbo")
VERSIONS: Final = ("7", "6.1", "6", "5.2", "5.1", "niji6", "niji7")
ASPECT_RATIOS: Final = (
    "2:1", "16:9", "4:3", "3:2", "6:5", "1:1", "5:6", "3:4", "2:3", "9:16", "1:2",
)  # fmt: skip
MOTIONS: Final = ("high", "low")
BATCH_SIZES: Final = (1, 2, 4)
MAX_PROMPT: Final = 2000
"""Characters a prompt may have."""
TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
"""What a task id looks like: 32 hex digits, or ``mj_task_abc123`` (kie-api.md), read leniently."""
KEPT: Final = re.compile(r"input:([0-9a-f]{64}\.(?:jpeg|png|webp|gif))")
"""How a request names a local image that was taken in: by its content."""

ImageSource = str | os.PathLike[str] | bytes
"""An image: an http(s) URL that the service can fetch, the path of a file, or a file's bytes."""


def short(value: Any) -> str:
    """A value for a message: as it is written, cut at 60 characters."""
    try:
        shown = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that nests too deep"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def refuse(name: str, value: Any, rule: str) -> InvalidRequest:
    """The error for a value that breaks a rule."""
    return InvalidRequest(f"{name}: {short(value)} {rule}", field=name, value=value)


def spelled(value: str | None) -> str | None:
    """The official spelling: no outer blanks, lower case. What is no text is left to the check."""
    return value.strip().lower() if isinstance(value, str) else value


def speed_text(value: str | None) -> str | None:
    """A speed in the official spelling."""
    plain = spelled(value)
    return "relaxed" if plain == "relax" else plain


def required_text(value: str) -> str:
    """As :func:`spelled`, of a field that must be given."""
    return spelled(value) or value


def version_text(value: str | int | float | None) -> str | None:
    """A version in the official spelling; numbers are taken too."""
    if isinstance(value, int):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else spelled(value)


def one_of(allowed: tuple[Any, ...]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A check that a value is one of these."""

    def check(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and attribute.default is None:
            return
        # By type too: 2.0 equals 2, and would be another key and another text on the wire.
        if not isinstance(value, type(allowed[0])) or value is True or value not in allowed:
            choices = ", ".join(str(one) for one in allowed)
            raise refuse(attribute.name, value, f"is not allowed; use one of {choices}")

    return check


def between(
    low: int, high: int, *, needed: bool = False
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A check that a value is a whole number in a range, both ends included."""

    def check(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and not needed:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            rule = f"is not allowed; use a whole number from {low} to {high}"
            raise refuse(attribute.name, value, rule)

    return check


def check_prompt(_self: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    """A prompt is a text that is not blank, and not too long."""
    if not isinstance(value, str) or not value.strip():
        raise refuse(attribute.name, value, "is not allowed; a prompt is a text that is not blank")
    if len(value) > MAX_PROMPT:
        rule = f"has {len(value)} characters; the service takes up to {MAX_PROMPT}"
        raise refuse(attribute.name, value, rule)
    _check_encodable(attribute.name, value)


def _check_encodable(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refuse(name, value, "holds half a character (a lone surrogate)") from None


def check_text(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A text, if given, is not blank."""
    if value is None:
        return
    if not isinstance(value, str) or not value.strip():
        raise refuse(attribute.name, value, "is not allowed; use a text that is not blank")
    _check_encodable(attribute.name, value)


def check_url(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An address is an http(s) URL."""
    if value is None and attribute.default is None:
        return
    if not is_http_url(value):
        raise refuse(attribute.name, value, "is not allowed; use an http:// or https:// URL")


def stripped(value: str) -> str:
    """Without outer blanks."""
    return value.strip() if isinstance(value, str) else value


def check_task_id(_self: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    """A task id looks like one."""
    if not isinstance(value, str) or not TASK_ID.fullmatch(value):
        rule = "is not a task id; use what the service calls taskId, such as 9f47c52047dd...3cce57"
        raise refuse(attribute.name, value, rule)


def check_flag(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A switch, if given, is True or False."""
    if value is not None and not isinstance(value, bool):
        raise refuse(attribute.name, value, "is not allowed; use True or False")


def image_source(value: Any) -> Any:
    """An image as a request keeps it: a text, a path, or bytes."""
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return Path(value) if isinstance(value, os.PathLike) else value


def image_sources(value: Any) -> Any:
    """Images as a request keeps them; a single one is a list of one."""
    single = isinstance(value, str | bytes | bytearray | memoryview | os.PathLike)
    listed = [value] if single or not isinstance(value, Iterable) else value
    return tuple(map(image_source, listed))


def one_or_more(value: Any) -> Any:
    """Images as a request keeps them; a list of one is that one."""
    listed = image_sources(value)
    return listed[0] if len(listed) == 1 else listed


def shown_images(value: Any) -> str:
    """Images for a repr: of a file's bytes only how many."""
    if isinstance(value, tuple):
        return f"({', '.join(map(shown_images, value))}{',' if len(value) == 1 else ''})"
    return f"<{len(value):,} bytes>" if isinstance(value, bytes) else repr(value)


def check_image(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """One image."""
    if isinstance(value, tuple) and len(value) > 1:
        rule = f"is not allowed; it takes one image, not {len(value)}"
        raise refuse(attribute.name, value, rule)
    check_images(_self, attribute, value)


def check_images(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """One image or more."""
    listed = value if isinstance(value, tuple) else (value,)
    if not listed:
        raise refuse(attribute.name, value, "is not allowed; give at least one image")
    for one in listed:
        _check_source(attribute.name, one)


def _check_source(name: str, value: Any) -> None:
    if isinstance(value, bytes):
        if not value:
            raise refuse(name, value, "holds no image")
        return
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        rule = "is not allowed; use an http(s) URL, the path of a file, or a file's bytes"
        raise refuse(name, value, rule)
    if is_address(value) and not is_http_url(value):
        raise refuse(name, value, "is not allowed; use an http:// or https:// URL, or a path")


def is_address(text: str) -> bool:
    """Whether this is meant as an address on the web, not as a path."""
    return "://" in text or text[:5].lower() == "data:"


def is_local(source: object) -> bool:
    """Whether this image is still to be taken in: a path or bytes, no URL and no kept one."""
    if isinstance(source, str):
        return not (is_address(source) or KEPT.fullmatch(source))
    return isinstance(source, Path | bytes)


def is_http_url(value: object) -> bool:
    """Whether this is an absolute http(s) URL with a host."""
    if not isinstance(value, str) or any(c.isspace() or ord(c) < 33 for c in value):
        return False
    try:
        parts = urlsplit(value)
        value.encode()
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
