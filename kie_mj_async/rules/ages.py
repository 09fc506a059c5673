"""How many tasks were born when: a histogram that stays small however many there are.

The choice of a price for looks needs the ages of all pending tasks, not the tasks. Bins are as wide as
a tenth of their age, so a hundred thousand tasks of all ages are some hundred and fifty bins.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Final

_SHARE: Final = 0.1
_CROWDED: Final = 512


class Ages:
    """Births of pending tasks.

    Args:
        unit: The narrowest bin, in seconds.
    """

    __slots__ = ("_counts", "_firsts", "_lasts", "_unit", "count")

    def __init__(self, unit: float) -> None:
        self._unit = unit
        # Each bin holds the births from its first one to its last; what was born between two bins'
        # firsts is in the earlier of them.
        self._firsts: list[float] = []
        self._lasts: list[float] = []
        self._counts: list[int] = []
        self.count = 0

    def add(self, born: float, now: float) -> None:
        """A task was born."""
        self.count += 1
        place = bisect_right(self._firsts, born) - 1
        if place >= 0 and (born <= self._lasts[place] or born - self._firsts[place] < self._unit):
            self._counts[place] += 1
            self._lasts[place] = max(born, self._lasts[place])
            return
        self._firsts.insert(place + 1, born)
        self._lasts.insert(place + 1, born)
        self._counts.insert(place + 1, 1)
        if len(self._firsts) > _CROWDED:
            self._merge(now)

    def remove(self, born: float) -> None:
        """A task that was born then is no longer pending."""
        place = bisect_right(self._firsts, born) - 1
        if place < 0:
            return
        self.count -= 1
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._firsts[place], self._lasts[place], self._counts[place]

    def bins(self, now: float) -> list[tuple[float, float]]:
        """Ages in seconds, and how many tasks have each, the oldest first."""
        self._merge(now)
        return [
            (max(0.0, now - (first + last) / 2), float(count))
            for first, last, count in zip(self._firsts, self._lasts, self._counts, strict=True)
        ]

    def between(self, first: float, last: float) -> float:
        """How many were born in this time, if births are spread evenly over each bin."""
        total = 0.0
        for low, high, count in zip(self._firsts, self._lasts, self._counts, strict=True):
            if low > last:
                break
            if high >= first:
                inside = min(high, last) - max(low, first)
                total += count * (inside / (high - low) if high > low else 1.0)
        return total

    def eldest(self, part: float) -> tuple[float, int]:
        """The birth before which this part of the tasks was born, and how many were (at least one)."""
        born, count = -math.inf, 0
        for last, tasks in zip(self._lasts, self._counts, strict=True):
            born = last
            count += tasks
            if count >= part * self.count:
                break
        return born, count

    def _merge(self, now: float) -> None:
        firsts: list[float] = []
        lasts: list[float] = []
        counts: list[int] = []
        for first, last, count in zip(self._firsts, self._lasts, self._counts, strict=True):
            if firsts and last - firsts[-1] <= max(self._unit, _SHARE * (now - last)):
                lasts[-1] = last
                counts[-1] += count
            else:
                firsts.append(first)
                lasts.append(last)
                counts.append(count)
        self._firsts, self._lasts, self._counts = firsts, lasts, counts
