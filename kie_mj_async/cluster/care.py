"""What a worker does when nothing can be done: it waits, longer each time, and says so.

A key that is refused, no credits, a full disk: on one machine the run ends, and its user sees why. A
worker has nobody beside it, so it begins no job for a while and tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from ..errors import KieError, WriteFailed
from ..logs import logger

log = logger(__name__)

FIRST: Final = 5.0
"""Seconds to wait at first."""

CEILING: Final = 300.0
"""Seconds to wait at most."""

_LOOK: Final = 0.5


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(CEILING, FIRST * 2.0 ** min(failures - 1, 10))


class Care:
    """Holds a worker's jobs back while they make no sense.

    Args:
        clock: A steady clock, in seconds.
        changed: Called when there is another trouble, or none any more.

    Attributes:
        trouble: What is wrong; ``None`` where nothing is.
    """

    def __init__(
        self, clock: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self.trouble: str | None = None
        self._clock = clock
        self._changed = changed
        self._failures = 0
        self._until = 0.0
        self._of_files = False

    @property
    def holds(self) -> bool:
        """Whether nothing is to be begun now, not even by who has :meth:`passed` before."""
        return self._until > self._clock()

    async def passed(self) -> None:
        """Wait until it makes sense to try."""
        while (left := self._until - self._clock()) > 0:  # noqa: ASYNC110 - it may be put off
            await anyio.sleep(min(left, _LOOK))

    def failed(self, error: KieError) -> None:
        """Nothing can be done, and why. Several that fail at the same time are one failure."""
        now = self._clock()
        if now < self._until:
            return
        self._failures += 1
        pause = pause_after(self._failures)
        self._until = now + pause
        self._of_files = isinstance(error, WriteFailed)
        log.error("no job is begun for %.0f s: %s", pause, error)
        self._tell(str(error))

    def went_well(self, *, saved: bool = False) -> None:
        """Something could be done.

        Args:
            saved: Whether files were written: what else goes well says nothing of a full disk.
        """
        if self._failures and (saved or not self._of_files):
            log.warning("jobs are begun again")
            self._failures = 0
            self._until = 0.0
            self._tell(None)

    def _tell(self, trouble: str | None) -> None:
        self.trouble = trouble
        self._changed()
