"""Work in threads: a step that has begun is seen to its end, also by who is cancelled."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest
from support import until

from kie_mj_async.archive.threads import in_thread

pytestmark = pytest.mark.anyio


async def test_what_it_returns_and_raises() -> None:
    """A step's result comes back, and its error."""
    assert await in_thread(lambda one, two: (one, two), 1, 2) == (1, 2)
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError):
        await in_thread({}.__getitem__, "x")


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_step_is_waited_for(how: str, fails: bool) -> None:
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
            await in_thread(step)
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
