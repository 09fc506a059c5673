"""The gate for creates: the window, places in flight, pauses and the cap, in virtual time."""

from __future__ import annotations

import itertools

import anyio
import pytest
from support import VIRTUAL, Rig, most_in

from kie_mj_async.account import STALE_AFTER
from kie_mj_async.engine import admission
from kie_mj_async.engine.admission import Admission, Reach
from kie_mj_async.errors import (
    BudgetReached,
    InsufficientCredits,
    KieError,
    Maintenance,
    NotSent,
    RateLimited,
    ReplyLost,
)
from kie_mj_async.events import CreatesPaused
from kie_mj_async.rules.billing import Accepted, Lost, Refused, Unsent, Verdict
from kie_mj_async.rules.pacing import MARGIN, MAY_STILL_RUN, PATIENCE, Rate

pytestmark = pytest.mark.anyio
RATE = Rate(3, 10.0)


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def limited(retry_after: float | None = None) -> Refused:
    return Refused(RateLimited("slow down", code=429, retry_after=retry_after), "again")


async def one(rig: Rig, verdict: Verdict | None, *, takes: float = 0.0) -> float:
    """Send one create; when it was let through."""
    ticket = await rig.admission.enter(25)
    at = rig.now
    await anyio.sleep(takes)
    await rig.admission.leave(ticket, verdict, "lost job/1")
    return at


async def test_the_window_is_kept() -> None:
    """Replies that take a while hold their slots: never more than the rate in any window."""
    rig = Rig(rate=RATE)
    sent: list[float] = []

    async def create(number: int) -> None:
        sent.append(await one(rig, Accepted(f"t{number}"), takes=0.3 + number % 4))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(create, number)
    assert most_in(sent, 10.0) == 3
    # And the window is used: seven windows for twenty creates, not many more.
    assert sent[-1] < 7 * (10 + 4)


async def test_first_come_first_served() -> None:
    """Whoever waits longest goes first."""
    rig = Rig(rate=Rate(1, 10.0))
    order: list[int] = []

    async def create(number: int) -> None:
        await one(rig, Accepted(f"t{number}"))
        order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(create, number)
            await anyio.sleep(0.01)
    assert order == [0, 1, 2, 3, 4]


async def test_who_leaves_at_its_turn_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One job is cancelled and another comes, in the moment in which the one before them goes."""
    rig = Rig(rate=Rate(1, 10.0))
    await one(rig, Accepted("a"))
    monkeypatch.setattr(admission, "reach", lambda _point: moment())
    leaving = anyio.CancelScope()

    async def leaver() -> None:
        with leaving:
            await one(rig, Accepted("b"))

    def moment() -> None:
        monkeypatch.undo()
        tasks.start_soon(one, rig, Accepted("d"))
        leaving.cancel()

    with anyio.fail_after(100):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, rig, Accepted("c"))
            await anyio.sleep(0.1)
            tasks.start_soon(leaver)
    assert leaving.cancelled_caught
    assert rig.admission.running == 3


async def test_places_in_flight_are_kept() -> None:
    """A create waits until a running task ends, however empty the window is."""
    rig = Rig(in_flight=2)
    await one(rig, Accepted("a"))
    await one(rig, Accepted("b"))

    async def end_one() -> None:
        await anyio.sleep(77)
        rig.admission.finish("a")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_one)
        start = rig.now
        assert await one(rig, Accepted("c")) == start + 77
    assert rig.admission.running == 2


async def test_a_429_pauses_for_a_window() -> None:
    """After a 429 no create goes for one window, then one at a time into an empty one."""
    rig = Rig(rate=RATE)
    await one(rig, Accepted("a"))
    start = await one(rig, limited())
    paused = [event for event in rig.events if isinstance(event, CreatesPaused)]
    assert [event.seconds for event in paused] == [10.0]
    probe = await rig.admission.enter(25)
    assert rig.now >= start + 10.0
    # The probe is alone: a second create waits for its verdict.
    with anyio.move_on_after(100) as waited:
        await rig.admission.enter(25)
    assert waited.cancelled_caught
    await rig.admission.leave(probe, Accepted("b"), "lost b/1")
    assert await one(rig, Accepted("c")) == rig.now


async def test_retry_after_lengthens_the_pause() -> None:
    """A Retry-After beyond the window is obeyed; a shorter one changes nothing."""
    rig = Rig(rate=RATE)
    start = await one(rig, limited(retry_after=33.0))
    at = await one(rig, Accepted("a"))
    assert at == pytest.approx(start + 33.0)
    rig.admission.finish("a")
    start = await one(rig, limited(retry_after=1.0))
    assert await one(rig, Accepted("b")) >= start + 10.0


async def test_a_429_into_an_empty_window_means_too_many_running() -> None:
    """Refused again although it was alone: the cap falls below what runs, and grows back slowly."""
    rig = Rig(rate=RATE, in_flight=10)
    for name in "abcd":
        await one(rig, Accepted(name))
    await anyio.sleep(20)
    await one(rig, limited())  # alone in the window, four running: the cap becomes three
    await anyio.sleep(20)
    with anyio.move_on_after(500) as waited:
        await rig.admission.enter(25)
    assert waited.cancelled_caught
    rig.admission.finish("a")
    with anyio.move_on_after(500) as waited:
        await rig.admission.enter(25)
    assert waited.cancelled_caught, "three still run, and three is the cap"
    rig.admission.finish("b")
    await one(rig, Accepted("e"))
    rig.admission.finish("c")  # a third completion: one place more
    await one(rig, Accepted("f"))
    await one(rig, Accepted("g"))
    assert rig.admission.running == 4


async def test_maintenance_backs_off() -> None:
    """A 455 postpones creates, a window at first and longer each time, until one is accepted."""
    rig = Rig()
    down = Refused(Maintenance("maintenance", code=455), "again")
    times = [await one(rig, down) for _ in range(7)]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[0] == pytest.approx(10 + MARGIN)
    assert waits == pytest.approx(sorted(waits))
    assert waits[-1] == pytest.approx(30 * 0.75)
    start = await one(rig, Accepted("a"))
    assert await one(rig, Accepted("b")) == start


async def test_endless_refusals_end_the_wait() -> None:
    """With nothing running, refusals for a quarter of an hour give up with the service's words."""
    rig = Rig()
    down = Refused(Maintenance("maintenance", code=455), "again")
    start = rig.now
    stop: KieError | None = None
    while stop is None:
        ticket = await rig.admission.enter(25)
        stop = await rig.admission.leave(ticket, down, "lost job/1")
    assert isinstance(stop, Maintenance)
    assert PATIENCE <= rig.now - start < PATIENCE + 60


async def test_refusals_are_borne_while_tasks_run() -> None:
    """While a task of ours runs, refusals are no reason to give up."""
    rig = Rig()
    await one(rig, Accepted("a"))
    down = Refused(Maintenance("maintenance", code=455), "again")
    start = rig.now
    while rig.now < start + 2 * PATIENCE:
        ticket = await rig.admission.enter(25)
        assert await rig.admission.leave(ticket, down, "lost job/1") is None


async def test_an_unreachable_host_ends_the_wait_after_a_minute() -> None:
    """Creates that cannot be sent for 60 seconds give up, and each is free of charge."""
    rig = Rig()
    start = rig.now
    stop: KieError | None = None
    while stop is None:
        ticket = await rig.admission.enter(25)
        stop = await rig.admission.leave(ticket, Unsent(NotSent("refused")), "lost job/1")
    assert isinstance(stop, NotSent)
    assert 60 <= rig.now - start <= 60 + 30
    assert rig.admission.committed == 0


async def test_any_answer_means_reachable() -> None:
    """One answer in between starts the minute again."""
    rig = Rig()
    reach = Reach(rig.clock)
    assert reach.silent(NotSent("x")) is None
    await anyio.sleep(59)
    reach.heard()
    await anyio.sleep(5)
    assert reach.silent(NotSent("x")) is None
    await anyio.sleep(60)
    assert reach.silent(NotSent("x")) is not None


async def test_the_cap_on_credits_is_never_passed() -> None:
    """Of many creates at once only as many go as the cap pays for; the others are told so."""
    rig = Rig(max_credits=80)
    ended: list[str] = []

    async def create(number: int) -> None:
        try:
            await one(rig, Accepted(f"t{number}"), takes=1)
            ended.append("sent")
        except BudgetReached as error:
            ended.append("refused" if "80 allowed" in str(error) else str(error))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(create, number)
    assert sorted(ended) == ["refused"] * 7 + ["sent"] * 3
    assert rig.admission.committed == 75


@pytest.mark.parametrize(
    ("verdict", "committed"),
    [
        (Accepted("t"), 25),
        (Lost(ReplyLost("?")), 25),
        (limited(), 0),
        (Refused(InsufficientCredits("no"), "halt"), 0),
        (Unsent(NotSent("no")), 0),
        (None, 0),
    ],
)
async def test_what_counts_as_spent(verdict: Verdict | None, committed: float) -> None:
    """Accepted and unknown creates count against the cap; refused and unsent ones do not."""
    rig = Rig()
    await one(rig, verdict)
    assert rig.admission.committed == committed


async def test_a_failed_task_gives_its_credits_back() -> None:
    """A failed task is not charged: another job may use its credits."""
    rig = Rig(max_credits=25)
    await one(rig, Accepted("a"))
    with pytest.raises(BudgetReached):
        await rig.admission.enter(25)
    rig.admission.finish("a", charged=False)
    await one(rig, Accepted("b"))


async def test_a_failed_task_of_an_earlier_run_gives_nothing_back() -> None:
    """A task that this client did not pay for does not widen its cap when it fails."""
    rig = Rig(max_credits=25)
    rig.admission.watched("old")
    rig.admission.finish("old", charged=False)
    await one(rig, Accepted("a"))
    with pytest.raises(BudgetReached):
        await rig.admission.enter(25)


async def test_an_unknown_fate_counts_as_running_for_a_while() -> None:
    """A lost create holds a place in flight for as long as tasks take, and then no longer."""
    rig = Rig(in_flight=1)
    start = rig.now
    await one(rig, Lost(ReplyLost("?")))
    assert rig.admission.running == 1
    assert await one(rig, Accepted("a")) == pytest.approx(start + MAY_STILL_RUN)


async def test_a_task_that_nobody_waits_for_counts_for_a_while() -> None:
    """After its waiter timed out a task counts on; once watched again, until it ends."""
    rig = Rig(in_flight=1)
    await one(rig, Accepted("a"))
    rig.admission.linger("a")
    rig.admission.watched("a")
    await anyio.sleep(2 * MAY_STILL_RUN)
    assert rig.admission.running == 1
    rig.admission.linger("a")
    await anyio.sleep(MAY_STILL_RUN)
    assert rig.admission.running == 0


async def test_a_slot_of_an_unsent_create_is_free_at_once() -> None:
    """What was never sent takes nothing from the window; whatever was sent does."""
    rig = Rig(rate=Rate(1, 10.0))
    start = rig.now
    assert await one(rig, None) == start
    assert await one(rig, Accepted("a")) == start
    assert await one(rig, Accepted("b")) == pytest.approx(start + 10 + MARGIN)


async def test_a_create_that_was_held_back_says_nothing_about_the_service() -> None:
    """It costs nothing, pauses nobody, and is no sign of a host that is away."""
    rig = Rig()
    start = rig.now
    held = Unsent(NotSent("too late"), held=True)
    for _ in range(50):
        assert await one(rig, held, takes=2) >= start
    assert rig.admission.hold == 0
    assert rig.admission.committed == 0
    assert rig.now == start + 100
    assert rig.events == []


async def test_a_create_may_begin_while_its_slot_is_fresh() -> None:
    """A ticket that was kept for too long is no right to send any more."""
    rig = Rig()
    ticket = await rig.admission.enter(25)
    await anyio.sleep(STALE_AFTER - 1)
    assert rig.admission.may_send(ticket)
    await anyio.sleep(1)
    assert not rig.admission.may_send(ticket)
    await rig.admission.leave(ticket, None, "lost job/1")


async def test_nobody_without_a_licence_gets_a_ticket() -> None:
    """Whoever may not send now waits, takes no slot, and goes on when it may again."""
    rig = Rig()
    allowed = False
    gate = Admission(
        rig.window,
        in_flight=1,
        max_credits=None,
        clock=rig.clock,
        reach=rig.reach,
        licensed=lambda: allowed,
    )
    with anyio.move_on_after(60) as waited:
        await gate.enter(25)
    assert waited.cancelled_caught
    allowed = True
    ticket = await gate.enter(25)
    assert ticket.taken.alone
    assert gate.may_send(ticket)
    allowed = False
    assert not gate.may_send(ticket)


async def test_cancelling_a_waiter_leaks_nothing() -> None:
    """Whoever is cancelled in the queue leaves no slot, no place and no credits behind."""
    rig = Rig(rate=RATE, in_flight=3, max_credits=75)
    held = [await rig.admission.enter(25) for _ in range(3)]
    with anyio.move_on_after(5):
        await rig.admission.enter(0)
    for ticket in held:
        await rig.admission.leave(ticket, None, "lost job/1")
    with anyio.fail_after(1):
        again = [await rig.admission.enter(25) for _ in range(3)]
    assert len(again) == 3
