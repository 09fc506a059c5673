"""Waiting that a cancellation does not cut short."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from kie_mj_async.waiting import outlast

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
