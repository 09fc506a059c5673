"""How long a batch will still take: the forecast beside what came of it, in virtual time."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import VIRTUAL, Made, Rig

from kie_mj_async.jobs import Outcome
from kie_mj_async.progress import Left
from kie_mj_async.requests import OmniReference, Request, TextToImage
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.eta import Ahead, Running, time_left
from kie_mj_async.rules.kinds import Kind, kind_of
from kie_mj_async.rules.pacing import Rate

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
        "round_trip": 0.0, "places": 100, "hold": 0.0, "frees": (), "save_time": 0.0,
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
    assert slow.middle == pytest.approx(52.5 + 66, abs=4)
    assert left(unsent={FAST: 1.0}, frees=[7.0, 8.0]).middle == pytest.approx(61, abs=2)
    assert left(unsent={FAST: 1.0}, frees=[7.0] * 20).middle == pytest.approx(7 + 61, abs=2)
    assert left(unsent={FAST: 21.0}, frees=[7.0] * 5).middle == pytest.approx(7 + 64, abs=3)


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
    """Of what outlived its class nobody knows; a part of what it has taken is the guess."""
    late = left(running=[Running(FAST, 200.0) for _ in range(5)])
    assert 10 < late.middle < 40
    assert late.high > 50


def test_one_that_is_late_is_likely_done_and_not_looked_at_yet() -> None:
    """So the next look ends the batch; without looks to wait for it would be a straggler."""

    def looks(_kind: Kind) -> list[float]:
        return [55.0, 58.0, 61.0, 64.0, 75.0, 110.0]

    late = ahead(running=[Running(FAST, 72.0)])
    assert time_left(late, taught(FAST), looks).middle == pytest.approx(75.0 - 72.0)
    assert time_left(late, taught(FAST)).high > 10
    early = ahead(running=[Running(FAST, 20.0)])
    assert time_left(early, taught(FAST), looks).middle in {61.0 - 20.0, 64.0 - 20.0}


def test_all_of_a_new_class_take_longer_than_the_eldest_has() -> None:
    """They share one unknown, so the youngest ends as much later as it began later."""
    guess = left(Durations(), running=[Running(FAST, 90.0), Running(FAST, 50.0)])
    assert guess.low > 90 - 50
    assert guess.middle > 50


def half_way(chance: random.Random, jobs: int) -> tuple[Left, float]:
    """What is said at half time of a batch of log-normal(20, 0.35) without saves, and the truth."""

    def draw() -> float:
        return 20 * math.exp(chance.gauss(0, 0.35))

    durations = Durations()
    for _ in range(60):
        durations.observe(FAST, draw())
    tasks = [(11.0 * (number // 20), draw()) for number in range(jobs)]
    ends = max(born + seconds for born, seconds in tasks)
    now = ends / 2
    running = []
    for born, seconds in sorted(tasks, key=sum):
        if born + seconds <= now:
            durations.observe(FAST, seconds, held_back=True)
        elif born <= now:
            running.append(Running(FAST, now - born))
    frees = [11.0 - now % 11.0] * 20
    unsent = {FAST: float(sum(born > now for born, _ in tasks))}
    there = ahead(
        running=running, unsent=unsent if unsent[FAST] else {}, frees=frees, round_trip=1.0
    )
    return time_left(there, durations), ends - now


@pytest.mark.parametrize("jobs", [20, 60, 100])
def test_the_spread_holds_what_it_promises(jobs: int) -> None:
    """Four of five runs end between low and high, though only the quick tasks have ended by then."""
    chance = random.Random(3)
    runs = [half_way(chance, jobs) for _ in range(60)]
    inside = sum(said.low <= truth <= said.high for said, truth in runs)
    assert 0.7 * 60 <= inside <= 0.95 * 60
    off = [said.middle / truth - 1 for said, truth in runs]
    assert -0.1 < statistics.median(off) < 0.1


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
        pytest.param(120, 100, True, True, 0.10, marks=pytest.mark.slow),
        pytest.param(200, 40, False, True, 0.10, marks=pytest.mark.slow),
        pytest.param(300, 100, False, True, 0.10, marks=pytest.mark.slow),
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
    ends = [at + said.middle for at, said in told]
    jumps = [abs(after - before) for before, after in itertools.pairwise(ends)]
    if known:
        assert max(jumps) < 0.1 * took
    at, half = min(told, key=lambda one: abs(one[0] - took / 2))
    assert abs(at + half.middle - took) < off * took
    assert half.low < 1.1 * (took - at)
    assert half.high > 0.9 * (took - at)
    done = rig.prospect.left()
    assert done is not None
    assert done.middle == 0.0
