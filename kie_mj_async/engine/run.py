"""One run over a ledger: take the list in, then feed what is unfinished down the road.

A first run, a repeated one and a resume are the same: what differs is only where the ledger says the
jobs stand. Memory is bounded by the jobs that are on the road, not by the length of the list.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Final, Literal

import anyio
import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    InvalidRequest,
    KieError,
    LedgerError,
    TransportError,
)
from ..events import Event, JobEnded, JobHeldBack, JobStarted, Planned
from ..jobs import Job, Outcome, Pending, State, Unresolved, outcome_of
from ..ledger import Ledger
from ..ledger.base import NO_LIST, each_job, jobs_in, urgency
from ..logs import ids, logger
from ..requests import ExistingTask, Request
from ..rules import lifecycle
from ..rules.hints import seconds_left
from ..rules.lifecycle import IllegalMove
from ..rules.pacing import MAY_STILL_RUN
from .admission import Admission, unnamed
from .clock import Clock
from .following import Followers
from .hints import HintDesk
from .pipeline import Destination, Halt, Pipeline
from .preparing import waits_for
from .prospect import Prospect
from .resolving import recover
from .staging import nobody, others, stage, survey

log = logger(__name__)

BACKLOG: Final = 50
"""Jobs on the road besides those in flight: being saved, or next in the queue."""


class Run:
    """A run over one ledger.

    Args:
        pipeline: The road.
        admission: The account's gate, for what may still be running.
        to: Where results go.
        clock: Where the time comes from.
        in_flight: Tasks that may run at once.
        job_timeout: Seconds to wait for each task.
        tell: Who hears of events.
        balance: Asks for the account's credits; ``None`` where nobody can tell.
        hints: Who takes hints for these jobs; ``None`` for nobody.
        prospect: Who keeps what is left of it, for the time that takes; ``None`` for nobody.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        admission: Admission,
        to: Destination,
        clock: Clock,
        in_flight: int,
        job_timeout: float,
        tell: Callable[[Event], None],
        balance: Callable[[], Awaitable[float]] | None = None,
        hints: HintDesk | None = None,
        prospect: Prospect | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._ledger: Ledger = pipeline.ledger
        self._admission = admission
        self._to = to
        self._clock = clock
        self._began = clock.now()
        self._job_timeout = job_timeout
        self._tell = tell
        self._balance = balance
        self._hints = hints
        self._prospect = prospect
        self._followers = Followers(pipeline.ledger)
        self._found: dict[str, Job] = {}
        self._told: dict[str, Literal["unresolved", "pending"]] = {}
        self._changed = anyio.Event()
        self._desk = anyio.Semaphore(in_flight + BACKLOG)
        self._submits: set[anyio.CancelScope] = set()
        self._feeding = anyio.CancelScope()
        self._number: int | None = None
        self.halted: KieError | None = None

    async def plan(self, requests: Iterable[Request] | AsyncIterable[Request] | None) -> Planned:
        """Take the list in, whole or not at all; ``None`` means whatever the ledger holds.

        Raises:
            InvalidRequest: An entry of the list is bad; nothing was taken in.
            LedgerError: The ledger cannot be written.
            AuthenticationError: The key was refused when the balance was asked for.
        """
        prices = self._pipeline.prices
        plan = self._prospect.plan if self._prospect is not None else nobody
        if requests is None:
            planned = await survey(self._ledger, prices, plan)
        else:
            self._number, planned = await stage(self._ledger, requests, prices, plan)
            planned = await others(self._ledger, self._number, planned)
        if planned.cost:
            planned = attrs.evolve(planned, balance=await self._read_balance())
        planned = attrs.evolve(planned, batch=ids().batch)
        self._tell(planned)
        return planned

    async def go(self, send: Callable[[Outcome], Awaitable[None]]) -> None:
        """Do all that can be done now, and hand out every job's outcome.

        Raises:
            KieError: The run cannot go on; what was on the road has been brought to an end.
        """
        if self._prospect is not None:
            self._prospect.begin()
        await recover(self._ledger)
        await self._followers.open(self._number)
        if self._hints is not None:
            self._hints.road = self
            await self._hints.settle()
        await self._count_what_may_run()
        if self._pipeline.on_unknown == "repeat":
            await self._retry_unresolved()
        await self._mend_manifest()
        await self._tell_earlier(send)
        async with anyio.create_task_group() as road:
            with self._feeding:
                try:
                    async for job in self._to_do():
                        await self._desk.acquire()
                        road.start_soon(self._job, job, send)
                except LedgerError as error:  # what is on the road may have more to tell
                    self.stop_feeding(error)
        # Evidence is worth having, and nothing that goes wrong with it hides why the run ended.
        with suppress(AuthenticationError, LedgerError):
            if (await self._ledger.counts()).at_risk:
                await self._read_balance()
        if self.halted is not None:
            raise self.halted

    async def _read_balance(self) -> float | None:
        """The account's credits, kept in the ledger as evidence for later."""
        if self._balance is None:
            return None
        try:
            balance = await self._balance()
        except AuthenticationError:
            raise
        except (ApiError, TransportError, InvalidRequest) as error:
            log.info("the balance is not known: %s", error)
            return None
        await self._ledger.note_balance(self._clock.now(), balance)
        return balance

    def stop_feeding(self, error: KieError) -> None:
        """Submit nothing more; what is on its way goes on."""
        if self.halted is None or (_names_a_loss(error) and not _names_a_loss(self.halted)):
            self.halted = error
        self._feeding.cancel()
        for scope in self._submits:
            scope.cancel()

    async def _job(self, job: Job, send: Callable[[Outcome], Awaitable[None]]) -> None:
        outcome: Outcome | None = None
        self._tell(JobStarted(job, ids().batch, self._told.pop(job.key, None)))
        try:
            outcome = await self._travel(job)
            if outcome is not None:
                self._tell_end(outcome)
                await send(outcome)
            else:
                self._tell(JobHeldBack(job))
            if self.halted is None:
                await self._tell_stuck(await self._followers.ended(job), send)
        except KieError as error:
            self.stop_feeding(error)
        finally:
            self._followers.release(job)
            if self._prospect is not None:
                self._prospect.done(job if outcome is None else outcome.job)
            found = self._found.pop(job.key, None)
            if found is not None and isinstance(outcome, Unresolved):
                self.join(found)
            self._desk.release()
            self._wake()

    def join(self, job: Job) -> None:
        """Take a job along whose task was found meanwhile, unless it is on the road already.

        A job that was handed out as unresolved is handed out again, when it has gone on.
        """
        if self._followers.push(job):
            self._wake()
        else:
            # Whoever has it sees for himself that it has moved on, unless he is done with it.
            self._found[job.key] = job

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _tell_stuck(
        self, stuck: list[tuple[Job, Job]], send: Callable[[Outcome], Awaitable[None]]
    ) -> None:
        """Hand out the steps that cannot go on in this run, and why."""
        for job, before in stuck:
            outcome = Pending(job, KieError(waits_for(before), billed="no"))
            self._tell_end(outcome)
            await send(outcome)

    def _tell_end(self, outcome: Outcome, *, earlier: bool = False) -> None:
        """Tell of an end, and remember it where a callback may still undo it."""
        if self._hints is not None and self._hints.listening:
            if isinstance(outcome, Unresolved):
                self._told[outcome.job.key] = "unresolved"
            elif outcome.job.state is State.PLANNED:
                self._told[outcome.job.key] = "pending"
        self._tell(JobEnded(outcome, earlier=earlier))

    async def _travel(self, job: Job) -> Outcome | None:
        """The job's outcome; ``None`` if it was not sent because nothing more is."""
        try:
            if job.state is State.PLANNED:
                job = await self._submit(job)
                if self._prospect is not None:
                    self._prospect.unplan(job)
            if job.state is State.PLANNED:
                return None
            if self._prospect is not None:
                self._prospect.sent(job)
            if job.state is State.UNRESOLVED and self._hints is not None:
                job = await self._hints.wait(job, self._callback_due(job))
            made = self._prospect.made if self._prospect is not None else nobody
            return await self._pipeline.travel(job, self._to, self._job_timeout, made)
        except Halt as halt:
            self.stop_feeding(halt.error)
            job = await self._ledger.get(job.key) or job
            return None if job.state is State.PLANNED else outcome_of(job, self._to.root)

    def _callback_due(self, job: Job) -> float:
        """Seconds in which a callback may still tell what became of an unresolved job."""
        if self._hints is None or not self._hints.listening:
            return 0.0
        return min(self._job_timeout, seconds_left(job.submitted_at, self._clock.now()))

    def _may_be_found(self, job: Job) -> bool:
        """Whether a callback may still tell of an unresolved job of an earlier run."""
        earlier = job.submitted_at is not None and job.submitted_at < self._began
        return earlier and self._callback_due(job) > 0

    async def _submit(self, job: Job) -> Job:
        """Submit, unless or until :meth:`stop_feeding` is called."""
        with anyio.CancelScope() as scope:
            self._submits.add(scope)
            try:
                if self.halted is None:
                    return await self._pipeline.submit(job)
            finally:
                self._submits.discard(scope)
        return await self._ledger.get(job.key) or job

    async def _mend_manifest(self) -> None:
        manifest = self._to.manifest
        files = (await self._ledger.counts()).files
        if manifest is not None and not await manifest.fits(files, self._ledger.get):
            await manifest.rebuild(each_job(self._ledger, with_files=True))

    async def _retry_unresolved(self) -> None:
        async for job in jobs_in(self._ledger, State.UNRESOLVED, self._number):
            with suppress(IllegalMove):  # a callback has just found its task
                await self._ledger.record(job, lifecycle.retried())

    async def _count_what_may_run(self) -> None:
        recent = self._clock.now() - timedelta(seconds=MAY_STILL_RUN)
        async for job in jobs_in(self._ledger, State.UNRESOLVED):
            if job.submitted_at is not None and job.submitted_at > recent:
                self._admission.linger(unnamed(job.key, job.attempts))

    async def _tell_earlier(self, send: Callable[[Outcome], Awaitable[None]]) -> None:
        """Hand out what had ended before; of a resume, tell of what waits for a decision."""
        resumed = self._number is None
        for state in (State.UNRESOLVED,) if resumed else sorted(lifecycle.SETTLED):
            async for job in jobs_in(self._ledger, state, self._number):
                if state is State.UNRESOLVED and self._may_be_found(job):
                    continue
                outcome = outcome_of(job, self._to.root)
                self._tell_end(outcome, earlier=True)
                if not resumed:
                    await send(outcome)
                if state is State.UNRESOLVED:
                    await self._tell_stuck(await self._followers.stuck_behind(job), send)

    async def _to_do(self) -> AsyncIterator[Job]:
        """What the ledger lists, and in front of it whatever has come to be meanwhile."""
        listed = self._unfinished()
        more = True
        while True:
            # Asked for before it is looked whether there is something to do.
            changed = self._changed
            if (job := self._followers.pop()) is not None:
                yield job
            elif more:
                job = await anext(listed, None)
                more = job is not None
                if job is not None and (turn := await self._followers.turn_of(job)) is not None:
                    yield turn
            elif self._followers.any_taken:
                await changed.wait()
            elif self._hints is not None and self._hints.busy:
                await self._hints.idle()  # they may bring a job along
            else:
                return

    async def _unfinished(self) -> AsyncIterator[Job]:
        """What is paid for first, soonest expiry first; then what is new, in the list's order.

        Where callbacks come, what may still be found by one is waited for too.
        """
        running: set[str] = set()
        begun = (jobs_in(self._ledger, state) for state in (State.SUCCEEDED, State.RUNNING))
        async for job in _merged(*begun):
            if job.state is State.RUNNING:
                running.add(job.key)
            elif job.key in running:  # it has succeeded meanwhile, and is on the road
                continue
            yield job
        async for job in self._followers.planned():
            yield job
        if self._number is not None:
            # Tasks that were paid besides a job's own are of no list: whoever works here sees to them.
            async for job in jobs_in(self._ledger, State.PLANNED, NO_LIST):
                if isinstance(job.request, ExistingTask):
                    yield job
        # Last, for they only wait, and would keep others from the desk.
        async for job in jobs_in(self._ledger, State.UNRESOLVED, self._number):
            if self._may_be_found(job):
                yield job


async def _merged(*orders: AsyncIterator[Job]) -> AsyncIterator[Job]:
    """Several orders of jobs, each soonest expiry first, as one."""
    heads = [(job, order) for order in orders if (job := await anext(order, None)) is not None]
    while heads:
        head = min(heads, key=lambda pair: urgency(pair[0]))
        yield head[0]
        heads.remove(head)
        if (job := await anext(head[1], None)) is not None:
            heads.append((job, head[1]))


def _names_a_loss(error: KieError) -> bool:
    """Whether this is the only place where a paid task's id is kept."""
    return isinstance(error, LedgerError) and error.task_id is not None
