"""Doubles for tests of programs that use this package: virtual time, a ledger, the service.

**Virtual time.** On a :class:`VirtualLoop` nobody waits: as soon as nothing can happen before the next
timer, the loop's clock jumps there. An hour of polling takes milliseconds, and takes them the same
way each time. With anyio's pytest plugin::

    @pytest.fixture
    def anyio_backend():
        return ("asyncio", {"loop_factory": VirtualLoop})

With plain asyncio: ``asyncio.Runner(loop_factory=VirtualLoop)``. :func:`virtual_clock` gives the
engine's parts the same time. While a worker thread is out the clock stands still, and sockets of the
same process work as usual; for other processes the clock runs too fast, so test those in real time.

**The service.** ``Simulator`` is a local KIE.ai over real sockets. ``MemoryLedger`` is a ledger that
needs no file.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread

from .engine.clock import Clock
from .ledger import MemoryLedger
from .simulator import Simulator

__all__ = ["MemoryLedger", "Simulator", "Stuck", "TooLong", "VirtualLoop", "virtual_clock"]

EPOCH: Final = 1_800_000_000.0
"""What a virtual wall clock shows at the start: 2027-01-15, 08:00 UTC."""

MAX_LIMIT: Final = 1e7
"""Beyond it a float no longer holds asyncio's resolution, and timers would never be due."""

_T = TypeVar("_T")


class Stuck(RuntimeError):
    """Nothing is scheduled and nothing comes in: the program would wait for ever."""


class TooLong(RuntimeError):
    """More virtual time passed than the loop allows."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps instead of waiting.

    Args:
        limit: Virtual seconds after which the loop gives up with :class:`TooLong`; at most ten
            million.
        patience: Real seconds to wait for a thread or for a socket while no timer is set; then the
            loop gives up with :class:`Stuck`.

    Raises:
        ValueError: The limit is too large.
    """

    def __init__(self, *, limit: float = 86_400.0, patience: float = 10.0) -> None:
        self.now = 0.0
        self.limit = limit
        self.patience = patience
        self._away = 0
        super().__init__(_JumpingSelector(self))
        if limit > MAX_LIMIT:
            self.close()
            raise ValueError(f"limit: {limit:g} is not allowed; use at most {MAX_LIMIT:g}")

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now

    @property
    def threads_out(self) -> int:
        """Jobs that are out in worker threads; the clock stands still until they are back."""
        return self._away

    def run_forever(self) -> None:
        """Run until stopped, with anyio's worker threads counted."""
        with _counted_threads():
            super().run_forever()

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Run a function in a thread; the clock stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._away += 1
        future.add_done_callback(self._back)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the threads of the default executor; this takes a thread of its own."""
        with self.thread_out():
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()

    def _back(self, _future: object) -> None:
        self._away -= 1

    @contextmanager
    def thread_out(self) -> Iterator[None]:
        """Let the clock stand still."""
        self._away += 1
        try:
            yield
        finally:
            self._away -= 1

    def jump(self, seconds: float) -> None:
        """Let virtual time pass.

        Raises:
            TooLong: It would be more than the loop's limit.
        """
        if self.now + seconds > self.limit:
            message = (
                f"more than {self.limit:g} virtual seconds passed: something waits for ever, or "
                "the loop needs a larger limit="
            )
            raise TooLong(message)
        self.now += seconds


def virtual_clock(epoch: float = EPOCH) -> Clock:
    """The engine's clocks, from the running loop's time.

    Args:
        epoch: Seconds since 1970 that the wall clock shows at the loop's time 0.
    """
    time = asyncio.get_running_loop().time
    return Clock(monotonic=time, wall=lambda: epoch + time())


class _JumpingSelector(selectors.BaseSelector):
    """Looks for I/O without waiting; where the loop would wait for a timer, its clock jumps."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if self._loop.threads_out:
            return self._wait("a worker thread has not come back")
        if timeout is not None:
            self._loop.jump(timeout)
            return ready
        if len(self._real.get_map()) <= 1:  # the loop's own wake-up socket
            raise Stuck("no timer is set, no thread is out, no socket is open: nothing can happen")
        return self._wait("no timer is set, and nothing came in over a socket")

    def _wait(self, trouble: str) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(self._loop.patience)
        if not ready:
            raise Stuck(f"{trouble} in {self._loop.patience:g} real seconds")
        return ready


@contextmanager
def _counted_threads() -> Iterator[None]:
    """Count anyio's worker threads, which do not go through ``run_in_executor``."""
    real = anyio.to_thread.run_sync

    async def run_sync(
        func: Callable[..., Any],
        *args: Any,
        limiter: anyio.CapacityLimiter | None = None,
        **options: Any,
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            return await real(func, *args, limiter=limiter, **options)
        # Waiting for a place among the threads is no thread: time may pass meanwhile.
        async with limiter or anyio.to_thread.current_default_thread_limiter():
            with loop.thread_out():
                return await real(func, *args, limiter=anyio.CapacityLimiter(1), **options)

    anyio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    try:
        yield
    finally:
        anyio.to_thread.run_sync = real
