"""What the service of ``end_to_end.py`` is like: its limits, its durations, and the best possible end.

Apart from the service itself, so that its clients do not carry it in their memory.
"""

from __future__ import annotations

import heapq
import math
import random

import attrs

CREATES = 20
WINDOW = 10.0
AT_ONCE = 100
MEDIAN = 20.0
SIGMA = 0.35
ROUND_TRIP = (0.8, 1.2)
FILES = 4
FILE_BYTES = 1_572_864


@attrs.frozen
class World:
    """What the service is like.

    Attributes:
        seed: What all chance comes from.
        scale: Factor on every duration.
        dropped: Share of accepted creates whose connection is cut instead of answered.
    """

    seed: int = 7
    scale: float = 1.0
    dropped: float = 0.0

    def duration(self, number: int) -> float:
        """Seconds that the task of the n-th accepted create takes, unscaled."""
        return MEDIAN * math.exp(random.Random(f"{self.seed} takes {number}").gauss(0, SIGMA))

    def round_trip(self, number: int) -> float:
        """Seconds until the n-th accepted create is answered, unscaled."""
        return random.Random(f"{self.seed} answers {number}").uniform(*ROUND_TRIP)

    def drops(self, number: int) -> bool:
        """Whether the answer to the n-th accepted create is lost."""
        return random.Random(f"{self.seed} drops {number}").random() < self.dropped

    def bound(self, jobs: int) -> float:
        """The earliest end of so many jobs for whoever keeps the quota for certain, unscaled.

        A create's place in the window is free again one window after its reply, and places are all
        that is waited for: no poll, no transfer, no program.
        """
        free = [0.0] * CREATES
        running: list[float] = []
        end = 0.0
        for number in range(jobs):
            start = free[0]
            if len(running) >= AT_ONCE:
                start = max(start, heapq.heappop(running))
            heapq.heapreplace(free, start + self.round_trip(number) + WINDOW)
            heapq.heappush(running, start + self.duration(number))
            end = max(end, start + self.duration(number))
        return end
