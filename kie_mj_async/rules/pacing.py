"""The account's limits: the rolling window of creates, and what a 429 teaches.

**The window.** A create occupies a slot from just before its POST; the slot is free again one window
after its *reply* (or its failure) was observed. With s <= c <= r (sent, counted by the service,
answered) the slot's next create is counted at c' >= r + w >= c + w, so no rolling window ever holds
more than its creates, whatever the network's jitter. Freeing at s + w does not have this property.

Time stamps are those of a monotonic clock that all processes of a machine share. It restarts with the
machine, and stays safe: a stamp from before the restart either lies in the future (it counts as now)
or in the past by more than the machine has been up, which is less than the time that really passed.

**429s.** The first one says "too fast": pause for a window, then let a single create into an empty
window. If that is refused too, the limit that binds is the number of running tasks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import attrs

MARGIN: Final = 0.01
"""Seconds added to the window, for clocks that run at slightly different speeds."""

APART: Final = 0.05
"""Seconds between two questions of workers that wait for the same slot, about."""

MAY_STILL_RUN: Final = 600.0
"""Seconds for which a task whose fate is unknown counts as running (the service takes a minute to
ten)."""

PATIENCE: Final = 900.0
"""Seconds of nothing but refusals (429, 455), with no task of ours running, before giving up."""

UNREACHABLE: Final = 60.0
"""Seconds without any answer from the API host before giving up (exit 3)."""


@attrs.frozen
class Rate:
    """So many creates in any rolling window of so many seconds."""

    creates: int = 20
    seconds: float = 10.0


@attrs.frozen
class Slot:
    """One create's place in the window.

    Attributes:
        id: Its name.
        owner: Who took it.
        taken_at: When.
        ended_at: When its reply or failure was observed; ``None`` while it is under way.
        gives_up_at: When its request will have timed out at the latest.
    """

    id: int
    owner: str
    taken_at: float
    ended_at: float | None
    gives_up_at: float


@attrs.frozen
class Granted:
    """Take a slot now.

    Attributes:
        others: How many slots of the window are occupied besides.
    """

    others: int


@attrs.frozen
class Wait:
    """No slot is free.

    Attributes:
        seconds: When to ask again at the latest; ``None`` while every slot's create is under way.
    """

    seconds: float | None


def settle(slots: Sequence[Slot], now: float, rate: Rate, gone: Collection[str]) -> list[Slot]:
    """The slots that still count, with what can no longer be observed counted as ended now.

    Args:
        slots: As they were stored.
        now: The present.
        rate: The account's rate.
        gone: Owners that no longer exist; their open slots were cut off and end now.
    """
    kept = []
    for slot in slots:
        ended = slot.ended_at
        if ended is None and (slot.owner in gone or slot.gives_up_at < now):
            ended = now if slot.owner in gone else slot.gives_up_at
        if ended is None and slot.taken_at > now:
            ended = now
        if ended is not None and ended > now:
            ended = now
        if ended is None or ended + rate.seconds + MARGIN > now:
            kept.append(slot if ended == slot.ended_at else attrs.evolve(slot, ended_at=ended))
    return kept


def grant(slots: Sequence[Slot], now: float, rate: Rate) -> Granted | Wait:
    """Whether another create may go now, given settled slots."""
    over = len(slots) - rate.creates + 1
    if over <= 0:
        return Granted(others=len(slots))
    ends = sorted(slot.ended_at for slot in slots if slot.ended_at is not None)
    if len(ends) < over:
        return Wait(None)
    return Wait(max(0.0, ends[over - 1] + rate.seconds + MARGIN - now))


def spread(wait: Wait, *, look_again: float, workers: int, chance: float) -> Wait:
    """When one of several workers that wait for the same slot asks again.

    They would all come at the moment it is free. The more of them, the further apart, so that what
    they ask a second stays about the same, however many they are.

    Args:
        wait: What they were all told.
        look_again: Seconds between two looks while every slot's create is under way.
        workers: How many there are, as far as is known.
        chance: A number in [0, 1).
    """
    seconds = look_again if wait.seconds is None else wait.seconds
    return Wait(seconds + APART * workers * chance)


@attrs.frozen
class Throttle:
    """What the service's refusals have taught, so far.

    Attributes:
        ceiling: Tasks that may run at once at most, as the user set it.
        cap: Tasks that may run at once, as far as is known.
        paused_until: No create before this time.
        proving: Let one create at a time into an empty window, until one is accepted.
        completions: Tasks that ended since the cap last changed.
    """

    ceiling: int
    cap: int
    paused_until: float = -math.inf
    proving: bool = False
    completions: int = 0

    def rate_limited(
        self, now: float, retry_after: float | None, rate: Rate, *, alone: bool, running: int
    ) -> Throttle:
        """After a 429.

        Args:
            now: The present.
            retry_after: What the service asked for; it may lengthen the pause, never shorten it.
            rate: The account's rate.
            alone: Whether the window was empty but for this create, so that it cannot be the rate.
            running: How many tasks may be running.
        """
        pause = max(retry_after or 0.0, rate.seconds)
        cap = max(1, min(self.cap, running - 1)) if alone else self.cap
        return attrs.evolve(
            self,
            cap=cap,
            paused_until=max(self.paused_until, now + pause),
            proving=True,
            completions=0 if alone else self.completions,
        )

    def postponed(self, now: float, seconds: float) -> Throttle:
        """After a create that could not be sent, or met maintenance."""
        return attrs.evolve(self, paused_until=max(self.paused_until, now + seconds), proving=True)

    def accepted(self) -> Throttle:
        """After a create that was accepted."""
        return attrs.evolve(self, proving=False) if self.proving else self

    def completed(self) -> Throttle:
        """After a task ended: probe upwards, one place for every round of tasks.

        A place a completion would meet the limit again after two tasks, and every such meeting costs
        a pause.
        """
        if self.cap >= self.ceiling:
            return self
        if self.completions + 1 < self.cap:
            return attrs.evolve(self, completions=self.completions + 1)
        return attrs.evolve(self, cap=self.cap + 1, completions=0)

    def wait(self, now: float, *, running: int, sending: int) -> float | None:
        """Seconds to hold the next create back: 0 for go, ``None`` for "until something ends".

        Args:
            now: The present.
            running: Tasks that may be running, creates under way included.
            sending: Creates under way.
        """
        if self.paused_until > now:
            return self.paused_until - now
        if running >= self.cap or (self.proving and sending):
            return None
        return 0.0


def backoff(failures: int, *, first: float, ceiling: float, chance: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded, spread by chance.

    Args:
        failures: 1 after the first.
        first: Seconds after the first failure.
        ceiling: Seconds at the most.
        chance: A number in [0, 1); the wait lies between half and all of the step.
    """
    step = min(ceiling, first * 2.0 ** min(failures - 1, 30))
    return step * (0.5 + chance / 2)


@attrs.frozen
class PollBudget:
    """How many polls a second the account's pending tasks share.

    Attributes:
        ceiling: Polls a second at the most.
        current: Polls a second now; refused polls shrink it.
        next_at: The earliest time of the next poll.
    """

    ceiling: float = 5.0
    current: float = 5.0
    next_at: float = -math.inf

    def spent(self, now: float) -> PollBudget:
        """After one poll was sent at ``now``; idle time is not saved up beyond a second's worth."""
        earliest = max(self.next_at, now - 1.0)
        return attrs.evolve(self, next_at=earliest + 1 / self.current)

    def refused(self, now: float, retry_after: float | None) -> PollBudget:
        """After a 429 on a poll: half the pace, and a pause."""
        pace = max(self.ceiling / 16, self.current / 2)
        pause_ends = now + max(retry_after or 0.0, 1 / pace)
        return attrs.evolve(self, current=pace, next_at=max(self.next_at, pause_ends))

    def answered(self) -> PollBudget:
        """After an answered poll: back towards the ceiling."""
        if self.current >= self.ceiling:
            return self
        return attrs.evolve(self, current=min(self.ceiling, self.current * 1.05))
