"""What a worker does with a job from the queue: the same road as on one machine, in two steps.

Where a job stands is in its batch's ledger; a step reads it and goes on from there, whoever was at it
before. So a step may run twice, or at another worker than the one before it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import attrs

from ..archive.store import Place
from ..engine.house import House
from ..engine.pipeline import MAX_REPEATS, Destination, Halt, Pipeline
from ..errors import LedgerError, WriteFailed, WrongHost
from ..jobs import Job, Pending, State
from ..rules import chains, lifecycle
from ..rules.lifecycle import IllegalMove, Move
from .books import Books, LeaseLost
from .care import Care, pause_after
from .enqueuing import enqueue_part
from .ledger import PostgresLedger, parts_of

log = logging.getLogger(__name__)

WAYS: Final = 256
"""Batches whose ledger and place are kept at hand."""

REST_FIRST, REST_CEILING = 60.0, 3600.0
"""Seconds for which a job rests that could not be brought to its end."""

ASTRAY: Final = 600.0
"""Seconds for which a job rests that this worker cannot work on at all."""

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

    async def submit(self, name: str) -> str:
        """Submit a job, unless that has happened; what its state is then, in a word."""
        batch, key, turn = parts_of(name)
        async with self._way(batch) as way:
            while way is not None and (job := await way.ledger.of_turn(key, turn)) is not None:
                if not await self._is_ours(way, job, turn):
                    return "resting"
                if job.state is State.SUBMITTING:
                    await self._see_through(way, job)
                elif job.state is State.PLANNED:
                    # What cannot be saved is not to be paid.
                    await self._saving.passed()
                    await self._sending.passed()
                    await self._submit(way, job)
                else:
                    return job.state.value
        return "over"

    async def collect(self, name: str) -> str:
        """Wait for a job's task, and save its results; what its state is then, in a word."""
        batch, key, turn = parts_of(name)
        async with self._way(batch) as way:
            while way is not None and (job := await way.ledger.of_turn(key, turn)) is not None:
                if job.state in lifecycle.SETTLED:
                    if job.state in chains.READY | chains.HOPELESS:
                        await way.ledger.enqueue(behind=key)
                    return job.state.value
                if not await self._is_ours(way, job, turn):
                    return "resting"
                await self._saving.passed()
                try:
                    to = await self._destination(way)
                    outcome = await way.pipeline.travel(job, to, self._job_timeout)
                except WriteFailed as error:
                    self._saving.failed(error)
                    continue
                except Halt as halt:
                    await self._halted(halt, self._saving)
                    continue
                self._saving.went_well()
                if isinstance(outcome, Pending) and await way.ledger.rest(
                    key, turn, rest_after(turn)
                ):
                    log.warning("job %s rests: %s", name, outcome.error)
                    return "resting"
        return "over"

    def hurry(self, seconds: float) -> None:
        """This worker leaves: saves under way have so many seconds left."""
        self._leaving = True
        for way in self._ways.values():
            way.pipeline.hurry(seconds)

    async def _submit(self, way: _Way, job: Job) -> None:
        try:
            job = await way.pipeline.submit(job)
        except Halt as halt:
            if halt.unwritten is not None:
                await self._write_down(way, job, halt.unwritten)
            await self._halted(halt, self._sending)
        else:
            if job.state is not State.PLANNED:
                self._sending.went_well()

    async def _write_down(self, way: _Way, job: Job, move: Move) -> None:
        """Write down what the service has answered, however long the database is away.

        As long as this process lives it is known, so the job is at no risk yet.
        """
        failures = 0
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    stored = await way.ledger.get(job.key)
                    if stored is not None and stored.state is State.SUBMITTING:
                        await way.ledger.record(stored, move)
                except (LeaseLost, IllegalMove):  # what is paid was kept all the same
                    return
                except LedgerError as error:
                    failures += 1
                    log.warning("job %s: its answer is not written yet: %s", job.key, error)
                else:
                    return
                if self._leaving:
                    log.critical("job %s: its answer was never written: %s", job.key, move)
                    return
                await anyio.sleep(pause_after(failures))

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

    @staticmethod
    async def _halted(halt: Halt, care: Care) -> None:
        if isinstance(halt.error, LeaseLost):
            await anyio.sleep_forever()  # until this worker has noticed, and starts over
        care.failed(halt.error)

    async def _is_ours(self, way: _Way, job: Job, turn: int) -> bool:
        """Whether the batch can be worked on here; a job that cannot rests."""
        try:
            await way.ledger.bind(self._house.settings.host, self._of_batch(way.ledger.id))
        except WrongHost as error:
            log.warning("job %s: %s", job.key, error)
            return not await way.ledger.rest(job.key, turn, ASTRAY)
        return True

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
            del self._ways[name]

    @asynccontextmanager
    async def _way(self, batch: str) -> AsyncIterator[_Way | None]:
        """A batch, as long as it is worked on; ``None`` if it is not there any more."""
        way = self._ways.get(batch)
        if way is None:
            ledger = await PostgresLedger.known(self._books, batch, enqueue=enqueue_part)
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
