"""What a ledger is: the durable memory of a batch, job by job.

Two stores keep it (``sqlite.py`` on disk, ``memory.py`` for clients that want none) and pass the same
contract tests. What may happen to a job is ``rules/lifecycle.py``; a ledger only applies it, durably.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime
from typing import Final, Protocol

import attrs

from ..jobs import Counts, Job, Reading, State
from ..requests import Request
from ..rules.lifecycle import Move
from ..rules.wire import expiry

PAGE: Final = 500
"""Jobs to read at a time."""

FAR_FUTURE: Final = 1e18
"""The urgency of a job without an expiry."""


@attrs.frozen
class Cursor:
    """A place in a page order: the last job that was read."""

    urgency: float = -1.0
    seq: int = 0

    @classmethod
    def behind(cls, job: Job) -> Cursor:
        """The place behind this job."""
        return cls(urgency(job), job.seq)


@attrs.frozen
class PastEvent:
    """One line of a job's history.

    Attributes:
        at: Seconds since 1970, UTC.
        event: What happened.
        state: The state it led to.
        detail: Facts that came with it, as JSON, or ``None``.
    """

    at: float
    event: str
    state: str
    detail: str | None


class Staging(Protocol):
    """An open transaction that takes in a list, all or nothing."""

    run: int
    """The run that the list belongs to."""

    async def add(self, requests: Sequence[Request]) -> list[State]:
        """Take in the next part of the list; the states its jobs have (planned when new).

        A task that a job of the ledger has already, whatever the job asked for, is that job.
        """


class Ledger(Protocol):
    """The durable memory of jobs. Every method is one transaction unless it says otherwise."""

    def staging(self) -> AbstractAsyncContextManager[Staging]:
        """Take in a list in one transaction: it is there whole, or not at all."""

    async def add(self, key: str, request: Request) -> Job:
        """One job under a key of its own; the job that is there if the key is known."""

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move to the stored job, durably, and return the job after it.

        Raises:
            IllegalMove: The stored job's state does not know this event.
            LedgerError: It could not be written; nothing has changed.
        """

    async def get(self, key: str) -> Job | None:
        """One job."""

    async def find(self, prefix: str) -> list[Job]:
        """Jobs whose key starts like this, a few at the most."""

    async def by_task(self, task_id: str) -> Job | None:
        """The job that a task belongs to."""

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state (of a run), soonest expiry first, then in their order."""

    async def scan(self, after_seq: int, limit: int) -> list[Job]:
        """All jobs in their order."""

    async def history(self, job: Job) -> list[PastEvent]:
        """All that happened to a job, oldest first."""

    async def counts(self) -> Counts:
        """How many jobs stand where."""

    async def due(self, before: datetime) -> int:
        """Jobs that are paid for and not saved, whose results are gone before then."""

    async def note_balance(self, at: datetime, balance: float) -> None:
        """Keep the account's balance beside what the ledger knows now."""

    async def readings(self, last: int) -> list[Reading]:
        """The last readings of the balance, in the order they were taken."""

    async def aclose(self) -> None:
        """Finish what is queued and let go of the file."""


async def scanned(ledger: Ledger, size: int | None = None) -> AsyncGenerator[list[Job], None]:
    """All jobs in their order, so many at a time."""
    seq = 0
    while jobs := await ledger.scan(seq, size or PAGE):
        seq = jobs[-1].seq
        yield jobs


async def each_job(ledger: Ledger) -> AsyncIterator[Job]:
    """All jobs in their order."""
    async with aclosing(scanned(ledger)) as pages:
        async for jobs in pages:
            for job in jobs:
                yield job


def urgency(job: Job) -> float:
    """When a job's results are gone, in seconds since 1970: the order in which jobs want attention.

    Of a task that has not been seen to end, its creation tells the earliest moment.
    """
    expires_at = job.expires_at
    if expires_at is None and job.created_at is not None:
        expires_at = expiry(job.created_at, None, job.created_at)
    return expires_at.timestamp() if expires_at is not None else FAR_FUTURE
