"""What is left of a run: jobs that are alike can be told of together."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import VIRTUAL, Rig

from kie_mj_async.engine.prospect import Prospect
from kie_mj_async.requests import ChainStep, ExistingTask, Request, TextToImage
from kie_mj_async.rules.kinds import kind_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


async def test_jobs_that_are_alike_are_told_of_together(tmp_path: Path) -> None:
    """It is the same as to tell of one after the other."""
    rig = Rig(in_flight=10)
    slow, fast = TextToImage("a fox", speed="relaxed"), TextToImage("a fox", speed="fast")
    step = ChainStep("upscale", "1-a", 0, "a fox")
    took: list[tuple[Request, float]] = [(slow, 200.0), (fast, 50.0), (step, 20.0)]
    for known, seconds in took * 20:
        rig.forecast.observe(kind_of(known), seconds)
    listed: list[tuple[Request, int]] = [(slow, 30), (fast, 200), (step, 90)]

    def prospect() -> Prospect:
        return Prospect(rig.forecast, rig.admission, rig.clock)

    together, single = prospect(), prospect()
    for request, number in listed:
        together.plan(request, number)
        for _ in range(number):
            single.plan(request)
    together.begin()
    single.begin()
    left = together.left()
    assert left is not None
    assert left == single.left()
    assert left.middle > 320 / 10 * 20
    # Of tasks that exist nobody can tell before one was found.
    together.plan(ExistingTask("t1"), 40)
    assert together.left() is None
