"""Lost replies found again: callbacks that name the task of a create whose end nobody saw.

A hint is kept durably first; then the task's record is read, and only if its parameters are the job's
is the task taken for the job's own. What a hint means is decided in ``rules/hints.py``.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio

from ..errors import AuthenticationError, InvalidRequest, KieError, LedgerError, NotFound
from ..events import CallbackAwaited, Event, JobAdded, JobSubmitted
from ..failpoints import reach
from ..jobs import Job, State
from ..ledger import Attempt, Ledger
from ..logs import about, anew, ids, logger
from ..requests import ExistingTask
from ..rules import hints, lifecycle, naming, pacing
from ..rules.hints import Course
from ..rules.lifecycle import IllegalMove
from ..waiting import outlast
from .admission import unnamed
from .poll_scheduler import Reader
from .preparing import Preparer

log = logger(__name__)

_TRIES: Final = 6
"""Reads of a hinted task's record at most, where the service answers that it has none, or not for us.

Where it cannot tell at present (maintenance, an outage), it is asked again for as long as a create would
be. In any case the hint is kept, so a later run can try again.
"""


class Road(Protocol):
    """A run that jobs can join."""

    def join(self, job: Job) -> None:
        """Take this job along, unless it is on the way already."""


class HintDesk:
    """Takes the hints for one ledger's jobs.

    Args:
        ledger: Where the jobs are.
        reader: Who reads records.
        preparer: Who knows what a job asked for.
        create_ended: Waits until no create of the job with this key is under way.
        listening: Whether callbacks come at all; hints that are kept are used in any case.
        found: Called with what a task of unknown id was called, and with its id, once that is known.
        tell: Who hears of events.
        chance: Random numbers in [0, 1).

    Attributes:
        road: The run over this ledger, while there is one.
    """

    def __init__(
        self,
        ledger: Ledger,
        reader: Reader,
        preparer: Preparer,
        create_ended: Callable[[str], Awaitable[None]],
        *,
        listening: Callable[[], bool] = lambda: True,
        found: Callable[[str, str], None] = lambda _name, _task_id: None,
        tell: Callable[[Event], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._preparer = preparer
        self._create_ended = create_ended
        self._listening = listening
        self._found = found
        self._tell = tell
        self._chance = chance
        self._waiting: dict[str, anyio.Event] = {}
        self._followed: set[str] = set()
        self._busy: set[anyio.CancelScope] = set()
        self._idle = anyio.Event()
        self._closed = False
        self._batch = ids().batch
        self.road: Road | None = None

    @property
    def listening(self) -> bool:
        """Whether callbacks come."""
        return self._listening()

    async def knows(self, token: str) -> bool:
        """Whether a token belongs to one of this ledger's jobs."""
        return not self._closed and await self._ledger.by_token(token) is not None

    async def take(self, token: str, task_id: str) -> None:
        """A callback with this token named this task. Nobody waits for it, so it raises nothing."""
        if self._closed:
            return
        with anyio.CancelScope() as scope, anew(self._batch, task_id=task_id):
            if not self._busy:
                self._idle = anyio.Event()
            self._busy.add(scope)
            try:
                await self._take(token, task_id)
            except KieError as error:
                log.warning("a callback's task %s could not be followed: %s", task_id, error)
            except Exception:
                log.exception("a callback's task %s could not be followed", task_id)
            finally:
                self._busy.discard(scope)
                if not self._busy:
                    self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether hints are under way."""
        return bool(self._busy)

    async def idle(self) -> None:
        """Wait until no hint is under way."""
        while self._busy:
            await self._idle.wait()

    async def aclose(self) -> None:
        """Let go of the ledger."""
        self._closed = True
        for scope in self._busy:
            scope.cancel()
        await outlast(lambda: not self._busy, self.idle)

    async def settle(self) -> None:
        """Take the hints that an earlier run has kept, and did not come to use."""
        async with anyio.create_task_group() as tasks:
            for attempt in await self._ledger.open_hints():
                tasks.start_soon(self.take, attempt.token, attempt.hint or "")

    async def wait(self, job: Job, timeout: float) -> Job:
        """Wait until a callback tells what became of an unresolved job.

        Args:
            job: The job.
            timeout: Seconds to wait, if callbacks come; what is known already is used in any case.

        Returns:
            The job after it.

        Raises:
            LedgerError: The ledger cannot be used.
        """
        attempt = await self._ledger.last_attempt(job.key)
        if attempt is None:
            return job
        told = self._waiting[job.key] = anyio.Event()
        try:
            # It may have come while the create was under way.
            job = await self._settle_one(job, attempt.token)
            if job.state is State.UNRESOLVED and timeout > 0 and self._listening():
                self._tell(CallbackAwaited(job, timeout))
                with anyio.move_on_after(timeout):
                    await told.wait()
                job = await self._settle_one(job, attempt.token)
        finally:
            del self._waiting[job.key]
        return job

    async def _settle_one(self, job: Job, token: str) -> Job:
        attempt = await self._ledger.by_token(token)
        if attempt is not None and attempt.hint is not None:
            await self._follow(attempt, attempt.hint)
        return await self._ledger.get(job.key) or job

    async def _take(self, token: str, task_id: str) -> None:
        attempt = await self._ledger.by_token(token)
        if attempt is None or attempt.task_id is not None:
            return
        if await self._ledger.by_task(task_id) is None:
            await self._ledger.note_hint(token, task_id)
            reach("hint stored")
            await self._follow(attempt, task_id)

    async def _follow(self, attempt: Attempt, task_id: str) -> None:
        """Take the task for what it is, unless somebody is at it already."""
        if attempt.token in self._followed:
            return
        self._followed.add(attempt.token)
        with about(job=attempt.key, task_id=task_id):
            await self._follow_on(attempt, task_id)

    async def _follow_on(self, attempt: Attempt, task_id: str) -> None:
        try:
            job, course = await self._course(attempt)
            if course is Course.WAIT:
                await self._create_ended(attempt.key)
                job, course = await self._course(attempt)
            if job is None or course not in (Course.ADOPT, Course.EXTRA):
                return
            if not await self._is_of(job, attempt, task_id):
                return
            # Reading its record has taken a while, and the job may have moved on.
            while not await self._done(attempt, task_id):
                pass
        finally:
            self._followed.discard(attempt.token)

    async def _course(self, attempt: Attempt) -> tuple[Job | None, Course]:
        now, job = await self._ledger.by_token(attempt.token), await self._ledger.get(attempt.key)
        if now is None or job is None:
            return None, Course.NOTHING
        course = hints.course(
            job.state, attempts=job.attempts, number=now.number, task_id=now.task_id
        )
        return job, course

    async def _done(self, attempt: Attempt, task_id: str) -> bool:
        """Do what the hint means now; false if the job moved on at that very moment."""
        job, course = await self._course(attempt)
        try:
            if job is not None and course is Course.ADOPT:
                await self._adopt(job, attempt, task_id)
            elif course is Course.EXTRA:
                await self._add(attempt, task_id)
        except IllegalMove:
            return False
        return True

    async def _adopt(self, job: Job, attempt: Attempt, task_id: str) -> None:
        move = lifecycle.adopted(task_id, attempt.price, attempt.token)
        job = await self._ledger.record(job, move)
        log.info("task %s found for job %s by its callback", task_id, job.key)
        self._go_on(job, attempt, task_id)

    async def _add(self, attempt: Attempt, task_id: str) -> None:
        """One more job, for a task that was paid besides the one its job has."""
        key = naming.extra_key(attempt.key, attempt.number)
        move = lifecycle.adopted(task_id, attempt.price, attempt.token)
        try:
            job = await self._ledger.add(key, ExistingTask(task_id), move)
        except LedgerError as error:
            log.critical("task %s was paid and could not be written down: %s", task_id, error)
            raise
        log.warning(
            "task %s was paid besides the one that job %s has: it is job %s now",
            task_id,
            attempt.key,
            key,
        )
        self._tell(JobAdded(job))
        self._go_on(job, attempt, task_id)

    def _go_on(self, job: Job, attempt: Attempt, task_id: str) -> None:
        """Somebody is to wait for the task that was found."""
        reach("hint used")
        self._found(unnamed(attempt.key, attempt.number), task_id)
        self._tell(JobSubmitted(job))
        if waiting := self._waiting.get(job.key):
            waiting.set()
        elif self.road is not None:
            self.road.join(job)

    async def _is_of(self, job: Job, attempt: Attempt, task_id: str) -> bool:
        """Whether the task's record shows the parameters of the job; a hint that lies is dropped."""
        until = anyio.current_time() + pacing.PATIENCE
        failures = 0
        while True:
            try:
                record = await self._reader.record(task_id)
            except KieError as error:
                failures += 1
                log.info("task %s: its record could not be read: %s", task_id, error)
                wait = pacing.backoff(failures, first=1.0, ceiling=30.0, chance=self._chance())
                last = failures >= _TRIES and isinstance(error, NotFound | AuthenticationError)
                if last or anyio.current_time() + wait > until:
                    return False
                await anyio.sleep(wait)
                continue
            try:
                different = await self._preparer.differences(job, record)
            except InvalidRequest as error:
                different = [str(error)]
            if different:
                what = "; ".join(different)
                log.warning("task %s is not job %s, as a callback said: %s", task_id, job.key, what)
                await self._ledger.note_hint(attempt.token, None)
            return not different
