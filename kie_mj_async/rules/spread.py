"""A distribution of durations in bins, and how one is put together from samples and guesses.

Bins are even in the logarithm, so that a duration of 6 s and one of 600 s are told apart alike.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ..progress import Left

BIN: Final = 0.01
"""The width of a bin, in natural logarithms: one in a hundred."""

_UPPER: Final = math.exp(BIN / 2)
_LOWEST, _HIGHEST = round(math.log(1e-4) / BIN), round(math.log(1e8) / BIN)

_POINTS: Final = tuple((i * 0.6, math.exp(-((i * 0.6) ** 2) / 2)) for i in range(-4, 5))
_KERNEL: Final = tuple((at, part / sum(one for _, one in _POINTS)) for at, part in _POINTS)
"""A normal distribution in nine points."""

_STRIDE: Final = 5
_REACH: Final = math.log(60)
_TAIL: Final = 1.5
_BELOW: Final = 0.3


@attrs.frozen
class Spread:
    """How long a task takes.

    Attributes:
        ages: The upper ends of the bins that hold anything, ascending, in seconds.
        weights: What each holds.
        sums: The sum of the durations in each.
        known: How many durations of the class itself it rests on.
        ended: What the bins before each hold; one more at the end, for all of them.
    """

    ages: list[float]
    weights: list[float]
    sums: list[float]
    known: float
    ended: list[float]

    @property
    def total(self) -> float:
        """What all bins hold."""
        return self.ended[-1]

    def alive(self, age: float) -> float:
        """The share of tasks that take longer than this."""
        return max(0.0, 1.0 - self.ended[bisect_right(self.ages, age)] / self.total)

    def quantile(self, part: float, age: float = 0.0) -> float:
        """The duration that this part of the tasks does not reach, of those that reach ``age``."""
        have = self.ended[bisect_right(self.ages, age)]
        wanted = have + part * (self.total - have)
        place = bisect_right(self.ended, wanted) - 1
        if place >= len(self.ages):
            return max(age, self.ages[-1])
        return max(age, self.sums[place] / self.weights[place])

    def left(self, age: float) -> Left:
        """How much longer a task takes that has run for ``age`` seconds."""
        if self.alive(age) <= 1e-9:
            # Beyond all that was imagined: as long again as it has taken, in proportion.
            return Left(0.05 * age, 0.5 * age, 3.0 * age)
        low, middle, high = (self.quantile(part, age) - age for part in (0.1, 0.5, 0.9))
        return Left(low, middle, high)


def spread_of(bins: Mapping[int, float], known: float) -> Spread:
    """The distribution in these bins (place: weight); at least one weight is positive."""
    ages, weights, sums, ended = [], [], [], [0.0]
    exp, have = math.exp, 0.0
    for place in sorted(bins):
        weight = bins[place]
        if weight > 0.0:
            middle = exp(place * BIN)
            ages.append(middle * _UPPER)
            weights.append(weight)
            sums.append(weight * middle)
            have += weight
            ended.append(have)
    return Spread(ages, weights, sums, known, ended)


def pour(
    bins: dict[int, float], logs: Iterable[float], weights: Iterable[float], width: float
) -> None:
    """Add samples.

    Args:
        bins: Where to.
        logs: Their natural logarithms.
        weights: What each counts.
        width: The standard deviation of the kernel that each is spread by, likewise.
    """
    raw: dict[int, float] = {}
    for log, weight in zip(logs, weights, strict=True):
        if weight > 1e-4:
            place = min(_HIGHEST, max(_LOWEST, round(log / BIN)))
            raw[place] = raw.get(place, 0.0) + weight
    kernel: dict[int, float] = {}
    for at, part in _KERNEL:
        step = round(at * width / BIN)
        kernel[step] = kernel.get(step, 0.0) + part
    points = list(kernel.items())
    for place, weight in raw.items():
        for step, part in points:
            bins[place + step] = bins.get(place + step, 0.0) + weight * part


def guess(
    bins: dict[int, float],
    middle: float,
    weight: float,
    *,
    tried: bool,
    scale: float = _TAIL,
    below: float = _BELOW,
) -> None:
    """Add a guess with heavy tails, from a sixtieth to sixty times its middle.

    Args:
        bins: Where to.
        middle: The natural logarithm of its middle.
        weight: What it counts in all.
        tried: Whether the middle is more than a guess itself, so that much less is unlikely.
        scale: How fast it falls off, in natural logarithms.
        below: What lies below the middle counts so much less then.
    """
    reach = round(_REACH / (BIN * _STRIDE))
    centre = min(_HIGHEST, max(_LOWEST, round(middle / BIN)))
    low = below if tried else 1.0
    parts = []
    for i in range(-reach if low else 0, reach + 1):
        part = math.exp(-abs(i * _STRIDE * BIN) / scale) * (low if i < 0 else 1.0)
        parts.append((centre + i * _STRIDE, part))
    share = weight / sum(part for _, part in parts)
    for place, part in parts:
        bins[place] = bins.get(place, 0.0) + share * part
