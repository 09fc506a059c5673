"""The forecast as the poll loop uses it, played in virtual time."""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.forecast import PRICE, Forecast, Pending
from kie_mj_async.rules.kinds import Kind

FAST = Kind("mj_txt2img", "fast", "7")
OMNI = Kind("mj_omni_reference", "fast", "7")


@attrs.frozen
class Job:
    start: float
    kind: Kind
    seconds: float


@attrs.define
class Played:
    looks: list[float] = attrs.Factory(list)
    delays: list[float] = attrs.Factory(list)
    most_asks: int = 0


def play(
    forecast: Forecast, jobs: Sequence[Job], polls: float = 1000.0, until: float = 1e5
) -> Played:
    """Look at jobs as the forecast says, at most so many times a second."""
    played = Played()
    heap: list[tuple[float, int, Job, Pending | None]] = [
        (job.start, number, job, None) for number, job in enumerate(jobs)
    ]
    heapq.heapify(heap)
    ready: deque[tuple[Job, Pending]] = deque()
    order, now, free, asks = len(jobs), 0.0, 0.0, 0
    while (heap or ready) and now < until:
        if ready and (not heap or free <= heap[0][0]):
            job, task = ready.popleft()
            now = max(now, free)
            free = now + 1 / polls
            played.looks.append(now)
            if now >= job.start + job.seconds:
                forecast.ended(task, now, job.seconds)
                played.delays.append(now - job.start - job.seconds)
                continue
            forecast.looked(task, now)
        else:
            due, _, job, waiting = heapq.heappop(heap)
            now = max(now, due)
            task = waiting or forecast.started(job.kind, job.start, now)
        asks += 1
        assert asks < 1500 * len(jobs), "the loop stands still"
        wait = forecast.wait(task, now)
        assert wait >= 0.0
        if wait == 0.0:
            ready.append((job, task))
        else:
            assert now + wait > now, "the clock stands still"
            order += 1
            heapq.heappush(heap, (now + wait, order, job, task))
    played.most_asks = asks
    return played


def taught(kind: Kind = FAST, count: int = 40, middle: float = 61.0) -> Durations:
    chance, durations = random.Random(1), Durations()
    for _ in range(count):
        durations.observe(kind, chance.gauss(middle, 0.057 * middle))
    return durations


def burst(count: int, seed: int, middle: float = 61.0, kind: Kind = FAST) -> list[Job]:
    chance = random.Random(seed)
    return [Job(0.0, kind, chance.gauss(middle, 0.057 * middle)) for _ in range(count)]


def windows(count: int, seed: int) -> list[Job]:
    """As the account's window lets them go: two a second."""
    jobs = burst(count, seed)
    return [attrs.evolve(job, start=n // 20 * 10.0 + n % 20 * 0.05) for n, job in enumerate(jobs)]


def test_a_known_class_is_looked_at_a_few_times_around_its_end() -> None:
    """About a second's delay in a handful of looks, where a 2 s poller needs thirty."""
    jobs = [attrs.evolve(job, start=30.0 * n) for n, job in enumerate(burst(60, 2))]
    played = play(Forecast(taught()), jobs)
    assert len(played.looks) / 60 < 7
    assert statistics.mean(played.delays) < 1.2


@pytest.mark.parametrize("wrong", [0.2, 1.0, 5.0])
def test_twenty_tasks_of_a_new_class_take_turns(wrong: float) -> None:
    """However wrong the guess was, the first twenty cost little more than known ones would."""
    costs = []
    for seed in range(6):
        played = play(Forecast(Durations(wrong)), burst(20, seed))
        costs.append(statistics.mean(played.delays) + PRICE * len(played.looks) / 20)
    # The optimum, which knows the distribution, costs 1.44.
    assert statistics.mean(costs) < 3.5 * 1.44


def test_a_straggler_does_not_hold_a_new_class_back() -> None:
    """Tasks that never end take their turns as others do, so the rest is found."""
    jobs = [Job(0.0, FAST, 9e9)] * 6 + burst(24, 3)
    played = play(Forecast(), jobs, until=300.0)
    assert len(played.delays) == 24
    assert max(played.delays) < 40


def test_elders_that_never_end_hold_nobody_for_ever() -> None:
    """Where only such tasks take turns, the young ones go by the guess after a while."""
    stuck = [Job(-5000.0, FAST, 9e9)] * 40
    played = play(Forecast(), stuck + burst(40, 3), until=600.0)
    assert len(played.delays) == 40


def test_a_new_class_that_starts_little_by_little_watches_its_eldest() -> None:
    """The first to end is among them: the others cost no looks until then."""
    chance = random.Random(4)
    jobs = [Job(2.0 * n, OMNI, chance.gauss(248, 9)) for n in range(120)]
    played = play(Forecast(), jobs)
    assert statistics.mean(played.delays) < 4
    assert len(played.looks) / 120 < 9


@pytest.mark.parametrize("count", [100, 400])
def test_the_price_keeps_looks_within_the_budget(count: int) -> None:
    """Of 5 a second; a loop with the budget's queue then has no long one."""
    played = play(Forecast(taught(), polls=5.0), windows(count, 5), polls=5.0)
    assert statistics.mean(played.delays) < 4
    free = play(Forecast(taught(), polls=5.0), windows(count, 5))
    busiest = max(sum(at <= look < at + 30 for look in free.looks) for at in range(0, 300, 10))
    assert busiest <= 1.3 * 30 * 5


def test_a_plentiful_budget_leaves_the_price_at_its_floor() -> None:
    """A look has a worth of its own, whatever is allowed; a tight budget raises it, and 429s more."""
    prices = []
    for polls in (1000.0, 5.0, 0.5):
        forecast = Forecast(taught(), polls=polls)
        tasks = [forecast.started(FAST, 0.1 * n, 60.0) for n in range(600)]
        forecast.wait(tasks[0], 60.0)
        prices.append(forecast.price)
    assert prices[0] == PRICE < prices[1] < prices[2]
    forecast.allow(1000.0)
    forecast.wait(tasks[0], 60.0)
    assert forecast.price == PRICE


def test_looks_go_where_they_save_most() -> None:
    """At one price for all: a tight class is looked at less than a loose one."""
    durations = taught()
    chance = random.Random(1)
    for _ in range(40):
        durations.observe(OMNI, chance.gauss(248, 60))
    forecast = Forecast(durations)
    assert len([age for age in forecast.next_looks(FAST, 20) if age < 75]) < len(
        [age for age in forecast.next_looks(OMNI, 20) if age < 400]
    )


def test_a_hundred_thousand_pending_tasks_share_the_budget() -> None:
    """Their price is high, asking about one is a look-up, and classes hold no list of them."""
    forecast = Forecast(taught())
    tasks = [forecast.started(FAST, 0.5 * n, 50_000.0) for n in range(100_000)]
    assert forecast.wait(tasks[0], 50_000.0) == 0.0
    assert forecast.price > 100
    for task in tasks:
        forecast.ended(task, 50_000.0, None)
    last = forecast.started(FAST, 50_000.0, 50_000.0)
    forecast.wait(last, 50_010.0)
    assert forecast.price == PRICE


def test_a_slowdown_is_followed() -> None:
    """Ten jobs after it looks come at the new time."""
    forecast = Forecast(taught())
    chance = random.Random(6)
    for _ in range(10):
        forecast.observe(FAST, 1.5 * chance.gauss(61, 3.5))
    looks = [age for age in forecast.next_looks(FAST, 8) if 40 < age < 130]
    assert min(looks) > 60
    assert sum(80 < age < 105 for age in looks) >= 4


def test_a_task_that_may_have_ended_long_ago_is_looked_at_now() -> None:
    """A resumed one: nobody has seen it running at its age."""
    forecast = Forecast(taught())
    assert forecast.wait(forecast.started(FAST, -500.0, 0.0), 0.0) == 0.0
    young = forecast.started(FAST, 0.0, 0.0)
    assert forecast.wait(young, 0.0) > 0.0


def test_what_is_left_is_told() -> None:
    """For a task of a class and an age, with its spread."""
    left = Forecast(taught()).left(FAST, 31.0)
    assert left.low < left.middle == pytest.approx(30, abs=3)
    assert left.middle < left.high < 60


def test_an_end_counts_once() -> None:
    """Whoever says it twice changes nothing."""
    forecast = Forecast()
    task = forecast.started(FAST, 0.0, 0.0)
    forecast.ended(task, 60.0, 60.0)
    forecast.ended(task, 60.0, 60.0)
    assert forecast.durations.seconds(FAST) == [pytest.approx(60.0)]


def test_classes_at_hand_are_bounded() -> None:
    """A thousand odd versions leave no thousand classes behind."""
    forecast = Forecast()
    for number in range(1000):
        task = forecast.started(Kind("mj_txt2img", "fast", str(number)), 0.0, 0.0)
        forecast.wait(task, 1.0)
        forecast.ended(task, 60.0, 60.0)
    assert len(forecast._classes) <= 256
    assert len(forecast.durations.kinds()) <= 64


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.floats(-1000, 300), st.sampled_from([FAST, OMNI, Kind()]), st.floats(0.01, 900)
        ),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([0.01, 1.0, 10.0]),
)
def test_every_end_is_noticed(given: list[tuple[float, Kind, float]], scale: float) -> None:
    """Whatever tasks there are, whenever they were born, also in the future of a wrong clock."""
    jobs = [Job(start, kind, seconds) for start, kind, seconds in given]
    played = play(Forecast(scale=scale), jobs)
    assert len(played.delays) == len(jobs)
