"""The rolling window, proved by simulation, and what refusals teach."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.rules.pacing import (
    MARGIN,
    Granted,
    PollBudget,
    Rate,
    Slot,
    Throttle,
    Wait,
    backoff,
    grant,
    settle,
    spread,
)

RATE = Rate(creates=3, seconds=10.0)


# --- The window, in a simulated world ------------------------------------------------------------


def by_reply(slots: list[Slot], now: float, gone: set[str]) -> list[Slot]:
    """The rule under test."""
    return settle(slots, now, RATE, gone)


def by_sending(slots: list[Slot], now: float, gone: set[str]) -> list[Slot]:
    """The naive rule: a slot is free one window after its request was sent."""
    ended = [attrs.evolve(one, ended_at=one.taken_at) for one in slots]
    return [one for one in ended if one.taken_at + RATE.seconds + MARGIN > now]


def by_replies_only(slots: list[Slot], now: float, gone: set[str]) -> list[Slot]:
    """Another naive rule: creates under way are not counted."""
    return [one for one in settle(slots, now, RATE, gone) if one.ended_at is not None]


Rule = Callable[[list[Slot], float, set[str]], list[Slot]]


class World:
    """Processes that share slots and send as fast as a rule lets them; a service that counts.

    Each create is sent at s, counted at c and answered at r with s <= c <= r. A killed process leaves
    its slots open; what it had sent is counted before its connection was cut. A request without an
    answer is counted before it gives up.
    """

    def __init__(self, rule: Rule, seed: int, kill_every: float, slowness: float) -> None:
        self.rule = rule
        self.chance = random.Random(seed)
        self.kill_every = kill_every
        self.slowness = slowness
        self.slots: list[Slot] = []
        self.counted: list[float] = []
        self.gone: set[str] = set()
        self.names = 0
        self.alive: list[str] = []
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.order = 0

    def at(self, when: float, what: Callable[[float], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (when, self.order, what))

    def run(self, processes: int, until: float) -> list[float]:
        for _ in range(processes):
            self.start(self.chance.uniform(0, 2))
        while self.events and self.events[0][0] < until:
            now, _, what = heapq.heappop(self.events)
            what(now)
        return sorted(self.counted)

    def start(self, now: float) -> None:
        self.names += 1
        owner = f"process-{self.names}"
        self.alive.append(owner)
        self.at(now, lambda t: self.ask(owner, t))
        if self.kill_every:
            life = self.chance.expovariate(1 / self.kill_every)
            self.at(now + life, lambda t: self.kill(owner, t))

    def kill(self, owner: str, now: float) -> None:
        self.alive.remove(owner)
        self.gone.add(owner)
        self.start(now + self.chance.uniform(0, 3))

    def ask(self, owner: str, now: float) -> None:
        if owner not in self.alive:
            return
        self.slots = self.rule(self.slots, now, self.gone)
        answer = grant(self.slots, now, RATE)
        if isinstance(answer, Wait):
            pause = 0.5 if answer.seconds is None else max(answer.seconds, 1e-3)
            self.at(now + pause, lambda t: self.ask(owner, t))
            return
        self.send(owner, now)
        self.at(now + self.chance.choice([0, 0, 0.1]), lambda t: self.ask(owner, t))

    def send(self, owner: str, now: float) -> None:
        gives_up = now + 3 * self.slowness
        self.order += 1
        slot = Slot(self.order, owner, now, None, gives_up)
        self.slots.append(slot)
        replied = now + self.chance.uniform(0, self.slowness)
        counted = self.chance.uniform(now, replied)
        if self.chance.random() < 0.1:  # no answer, counted as late as can be
            replied, counted = math.inf, gives_up
        self.at(counted, lambda t: self.count(owner, t))
        if replied < math.inf:
            self.at(replied, lambda t: self.end(slot.id, owner, t))

    def count(self, owner: str, now: float) -> None:
        if owner in self.alive:
            self.counted.append(now)

    def end(self, slot_id: int, owner: str, now: float) -> None:
        if owner in self.alive:
            self.slots = [
                attrs.evolve(one, ended_at=now) if one.id == slot_id else one for one in self.slots
            ]


def most_in_a_window(counted: list[float]) -> int:
    return max(
        (sum(at <= other < at + RATE.seconds for other in counted[i:]) for i, at in enumerate(counted)),
        default=0,
    )  # fmt: skip


WORLDS: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**32),
    "processes": st.integers(1, 3),
    "kill_every": st.sampled_from([0.0, 4.0, 15.0]),
    "slowness": st.sampled_from([0.05, 0.5, 3.0, 20.0]),
}


@settings(deadline=None, max_examples=150)
@given(**WORLDS)
def test_the_window_holds(seed: int, processes: int, kill_every: float, slowness: float) -> None:
    """Whatever the delays, kills and restarts: no rolling window counts too many (law 5)."""
    world = World(by_reply, seed, kill_every, slowness)
    counted = world.run(processes, until=120)
    assert most_in_a_window(counted) <= RATE.creates


@pytest.mark.parametrize("rule", [by_sending, by_replies_only])
def test_the_naive_rules_break(rule: Rule) -> None:
    """The same worlds catch the rules that free at sending, or do not count creates under way."""
    worst = max(most_in_a_window(World(rule, seed, 0.0, 3.0).run(2, until=25)) for seed in range(9))
    assert worst > RATE.creates


def test_the_window_is_used_to_the_full() -> None:
    """With quick answers, the rule lets nearly every create through that the account allows."""
    counted = World(by_reply, 1, 0.0, 0.05).run(2, until=100)
    assert len(counted) >= 0.97 * RATE.creates * 10


# --- The window, rule by rule --------------------------------------------------------------------


def slot(
    taken: float, ended: float | None = None, owner: str = "me", gives_up: float = 1e9
) -> Slot:
    return Slot(1, owner, taken, ended, gives_up)


@pytest.mark.parametrize(
    ("stored", "ended"),
    [
        pytest.param(slot(95.0), None, id="under way: stays open"),
        pytest.param(slot(10.0), None, id="under way for long: stays open"),
        pytest.param(slot(90.0, 95.0), 95.0, id="ended: as it was"),
        pytest.param(slot(95.0, owner="gone"), 100.0, id="cut off: ends now"),
        pytest.param(slot(5.0, owner="gone"), 100.0, id="cut off long ago: ends now"),
        pytest.param(slot(90.0, 95.0, owner="gone"), 95.0, id="ended before its owner did"),
        pytest.param(slot(5.0, gives_up=96.0), 96.0, id="timed out: ended then"),
        pytest.param(slot(5.0, owner="gone", gives_up=50.0), 100.0, id="cut off and timed out"),
        pytest.param(slot(99.0, gives_up=100.0), None, id="times out this very moment"),
        pytest.param(slot(5000.0), 100.0, id="taken in the future: now"),
        pytest.param(slot(90.0, 5000.0), 100.0, id="ended in the future: now"),
        pytest.param(slot(4990.0, 5000.0), 100.0, id="all in the future: now"),
    ],
)
def test_settling_a_slot(stored: Slot, ended: float | None) -> None:
    """At 100 s: what ended stays, what cannot be observed any more ends now or when it gave up."""
    assert settle([stored], 100.0, RATE, {"gone"}) == [attrs.evolve(stored, ended_at=ended)]


def test_a_slot_is_free_one_window_after_its_end() -> None:
    """A slot counts until one window (and the margin) after its end, and not longer."""
    stored = [slot(50.0, 90.0)]
    assert settle(stored, 90.0 + 10.0 + MARGIN / 2, RATE, ()) == stored
    assert settle(stored, 90.0 + 10.0 + MARGIN, RATE, ()) == []
    assert settle([slot(5.0, gives_up=80.0)], 100.0, RATE, ()) == []


def test_settling_twice_is_settling_once() -> None:
    """What was settled and stored does not end anew."""
    once = settle([slot(5.0, owner="gone"), slot(5000.0)], 100.0, RATE, {"gone"})
    assert settle(once, 105.0, RATE, {"gone"}) == once
    assert settle(once, 110.5, RATE, {"gone"}) == []


@pytest.mark.parametrize(
    ("slots", "answer"),
    [
        ([], Granted(others=0)),
        ([slot(99.0)] * 2, Granted(others=2)),
        ([slot(99.0)] * 3, Wait(None)),
        ([slot(99.0), slot(99.0), slot(90.0, 95.0)], Wait(5.0 + MARGIN)),
        ([slot(9.0, 97.0), slot(9.0, 93.0), slot(9.0, 95.0)], Wait(3.0 + MARGIN)),
        ([slot(9.0, 97.0), slot(9.0, 93.0), slot(9.0, 95.0), slot(9.0, 96.0)], Wait(5.0 + MARGIN)),
        ([slot(99.0), slot(99.0), slot(99.0), slot(9.0, 95.0)], Wait(None)),
    ],
)
def test_granting(slots: list[Slot], answer: Granted | Wait) -> None:
    """A free place is granted; else the wait is until enough ended slots have left the window."""
    found = grant(slots, 100.0, RATE)
    if isinstance(answer, Wait) and answer.seconds is not None:
        assert isinstance(found, Wait)
        assert found.seconds == pytest.approx(answer.seconds)
    else:
        assert found == answer


def test_a_wait_is_long_enough() -> None:
    """After the told wait a place is free: nobody asks in vain."""
    slots = [slot(9.0, 93.0 + n) for n in range(3)]
    found = grant(slots, 100.0, RATE)
    assert isinstance(found, Wait)
    later = 100.0 + (found.seconds or 0) + 1e-6
    assert grant(settle(slots, later, RATE, ()), later, RATE) == Granted(others=2)


def test_unsettled_slots_never_mean_a_negative_wait() -> None:
    """A slot that is already free means no wait, not a negative one."""
    assert grant([slot(9.0, 10.0)] * 3, 100.0, RATE) == Wait(0.0)


# --- Throttle ------------------------------------------------------------------------------------


def throttle(**changes: Any) -> Throttle:
    return attrs.evolve(Throttle(ceiling=100, cap=100), **changes)


@pytest.mark.parametrize(
    ("retry_after", "paused_until"), [(None, 110), (0, 110), (3, 110), (10, 110), (45, 145)]
)
def test_a_429_pauses_for_a_window_at_least(retry_after: float | None, paused_until: float) -> None:
    """Retry-After may lengthen the pause of one window, never shorten it."""
    after = throttle().rate_limited(100, retry_after, RATE, alone=False, running=60)
    assert (after.paused_until, after.proving, after.cap) == (paused_until, True, 100)


def test_a_pause_is_never_shortened() -> None:
    """Neither a second refusal nor a postponement brings an agreed pause forward."""
    paused = throttle().rate_limited(100, 60, RATE, alone=False, running=60)
    assert paused.rate_limited(101, None, RATE, alone=True, running=60).paused_until == 160
    assert paused.postponed(101, 1).paused_until == 160
    assert paused.postponed(101, 100).paused_until == 201


@pytest.mark.parametrize(
    ("cap", "running", "lowered"),
    [(100, 60, 59), (100, 1, 1), (100, 0, 1), (40, 60, 40), (40, 41, 40), (40, 40, 39)],
)
def test_a_429_into_an_empty_window_lowers_the_cap(cap: int, running: int, lowered: int) -> None:
    """Refused alone, it is the running tasks: one fewer than run now, at least one, never more."""
    before = throttle(cap=cap, completions=7)
    after = before.rate_limited(100, None, RATE, alone=True, running=running)
    assert (after.cap, after.completions) == (lowered, 0)
    assert (after.paused_until, after.proving) == (110, True)


def test_a_429_in_a_busy_window_says_nothing_of_the_cap() -> None:
    """Too fast is not too many: the cap and the count towards its rise stay."""
    after = throttle(cap=40, completions=7).rate_limited(100, None, RATE, alone=False, running=10)
    assert (after.cap, after.completions) == (40, 7)


def test_proving_ends_with_an_accepted_create() -> None:
    """After a refusal one create at a time goes out, until one is accepted."""
    proving = throttle(proving=True)
    assert proving.wait(0, running=5, sending=1) is None
    assert proving.wait(0, running=5, sending=0) == 0
    assert proving.accepted().proving is False
    assert proving.accepted().wait(0, running=5, sending=9) == 0
    calm = throttle()
    assert calm.accepted() is calm


@pytest.mark.parametrize(
    ("now", "running", "wait"),
    [(100, 0, 20.5), (120, 0, 0.5), (120.5, 0, 0), (121, 39, 0), (121, 40, None), (121, 50, None)],
)
def test_what_holds_a_create_back(now: float, running: int, wait: float | None) -> None:
    """A pause holds for its rest; a full cap until something ends."""
    assert throttle(cap=40, paused_until=120.5).wait(now, running=running, sending=9) == wait


def test_probing_upwards() -> None:
    """The cap rises by one after as many completions as it has places, up to the ceiling."""
    state = Throttle(ceiling=4, cap=2)
    caps = []
    for _ in range(9):
        state = state.completed()
        caps.append(state.cap)
    assert caps == [2, 3, 3, 3, 4, 4, 4, 4, 4]
    assert state.completions == 0
    assert Throttle(ceiling=4, cap=1).completed().cap == 2


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["429", "alone", "ok", "done", "post"]), st.integers(0, 12))
    ),
    st.integers(1, 10),
)
def test_a_throttle_never_locks_up(steps: list[tuple[str, int]], ceiling: int) -> None:
    """After anything at all, an idle account's next create is let go in the end."""
    state, now = Throttle(ceiling, ceiling), 0.0
    for what, running in steps:
        now += 1
        before = state
        match what:
            case "429" | "alone":
                state = state.rate_limited(now, None, RATE, alone=what == "alone", running=running)
            case "ok":
                state = state.accepted()
            case "done":
                state = state.completed()
            case _:
                state = state.postponed(now, running)
        assert 1 <= state.cap <= ceiling
        assert state.paused_until >= before.paused_until
    held = state.wait(now, running=0, sending=0)
    assert held is not None
    assert state.wait(now + held, running=0, sending=0) == 0


# --- Back-off and polls --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "chance", "wait"),
    [(1, 0, 1), (1, 0.5, 1.5), (2, 0, 2), (3, 0, 4), (6, 0, 30), (7, 0.5, 45), (10_000, 0, 30)],
)
def test_backing_off(failures: int, chance: float, wait: float) -> None:
    """The step doubles from the first to the ceiling; chance spreads it over its upper half."""
    assert backoff(failures, first=2, ceiling=60, chance=chance) == wait


def test_polls_are_paced() -> None:
    """At 5 a second, a poll comes every 0.2 s; an idle budget saves up one second's worth."""
    budget = PollBudget()
    times = []
    for _ in range(8):
        now = max(100.0, budget.next_at)
        budget = budget.spent(now)
        times.append(now)
    assert times[:5] == [100.0] * 5
    assert times[5:] == pytest.approx([100.0, 100.2, 100.4])


@settings(deadline=None)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_second_holds_more_than_twice_the_pace(idle: list[float]) -> None:
    """However polls come and go, a second holds at most a second's pace and one saved up."""
    budget, now, sent = PollBudget(), 0.0, []
    for pause in idle:
        now = max(now + pause * pause / 9, budget.next_at)
        budget = budget.spent(now)
        sent.append(now)
    assert max(sum(at <= one < at + 0.999 for one in sent) for at in sent) <= 11


@pytest.mark.parametrize(
    ("retry_after", "next_at"), [(None, 100.4), (0, 100.4), (0.1, 100.4), (30, 130.0)]
)
def test_a_refused_poll_halves_the_pace(retry_after: float | None, next_at: float) -> None:
    """A 429 on a poll halves the pace; Retry-After may lengthen the pause, never shorten it."""
    after = PollBudget().refused(100.0, retry_after)
    assert after.current == 2.5
    assert after.next_at == pytest.approx(next_at)


def test_a_polls_pause_is_never_shortened() -> None:
    """A second refusal of polls under way does not bring an agreed pause forward."""
    paused = PollBudget().refused(100.0, 30)
    assert paused.refused(100.1, None).next_at == 130.0


def test_the_pace_has_a_floor_and_recovers() -> None:
    """The pace never falls below a sixteenth, and answered polls bring it back to the ceiling."""
    budget = PollBudget()
    for _ in range(10):
        budget = budget.refused(0.0, None)
    assert budget.current == 5 / 16
    for _ in range(60):
        slower, budget = budget, budget.answered()
        assert slower.current < budget.current <= 5.0 or budget is slower
    assert budget.current == 5.0
    assert budget.answered() is budget


@pytest.mark.parametrize(
    ("told", "workers", "chance", "seconds"),
    [
        (3.0, 1, 0.0, 3.0),
        (3.0, 1, 0.9, 3.045),
        (3.0, 20, 0.5, 3.5),
        (None, 20, 0.5, 1.0),
        (0.0, 0, 0.9, 0.0),
    ],
)
def test_those_that_wait_for_one_slot_come_apart(
    told: float | None, workers: int, chance: float, seconds: float
) -> None:
    """Never sooner than the rule says, and the later on average the more of them there are."""
    wait = spread(Wait(told), look_again=0.5, workers=workers, chance=chance)
    assert wait.seconds == pytest.approx(seconds)
