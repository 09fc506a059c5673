"""Waiting that a cancellation does not cut short, and time-outs that a sleep does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio

_T = TypeVar("_T")

_TICK: Final = 1.0
"""Seconds that a time-out counts at a time."""


async def outlast(done: Callable[[], bool], wait: Callable[[], Awaitable[object]]) -> None:
    """Wait until something is done, also when cancelled meanwhile; that is passed on afterwards.

    A task's own ``cancel()`` passes through anyio's shields, so it is held here.

    Args:
        done: Whether it is.
        wait: Waits for it; may be called again.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not done():
            try:
                await wait()
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def held(work: asyncio.Future[_T]) -> _T:
    """Await work that must not be left alone: cancelling waits until it has ended.

    Others may wait for the same; what became of it is kept for them.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await outlast(work.done, lambda: asyncio.wait((work,)))
        if not work.cancelled():
            work.exception()  # nobody else may ask for it
        raise


async def in_thread(step: Callable[..., _T], *args: object, pool: Executor | None = None) -> _T:
    """Do a step in a thread. It cannot be stopped there, so cancelling waits until it has ended.

    Otherwise a file could be closed, and its number given to another, under a write that goes on.

    Args:
        step: What to do.
        *args: What it is given.
        pool: Whose thread; by default any of the process.
    """
    return await held(asyncio.get_running_loop().run_in_executor(pool, step, *args))


async def uncut(step: Awaitable[_T]) -> _T:
    """Await a step that must not be cut off; cancelling waits until it has ended.

    For work in a thread: the thread cannot be stopped, and would be left alone with its file. What it
    returns reaches the caller also when a scope was cancelled meanwhile, which is then noticed at the
    next wait; only a task's own ``cancel()`` takes its place.
    """
    result: _T
    with anyio.CancelScope(shield=True):
        result = await held(asyncio.ensure_future(step))
    return result


@asynccontextmanager
async def while_awake(seconds: float) -> AsyncIterator[None]:
    """A time-out that counts only while this process runs.

    Where it was frozen, or its machine slept, what has come meanwhile is there to be read; an ordinary
    time-out would be over at once.

    Args:
        seconds: Seconds to go on for.

    Raises:
        TimeoutError: They have passed.
    """
    loop = asyncio.get_running_loop()
    left, last = seconds, loop.time()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal left, last, timer
        now = loop.time()
        left -= min(now - last, 1.5 * _TICK)
        last = now
        if left > 0:
            timer = loop.call_later(min(left, _TICK), tick)
        else:
            watch.reschedule(now)

    async with asyncio.timeout(None) as watch:
        timer = loop.call_later(min(left, _TICK), tick)
        try:
            yield
        finally:
            timer.cancel()


def sole(error: BaseException) -> BaseException:
    """The one error inside nested groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
