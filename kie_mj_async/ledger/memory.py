"""A ledger that lives as long as its process: for clients that keep no file, and for tests."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cached_property
from typing import Any, Final, TypeVar

import attrs

from ..jobs import Counts, Job, Reading, State
from ..requests import ChainStep, ExistingTask, Request
from ..rules import chains, naming
from ..rules.lifecycle import AT_RISK, Event, Move, advance
from ..rules.outlines import outline
from ..rules.uploads import Upload
from .base import NO_LIST, Alike, Attempt, Cursor, PastEvent, Staged, urgency
from .rows import move_detail

_LAST: Final = "\U0010ffff"
"""Sorts behind every key."""

_TOKENS: Final = 4096
"""Tokens of dropped jobs that are remembered at most."""

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
        self._children: dict[str, list[str]] = defaultdict(list)
        self._attempts: dict[str, Attempt] = {}
        self._tokens: dict[tuple[str, int], str] = {}
        self._dropped: deque[str] = deque()
        self._uploads: dict[str, Upload] = {}
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

    async def add(self, key: str, request: Request, move: Move | None = None) -> Job:
        """One job under a key of its own."""
        if key not in self._jobs:
            job = Job(key=key, request=_alone(request), seq=next(self._numbers))
            if move is not None:
                advance(job, move)  # before anything is kept
            self._jobs[key] = job
            self._seqs.append((job.seq, key))
            insort(self._order[job.state], _place(job))
            self._runs[key] = NO_LIST
            if isinstance(request, ChainStep):
                self._children[request.parent].append(key)
            if move is not None:
                return self._advance(key, move)
        return self._jobs[key]

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move."""
        return self._advance(job.key, move)

    def _advance(self, key: str, move: Move) -> Job:
        before = self._jobs[key]
        after = advance(before, move)
        self._jobs[key] = after
        if _place(after) != _place(before) or after.state is not before.state:
            _take_out(self._order[before.state], _place(before))
            insort(self._order[after.state], _place(after))
        past = PastEvent(self._clock(), move.event.value, after.state.value, move_detail(move))
        self._events[key].append(past)
        self._keep_attempt(after, move)
        return after

    def _keep_attempt(self, job: Job, move: Move) -> None:
        """Keep what a move says of an attempt: the job's last one, or the one that its token names."""
        place = (job.key, job.attempts)
        if move.event is Event.INTENT and move.token is not None and job.submitted_at is not None:
            attempt = Attempt(move.token, *place, job.submitted_at, job.price)
            self._attempts[move.token] = attempt
            self._tokens[place] = move.token
        elif move.event in (Event.ACCEPTED, Event.ADOPTED):
            ended = self._attempts.get(move.token or self._tokens.get(place, ""))
            if ended is not None:
                self._attempts[ended.token] = attrs.evolve(ended, task_id=job.task_id)

    async def get(self, key: str) -> Job | None:
        """One job."""
        return self._jobs.get(key)

    def drop(self, key: str) -> None:
        """Forget a job that nothing will ask for again; its callback may still come, and is known."""
        job = self._jobs.pop(key, None)
        if job is not None:
            _take_out(self._order[job.state], _place(job))
            _take_out(self._seqs, (job.seq, key))
            tokens = (self._tokens.pop((key, n), None) for n in range(1, job.attempts + 1))
            self._dropped.extend(token for token in tokens if token is not None)
            while len(self._dropped) > _TOKENS:
                del self._attempts[self._dropped.popleft()]
        self._runs.pop(key, None)
        self._events.pop(key, None)

    async def find(self, prefix: str) -> list[Job]:
        """Jobs whose key starts like this."""
        return [job for key, job in self._jobs.items() if key.startswith(prefix)][:10]

    async def by_task(self, task_id: str) -> Job | None:
        """The job that a task belongs to."""
        return next((job for job in self._jobs.values() if job.task_id == task_id), None)

    async def children(self, key: str, run: int | None = None) -> list[Job]:
        """The jobs that follow a job in a chain."""
        keys = self._children.get(key, ())
        return [self._jobs[one] for one in keys if run is None or self._runs[one] == run]

    async def has_chains(self) -> bool:
        """Whether any job follows another."""
        return bool(self._children)

    async def by_token(self, token: str) -> Attempt | None:
        """The attempt whose callback carries this token."""
        return self._attempts.get(token)

    async def last_attempt(self, key: str) -> Attempt | None:
        """A job's last attempt, if its callback carries a token."""
        job = self._jobs.get(key)
        token = self._tokens.get((key, job.attempts)) if job is not None else None
        return self._attempts[token] if token is not None else None

    async def note_hint(self, token: str, task_id: str | None) -> None:
        """Keep which task a callback with this token named."""
        attempt = self._attempts.get(token)
        if attempt is not None and (attempt.hint is None or task_id is None):
            self._attempts[token] = attrs.evolve(attempt, hint=task_id)

    async def open_hints(self) -> list[Attempt]:
        """Attempts whose task a callback named, and that are not known to have led to any."""
        attempts = self._attempts.values()
        found = [one for one in attempts if one.hint is not None and one.task_id is None]
        return sorted(found, key=lambda one: (one.at, one.token))

    async def upload_of(self, name: str) -> Upload | None:
        """The last upload of a local image."""
        return self._uploads.get(name)

    async def note_upload(self, upload: Upload) -> None:
        """Keep where a local image was uploaded to."""
        self._uploads[upload.name] = upload

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state."""
        order = self._order[state]
        first = bisect_right(order, (after.urgency, after.seq, _LAST))
        keys = (order[at][2] for at in range(first, len(order)))
        found = (self._jobs[key] for key in keys if run is None or self._runs[key] == run)
        return list(itertools.islice(found, limit))

    async def planned(self, after: Cursor, limit: int) -> tuple[list[Alike], Cursor]:
        """The next planned jobs, those that are alike told together."""
        jobs = await self.page(State.PLANNED, after, limit)
        found: dict[Hashable, Alike] = {}
        for job in jobs:
            name = outline(job.request.to_dict())
            known = found.get(name)
            found[name] = Alike(job.request, known.number + 1 if known else 1)
        return list(found.values()), Cursor.behind(jobs[-1]) if jobs else after

    async def scan(self, after_seq: int, limit: int, *, with_files: bool = False) -> list[Job]:
        """All jobs in their order, or those that have files."""
        first = bisect_right(self._seqs, (after_seq, _LAST))
        jobs = (self._jobs[self._seqs[at][1]] for at in range(first, len(self._seqs)))
        return list(itertools.islice((job for job in jobs if job.files or not with_files), limit))

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

    async def add(self, requests: Sequence[Request]) -> list[Staged]:
        """Take in the next part of the list."""
        return [job for request in requests for job in self._one(request)]

    def _one(self, request: Request) -> list[Staged]:
        digest = naming.digest(request)
        self._tally[digest] += 1
        again = isinstance(request, ExistingTask) and self._tally[digest] > 1
        if isinstance(request, ExistingTask) and (ours := self._tasks.get(request.task_id)):
            self.touched.add(ours.key)
            return [Staged(ours.key, request, ours.state, again)]
        key = naming.job_key(digest, self._tally[digest])
        jobs = [(key, request), *chains.steps_of(request, key)]
        self.entries.update(jobs)
        return [Staged(name, wish, self._state(name), again) for name, wish in jobs]

    def _state(self, key: str) -> State:
        return self.known[key].state if key in self.known else State.PLANNED


def _alone(request: Request) -> Request:
    """The request without its chain, whose steps are jobs of their own."""
    no_more: dict[str, Any] = {"then": ()}
    return attrs.evolve(request, **no_more) if request.then else request


def _place(job: Job) -> tuple[float, int, str]:
    """Where a job stands among those of its state."""
    return urgency(job), job.seq, job.key


def _take_out(order: list[_Entry], entry: _Entry) -> None:
    del order[bisect_left(order, entry)]
