"""Counting events in a rolling window. It knows only their times."""

from __future__ import annotations

from collections import deque


class Rolling:
    """How many events a rolling window holds, and the most it ever held.

    Args:
        span: The window's length in seconds; an event leaves it exactly ``span`` after it happened.
    """

    def __init__(self, span: float) -> None:
        self.span = span
        self.most = 0
        self._times: deque[float] = deque()

    def count(self, now: float) -> int:
        """How many events the window that ends at ``now`` holds."""
        while self._times and self._times[0] <= now - self.span:
            self._times.popleft()
        return len(self._times)

    def add(self, now: float) -> None:
        """Count an event that happens at ``now``."""
        self._times.append(now)
        self.most = max(self.most, self.count(now))

    def wait(self, now: float) -> float:
        """Seconds from ``now`` until the oldest event leaves the window; 0 when it is empty."""
        return self._times[0] + self.span - now if self.count(now) else 0.0
