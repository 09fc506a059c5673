"""The poll loop where callbacks tell of ends: they save looks, and are not relied on."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from poll_support import FOX, KIND, tell
from support import VIRTUAL, Made, Rig, most_in

from kie_mj_async.engine.poll_scheduler import EARLY, MAX_EARLY
from kie_mj_async.errors import KieError, ServerError, TaskTimedOut
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


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
