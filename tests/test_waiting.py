"""Waiting that a cancellation does not cut short, and time-outs that a sleep does not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support import until

from kie_mj_async.waiting import held, in_thread, outlast, sole, uncut, while_awake

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_tasks_own_cancel_is_passed_on_afterwards(times: int) -> None:
    """However often the task is cancelled, it ends when the thing is done, and then as cancelled."""
    done = anyio.Event()
    task = asyncio.create_task(outlast(done.is_set, done.wait))
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    done.set()
    await asyncio.wait([task])
    assert task.cancelled() is (times > 0)


async def test_a_scope_is_waited_out() -> None:
    """A scope that was cancelled before does not end the wait either."""
    done = anyio.Event()
    asyncio.get_running_loop().call_later(0.01, done.set)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await outlast(done.is_set, done.wait)
    assert done.is_set()


async def test_what_is_done_is_not_waited_for() -> None:
    """Nothing is awaited when there is nothing to wait for."""

    async def never() -> None:
        raise AssertionError

    await outlast(lambda: True, never)


async def test_what_a_step_in_a_thread_returns_and_raises() -> None:
    """A step's result comes back, and its error."""
    assert await in_thread(lambda one, two: (one, two), 1, 2) == (1, 2)
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError):
        await in_thread({}.__getitem__, "x")


async def test_a_step_in_a_thread_of_ones_own() -> None:
    """Steps that are given a pool are done by its threads: of one thread, one after the other."""
    with ThreadPoolExecutor(1) as pool:
        names = [in_thread(threading.get_ident, pool=pool) for _ in range(5)]
        assert len(set(await asyncio.gather(*names))) == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_work_that_several_wait_for(fails: bool) -> None:
    """One of them is cancelled, and leaves when it has ended; the others learn what became of it."""
    done = asyncio.Event()

    async def step() -> int:
        await done.wait()
        if fails:
            raise OSError("disk")
        return 7

    work = asyncio.create_task(step())
    first, second = (asyncio.create_task(held(work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert not first.done()
    done.set()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert isinstance(second.exception(), OSError) if fails else second.result() == 7


async def test_work_that_is_itself_cancelled() -> None:
    """Whoever waits for it is told so."""
    work = asyncio.create_task(asyncio.sleep(3600))
    waiting = asyncio.create_task(held(work))
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


def uncut_in_thread(step: Callable[[], None]) -> Awaitable[None]:
    return uncut(anyio.to_thread.run_sync(step))


@pytest.mark.parametrize("wait", [in_thread, uncut_in_thread])
@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_step_is_waited_for(
    wait: Callable[..., Awaitable[None]], how: str, fails: bool
) -> None:
    """Cancelled, by a scope or by its task, the wait ends with the step and not before."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        release.wait(5)
        ended.set()
        if fails:
            raise OSError("disk")

    scope = anyio.CancelScope()

    async def work() -> None:
        with scope:
            await wait(step)
            await anyio.lowlevel.checkpoint()

    task = asyncio.create_task(work())
    await until(begun.is_set)
    (scope.cancel if how == "scope" else task.cancel)()
    await asyncio.sleep(0.01)
    assert not task.done()
    release.set()
    await asyncio.wait([task])
    assert ended.is_set()
    assert task.cancelled() is (how == "task")
    if how == "scope":
        heard = wait is uncut_in_thread and fails
        assert isinstance(task.exception(), OSError if heard else type(None))


async def test_a_time_out_while_awake_ends_what_takes_too_long() -> None:
    with pytest.raises(TimeoutError):
        async with while_awake(0.05):
            await anyio.sleep(30)
    async with while_awake(0.05):
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.1)  # nothing of it is left behind


async def test_a_sleep_of_the_process_does_not_count() -> None:
    """The loop stands still for longer than there was time; what is ready then is not cut off."""
    ready = anyio.Event()
    async with while_awake(1.8):
        asyncio.get_running_loop().call_soon(time.sleep, 2.0)
        asyncio.get_running_loop().call_later(0.2, ready.set)
        await ready.wait()


def test_the_one_error_of_nested_groups() -> None:
    error = ValueError("it")
    assert sole(ExceptionGroup("a", [ExceptionGroup("b", [error])])) is error
    two = ExceptionGroup("a", [error, KeyError()])
    assert sole(two) is two
