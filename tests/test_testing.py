"""Virtual time: it passes in an instant, in the right order, and never behind a thread's back."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import aiohttp
import anyio
import anyio.to_thread
import pytest
from support import VIRTUAL

from kie_mj_async.testing import MAX_LIMIT, Simulator, Stuck, TooLong, VirtualLoop, virtual_clock


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def run(main: object, **options: float) -> object:
    """Run a coroutine function on a virtual loop of its own."""
    with asyncio.Runner(loop_factory=partial(VirtualLoop, **options)) as runner:
        return runner.run(main())  # type: ignore[operator]


@pytest.mark.anyio
async def test_an_hour_passes_in_an_instant() -> None:
    """Sleeping costs no real time, and moves the loop's clock by exactly as much."""
    began, virtually = time.monotonic(), anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() == virtually + 3600
    assert time.monotonic() - began < 5


@pytest.mark.anyio
async def test_timers_keep_their_order() -> None:
    """Tasks wake in the order of their times, each at its own."""
    seen: list[tuple[float, str]] = []

    async def wake(seconds: float, name: str) -> None:
        await anyio.sleep(seconds)
        seen.append((anyio.current_time(), name))

    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for seconds, name in [(30, "c"), (10, "a"), (20, "b")]:
            tasks.start_soon(wake, seconds, name)
    assert seen == [(start + 10, "a"), (start + 20, "b"), (start + 30, "c")]


@pytest.mark.anyio
async def test_deadlines_are_virtual() -> None:
    """A cancel scope's deadline is met at its virtual time."""
    start = anyio.current_time()
    with anyio.move_on_after(90) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() == start + 90


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["anyio", "executor"])
async def test_the_clock_stands_still_while_a_thread_is_out(kind: str) -> None:
    """A timer does not fire before a thread that was started earlier is back."""
    order: list[str] = []
    release = threading.Event()

    async def timer() -> None:
        await anyio.sleep(1000)
        order.append("timer")

    async def thread() -> None:
        if kind == "anyio":
            await anyio.to_thread.run_sync(release.wait, 5)
        else:
            await asyncio.get_running_loop().run_in_executor(None, release.wait, 5)
        order.append("thread")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer)
        tasks.start_soon(thread)
        threading.Timer(0.1, release.set).start()
    assert order == ["thread", "timer"]


@pytest.mark.anyio
async def test_waiting_for_a_place_among_the_threads_is_no_thread() -> None:
    """Time passes while a job waits for a limiter that a sleeping task holds."""
    limiter = anyio.CapacityLimiter(1)
    start = anyio.current_time()

    async def hold() -> None:
        async with limiter:
            await anyio.sleep(50)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await anyio.sleep(1)
        assert await anyio.to_thread.run_sync(lambda: 7, limiter=limiter) == 7
    assert anyio.current_time() == start + 50


@pytest.mark.anyio
async def test_sockets_of_the_process_take_no_time() -> None:
    """Many requests over loopback, with the server's own sleeps, take the virtual time of those."""
    start = anyio.current_time()
    async with Simulator(create_latency=0.0) as sim, aiohttp.ClientSession() as session:
        for _ in range(50):
            async with session.get(sim.url + "/simulator/health") as response:
                assert await response.json() == {"ok": True}
    assert anyio.current_time() - start < 1.0


@pytest.mark.anyio
async def test_the_engines_clocks_follow_the_loop() -> None:
    """``virtual_clock`` gives monotonic and wall time that pass with the loop's."""
    clock = virtual_clock(epoch=1_000_000.0)
    before = clock.monotonic(), clock.wall(), clock.now()
    await anyio.sleep(60)
    assert clock.monotonic() - before[0] == 60
    assert clock.wall() - before[1] == pytest.approx(60)
    assert (clock.now() - before[2]).total_seconds() == pytest.approx(60)


def test_a_deadlock_is_an_error() -> None:
    """Waiting for what nobody can do is reported at once, not waited for."""
    with pytest.raises(Stuck, match="nothing can happen"):
        run(asyncio.Event().wait)


def test_a_silent_socket_is_an_error_after_a_while() -> None:
    """With no timer set, an open socket is waited for in real time, but not for ever."""

    async def main() -> None:
        server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    with pytest.raises(Stuck, match="socket"):
        run(main, patience=0.05)


def test_a_thread_that_never_returns_is_an_error() -> None:
    """A hanging thread ends the run with words that name it as the cause."""
    release = threading.Event()

    async def main() -> None:
        try:
            await asyncio.to_thread(release.wait, 10)
        finally:
            release.set()

    with pytest.raises(Stuck, match="thread"):
        run(main, patience=0.05)


def test_endless_polling_is_an_error() -> None:
    """A program that sleeps again and again is stopped at the loop's limit."""

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10)

    with pytest.raises(TooLong, match="1000 virtual seconds"):
        run(main, limit=1000)


def test_timers_are_due_up_to_the_largest_limit() -> None:
    """Far from zero a short wait still ends, and a limit beyond that is refused."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(MAX_LIMIT - 1)
        await asyncio.sleep(1e-9)
        await asyncio.sleep(0.1)
        return loop.time()

    assert run(main, limit=MAX_LIMIT) == pytest.approx(MAX_LIMIT - 0.9)
    with pytest.raises(ValueError, match="limit"):
        VirtualLoop(limit=2 * MAX_LIMIT)


def test_anyio_is_left_as_it_was() -> None:
    """The counting of threads ends with the loop, and leaves other loops alone."""
    before = anyio.to_thread.run_sync
    run(partial(anyio.sleep, 1))
    assert anyio.to_thread.run_sync is before

    async def in_real_time() -> int:
        return await anyio.to_thread.run_sync(lambda: 3)

    async def main() -> int:
        # Another loop, in a thread, while this one runs.
        return await asyncio.to_thread(asyncio.run, in_real_time())

    assert run(main) == 3
