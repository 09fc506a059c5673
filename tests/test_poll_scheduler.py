"""The poll loop: when it looks, how often in all, and what it makes of what it sees."""

from __future__ import annotations

import logging
import random
import time
import tracemalloc
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support import VIRTUAL, Made, Rig, most_in

from kie_mj_async.engine.poll_scheduler import EARLY, IN_FLIGHT, MAX_EARLY, NOT_YET, PollScheduler
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
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.forecast import Forecast, Pending
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio
KIND = Kind("mj_txt2img")
FOX = TextToImage("a fox")


def teach(rig: Rig, kind: Kind = KIND, seconds: float = 60.0) -> None:
    """Let the forecast know what a class takes."""
    chance = random.Random(1)
    for _ in range(40):
        rig.forecast.observe(kind, chance.gauss(seconds, 0.03 * seconds))


def waiting(rig: Rig, kind: Kind = KIND) -> int:
    """Tasks of a class that the forecast thinks of."""
    return rig.forecast._class(kind).ages.count


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


@pytest.mark.slow
async def test_a_hundred_thousand_waits_are_cheap() -> None:
    """Each takes under 1 KiB, and the work per step does not grow with their number."""
    asks = 0

    async def work(waiting: int) -> tuple[float, float, float]:
        """Bytes a wait; questions to the forecast and their cost in seconds, of a quiet minute."""
        nonlocal asks
        rig = Rig()
        teach(rig)
        ask = rig.forecast.wait

        def counted(task: Pending, now: float) -> float:
            nonlocal asks
            asks += 1
            return ask(task, now)

        rig.forecast.wait = counted  # type: ignore[method-assign]
        names, born = [f"w{n}" for n in range(waiting)], rig.clock.now()
        # A coroutine is started by hand, up to its future: a task each would only cost memory.
        tracemalloc.start()
        waits: list[Any] = [
            rig.poller.watch(name, KIND, born=born, timeout=80_000) for name in names
        ]
        for wait in waits:
            wait.send(None)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        asks, began = 0, time.process_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.poller.run)
            await anyio.sleep(30)
            tasks.cancel_scope.cancel()
        spent = time.process_time() - began
        assert rig.poller.polls == 0
        for wait in waits:
            wait.close()
        assert rig.poller._watches == {}
        return size / waiting, asks, spent / max(1, asks)

    size, asked, seconds = await work(100_000)
    assert size < 1024
    # A steady rate of questions, however many wait; each finds its answer in a heap and two lists.
    assert asked <= 2 * 2000 * 30
    assert seconds < 0.0005


async def test_a_hundred_thousand_due_at_once_leave_the_loop_free() -> None:
    """Whoever else wants a turn on the event loop gets it between them."""
    rig = Rig()
    teach(rig)
    born = rig.clock.now() - timedelta(seconds=600)
    waits: list[Any] = [
        rig.poller.watch(f"w{n}", KIND, born=born, timeout=80_000) for n in range(2_000)
    ]
    for wait in waits:
        wait.send(None)
    assert len(rig.poller._queue) == 2_000
    rig = Rig()
    waits += [
        rig.poller.watch(f"w{n}", KIND, born=rig.clock.now(), timeout=1.0) for n in range(2_000)
    ]
    for wait in waits[2_000:]:
        wait.send(None)
    await anyio.sleep(2)
    turns = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.poller.run)
        while len(rig.poller._queue) < 1_900:
            turns += 1
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert turns >= 5
    for wait in waits:
        wait.close()


async def test_what_tasks_took_is_learned() -> None:
    """By the service's own times, once a task, however many wait for it and however often."""
    rig = Rig()
    task = rig.service.make(FOX)
    async with rig.polling():
        async with anyio.create_task_group() as waiters:
            for _ in range(2):
                waiters.start_soon(
                    partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=600)
                )
        looks = task.looks
        await rig.poller.watch(task.id, KIND, born=None, timeout=600)
    assert rig.forecast.durations.seconds(KIND) == [pytest.approx(60)]
    assert task.looks == looks + 1
    assert waiting(rig) == 0


async def test_what_one_sees_all_who_wait_are_told() -> None:
    """A task that two wait for is not looked at again for the second."""
    rig = Rig()
    teach(rig)
    task = rig.service.make(FOX)
    async with rig.polling(), anyio.create_task_group() as waiters:
        for _ in range(3):
            waiters.start_soon(
                partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=600)
            )
    ended = [at for at, _ in rig.service.polls if at >= 60]
    assert len(ended) <= 3
    assert rig.now < 63
    assert rig.poller._watches == {}


@pytest.mark.parametrize("why", ["failed", "old", "timeless"])
async def test_what_is_no_news_is_not_learned(why: str) -> None:
    """Failures, tasks of another day, and records without times teach nothing."""
    rig = Rig()
    task = rig.service.make(FOX)
    await anyio.sleep(80_000 if why == "old" else 100)

    def answer(made: Made, _look: int) -> Record | None:
        if why == "failed":
            return rig.service.failure(made)
        return rig.service.truth(made) if why == "old" else Record(made.id, Status.SUCCEEDED, 1)

    rig.service.on_record = answer
    if why == "old":
        task.created -= 10_000
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=None, timeout=600)
    assert rig.forecast.durations.kinds() == []


async def test_a_task_known_by_its_id_teaches_its_own_class() -> None:
    """Its record names type, speed and version."""
    rig = Rig()
    task = rig.service.make(TextToImage("a fox", speed="fast", version="7"))
    async with rig.polling():
        await rig.poller.watch(task.id, Kind(), born=rig.clock.now(), timeout=600)
    assert rig.forecast.durations.kinds() == [Kind("mj_txt2img", "fast", "7")]
    assert waiting(rig, Kind()) == 0


async def test_a_relaxed_task_is_no_concern_of_the_forecast() -> None:
    """Its looks are not its to decide until its callback came too early; its end is learned."""
    rig = Rig()
    early, late = rig.service.make(FOX), rig.service.make(FOX)
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in (early, late):
            waiters.start_soon(
                partial(
                    rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True
                )
            )
        await anyio.sleep(50)
        assert waiting(rig) == 0
        rig.poller.wake(early.id)
        await anyio.sleep(5)
        assert waiting(rig) == 1
        await tell(rig, late)
    assert waiting(rig) == 0
    assert len(rig.forecast.durations.seconds(KIND)) == 2


async def test_whoever_leaves_is_forgotten_by_the_forecast_too() -> None:
    """Cancelled, timed out, refused: nothing of it is left."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(3)]
    rig.service.on_record = lambda made, _n: (
        AuthenticationError("no", code=401) if made is tasks[2] else None
    )
    async with rig.polling():
        with anyio.move_on_after(5):
            await rig.poller.watch(tasks[0].id, KIND, born=rig.clock.now(), timeout=600)
        with pytest.raises(TaskTimedOut):
            await rig.poller.watch(tasks[1].id, KIND, born=rig.clock.now(), timeout=5)
        with pytest.raises(AuthenticationError):
            await rig.poller.watch(tasks[2].id, KIND, born=rig.clock.now(), timeout=600)
    assert waiting(rig) == 0
    assert rig.forecast.durations.kinds() == []


async def test_refused_polls_make_looks_dearer() -> None:
    """The forecast hears how many polls a second are left, and when they come back."""
    rig = Rig()
    task = rig.service.make(FOX)
    allowed: list[float] = []
    rig.forecast.allow = allowed.append  # type: ignore[method-assign,assignment]
    rig.service.on_record = lambda _t, n: RateLimited("slow", code=429) if n == 1 else None
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=600)
    assert allowed[0] == 2.5
    assert 2.5 < allowed[1] < allowed[-1]


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


async def tell(rig: Rig, task: Made, after: float = 0.5) -> None:
    """The service's callback, some time after the task's end."""
    await anyio.sleep(task.created + task.lasts + after - rig.now)
    rig.poller.wake(task.id)


async def test_a_callback_saves_the_looks() -> None:
    """With a callback a task costs one look, and its end is noticed at once."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(20)]
    for number, task in enumerate(tasks):
        task.lasts = 30.0 + 10 * number
    ends: dict[str, float] = {}

    async def wait(task: Made) -> None:
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True)
        ends[task.id] = rig.now

    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(wait, task)
            waiters.start_soon(tell, rig, task)
    assert rig.poller.polls == len(tasks)
    assert {task.looks for task in tasks} == {1}
    for task in tasks:
        assert ends[task.id] <= task.created + task.lasts + 1


async def test_without_its_callback_a_task_is_found_later() -> None:
    """A lost callback costs a bounded delay and few looks, and the deadline stays what it is."""
    rig = Rig()
    tasks = [rig.service.make(FOX) for _ in range(4)]
    for task, lasts in zip(tasks, [60.0, 290.0, 400.0, 1e9], strict=True):
        task.lasts = lasts
    ends: list[float] = []

    async def wait(task: Made) -> None:
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=800, relaxed=True)
        ends.append(rig.now)

    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks[:3]:
            waiters.start_soon(wait, task)
        with pytest.raises(TaskTimedOut):
            await rig.poller.watch(
                tasks[3].id, KIND, born=rig.clock.now(), timeout=800, relaxed=True
            )
        assert rig.now == pytest.approx(800, abs=1)
    assert ends == pytest.approx([300, 300, 450], abs=1)
    assert [task.looks for task in tasks] == [1, 1, 2, 4]


async def test_once_a_callback_is_missed_nobody_waits_for_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where nobody can be reached only the first tasks are found late; a callback mends that."""
    rig = Rig()
    found: list[float] = []

    async def one(relaxed: bool = True) -> None:
        task = rig.service.make(FOX)
        task.lasts = 60.0
        begun = rig.now
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=relaxed)
        found.append(rig.now - begun)

    async with rig.polling():
        await one()
        await one()
        assert found[0] == pytest.approx(300, abs=1)
        assert found[1] < 75
        assert "no callback came" in caplog.text
        rig.poller.wake("any task")
        await one()
        assert found[2] == pytest.approx(300, abs=1)


async def test_waking_twice_looks_once() -> None:
    """Callbacks that repeat, before or during the look or after the end, change nothing."""
    rig = Rig()
    task = rig.service.make(FOX)
    await anyio.sleep(100)

    def again(_task: Made, _look: int) -> None:
        assert rig.poller.wake(task.id)

    rig.service.on_record = again
    async with rig.polling(), anyio.create_task_group() as waiters:
        waiters.start_soon(
            partial(rig.poller.watch, task.id, KIND, born=None, timeout=900, relaxed=True)
        )
        for _ in range(3):
            rig.poller.wake(task.id)
            await anyio.lowlevel.checkpoint()
    assert rig.poller.wake(task.id) is False
    assert task.looks == 1
    assert rig.poller.polls == 1


async def test_callbacks_in_any_order_wake_their_own_tasks() -> None:
    """A callback wakes the task that it names and no other."""
    rig = Rig()
    first, second = rig.service.make(FOX), rig.service.make(FOX)
    ends: list[str] = []

    async def wait(task: Made) -> None:
        await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True)
        ends.append(task.id)

    async with rig.polling(), anyio.create_task_group() as waiters:
        waiters.start_soon(wait, first)
        waiters.start_soon(wait, second)
        await anyio.sleep(70)
        assert rig.poller.wake(second.id)
        await anyio.sleep(1)
        assert (first.looks, second.looks) == (0, 1)
        assert rig.poller.wake(first.id)
    assert ends == [second.id, first.id]
    assert rig.now < 72


async def test_a_callback_that_says_too_much() -> None:
    """Where the record is not there yet, the task is looked at as often as without callbacks."""
    rig = Rig()
    task = rig.service.make(FOX)
    async with rig.polling(), anyio.create_task_group() as waiters:
        waiters.start_soon(
            partial(
                rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True
            )
        )
        await anyio.sleep(50)
        rig.poller.wake(task.id)
    assert rig.now <= 60 + 11
    assert 2 <= task.looks <= 3


async def test_a_callback_during_a_look() -> None:
    """A look that began before the end does not hide it: another follows at once."""
    rig = Rig()
    task = rig.service.make(FOX)

    def end_meanwhile(made: Made, look: int) -> Record | None:
        if look > 1:
            return None
        made.lasts = rig.now - made.created
        rig.poller.wake(made.id)
        return Record(made.id, Status.GENERATING, 0, created_at=rig.clock.now())

    rig.service.on_record = end_meanwhile
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=None, timeout=900, relaxed=True)
    assert rig.now < 1
    assert task.looks == 2


async def test_a_woken_task_that_cannot_be_read_is_not_hammered() -> None:
    """A callback during a failed look does not cut the back-off short."""
    rig = Rig()
    task = rig.service.make(FOX)
    task.lasts = 0.0

    def fail(made: Made, look: int) -> KieError | None:
        rig.poller.wake(made.id)
        return ServerError("boom", code=500) if look == 1 else None

    rig.service.on_record = fail
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=None, timeout=900, relaxed=True)
    assert task.looks == 2
    assert rig.now > 0.5


async def test_a_callback_before_anybody_waits() -> None:
    """One that beats its create's reply is kept: the first look comes as soon as somebody waits."""
    rig = Rig()
    task = rig.service.make(FOX)
    task.lasts = 1.0
    await anyio.sleep(2)
    assert rig.poller.wake(task.id) is False
    await anyio.sleep(3)
    async with rig.polling():
        born = rig.clock.now() - timedelta(seconds=5)
        await rig.poller.watch(task.id, KIND, born=born, timeout=900, relaxed=True)
    assert rig.now < 6
    assert task.looks == 1


async def test_early_callbacks_are_kept_for_a_while_and_in_bounds() -> None:
    """Whatever is told of tasks that nobody waits for takes neither memory nor looks for long."""
    rig = Rig()
    old = rig.service.make(FOX, "old")
    rig.poller.wake("old")
    await anyio.sleep(EARLY + 1)
    async with rig.polling():
        with anyio.move_on_after(100):
            await rig.poller.watch("old", KIND, born=rig.clock.now(), timeout=900, relaxed=True)
        assert old.looks == 0
    for number in range(3 * MAX_EARLY):
        rig.poller.wake(f"stranger {number}")
    assert len(rig.poller._early) == MAX_EARLY


async def test_wakes_are_within_the_budget() -> None:
    """A thousand callbacks at once do not make a burst of looks."""
    rig = Rig()
    rig.service.lasts = 50.0
    tasks = [rig.service.make(FOX) for _ in range(300)]
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(
                partial(
                    rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True
                )
            )
        await anyio.sleep(60)
        for task in tasks:
            assert rig.poller.wake(task.id)
            assert rig.poller.wake(task.id)
    times = [at for at, _ in rig.service.polls]
    assert len(times) == 300
    assert most_in(times, 5.0) <= 5 * 5 + 6


async def test_all_who_wait_for_a_task_are_woken() -> None:
    """Two waits for one task both end; what they left behind is forgotten."""
    rig = Rig()
    task = rig.service.make(FOX)
    async with rig.polling(), anyio.create_task_group() as waiters:
        for _ in range(2):
            waiters.start_soon(
                partial(
                    rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True
                )
            )
        with anyio.move_on_after(1):
            await rig.poller.watch(task.id, KIND, born=rig.clock.now(), timeout=900, relaxed=True)
        await tell(rig, task)
    assert rig.now < 62
    assert rig.poller._watches == {}
