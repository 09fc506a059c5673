"""Byte ranges of a download, as RFC 9110 has them. Pure; knows no file and no socket."""

from __future__ import annotations

import re
from typing import Final

_SINGLE: Final = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


class Unsatisfiable(ValueError):
    """The range lies outside the file: the answer is a 416."""


def part(
    wanted: str | None, condition: str | None, etag: str, modified: str, length: int
) -> tuple[int, int] | None:
    """Which bytes to send.

    Args:
        wanted: The Range header, if any.
        condition: The If-Range header, if any.
        etag: The file's ETag.
        modified: The file's Last-Modified.
        length: The file's bytes.

    Returns:
        The first byte and the one after the last, or ``None`` for the whole file: no range was
        asked for, or none that is understood, or the file is not the one the client has a part of.

    Raises:
        Unsatisfiable: No byte of the file is in the range.
    """
    match = _SINGLE.fullmatch(wanted or "")
    if match is None or match[0].strip() == "bytes=-" or not (match[1] or match[2]):
        return None
    if condition is not None and condition not in {etag, modified}:
        return None
    if not match[1]:
        start, stop = length - int(match[2]), length
        if int(match[2]) == 0:
            raise Unsatisfiable
        return max(0, start), stop
    start = int(match[1])
    stop = min(int(match[2]) + 1, length) if match[2] else length
    if match[2] and int(match[2]) < start:
        return None
    if start >= length:
        raise Unsatisfiable
    return start, stop
