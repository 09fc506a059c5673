"""Jobs to rows of a ledger, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import attrs

from ..errors import LedgerError
from ..jobs import Job, SavedFile, State, Trouble
from ..requests import Request, request_from_dict
from ..rules.lifecycle import Move
from ..rules.outlines import outline
from ..rules.uploads import Upload
from .base import Alike, Attempt, urgency
from .sql import Row

_COMPACT: Final = (",", ":")
_encode_request: Final = json.JSONEncoder(separators=_COMPACT, ensure_ascii=False).encode

_DAMAGE: Final = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip

_REQUESTS: Final = 512
_RESULTS: Final = 256
"""What is remembered as it was read or written: on its way a job is read a dozen times."""


def request_text(request: Request) -> str:
    """A request as the ledger stores it."""
    return _encode_request(request.to_dict())


def job_from_row(row: Row) -> Job:
    """The job that a row of table ``job`` holds.

    Raises:
        LedgerError: The row is damaged.
    """
    with as_damage():
        return _job(row)


@contextmanager
def as_damage() -> Iterator[None]:
    """Take whatever goes wrong with what is stored for what it is.

    Raises:
        LedgerError: The row is damaged.
    """
    try:
        yield
    except _DAMAGE as error:
        message = f"a row is damaged ({error}); restore the file from a backup. It is untouched."
        raise LedgerError(message) from None


@lru_cache(_REQUESTS)
def _request(text: str) -> Request:
    return request_from_dict(json.loads(text))


def _job(row: Row) -> Job:
    trouble = json.loads(row["trouble"]) if row["trouble"] else None
    return Job(
        key=row["key"],
        request=_request(row["request"]),
        state=State(row["state"]),
        seq=row["seq"],
        task_id=row["task_id"],
        attempts=row["attempts"],
        price=row["price"],
        credits=row["credits"],
        submitted_at=_moment(row["submitted_at"]),
        created_at=_moment(row["created_at"]),
        completed_at=_moment(row["completed_at"]),
        expires_at=_moment(row["expires_at"]),
        urls=_urls(row["urls"]),
        files=_files(row["files"]),
        trouble=Trouble(**trouble) if trouble else None,
    )


def attempt_from_row(row: Row) -> Attempt:
    """The attempt that a row of table ``attempt``, with the job's key, holds."""
    with as_damage():
        return Attempt(
            row["token"],
            row["key"],
            row["number"],
            datetime.fromtimestamp(row["at"], UTC),
            row["price"],
            row["task_id"],
            row["hint"],
        )


def upload_from_row(row: Row) -> Upload:
    """The upload that a row of table ``upload`` holds."""
    with as_damage():
        return Upload(row["name"], row["url"], datetime.fromtimestamp(row["at"], UTC))


def alike(rows: Iterable[Row]) -> list[Alike]:
    """The planned jobs of these rows, those that are alike told together.

    Raises:
        LedgerError: A row is damaged.
    """
    number: dict[Hashable, int] = {}
    text: dict[Hashable, str] = {}
    with as_damage():
        for row in rows:
            name = outline(json.loads(row["request"]))
            number[name] = number.get(name, 0) + 1
            text[name] = row["request"]
        return [Alike(request_from_dict(json.loads(text[name])), number[name]) for name in number]


def job_changes(job: Job, before: Job | None = None) -> dict[str, Any]:
    """The parameters of ``update_job``; what is in JSON stays as it is where it is ``None``.

    Args:
        job: The job as it is to be.
        before: The job as it stands, where that is known.
    """

    def text(name: str, encode: Callable[[Any], str]) -> str | None:
        value = getattr(job, name)
        return None if before is not None and value is getattr(before, name) else encode(value)

    return {
        "seq": job.seq,
        "request": text("request", request_text),
        "state": job.state.value,
        "task_id": job.task_id,
        "attempts": job.attempts,
        "price": job.price,
        "credits": job.credits,
        "submitted_at": _seconds(job.submitted_at),
        "created_at": _seconds(job.created_at),
        "completed_at": _seconds(job.completed_at),
        "expires_at": _seconds(job.expires_at),
        "urls": text("urls", _encode),
        "files": text("files", _files_text),
        "trouble": _text(job.trouble),
        "urgency": urgency(job),
        "file_count": len(job.files),
        "file_bytes": sum(one.bytes for one in job.files),
    }


def move_detail(move: Move) -> str | None:
    """What the event table keeps of a move: the facts that came with it."""
    facts = {name: value for name, value in move.changes.items() if value not in (None, (), 0)}
    told = [_encode(facts)[1:-1]] if facts else []
    if move.file is not None:
        told.append(f'"file":{_file_text(move.file)}')
    return f"{{{','.join(told)}}}" if told else None


def _text(value: Any) -> str | None:
    return None if value is None else _encode(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} has no place in a ledger")


# In ASCII: a message may hold what UTF-8 cannot (a path with a byte that is no text).
_encode: Final = json.JSONEncoder(separators=_COMPACT, default=_plain).encode


@lru_cache(_RESULTS)
def _file_text(file: SavedFile) -> str:
    return _encode(file)


def _files_text(files: Iterable[SavedFile]) -> str:
    return f"[{','.join(map(_file_text, files))}]"


@lru_cache(_RESULTS)
def _files(text: str) -> tuple[SavedFile, ...]:
    return tuple(
        SavedFile(**{**told, "saved_at": datetime.fromtimestamp(told["saved_at"], UTC)})
        for told in json.loads(text)
    )


@lru_cache(_RESULTS)
def _urls(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
