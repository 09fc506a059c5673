"""Every ledger and a plain model, side by side: random lists, chains, moves, hints and reopenings."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from collections.abc import Coroutine, Hashable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.errors import NotSent, ReplyLost, TaskFailed
from kie_mj_async.jobs import Counts, Job, SavedFile, State
from kie_mj_async.ledger import Attempt, Cursor, Ledger, MemoryLedger, SqliteLedger
from kie_mj_async.requests import ChainStep, ExistingTask, Request, TextToImage
from kie_mj_async.rules import chains, lifecycle, naming
from kie_mj_async.rules.lifecycle import TABLE, Event, IllegalMove, Move, advance
from kie_mj_async.rules.outlines import outline

HOST = "https://api.example"
AT = datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC)
URLS = ("https://cdn.example/0.png", "https://cdn.example/1.png")
FOX, OWL, HARE = TextToImage("a fox"), TextToImage("an owl"), TextToImage("a hare")
_T = TypeVar("_T")


def a_file(index: int, size: int) -> SavedFile:
    return SavedFile(
        index, f"лиса_{index}.png", URLS[0], "ab" * 32, size, "image/png", 8, None, saved_at=AT
    )


def success(expires_at: datetime) -> Move:
    return lifecycle.succeeded(URLS, created_at=AT, completed_at=AT, expires_at=expires_at)


_MOVES: dict[Event, Move] = {
    Event.INTENT: lifecycle.intent(AT, 25),
    Event.NOT_SENT: lifecycle.not_sent(NotSent("dns")),
    Event.REFUSED: lifecycle.refused(NotSent("slow")),
    Event.REJECTED: lifecycle.rejected(NotSent("never")),
    Event.ACCEPTED: lifecycle.accepted("abc", AT),
    Event.LOST: lifecycle.lost(ReplyLost("gone")),
    Event.FAILED: lifecycle.failed(TaskFailed("nsfw")),
    Event.EXPIRED: lifecycle.expired(TaskFailed("old")),
    Event.HELD_UP: lifecycle.held_up(TaskFailed("disk")),
    Event.RELINKED: lifecycle.relinked(URLS[1:]),
    Event.SAVED: lifecycle.saved(),
    Event.RETRIED: lifecycle.retried(),
    Event.ABANDONED: lifecycle.abandoned(AT),
    Event.ADOPTED: lifecycle.adopted("found"),
}
_PROMPTS = [
    FOX,
    OWL,
    HARE,
    attrs.evolve(FOX, speed="fast"),
    attrs.evolve(FOX, then=["upscale:0,1", "video:0"]),
    attrs.evolve(OWL, then=["vary:3"]),
]
_LISTS = st.lists(st.sampled_from(_PROMPTS), max_size=5)


class Twins(RuleBasedStateMachine):
    """Random lists, moves and reopenings, on every ledger and on plain dictionaries."""

    url: str
    numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.jobs: dict[str, Job] = {}
        self.runs: dict[str, int] = {}
        self.run_number = 0
        self.attempts: dict[str, Attempt] = {}
        self.memory = MemoryLedger()
        self.sqlite = self.run(self._open())
        self.postgres = self.run(self._open_postgres())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(work)

    def _open(self) -> Coroutine[Any, Any, SqliteLedger]:
        return SqliteLedger.open(Path(self.folder.name) / "ledger.sqlite3", HOST)

    def teardown(self) -> None:
        self.run(self.sqlite.aclose())
        self.run(self.books.aclose())
        self.runner.close()
        self.folder.cleanup()

    async def _open_postgres(self) -> PostgresLedger:
        self.books = Books(self.url, "twins")
        return await PostgresLedger.open(self.books, f"b{self.number}")

    @property
    def all(self) -> tuple[Ledger, ...]:
        return self.sqlite, self.memory, self.postgres

    def _plan(self, key: str, request: Request) -> None:
        if key not in self.jobs:
            # What is to follow is jobs of its own, not a part of this one.
            stored = attrs.evolve(request, then=()) if request.then else request  # type: ignore[call-arg]
            self.jobs[key] = Job(key=key, request=stored, seq=len(self.jobs) + 1)
            self.runs[key] = 0

    @initialize(requests=_LISTS)
    def first_list(self, requests: list[Request]) -> None:
        self.take_in(requests, False)

    @rule(requests=_LISTS, broken=st.booleans())
    def take_in(self, requests: list[Request], broken: bool) -> None:
        tally: Counter[str] = Counter()
        states: list[State] = []
        listed: list[tuple[str, Request]] = []
        for request in requests:
            digest = naming.digest(request)
            tally[digest] += 1
            key = naming.job_key(digest, tally[digest])
            listed += [(key, request), *chains.steps_of(request, key)]
        for key, _ in listed:
            known = self.jobs.get(key)
            states.append(known.state if known else State.PLANNED)
        for ledger in self.all:
            assert self.run(self._stage(ledger, requests, broken)) == (self.run_number + 1, states)
        if not broken:
            self.run_number += 1
            for key, request in listed:
                self._plan(key, request)
                self.runs[key] = self.run_number

    async def _stage(
        self, ledger: Ledger, requests: list[Request], broken: bool
    ) -> tuple[int, list[State]]:
        half = len(requests) // 2
        with anyio.CancelScope() as scope:
            async with ledger.staging() as staging:
                jobs = await staging.add(requests[:half])
                jobs += await staging.add(requests[half:])
                if broken:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
        return staging.run, [job.state for job in jobs]

    @rule(request=st.sampled_from(_PROMPTS), name=st.sampled_from("xyz"))
    def add(self, request: Request, name: str) -> None:
        key = naming.chosen_key(name)
        self._plan(key, request)
        for ledger in self.all:
            assert self.run(ledger.add(key, request)) == self.jobs[key]

    @rule(number=st.integers(1, 3), task=st.sampled_from(["t1", "t2"]), chance=st.integers(0, 99))
    def add_what_was_paid_besides(self, number: int, task: str, chance: int) -> None:
        if not self.jobs:
            return
        parent = list(self.jobs.values())[chance % len(self.jobs)]
        key, request = f"{parent.key}+{number}", ExistingTask(task)
        token = next((one for one, it in self.attempts.items() if it.key == parent.key), None)
        move = lifecycle.adopted(task, 25, token)
        if key not in self.jobs:
            self._plan(key, request)
            self.jobs[key] = advance(self.jobs[key], move)
            self._ended(self.jobs[key], move)
        for ledger in self.all:
            assert self.run(ledger.add(key, request, move)) == self.jobs[key]

    @rule(chance=st.integers(0, 99), task=st.sampled_from(["t1", "t2", None]))
    def hint(self, chance: int, task: str | None) -> None:
        if not self.attempts:
            return
        attempt = list(self.attempts.values())[chance % len(self.attempts)]
        if attempt.hint is None or task is None:
            self.attempts[attempt.token] = attrs.evolve(attempt, hint=task)
        for ledger in self.all:
            self.run(ledger.note_hint(attempt.token, task))

    def _ended(self, job: Job, move: Move) -> None:
        """Keep what a move says of an attempt."""
        if move.event is Event.INTENT and move.token is not None:
            self.attempts[move.token] = Attempt(move.token, job.key, job.attempts, AT, job.price)
        elif move.event in (Event.ACCEPTED, Event.ADOPTED):
            for token, one in self.attempts.items():
                mine = (one.key, one.number) == (job.key, job.attempts)
                if token == move.token or (move.token is None and mine):
                    self.attempts[token] = attrs.evolve(one, task_id=job.task_id)

    @rule(
        chance=st.integers(0, 2**30),
        event=st.sampled_from(Event),
        number=st.integers(0, 3),
    )
    def move(self, chance: int, event: Event, number: int) -> None:
        if not self.jobs:
            return
        job = list(self.jobs.values())[chance % len(self.jobs)]
        # Mostly what can happen, so that jobs get somewhere.
        legal = [one for state, one in TABLE if state is job.state]
        if number and legal:
            event = legal[chance // 7 % len(legal)]
        if event is Event.SUCCEEDED:
            move = success(AT + timedelta(days=number))
        elif event is Event.FILE_SAVED:
            move = lifecycle.file_saved(a_file(number, size=chance))
        elif event is Event.INTENT and number:
            # A token is never used twice.
            move = lifecycle.intent(AT, 25, f"{self.number:08x}{len(self.attempts):024x}")
        else:
            move = _MOVES[event]
        try:
            after = advance(job, move)
        except IllegalMove:
            for ledger in self.all:
                with pytest.raises(IllegalMove):
                    self.run(ledger.record(job, move))
        else:
            self.jobs[job.key] = after
            self._ended(after, move)
            for ledger in self.all:
                assert self.run(ledger.record(job, move)) == after

    @rule()
    def reopen(self) -> None:
        self.run(self.sqlite.aclose())
        self.sqlite = self.run(self._open())
        self.run(self.books.aclose())
        self.postgres = self.run(self._open_postgres())

    @rule(state=st.sampled_from(State), size=st.integers(1, 3), skip=st.integers(0, 3))
    def read(self, state: State, size: int, skip: int) -> None:
        everything = list(self.jobs.values())
        counts = Counts(
            Counter(job.state for job in everything),
            files=sum(len(job.files) for job in everything),
            bytes=sum(file.bytes for job in everything for file in job.files),
            credits=sum(job.credits for job in everything),
            at_risk=sum(
                job.price for job in everything if job.state in (State.SUBMITTING, State.UNRESOLVED)
            ),
        )
        planned = Counter(
            outline(job.request.to_dict()) for job in everything if job.state is State.PLANNED
        )
        run = self.run_number or None
        mine = [job for job in everything if job.state is state]
        mine = [job for job in mine if run is None or self.runs[job.key] == run]
        mine.sort(key=lambda job: (job.expires_at is None, job.expires_at or AT, job.seq))
        after = Cursor.behind(mine[skip - 1]) if 0 < skip <= len(mine) else Cursor()
        start = skip if after != Cursor() else 0
        for ledger in self.all:
            assert self.run(ledger.scan(skip, size)) == everything[skip : skip + size]
            assert self.run(ledger.counts()) == counts
            assert self.run(ledger.page(state, after, size, run)) == mine[start : start + size]
            files = [job for job in everything[skip:] if job.files]
            assert self.run(ledger.scan(skip, size, with_files=True)) == files[:size]
            assert self.run(self._planned(ledger, size)) == planned
        for job in everything[:3]:
            pasts = [self.run(ledger.history(job)) for ledger in self.all]
            plain = [[(one.event, one.state, one.detail) for one in past] for past in pasts]
            assert all(one == plain[0] for one in plain)
        self._read_behind(everything, run)

    async def _planned(self, ledger: Ledger, size: int) -> Counter[Hashable]:
        counted: Counter[Hashable] = Counter()
        place = Cursor()
        while (page := await ledger.planned(place, size))[0]:
            found, place = page
            for one in found:
                counted[outline(one.request.to_dict())] += one.number
        return counted

    def _read_behind(self, everything: list[Job], run: int | None) -> None:
        """What follows the jobs, and what is known of their attempts."""
        steps = [job for job in everything if isinstance(job.request, ChainStep)]
        by_place = {(one.key, one.number): one for one in self.attempts.values()}
        hinted = [one for one in self.attempts.values() if one.hint and not one.task_id]
        for ledger in self.all:
            assert self.run(ledger.has_chains()) == bool(steps)
            assert self.run(ledger.open_hints()) == hinted
            for attempt in list(self.attempts.values())[:3]:
                assert self.run(ledger.by_token(attempt.token)) == attempt
            for job in everything[:4]:
                last = by_place.get((job.key, job.attempts))
                assert self.run(ledger.last_attempt(job.key)) == last
                behind = [one for one in steps if one.request.parent == job.key]  # type: ignore[attr-defined]
                assert self.run(ledger.children(job.key)) == behind
                of_run = [one for one in behind if run is None or self.runs[one.key] == run]
                assert self.run(ledger.children(job.key, run)) == of_run


@pytest.mark.parametrize("examples", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_every_ledger_does_what_the_model_does(books_url: str, examples: int) -> None:
    """Whatever is done to them, all of them hold the same, and say the same."""

    class Here(Twins):
        url = books_url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
