"""Transfers: what an answer means, and when bytes from one answer may go on behind those of another.

A broken transfer goes on (RFC 9110, section 14) only where it is certain that the rest is of the same
file: the request carries a strong validator of the bytes at hand (``If-Range``), and the answer shows
the same validator again, and exactly the range that was asked for. Everything else starts over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

import attrs

MAX_FRESH_LINKS: Final = 2
"""How often a refused link is replaced in one run before the job is left pending."""

MIN_RATE: Final = 1024
"""Bytes a second below which a transfer counts as stalled."""

VERSION: Final = 1
"""Of the form of a :class:`Checkpoint` on disk; another one is not read."""

_ETAG: Final = re.compile(r'"[\x21\x23-\x7e]+"')
_DATE: Final = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SURE_OF_DATE: Final = timedelta(minutes=1)
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})


class Next(Enum):
    """What to do about an answer to a download."""

    READ = "read"
    """Its body is the file, from the first byte."""

    CONTINUE = "continue"
    """Its body is the rest of the file."""

    START_OVER = "start over"
    """Ask again, for the whole file."""

    RETRY = "retry"
    """Ask again, later."""

    NEW_LINK = "new link"
    """This link is of no use."""


@attrs.frozen
class Validator:
    """What tells one version of a file from another, byte by byte: a strong validator, or none.

    Attributes:
        etag: The strong entity tag, with its quotes; ``None`` where there is none.
        last_modified: The date as the host wrote it, where it is strong; else ``None``.
    """

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return self.etag is not None or self.last_modified is not None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Validator:
        """The strong validator of an answer: its entity tag, else its date.

        A date is one only when the answer was made so long after it that a second change within the
        same second would show (RFC 9110, section 8.8.2.2); its minute allows for two clocks.
        """
        etag, modified = headers.get("ETag"), headers.get("Last-Modified")
        if etag is not None and _ETAG.fullmatch(etag):
            return cls(etag)
        return cls(None, modified if _long_before(modified, headers.get("Date")) else None)


@attrs.frozen
class Source:
    """What the bytes of a transfer are the beginning of.

    Attributes:
        url: The link they came from.
        validator: Their version.
        total: Bytes of the whole file, or ``None`` where the host did not say.
        resumable: Whether the host may be asked for the rest of it.
        encoding: How the bytes are packed on the way; ``None`` for not at all.
    """

    url: str
    validator: Validator = Validator()
    total: int | None = None
    resumable: bool = False
    encoding: str | None = None

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> Source:
        """What an answer of status 200 says of itself."""
        encoding = _encoding(headers)
        validator = Validator.of(headers)
        refuses = headers.get("Accept-Ranges", "").strip().lower() == "none"
        return cls(
            url=url,
            validator=validator,
            total=None if encoding else _length(headers),
            # The bytes on disk are unpacked, and a range would count the packed ones.
            resumable=bool(validator) and not refuses and encoding is None,
            encoding=encoding,
        )

    @property
    def readable(self) -> bool:
        """Whether its bytes can be unpacked."""
        return self.encoding is None or self.encoding in _INFLATED

    def at(self, size: int, sha256: str) -> Checkpoint:
        """What is known when its first ``size`` bytes are on disk."""
        return Checkpoint(self.url, self.validator, self.total, size, sha256)


@attrs.frozen
class Checkpoint:
    """The beginning of a file, as far as it is safely on disk.

    Attributes:
        url: The link it came from.
        validator: Its version.
        total: Bytes of the whole file, or ``None`` where the host did not say.
        size: Bytes on disk.
        sha256: Their digest, in hex.
    """

    url: str
    validator: Validator
    total: int | None
    size: int
    sha256: str

    @property
    def complete(self) -> bool:
        """Whether it is the whole file."""
        return self.size == self.total

    @property
    def source(self) -> Source:
        """What it is the beginning of."""
        return Source(self.url, self.validator, self.total, resumable=bool(self.validator))

    def to_json(self) -> str:
        """As text, with a digest of its own; :meth:`from_json` reads it."""
        fields = attrs.asdict(self)
        return json.dumps({"version": VERSION, **fields, "check": _check(fields)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Checkpoint | None:
        """Read what :meth:`to_json` wrote; ``None`` for anything else."""
        try:
            fields: Any = json.loads(text)
            if fields.pop("version") != VERSION or fields.pop("check") != _check(fields):
                return None
            found = cls(**{**fields, "validator": Validator(**fields["validator"])})
            sound = found.size > 0 and (found.total is None or found.size <= found.total)
            return found if sound and _DIGEST.fullmatch(found.sha256) else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def range_headers(have: Checkpoint, url: str) -> dict[str, str] | None:
    """What to ask a link for the rest with; ``None`` if it can only be asked for the whole file.

    A date is a file's version under one link only; an entity tag may be looked for under a fresh
    link too, for it would have to match there.
    """
    if have.size < 1:
        return None
    version = have.validator.etag
    if version is None and url == have.url:
        version = have.validator.last_modified
    return None if version is None else {"Range": f"bytes={have.size}-", "If-Range": version}


def judge(status: int, headers: Mapping[str, str], have: Checkpoint | None = None) -> Next:
    """What an answer on a result link means.

    Links die before the files do and then answer 403 (kie-api.md, "Limits, prices, retention"), so a
    refusal asks for a fresh link and is no verdict on the file.

    Args:
        status: The HTTP status.
        headers: The answer's.
        have: What the rest was asked for of; ``None`` if the whole file was asked for.
    """
    if status == 200:
        return Next.READ
    if status in (408, 425, 429) or status >= 500:
        return Next.RETRY
    if have is not None and status == 206:
        return Next.CONTINUE if _is_the_rest(headers, have) else Next.START_OVER
    if have is not None and status == 416:
        return Next.START_OVER
    return Next.NEW_LINK


def content_range(value: str) -> tuple[int, int, int | None] | None:
    """Read a ``Content-Range``: the first byte, the last one, and the whole file's bytes.

    Returns:
        ``None`` for what is no range of bytes, or an impossible one. The last number is ``None``
        where the host does not tell (``*``).
    """
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if first > last or (total is not None and last >= total):
        return None
    return first, last, total


@attrs.define
class Pace:
    """Whether a transfer still moves. A drip that never stops is a stall too.

    Attributes:
        window: Seconds to look at at a time.
        began: When the window under way began.
    """

    window: float
    began: float
    _bytes: int = 0

    def stalled(self, now: float, received: int) -> bool:
        """Count bytes that have come; whether there were too few of them in the window."""
        self._bytes += received
        if now - self.began < self.window:
            return False
        enough = self._bytes >= MIN_RATE * (now - self.began)
        self.began, self._bytes = now, 0
        return not enough


def _is_the_rest(headers: Mapping[str, str], have: Checkpoint) -> bool:
    found = content_range(headers.get("Content-Range", ""))
    if found is None or _encoding(headers) is not None:
        return False
    first, last, total = found
    if first != have.size or total is None or last != total - 1:
        return False
    if have.total not in (None, total) or _length(headers) not in (None, total - first):
        return False
    # A host that has never heard of If-Range would send the rest of another version.
    if have.validator.etag is not None:
        return headers.get("ETag") == have.validator.etag
    return headers.get("Last-Modified") == have.validator.last_modified


def total_of(headers: Mapping[str, str]) -> int | None:
    """The whole file's bytes, as the ``Content-Range`` of an answer tells."""
    found = content_range(headers.get("Content-Range", ""))
    return None if found is None else found[2]


def _encoding(headers: Mapping[str, str]) -> str | None:
    value = headers.get("Content-Encoding", "").strip().lower()
    return None if value in ("", "identity") else value


def _length(headers: Mapping[str, str]) -> int | None:
    value = headers.get("Content-Length", "").strip()
    if "Transfer-Encoding" in headers or not _LENGTH.fullmatch(value):
        return None
    return int(value)


def _long_before(earlier: str | None, later: str | None) -> bool:
    if earlier is None or later is None:
        return False
    if not (_DATE.fullmatch(earlier) and _DATE.fullmatch(later)):
        return False
    try:
        return parsedate_to_datetime(later) - parsedate_to_datetime(earlier) >= _SURE_OF_DATE
    except (ValueError, OverflowError):  # the 31st of February
        return False


def _check(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(f"{VERSION} {text}".encode()).hexdigest()
