"""What changes in a ledger file, each change inside somebody's open transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence

from ..errors import LedgerError
from ..jobs import Job, State
from ..requests import ChainStep, ExistingTask, Request, request_from_dict
from ..rules import chains, naming
from ..rules.lifecycle import Event, Move, advance
from .base import NO_LIST, Staged
from .database import SQL, one
from .rows import job_changes, job_from_row, move_detail, request_text


def stage(db: sqlite3.Connection, run: int, requests: Sequence[Request]) -> list[Staged]:
    """Take in the next part of a list.

    Args:
        db: The ledger.
        run: The list's run.
        requests: That part.

    Raises:
        InvalidRequest: A chain cannot be.
        LedgerError: Two requests have one key.
    """
    return [job for request in requests for job in _stage_one(db, run, request)]


def _stage_one(db: sqlite3.Connection, run: int, request: Request) -> list[Staged]:
    if isinstance(request, ExistingTask):
        ours = db.execute(SQL["job_by_task"], {"task_id": request.task_id})
        if (row := ours.fetchone()) is not None:
            db.execute(SQL["touch_job"], {"run": run, "key": row["key"]})
            return [Staged(row["key"], request, State(row["state"]))]
    digest = naming.digest(request)
    occurrence = one(db, "count_occurrence", digest=digest)[0]
    key = naming.job_key(digest, occurrence)
    jobs = [(key, request), *chains.steps_of(request, key)]
    return [Staged(name, wish, _stage_job(db, run, name, wish)) for name, wish in jobs]


def _stage_job(db: sqlite3.Connection, run: int, key: str, request: Request) -> State:
    text = request_text(request)
    row = _insert(db, "stage_job", run, key, request, text)
    if row["request"] != text:
        known = naming.digest(request_from_dict(json.loads(row["request"])))
        if known != naming.digest(request):
            raise LedgerError(f"two requests have the key {key}")
    return State(row["state"])


def insert(db: sqlite3.Connection, key: str, request: Request) -> None:
    """Put a job in that is of no list, unless its key is known."""
    _insert(db, "insert_job", NO_LIST, key, request, request_text(request))


def _insert(
    db: sqlite3.Connection, query: str, run: int, key: str, request: Request, text: str
) -> sqlite3.Row:
    """The job's state, and its request as stored."""
    parent = request.parent if isinstance(request, ChainStep) else None
    found: sqlite3.Row = one(db, query, key=key, run=run, request=text, parent=parent)
    return found


def apply(db: sqlite3.Connection, key: str, move: Move) -> Job:
    """Apply a move to a stored job, and keep it in its history.

    Raises:
        IllegalMove: The job's state does not know this event; nothing was changed.
    """
    before = job_from_row(one(db, "job_by_key", key=key))
    after = advance(before, move)
    db.execute(SQL["update_job"], job_changes(after, before))
    past = {
        "seq": after.seq,
        "at": time.time(),
        "event": move.event.value,
        "state": after.state.value,
        "detail": move_detail(move),
    }
    db.execute(SQL["insert_event"], past)
    _keep_attempt(db, after, move)
    return after


def _keep_attempt(db: sqlite3.Connection, job: Job, move: Move) -> None:
    """Keep what a move says of an attempt: the job's last one, or the one that its token names."""
    place = {"seq": job.seq, "number": job.attempts}
    if move.event is Event.INTENT and move.token is not None and job.submitted_at is not None:
        facts = {"token": move.token, "at": job.submitted_at.timestamp(), "price": job.price}
        db.execute(SQL["insert_attempt"], place | facts)
    elif move.event in (Event.ACCEPTED, Event.ADOPTED) and move.token is not None:
        db.execute(SQL["end_attempt_of_token"], {"token": move.token, "task_id": job.task_id})
    elif move.event in (Event.ACCEPTED, Event.ADOPTED):
        db.execute(SQL["end_attempt"], place | {"task_id": job.task_id})
