"""Lists of prompts and of tasks from files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import InvalidRequest
from .rules.prompts import Prompt, parse_lines


def read_prompts(path: str | os.PathLike[str]) -> Iterator[Prompt]:
    """Prompts from a text file: UTF-8, one a line; blank lines and ``#`` comments are skipped.

    Args:
        path: The file.

    Yields:
        Prompts that know their file and line.

    Raises:
        InvalidRequest: The file cannot be read, is not UTF-8, or holds no prompt; the message names
            the file and the line.
    """
    with opened(path) as file:
        yield from parse_lines(file, str(path))


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A list's file, open to read.

    Raises:
        InvalidRequest: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}", field="prompt") from None
