"""The two clocks of a run, in one value, so that tests can replace both."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs


@attrs.frozen
class Clock:
    """Where a run takes its time from.

    Attributes:
        monotonic: Seconds that only ever grow, shared by the machine's processes.
        wall: Seconds since 1970.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def now(self) -> datetime:
        """The wall clock's time (UTC)."""
        return datetime.fromtimestamp(self.wall(), UTC)
