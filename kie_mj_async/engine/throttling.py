"""Where it is kept what the service's refusals have taught: for a process, or for a fleet.

The rule is ``pacing.Throttle``. A fleet's store is ``cluster/slots.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..rules.pacing import Throttle

Lesson = Callable[[Throttle, float, int], Throttle]
"""What a refusal, or its end, teaches: from what was known, the time, and how many tasks the account
runs as far as others know. It may be taught twice."""


class Throttling(Protocol):
    """What is known, and how more is learnt."""

    def known(self, now: float, /) -> Throttle:
        """What is known, with times by the clock that says ``now``."""

    def learn(self, lesson: Lesson, now: float, *, alone: bool = False) -> None:
        """Learn something; it holds for this process at once.

        Args:
            lesson: What to learn.
            now: The time, by the clock of :meth:`known`.
            alone: Whether it is about this process's network, and not about the account.
        """

    async def share(self) -> None:
        """Tell the others soon what was learnt. It never fails: they would learn it themselves."""


class OwnThrottling:
    """What this process knows, and shares with nobody.

    Args:
        in_flight: Tasks that may run at once at most.
    """

    def __init__(self, in_flight: int) -> None:
        self._throttle = Throttle(ceiling=in_flight, cap=in_flight)

    def known(self, _now: float) -> Throttle:
        """What is known."""
        return self._throttle

    def learn(self, lesson: Lesson, now: float, **_about: bool) -> None:
        """Learn something."""
        self._throttle = lesson(self._throttle, now, 0)

    async def share(self) -> None:
        """There is nobody to tell."""
