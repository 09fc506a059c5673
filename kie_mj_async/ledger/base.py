"""What a ledger is: the durable memory of a batch, job by job.

Three stores keep it (``sqlite.py`` on disk, ``memory.py`` for clients that want none, and a fleet's
``cluster/ledger.py``) and pass the same contract tests. What may happen to a job is
``rules/lifecycle.py``; a ledger only applies it, durably.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime
from typing import Final, Protocol

import attrs

from ..jobs import Counts, Job, Reading, State
from ..requests import Request
from ..rules.lifecycle import Move
from ..rules.uploads import Upload
from ..rules.wire import expiry

PAGE: Final = 200
"""Jobs to read at a time."""

SURVEYED: Final = 2000
"""Planned jobs to survey at a time."""

NO_LIST: Final = 0
"""The run of jobs that were added by themselves."""

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


@attrs.frozen
class Staged:
    """A job that a list asked for.

    Attributes:
        key: Its key.
        request: What it asks for; of a chain, a step is a request of its own.
        state: The state it has, planned when it is new.
        again: Whether the list has named its task before; a task is one job, however often it is named.
    """

    key: str
    request: Request
    state: State
    again: bool = False


@attrs.frozen
class Alike:
    """Planned jobs that cost the same each and will take about as long.

    Attributes:
        request: What one of them asks for.
        number: How many there are.
    """

    request: Request
    number: int


@attrs.frozen
class Attempt:
    """One create of a job whose callback carries a token.

    Attributes:
        token: The token.
        key: The job's key.
        number: Which attempt of the job, from 1.
        at: When it was begun (UTC).
        price: Credits it costs if it was accepted.
        task_id: The task it is known to have led to.
        hint: The task that a callback with its token named.
    """

    token: str
    key: str
    number: int
    at: datetime
    price: float
    task_id: str | None = None
    hint: str | None = None


class Staging(Protocol):
    """An open transaction that takes in a list, all or nothing."""

    run: int
    """The run that the list belongs to."""

    async def add(self, requests: Sequence[Request]) -> list[Staged]:
        """Take in the next part of the list; its jobs, those of chains behind the one they begin with.

        A task that a job of the ledger has already, whatever the job asked for, is that job.

        Raises:
            InvalidRequest: A chain cannot be.
        """


class Ledger(Protocol):
    """The durable memory of jobs. Every method is one transaction unless it says otherwise."""

    def staging(self) -> AbstractAsyncContextManager[Staging]:
        """Take in a list in one transaction: it is there whole, or not at all."""

    async def add(self, key: str, request: Request, move: Move | None = None) -> Job:
        """One job under a key of its own; the job that is there if the key is known.

        Args:
            key: The key.
            request: What it asks for.
            move: What has happened to it already, if it is new.
        """

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

    async def children(self, key: str, run: int | None = None) -> list[Job]:
        """The jobs (of a run) that follow a job in a chain."""

    async def has_chains(self) -> bool:
        """Whether any job follows another."""

    async def by_token(self, token: str) -> Attempt | None:
        """The attempt whose callback carries this token."""

    async def last_attempt(self, key: str) -> Attempt | None:
        """A job's last attempt, if its callback carries a token."""

    async def note_hint(self, token: str, task_id: str | None) -> None:
        """Keep which task a callback with this token named; the first one counts.

        Args:
            token: The token.
            task_id: The task; ``None`` where it turned out to be none of this ledger's.
        """

    async def open_hints(self) -> list[Attempt]:
        """Attempts whose task a callback named, and that are not known to have led to any."""

    async def upload_of(self, name: str) -> Upload | None:
        """The last upload of a local image."""

    async def note_upload(self, upload: Upload) -> None:
        """Keep where a local image was uploaded to."""

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state (of a run), soonest expiry first, then in their order."""

    async def planned(self, after: Cursor, limit: int) -> tuple[list[Alike], Cursor]:
        """The next so many planned jobs, those that are alike told together, and the place behind them.

        That place is ``after`` where there are none.
        """

    async def scan(self, after_seq: int, limit: int, *, with_files: bool = False) -> list[Job]:
        """All jobs in their order, or those that have files."""

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


async def scanned(
    ledger: Ledger, size: int | None = None, *, with_files: bool = False
) -> AsyncGenerator[list[Job], None]:
    """All jobs in their order, or those that have files, so many at a time."""
    seq = 0
    while jobs := await ledger.scan(seq, size or PAGE, with_files=with_files):
        seq = jobs[-1].seq
        yield jobs


async def each_job(ledger: Ledger, *, with_files: bool = False) -> AsyncIterator[Job]:
    """All jobs in their order, or those that have files."""
    async with aclosing(scanned(ledger, with_files=with_files)) as pages:
        async for jobs in pages:
            for job in jobs:
                yield job


async def each_alike(ledger: Ledger) -> AsyncIterator[Alike]:
    """All planned jobs, those that are alike mostly together."""
    place = Cursor()
    while (page := await ledger.planned(place, SURVEYED))[0]:
        found, place = page
        for alike in found:
            yield alike


async def jobs_in(
    ledger: Ledger,
    state: State,
    run: int | None = None,
    before_page: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Job, None]:
    """The jobs in a state (of a run), in the order of :meth:`Ledger.page`, also while they move on.

    Args:
        ledger: Where they are.
        state: The state.
        run: The run; ``None`` for all.
        before_page: Called before so many of them are read at a time.
    """
    cursor = Cursor()
    before_page()
    while jobs := await ledger.page(state, cursor, PAGE, run):
        cursor = Cursor.behind(jobs[-1])
        for job in jobs:
            yield job
        before_page()


def urgency(job: Job) -> float:
    """When a job's results are gone, in seconds since 1970: the order in which jobs want attention.

    Of a task that has not been seen to end, its creation tells the earliest moment.
    """
    expires_at = job.expires_at
    if expires_at is None and job.created_at is not None:
        expires_at = expiry(job.created_at, None, job.created_at)
    return expires_at.timestamp() if expires_at is not None else FAR_FUTURE
