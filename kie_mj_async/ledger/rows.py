"""Jobs to rows of the SQLite ledger, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import attrs

from ..errors import LedgerError
from ..jobs import Job, SavedFile, State, Trouble
from ..requests import Request, request_from_dict
from ..rules.lifecycle import Move
from ..rules.uploads import Upload
from .base import Attempt, urgency

_COMPACT = (",", ":")


def request_text(request: Request) -> str:
    """A request as the ledger stores it."""
    return json.dumps(request.to_dict(), separators=_COMPACT, ensure_ascii=False)


def job_from_row(row: sqlite3.Row) -> Job:
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
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        message = f"a row is damaged ({error}); restore the file from a backup. It is untouched."
        raise LedgerError(message) from None


def _job(row: sqlite3.Row) -> Job:
    trouble = json.loads(row["trouble"]) if row["trouble"] else None
    return Job(
        key=row["key"],
        request=request_from_dict(json.loads(row["request"])),
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
        urls=tuple(json.loads(row["urls"])),
        files=tuple(_file(one) for one in json.loads(row["files"])),
        trouble=Trouble(**trouble) if trouble else None,
    )


def attempt_from_row(row: sqlite3.Row) -> Attempt:
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


def upload_from_row(row: sqlite3.Row) -> Upload:
    """The upload that a row of table ``upload`` holds."""
    with as_damage():
        return Upload(row["name"], row["url"], datetime.fromtimestamp(row["at"], UTC))


def job_changes(job: Job) -> dict[str, Any]:
    """The parameters of ``update_job``."""
    return {
        "seq": job.seq,
        "request": request_text(job.request),
        "state": job.state.value,
        "task_id": job.task_id,
        "attempts": job.attempts,
        "price": job.price,
        "credits": job.credits,
        "submitted_at": _seconds(job.submitted_at),
        "created_at": _seconds(job.created_at),
        "completed_at": _seconds(job.completed_at),
        "expires_at": _seconds(job.expires_at),
        "urls": json.dumps(job.urls, separators=_COMPACT),
        "files": _text(job.files) or "[]",
        "trouble": _text(job.trouble),
        "urgency": urgency(job),
        "file_count": len(job.files),
        "file_bytes": sum(one.bytes for one in job.files),
    }


def move_detail(move: Move) -> str | None:
    """What the event table keeps of a move: the facts that came with it."""
    facts: dict[str, Any] = {k: v for k, v in move.changes.items() if v not in (None, (), 0)}
    if move.file is not None:
        facts["file"] = move.file
    return _text(facts or None)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    # In ASCII: a message may hold what UTF-8 cannot (a path with a byte that is no text).
    return json.dumps(value, separators=_COMPACT, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)
    raise TypeError(f"{type(value).__name__} has no place in a ledger")


def _file(stored: Mapping[str, Any]) -> SavedFile:
    return SavedFile(**{**stored, "saved_at": datetime.fromtimestamp(stored["saved_at"], UTC)})


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
