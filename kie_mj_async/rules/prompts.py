"""Lists: lines of text to prompts, each of which remembers where it stood, and to tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import InvalidRequest
from ..requests import ExistingTask


@attrs.frozen
class Prompt:
    """A prompt of a list.

    Attributes:
        text: The prompt.
        source: The file it stood in.
        line: Its line there, from 1.
        fields: The fields that were given beside it, by our names.
        columns: What the list calls them.
    """

    text: str
    source: str
    line: int
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    columns: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def place(self) -> str:
        """Where it stood, as ``file:line``."""
        return f"{self.source}:{self.line}"

    def located(self, error: InvalidRequest) -> InvalidRequest:
        """The same error, with its place, and the column where the list calls it otherwise."""
        column = self.columns.get(error.field or "", error.field)
        where = self.place if column == error.field else f"{self.place}: {column}"
        return InvalidRequest(f"{where}: {error}", field=error.field, value=error.value)


def parse_lines(lines: Iterable[bytes], source: str) -> Iterator[Prompt]:
    """Prompts from the lines of a file: one a line, blank lines and ``#`` comments skipped.

    Raises:
        InvalidRequest: A line is not UTF-8, or there is no prompt; the message names the file and the
            line.
    """
    found = False
    for number, text in entries(lines, source, "prompt"):
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
    for number, line in decoded(lines, source, field):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text


def decoded(lines: Iterable[bytes], source: str, field: str) -> Iterator[tuple[int, str]]:
    """The lines of a file as text, with their numbers from 1.

    Raises:
        InvalidRequest: A line is not UTF-8; the message names the file and the line.
    """
    for number, raw in enumerate(lines, start=1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            message = (
                f"{source}:{number}: not UTF-8 (byte {error.object[error.start]:#04x} at position "
                f"{error.start + 1}); save the file as UTF-8"
            )
            raise InvalidRequest(message, field=field) from None
