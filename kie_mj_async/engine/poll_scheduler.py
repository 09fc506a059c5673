"""The one poll loop: every task that anybody waits for, in one heap of due times.

When to look is the forecast's decision, how often the account may look in all is the budget's. In the
heap a task waits to be asked about; what is to be looked at waits for the budget in one queue, first
come, first served, so that no task starves behind others that are due earlier. A callback wakes its
task (:meth:`PollScheduler.wake`), which joins the queue at once. A task that cannot be read for a while
(5xx, HTML, time-outs) backs off by itself and disturbs no other.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

import anyio
import anyio.lowlevel

from ..errors import (
    ApiError,
    AuthenticationError,
    KieError,
    NotFound,
    RateLimited,
    ResultExpired,
    TransportError,
)
from ..events import Event, Retrying
from ..failpoints import reach
from ..logs import about, ids, logger
from ..rules import pacing
from ..rules.forecast import Forecast
from ..rules.kinds import Kind, kind_of_record
from ..rules.schedule import SafetyNet
from ..rules.wire import Record, Status
from .admission import Reach
from .clock import Clock
from .watch import NOWHERE, At, Watch, timed_out

log = logger(__name__)

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

NEWS: Final = timedelta(days=1)
"""What a task took that was made longer ago says little about the service as it is now."""

_TOLD: Final = 4096
"""Tasks to remember so that a duration counts once, however often its task is waited for."""

_AT_ONCE: Final = 200
"""Tasks to ask the forecast about before others get their turn on the event loop."""

_SPARE: Final = 1024
"""Places in the heap that may have been given up, beside as many as there are watches."""


class Reader(Protocol):
    """Who can read a task's record."""

    async def record(self, task_id: str) -> Record:
        """What the service knows of a task."""


class PollScheduler:
    """Reads records until tasks end.

    Args:
        reader: Who reads them.
        forecast: When to look; it learns how long tasks take.
        clock: Where the time comes from.
        reach: Whether the host answers.
        budget: Polls a second.
        chance: Random numbers in [0, 1).
        net: When to look at tasks whose end a callback tells of.
        tell: Who hears of looks that failed.
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
        net: SafetyNet | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._forecast = forecast
        self._net = net or SafetyNet()
        self._tell = tell
        self._clock = clock
        self._reach = reach
        self._budget = budget or pacing.PollBudget()
        self._chance = chance
        self._heap: list[tuple[float, Watch]] = []
        self._queue: deque[Watch] = deque()
        self._told: dict[str, None] = {}
        self._watches: dict[str, Watch] = {}
        self._early: dict[str, float] = {}
        self._callbacks_come = True
        self._changed = anyio.Event()
        self._sleeps_until = -math.inf
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
        kind: Kind,
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
        watch = self._begin(task_id, kind, born, timeout, relaxed=relaxed)
        try:
            return await watch.done
        finally:
            self._forget(watch)

    def _begin(
        self, task_id: str, kind: Kind, born: datetime | None, timeout: float, *, relaxed: bool
    ) -> Watch:
        now = self._clock.monotonic()
        woken = now - self._early.pop(task_id, -math.inf) < EARLY
        watch = Watch(
            kind,
            now if born is None else now - self._since(born),
            task_id,
            timeout,
            now + timeout,
            asyncio.get_running_loop().create_future(),
            relaxed=relaxed and not woken and self._callbacks_come,
            born_known=born is not None,
            about=ids(),
        )
        if born is None or woken:
            # One of unknown age may be done, and one of which that was said is.
            self._ready(watch)
        elif watch.relaxed:
            due = watch.born + self._net.next_look(0.0)
            self._schedule(watch, max(now, due), sure=True)
        else:
            self._go_on(watch, now)
        watch.other = self._watches.get(task_id)
        self._watches[task_id] = watch
        return watch

    def wake(self, task_id: str) -> bool:
        """Look at a task now, for it is said to have ended; once, however often that is said.

        From then on it is looked at as if nobody had promised a callback. A task that nobody waits
        for yet is looked at as soon as somebody does, within a while (``EARLY``).

        Returns:
            Whether somebody waits for it.
        """
        self._callbacks_come = True
        first = self._watches.get(task_id)
        if first is None:
            self._early.pop(task_id, None)  # so that the oldest stay in front
            self._early[task_id] = self._clock.monotonic()
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return False
        for watch in first.all():
            watch.relaxed = False
            if watch.looking:
                # What is being read may be from before the end.
                watch.at = At.LOOKING_TWICE
            elif watch.at is not At.QUEUED:
                self._ready(watch)
        return True

    def _forget(self, watch: Watch) -> None:
        first = self._watches[watch.task_id]
        if first is not watch:
            before = next(one for one in first.all() if one.other is watch)
            before.other = watch.other
        elif watch.other is not None:
            self._watches[watch.task_id] = watch.other
        else:
            del self._watches[watch.task_id]
        watch.due = NOWHERE
        self._leave(watch, None)

    def _leave(self, watch: Watch, seconds: float | None) -> None:
        """The forecast need not think of it any more."""
        if watch.of is not None:
            self._forecast.ended(watch, self._clock.monotonic(), seconds)
            self._stir(self._forecast.next_call)

    async def _next_due(self) -> Watch:
        """Wait for the next task that is to be looked at and that the budget allows to look at."""
        while True:
            # Asked for before it is looked whether there is something to do.
            changed = self._changed
            now = self._clock.monotonic()
            more = self._ask_about_those_due(now)
            while self._queue and self._queue[0].done.done():
                self._queue.popleft()
            until = self._budget.next_at if self._queue else math.inf
            if until <= now:
                return self._queue.popleft()
            if more:
                await anyio.lowlevel.checkpoint()
                continue
            if self._heap:
                until = min(until, self._heap[0][0])
            self._sleeps_until = until = min(until, self._forecast.next_call)
            with anyio.move_on_after(None if until == math.inf else until - now):
                await changed.wait()
            self._sleeps_until = -math.inf

    def _ask_about_those_due(self, now: float) -> bool:
        """Take what is due off the heap: into the queue, or back for later. Whether there is more."""
        heap = self._heap
        for _ in range(_AT_ONCE):
            called = self._forecast.call(now)
            if called is not None:
                # One that is looked at anyhow, or has a reason to wait, needs no call.
                if isinstance(called, Watch) and called.at is At.ASKING:
                    self._go_on(called, now)
                continue
            if not heap:
                return False
            due, watch = heap[0]
            if due != watch.due or watch.done.done():
                heapq.heappop(heap)  # no longer its place: it was woken, or its waiter has gone
            elif due > now:
                return False
            else:
                heapq.heappop(heap)
                watch.due = NOWHERE
                self._go_on(watch, now)
        return True

    def _go_on(self, watch: Watch, now: float) -> None:
        """Let a task wait, for as long as the forecast says; then it is asked again."""
        if watch.at is At.DUE or now >= watch.deadline:
            self._ready(watch)
            return
        if watch.relaxed:
            self._schedule(watch, now + self._net.next_look(now - watch.born), sure=True)
            return
        if watch.of is None:
            self._forecast.started(watch, now)
        wait = self._forecast.wait(watch, now)
        if wait > 0.0:
            self._schedule(watch, now + wait)
            if watch.holds:
                self._stir(self._forecast.next_call)
        else:
            # Not asked again before this look: a new class's turn may have been taken for it.
            self._ready(watch)

    def _ready(self, watch: Watch) -> None:
        """To be looked at, as soon as the budget allows."""
        watch.due, watch.at = NOWHERE, At.QUEUED
        self._queue.append(watch)
        if len(self._queue) == 1:
            self._stir(-math.inf)

    def _schedule(self, watch: Watch, due: float, *, sure: bool = False) -> None:
        watch.due, watch.at = min(due, watch.deadline), At.DUE if sure else At.ASKING
        heapq.heappush(self._heap, (watch.due, watch))
        if len(self._heap) > 2 * len(self._watches) + _SPARE:
            self._heap[:] = [(at, one) for at, one in self._heap if at == one.due]
            heapq.heapify(self._heap)
        self._stir(watch.due)

    def _stir(self, due: float) -> None:
        """Wake the loop if it would sleep longer than until then."""
        if due < self._sleeps_until:
            self._changed.set()
            self._changed = anyio.Event()

    async def _look(self, watch: Watch) -> None:
        try:
            if watch.done.done():
                return
            self.polls += 1
            watch.at = At.LOOKING
            sent = self._clock.monotonic()
            with about(watch.about.batch, watch.about.job, watch.task_id):
                end = await self._verdict(watch)
        finally:
            again, watch.at = watch.at is At.LOOKING_TWICE, At.ASKING
            self._places.release()
        if watch.done.done():
            return
        now = self._clock.monotonic()
        if isinstance(end, Record):
            self._ended(watch, end)
        elif isinstance(end, KieError):
            watch.done.set_exception(end)
        elif now >= watch.deadline:
            watch.done.set_exception(timed_out(watch))
        elif end is not None:
            self._schedule(watch, now + end, sure=True)
        else:
            if watch.of is None and not watch.relaxed:
                self._forecast.started(watch, now)
            if watch.of is not None:
                self._forecast.looked(watch, sent)
            if again:
                self._ready(watch)
            else:
                self._go_on(watch, now)

    def _ended(self, watch: Watch, record: Record) -> None:
        """A task has ended, for all who wait for it."""
        seconds = self._lasted(watch.task_id, record)
        if watch.relaxed:
            self._missed(watch)
        if watch.of is not None:
            self._leave(watch, seconds)
        elif seconds is not None:
            self._forecast.observe(watch.kind, seconds)
            self._stir(self._forecast.next_call)
        for one in self._watches[watch.task_id].all():
            if not one.done.done():
                one.done.set_result(record)

    def _lasted(self, task_id: str, record: Record) -> float | None:
        """How long it took by the service's own times, if that is news.

        Failures are none: how long they take tells nothing of the others.
        """
        began, ended = record.created_at, record.completed_at
        if began is None or ended is None or record.status is not Status.SUCCEEDED:
            return None
        if task_id in self._told or self._clock.now() - began > NEWS:
            return None
        self._told[task_id] = None
        if len(self._told) > _TOLD:
            del self._told[next(iter(self._told))]
        return (ended - began).total_seconds()

    def _missed(self, watch: Watch) -> None:
        """The clock found an end that a callback should have told of: do not wait for more of them."""
        if self._callbacks_come:
            self._callbacks_come = False
            log.warning(
                "task %s ended and no callback came; is the callback's address reachable from outside? "
                "Polling as usual until one comes",
                watch.task_id,
            )

    async def _verdict(self, watch: Watch) -> Record | KieError | float | None:
        """The task's end, an error that ends the wait, or seconds to wait; ``None`` if it runs."""
        try:
            record = await self._reader.record(watch.task_id)
        except KieError as error:
            return self._after_trouble(watch, error)
        reach("poll read")
        self._heard()
        watch.trouble = None
        if not watch.kind.task_type and record.task_type:
            # Known only by its id until now.
            self._leave(watch, None)
            watch.kind = kind_of_record(record)
        if record.status in (Status.SUCCEEDED, Status.FAILED):
            return record
        if not watch.born_known and record.created_at is not None:
            self._leave(watch, None)
            watch.born = self._clock.monotonic() - self._since(record.created_at)
            watch.born_known = True
        if record.status is not Status.GENERATING:
            log.warning("task %s: %s (flag %r)", watch.task_id, record.status.value, record.flag)
        return None

    def _after_trouble(self, watch: Watch, error: KieError) -> KieError | float:
        failures = watch.trouble[0] + 1 if watch.trouble else 1
        wait = pacing.backoff(failures, first=1.0, ceiling=30.0, chance=self._chance())
        match error:
            case NotFound():
                self._heard()
                if self._age(watch) >= NOT_YET:
                    wait = watch.deadline - watch.timeout + NOT_YET - self._clock.monotonic()
                if wait <= 0:
                    message = f"task {watch.task_id}: the service does not know it (any more)"
                    return ResultExpired(message, task_id=watch.task_id, billed="unknown")
            case AuthenticationError():
                return error
            case RateLimited(retry_after=asked):
                self._reach.heard()
                self._budget = self._budget.refused(self._clock.monotonic(), asked)
                self._forecast.allow(self._budget.current)
            case ApiError():
                self._heard()
            case TransportError():
                if stop := self._reach.silent(error):
                    return stop
            case _:
                self._heard()
        watch.trouble = failures, error
        log.info("task %s: looking again in %.1f s: %s", watch.task_id, wait, error)
        self._tell(Retrying("look", ids(), error, wait, failures))
        return wait

    def _heard(self) -> None:
        self._reach.heard()
        self._budget = self._budget.answered()
        self._forecast.allow(self._budget.current)

    def _since(self, born: datetime) -> float:
        return max(0.0, (self._clock.now() - born).total_seconds())

    def _age(self, watch: Watch) -> float:
        return self._clock.monotonic() - watch.born
