"""How a job may move: every state and every event, as one table.

::

    planned ──INTENT──> submitting ──ACCEPTED──> running ──SUCCEEDED──> succeeded ──SAVED──> saved
       ^                 │  │  │                  │   │                     │
       │<─NOT_SENT───────┘  │  └─LOST─> unresolved │  └─FAILED─> failed      └─EXPIRED─> expired
       │<─REFUSED───────────┤              │       └─EXPIRED─> expired
       │                    └─REJECTED─> failed
       │                                   │
       │<───────────RETRIED────────────────┤ (also from failed, expired and abandoned)
                    running <──ADOPTED─────┤ (also from planned)
                  abandoned <──ABANDONED───┘

The money is in three of these arrows. INTENT is durable before the first byte of a create is
written, so a crash can never hide one. ACCEPTED is durable before anything else happens to the task.
LOST is the only way on when the fate of a create is unknown, and only a user's decision (RETRIED,
ABANDONED, ADOPTED) leads out of ``unresolved``; ``on_unknown="repeat"`` is that decision, made ahead.

A task that exists already needs no create: its job is ADOPTED as it stands in the list. A planned
job that cannot be sent (its image was refused, or the job before it in a chain failed) is REJECTED.

A job stands still in its state until an event moves it: whatever ended the last run, the next one
reads the state and takes the step that belongs to it. There is no other recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import attrs

from ..errors import KieError
from ..jobs import Job, SavedFile, State, Trouble, trouble_of
from ..requests import Request


class Event(StrEnum):
    """What can happen to a job."""

    INTENT = "intent"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    REJECTED = "rejected"
    ACCEPTED = "accepted"
    LOST = "lost"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    HELD_UP = "held_up"
    RELINKED = "relinked"
    FILE_SAVED = "file_saved"
    SAVED = "saved"
    RETRIED = "retried"
    ABANDONED = "abandoned"
    ADOPTED = "adopted"


TABLE: Final[Mapping[tuple[State, Event], State]] = {
    (State.PLANNED, Event.INTENT): State.SUBMITTING,
    (State.PLANNED, Event.ADOPTED): State.RUNNING,
    (State.PLANNED, Event.REJECTED): State.FAILED,
    (State.SUBMITTING, Event.NOT_SENT): State.PLANNED,
    (State.SUBMITTING, Event.REFUSED): State.PLANNED,
    (State.SUBMITTING, Event.REJECTED): State.FAILED,
    (State.SUBMITTING, Event.ACCEPTED): State.RUNNING,
    (State.SUBMITTING, Event.LOST): State.UNRESOLVED,
    (State.RUNNING, Event.SUCCEEDED): State.SUCCEEDED,
    (State.RUNNING, Event.FAILED): State.FAILED,
    (State.RUNNING, Event.EXPIRED): State.EXPIRED,
    (State.RUNNING, Event.HELD_UP): State.RUNNING,
    (State.SUCCEEDED, Event.RELINKED): State.SUCCEEDED,
    (State.SUCCEEDED, Event.FILE_SAVED): State.SUCCEEDED,
    (State.SUCCEEDED, Event.SAVED): State.SAVED,
    (State.SUCCEEDED, Event.EXPIRED): State.EXPIRED,
    (State.SUCCEEDED, Event.HELD_UP): State.SUCCEEDED,
    (State.UNRESOLVED, Event.RETRIED): State.PLANNED,
    (State.UNRESOLVED, Event.ABANDONED): State.ABANDONED,
    (State.UNRESOLVED, Event.ADOPTED): State.RUNNING,
    (State.FAILED, Event.RETRIED): State.PLANNED,
    (State.EXPIRED, Event.RETRIED): State.PLANNED,
    (State.ABANDONED, Event.RETRIED): State.PLANNED,
}

AT_RISK: Final = frozenset({State.SUBMITTING, State.UNRESOLVED})
"""States of a job of which nobody knows yet whether it was paid."""

SETTLED: Final = frozenset(
    {State.SAVED, State.FAILED, State.EXPIRED, State.UNRESOLVED, State.ABANDONED}
)
"""States that no step of the road leads out of."""


class IllegalMove(RuntimeError):
    """A bug in this package: an event that the job's state does not know."""


@attrs.frozen
class Move:
    """One event and the facts that come with it. Made by the functions below.

    Attributes:
        event: What happened.
        changes: Fields of :class:`~kie_mj_async.jobs.Job` and their new values.
        file: The file that came on disk, for FILE_SAVED.
        token: What the create's callback will carry, for INTENT; of a task that a callback named, what
            that carried, for ADOPTED.
    """

    event: Event
    changes: Mapping[str, Any] = attrs.field(factory=dict)
    file: SavedFile | None = None
    token: str | None = attrs.field(default=None, repr=False)


def advance(job: Job, move: Move) -> Job:
    """The job after the move.

    Raises:
        IllegalMove: The table has no such arrow.
    """
    target = TABLE.get((job.state, move.event))
    if target is None:
        raise IllegalMove(f"job {job.key} is {job.state}: {move.event} cannot happen to it")
    changes = dict(move.changes)
    if move.event is Event.INTENT:
        changes["attempts"] = job.attempts + 1
    if move.event in (Event.ACCEPTED, Event.ADOPTED):
        changes["credits"] = job.credits + changes.get("price", job.price)
    if move.event is Event.FAILED:  # failed tasks are not charged (kie-api.md)
        changes |= {"credits": job.credits - job.price, "price": 0}
    if move.file is not None:
        others = [one for one in job.files if one.index != move.file.index]
        changes["files"] = tuple(sorted((*others, move.file), key=lambda one: one.index))
    return attrs.evolve(job, state=target, **changes)


def intent(at: datetime, price: float, token: str | None = None) -> Move:
    """A create that will cost so much, if it is accepted, is about to be sent."""
    facts = {"submitted_at": at, "price": price, "trouble": None}
    return Move(Event.INTENT, facts, token=token)


def not_sent(error: KieError) -> Move:
    """No byte of the create was written."""
    return Move(Event.NOT_SENT, {"price": 0, "trouble": trouble_of(error)})


def refused(error: KieError) -> Move:
    """The service refused the create, for now."""
    return Move(Event.REFUSED, {"price": 0, "trouble": trouble_of(error)})


def rejected(error: KieError) -> Move:
    """The service refused the request for good; it was not charged."""
    return Move(Event.REJECTED, {"price": 0, "trouble": trouble_of(error)})


def accepted(task_id: str, at: datetime) -> Move:
    """The service has the task; ``at`` stands in until it tells its own time of creation."""
    facts = {"task_id": task_id, "created_at": at, "trouble": None}
    return Move(Event.ACCEPTED, facts)


def lost(error: KieError) -> Move:
    """The create was sent and its fate is unknown."""
    return Move(Event.LOST, {"trouble": trouble_of(error)})


def succeeded(
    urls: tuple[str, ...],
    *,
    created_at: datetime | None,
    completed_at: datetime | None,
    expires_at: datetime,
    request: Request | None = None,
) -> Move:
    """The task has results; ``request`` where its record told more of what was asked for."""
    facts: dict[str, Any] = {
        "urls": urls,
        "completed_at": completed_at,
        "expires_at": expires_at,
        "trouble": None,
    }
    if created_at is not None:
        facts["created_at"] = created_at
    if request is not None:
        facts["request"] = request
    return Move(Event.SUCCEEDED, facts)


def failed(error: KieError, *, request: Request | None = None) -> Move:
    """The service could not make it; ``request`` where its record told more of what was asked for."""
    facts: dict[str, Any] = {"trouble": trouble_of(error)}
    if request is not None:
        facts["request"] = request
    return Move(Event.FAILED, facts)


def expired(error: KieError) -> Move:
    """The result is gone from the service."""
    return Move(Event.EXPIRED, {"trouble": trouble_of(error)})


def held_up(error: KieError) -> Move:
    """It goes no further in this run."""
    return Move(Event.HELD_UP, {"trouble": trouble_of(error)})


def relinked(urls: tuple[str, ...]) -> Move:
    """Fresh links to the same results."""
    return Move(Event.RELINKED, {"urls": urls})


def file_saved(file: SavedFile) -> Move:
    """One result is on disk."""
    return Move(Event.FILE_SAVED, file=file)


def saved() -> Move:
    """Every result is on disk."""
    return Move(Event.SAVED, {"trouble": None})


def retried() -> Move:
    """The user wants it made again, whatever became of the last attempt."""
    fresh: dict[str, Any] = {
        "task_id": None,
        "price": 0,
        "created_at": None,
        "completed_at": None,
        "expires_at": None,
        "urls": (),
        "files": (),
        "trouble": None,
    }
    return Move(Event.RETRIED, fresh)


def abandoned(at: datetime) -> Move:
    """The user gave it up."""
    note = Trouble("Abandoned", f"given up by you on {at:%Y-%m-%d %H:%M} UTC")
    return Move(Event.ABANDONED, {"trouble": note})


def adopted(task_id: str, price: float | None = None, token: str | None = None) -> Move:
    """This task is the job's: it was found, or it is what the job is about.

    Args:
        task_id: The task.
        price: Credits it cost, where that is not the price the job has.
        token: What the callback carried that named it.
    """
    facts: dict[str, Any] = {"task_id": task_id, "trouble": None}
    if price is not None:
        facts["price"] = price
    return Move(Event.ADOPTED, facts, token=token)
