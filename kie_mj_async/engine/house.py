"""The house of a client: what all of its work shares, and the tasks that the work runs in.

One transport, one window, one gate, one poll loop, whatever is started. Work runs in tasks of the
house, so that cancelling a caller never cuts a paid request in two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
import anyio.abc

from ..account import MemorySlots, Window
from ..archive.downloader import Downloader
from ..errors import KieError
from ..events import Event
from ..ledger import Ledger, MemoryLedger, SqliteLedger
from ..rules.forecast import Backoff
from ..rules.pacing import PollBudget
from ..settings import Settings
from ..transport import Transport
from ..waiting import outlast
from .admission import Admission, Reach
from .clock import Clock
from .pipeline import Pipeline
from .poll_scheduler import PollScheduler
from .resolving import recover
from .saving import Saver

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Guest(Protocol):
    """Work that has to be brought to an end before the house closes."""

    ended: anyio.Event

    def stop(self, *, because: KieError) -> None:
        """End soon, and say why to whoever still waits."""


class House:
    """What all work of a client shares.

    Args:
        settings: The client's.
        session: A session of the caller's, or ``None``.
        ledger_path: The client's own ledger; ``None`` to remember only as long as it lives.
        tell: Who hears of events.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        session: aiohttp.ClientSession | None = None,
        ledger_path: Path | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.tell = _forgiving(tell)
        self.clock = Clock()
        self.transport = Transport(
            settings.base_url,
            settings.key,
            session=session,
            request_timeout=settings.request_timeout,
        )
        self._downloader = Downloader(
            session=session,
            max_bytes=settings.max_file_bytes,
            stall_timeout=settings.stall_timeout,
            api_url=settings.base_url,
        )
        self.saver = Saver(self.transport, self._downloader)
        self._reach = Reach(self.clock)
        pace = settings.polls_per_second / settings.time_scale
        self.poller = PollScheduler(
            self.transport,
            forecast=Backoff(first=2.0 * settings.time_scale, ceiling=10.0 * settings.time_scale),
            clock=self.clock,
            reach=self._reach,
            budget=PollBudget(pace, pace),
        )
        self.guests: set[Guest] = set()
        self._ledger_path = ledger_path
        self._tasks: anyio.abc.TaskGroup | None = None
        self._closing = anyio.Event()
        self._keeper: asyncio.Task[None] | None = None
        # Made when the house opens:
        self.window: Window
        self.admission: Admission
        self.ledger: Ledger
        self.pipeline: Pipeline

    async def open(self) -> None:
        """Open it; :meth:`close` must follow.

        Raises:
            LedgerError: The client's ledger cannot be used.
        """
        if self._keeper is not None:
            raise RuntimeError("a Client can be opened once; make another one")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A task of its own: a client may be closed by another task than it was opened by (test
        # fixtures, web frameworks), which a task group may not.
        self._keeper = asyncio.create_task(self._keep(ready), name="kie-mj client")
        try:
            await ready
        except BaseException:
            self._closing.set()
            await outlast(self._keeper.done, self._left)
            if not self._keeper.cancelled():
                self._keeper.exception()  # nobody is there to be told
            raise

    async def close(self) -> None:
        """End all work, cleanly: creates under way are seen through, saves get a grace."""
        if self._keeper is None:
            return
        self._closing.set()
        # A caller that was cancelled must find the house empty. Creates have a time-out.
        await outlast(self._keeper.done, self._left)
        if not self._keeper.cancelled():
            self._keeper.result()

    async def _left(self) -> None:
        if self._keeper is not None:
            await asyncio.wait([self._keeper])

    @property
    def tasks(self) -> anyio.abc.TaskGroup:
        """The tasks of the house.

        Raises:
            KieError: The house is closing: what a call had begun before has no next step.
            RuntimeError: The house is not open.
        """
        if self._tasks is not None and self._closing.is_set():
            raise _closed()
        if self._tasks is None:
            message = "this Client is not open; use it with: async with Client() as client"
            raise RuntimeError(message)
        return self._tasks

    def new_pipeline(self, ledger: Ledger) -> Pipeline:
        """A road for the jobs of a ledger."""
        return Pipeline(
            ledger=ledger,
            service=self.transport,
            admission=self.admission,
            poller=self.poller,
            saver=self.saver,
            clock=self.clock,
            prices=self.settings.prices,
            on_unknown=self.settings.on_unknown,
            tell=self.tell,
        )

    async def call(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Run in a task of the house. Cancelling the caller cancels it too, where that is safe."""
        tasks = self.tasks
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        scope = anyio.CancelScope()

        async def work() -> None:
            try:
                with scope:
                    result = await function(*args)
                    if not done.done():
                        done.set_result(result)
            except Exception as error:
                if done.done():
                    log.warning("after its caller had gone: %s", error, exc_info=True)
                else:
                    done.set_exception(error)
            finally:
                if not done.done():
                    done.set_exception(_closed())

        tasks.start_soon(work)
        try:
            return await done
        finally:
            scope.cancel()

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.transport)
                await stack.enter_async_context(self._downloader)
                self.window = self._open_window()
                stack.callback(self.window.close)
                self.admission = Admission(
                    self.window,
                    in_flight=self.settings.in_flight,
                    max_credits=self.settings.max_credits,
                    clock=self.clock,
                    reach=self._reach,
                    tell=self.tell,
                )
                self.ledger = await self._open_ledger()
                stack.push_async_callback(self.ledger.aclose)
                self.pipeline = self.new_pipeline(self.ledger)
                await recover(self.ledger)
                await self._serve(ready)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            self._tasks = None

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self.poller.run)
            if not ready.done():  # whoever opens it may have been cancelled
                ready.set_result(None)
            await self._closing.wait()
            guests = list(self.guests)
            for guest in guests:
                guest.stop(because=_closed())
            for guest in guests:
                await guest.ended.wait()
            tasks.cancel_scope.cancel()

    def _open_window(self) -> Window:
        settings = self.settings
        patience = settings.request_timeout
        if settings.state_dir is None:
            return Window(MemorySlots(), settings.rate, gives_up_after=patience)
        return Window.of_account(
            settings.state_dir,
            settings.host,
            settings.key.reveal(),
            settings.rate,
            gives_up_after=patience,
        )

    async def _open_ledger(self) -> Ledger:
        if self._ledger_path is None:
            return MemoryLedger()
        return await SqliteLedger.open(self._ledger_path, self.settings.host)


def _closed() -> KieError:
    return KieError("the client was closed before this had ended; what was accepted can be resumed")


def _forgiving(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Whoever listens cannot hurt the work."""

    def safely(event: Event) -> None:
        try:
            tell(event)
        except Exception:
            log.exception("an event's listener failed at %s", type(event).__name__)

    return safely
