"""What refusals have taught one process."""

from __future__ import annotations

import pytest

from kie_mj_async.engine.throttling import OwnThrottling
from kie_mj_async.rules.pacing import Throttle

pytestmark = pytest.mark.anyio


async def test_what_one_learns_holds_at_once_and_for_oneself() -> None:
    """It is known from then on, by the same clock; nobody else runs anything."""
    known = OwnThrottling(10)
    assert known.known(0.0) == Throttle(ceiling=10, cap=10)
    told: list[tuple[float, int]] = []

    def lesson(before: Throttle, now: float, running: int) -> Throttle:
        told.append((now, running))
        return before.postponed(now, 5.0)

    known.learn(lesson, 100.0, alone=True)
    await known.share()
    assert told == [(100.0, 0)]
    assert known.known(101.0) == Throttle(ceiling=10, cap=10, paused_until=105.0, proving=True)
    assert OwnThrottling(10).known(101.0).paused_until < 0
