"""When to look at a task whose duration is known as a distribution: solved for, not guessed.

A schedule is a row of ages at which to look. Its cost is the expected delay, from a task's end until
the look that finds it, plus a price per look. The best row is found backwards (dynamic programming):
the cost from an age on is the price of the next look for tasks still running, their delay until it,
and the cost from there on. In the age of the next look that is a set of straight lines over the share
of ended tasks, so the lower hull of lines gives each minimum in constant time (the convex hull trick).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import attrs

STEP: Final = 0.25
"""Beyond the last age of the distribution: the next look after this share of the age ..."""

CEILING: Final = 600.0
"""... but after so many seconds at the most, unless looks are dear."""


class Schedule:
    """When to look.

    Args:
        ages: Candidate ages, ascending, positive.
        weights: The share of tasks that end after the age before and until this one.
        sums: The sum of those tasks' durations.
        price: Seconds of delay that a look may cost, >= 0.
    """

    __slots__ = ("_alive", "_next", "ages", "price")

    def __init__(
        self,
        ages: Sequence[float],
        weights: Sequence[float],
        sums: Sequence[float],
        price: float,
    ) -> None:
        self.ages = ages
        self.price = price
        self._next, self._alive = _solve(ages, weights, sums, price)

    def after(self, age: float) -> float:
        """The age of the next look at a task that was seen running at ``age``."""
        place = self._place(age)
        if place < len(self.ages):
            return self.ages[self._next[place]]
        return age + self._step(age)

    def looks(self, age: float, horizon: float) -> float:
        """Looks expected within ``horizon`` seconds at a task that was seen running at ``age``."""
        ages, alive, following = self.ages, self._alive, self._next
        count, until = len(ages), age + horizon
        place = self._place(age)
        looks, share = 0.0, 1.0
        start = alive[place]
        while place < count and start > 0.0:
            place = following[place] + 1
            if ages[place - 1] > until:
                return looks
            looks += share
            share = alive[place] / start
        at = max(age, ages[-1])
        return looks + share * (until - at) / self._step(at)

    def _place(self, age: float) -> int:
        """How many candidates have passed; one of them may be just ahead, if it is the nearest."""
        ages = self.ages
        place = bisect_right(ages, age)
        if 0 < place < len(ages) and age * age > ages[place - 1] * ages[place]:
            return place + 1
        return place

    def _step(self, age: float) -> float:
        # Of tasks that fall off as a power of their age, the best step grows with its root.
        return max(min(STEP * age, CEILING), math.sqrt(3.0 * self.price * age), self.price)


@attrs.frozen
class SafetyNet:
    """Looks at tasks whose end a callback tells of, in case that it never comes.

    The first look comes well after the usual end of the slowest class; from then on they grow apart
    with the task's age. So a callback that comes saves all of these looks, and one that is lost costs
    a bounded delay.

    Attributes:
        first: The age of the first look, in seconds. About 60 s are usual, and 248 s for the slowest
            class (kie-api.md, "Real durations").
        share: The wait from then on as a share of the task's age.
        ceiling: The longest wait from then on, in seconds.
    """

    first: float = 300.0
    share: float = 0.5
    ceiling: float = 600.0

    def next_look(self, age: float) -> float:
        """Seconds until the next look at a task of this age."""
        if age < self.first:
            return self.first - max(0.0, age)
        return min(self.ceiling, age * self.share)


def _solve(
    ages: Sequence[float], weights: Sequence[float], sums: Sequence[float], price: float
) -> tuple[list[int], list[float]]:
    """For each candidate's place + 1 (0: at the start) the next look's index; the shares alive."""
    count = len(ages)
    ended, spent = [0.0], [0.0]
    have = did = 0.0
    for weight, part in zip(weights, sums, strict=True):
        have += weight
        did += part
        ended.append(have)
        spent.append(did)
    alive = [have - one for one in ended]
    alive[count] = 0.0
    following = [count - 1] * (count + 1)
    # Lines over q = tasks ended: cost(q) = height - age * q. Queries come with falling q.
    hull_age: list[float] = []
    hull_height: list[float] = []
    hull_place: list[int] = []
    front = 0
    cost = 0.0  # from the last candidate on
    for place in range(count - 1, -1, -1):
        age = ages[place]
        height = age * ended[place + 1] - spent[place + 1] + cost
        while len(hull_age) - front >= 2:
            a1, h1 = hull_age[-1], hull_height[-1]
            a2, h2 = hull_age[-2], hull_height[-2]
            # The middle line is never the lowest when the new one beats it before it beats its elder.
            if (h2 - h1) * (a1 - age) > (h1 - height) * (a2 - a1):
                break
            hull_age.pop()
            hull_height.pop()
            hull_place.pop()
        hull_age.append(age)
        hull_height.append(height)
        hull_place.append(place)
        q = ended[place]
        best = hull_height[front] - hull_age[front] * q
        while front + 1 < len(hull_age):
            other = hull_height[front + 1] - hull_age[front + 1] * q
            if other > best:
                break
            best = other
            front += 1
        following[place] = hull_place[front]
        cost = price * alive[place] + spent[place] + best
    return following, alive
