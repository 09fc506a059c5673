"""The recent durations of one class, and which of them still say how long the next task takes.

The service may slow down or speed up at any time, and then what came before misleads. Two tests watch
for it, since neither sees everything:

- A belief over *how many of the newest durations come from the service as it is now* (Bayesian online
  change-point detection, after Adams and MacKay). With each duration, every such number is weighed by
  how likely it made that duration, against the chance that the service has just changed. This notices
  any change of a tight class within three or four durations, and no mode of a class raises an alarm
  once it has been seen.
- In a wide class a slowdown by half is inside of what was always seen. There a running sum (CUSUM)
  compares the class as it was with the same shape, shifted.

A duration's weight is the probability that no change came after it.

Of tasks that began together the short ones end first. To both tests that would look like a service that
has become faster, so durations can be held back from them (:meth:`History.take`) until the longer ones
have come too; meanwhile they count in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

LIMIT: Final = 200
"""Durations that are kept of a class."""

HAZARD: Final = 0.01
"""The chance that the service changes between one task and the next."""

_FRESH: Final = 0.6
"""After a change durations differ by about this much, in natural logarithms."""

_DOUBT: Final = 0.5
"""Durations that the guess of a changed service counts as."""

_NARROWEST: Final = 0.02
"""The least width of a duration's kernel in these tests, in natural logarithms."""

_RECENT: Final = 50
"""Durations that say how wide a class is, and what it was like before a shift."""

_SHIFTS: Final = (math.log(1.5), -math.log(1.5))
"""What the second test looks for, in natural logarithms."""

_ALARM: Final = 6.0
"""How much likelier the shift must have made the newest durations, in natural logarithms."""

_MOST: Final = 2.0
"""What a single duration counts at most, so that a few outliers are none."""

_FEWEST: Final = 12
"""Durations before a shift can be told."""


class History:
    """Durations of one class, as natural logarithms.

    Attributes:
        logs: Those that were tested, the oldest first; at most ``LIMIT``.
        fresh: Those to be tested yet, likewise.
    """

    __slots__ = ("_belief", "_shifts", "fresh", "logs")

    def __init__(self, logs: Iterable[float] = ()) -> None:
        self.logs: list[float] = []
        self.fresh: list[float] = []
        # [r]: the probability that the newest r come from the service as it is now.
        self._belief: list[float] = [1.0]
        # For each shift: by how much likelier it made the newest so many durations.
        self._shifts: list[tuple[float, int]] = [(0.0, 0)] * len(_SHIFTS)
        for log in logs:
            self.add(log)

    def take(self, log: float) -> None:
        """Take in a duration that is not to be tested yet."""
        self.fresh.append(log)
        if len(self.fresh) > LIMIT:
            self.settle(self.fresh[0])

    def settle(self, log: float) -> None:
        """Test a duration that was taken in before."""
        if log in self.fresh:
            self.fresh.remove(log)
            self.add(log)

    def add(self, log: float) -> None:
        """Take in the newest duration, and test it."""
        logs, belief = self.logs, self._belief
        width = max(_NARROWEST, 0.5 * half_spread(logs[-_RECENT:]))
        self._watch_shifts(log, width)
        fresh = _fresh_density(log, logs)
        after = [0.0, fresh * (HAZARD + (1.0 - HAZARD) * belief[0])]
        near = _DOUBT * fresh
        scale, norm = -1.0 / width, 0.5 / width
        exp, stay = math.exp, 1.0 - HAZARD
        for run, (old, chance) in enumerate(zip(reversed(logs), belief[1:], strict=True), 1):
            near += norm * exp(scale * abs(log - old))
            after.append(stay * chance * near / (run + _DOUBT))
        total = sum(after)
        self._belief = [mass / total for mass in after]
        logs.append(log)
        if len(logs) > LIMIT:
            del logs[0]
            last = self._belief.pop()
            self._belief[-1] += last
        for number, (score, run) in enumerate(self._shifts):
            if score > _ALARM:
                self._shifted(run)
                self._shifts[number] = (0.0, 0)

    def doubt(self, chance: float) -> None:
        """Something came between, such as a night, after which the service may be another one."""
        self._belief = [mass * (1.0 - chance) for mass in self._belief]
        self._belief[0] += chance

    def all(self) -> tuple[list[float], list[float]]:
        """The newest ``LIMIT`` durations and the weight of each, the oldest first."""
        logs = [*self.logs, *self.fresh][-LIMIT:]
        return logs, [*self.weights(), *(1.0 for _ in self.fresh)][-LIMIT:]

    def weights(self) -> list[float]:
        """The weight of each duration that was tested, in [0, 1], in their order."""
        weights = []
        left = 1.0
        for mass in self._belief[:-1]:
            left -= mass
            weights.append(max(0.0, left))
        weights.reverse()
        return weights

    def _watch_shifts(self, log: float, width: float) -> None:
        for number, shift in enumerate(_SHIFTS):
            score, run = self._shifts[number]
            before = self.logs[-_RECENT - run : len(self.logs) - run]
            if len(before) < _FEWEST:
                continue
            gain = math.log(_density(log - shift, before, width) / _density(log, before, width))
            score += max(-_MOST, min(_MOST, gain))
            self._shifts[number] = (score, run + 1) if score > 0.0 else (0.0, 0)

    def _shifted(self, run: int) -> None:
        """Only the newest ``run`` count from now on."""
        kept = self._belief[: run + 1]
        kept[run] += sum(self._belief[run + 1 :])
        self._belief = kept + [0.0] * (len(self.logs) - run)


def _fresh_density(log: float, logs: Sequence[float]) -> float:
    """How likely this duration is from a service that has just changed."""
    if not logs:
        return 0.5 / _FRESH
    newest = sorted(logs[-9:])
    return 0.5 / _FRESH * math.exp(-abs(log - newest[len(newest) // 2]) / _FRESH)


def _density(log: float, logs: Sequence[float], width: float) -> float:
    scale = -1.0 / width
    near = sum(math.exp(scale * abs(log - one)) for one in logs) * 0.5 / width
    return (near + _DOUBT * 0.1) / (len(logs) + _DOUBT)


def half_spread(logs: Iterable[float]) -> float:
    """The standard deviation of a normal distribution whose tighter half is as wide as that of these.

    Modes far apart do not count for it, unless the largest holds less than half.
    """
    ordered = sorted(logs)
    half = max(2, (len(ordered) + 1) // 2)
    if len(ordered) < half:
        return 0.12
    tight = min(last - first for first, last in zip(ordered, ordered[half - 1 :]))  # noqa: B905
    return tight / 1.35 * half / (half - 1)


def width_of(logs: Sequence[float]) -> float:
    """The width of a kernel that suits these, in natural logarithms (Silverman's rule, robust)."""
    if len(logs) < 2:
        return 0.12
    silverman: float = 0.9 * half_spread(logs) * len(logs) ** -0.2
    return min(0.25, silverman + 0.12 / len(logs))
