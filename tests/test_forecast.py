"""The forecast as the poll loop uses it, played in virtual time."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.crowd import Pending
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.forecast import PRICE, Forecast
from kie_mj_async.rules.kinds import Kind

FAST = Kind("mj_txt2img", "fast", "7")
OMNI = Kind("mj_omni_reference", "fast", "7")


@attrs.frozen
class Job:
    start: float
    kind: Kind
    seconds: float


@attrs.define(eq=False)
class Task(Pending):
    job: Job
    due: float = 0.0


@attrs.define
class Played:
    looks: list[float] = attrs.Factory(list)
    delays: list[float] = attrs.Factory(list)
    asks: int = 0


def play(
    forecast: Forecast, jobs: Sequence[Job], polls: float = 1000.0, until: float = 1e5
) -> Played:
    """Look at jobs as the forecast says, at most so many times a second."""
    played = Played()
    heap = [
        (job.start, number, Task(job.kind, job.start, job, job.start))
        for number, job in enumerate(jobs)
    ]
    heapq.heapify(heap)
    ready: deque[Task] = deque()
    order, now, free = len(jobs), 0.0, 0.0
    while (heap or ready) and now < until:
        due = min(heap[0][0] if heap else math.inf, free if ready else math.inf, forecast.next_call)
        if ready and free <= max(now, due):
            now, task = max(now, free), ready.popleft()
            free = now + 1 / polls
            played.looks.append(now)
            if now >= task.born + task.job.seconds:
                forecast.ended(task, now, task.job.seconds)
                played.delays.append(now - task.born - task.job.seconds)
                continue
            forecast.looked(task, now)
        else:
            now = max(now, due)
            called = forecast.call(now)
            if isinstance(called, Task):
                assert called not in ready, "it does not hold"
                task = called
            elif heap and heap[0][0] <= now:
                due, _, task = heapq.heappop(heap)
                if due != task.due:
                    continue
                if task.of is None:
                    forecast.started(task, now)
            else:
                continue
        played.asks += 1
        assert played.asks < 1500 * len(jobs), "the loop stands still"
        wait = forecast.wait(task, now)
        assert wait >= 0.0
        task.due = now + wait
        if wait == 0.0:
            ready.append(task)
            task.due = -math.inf
        else:
            assert task.due > now, "the clock stands still"
            order += 1
            heapq.heappush(heap, (task.due, order, task))
    return played


def following(forecast: Forecast, born: float, now: float, kind: Kind = FAST) -> Pending:
    task = Pending(kind, born)
    forecast.started(task, now)
    return task


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
        tasks = [following(forecast, 0.1 * n, 60.0) for n in range(600)]
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
    tasks = [following(forecast, 0.5 * n, 50_000.0) for n in range(100_000)]
    assert forecast.wait(tasks[0], 50_000.0) == 0.0
    assert forecast.price > 100
    for task in tasks:
        forecast.ended(task, 50_000.0, None)
    last = following(forecast, 50_000.0, 50_000.0)
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
    assert forecast.wait(following(forecast, -500.0, 0.0), 0.0) == 0.0
    young = following(forecast, 0.0, 0.0)
    assert forecast.wait(young, 0.0) > 0.0


def test_what_is_left_is_told() -> None:
    """For a task of a class and an age, with its spread."""
    left = Forecast(taught()).left(FAST, 31.0)
    assert left.low < left.middle == pytest.approx(30, abs=3)
    assert left.middle < left.high < 60


def test_an_end_counts_once() -> None:
    """Whoever says it twice changes nothing."""
    forecast = Forecast()
    task = following(forecast, 0.0, 0.0)
    forecast.ended(task, 60.0, 60.0)
    forecast.ended(task, 60.0, 60.0)
    assert forecast.durations.seconds(FAST) == [pytest.approx(60.0)]


def test_classes_at_hand_are_bounded() -> None:
    """Hundreds of odd versions leave no hundreds of classes behind."""
    forecast = Forecast()
    for number in range(400):
        task = following(forecast, 0.0, 0.0, Kind("mj_txt2img", "fast", str(number)))
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


def test_whoever_holds_is_asked_nothing() -> None:
    """A look at one of a thousand tasks of a new class takes three questions, not fifty."""
    played = play(Forecast(polls=100.0), burst(1000, 8), polls=100.0, until=40.0)
    assert len(played.looks) > 100
    assert played.asks - 1000 < 4 * len(played.looks)


def test_all_that_hold_are_called_when_the_class_is_known() -> None:
    """Two ends, and the rest follow the schedule."""
    forecast = Forecast()
    tasks = [following(forecast, 0.0, 0.0) for _ in range(50)]
    assert all(forecast.wait(task, 0.0) > 0.0 for task in tasks)
    now = 60.0
    for task in tasks[:2]:
        forecast.ended(task, now, 60.0)
    assert forecast.next_call <= now
    called = []
    while (one := forecast.call(now)) is not None:
        called.append(one)
    assert set(called) == set(tasks[2:])
    assert forecast.next_call == math.inf


def test_few_that_are_left_of_a_new_class_hold_no_longer() -> None:
    """They go by the guess."""
    forecast = Forecast()
    tasks = [following(forecast, 0.0, 0.0) for _ in range(5)]
    assert all(forecast.wait(task, 0.0) > 0.0 for task in tasks)
    for task in tasks[:2]:
        forecast.ended(task, 10.0, None)
    assert {forecast.call(10.0) for _ in range(3)} == set(tasks[2:])


def test_a_burst_does_not_look_like_a_faster_service() -> None:
    """Its quick tasks end first; what was known before still counts, and so does a real change."""
    for factor, counts in ((1.0, True), (0.6, False)):
        kept = []
        for seed in range(8):
            chance = random.Random(seed)
            forecast = Forecast()
            for _ in range(60):
                forecast.observe(FAST, 20 * math.exp(chance.gauss(0, 0.35)))
            jobs = [
                Job(0.0, FAST, factor * 20 * math.exp(chance.gauss(0, 0.35))) for _ in range(20)
            ]
            play(forecast, jobs)
            kept.append(forecast.durations.known(FAST) - 20)
        assert (statistics.mean(kept) > 10) is counts, (factor, kept)


def test_the_ages_of_looks_are_told() -> None:
    """Those of a known class, up to ages that nobody expects; a new one's tasks take turns."""
    forecast = Forecast(taught())
    ages = forecast.look_ages(FAST)
    assert ages[:5] == forecast.next_looks(FAST, 5)
    assert ages == sorted(ages)
    assert ages[-1] > 300
    assert forecast.look_ages(FAST) is ages
    new = Forecast()
    for _ in range(5):
        following(new, 0.0, 0.0)
    assert new.look_ages(FAST) == []
    with pytest.raises(ValueError, match="does not follow"):
        new.wait(Pending(FAST, 0.0), 0.0)
