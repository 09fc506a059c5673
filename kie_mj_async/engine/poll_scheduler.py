"""The one poll loop: every task that anybody waits for, in one heap of due times.

When to look is the forecast's decision, how often the account may look in all is the budget's. A
callback wakes its task (:meth:`PollScheduler.wake`), which is then looked at out of turn. A task that
cannot be read for a while (5xx, HTML, time-outs) backs off by itself and disturbs no other.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import random
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

import anyio
import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    KieError,
    NotFound,
    RateLimited,
    ResultExpired,
    TaskTimedOut,
    TransportError,
)
from ..failpoints import reach
from ..rules import pacing
from ..rules.forecast import Forecast, SafetyNet, TaskClass
from ..rules.wire import Record, Status
from .admission import Reach
from .clock import Clock

log = logging.getLogger(__name__)

NOT_YET: Final = 60.0
"""Seconds after a create for which "no such task" means "not yet" (design: "Old tasks").

A task's age is the wall clock's word, and that may have jumped: the seconds are waited for as well.
"""

IN_FLIGHT: Final = 16
"""Polls under way at once at most."""

EARLY: Final = 600.0
"""Seconds for which a wake-up is kept for a task that nobody waits for yet.

A callback may beat the reply of its create, and that may take as long as a request may.
"""

MAX_EARLY: Final = 4096
"""Wake-ups that are kept at most; the oldest give way."""


class Reader(Protocol):
    """Who can read a task's record."""

    async def record(self, task_id: str) -> Record:
        """What the service knows of a task."""


@attrs.define(eq=False)
class _Watch:
    """A task that somebody waits for. Small: a hundred thousand may wait."""

    task_id: str
    kind: TaskClass
    born: float
    since: float
    deadline: float
    timeout: float
    done: asyncio.Future[Record]
    born_known: bool = True
    relaxed: bool = False
    due: float = math.inf
    turn: int = -1
    looking: bool = False
    again: bool = False
    looks: int = 0
    failures: int = 0
    trouble: KieError | None = None


class PollScheduler:
    """Reads records until tasks end.

    Args:
        reader: Who reads them.
        forecast: When to look.
        clock: Where the time comes from.
        reach: Whether the host answers.
        budget: Polls a second.
        chance: Random numbers in [0, 1).
        net: When to look at tasks whose end a callback tells of.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        forecast: Forecast,
        clock: Clock,
        reach: Reach,
        budget: pacing.PollBudget | None = None,
        chance: Callable[[], float] = random.random,
        net: Forecast | None = None,
    ) -> None:
        self._reader = reader
        self._forecast = forecast
        self._net = net or SafetyNet()
        self._clock = clock
        self._reach = reach
        self._budget = budget or pacing.PollBudget()
        self._chance = chance
        self._heap: list[tuple[float, int, _Watch]] = []
        self._order = itertools.count()
        self._watches: dict[str, list[_Watch]] = {}
        self._early: dict[str, float] = {}
        self._callbacks_come = True
        self._changed = anyio.Event()
        self._places = anyio.Semaphore(IN_FLIGHT)
        self.polls = 0

    async def run(self) -> None:
        """Poll for ever; cancel it to stop."""
        async with anyio.create_task_group() as looks:
            while True:
                watch = await self._next_due()
                # Taken here, so that what is due stays in the heap until it can be looked at.
                await self._places.acquire()
                self._budget = self._budget.spent(self._clock.monotonic())
                looks.start_soon(self._look, watch)

    async def watch(
        self,
        task_id: str,
        kind: TaskClass,
        *,
        born: datetime | None,
        timeout: float,
        relaxed: bool = False,
    ) -> Record:
        """Wait until a task has ended.

        Args:
            task_id: The task.
            kind: Its class, for the forecast.
            born: When it was created (UTC); ``None`` where nobody knows: then its record tells.
            timeout: Seconds to wait; at least one look is taken.
            relaxed: Whether a callback is expected to :meth:`wake` it, so that looks by the clock are
                only a safety net, as long as callbacks do come.

        Raises:
            TaskTimedOut: It was still generating then; it goes on at the service.
            ResultExpired: The service does not know it (any more).
            AuthenticationError: The key was refused.
            NotSent: The host could not be reached for too long.
        """
        now = self._clock.monotonic()
        done: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        known = born is not None
        since = now - self._since(born) if born is not None else now
        watch = _Watch(task_id, kind, since, now, now + timeout, timeout, done, born_known=known)
        woken = now - self._early.pop(task_id, -math.inf) < EARLY
        watch.relaxed = relaxed and not woken and self._callbacks_come
        # A task older than its class takes is likely to be done, and one of unknown age may be.
        known = known and not woken
        due = max(now, watch.born + self._next_look(watch, 0.0)) if known else now
        self._schedule(watch, min(due, watch.deadline))
        self._watches.setdefault(task_id, []).append(watch)
        try:
            return await done
        finally:
            self._forget(watch)

    def wake(self, task_id: str) -> bool:
        """Look at a task now, for it is said to have ended; once, however often that is said.

        From then on it is looked at as if nobody had promised a callback. A task that nobody waits
        for yet is looked at as soon as somebody does, within a while (``EARLY``).

        Returns:
            Whether somebody waits for it.
        """
        now = self._clock.monotonic()
        self._callbacks_come = True
        watches = self._watches.get(task_id)
        if watches is None:
            self._early.pop(task_id, None)  # so that the oldest stay in front
            self._early[task_id] = now
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return False
        for watch in watches:
            watch.relaxed = False
            if watch.looking:
                # What is being read may be from before the end.
                watch.again = True
            elif watch.due > now:
                self._schedule(watch, now)
        return True

    def _forget(self, watch: _Watch) -> None:
        watches = self._watches[watch.task_id]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.task_id]

    def _next_look(self, watch: _Watch, age: float) -> float:
        return (self._net if watch.relaxed else self._forecast).next_look(watch.kind, age)

    async def _next_due(self) -> _Watch:
        """Wait for the next task that is due and that the budget allows to look at."""
        while True:
            while self._heap and _is_past(self._heap[0][1], self._heap[0][2]):
                heapq.heappop(self._heap)
            due = self._heap[0][0] if self._heap else math.inf
            at = max(due, self._budget.next_at)
            wait = at - self._clock.monotonic()
            if wait <= 0:
                return heapq.heappop(self._heap)[2]
            changed = self._changed
            with anyio.move_on_after(None if wait == math.inf else wait):
                await changed.wait()

    def _schedule(self, watch: _Watch, due: float) -> None:
        first = not self._heap or due < self._heap[0][0]
        watch.due, watch.turn = due, next(self._order)
        heapq.heappush(self._heap, (due, watch.turn, watch))
        if first:
            self._changed.set()
            self._changed = anyio.Event()

    async def _look(self, watch: _Watch) -> None:
        try:
            if watch.done.done():
                return
            self.polls += 1
            watch.looking, watch.again = True, False
            end = await self._verdict(watch)
        finally:
            watch.looking = False
            self._places.release()
        watch.looks += 1
        if watch.done.done():
            return
        now = self._clock.monotonic()
        if isinstance(end, Record):
            if watch.relaxed:
                self._missed(watch)
            watch.done.set_result(end)
        elif isinstance(end, KieError):
            watch.done.set_exception(end)
        elif now >= watch.deadline:
            watch.done.set_exception(_timed_out(watch))
        else:
            wait = 0.0 if watch.again and watch.trouble is None else end
            self._schedule(watch, min(now + wait, watch.deadline))

    def _missed(self, watch: _Watch) -> None:
        """The clock found an end that a callback should have told of: do not wait for more of them."""
        if self._callbacks_come:
            self._callbacks_come = False
            log.warning(
                "task %s ended and no callback came; is the callback's address reachable from outside? "
                "Polling as usual until one comes",
                watch.task_id,
            )

    async def _verdict(self, watch: _Watch) -> Record | KieError | float:
        """The task's end, an error that ends the wait, or the seconds until the next look."""
        try:
            record = await self._reader.record(watch.task_id)
        except KieError as error:
            return self._after_trouble(watch, error)
        reach("poll read")
        self._heard()
        watch.failures, watch.trouble = 0, None
        if record.status in (Status.SUCCEEDED, Status.FAILED):
            return record
        if not watch.born_known and record.created_at is not None:
            watch.born = self._clock.monotonic() - self._since(record.created_at)
            watch.born_known = True
        if record.status is not Status.GENERATING:
            log.warning("task %s: %s (flag %r)", watch.task_id, record.status.value, record.flag)
        return self._next_look(watch, self._age(watch))

    def _after_trouble(self, watch: _Watch, error: KieError) -> KieError | float:
        watch.failures += 1
        wait = pacing.backoff(watch.failures, first=1.0, ceiling=30.0, chance=self._chance())
        match error:
            case NotFound():
                self._heard()
                if self._age(watch) >= NOT_YET:
                    wait = watch.since + NOT_YET - self._clock.monotonic()
                if wait <= 0:
                    message = f"task {watch.task_id}: the service does not know it (any more)"
                    return ResultExpired(message, task_id=watch.task_id, billed="unknown")
            case AuthenticationError():
                return error
            case RateLimited(retry_after=asked):
                self._reach.heard()
                self._budget = self._budget.refused(self._clock.monotonic(), asked)
            case ApiError():
                self._heard()
            case TransportError():
                if stop := self._reach.silent(error):
                    return stop
            case _:
                self._heard()
        watch.trouble = error
        log.info("task %s: looking again in %.1f s: %s", watch.task_id, wait, error)
        return wait

    def _heard(self) -> None:
        self._reach.heard()
        self._budget = self._budget.answered()

    def _since(self, born: datetime) -> float:
        return max(0.0, (self._clock.now() - born).total_seconds())

    def _age(self, watch: _Watch) -> float:
        return self._clock.monotonic() - watch.born


def _is_past(turn: int, watch: _Watch) -> bool:
    """Whether a place in the heap is no longer the task's: it was woken, or its waiter has gone."""
    return turn != watch.turn or watch.done.done()


def _timed_out(watch: _Watch) -> TaskTimedOut:
    why = f"; the last look failed: {watch.trouble}" if watch.trouble else ""
    message = (
        f"task {watch.task_id}: not finished after waiting {watch.timeout:g} s{why}. "
        "It goes on at the service: wait again, or resume the batch"
    )
    return TaskTimedOut(message, task_id=watch.task_id, billed="yes")
