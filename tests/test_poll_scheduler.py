"""The poll loop: when it looks, how often in all, and what it makes of what it sees."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from poll_support import FOX, KIND, teach
from support import VIRTUAL, Made, Rig, most_in

from kie_mj_async.engine.poll_scheduler import IN_FLIGHT, NOT_YET, PollScheduler
from kie_mj_async.errors import (
    AuthenticationError,
    KieError,
    MalformedReply,
    NotFound,
    NotSent,
    RateLimited,
    ReplyLost,
    ResultExpired,
    ServerError,
    TaskTimedOut,
)
from kie_mj_async.rules.forecast import Forecast
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


async def test_a_task_is_seen_through() -> None:
    """Polled until it ends, and noticed soon after, with a handful of looks."""
    rig = Rig()
    task = rig.service.make(FOX)
    async with rig.polling():
        record = await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert record.status is Status.SUCCEEDED
    assert len(record.urls) == 2
    assert 60 <= rig.now <= 60 + 10 + 1
    assert task.looks <= 15


async def test_a_new_task_is_not_looked_at_before_it_can_be_done() -> None:
    """The first look waits for the forecast, also where the create took a moment."""
    rig = Rig()
    teach(rig)
    task = rig.service.make(FOX)
    born = rig.clock.now() - timedelta(seconds=0.5)
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=born, timeout=600)
    assert rig.service.polls[0][0] > 50
    assert task.looks <= 5
    assert rig.now < 63


async def test_a_task_of_unknown_age_is_looked_at_at_once() -> None:
    """Nobody knows when it was made, so the first look does not wait, and tells age and class."""
    rig = Rig()
    teach(rig)
    task = rig.service.make(FOX)
    await anyio.sleep(40)
    async with rig.polling():
        await rig.poller.watch(task.id, Kind(), born=None, timeout=600)
    first, second, *_ = (at for at, _ in rig.service.polls)
    assert first < 40.1
    assert second > 50, "as one of its class and age, not as if it were new"
    assert rig.now < 63


async def test_a_failure_is_an_end_too() -> None:
    """A failed record ends the wait at the look that saw it."""
    rig = Rig()
    task = rig.service.make(FOX)
    rig.service.on_record = lambda made, _n: rig.service.failure(made)
    async with rig.polling():
        record = await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert record.status is Status.FAILED
    assert task.looks == 1


async def test_an_old_task_is_looked_at_at_once() -> None:
    """A task older than nothing is likely to be done, so its first look does not wait."""
    rig = Rig()
    task = rig.service.make(FOX)
    await anyio.sleep(100)
    async with rig.polling():
        await rig.poller.watch(
            task.id, KIND, born=rig.clock.now() - timedelta(seconds=100), timeout=600
        )
    assert rig.now == pytest.approx(100, abs=0.1)


async def test_the_budget_holds_over_any_window() -> None:
    """However many tasks wait, polls stay within the account's budget and a second's burst."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(300)]
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(
                partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=600)
            )
    times = [at for at, _ in rig.service.polls]
    for seconds in (1.0, 5.0, 20.0):
        assert most_in(times, seconds) <= 5 * seconds + 6
    # And it is used: the budget is what binds here.
    assert len(times) > 5 * 0.9 * (times[-1] - times[0])


async def test_idle_time_saves_up_one_second_only() -> None:
    """After a long silence many due tasks are not all looked at in one burst."""
    rig = Rig()
    rig.service.lasts = 0.0
    async with rig.polling():
        await anyio.sleep(1000)
        start = rig.now
        tasks = [rig.service.make(FOX) for _ in range(100)]
        async with anyio.create_task_group() as waiters:
            for task in tasks:
                waiters.start_soon(partial(rig.poller.watch, task.id, KIND, born=None, timeout=9))
    assert rig.now - start >= (100 - 6) / 5


async def test_a_refused_poll_slows_all_polls_down() -> None:
    """A 429 on a poll lowers the pace and obeys Retry-After; answers bring the pace back."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(100)]

    refusals: list[float] = []

    def refuse(_task: Made, _look: int) -> KieError | None:
        if refusals:
            return None
        refusals.append(rig.now)
        return RateLimited("slow", code=429, retry_after=25.0)

    rig.service.on_record = refuse
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(
                partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=600)
            )
    times = [at for at, _ in rig.service.polls]
    refused = refusals[0]
    quiet = [at for at in times if refused < at < refused + 25]
    assert not quiet
    after = [at for at in times if at >= refused + 25]
    assert after[1] - after[0] > 0.3, "a slower pace at first"
    assert most_in(after[-100:], 4.0) >= 18, "and the whole again later"


async def test_the_deadline_never_comes_before_a_look() -> None:
    """A wait shorter than the first look's due time still takes one look, and believes it."""
    rig = Rig()
    done = rig.service.make(FOX)
    await anyio.sleep(100)
    running = rig.service.make(FOX)
    async with rig.polling():
        record = await rig.poller.watch(done.id, KIND, born=rig.clock.now(), timeout=0.001)
        assert record.status is Status.SUCCEEDED
        assert rig.now < 101, "and it does not wait for the look's own time"
        with pytest.raises(TaskTimedOut) as caught:
            await rig.poller.watch(running.id, KIND, born=rig.clock.now(), timeout=0.001)
    assert running.looks == 1
    assert caught.value.task_id == running.id
    assert caught.value.billed == "yes"


async def test_the_wait_ends_at_its_deadline() -> None:
    """A task that never ends is given up at its deadline, not later."""
    rig = Rig()
    rig.service.lasts = 1e9
    task = rig.service.make(FOX)
    async with rig.polling():
        with pytest.raises(TaskTimedOut, match="900 s"):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=900)
    assert rig.now == pytest.approx(900, abs=0.5)


async def test_the_deadline_tells_of_the_last_trouble() -> None:
    """A wait that ends amid errors names the last one."""
    rig = Rig()
    task = rig.service.make(FOX)
    rig.service.on_record = lambda _t, _n: ServerError("gateway down", status=502)
    async with rig.polling():
        with pytest.raises(TaskTimedOut, match="gateway down"):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=90)


async def test_an_unknown_task_is_not_yet_there_at_first() -> None:
    """For a minute after its making "no such task" means "not yet"; then the result is gone."""
    rig = Rig()
    late, gone = rig.service.make(FOX), rig.service.make(FOX)

    def missing(task: Made, _look: int) -> KieError | None:
        if task is gone or rig.now < 50:
            return NotFound("recordInfo is null", code=422)
        return None

    rig.service.on_record = missing
    async with rig.polling():
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(
                lambda: rig.poller.watch(late.id, KIND, born=rig.clock.now(), timeout=600)
            )
            with pytest.raises(ResultExpired) as caught:
                await rig.poller.watch(gone.id, KIND, born=rig.clock.now(), timeout=600)
            assert NOT_YET <= rig.now <= NOT_YET + 31
        assert caught.value.task_id == gone.id
        # A task's age is the wall clock's word, so one that looks old is given its minute too.
        start = rig.now
        with pytest.raises(ResultExpired):
            await rig.poller.watch(
                gone.id, KIND, born=rig.clock.now() - timedelta(hours=1), timeout=600
            )
    assert NOT_YET <= rig.now - start <= NOT_YET + 31


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.NO_LINKS])
async def test_what_is_no_verdict_is_looked_at_again(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown flag and a success without links keep the wait going, and are logged."""
    rig = Rig()
    rig.service.lasts = 0.0
    task = rig.service.make(FOX)
    rig.service.on_record = lambda t, n: Record(t.id, status, 7) if n < 4 else None
    with caplog.at_level(logging.WARNING):
        async with rig.polling():
            record = await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert record.status is Status.SUCCEEDED
    assert task.looks == 4
    assert caplog.text.count("flag 7") == 3


TRANSIENT: list[KieError] = [
    ServerError("boom", code=500),
    MalformedReply("html", status=200),
    ReplyLost("cut"),
    NotSent("refused"),
    RateLimited("slow", code=429),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda one: type(one).__name__)
async def test_a_passing_trouble_is_borne(error: KieError) -> None:
    """Errors of one task are retried with back-off, and other tasks do not notice."""
    rig = Rig()
    bad, good = rig.service.make(FOX), rig.service.make(FOX)
    rig.service.on_record = lambda t, n: error if t is bad and n <= 4 else None
    ends: dict[str, float] = {}

    async def wait(task: Made) -> None:
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
        ends[task.id] = rig.now

    async with rig.polling(), anyio.create_task_group() as waiters:
        waiters.start_soon(wait, bad)
        waiters.start_soon(wait, good)
    assert ends[good.id] <= 72
    assert ends[bad.id] <= 90
    assert bad.looks >= 5


async def test_errors_are_not_hammered() -> None:
    """A task that cannot be read is looked at less and less often, at least twice a minute."""
    rig = Rig()
    task = rig.service.make(FOX)
    rig.service.on_record = lambda _t, _n: ServerError("boom", code=500)
    async with rig.polling():
        with pytest.raises(TaskTimedOut):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert 600 / 30 <= task.looks <= 35


async def test_a_refused_key_ends_the_wait() -> None:
    """A 401 is final: no other look would do better."""
    rig = Rig()
    task = rig.service.make(FOX)
    rig.service.on_record = lambda _t, _n: AuthenticationError("no", code=401)
    async with rig.polling():
        with pytest.raises(AuthenticationError):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert task.looks == 1


async def test_an_unreachable_host_ends_all_waits_after_a_minute() -> None:
    """Without any answer for 60 seconds every wait ends with the host's silence as the reason."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(3)]
    rig.service.on_record = lambda _t, _n: NotSent("no route")
    ends: list[float] = []

    async def wait(task: Made) -> None:
        with pytest.raises(NotSent, match="not been reachable"):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=6000)
        ends.append(rig.now)

    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(wait, task)
    assert min(ends) >= 60
    assert max(ends) <= 60 + 2 + 30


async def test_a_waiter_that_leaves_is_forgotten() -> None:
    """Cancelling a wait takes its task out of the loop: no further look."""
    rig = Rig()
    task = rig.service.make(FOX)
    async with rig.polling():
        with anyio.move_on_after(20):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
        looks = task.looks
        await anyio.sleep(600)
    assert looks > 0
    assert task.looks <= looks + 1


async def test_slow_answers_do_not_pile_up() -> None:
    """Polls that hang hold back others at the limit, and their tasks are looked at afterwards."""
    rig = Rig()
    most, now_open = 0, 0

    class Slow:
        async def record(self, task_id: str) -> Record:
            nonlocal most, now_open
            now_open += 1
            most = max(most, now_open)
            await anyio.sleep(60)
            now_open -= 1
            return Record(task_id, Status.SUCCEEDED, 1, ("http://x.test/1",))

    poller = PollScheduler(Slow(), forecast=Forecast(), clock=rig.clock, reach=rig.reach)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        async with anyio.create_task_group() as waiters:
            for number in range(40):
                waiters.start_soon(
                    partial(poller.watch, str(number), KIND, born=None, timeout=6000)
                )
        tasks.cancel_scope.cancel()
    assert most == IN_FLIGHT
    assert poller.polls == 40


async def test_nobody_starves_in_the_queue() -> None:
    """What is due first is looked at first, though others come due again before its turn."""
    rig = Rig()
    rig.service.lasts = 1e9
    tasks = [rig.service.make(FOX) for _ in range(60)]
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(partial(rig.poller.watch, task.id, KIND, born=None, timeout=9_000))
        await anyio.sleep(15)
        waiters.cancel_scope.cancel()
    assert len({task_id for _, task_id in rig.service.polls[:60]}) == 60
