"""Schedules are the best there are."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.schedule import CEILING, SafetyNet, Schedule
from kie_mj_async.rules.spread import Spread, guess, pour, spread_of

Points = list[tuple[float, float]]
points = st.lists(st.tuples(st.floats(1, 1000), st.floats(0.01, 5)), min_size=1, max_size=9)
prices = st.floats(0.01, 100)


def schedule_of(spread: Spread, price: float) -> Schedule:
    return Schedule(spread.ages, spread.weights, spread.sums, price)


def of_points(given: Points, price: float) -> Schedule:
    merged = {age: sum(w for a, w in given if a == age) for age, _ in given}
    ages = sorted(merged)
    return Schedule(ages, [merged[a] for a in ages], [a * merged[a] for a in ages], price)


def figures(given: Points, looks: list[float]) -> tuple[float, float]:
    """Looks and seconds of delay of these tasks, in all."""
    asked = delay = 0.0
    for age, weight in given:
        place = next(i for i, look in enumerate(looks) if look >= age)
        asked += weight * (place + 1)
        delay += weight * (looks[place] - age)
    return asked, delay


def looks_of(schedule: Schedule, last: float) -> list[float]:
    looks = [schedule.after(0.0)]
    while looks[-1] < last:
        looks.append(schedule.after(looks[-1]))
    return looks


def learned(*seconds: float) -> Spread:
    bins: dict[int, float] = {}
    pour(bins, [math.log(one) for one in seconds], [1.0] * len(seconds), 0.03)
    guess(bins, math.log(seconds[0]), 0.2, tried=True)
    return spread_of(bins, len(seconds))


CHANCE = random.Random(3)
FAST = learned(*(CHANCE.gauss(61, 3.5) for _ in range(40)))


@settings(deadline=None)
@given(points, prices)
def test_no_other_choice_of_looks_is_cheaper(given: Points, price: float) -> None:
    """Brute force over all sets of candidate ages finds nothing better."""
    schedule = of_points(given, price)
    ages = list(schedule.ages)

    def cost(looks: list[float]) -> float:
        asked, delay = figures(given, looks)
        return delay + price * asked

    best = min(
        cost([*some, ages[-1]])
        for count in range(len(ages))
        for some in itertools.combinations(ages[:-1], count)
    )
    assert cost(looks_of(schedule, ages[-1])) <= best * (1 + 1e-6) + 1e-6


@settings(deadline=None)
@given(points, prices, st.floats(1.05, 10))
def test_dearer_looks_are_fewer(given: Points, price: float, factor: float) -> None:
    """And the delay is no shorter."""
    last = max(age for age, _ in given)
    cheap = figures(given, looks_of(of_points(given, price), last))
    dear = figures(given, looks_of(of_points(given, price * factor), last))
    assert dear[0] <= cheap[0] * (1 + 1e-6)
    assert dear[1] >= cheap[1] * (1 - 1e-6) - 1e-6


@pytest.mark.parametrize("every", [0.5, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("price", [0.05, 0.15, 1.0, 10.0])
def test_no_fixed_interval_is_better_on_the_same_distribution(every: float, price: float) -> None:
    """Within the error of the grid, which is a hundredth of the age."""
    tasks = [(part / w, w) for part, w in zip(FAST.sums, FAST.weights, strict=True)]
    last = tasks[-1][0]
    ours = figures(tasks, looks_of(schedule_of(FAST, price), last))
    fixed = figures(tasks, [every * (i + 1) for i in range(int(last / every) + 1)])
    grid = 0.01 * sum(age * weight for age, weight in tasks)
    assert ours[1] + price * ours[0] <= fixed[1] + price * fixed[0] + grid


def test_looks_come_where_ends_are_likely() -> None:
    """A class of 61 s is not looked at before its first tasks can have ended, then densely."""
    schedule = schedule_of(FAST, 0.15)
    looks = looks_of(schedule, 75.0)
    assert 45 < looks[1] < 62
    assert sum(50 < look < 72 for look in looks) >= 5
    assert len(looks) <= 20


@given(st.floats(0, 1e6), prices)
def test_the_next_look_is_always_later(age: float, price: float) -> None:
    """At any age, so that no task is looked at for ever at one moment, and within bounds."""
    schedule = schedule_of(FAST, price)
    wait = schedule.after(age) - age
    assert wait > 0.0005 * age
    if age > FAST.ages[-1]:
        assert wait <= max(CEILING, math.sqrt(3 * price * age), price) * (1 + 1e-9)


def test_beyond_what_was_seen_looks_come_a_quarter_of_the_age_apart() -> None:
    """Up to the ceiling."""
    schedule = of_points([(10.0, 1.0)], 0.1)
    assert schedule.after(100.0) == pytest.approx(125.0)
    assert schedule.after(1e5) == pytest.approx(1e5 + CEILING)


@pytest.mark.parametrize("age", [0.0, 30.0, 58.0, 64.0, 100.0, 1e5])
@pytest.mark.parametrize("price", [0.1, 1.0])
def test_expected_looks_are_those_of_the_schedule(age: float, price: float) -> None:
    """Looks within a while, each weighed by how likely the task still runs then."""
    schedule = schedule_of(FAST, price)
    expected, at = 0.0, age
    alive = FAST.alive(age)
    while (after := schedule.after(at)) <= age + 50.0:
        expected += FAST.alive(at) / alive if alive else 1.0
        at = after
    assert schedule.looks(age, 50.0) == pytest.approx(expected, abs=0.35)


@pytest.mark.parametrize(
    ("age", "wait"),
    [(-5, 300), (0, 300), (250, 50), (300, 150), (450, 225), (1200, 600), (1e6, 600)],
)
def test_the_net_is_wide(age: float, wait: float) -> None:
    """The first look comes at 300 s; from then on half the age apart, at most 600 s."""
    assert SafetyNet().next_look(age) == wait


@given(st.floats(0, 275))
def test_no_usual_task_meets_the_net(duration: float) -> None:
    """Whatever takes as long as the slowest class did (248 s and some) is left to its callback."""
    assert SafetyNet().next_look(0.0) > duration


@given(st.floats(1, 10_000))
def test_a_lost_callback_costs_a_bounded_delay(duration: float) -> None:
    """An end that nobody told of is noticed by 300 s, half its duration or 600 s later, in few looks."""
    age, looks = 0.0, 0
    while age < duration:
        age += SafetyNet().next_look(age)
        looks += 1
    assert age - duration <= max(300.0, min(600.0, 0.5 * duration))
    assert looks <= 5 + duration / 600
