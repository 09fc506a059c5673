"""The world of ``polling.py``: durations, the optimum, and tasks played in virtual time."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import attrs

from kie_mj_async.rules.crowd import Pending
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.forecast import Forecast
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.schedule import Schedule

FAST = Kind("mj_txt2img", "fast", "7")
RELAXED = Kind("mj_txt2img", "relaxed", "7")
OMNI = Kind("mj_omni_reference", "fast", "7")

# --- Durations ------------------------------------------------------------------------------------


@attrs.frozen
class Truth:
    """A mix of distributions: share, middle, deviation, whether it is log-normal."""

    parts: tuple[tuple[float, float, float, bool], ...]

    def cdf(self, x: float) -> float:
        total = 0.0
        for share, middle, deviation, is_log in self.parts:
            away = (math.log(x / middle) if x > 0 else -99.0) if is_log else x - middle
            total += share * 0.5 * math.erfc(-away / deviation / math.sqrt(2))
        return total

    @property
    def mean(self) -> float:
        return sum(
            share * middle * (math.exp(deviation**2 / 2) if is_log else 1.0)
            for share, middle, deviation, is_log in self.parts
        )

    def draw(self, chance: random.Random) -> float:
        left = chance.random()
        _, middle, deviation, is_log = self.parts[-1]
        for part in self.parts:
            left -= part[0]
            if left < 0:
                _, middle, deviation, is_log = part
                break
        if is_log:
            return middle * math.exp(chance.gauss(0, deviation))
        return max(middle / 4, chance.gauss(middle, deviation))

    def slower(self, factor: float) -> Truth:
        return Truth(
            tuple((s, m * factor, d if log else d * factor, log) for s, m, d, log in self.parts)
        )


def normal(middle: float, deviation: float) -> Truth:
    return Truth(((1.0, middle, deviation, False),))


TRUTHS = {
    "normal(61, 3.5)": normal(61, 3.5),
    "log-normal(20, 0.35)": Truth(((1.0, 20.0, 0.35, True),)),
    "85 % normal(61, 3.5), 15 % normal(247, 9)": Truth(
        ((0.85, 61.0, 3.5, False), (0.15, 247.0, 9.0, False))
    ),
}
RECORDED = (
    (5 / 8, FAST, normal(61, 3.5)),
    (1 / 8, RELAXED, normal(214, 12)),
    (2 / 8, OMNI, normal(248, 9)),
)
"""The eight recordings: five of about a minute, one relaxed, two with an omni reference."""

# --- Exact figures of a schedule ------------------------------------------------------------------

After = Callable[[float], float]


def exact(truth: Truth, after: After) -> tuple[float, float]:
    """Looks a task and mean delay of a schedule, by integration."""
    age = looks = found = 0.0
    before = truth.cdf(0.0)
    while 1.0 - before > 1e-9:
        looks += 1.0 - before
        age = after(age)
        now = truth.cdf(age)
        found += age * (now - before)
        before = now
    return looks, found - truth.mean


@cache
def optimum(truth: Truth, price: float) -> tuple[float, float]:
    """The best that can be done by who knows the distribution."""
    high = truth.mean
    while 1.0 - truth.cdf(high) > 1e-8:
        high *= 1.05
    step = high / 6000
    ages = [step * (i + 1) for i in range(6000)]
    shares = [truth.cdf(age) - truth.cdf(age - step) for age in ages]
    sums = [share * (age - step / 2) for share, age in zip(shares, ages, strict=True)]
    return exact(truth, Schedule(ages, shares, sums, price).after)


def cost(figures: tuple[float, float], price: float) -> float:
    return figures[1] + price * figures[0]


def learned_schedule(durations: Durations, kind: Kind, price: float) -> After:
    spread = durations.spread(kind)
    return Schedule(spread.ages, spread.weights, spread.sums, price).after


def backing_off(age: float) -> float:
    """Waits of 1, 2, 4, 8, 16 s and then 30 s."""
    at, wait = 0.0, 1.0
    while at <= age + 1e-5:
        at += wait
        wait = min(30.0, wait * 2)
    return at


def every(seconds: float) -> After:
    return lambda age: (math.floor(age / seconds + 1e-5) + 1) * seconds


# --- Played: many tasks at once, in virtual time --------------------------------------------------


@attrs.frozen
class Job:
    start: float
    kind: Kind
    seconds: float


@attrs.define(eq=False)
class Task(Pending):
    """A job that is waited for, and when it is due in the heap."""

    job: Job
    due: float = -math.inf


class Policy(Protocol):
    """What the poll loop asks."""

    @property
    def next_call(self) -> float: ...
    def call(self, now: float) -> Pending | None: ...
    def started(self, task: Pending, now: float) -> None: ...
    def wait(self, task: Pending, now: float) -> float: ...
    def looked(self, task: Pending, at: float) -> None: ...
    def ended(self, task: Pending, now: float, seconds: float | None) -> None: ...


class Plain(Forecast):
    """The same schedule for every task, whatever was learned."""

    def __init__(self, after: After) -> None:
        super().__init__()
        self._after = after

    def wait(self, task: Pending, now: float) -> float:
        return max(0.0, self._after(task.seen) - (now - task.born))


@attrs.frozen
class Played:
    """What came of a play: looks, and each job's delay, in the order of their ends."""

    looks: int
    delays: list[float]
    asks: int
    looked: list[float]

    @property
    def per_job(self) -> float:
        return self.looks / len(self.delays)

    def cost(self, price: float) -> float:
        return statistics.mean(self.delays) + price * self.per_job

    @property
    def p95(self) -> float:
        return sorted(self.delays)[math.ceil(0.95 * len(self.delays)) - 1]


def play(policy: Policy, jobs: Sequence[Job], polls: float = math.inf) -> Played:
    """Let a policy look at jobs; at most so many ``polls`` a second, in the order they are due."""
    heap = [(job.start, n, Task(job.kind, job.start, job, job.start)) for n, job in enumerate(jobs)]
    heapq.heapify(heap)
    ready: deque[Task] = deque()
    queued: set[Task] = set()
    order, asks, free, now = len(jobs), 0, 0.0, 0.0
    delays: list[float] = []
    looked: list[float] = []
    while heap or ready:
        due = min(heap[0][0] if heap else math.inf, free if ready else math.inf, policy.next_call)
        if ready and free <= max(now, due):
            now = max(now, free)
            task = ready.popleft()
            queued.discard(task)
            looked.append(now)
            free = now + 1 / polls
            if now >= task.born + task.job.seconds:
                policy.ended(task, now, task.job.seconds)
                delays.append(now - task.born - task.job.seconds)
                continue
            policy.looked(task, now)
        else:
            now = max(now, due)
            called = policy.call(now)
            if isinstance(called, Task):
                if called in queued:
                    continue
                task = called
            elif heap and heap[0][0] <= now:
                due, _, task = heapq.heappop(heap)
                if due != task.due:
                    continue
                if task.of is None:
                    policy.started(task, now)
            else:
                continue
        asks += 1
        task.due = now + policy.wait(task, now)
        if task.due <= now + 1e-6:
            task.due = -math.inf
            ready.append(task)
            queued.add(task)
        else:
            order += 1
            heapq.heappush(heap, (task.due, order, task))
    return Played(len(looked), delays, asks, looked)
