"""The pending tasks of one class, and how those of a new class take turns.

While a class is new and many of its tasks have started together, they would all follow the same bad
guess. So they hold, and are called one after another: each look is at one of them, on behalf of all.
The first to end is likely among the eldest, so a part of them takes turns, and the younger ones join in
the order of their births. Who holds is asked nothing: to call one costs O(log n), however many there
are.

In any class the quick ones of those that began together end first, and for a while they alone say how
long it takes. Nobody should take that for a service that has become faster, so what they took is held
back until their peers have ended too (``drift.py``).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

import attrs

from .ages import Ages
from .kinds import Kind
from .schedule import Schedule
from .spread import Spread

_SEEN: Final = 0.05
"""The width of the bins of ages at which tasks were seen running, in natural logarithms."""

_ELDEST: Final = 0.25
"""The part of a new class that takes turns."""

_PEERS: Final = 0.05
"""Tasks began together if their births are apart by less than this part of what they take."""

_MOST: Final = 0.9
"""What a task took says something of its class when so many of its peers have ended too ..."""

_LATE: Final = 0.1
"""... or when only this part of the class takes as long as those that still run ..."""

_LONG: Final = 0.25
"""... or this part, ..."""

_FAR: Final = 1.4
"""... if half of those take so many times as long: they are of another mode.

What took longer itself than all but that part of the class is none of the quick ones ...
"""

_ABOUT: Final = 0.8
"""... unless peers were seen running at about that age."""

_ANY: Final = 7919.0
"""Large, so that the sines of this many times some numbers are in any order."""

_SPARE: Final = 64
"""Places in line that may be those of tasks which have left it, beside as many as there are tasks."""


@attrs.define(eq=False, weakref_slot=False)
class Pending:
    """A task that somebody waits for, as the forecast sees it. Small: a hundred thousand may wait.

    Attributes:
        kind: Its class.
        born: When it was created; not to be changed while ``of`` is set.
        seen: The age at which it was last seen running; 0 if never.
        of: Its crowd; ``None`` while the forecast does not think of it.
        holds: Whether it holds until it is called.
    """

    kind: Kind
    born: float
    seen: float = attrs.field(default=0.0, init=False)
    of: Crowd | None = attrs.field(default=None, init=False)
    holds: bool = attrs.field(default=False, init=False)
    _line: Crowd | None = attrs.field(default=None, init=False)
    """Where it has a place in line, though it may have left it."""

    def __lt__(self, other: Pending) -> bool:
        return self.born < other.born


@attrs.define(eq=False)
class Crowd:
    """The pending tasks of a class, and what is at hand for it.

    Attributes:
        kind: The class.
        ages: When its pending tasks were born.
        spread: How long they take, if that has been worked out since the last news.
        schedules: When to look, by price.
        looks: The ages that this means, likewise.
        new: Whether too little is known of it for a schedule.
        total: Durations of all classes when the spread was made.
        news: Durations of this class since.
        overdue: Tasks that had outlived nearly all of their class then.
        turn: When the next one may be called.
        eldest: Births of those that take turns, at the latest.
        takers: How many they are.
        called: The one whose turn it is.
        held_back: Births and durations of those that have ended before most of their peers, in the
            order of their births (of one birth in any order, but not in that of their ends).
    """

    kind: Kind
    ages: Ages
    spread: Spread | None = None
    schedules: dict[int, Schedule] = attrs.Factory(dict)
    looks: dict[int, list[float]] = attrs.Factory(dict)
    new: bool = True
    total: int = 0
    news: int = 0
    overdue: float = 0.0
    turn: float = -math.inf
    eldest: float = -math.inf
    takers: int = 1
    called: Pending | None = None
    held_back: list[tuple[float, float, float]] = attrs.Factory(list)
    _seen: dict[int, int] = attrs.Factory(dict)
    # Those that have not joined yet are in a heap, the eldest first; the others in a round.
    _young: list[Pending] = attrs.Factory(list)
    _round: deque[Pending] = attrs.Factory(deque)

    def add(self, task: Pending, now: float) -> None:
        """A task is pending."""
        task.of = self
        self.ages.add(task.born, now)

    def remove(self, task: Pending) -> None:
        """It is no longer."""
        self.ages.remove(task.born)
        self._note(task.seen, -1)
        task.of, task.seen, task.holds = None, 0.0, False
        if not self.ages.count:
            self._tidy()

    def forget_schedules(self) -> None:
        """What they were solved for is no longer so."""
        self.schedules.clear()
        self.looks.clear()

    def saw(self, task: Pending, age: float) -> None:
        """A task was seen running at this age."""
        if age > task.seen:
            self._note(task.seen, -1)
            self._note(age, 1)
            task.seen = age

    def running(self) -> list[tuple[float, float]]:
        """Ages at which tasks were last seen running, and how many."""
        return [(math.exp(place * _SEEN), float(count)) for place, count in self._seen.items()]

    def hold(self, task: Pending) -> None:
        """Let a task hold until it is called."""
        task.holds = True
        if task._line is self:
            return
        task._line = self
        if task.born <= self.eldest:
            self._round.append(task)
        else:
            heapq.heappush(self._young, task)
        if len(self._young) + len(self._round) > 2 * self.ages.count + _SPARE:
            self._tidy()

    def ended(self, born: float, seconds: float, now: float) -> bool:
        """A task has ended. Whether that says nothing of the class yet, since it came before its peers.

        Of tasks that began together the short ones end first.
        """
        if self._ripe(born, seconds, now):
            return False
        # Of one birth in an order that has nothing to do with that of their ends.
        insort(self.held_back, (born, math.sin(_ANY * seconds), seconds))
        return True

    def settled(self, now: float) -> list[float]:
        """Durations that were held back and no longer need be, in the order of their births."""
        ripe = 0
        while ripe < len(self.held_back):
            born, _, seconds = self.held_back[ripe]
            if not self._ripe(born, seconds, now):
                break
            ripe = bisect_right(self.held_back, born + _PEERS * seconds, key=lambda one: one[0])
        found = [seconds for _, _, seconds in self.held_back[:ripe]]
        del self.held_back[:ripe]
        return found

    def _ripe(self, born: float, seconds: float, now: float) -> bool:
        """Whether what a task took is no longer said before its peers have had their say."""
        age, spread = now - born, self.spread
        first, last = born - _PEERS * seconds, born + _PEERS * seconds
        running = math.floor(self.ages.between(first, last))
        if spread is not None:
            alive = spread.alive(age)
            if alive < _LATE or (alive < _LONG and spread.quantile(0.5, age) > _FAR * age):
                return True
            if spread.alive(seconds) < _LONG:
                running = min(running, self._seen_at(_ABOUT * seconds))
        ended = bisect_right(self.held_back, last, key=lambda one: one[0])
        ended -= bisect_left(self.held_back, first, key=lambda one: one[0])
        return running <= (1.0 - _MOST) * (running + max(1, ended))

    def _seen_at(self, age: float) -> int:
        """How many were seen running at this age or later."""
        if age <= 0.0:
            return self.ages.count
        least = round(math.log(age) / _SEEN)
        return sum(count for place, count in self._seen.items() if place >= least)

    @property
    def anyone(self) -> bool:
        """Whether any task may be holding."""
        return bool(self._round or self._young)

    def choose(self) -> None:
        """Choose anew who takes turns."""
        self.eldest, self.takers = self.ages.eldest(_ELDEST)

    def next_in_turn(self) -> Pending | None:
        """Take the one whose turn it is out of the line; ``None`` while none of the eldest holds."""
        self.choose()
        young = self._young
        while young and young[0].born <= self.eldest:
            self._round.append(heapq.heappop(young))
        return self._first(self._round)

    def release(self) -> Pending | None:
        """Take any out of the line; ``None`` if it is empty."""
        return self._first(self._round) or self._first(self._young)

    def _first(self, line: deque[Pending] | list[Pending]) -> Pending | None:
        while line:
            task = line.popleft() if isinstance(line, deque) else line.pop()
            if task._line is self:
                task._line = None
                if task.holds:
                    task.holds = False
                    return task
        return None

    def _tidy(self) -> None:
        """Forget the places of those that have left the line."""
        for line in (self._young, self._round):
            mine = [task for task in line if task._line is self]
            line.clear()
            line.extend(task for task in mine if task.holds)
            for task in mine:
                if not task.holds:
                    task._line = None
        heapq.heapify(self._young)

    def _note(self, age: float, count: int) -> None:
        if age > 0.0:
            place = round(math.log(age) / _SEEN)
            self._seen[place] = self._seen.get(place, 0) + count
            if not self._seen[place]:
                del self._seen[place]
