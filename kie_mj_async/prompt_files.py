"""Lists of prompts and of tasks from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs

from .errors import InvalidRequest
from .fields import is_local
from .rules.lists import Format, format_of, read_rows
from .rules.prompts import Prompt

_IMAGES: Final = ("image", "images")


def read_prompts(path: str | os.PathLike[str]) -> Iterator[Prompt]:
    """Prompts from a file, as ``kie-mj render`` reads it: how it is written is told by its name.

    - ``.csv``, ``.tsv``: a header with a column ``prompt`` and one for each field that some prompt
      is given (``speed``, ``aspect_ratio``, ``task_type``, ``image`` and so on), then one prompt a
      row. A blank cell gives nothing; the ``images`` or the steps (``then``) of a cell are parted
      by ``|``.
    - ``.jsonl``, ``.ndjson``: one object a line, with the same names.
    - anything else: text, one prompt a line; blank lines and ``#`` comments are skipped.

    All of it is UTF-8. A relative path of an image starts from the list's own folder.

    Args:
        path: The file.

    Yields:
        Prompts that know their file, their line, and the fields beside them; these come before the
        fields that ``Client.render`` is given.

    Raises:
        InvalidRequest: The file cannot be read, is not written so, or holds no prompt; the message
            names the file, the line, and the column where there is one.
    """
    with opened(path) as file:
        yield from rows(file, str(path), format_of(str(path)), Path(path).parent)


def rows(lines: Iterable[bytes], source: str, form: Format, folder: Path) -> Iterator[Prompt]:
    """The prompts of a list in any format, one at a time.

    Args:
        lines: Its lines, as a file open in binary mode gives them.
        source: What messages call it.
        form: How it is written.
        folder: Where relative paths of images start.

    Raises:
        InvalidRequest: As :func:`read_prompts`.
    """
    return (_placed(prompt, folder) for prompt in read_rows(lines, source, form))


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


def _placed(prompt: Prompt, folder: Path) -> Prompt:
    """The prompt, with the paths of its images from where we are."""
    images = {name: _from(folder, prompt.fields[name]) for name in _IMAGES if name in prompt.fields}
    return attrs.evolve(prompt, fields={**prompt.fields, **images}) if images else prompt


def _from(folder: Path, image: Any) -> Any:
    if isinstance(image, list):
        return [_from(folder, one) for one in image]
    return str(folder / image) if is_local(image) and image.strip() else image
