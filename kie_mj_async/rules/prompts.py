"""Lists: lines of text to prompts, each of which remembers where it stood, and to tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import InvalidRequest
from ..requests import MAX_PROMPT, ExistingTask, PromptRequest, Request, TextToImage


@attrs.frozen
class Prompt:
    """A prompt of a list.

    Attributes:
        text: The prompt.
        source: The file it stood in.
        line: Its line there, from 1.
    """

    text: str
    source: str
    line: int

    @property
    def place(self) -> str:
        """Where it stood, as ``file:line``."""
        return f"{self.source}:{self.line}"


def parse_lines(lines: Iterable[bytes], source: str) -> Iterator[Prompt]:
    """Prompts from the lines of a file: one a line, blank lines and ``#`` comments skipped.

    Raises:
        InvalidRequest: A line is not UTF-8 or too long, or there is no prompt; the message names the
            file and the line.
    """
    found = False
    for number, text in entries(lines, source, "prompt"):
        if len(text) > MAX_PROMPT:
            message = (
                f"{source}:{number}: prompt: {len(text)} characters; the service takes up to "
                f"{MAX_PROMPT}"
            )
            raise InvalidRequest(message, field="prompt", value=text)
        found = True
        yield Prompt(text, source, number)
    if not found:
        message = f"{source}: no prompts in it; write one a line (# starts a comment)"
        raise InvalidRequest(message, field="prompt")


def parse_task_ids(lines: Iterable[bytes], source: str) -> Iterator[ExistingTask]:
    """Tasks from the lines of a file: one id a line, blank lines and ``#`` comments skipped.

    Raises:
        InvalidRequest: A line is not UTF-8 or no id, or there is none; the message names the file and
            the line.
    """
    found = False
    for number, text in entries(lines, source, "task_id"):
        found = True
        try:
            yield ExistingTask(text)
        except InvalidRequest as error:
            message = f"{source}:{number}: {error}"
            raise InvalidRequest(message, field="task_id", value=text) from None
    if not found:
        message = f"{source}: no task ids in it; write one a line (# starts a comment)"
        raise InvalidRequest(message, field="task_id")


def entries(lines: Iterable[bytes], source: str, field: str) -> Iterator[tuple[int, str]]:
    """The lines of a list that say something, with their numbers from 1.

    Raises:
        InvalidRequest: A line is not UTF-8; the message names the file and the line.
    """
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            message = (
                f"{source}:{number}: not UTF-8 (byte {error.object[error.start]:#04x} at position "
                f"{error.start + 1}); save the file as UTF-8"
            )
            raise InvalidRequest(message, field=field) from None
        if text and not text.startswith("#"):
            yield number, text


def as_request(
    item: object,
    fields: Mapping[str, Any],
    kind: type[PromptRequest] = TextToImage,
) -> Request:
    """One entry of a list as a request.

    Args:
        item: A prompt, or a request, which is taken as it is.
        fields: What every prompt is given besides its text.
        kind: The type of request that prompts become.

    Raises:
        InvalidRequest: A field is out of range; the message names the prompt's place.
    """
    if isinstance(item, Request):
        return item
    if not isinstance(item, str | Prompt):
        message = (
            f"prompt: {item!r:.60} is not allowed; give a text or a request such as TextToImage"
        )
        raise InvalidRequest(message, field="prompt", value=item)
    if isinstance(item, str):
        return kind(item, **fields)
    try:
        return kind(item.text, **fields)
    except InvalidRequest as error:
        message = f"{item.place}: {error}"
        raise InvalidRequest(message, field=error.field, value=error.value) from None
