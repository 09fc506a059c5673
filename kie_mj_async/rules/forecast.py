"""When to look at which task: what was learned of durations, under the account's budget of polls.

Each class of tasks has a schedule, solved for from its distribution of durations and a *price*: the
seconds of delay that one look may cost. The price is one for all classes, so that looks are spent where
they save most; it is the lowest that keeps the looks expected in the next while within the budget, and
never below a floor, since a tenth of a second is not worth a request.

While a class is new and many of its tasks have started together, they take turns (``crowd.py``): each
look is at one of them, on behalf of all, as often as the price for so many asks; when two have been
found done, all follow the schedule.

A task is asked about (:meth:`Forecast.wait`) more often than it is looked at, since what is
known changes while it waits. Nothing here grows with the number of tasks but one :class:`Pending` each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from ..progress import Left
from .ages import Ages
from .crowd import Crowd, Pending
from .durations import Durations
from .kinds import Kind
from .schedule import Schedule
from .spread import Spread

PRICE: Final = 0.15
"""Seconds of delay that a look is worth when there is budget for all: about a second's delay on average
for tasks of a minute, in four looks."""

POLLS: Final = 5.0
"""Polls a second that an account's tasks share."""

_LADDER: Final = 1.25
"""Prices are powers of this, so that few schedules are solved for."""

_RUNGS: Final = 60
"""The highest price is some days a look."""

_REVIEW: Final = 10
"""Polls' worth of time between two choices of the price."""

_AHEAD: Final = 50
"""Polls' worth of time that the price is chosen for."""

_ENOUGH: Final = 1.5
"""Durations that are known of a class that is not new (two, with some doubt)."""

_WIDE: Final = 3.0
"""Where nothing is known but a distribution with heavy tails (``spread.py``), the best step between
looks is the root of this, times the price, times the age."""

_CROWD: Final = 3
"""So many tasks of a new class take turns; fewer go by the guess."""

_PATIENT: Final = 20
"""A task that holds goes by the guess after all at a price so many powers higher, lest it hold for
ever behind tasks that never end."""

_KEPT: Final = 16
"""Schedules that are kept of a class."""

_CLASSES: Final = 256
"""Classes at hand; those without pending tasks give way."""

_STUCK: Final = 3
"""So many tasks that outlive nearly all of their class, and the distribution is made anew."""

_LATER: Final = 0.1
"""A task of a known class is asked about again after this share of its age at the latest."""

_SOON: Final = 0.01
"""A task is asked about again after this share of its age at the soonest ..."""

_ASKED: Final = 2000.0
"""... and all tasks of a class together so often a second at most."""


class Forecast:
    """When to look at which task.

    Times are those of one clock that never goes back. A task's life: :meth:`started`, then
    :meth:`wait` until that is 0, a look, :meth:`looked` if it still runs (and :meth:`wait` again), or
    :meth:`ended`. Whoever is called in between (:meth:`call`) is asked about before its time.

    Args:
        durations: What is known; it learns.
        polls: Polls a second that all pending tasks share.
        scale: How long a recorded second takes here, for what a look is worth.
    """

    def __init__(
        self, durations: Durations | None = None, *, polls: float = POLLS, scale: float = 1.0
    ) -> None:
        self.durations = durations or Durations(scale)
        self._floor = PRICE * scale
        self._polls = polls
        self._unit = _REVIEW / polls
        self._classes: dict[Kind, Crowd] = {}
        self._lines: dict[Kind, Crowd] = {}
        self._rung = 0
        self._review_at = -math.inf

    @property
    def price(self) -> float:
        """Seconds of delay that a look may cost now."""
        return self._price(self._rung)

    def recall(self, durations: Durations) -> None:
        """Go on from what was learned before; instead of what was known, so at the beginning."""
        self.durations = durations
        for of in self._classes.values():
            of.spread = None

    def allow(self, polls: float) -> None:
        """So many polls a second are allowed from now on."""
        if polls != self._polls:
            self._polls, self._unit = polls, _REVIEW / polls
            self._review_at = -math.inf

    def started(self, task: Pending, now: float) -> None:
        """Somebody waits for this task."""
        self._class(task.kind).add(task, now)

    def wait(self, task: Pending, now: float) -> float:
        """Seconds until this task is to be asked about again, which is no look; 0 to look at it.

        One that holds may be called (:meth:`call`) before that. A look that this has asked for may wait
        for its turn in the budget. Do not ask again before it.
        """
        if now >= self._review_at:
            self._review(now)
        of = _followed(task)
        spread = self._spread(of)
        age = max(0.0, now - task.born)
        if self._takes_turns(of):
            return self._in_turn(of, spread, task, age)
        task.holds = False
        due = self._schedule(of, spread, self._rung).after(task.seen)
        if due - age <= 0.01 * self._floor:
            return 0.0
        patience = max(self._floor, _SOON * age, of.ages.count / _ASKED)
        return min(due - age, max(patience, self._unit, _LATER * age))

    @property
    def next_call(self) -> float:
        """When there may be somebody to :meth:`call`, at the soonest."""
        if not self._lines:
            return math.inf
        soonest = self._review_at
        for of in self._lines.values():
            if of.spread is None or not self._takes_turns(of):
                return -math.inf
            soonest = min(soonest, of.turn)
        return soonest

    def call(self, now: float) -> Pending | None:
        """A task that held, and is to be asked about now; ``None`` if there is none.

        Those of a class that is no longer new are called all, one after another.
        """
        if not self._lines:
            return None
        if now >= self._review_at:
            self._review(now)
        for of in list(self._lines.values()):
            self._spread(of)
            if not self._takes_turns(of):
                called = of.release()
            elif now >= of.turn:
                called = of.called = self._next_in_turn(of, now)
            else:
                continue
            if not of.anyone:
                del self._lines[of.kind]
            if called is not None:
                return called
        return None

    def looked(self, task: Pending, at: float) -> None:
        """The task was still running when a look at it was sent at ``at``."""
        _followed(task).saw(task, at - task.born)

    def ended(self, task: Pending, now: float, seconds: float | None) -> None:
        """Nobody waits for the task any more.

        Args:
            task: The task.
            now: The present.
            seconds: How long it took, by the service's own times; ``None`` where nobody knows, and
                where another class was told (:meth:`observe`), because its record named one.
        """
        of = task.of
        if of is None:
            return
        of.remove(task)
        of.turn = now
        if seconds is not None:
            self._observe(of, seconds, held_back=of.ended(task.born, seconds, now))
        self._settle(of, now)

    def observe(self, kind: Kind, seconds: float) -> None:
        """A task of this class took so long, whoever waited for it."""
        self._observe(self._class(kind), seconds, held_back=False)

    def _settle(self, of: Crowd, now: float) -> None:
        if of.held_back and (settled := of.settled(now)):
            for seconds in settled:
                self.durations.settle(of.kind, seconds)
            self._weigh(of)

    def _observe(self, of: Crowd, seconds: float, *, held_back: bool) -> None:
        self.durations.observe(of.kind, seconds, held_back=held_back)
        of.news += 1
        self._weigh(of)

    def _weigh(self, of: Crowd) -> None:
        """Let the distribution be made anew if the news are worth it."""
        known = of.spread.known if of.spread else 0.0
        if of.news >= 0.1 * known or self.durations.known(of.kind) < 0.85 * known:
            of.spread = None

    def next_look(self, kind: Kind, age: float) -> float:
        """Seconds until a task of this class, seen running at this age, is worth a look."""
        of = self._class(kind)
        spread = self._spread(of)
        return self._schedule(of, spread, self._rung).after(age) - age

    def look_ages(self, kind: Kind) -> list[float]:
        """The ages at which a task of this class is looked at, up to the longest that was imagined.

        None while the class is new: its tasks take turns.
        """
        of = self._class(kind)
        spread = self._spread(of)
        if self._takes_turns(of):
            return []
        schedule = self._schedule(of, spread, self._rung)
        found = of.looks.get(self._rung)
        if found is None:
            found = of.looks[self._rung] = []
            while (age := schedule.after(found[-1] if found else 0.0)) < spread.ages[-1]:
                found.append(age)
        return found

    def left(self, kind: Kind, age: float) -> Left:
        """How much longer a task of this class and age takes, in seconds."""
        return self.durations.law(kind).spread.left(age)

    def next_looks(self, kind: Kind, count: int = 5) -> list[float]:
        """The ages at which a task of this class is first looked at."""
        looks: list[float] = []
        for _ in range(count):
            age = looks[-1] if looks else 0.0
            looks.append(age + self.next_look(kind, age))
        return looks

    def _class(self, kind: Kind) -> Crowd:
        of = self._classes.get(kind)
        if of is None:
            if len(self._classes) >= _CLASSES:
                self._classes = {k: c for k, c in self._classes.items() if c.ages.count}
            of = self._classes[kind] = Crowd(kind, Ages(self._unit / 2))
        return of

    def _spread(self, of: Crowd) -> Spread:
        spread = of.spread
        if spread is None or (of.new and self.durations.total != of.total):
            running = of.running()
            spread = of.spread = self.durations.spread(of.kind, running)
            of.new = self.durations.known_nearby(of.kind) < _ENOUGH
            of.total, of.news = self.durations.total, 0
            of.overdue = _overdue(spread, running)
            of.forget_schedules()
        return spread

    def _schedule(self, of: Crowd, spread: Spread, rung: int) -> Schedule:
        schedule = of.schedules.get(rung)
        if schedule is None:
            price = self._price(rung)
            schedule = Schedule(spread.ages, spread.weights, spread.sums, price)
            of.schedules[rung] = schedule
        return schedule

    @staticmethod
    def _takes_turns(of: Crowd) -> bool:
        return of.new and of.ages.count > _CROWD

    def _in_turn(self, of: Crowd, spread: Spread, task: Pending, age: float) -> float:
        """The wait in a new class: until it is called, or until patience ends."""
        if of.called is task:
            of.called = None
            return 0.0
        last = self._schedule(of, spread, min(_RUNGS, self._rung + _PATIENT)).after(task.seen)
        if last - age <= 0.01 * self._floor:
            task.holds = False
            return 0.0
        of.hold(task)
        self._lines[of.kind] = of
        return last - age

    def _next_in_turn(self, of: Crowd, now: float) -> Pending | None:
        task = of.next_in_turn()
        gap = self._gap(of, max(0.0, now - (task.born if task else of.eldest)), self.price)
        # While all of the eldest are being looked at there is nobody to call.
        of.turn = now + (gap if task else max(gap, self._floor))
        return task

    def _price(self, rung: int) -> float:
        return self._floor * _LADDER**rung

    @staticmethod
    def _gap(of: Crowd, age: float, price: float) -> float:
        """Seconds between two turns in a new class: a look serves all of its tasks."""
        share = price / max(1, of.takers)
        return max(share, math.sqrt(_WIDE * share * age))

    def _review(self, now: float) -> None:
        """Choose the price."""
        self._review_at = now + self._unit
        pending = []
        for of in self._classes.values():
            if not of.ages.count:
                continue
            running = of.ages.bins(now)
            of.choose()
            self._settle(of, now)
            spread = self._spread(of)
            overdue = _overdue(spread, of.running())
            if overdue >= _STUCK and not 0.7 * overdue <= of.overdue <= 1.5 * overdue:
                of.spread = None
                spread = self._spread(of)
            pending.append((of, spread, running))
        horizon = _AHEAD / self._polls

        def looks(rung: int) -> float:
            total = 0.0
            for of, spread, running in pending:
                if self._takes_turns(of):
                    total += horizon / self._gap(of, running[0][0], self._price(rung))
                    continue
                schedule = self._schedule(of, spread, rung)
                total += sum(count * schedule.looks(age, horizon) for age, count in running)
            return total

        self._rung = _lowest(looks, self._rung)
        for of, _, _ in pending:
            if len(of.schedules) > _KEPT:
                of.forget_schedules()


def _lowest(looks: Callable[[int], float], near: int) -> int:
    """The lowest rung whose looks are within the budget; likely near this one."""
    low, high = 0, _RUNGS
    if looks(near) > _AHEAD:
        low = near + 1
    elif near == 0 or looks(near - 1) > _AHEAD:
        return near
    else:
        high = near - 1
    while low < high:
        middle = (low + high) // 2
        if looks(middle) > _AHEAD:
            low = middle + 1
        else:
            high = middle
    return min(low, _RUNGS)


def _overdue(spread: Spread, running: list[tuple[float, float]]) -> float:
    return sum(count for age, count in running if spread.alive(age) < 0.1)


def _followed(task: Pending) -> Crowd:
    if task.of is None:
        raise ValueError("the forecast does not follow this task")
    return task.of
