"""Who may send a create, and when: one queue for the account, first come, first served.

It holds together what ``rules/pacing.py`` and ``rules/billing.py`` decide: the window's slots, the
places in flight, the pauses that refusals ask for, and the cap on credits.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import anyio
import attrs

from ..account import Taken, Window
from ..errors import BudgetReached, KieError, NotSent, RateLimited
from ..events import CreatesPaused
from ..failpoints import reach
from ..logs import logger
from ..rules import billing, pacing
from ..rules.billing import Accepted, Lost, Refused, Unsent, Verdict
from .clock import Clock
from .throttling import Lesson, OwnThrottling, Throttling

log = logger(__name__)

_LOOK_AGAIN = 0.1
"""Seconds between two looks at a licence that does not hold."""


_NEWEST = 0.1
"""What the newest create counts in the mean of how long they take."""


_IDLE = 60.0
"""Seconds without a question after which an old silence tells nothing; back-off stays below it."""


class Reach:
    """Whether the API host answers at all.

    Args:
        clock: Where the time comes from.
        patience: Seconds without any answer before giving up.
    """

    def __init__(self, clock: Clock, patience: float = pacing.UNREACHABLE) -> None:
        self._clock = clock
        self._patience = patience
        self._silent_since: float | None = None
        self._last_silent = -math.inf

    def heard(self) -> None:
        """Something answered."""
        self._silent_since = None

    def silent(self, error: KieError) -> NotSent | None:
        """Nothing answered; the error to give up with, once that has lasted too long."""
        now = self._clock.monotonic()
        if self._silent_since is None or now - self._last_silent > _IDLE:
            # Nobody asked for a while: that tells nothing about the time in between.
            self._silent_since = now
        self._last_silent = now
        lasted = now - self._silent_since
        if lasted < self._patience:
            return None
        return NotSent(f"the API host has not been reachable for {lasted:.0f} s: {error}")


@attrs.define
class Ticket:
    """The right to send one create, now.

    Attributes:
        taken: Its slot of the window.
        cost: The credits it will cost.
        since: When it was given.
    """

    taken: Taken
    cost: float
    since: float


@attrs.frozen
class _Place:
    """A task that may be running.

    Attributes:
        until: When it stops to count; infinity while somebody watches it.
        paid: The credits that this client paid for it.
    """

    until: float
    paid: float


def unnamed(key: str, attempt: int) -> str:
    """What to call the task of a job's n-th attempt while nobody knows its id."""
    return f"lost {key}/{attempt}"


class Admission:
    """The account's gate for creates.

    Args:
        window: The account's window.
        in_flight: Tasks that may run at once at most.
        max_credits: The cap on what this client may spend, or ``None``.
        clock: Where the time comes from.
        reach: Whether the host answers.
        chance: Random numbers in [0, 1).
        tell: Who hears of pauses.
        licensed: Whether this process may send anything at all now.
        throttling: What refusals have taught; by default this process alone.
    """

    def __init__(
        self,
        window: Window,
        *,
        in_flight: int,
        max_credits: float | None,
        clock: Clock,
        reach: Reach,
        chance: Callable[[], float] = random.random,
        tell: Callable[[CreatesPaused], None] = lambda _: None,
        licensed: Callable[[], bool] = lambda: True,
        throttling: Throttling | None = None,
    ) -> None:
        self._licensed = licensed
        self._window = window
        self._throttling = throttling or OwnThrottling(in_flight)
        self._max_credits = max_credits
        self._clock = clock
        self._reach = reach
        self._chance = chance
        self._tell = tell
        self._turn = anyio.Lock()
        self._changed = anyio.Event()
        self._sending = 0
        self._tasks: dict[str, _Place] = {}
        self._expiries: list[tuple[float, str]] = []
        self._refused_since: float | None = None
        self._refusals = 0
        self._refusal = ""
        self.committed = 0.0
        self.round_trip = 0.0
        """Seconds from a slot of the window to its create's end, the mean of late."""

    @property
    def rate(self) -> pacing.Rate:
        """How many creates the window takes."""
        return self._window.rate

    @property
    def throttle(self) -> pacing.Throttle:
        """What the service's refusals have taught, as far as is known here."""
        return self._throttling.known(self._clock.monotonic())

    @property
    def places(self) -> int:
        """Tasks that may run at once, as far as is known."""
        return self.throttle.cap

    @property
    def hold(self) -> float:
        """Seconds in which no create is sent, for a refusal asked for a pause."""
        return max(0.0, self.throttle.paused_until - self._clock.monotonic())

    @property
    def pause(self) -> CreatesPaused | None:
        """What is left of the pause that a refusal asked for, as whoever comes now is to be told."""
        hold = self.hold
        return CreatesPaused(self._refusal, hold) if hold else None

    @property
    def sending(self) -> int:
        """Creates under way."""
        return self._sending

    @property
    def running(self) -> int:
        """Tasks that may be running, creates under way included."""
        now = self._clock.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            until, name = heapq.heappop(self._expiries)
            place = self._tasks.get(name)
            if place is not None and place.until == until:
                del self._tasks[name]
        return self._sending + len(self._tasks)

    async def enter(self, cost: float) -> Ticket:
        """Wait for the right to send a create that costs so much.

        Whoever gets a ticket must pass it to :meth:`leave`, whatever happens.

        Raises:
            BudgetReached: The job would pass the cap.
            ApiError: The service has refused for too long.
        """
        async with self._turn:
            while True:
                self._check_budget(cost)
                if not self._licensed():
                    await self._pause(_LOOK_AGAIN)
                    continue
                throttle = self.throttle
                hold = throttle.wait(
                    self._clock.monotonic(), running=self.running, sending=self._sending
                )
                if hold == 0:
                    answer = await self._window.take(only_if_empty=throttle.proving)
                    if isinstance(answer, Taken):
                        reach("slot taken")
                        self._sending += 1
                        self.committed += cost
                        return Ticket(answer, cost, self._clock.monotonic())
                    hold = self._window.look_again if answer.seconds is None else answer.seconds
                elif hold is None and self._expiries:
                    hold = max(0.0, self._expiries[0][0] - self._clock.monotonic())
                    self._tell_of_strangers(hold)
                await self._pause(hold)

    def may_send(self, ticket: Ticket) -> bool:
        """Whether a create may begin now: asked for just before its first byte."""
        return self._window.fresh(ticket.taken) and self._licensed()

    async def leave(self, ticket: Ticket, verdict: Verdict | None, attempt: str) -> KieError | None:
        """Give a ticket back with what became of its create.

        Args:
            ticket: From :meth:`enter`.
            verdict: How the create ended; ``None`` if it was never sent.
            attempt: What to call its task while it has no id (see :func:`unnamed`).

        Returns:
            The error to stop with, if more creates make no sense.
        """
        with anyio.CancelScope(shield=True):
            if verdict is None or isinstance(verdict, Unsent):
                await self._window.free(ticket.taken)
            else:
                await self._window.end(ticket.taken)
        self._sending -= 1
        if isinstance(verdict, Accepted):
            took = self._clock.monotonic() - ticket.since
            self.round_trip += (took - self.round_trip) * (_NEWEST if self.round_trip else 1.0)
        stop = None
        match verdict:
            case Accepted(task_id):
                self._reach.heard()
                self._tasks[task_id] = _Place(math.inf, ticket.cost)
                if self.throttle.proving:
                    self._learn(lambda known, _now, _all: known.accepted())
                self._refused_since, self._refusals = None, 0
            case Lost():
                # It may be running, and paid.
                self._tasks[attempt] = _Place(math.inf, ticket.cost)
                self.linger(attempt)
            case Refused(error, then):
                self._reach.heard()
                self.committed -= ticket.cost
                if then == "again":
                    stop = self._postpone(error, alone=ticket.taken.alone)
            case Unsent(held=True):
                self.committed -= ticket.cost
            case Unsent(error):
                self.committed -= ticket.cost
                stop = self._reach.silent(error) or self._postpone(error, alone=False)
            case None:
                self.committed -= ticket.cost
        self._wake()
        with anyio.CancelScope(shield=True):
            await self._throttling.share()
        return stop

    def watched(self, task_id: str) -> None:
        """A task that may be running has somebody who waits for it."""
        self._tasks[task_id] = _Place(math.inf, self._paid(task_id))

    def linger(self, task_id: str) -> None:
        """Nobody waits for this task, and it may run on: it counts for as long as tasks take."""
        until = self._clock.monotonic() + pacing.MAY_STILL_RUN
        self._tasks[task_id] = _Place(until, self._paid(task_id))
        heapq.heappush(self._expiries, (until, task_id))
        self._wake()

    def finish(self, task_id: str, *, charged: bool = True) -> None:
        """A task ended at the service.

        Args:
            task_id: The task.
            charged: Whether the service keeps the credits; what this client paid comes back if not.
        """
        place = self._tasks.pop(task_id, None)
        if place is None:
            return
        if not charged:
            self.committed -= place.paid
        if self.throttle.cap < self.throttle.ceiling:
            self._learn(lambda known, _now, _all: known.completed())
        self._refused_since = None
        self._wake()

    def found(self, attempt: str, task_id: str) -> None:
        """A task of unknown id has turned out to be this one, which somebody may wait for already."""
        paid = self._paid(attempt)
        self._tasks.pop(attempt, None)
        if (place := self._tasks.get(task_id)) is not None:
            self._tasks[task_id] = attrs.evolve(place, paid=paid)
            return
        self._tasks[task_id] = _Place(math.inf, paid)
        self.linger(task_id)

    def _paid(self, task_id: str) -> float:
        place = self._tasks.get(task_id)
        return place.paid if place is not None else 0.0

    def _check_budget(self, cost: float) -> None:
        if not billing.fits(self.committed, cost, self._max_credits):
            message = (
                f"the next job would cost {cost:g} credits, and {self.committed:g} of the "
                f"{self._max_credits:g} allowed are spent or committed"
            )
            raise BudgetReached(message)

    def _tell_of_strangers(self, hold: float) -> None:
        """Say so if nothing is awaited but tasks that nobody watches."""
        if self._sending == 0 and all(place.until < math.inf for place in self._tasks.values()):
            tasks = "a task" if len(self._tasks) == 1 else f"{len(self._tasks)} tasks"
            reason = f"{tasks} of unknown fate may still be running and hold every place in flight"
            self._tell(CreatesPaused(reason, hold))

    def _postpone(self, error: KieError, *, alone: bool) -> KieError | None:
        now = self._clock.monotonic()
        self._refusals += 1
        if self._refused_since is None:
            self._refused_since = now
        running = self.running
        if running == 0 and now - self._refused_since >= pacing.PATIENCE:
            return error
        asked = getattr(error, "retry_after", None)
        if isinstance(error, RateLimited):
            rate = self._window.rate
            self._learn(
                lambda known, at, everywhere: known.rate_limited(
                    at, asked, rate, alone=alone, running=max(running, everywhere)
                )
            )
        else:
            wait = pacing.backoff(self._refusals, first=1.0, ceiling=30.0, chance=self._chance())
            least = max(asked or 0.0, wait)
            alone_here = isinstance(error, NotSent)
            self._learn(lambda known, at, _all: known.postponed(at, least), alone=alone_here)
        self._refusal = str(error)
        seconds = self.hold
        log.info("no creates for %.1f s: %s", seconds, error)
        self._tell(CreatesPaused(self._refusal, seconds))
        return None

    def _learn(self, lesson: Lesson, *, alone: bool = False) -> None:
        self._throttling.learn(lesson, self._clock.monotonic(), alone=alone)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _pause(self, seconds: float | None) -> None:
        changed = self._changed
        with anyio.move_on_after(seconds):
            await changed.wait()
