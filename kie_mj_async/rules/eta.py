"""How long a batch will still take, and how sure that is.

When the jobs not sent yet will be sent follows from the window, from the places in flight, and from what
is running. Each task then ends when its class's durations say; the batch is done when the last one is.
The chance that all have ended by some moment is the product of theirs, so the time left comes as a
distribution, of which three points are told. Tasks of a class of which little is known share one
unknown, so for those the last one stands for all.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from .durations import Durations
from .kinds import Kind
from .pacing import Rate
from .spread import Left, Spread

_LAST: Final = 40
"""Jobs of a class, the last to be sent, that may be the last to end."""

_OUTLIVED: Final = 0.05
"""Of tasks that take longer than all but this share of their class, the class tells nothing ..."""

_AGAIN: Final = 0.1
"""... and half of them end within this part of the time that they have taken."""

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
        begun: Whether creates of this batch are in the window already.
        save_time: Seconds from a task's end until its files are saved.
    """

    unsent: Mapping[Kind, float]
    steps: Mapping[Kind, float]
    running: Sequence[Running]
    saving: int
    rate: Rate
    round_trip: float
    places: int
    hold: float
    begun: bool
    save_time: float


@attrs.frozen
class _Task:
    """One that may be the last: it begins in ``start`` seconds, or runs and has this ``age``."""

    law: Spread
    start: float
    age: float
    count: float

    def over(self, at: float) -> float:
        """The chance that it has ended in so many seconds."""
        if at <= self.start:
            return 0.0
        alive = self.law.alive(self.age)
        if alive < _OUTLIVED:
            return 1.0 - math.pow(0.5, at / (_AGAIN * self.age))
        share = max(0.0, 1.0 - self.law.alive(self.age + at - self.start) / alive)
        return share if self.count == 1.0 else math.pow(share, self.count)


def time_left(ahead: Ahead, durations: Durations) -> Left:
    """Seconds until a batch is done.

    Args:
        ahead: What is left of it.
        durations: How long tasks take.
    """
    laws: dict[Kind, tuple[Spread, bool]] = {}

    def law(kind: Kind) -> tuple[Spread, bool]:
        if kind not in laws:
            laws[kind] = durations.law(kind)
        return laws[kind]

    number = sum(ahead.unsent.values()) + sum(ahead.steps.values())
    sent_in = _sending(ahead, law, number)
    cycle = ahead.rate.seconds + ahead.round_trip
    # Nobody knows how far the window has turned.
    turns = (0.0, 0.5 * cycle, cycle) if ahead.begun and number else (0.0, 0.0, 0.0)
    tasks = _last_ones(ahead, law, lambda part: sent_in(number * part))
    times = []
    for part, turn, saves in zip((0.1, 0.5, 0.9), turns, (0.5, 1.0, 2.0), strict=True):
        left = _when(tasks, part) if tasks else 0.0
        left += turn if ahead.unsent else 0.0
        left += sum(law(kind)[0].quantile(part) for kind in ahead.steps)
        if tasks or ahead.steps or ahead.saving:
            left += saves * ahead.save_time
        times.append(left)
    return Left(*times)


def _last_ones(
    ahead: Ahead, law: Callable[[Kind], tuple[Spread, bool]], sent_in: Callable[[float], float]
) -> list[_Task]:
    """The tasks of which one will be the last to end."""
    tasks = []
    # Those of one class that share one unknown: the youngest of them stands for all.
    shared: dict[tuple[Kind, bool], _Task] = {}
    for group in ahead.running:
        spread, known = law(group.kind)
        late = spread.alive(group.age) < _OUTLIVED
        name = group.kind, late
        if known and not late:
            tasks.append(_Task(spread, 0.0, group.age, group.count))
        elif name not in shared or group.age < shared[name].age:
            shared[name] = _Task(spread, 0.0, group.age, 1.0)
    for kind, count in ahead.unsent.items():
        spread, known = law(kind)
        if not known:
            shared[kind, False] = _Task(spread, sent_in(1.0), 0.0, 1.0)
            continue
        tasks += [
            _Task(spread, sent_in(1.0 - place / count), 0.0, 1.0)
            for place in range(min(_LAST, math.ceil(count)))
        ]
    return [*tasks, *shared.values()]


def _sending(
    ahead: Ahead, law: Callable[[Kind], tuple[Spread, bool]], number: float
) -> Callable[[float], float]:
    """In how many seconds the n-th of the jobs not sent yet is sent, played window by window."""
    creates, places = ahead.rate.creates, ahead.places
    cycle = ahead.rate.seconds + ahead.round_trip
    shares = {
        kind: (ahead.unsent.get(kind, 0.0) + ahead.steps.get(kind, 0.0)) / number
        for kind in (*ahead.unsent, *ahead.steps)
    }
    usual = [(law(kind)[0].quantile(0.5) + ahead.round_trip, part) for kind, part in shares.items()]
    ends = [(_remaining(law(group.kind)[0], group.age), group.count) for group in ahead.running]
    heapq.heapify(ends)
    out = sum(count for _, count in ends)
    at, sent = ahead.hold, 0.0
    counts: list[float] = []
    times: list[float] = []
    for _ in range(_STEPS):
        if sent >= number - _TINY:
            break
        while ends and (ends[0][0] <= at or out > places - min(1.0, number - sent) + _TINY):
            end, count = heapq.heappop(ends)
            at = max(at, end)
            out -= count
        going = min(creates, places - out, number - sent)
        for seconds, part in usual:
            heapq.heappush(ends, (at + seconds, going * part))
        out += going
        sent += going
        counts.append(sent)
        times.append(at)
        at += cycle * going / creates
    mean = sum(seconds * part for seconds, part in usual)
    pace = min(creates / cycle, places / mean if mean > 0.0 else math.inf)

    def sent_in(place: float) -> float:
        found = bisect_left(counts, place - _TINY)
        if found < len(times):
            return times[found]
        return at + (place - sent) / pace

    return sent_in


def _remaining(law: Spread, age: float) -> float:
    if law.alive(age) < _OUTLIVED:
        return _AGAIN * age
    return law.quantile(0.5, age) - age


def _when(tasks: Sequence[_Task], part: float) -> float:
    """When all of them have ended with this chance."""

    def chance(at: float) -> float:
        product = 1.0
        for task in tasks:
            product *= task.over(at)
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
