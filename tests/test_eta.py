"""How long a batch will still take: the forecast beside what came of it, in virtual time."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import VIRTUAL, Made, Rig

from kie_mj_async.jobs import Outcome
from kie_mj_async.requests import OmniReference, Request, TextToImage
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.eta import Ahead, Running, time_left
from kie_mj_async.rules.kinds import Kind, kind_of
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.rules.spread import Left

FAST = Kind("mj_txt2img", "fast", "7")
OMNI = Kind("mj_omni_reference", "fast")


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def taught(*kinds: Kind) -> Durations:
    durations, chance = Durations(), random.Random(1)
    for kind in kinds:
        for _ in range(40):
            durations.observe(kind, chance.gauss(kind.usual, 0.057 * kind.usual))
    return durations


def ahead(**changes: Any) -> Ahead:
    """Nothing is left but what is named."""
    nothing: dict[str, Any] = {
        "unsent": {}, "steps": {}, "running": [], "saving": 0, "rate": Rate(20, 10.0),
        "round_trip": 0.0, "places": 100, "hold": 0.0, "begun": False, "save_time": 0.0,
    }  # fmt: skip
    return Ahead(**{**nothing, **changes})


def left(durations: Durations | None = None, **changes: Any) -> Left:
    found = time_left(ahead(**changes), durations or taught(FAST, OMNI))
    assert 0.0 <= found.low <= found.middle <= found.high
    return found


def test_nothing_left_takes_no_time() -> None:
    """And what is being saved takes as long as saving does."""
    assert left() == Left(0.0, 0.0, 0.0)
    assert left(saving=3, save_time=4.0).middle == 4.0


def test_one_task_takes_what_its_class_does() -> None:
    """From its age on."""
    one = left(running=[Running(FAST, 21.0)])
    assert one.middle == pytest.approx(40, abs=2)
    assert 30 < one.low < one.high < 50


def test_the_last_of_many_takes_longer() -> None:
    """The more there are, the later the last one is."""
    many = left(running=[Running(FAST, 0.0, 100.0)])
    assert left(running=[Running(FAST, 0.0)]).middle + 4 < many.middle < 75


def test_the_slowest_class_decides() -> None:
    """However many quick ones there are."""
    mixed = left(running=[Running(FAST, 0.0, 50.0), Running(OMNI, 100.0)])
    assert mixed.middle == pytest.approx(left(running=[Running(OMNI, 100.0)]).middle, abs=1)


def test_what_is_not_sent_yet_waits_for_the_window() -> None:
    """Twenty in ten seconds: the last of a hundred goes forty seconds after the first."""
    assert left(unsent={FAST: 100.0}).middle == pytest.approx(40 + 66, abs=4)
    assert left(unsent={FAST: 100.0}, hold=30.0).middle == pytest.approx(70 + 66, abs=4)
    slow = left(unsent={FAST: 100.0}, round_trip=2.5)
    assert slow.middle == pytest.approx(50 + 66, abs=4)


def test_what_is_not_sent_yet_waits_for_places() -> None:
    """Ten at once: a hundred take ten rounds."""
    assert left(unsent={FAST: 100.0}, places=10).middle == pytest.approx(10 * 61, rel=0.05)


def test_a_million_jobs_are_foreseen_at_once() -> None:
    """Beyond what is played through they go at a steady pace."""
    began = time.process_time()
    assert left(unsent={FAST: 1e6}).middle == pytest.approx(1e6 / (100 / 61), rel=0.05)
    assert time.process_time() - began < 1.0


def test_steps_come_after_what_they_follow() -> None:
    """An upscale of what runs adds its own time."""
    step = Kind("mj_upscale")
    with_step = left(taught(FAST, step), running=[Running(FAST, 0.0)], steps={step: 1.0})
    assert with_step.middle == pytest.approx(61 + 25, abs=4)


def test_a_guess_is_told_as_one() -> None:
    """Before anything has ended the spread is wide, and a crowd is one unknown."""
    guess = left(Durations(), running=[Running(FAST, 0.0) for _ in range(50)])
    assert guess.middle == pytest.approx(61, abs=3)
    assert guess.high > 1.6 * guess.middle
    assert guess.low < 0.65 * guess.middle


def test_a_straggler_is_given_some_more() -> None:
    """Of what outlived its class nobody knows; a tenth of what it has taken is the guess."""
    late = left(running=[Running(FAST, 200.0) for _ in range(5)])
    assert late.middle == pytest.approx(20, abs=3)
    assert late.high > 50


def seconds_of(request: Request, chance: random.Random) -> float:
    usual = kind_of(request).usual
    return chance.gauss(usual, 0.05 * usual)


def listed(number: int, mixed: bool) -> list[Request]:
    image = "https://cdn.example/a.png"
    return [
        OmniReference(f"fox {n}", images=[image], speed="fast")
        if mixed and n % 4 == 3
        else TextToImage(f"fox {n}", speed="fast")
        for n in range(number)
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "in_flight", "mixed", "known", "off"),
    [
        (20, 100, False, True, 0.10),
        (100, 100, False, True, 0.10),
        (100, 100, False, False, 0.15),
        (120, 100, True, True, 0.10),
        (200, 40, False, True, 0.10),
        (300, 100, False, True, 0.10),
    ],
)
async def test_at_half_time_it_is_near_the_truth(
    tmp_path: Path, number: int, in_flight: int, mixed: bool, known: bool, off: float
) -> None:
    """Within a tenth of the batch's time; within a seventh where only the recordings are known."""
    rig = Rig(in_flight=in_flight)
    rig.service.latency = 1.0
    chance = random.Random(5)

    def lasts(task: Made) -> None:
        task.lasts = seconds_of(task.request, chance)

    rig.service.on_made = lasts
    requests = listed(number, mixed)
    if known:
        for request in requests[:4] * 10:
            rig.forecast.observe(kind_of(request), seconds_of(request, chance))
    told: list[tuple[float, Left]] = []

    async def ask() -> None:
        while True:
            if (one := rig.prospect.left()) is not None:
                told.append((rig.now, one))
            await anyio.sleep(1.0)

    async def send(_outcome: Outcome) -> None:
        """It is not looked at."""

    run = rig.run(tmp_path)
    async with rig.polling():
        await run.plan(requests)
        assert rig.prospect.left() is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await run.go(send)
            tasks.cancel_scope.cancel()
    took = rig.now
    at, half = min(told, key=lambda one: abs(one[0] - took / 2))
    assert abs(at + half.middle - took) < off * took
    assert half.low < 1.1 * (took - at)
    assert half.high > 0.9 * (took - at)
    done = rig.prospect.left()
    assert done is not None
    assert done.middle == 0.0
