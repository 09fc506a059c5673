"""A ledger that lives as long as its process: for clients that keep no file, and for tests."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cached_property
from typing import Final, TypeVar

import attrs

from ..jobs import Counts, Job, Reading, State
from ..requests import ExistingTask, Request
from ..rules import naming
from ..rules.lifecycle import AT_RISK, Move, advance
from .base import Cursor, PastEvent, urgency
from .rows import move_detail

_LAST: Final = "\U0010ffff"
"""Sorts behind every key."""

_Entry = TypeVar("_Entry", tuple[float, int, str], tuple[int, str])


class MemoryLedger:
    """The twin of the SQLite ledger, without durability.

    Args:
        clock: Seconds since 1970, for the history.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        # By state: urgency, seq and key of its jobs, in the order of pages.
        self._order: dict[State, list[tuple[float, int, str]]] = defaultdict(list)
        self._seqs: list[tuple[int, str]] = []
        self._runs: dict[str, int] = {}
        self._events: dict[str, list[PastEvent]] = defaultdict(list)
        self._run = 0
        self._readings: list[Reading] = []
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[MemoryStaging]:
        """Take in a list, all or nothing."""
        staging = MemoryStaging(self._jobs, self._run + 1)
        yield staging
        self._run = staging.run
        for key, request in staging.entries.items():
            await self.add(key, request)
            self._runs[key] = staging.run
        for key in staging.touched:
            self._runs[key] = staging.run

    async def add(self, key: str, request: Request) -> Job:
        """One job under a key of its own."""
        if key not in self._jobs:
            job = Job(key=key, request=request, seq=next(self._numbers))
            self._jobs[key] = job
            self._seqs.append((job.seq, key))
            insort(self._order[job.state], _place(job))
            self._runs[key] = 0
        return self._jobs[key]

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move."""
        before = self._jobs[job.key]
        after = advance(before, move)
        self._jobs[job.key] = after
        if _place(after) != _place(before) or after.state is not before.state:
            _take_out(self._order[before.state], _place(before))
            insort(self._order[after.state], _place(after))
        past = PastEvent(self._clock(), move.event.value, after.state.value, move_detail(move))
        self._events[job.key].append(past)
        return after

    async def get(self, key: str) -> Job | None:
        """One job."""
        return self._jobs.get(key)

    def drop(self, key: str) -> None:
        """Forget a job that nothing will ask for again."""
        job = self._jobs.pop(key, None)
        if job is not None:
            _take_out(self._order[job.state], _place(job))
            _take_out(self._seqs, (job.seq, key))
        self._runs.pop(key, None)
        self._events.pop(key, None)

    async def find(self, prefix: str) -> list[Job]:
        """Jobs whose key starts like this."""
        return [job for key, job in self._jobs.items() if key.startswith(prefix)][:10]

    async def by_task(self, task_id: str) -> Job | None:
        """The job that a task belongs to."""
        return next((job for job in self._jobs.values() if job.task_id == task_id), None)

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state."""
        order = self._order[state]
        first = bisect_right(order, (after.urgency, after.seq, _LAST))
        keys = (order[at][2] for at in range(first, len(order)))
        found = (self._jobs[key] for key in keys if run is None or self._runs[key] == run)
        return list(itertools.islice(found, limit))

    async def scan(self, after_seq: int, limit: int) -> list[Job]:
        """All jobs in their order."""
        first = bisect_right(self._seqs, (after_seq, _LAST))
        return [self._jobs[key] for _, key in self._seqs[first : first + limit]]

    async def history(self, job: Job) -> list[PastEvent]:
        """All that happened to a job."""
        return list(self._events[job.key])

    async def counts(self) -> Counts:
        """How many jobs stand where."""
        jobs = self._jobs.values()
        files = [file for job in jobs for file in job.files]
        return Counts(
            dict(Counter(job.state for job in jobs)),
            files=len(files),
            bytes=sum(file.bytes for file in files),
            credits=sum(job.credits for job in jobs),
            at_risk=sum(job.price for job in jobs if job.state in AT_RISK),
        )

    async def due(self, before: datetime) -> int:
        """Jobs whose results are gone before then."""
        states = (State.SUCCEEDED, State.RUNNING)
        return sum(bisect_left(self._order[one], (before.timestamp(), 0, "")) for one in states)

    async def note_balance(self, at: datetime, balance: float) -> None:
        """Keep the account's balance."""
        counts = await self.counts()
        self._readings.append(Reading(at, balance, counts.credits, counts.at_risk))

    async def readings(self, last: int) -> list[Reading]:
        """The last readings of the balance."""
        return self._readings[-last:]

    async def aclose(self) -> None:
        """Nothing to let go of."""


@attrs.define
class MemoryStaging:
    """A list on its way into a :class:`MemoryLedger`."""

    known: dict[str, Job]
    run: int
    entries: dict[str, Request] = attrs.field(factory=dict)
    touched: set[str] = attrs.field(factory=set)
    _tally: Counter[str] = attrs.field(factory=Counter)

    @cached_property
    def _tasks(self) -> dict[str, Job]:
        return {job.task_id: job for job in self.known.values() if job.task_id is not None}

    async def add(self, requests: Sequence[Request]) -> list[State]:
        """Take in the next part of the list."""
        states = []
        for request in requests:
            if isinstance(request, ExistingTask) and (ours := self._tasks.get(request.task_id)):
                self.touched.add(ours.key)
                states.append(ours.state)
                continue
            digest = naming.digest(request)
            self._tally[digest] += 1
            key = naming.job_key(digest, self._tally[digest])
            self.entries[key] = request
            states.append(self.known[key].state if key in self.known else State.PLANNED)
        return states


def _place(job: Job) -> tuple[float, int, str]:
    """Where a job stands among those of its state."""
    return urgency(job), job.seq, job.key


def _take_out(order: list[_Entry], entry: _Entry) -> None:
    del order[bisect_left(order, entry)]
