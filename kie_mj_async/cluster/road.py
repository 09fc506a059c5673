"""What a worker does with a job from the queue: the same road as on one machine, in two steps.

Where a job stands is in its batch's ledger; a step reads it and goes on from there, whoever was at it
before. So a step may run twice, or at another worker than the one before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import attrs

from ..archive.store import Place
from ..engine.house import House
from ..engine.pipeline import MAX_REPEATS, Destination, Halt, Pipeline
from ..errors import ConfigError, LedgerError, WriteFailed, WrongHost
from ..events import JobEnded, JobHeldBack, JobStarted, JobSubmitted
from ..jobs import Job, Outcome, Pending, Saved, State, outcome_of
from ..logs import about, logger
from ..requests import ChainStep
from ..rules import chains, lifecycle
from ..rules.lifecycle import IllegalMove, Move
from .books import Books, LeaseLost
from .care import Care, pause_after
from .enqueuing import enqueue
from .ledger import PostgresLedger, parts_of

log = logger(__name__)

TOLD: Final = 4096
"""Jobs to remember so that their end is told once."""

WAYS: Final = 256
"""Batches whose ledger and place are kept at hand."""

REST_FIRST, REST_CEILING = 60.0, 3600.0
"""Seconds for which a job rests that could not be brought to its end."""

ASTRAY: Final = 600.0
"""Seconds for which a job rests that this worker cannot work on at all."""

DATABASE_CEILING: Final = 30.0
"""Seconds between two times at most that a database is tried which does not answer."""

_OVER: Final = "over"

_LOOK: Final = 1.0

PlaceOf = Callable[[str], Place]
"""Makes the place that a batch is bound to: a directory, or the URL of an object store."""


def rest_after(turn: int) -> float:
    """Seconds for which a job rests after so many turns."""
    return min(REST_CEILING, REST_FIRST * 2.0 ** min(turn - 1, 10))


@attrs.define(eq=False)
class _Way:
    """A batch, ready to be worked on."""

    ledger: PostgresLedger
    pipeline: Pipeline
    to: Destination | None = None
    turn: anyio.Lock = attrs.field(factory=anyio.Lock)
    users: int = 0


class JobRoad:
    """A worker's road.

    Args:
        house: What its work shares.
        books: The fleet's books, under its lease.
        sending: Who holds creates back while they make no sense.
        saving: Who holds everything back while results cannot be had or saved.
        out: Where results of new batches go: each in a folder of its own below it.
        place_of: Makes the place of a batch's results.
        job_timeout: Seconds to wait for a task, before its job rests for a while.
        new_pipeline: Makes a batch's pipeline.
    """

    def __init__(
        self,
        house: House,
        books: Books,
        *,
        sending: Care,
        saving: Care,
        out: str,
        place_of: PlaceOf,
        job_timeout: float,
        new_pipeline: Callable[[PostgresLedger], Pipeline],
    ) -> None:
        self._house = house
        self._books = books
        self._sending = sending
        self._saving = saving
        self._leaving = False
        self._out = out
        self._place_of = place_of
        self._job_timeout = job_timeout
        self._new_pipeline = new_pipeline
        self._ways: OrderedDict[str, _Way] = OrderedDict()
        self._set_out: dict[tuple[str, str], Job] = {}
        self._ended: dict[tuple[str, str], None] = {}

    async def submit(self, name: str) -> str:
        """Submit a job, unless that has happened; what its state is then, in a word."""
        return await self._patiently(self._to_its_task, name)

    async def collect(self, name: str) -> str:
        """Wait for a job's task, and save its results; what its state is then, in a word."""
        return await self._patiently(self._to_its_files, name)

    async def _to_its_task(self, way: _Way, key: str, turn: int) -> str:
        while (job := await way.ledger.of_turn(key, turn)) is not None:
            if job.state not in (State.PLANNED, State.SUBMITTING):
                return job.state.value
            if not await self._is_ours(way, job):
                await way.ledger.rest(key, turn, ASTRAY)
            elif job.state is State.SUBMITTING:
                await self._see_through(way, job)
            elif await self._waits(way, job):
                await way.ledger.rest(key, turn, REST_FIRST)
            else:
                # What cannot be saved is not to be paid.
                await self._saving.passed()
                await self._sending.passed()
                await self._submit(way, job)
        return _OVER

    async def _to_its_files(self, way: _Way, key: str, turn: int) -> str:
        while (job := await way.ledger.of_turn(key, turn)) is not None:
            if job.state in lifecycle.SETTLED:
                # By the step before, or elsewhere; that it was saved has told who saved it.
                if job.state is not State.SAVED or self._is_out(way, job):
                    self._tell_end(way, outcome_of(job, ""))
                if job.state in chains.READY | chains.HOPELESS:
                    await way.ledger.enqueue(behind=key)
                return job.state.value
            if not await self._is_ours(way, job):
                await way.ledger.rest(key, turn, ASTRAY)
                continue
            await self._saving.passed()
            self._tell_start(way, job)
            try:
                to = await self._destination(way)
                outcome = await way.pipeline.travel(job, to, self._job_timeout)
            except ConfigError as error:
                log.warning("job %s: its results cannot be saved here: %s", key, error)
                self._tell_end(way, Pending(job, error))
                await way.ledger.rest(key, turn, ASTRAY)
            except (WriteFailed, Halt) as stopped:
                trouble = stopped.error if isinstance(stopped, Halt) else stopped
                if isinstance(trouble, WriteFailed):
                    way.to = None  # its folder may have been taken away
                self._saving.failed(trouble)
            else:
                self._tell_end(way, outcome)
                self._saving.went_well(saved=isinstance(outcome, Saved))
                if isinstance(outcome, Pending):
                    await self._rest(way, outcome, turn)
        return _OVER

    async def _rest(self, way: _Way, outcome: Pending, turn: int) -> None:
        """Let a job rest that goes no further now."""
        if self._leaving:  # it may be for that alone: others go on with it at once
            await anyio.sleep_forever()
        key = outcome.job.key
        if await way.ledger.rest(key, turn, rest_after(turn)):
            log.warning("job %s rests: %s", key, outcome.error)

    def hurry(self, seconds: float) -> None:
        """This worker leaves: saves under way have so many seconds left."""
        self._leaving = True
        for way in self._ways.values():
            way.pipeline.hurry(seconds)

    async def _patiently(self, step: Callable[[_Way, str, int], Awaitable[str]], name: str) -> str:
        """A step, however long the database is away."""
        batch, key, turn = parts_of(name)
        with about(batch=batch, job=key):
            return await self._until_done(step, name, batch, key, turn)

    async def _until_done(
        self,
        step: Callable[[_Way, str, int], Awaitable[str]],
        name: str,
        batch: str,
        key: str,
        turn: int,
    ) -> str:
        failures = 0
        while True:
            try:
                async with self._way(batch) as way:
                    state = _OVER if way is None else await step(way, key, turn)
                    if state == _OVER:
                        self._tell_given_up(batch, key)
                    return state
            except LeaseLost:
                await anyio.sleep_forever()  # until this worker has noticed, and starts over
            except (LedgerError, IllegalMove, ExceptionGroup) as error:
                # Somebody else may have moved it on, in the middle of several saves at once.
                if isinstance(error, ExceptionGroup) and error.split(IllegalMove)[1] is not None:
                    raise
                failures += 1
                log.warning("job %s: once more soon: %s", name, error)
                await anyio.sleep(min(DATABASE_CEILING, pause_after(failures)))

    def _is_out(self, way: _Way, job: Job) -> bool:
        return (way.ledger.id, job.key) in self._set_out

    def _tell_start(self, way: _Way, job: Job) -> None:
        """Tell that a job sets out here, once for both steps."""
        if not self._is_out(way, job):
            self._house.tell(JobStarted(job, way.ledger.id))
        self._set_out[way.ledger.id, job.key] = job
        self._ended.pop((way.ledger.id, job.key), None)

    def _tell_end(self, way: _Way, outcome: Outcome) -> None:
        """Tell of a job's end, once, though its last step may run again."""
        job = way.ledger.id, outcome.job.key
        self._set_out.pop(job, None)
        if job not in self._ended:
            self._ended[job] = None
            if len(self._ended) > TOLD:
                del self._ended[next(iter(self._ended))]
            self._house.tell(JobEnded(outcome))

    def _tell_given_up(self, batch: str, key: str) -> None:
        """Tell that a job which had set out here goes no further here."""
        job = self._set_out.pop((batch, key), None)
        if job is not None:
            planned = job.state is State.PLANNED
            self._house.tell(JobHeldBack(job) if planned else JobEnded(outcome_of(job, "")))

    async def _submit(self, way: _Way, job: Job) -> None:
        self._tell_start(way, job)
        try:
            job = await way.pipeline.submit(job)
        except Halt as halt:
            if halt.unwritten is None:
                self._tell_given_up(way.ledger.id, job.key)
            else:
                await self._write_down(way, job, halt.attempt, halt.unwritten)
                if halt.unwritten.event is lifecycle.Event.ACCEPTED:
                    self._house.tell(JobSubmitted(await way.ledger.get(job.key) or job))
            if isinstance(halt.error, LedgerError):
                raise halt.error from None
            self._sending.failed(halt.error)
        else:
            if job.state is not State.PLANNED:
                self._sending.went_well()

    async def _write_down(self, way: _Way, job: Job, attempt: int, move: Move) -> None:
        """Write down what became of a create, however long the database is away.

        As long as this process lives it is known, so the job is at no risk yet.
        """
        failures = 0
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    await way.ledger.catch_up(job, attempt, move)
                except LeaseLost:  # what is paid was kept all the same
                    return
                except LedgerError as error:
                    failures += 1
                    log.warning("job %s: its answer is not written yet: %s", job.key, error)
                else:
                    return
                if self._leaving:
                    facts = ", ".join(f"{name} {value}" for name, value in move.changes.items())
                    log.critical(
                        "job %s: that its create was %s was never written (%s)",
                        *(job.key, move.event, facts),
                    )
                    return
                await anyio.sleep(min(DATABASE_CEILING, pause_after(failures)))

    async def _see_through(self, way: _Way, job: Job) -> None:
        """Wait for the end of a create that somebody else has begun, as long as one may come.

        Whoever was taken for dead may come back, and have its answer.
        """
        await way.pipeline.create_ended(job.key)
        with anyio.move_on_after(self._house.settings.request_timeout):
            while not await self._is_answered(way, job):  # noqa: ASYNC110 - by another process
                await anyio.sleep(_LOOK)
        settled = await way.ledger.settle(job.key, mine=True)
        if settled.state is State.UNRESOLVED and settled.attempts < MAX_REPEATS:
            log.warning("job %s: its create was cut off, and no answer is known", job.key)
            if way.pipeline.on_unknown == "repeat":
                await way.ledger.record(settled, lifecycle.retried())

    @staticmethod
    async def _is_answered(way: _Way, job: Job) -> bool:
        stored = await way.ledger.get(job.key)
        if stored is None or stored.state is not State.SUBMITTING:
            return True
        return any(one.attempt == stored.attempts for one in await way.ledger.receipts(job.key))

    async def _is_ours(self, way: _Way, job: Job) -> bool:
        """Whether the batch's tasks live at the host that this worker uses."""
        try:
            await way.ledger.bind(self._house.settings.host, self._of_batch(way.ledger.id))
        except WrongHost as error:
            log.warning("job %s: %s", job.key, error)
            return False
        return True

    @staticmethod
    async def _waits(way: _Way, job: Job) -> bool:
        """Whether the job before it, in a chain, has set out again since this one was queued."""
        if not isinstance(job.request, ChainStep):
            return False
        before = await way.ledger.get(job.request.parent)
        return before is not None and before.state not in chains.READY | chains.HOPELESS

    def _of_batch(self, batch: str) -> str:
        return f"{self._out.rstrip('/')}/{batch}"

    async def _destination(self, way: _Way) -> Destination:
        async with way.turn:
            if way.to is None:
                place = self._place_of(way.ledger.out or self._of_batch(way.ledger.id))
                await place.prepare()
                way.to = Destination(place, None)
            return way.to

    def _forget(self) -> None:
        """Let go of batches that nobody works on, those first that were not used for longest."""
        idle = [name for name, way in self._ways.items() if not way.users]
        for name in idle[: max(0, len(self._ways) - WAYS)]:
            way = self._ways.pop(name)
            if way.to is not None:
                with suppress(OSError):  # what is in it may be gone on with
                    way.to.place.parts.folder.rmdir()

    @asynccontextmanager
    async def _way(self, batch: str) -> AsyncIterator[_Way | None]:
        """A batch, as long as it is worked on; ``None`` if it is not there any more."""
        way = self._ways.get(batch)
        if way is None:
            ledger = await PostgresLedger.known(self._books, batch, enqueue=enqueue)
            if ledger is None:
                log.warning("batch %s is gone, and with it what was queued of it", batch)
                yield None
                return
            way = self._ways.setdefault(batch, _Way(ledger, self._new_pipeline(ledger)))
        way.users += 1
        self._ways.move_to_end(batch)
        try:
            yield way
        finally:
            way.users -= 1
            self._forget()
