"""The poll loop and the forecast: what it learns, and what a hundred thousand tasks cost."""

from __future__ import annotations

import sys
import tracemalloc
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from poll_support import FOX, KIND, teach, tell, waiting
from support import VIRTUAL, Made, Rig

from kie_mj_async.errors import AuthenticationError, RateLimited, TaskTimedOut
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.crowd import Pending
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
async def test_a_hundred_thousand_waits_are_cheap() -> None:
    """Each takes under 1 KiB, and the work per step does not grow with their number."""
    asks = 0

    async def work(waiting: int) -> tuple[float, int]:
        """Bytes a wait; questions to the forecast in a quiet half minute."""
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
        asks = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.poller.run)
            await anyio.sleep(30)
            tasks.cancel_scope.cancel()
        assert rig.poller.polls == 0
        for wait in waits:
            wait.close()
        assert rig.poller._watches == {}
        return size / waiting, asks

    size, asked = await work(100_000)
    # Whoever traces (coverage does) keeps a frame for each coroutine that waits.
    assert size < (1024 if sys.gettrace() is None else 1280)
    # A steady rate of questions, however many wait.
    assert asked <= 2 * 2000 * 30


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


async def test_a_thousand_tasks_of_a_new_class_are_asked_about_seldom() -> None:
    """Those that hold wait for their turn, so a look costs no more than in a known class."""
    rig = Rig()
    rig.service.lasts = 1e6
    tasks = [rig.service.make(FOX) for _ in range(1_000)]
    asks = 0
    ask = rig.forecast.wait

    def counted(task: Pending, now: float) -> float:
        nonlocal asks
        asks += 1
        return ask(task, now)

    rig.forecast.wait = counted  # type: ignore[method-assign]
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks:
            waiters.start_soon(
                partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=600)
            )
        await anyio.sleep(60)
        assert rig.poller.polls > 200
        # When they come, once more for patience's sake, and when they are called or were looked at.
        assert asks < 2 * 1_000 + 4 * rig.poller.polls
        waiters.cancel_scope.cancel()
    assert len(rig.poller._heap) < 2_500


async def test_tasks_that_hold_are_looked_at_soon_when_their_class_is_known() -> None:
    """The first ends tell what the class takes; those that held follow at once."""
    rig = Rig()
    for number in range(40):
        rig.service.lasts = 50.0 + 0.05 * number
        rig.service.make(FOX)
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in rig.service.tasks:
            waiters.start_soon(
                partial(rig.poller.watch, task, KIND, born=rig.clock.now(), timeout=600)
            )
    assert rig.now < 52 + 40 / 5 + 5
    assert rig.poller.polls < 40 * 6


async def test_a_task_that_holds_ends_at_its_deadline() -> None:
    """With one look, though its turn had not come."""
    rig = Rig()
    rig.service.lasts = 1e6
    tasks = [rig.service.make(FOX) for _ in range(40)]
    async with rig.polling(), anyio.create_task_group() as waiters:
        for task in tasks[:-1]:
            waiters.start_soon(
                partial(rig.poller.watch, task.id, KIND, born=rig.clock.now(), timeout=900)
            )
        await anyio.sleep(1)
        with pytest.raises(TaskTimedOut):
            await rig.poller.watch(tasks[-1].id, KIND, born=rig.clock.now(), timeout=20)
        assert rig.now < 30
        waiters.cancel_scope.cancel()
    assert tasks[-1].looks >= 1


async def test_an_age_that_is_told_late_leaves_nothing_behind() -> None:
    """A task of unknown age whose first record names none is followed from another birth later."""
    rig = Rig()
    task = rig.service.make(FOX)
    await anyio.sleep(20)
    rig.service.on_record = lambda made, looks: (
        Record(made.id, Status.GENERATING, 0) if looks == 1 else None
    )
    async with rig.polling():
        await rig.poller.watch(task.id, KIND, born=None, timeout=600)
    ages = rig.forecast._class(KIND).ages
    assert (ages.count, ages.bins(rig.now)) == (0, [])
    assert rig.forecast._class(KIND).running() == []
