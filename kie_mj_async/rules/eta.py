"""How long a batch will still take, and how sure that is.

When the jobs not sent yet will be sent follows from the window, from the places in flight, and from what
is running. Each task then ends when its class's durations say, and is found done at the first look after
that; the batch is done when the last one is. The chance that all have been found by some moment is the
product of theirs, so the time left comes as a distribution, of which three points are told. Tasks of a
class of which little is known share one unknown, so for those the last one stands for all.

Of tasks that began together the quick ones end first: what has ended says too little of those that still
run. So their ages count too (Kaplan and Meier, ``durations.py``).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from ..progress import Left
from .durations import Durations, Law
from .kinds import Kind
from .pacing import Rate
from .spread import Spread

_LAST: Final = 40
"""Jobs of a class, the last to be sent, that may be the last to end."""

_AGAIN: Final = 0.1
"""Of tasks that take longer than was ever imagined, half end within this part of their age."""

_GONE: Final = 1e-9
"""The share of a class that is none."""

_DOUBT: Final = 0.8
"""Low and high are for classes that are so many deviations faster and slower than they seem: less than
1.3, since it is not all that is uncertain."""

_ROUGH: Final = 0.05
"""The standard deviation of when jobs are sent, as a part of the time until then."""

_STEPS: Final = 500
"""Windows to play through; beyond them jobs are sent at a steady pace."""

_TINY: Final = 1e-6
_ROUNDS: Final = 40


@attrs.frozen
class Running:
    """Tasks that are being made.

    Attributes:
        kind: Their class.
        age: Their age, in seconds.
        count: How many they are.
    """

    kind: Kind
    age: float
    count: float = 1.0


@attrs.frozen
class Ahead:
    """What is left of a batch.

    Attributes:
        unsent: Jobs to be sent, by class; their order is not known.
        steps: Jobs to be sent once the ones before them have ended, likewise.
        running: Tasks that are being made.
        saving: Jobs whose files are being saved.
        rate: The account's window.
        round_trip: Seconds that a create takes.
        places: Tasks of this batch that may run at once.
        hold: Seconds in which nothing is sent.
        frees: In how many seconds each create that is in the window now leaves it.
        save_time: Seconds from when a task is found done until its files are saved.
    """

    unsent: Mapping[Kind, float]
    steps: Mapping[Kind, float]
    running: Sequence[Running]
    saving: int
    rate: Rate
    round_trip: float
    places: int
    hold: float
    frees: Sequence[float]
    save_time: float


@attrs.frozen
class _Task:
    """One that may be the last: it begins in ``start`` seconds, or has run for ``age``.

    It was known to run at ``seen``, and is looked at at the ages of ``looks`` (all the time after the
    last of them).
    """

    law: Law
    looks: Sequence[float]
    start: float
    age: float
    seen: float
    count: float

    def found(self, at: float, doubts: float) -> float:
        """The chance that it has been found done in so many seconds.

        Args:
            at: The seconds.
            doubts: By how many deviations its class, and sending, is slower than it seems.
        """
        reached = self.age + at - self.start * (1.0 + _ROUGH * doubts)
        if self.looks and reached < self.looks[-1]:
            place = bisect_right(self.looks, reached)
            reached = self.looks[place - 1] if place else 0.0
        if reached <= self.seen:
            return 0.0
        slower = math.exp(doubts * self.law.doubt)
        alive = self.law.spread.alive(self.seen / slower)
        if alive < _GONE:
            return 1.0 - math.pow(0.5, (reached - self.seen) / (_AGAIN * self.seen))
        share = max(0.0, 1.0 - self.law.spread.alive(reached / slower) / alive)
        return share if self.count == 1.0 else math.pow(share, self.count)


class _Laws:
    """What is known of each class, worked out once."""

    def __init__(
        self, ahead: Ahead, durations: Durations, looks: Callable[[Kind], Sequence[float]]
    ) -> None:
        self._running: dict[Kind, list[Running]] = {}
        for group in ahead.running:
            self._running.setdefault(group.kind, []).append(group)
        self._durations, self._looks = durations, looks
        self._found: dict[Kind, Law] = {}
        self._ages: dict[Kind, Sequence[float]] = {}

    def of(self, kind: Kind) -> Law:
        """How long its tasks take."""
        if kind not in self._found:
            seen = [(self.seen(one), one.count) for one in self._running.get(kind, ())]
            self._found[kind] = self._durations.law(kind, [one for one in seen if one[0] > 0.0])
        return self._found[kind]

    def looks(self, kind: Kind) -> Sequence[float]:
        """The ages at which its tasks are looked at."""
        if kind not in self._ages:
            self._ages[kind] = self._looks(kind)
        return self._ages[kind]

    def seen(self, group: Running) -> float:
        """The age at which they were last seen running."""
        looks = self.looks(group.kind)
        if not looks or group.age >= looks[-1]:
            return group.age
        place = bisect_right(looks, group.age)
        return looks[place - 1] if place else 0.0


def time_left(
    ahead: Ahead,
    durations: Durations,
    looks: Callable[[Kind], Sequence[float]] = lambda _kind: (),
) -> Left:
    """Seconds until a batch is done.

    Args:
        ahead: What is left of it.
        durations: How long tasks take.
        looks: The ages at which tasks of a class are looked at, ascending; by default they are all the
            time, as they are with callbacks.
    """
    laws = _Laws(ahead, durations, looks)
    number = sum(ahead.unsent.values()) + sum(ahead.steps.values())
    sent_in = _sending(ahead, laws, number)
    tasks = _last_ones(ahead, laws, lambda part: sent_in(number * part))
    times = []
    for part, doubts, saves in ((0.1, -_DOUBT, 0.5), (0.5, 0.0, 1.0), (0.9, _DOUBT, 2.0)):
        left = _when(tasks, part, doubts) if tasks else 0.0
        left += sum(laws.of(kind).spread.quantile(part) for kind in ahead.steps)
        if tasks or ahead.steps or ahead.saving:
            left += saves * ahead.save_time
        times.append(left)
    return Left(*times)


def _last_ones(ahead: Ahead, laws: _Laws, sent_in: Callable[[float], float]) -> list[_Task]:
    """The tasks of which one will be the last to end."""
    tasks = []
    # Those of one class that share one unknown: the youngest of them stands for all, and takes longer
    # than the eldest has been seen to.
    shared: dict[Kind, _Task] = {}
    for group in ahead.running:
        kind, seen = group.kind, laws.seen(group)
        law = laws.of(kind)
        task = _Task(law, laws.looks(kind), 0.0, group.age, seen, group.count)
        if law.known:
            tasks.append(task)
            continue
        other = shared.get(kind, task)
        shared[kind] = attrs.evolve(
            task, age=min(task.age, other.age), seen=max(seen, other.seen), count=1.0
        )
    for kind, count in ahead.unsent.items():
        law = laws.of(kind)
        if not law.known:
            eldest = shared[kind].seen if kind in shared else 0.0
            shared[kind] = _Task(law, laws.looks(kind), sent_in(1.0), 0.0, eldest, 1.0)
            continue
        tasks += [
            _Task(law, laws.looks(kind), sent_in(1.0 - place / count), 0.0, 0.0, 1.0)
            for place in range(min(_LAST, math.ceil(count)))
        ]
    return [*tasks, *shared.values()]


def _sending(ahead: Ahead, laws: _Laws, number: float) -> Callable[[float], float]:
    """In how many seconds the n-th of the jobs not sent yet is sent, played window by window."""
    creates, places = ahead.rate.creates, ahead.places
    cycle = ahead.rate.seconds + ahead.round_trip
    shares = {
        kind: (ahead.unsent.get(kind, 0.0) + ahead.steps.get(kind, 0.0)) / number
        for kind in (*ahead.unsent, *ahead.steps)
    }
    usual = [
        (laws.of(kind).spread.quantile(0.5) + ahead.round_trip, part)
        for kind, part in shares.items()
    ]
    ends = [
        (_remaining(laws.of(group.kind).spread, group.age), group.count) for group in ahead.running
    ]
    heapq.heapify(ends)
    out = sum(count for _, count in ends)
    at, sent = ahead.hold, 0.0
    again = min(ahead.frees, default=0.0)
    room = creates - len(ahead.frees)
    if room <= 0:
        at, room = max(at, again), creates
    counts: list[float] = []
    times: list[float] = []
    for _ in range(_STEPS):
        if sent >= number - _TINY:
            break
        while ends and (ends[0][0] <= at or out > places - min(1.0, number - sent) + _TINY):
            end, count = heapq.heappop(ends)
            at = max(at, end)
            out -= count
        going = min(room, places - out, number - sent)
        for seconds, part in usual:
            heapq.heappush(ends, (at + seconds, going * part))
        out += going
        sent += going
        counts.append(sent)
        times.append(at)
        at = max(at + cycle * going / creates, again)
        room = creates
    mean = sum(seconds * part for seconds, part in usual)
    pace = min(creates / cycle, places / mean if mean > 0.0 else math.inf)

    def sent_in(place: float) -> float:
        found = bisect_left(counts, place - _TINY)
        if found < len(times):
            return times[found] + ahead.round_trip
        return at + (place - sent) / pace + ahead.round_trip

    return sent_in


def _remaining(law: Spread, age: float) -> float:
    if law.alive(age) < _GONE:
        return _AGAIN * age
    return law.quantile(0.5, age) - age


def _when(tasks: Sequence[_Task], part: float, doubts: float) -> float:
    """When all of them have been found done with this chance."""

    def chance(at: float) -> float:
        product = 1.0
        for task in tasks:
            product *= task.found(at, doubts)
            if product < part:
                break
        return product

    high = 1.0
    while chance(high) < part and high < 1e8:
        high *= 2.0
    low = 0.0
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        if chance(middle) < part:
            low = middle
        else:
            high = middle
        if high - low < 0.001 * high:
            break
    return high
