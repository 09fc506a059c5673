"""What changes in a ledger, each change inside somebody's open transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import attrs

from ..errors import LedgerError
from ..jobs import Job, State
from ..requests import ChainStep, ExistingTask, Request, request_from_dict
from ..rules import chains, naming
from ..rules.lifecycle import Event, Move, advance
from .base import NO_LIST, Staged
from .rows import job_changes, job_from_row, move_detail, request_text
from .sql import Db, Row, one


class Shelf(Protocol):
    """Where a list is put, part by part. Everything is told once a part, for all of it."""

    def tasks(self, ids: Collection[str]) -> Mapping[str, Row]:
        """The jobs (key and state) that have these tasks already."""

    def count(self, digests: Sequence[str]) -> Sequence[int]:
        """How often each of these has come in this list, itself included."""

    def touch(self, keys: Collection[str]) -> None:
        """Let the list have these jobs, too."""

    def put(self, entries: Sequence[Entry]) -> Sequence[Row]:
        """Let the list have these jobs, planned where they are new; the state and request of each."""


def stage(shelf: Shelf, requests: Sequence[Request]) -> list[Staged]:
    """Take in the next part of a list.

    Args:
        shelf: Where it is put.
        requests: That part.

    Raises:
        InvalidRequest: A chain cannot be.
        LedgerError: Two requests have one key.
    """
    tasks = [one.task_id for one in requests if isinstance(one, ExistingTask)]
    ours = shelf.tasks(tasks) if tasks else {}
    digests = [naming.digest(request) for request in requests]
    numbers = shelf.count(digests)
    listed: list[Staged | Entry] = []
    for request, digest, number in zip(requests, digests, numbers, strict=True):
        again = isinstance(request, ExistingTask) and number > 1
        if isinstance(request, ExistingTask) and (row := ours.get(request.task_id)):
            listed.append(Staged(row["key"], request, State(row["state"]), again))
            continue
        key = naming.job_key(digest, number)
        listed.append(Entry.of(key, request, digest, again=again))
        if request.then:
            listed += [Entry.of(*step) for step in chains.steps_of(request, key)]
    if ours:
        shelf.touch({row["key"] for row in ours.values()})
    stored = iter(shelf.put([one for one in listed if isinstance(one, Entry)]))
    return [one if isinstance(one, Staged) else one.as_stored(next(stored)) for one in listed]


@attrs.frozen
class Entry:
    """A job of a list, on its way into the ledger.

    Attributes:
        key: Its key.
        request: What it asks for.
        text: That, as it is stored.
        parent: The key of the job it follows in a chain.
        digest: What :meth:`Shelf.count` counted, unless it follows another.
        again: Whether the list has named its task before.
    """

    key: str
    request: Request
    text: str
    parent: str | None
    digest: str | None = None
    again: bool = False

    @classmethod
    def of(
        cls, key: str, request: Request, digest: str | None = None, *, again: bool = False
    ) -> Entry:
        """The one with this key."""
        parent = request.parent if isinstance(request, ChainStep) else None
        return cls(key, request, request_text(request), parent, digest, again)

    def as_stored(self, row: Row) -> Staged:
        """What became of it, by the row that is stored.

        Raises:
            LedgerError: That is another's.
        """
        if row["request"] != self.text:
            known = naming.digest(request_from_dict(json.loads(row["request"])))
            if known != naming.digest(self.request):
                raise LedgerError(f"two requests have the key {self.key}")
        return Staged(self.key, self.request, State(row["state"]), self.again)


def add(db: Db, key: str, request: Request, move: Move | None = None) -> Job:
    """Put a job in that is of no list, unless its key is known; the job that is there.

    Raises:
        IllegalMove: This cannot have happened to a new job.
    """
    known = db.ask("job_by_key", {"key": key})
    if not known:
        entry = Entry.of(key, request)
        # A run of its own, which no list has.
        values = {"key": key, "run": NO_LIST, "request": entry.text, "parent": entry.parent}
        made = db.ask("insert_job", values)
        if made and move is not None:
            return apply(db, key, move)
        known = db.ask("job_by_key", {"key": key})
    return job_from_row(known[0])


def apply(db: Db, key: str, move: Move) -> Job:
    """Apply a move to a stored job, and keep it in its history.

    Raises:
        IllegalMove: The job's state does not know this event; nothing was changed.
    """
    before = job_from_row(one(db, "job_to_move", {"key": key}))
    after = advance(before, move)
    db.tell("update_job", job_changes(after, before))
    past = {
        "seq": after.seq,
        "at": time.time(),
        "event": move.event.value,
        "state": after.state.value,
        "detail": move_detail(move),
    }
    db.tell("insert_event", past)
    _keep_attempt(db, after, move)
    return after


def _keep_attempt(db: Db, job: Job, move: Move) -> None:
    """Keep what a move says of an attempt: the job's last one, or the one that its token names."""
    place = {"seq": job.seq, "number": job.attempts}
    if move.event is Event.INTENT and move.token is not None and job.submitted_at is not None:
        facts = {"token": move.token, "at": job.submitted_at.timestamp(), "price": job.price}
        db.tell("insert_attempt", place | facts)
    elif move.event in (Event.ACCEPTED, Event.ADOPTED) and move.token is not None:
        db.tell("end_attempt_of_token", {"token": move.token, "task_id": job.task_id})
    elif move.event in (Event.ACCEPTED, Event.ADOPTED):
        db.tell("end_attempt", place | {"task_id": job.task_id})
