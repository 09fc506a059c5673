"""When to look at which task: what was learned of durations, under the account's budget of polls.

Each class of tasks has a schedule, solved for from its distribution of durations and a *price*: the
seconds of delay that one look may cost. The price is one for all classes, so that looks are spent where
they save most; it is the lowest that keeps the looks expected in the next while within the budget, and
never below a floor, since a tenth of a second is not worth a request.

While a class is new and many of its tasks have started together, they would all follow the same bad
guess. So they take turns: each look is at one of them, on behalf of all, as often as the price for so
many asks; when two have been found done, all follow the schedule.

A task is asked about (:meth:`Forecast.wait`) more often than it is looked at, since what is
known changes while it waits. Nothing here grows with the number of tasks but one :class:`Pending` each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from .ages import Ages
from .durations import Durations
from .kinds import Kind
from .schedule import Schedule
from .spread import Left, Spread

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

_SEEN: Final = 0.05
"""The width of those bins, in natural logarithms."""

_ELDEST: Final = 0.25
"""The part of a new class that takes turns: the first of them to end is likely among its eldest."""

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


@attrs.define(eq=False)
class _Class:
    """What is at hand for one class."""

    kind: Kind
    ages: Ages
    spread: Spread | None = None
    schedules: dict[int, Schedule] = attrs.Factory(dict)
    new: bool = True
    total: int = 0
    """Durations of all classes when the spread was made."""
    news: int = 0
    seen: dict[int, int] = attrs.Factory(dict)
    """Ages at which pending tasks were last seen running (in bins of ``_SEEN``), and how many."""
    overdue: float = 0.0
    turn: float = -math.inf
    """When the next task of a new class takes its turn."""
    round: float = -math.inf
    """When all of them began to take turns again."""
    eldest: float = -math.inf
    """Births of those that take turns, at the latest; and how many they are."""
    crowd: int = 1

    def note(self, age: float, count: int) -> None:
        """So many more tasks were last seen running at this age."""
        if age > 0.0:
            place = round(math.log(age) / _SEEN)
            self.seen[place] = self.seen.get(place, 0) + count
            if not self.seen[place]:
                del self.seen[place]

    def running(self) -> list[tuple[float, float]]:
        """Ages at which tasks were last seen running, and how many."""
        return [(math.exp(place * _SEEN), float(count)) for place, count in self.seen.items()]


@attrs.define(eq=False, weakref_slot=False)
class Pending:
    """A task that somebody waits for, as the forecast sees it.

    Attributes:
        born: When it was created.
        seen: The age at which it was last seen running; 0 if never.
        over: Whether nobody waits for it any more.
    """

    of: _Class
    born: float
    seen: float = 0.0
    over: bool = False


class Forecast:
    """When to look at which task.

    Times are those of one clock that never goes back. A task's life: :meth:`started`, then
    :meth:`wait` until that is 0, a look, :meth:`looked` if it still runs (and :meth:`wait` again), or
    :meth:`ended`.

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
        self._classes: dict[Kind, _Class] = {}
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

    def started(self, kind: Kind, born: float, now: float) -> Pending:
        """Somebody waits for a task of this class, created at ``born``."""
        of = self._class(kind)
        of.ages.add(born, now)
        return Pending(of, born)

    def wait(self, task: Pending, now: float) -> float:
        """Seconds until this task is to be asked about again, which is no look; 0 to look at it.

        A look that this has asked for may wait for its turn in the budget. Do not ask again before it.
        """
        if now >= self._review_at:
            self._review(now)
        of, age = task.of, max(0.0, now - task.born)
        spread = self._spread(of)
        patience = max(self._floor, _SOON * age, of.ages.count / _ASKED)
        if of.new and of.ages.count > _CROWD:
            return self._in_turn(of, spread, task, now, patience)
        due = self._schedule(of, spread, self._rung).after(task.seen)
        if due - age <= 0.01 * self._floor:
            return 0.0
        return min(due - age, max(patience, self._unit, _LATER * age))

    def looked(self, task: Pending, at: float) -> None:
        """The task was still running when a look at it was sent at ``at``."""
        age = at - task.born
        if age > task.seen:
            task.of.note(task.seen, -1)
            task.of.note(age, 1)
            task.seen = age

    def ended(self, task: Pending, now: float, seconds: float | None) -> None:
        """Nobody waits for the task any more.

        Args:
            task: The task.
            now: The present.
            seconds: How long it took, by the service's own times; ``None`` where nobody knows, and
                where another class was told (:meth:`observe`), because its record named one.
        """
        if task.over:
            return
        task.over = True
        of = task.of
        of.ages.remove(task.born)
        of.note(task.seen, -1)
        of.turn = now
        if seconds is not None:
            self.observe(of.kind, seconds)

    def observe(self, kind: Kind, seconds: float) -> None:
        """A task of this class took so long, whoever waited for it."""
        self.durations.observe(kind, seconds)
        of = self._class(kind)
        of.news += 1
        known = of.spread.known if of.spread else 0.0
        if of.news >= 0.1 * known or self.durations.known(kind) < 0.85 * known:
            of.spread = None

    def next_look(self, kind: Kind, age: float) -> float:
        """Seconds until a task of this class, seen running at this age, is worth a look."""
        of = self._class(kind)
        spread = self._spread(of)
        return self._schedule(of, spread, self._rung).after(age) - age

    def left(self, kind: Kind, age: float) -> Left:
        """How much longer a task of this class and age takes, in seconds."""
        return self.durations.law(kind)[0].left(age)

    def next_looks(self, kind: Kind, count: int = 5) -> list[float]:
        """The ages at which a task of this class is first looked at."""
        looks: list[float] = []
        for _ in range(count):
            age = looks[-1] if looks else 0.0
            looks.append(age + self.next_look(kind, age))
        return looks

    def _class(self, kind: Kind) -> _Class:
        of = self._classes.get(kind)
        if of is None:
            if len(self._classes) >= _CLASSES:
                self._classes = {k: c for k, c in self._classes.items() if c.ages.count}
            of = self._classes[kind] = _Class(kind, Ages(self._unit / 2))
        return of

    def _spread(self, of: _Class) -> Spread:
        spread = of.spread
        if spread is None or (of.new and self.durations.total != of.total):
            running = of.running()
            spread = of.spread = self.durations.spread(of.kind, running)
            of.new = self.durations.known_nearby(of.kind) < _ENOUGH
            of.total, of.news = self.durations.total, 0
            of.overdue = _overdue(spread, running)
            of.schedules.clear()
        return spread

    def _schedule(self, of: _Class, spread: Spread, rung: int) -> Schedule:
        schedule = of.schedules.get(rung)
        if schedule is None:
            price = self._price(rung)
            schedule = Schedule(spread.ages, spread.weights, spread.sums, price)
            of.schedules[rung] = schedule
        return schedule

    def _in_turn(
        self, of: _Class, spread: Spread, task: Pending, now: float, patience: float
    ) -> float:
        """The wait in a new class: its eldest take turns, and the rest hold."""
        age = max(0.0, now - task.born)
        last = self._schedule(of, spread, min(_RUNGS, self._rung + _PATIENT)).after(task.seen)
        if last <= age:
            return 0.0
        if now < of.turn or task.born > of.eldest:
            return max(patience, min(last - age, of.turn - now))
        if task.seen and task.born + task.seen >= of.round:
            if now < of.turn + 2.0 * patience:
                return patience
            of.round = now
        of.eldest, of.crowd = of.ages.eldest(_ELDEST)
        of.turn = now + self._gap(of, age, self.price)
        return 0.0

    def _price(self, rung: int) -> float:
        return self._floor * _LADDER**rung

    @staticmethod
    def _gap(of: _Class, age: float, price: float) -> float:
        """Seconds between two turns in a new class: a look serves all of its tasks."""
        share = price / max(1, of.crowd)
        return max(share, math.sqrt(_WIDE * share * age))

    def _review(self, now: float) -> None:
        """Choose the price."""
        self._review_at = now + self._unit
        pending = []
        for of in self._classes.values():
            if not of.ages.count:
                continue
            running = of.ages.bins(now)
            of.eldest, of.crowd = of.ages.eldest(_ELDEST)
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
                if of.new and of.ages.count > _CROWD:
                    total += horizon / self._gap(of, running[0][0], self._price(rung))
                    continue
                schedule = self._schedule(of, spread, rung)
                total += sum(count * schedule.looks(age, horizon) for age, count in running)
            return total

        self._rung = _lowest(looks, self._rung)
        for of, _, _ in pending:
            if len(of.schedules) > _KEPT:
                of.schedules.clear()


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
