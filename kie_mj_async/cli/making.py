"""From options and files to requests: what a generating command is to make, checked as it is read.

Which type takes which field is known to the requests alone; here their errors are put into the words
of the command line.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ..errors import InvalidRequest
from ..fields import is_local
from ..prompt_files import opened, rows
from ..requests import Request
from ..rules import uploads
from ..rules.lists import Format, format_of
from ..rules.making import TYPES, Wishes, as_requests
from ..rules.media import HEAD, TAIL
from ..rules.prompts import Prompt

_T = TypeVar("_T")

_FIELDS: Final = (
    "task_type", "image", "version", "speed", "aspect_ratio", "stylization", "weirdness", "variety",
    "omni_weight", "motion", "batch_size", "hd", "translate", "watermark", "callback_url", "raw",
    "then",
)  # fmt: skip
"""The fields that options fill; an option is named by its field."""

_OPTIONS: Final = {"version": "--model", "images": "--image"}
"""Fields whose option has another name."""

_ARGUMENTS: Final = frozenset({"prompt", "job", "task_id", "index"})
_IMAGES: Final = frozenset({"image", "images"})

_TYPE_NAMES: Final = {kind.__name__: name for name, (kind, _) in reversed(list(TYPES.items()))}
_ABOUT_TYPES: Final = re.compile(r": is no field of |: is missing; |: \w+ takes one image, not ")

_REMEMBERED: Final = 1024
"""Images that are known again without being looked at."""

Parse = Callable[[Iterable[bytes], str, Path], Iterator[_T]]
"""Reads a list from its lines, what messages call it, and the folder that its paths start from."""


def option_of(field: str) -> str | None:
    """The option that fills a field; ``None`` where it is an argument."""
    if field in _ARGUMENTS:
        return None
    return _OPTIONS.get(field) or "--" + field.replace("_", "-")


def in_options(message: str, field: str | None) -> str:
    """An error's message in the words of the command line: its field as the option that fills it."""
    option = option_of(field) if field else None
    if option is not None and message.startswith(f"{field}: "):
        message = option + message[len(field or "") :]
    return _types_named(message)


def taken_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given; they are taken out of the options."""
    given = {name: options.pop(name) for name in _FIELDS if name in options}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    }


def taken_wishes(options: dict[str, Any]) -> Wishes:
    """What goes for every prompt; it is taken out of the options."""
    fields = taken_fields(options)
    names = {name: option_of(name) or name for name in (*fields, "prefix", "suffix")}
    return Wishes(fields, prefix=options.pop("prefix"), suffix=options.pop("suffix"), names=names)


def requests_of(
    prompts: Callable[[], Iterable[str | Prompt | Request]], wishes: Wishes
) -> Callable[[], Iterator[Request]]:
    """The requests that a list makes, anew with each call.

    Args:
        prompts: The list, anew with each call.
        wishes: What the options say of every prompt.
    """

    def made() -> Iterator[Request]:
        look = lru_cache(_REMEMBERED)(_wrong_with)  # lists often have the same image in each row
        for prompt in prompts():
            try:
                for request in as_requests(prompt, wishes):
                    if (error := _bad_image(request, look)) is not None:
                        raise prompt.located(error) if isinstance(prompt, Prompt) else error
                    yield request
            except InvalidRequest as error:
                raise _told(error, prompt, wishes) from None

    return made


def listed(files: tuple[str, ...], parse: Parse[_T]) -> Callable[[], Iterator[_T]]:
    """The entries of some files, anew with each call: a list is checked first, and then taken in."""
    spooled = {name: _read_all(name) for name in files if _can_be_read_once(name)}

    def entries() -> Iterator[_T]:
        for name in files:
            if name in spooled:
                source = "stdin" if name == "-" else name
                yield from parse(io.BytesIO(spooled[name]), source, Path())
            else:
                with opened(name) as file:
                    yield from parse(file, name, Path(name).parent)

    return entries


def prompts_in(files: tuple[str, ...], form: Format | None) -> Callable[[], Iterator[Prompt]]:
    """The prompts of some lists, anew with each call.

    Args:
        files: Their names; ``-`` is stdin.
        form: How they are written; by default as their names say.
    """
    return listed(files, partial(_parsed, form))


def _parsed(
    form: Format | None, lines: Iterable[bytes], source: str, folder: Path
) -> Iterator[Prompt]:
    return rows(lines, source, form or format_of(source), folder)


def _bad_image(request: Request, look: Callable[[str], str | None]) -> InvalidRequest | None:
    """The error for a local image that cannot be used, before anything is made for it."""
    for name, image in request.images_given():
        if is_local(image) and not isinstance(image, bytes):
            path = os.fspath(image)
            if (words := look(path)) is not None:
                return InvalidRequest(f"{name}: {path}: {words}", field=name, value=image)
    return None


def _wrong_with(image: str) -> str | None:
    """What is plainly wrong with a file as an image; the rest shows when it is taken in."""
    try:
        found = os.stat(image)  # noqa: PTH116 - Path("") would be the folder we are in
        if not stat.S_ISREG(found.st_mode):
            return "is no file; name one picture"
        if found.st_size > uploads.MAX_BYTES:
            return uploads.too_large(found.st_size)
        with Path(image).open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, found.st_size - TAIL))
            media = uploads.picture(head, file.read(TAIL), found.st_size)
    except FileNotFoundError:
        return "does not exist; check the path"
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}"
    return media if isinstance(media, str) else None


def _told(error: InvalidRequest, prompt: object, wishes: Wishes) -> InvalidRequest:
    """An error about a prompt, said about the option where that is at fault.

    It is at fault where the list has no fields of its own; else it may be the two together, so the
    place is told too.
    """
    field, message, place = error.field, str(error), ""
    if isinstance(prompt, Prompt) and field is not None:
        rest = message.removeprefix(f"{prompt.place}: ")
        option, called = option_of(field), _IMAGES if field in _IMAGES else {field}
        if not prompt.fields and option and rest.startswith((f"{field}: ", f"{option}: ")):
            message = rest
        elif called & wishes.fields.keys() and not called & prompt.fields.keys():
            message, place = rest, f"{prompt.place}: "
    return InvalidRequest(place + in_options(message, field), field=field, value=error.value)


def _types_named(message: str) -> str:
    """A message about types, with the names that the command line has for them."""
    found = _ABOUT_TYPES.search(message)
    if found is None:
        return message
    about = message[found.start() :]
    for name, known in _TYPE_NAMES.items():
        about = re.sub(rf"\b{name}\b", known, about)
    return message[: found.start()] + about


def _can_be_read_once(name: str) -> bool:
    """Whether this is stdin or a pipe, such as a shell's ``<(...)``."""
    if name == "-":
        return True
    try:
        mode = Path(name).stat().st_mode
    except OSError:  # said where it is opened
        return False
    return stat.S_ISFIFO(mode)


def _read_all(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{name}: cannot be read: {error.strerror}", field="prompt") from None
