"""Doubles for tests of programs that use this package: the service, a ledger, virtual time.

What ``__all__`` names is public: it changes as the rest of the package does, by semantic versioning.

**The service.** :func:`simulated` is a local KIE.ai over real sockets, for async tests. In its time a
minute takes a fraction of a second, also for every ``Client`` that is made for it::

    async with simulated(faults="create.429=#1") as service, service.client() as client:
        result = await client.generate("a fox in the snow")
        assert service.books()["charged_total"] == 25

:func:`simulated_in_thread` is the same on a thread of its own, for tests that are not async. With
pytest, the fixtures ``kie_simulator`` and ``kie_client`` are there without an import
(``kie_mj_async.pytest_plugin``). ``Simulator`` is the bare server, with every setting it has.

**The ledger.** ``MemoryLedger`` is a ledger that needs no file.

**Virtual time.** On a :class:`VirtualLoop` nobody waits: as soon as nothing can happen before the next
timer, the loop's clock jumps there. An hour of polling takes milliseconds, and takes them the same
way each time. With anyio's pytest plugin::

    @pytest.fixture
    def anyio_backend():
        return ("asyncio", {"loop_factory": VirtualLoop})

With plain asyncio: ``asyncio.Runner(loop_factory=VirtualLoop)``. :func:`virtual_clock` gives the
engine's parts the same time. While a worker thread is out the clock stands still, and sockets of the
same process work as usual; for other processes the clock runs too fast, so test those in real time.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack

import anyio
import anyio.from_thread
import anyio.to_thread

from .client import Client
from .engine.clock import Clock
from .ledger import MemoryLedger
from .settings import scaled_time
from .simulator import Faults, Simulator

__all__ = [
    "NO_KEY",
    "TIME_SCALE",
    "MemoryLedger",
    "Simulated",
    "SimulatedOptions",
    "Simulator",
    "Stuck",
    "TooLong",
    "VirtualLoop",
    "simulated",
    "simulated_in_thread",
    "virtual_clock",
]

NO_KEY: Final = "no-real-key"
"""The API key of a :class:`Simulated`'s clients; it opens nothing elsewhere."""

TIME_SCALE: Final = 0.01
"""How fast a simulated service runs unless told otherwise: a minute takes 0.6 s."""

EPOCH: Final = 1_800_000_000.0
"""What a virtual wall clock shows at the start: 2027-01-15, 08:00 UTC."""

MAX_LIMIT: Final = 1e7
"""Beyond it a float no longer holds asyncio's resolution, and timers would never be due."""

_T = TypeVar("_T")


class SimulatedOptions(TypedDict, total=False):
    """How a simulated service behaves. "Unscaled seconds" are those of the real service.

    Attributes:
        time_scale: Factor on every duration, above 0; :data:`TIME_SCALE` without it.
        seed: What chance depends on; equal seeds give equal task ids, durations and faults. 0
            without it.
        faults: What goes wrong on purpose, such as ``"create.429=5%,poll.drop=#2+7"``: places and
            kinds as for ``kie-mj simulate --faults``.
        credits: The balance at the start; 100,000 without it.
        rate: Creates per unscaled seconds; ``(20, 10)`` without it.
        max_running: How many tasks may run at once; 100 without it.
        api_key: The one key that works; any does without it.
        webhook_key: What callbacks are signed with; they are unsigned without it.
        picture_side: Pixels of the longer side of a picture; 64 without it.
        create_latency: Unscaled seconds that a create takes to be answered; 0 without it.
    """

    time_scale: float
    seed: int
    faults: str
    credits: float
    rate: tuple[int, float]
    max_running: int
    api_key: str
    webhook_key: str
    picture_side: int
    create_latency: float


class Simulated:
    """A simulated service that is running; :func:`simulated` and :func:`simulated_in_thread` make it.

    Attributes:
        url: Where it listens: the ``base_url=`` of a client, or ``KIE_BASE_URL``.
        api_key: A key that works there.
        time_scale: Factor on every duration of the service.
        state_dir: A directory for the state of its clients; it goes when the service ends.
    """

    def __init__(
        self,
        simulator: Simulator,
        state_dir: Path,
        api_key: str,
        call: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self.url = simulator.url
        self.api_key = api_key
        self.time_scale = simulator.world.time_scale
        self.state_dir = state_dir
        self._simulator = simulator
        self._call = call

    def __repr__(self) -> str:
        return f"Simulated(url={self.url!r})"

    def client(self, **options: Any) -> Client:
        """A client for it, to be opened with ``async with``.

        Args:
            **options: Any of ``Client``'s. ``rate`` is in unscaled seconds; time-outs are in real ones.

        Raises:
            ConfigError: An option cannot work.
        """
        given = {"api_key": self.api_key, "base_url": self.url, "state_dir": self.state_dir}
        return Client(**{**given, **options})

    def books(self) -> dict[str, Any]:
        """What the service has seen: creates, polls, charges, tasks and faults, ready for JSON."""
        books: dict[str, Any] = self._call(self._simulator.books)
        return books

    def finish(self, *task_ids: str) -> None:
        """Let running tasks end now, as they were going to; all of them when none is named.

        Raises:
            LookupError: There is no such task.
        """
        self._poke("finish", task_ids)

    def fail(self, *task_ids: str) -> None:
        """Let running tasks fail now; all of them when none is named.

        Raises:
            LookupError: There is no such task.
        """
        self._poke("fail", task_ids)

    def expire(self, *task_ids: str) -> None:
        """Delete the results of tasks, as after 14 days; of all of them when none is named.

        Raises:
            LookupError: There is no such task.
        """
        self._poke("expire", task_ids)

    def misbehave(self, faults: str) -> None:
        """Let other things go wrong from now on.

        Args:
            faults: A fault script; ``""`` ends all trouble. Its ``#2`` is the second event since the
                service started.

        Raises:
            ValueError: Something in it is unknown; the message lists what exists.
        """
        script = Faults.parse(faults)
        self._call(lambda: self._simulator.world.misbehave(script))

    def _poke(self, what: Literal["finish", "fail", "expire"], task_ids: tuple[str, ...]) -> None:
        def poke() -> None:
            known = self._simulator.books()["tasks"]
            for task_id in task_ids:
                if task_id not in known:
                    raise LookupError(f"{what}: the service has no task {task_id!r}")
            for task_id in task_ids or known:
                getattr(self._simulator.world, what)(task_id)

        self._call(poke)


@asynccontextmanager
async def simulated(**options: Unpack[SimulatedOptions]) -> AsyncIterator[Simulated]:
    """A local KIE.ai in the running event loop, for as long as the block lasts.

    A ``Client`` that is made for its URL meanwhile, by whatever program, keeps its time.

    Args:
        **options: See :class:`SimulatedOptions`.

    Raises:
        ValueError: An option cannot work.
    """
    async with _simulator(options) as simulator:
        with _held(simulator, options, lambda function: function()) as service:
            yield service


@contextmanager
def simulated_in_thread(**options: Unpack[SimulatedOptions]) -> Iterator[Simulated]:
    """As :func:`simulated`, on a thread and an event loop of its own: the caller needs none.

    Args:
        **options: See :class:`SimulatedOptions`.

    Raises:
        ValueError: An option cannot work.
    """
    simulator = _simulator(options)
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(simulator),
        _held(simulator, options, portal.call) as service,
    ):
        yield service


def _simulator(options: SimulatedOptions) -> Simulator:
    chosen: dict[str, Any] = {"time_scale": TIME_SCALE, "picture_side": 64, **options}
    return Simulator(**chosen)


@contextmanager
def _held(
    simulator: Simulator,
    options: SimulatedOptions,
    call: Callable[[Callable[[], Any]], Any],
) -> Iterator[Simulated]:
    key = options.get("api_key", NO_KEY)
    with (
        TemporaryDirectory(prefix="kie-mj-", ignore_cleanup_errors=True) as folder,
        scaled_time(simulator.url, simulator.world.time_scale),
    ):
        yield Simulated(simulator, Path(folder), key, call)


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
