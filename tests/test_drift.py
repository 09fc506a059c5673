"""A change of the service is noticed, and its absence does little harm."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.drift import LIMIT, History, half_spread, width_of

Draw = Callable[[random.Random], float]


def tight(chance: random.Random) -> float:
    return chance.gauss(61, 3.5)


def wide(chance: random.Random) -> float:
    return 20 * math.exp(chance.gauss(0, 0.35))


def two_modes(chance: random.Random) -> float:
    return chance.gauss(61, 3.5) if chance.random() < 0.85 else chance.gauss(247, 9)


def noticed_after(draw: Draw, factor: float, seed: int) -> int:
    """Completions after which the fifty from before weigh less than a third."""
    chance = random.Random(seed)
    history = History(math.log(draw(chance)) for _ in range(50))
    for count in range(1, 61):
        history.add(math.log(factor * draw(chance)))
        if sum(history.weights()[:-count]) < 0.33 * 50:
            return count
    return 60


@pytest.mark.parametrize("factor", [1 / 3, 1 / 1.5, 1.3, 1.5, 3.0])
@pytest.mark.parametrize("draw", [tight, two_modes])
def test_a_change_of_a_tight_class_is_noticed_within_ten(draw: Draw, factor: float) -> None:
    """Whatever the seed, and mostly within four."""
    counts = sorted(noticed_after(draw, factor, seed) for seed in range(11))
    assert counts[-1] <= 10
    assert counts[5] <= 4


@pytest.mark.parametrize("factor", [1 / 1.5, 1.5])
def test_a_change_of_a_wide_class_is_noticed_within_about_ten(factor: float) -> None:
    """A slowdown by half is a single standard deviation there; the median stays near ten."""
    counts = sorted(noticed_after(wide, factor, seed) for seed in range(15))
    assert counts[7] <= 13


@pytest.mark.parametrize(("draw", "least"), [(tight, 0.85), (two_modes, 0.9), (wide, 0.55)])
def test_a_service_that_does_not_change_keeps_its_durations(draw: Draw, least: float) -> None:
    """Most of the weight stays, with two modes too: false alarms cost little."""
    kept = []
    for seed in range(8):
        chance = random.Random(seed)
        history = History(math.log(draw(chance)) for _ in range(30))
        for _ in range(120):
            history.add(math.log(draw(chance)))
            kept.append(sum(history.weights()) / len(history.logs))
    assert sum(kept) / len(kept) >= least


def test_a_lone_outlier_changes_nothing_for_long() -> None:
    """One slow task leaves a tight class nearly as it was, and three more as ever."""
    chance = random.Random(5)
    history = History(math.log(tight(chance)) for _ in range(50))
    history.add(math.log(200.0))
    assert sum(history.weights()) > 20
    for _ in range(3):
        history.add(math.log(tight(chance)))
    assert sum(history.weights()) > 50


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-7, 14), max_size=250))
def test_weights_are_shares_that_never_fall(logs: list[float]) -> None:
    """Each lies in [0, 1], newer ones weigh at least as much, and memory is bounded."""
    history = History(logs)
    weights = history.weights()
    assert len(weights) == len(history.logs) == min(len(logs), LIMIT)
    assert all(0.0 <= weight <= 1.0 for weight in weights)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(weights))


def test_a_night_takes_some_weight() -> None:
    """What an earlier run learned counts less, but counts."""
    history = History([4.0] * 50)
    before = sum(history.weights())
    history.doubt(0.2)
    assert sum(history.weights()) == pytest.approx(0.8 * before)


def test_the_spread_is_that_of_the_tighter_half() -> None:
    """Modes far apart do not widen it."""
    chance = random.Random(1)
    one = [math.log(tight(chance)) for _ in range(200)]
    both = [math.log(two_modes(chance)) for _ in range(200)]
    assert half_spread(one) == pytest.approx(3.5 / 61, rel=0.35)
    assert half_spread(both) < 2 * half_spread(one)
    assert width_of(one) < width_of(one[:20]) < width_of(one[:1]) == 0.12


def bursts(history: History, chance: random.Random, *, held_back: bool) -> float:
    """Three bursts of twenty, whose quick ones end first; the least that all before ever weigh."""
    least = 60.0
    for _ in range(3):
        logs = [math.log(wide(chance)) for _ in range(20)]
        for log in sorted(logs):
            (history.take if held_back else history.add)(log)
            least = min(least, sum(history.all()[1]) - len(history.fresh))
        for log in logs if held_back else ():
            history.settle(log)
    return least


def test_durations_that_are_held_back_raise_no_alarm() -> None:
    """Sorted as they come, those of bursts look like a service that is faster and then slower."""
    kept: dict[bool, list[float]] = {True: [], False: []}
    for held_back, least in kept.items():
        for seed in range(12):
            chance = random.Random(seed)
            history = History(math.log(wide(chance)) for _ in range(60))
            least.append(bursts(history, chance, held_back=held_back))
    assert statistics.mean(kept[True]) > 40
    assert statistics.mean(kept[False]) < 15


def test_what_is_held_back_counts_in_full_and_is_bounded() -> None:
    """And says of a change what it says when it is settled; another duration settles nothing."""
    history = History([4.0] * 30)
    for _ in range(5):
        history.take(5.0)
    history.settle(6.0)
    logs, weights = history.all()
    assert logs[-5:] == [5.0] * 5
    assert weights[-5:] == [1.0] * 5
    assert sum(weights[:-5]) > 25
    for _ in range(5):
        history.settle(5.0)
    assert history.fresh == []
    assert sum(history.all()[1][:-5]) < 5
    for number in range(3 * LIMIT):
        history.take(float(number))
    assert len(history.fresh) <= LIMIT
    assert len(history.all()[0]) == len(history.all()[1]) == LIMIT
