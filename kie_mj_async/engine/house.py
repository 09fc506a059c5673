"""The house of a client: what all of its work shares, and the tasks that the work runs in.

One transport, one window, one gate, one poll loop, whatever is started. Work runs in tasks of the
house, so that cancelling a caller never cuts a paid request in two.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
import anyio.abc
import attrs

from .. import durations_file
from ..account import MemorySlots, Window
from ..archive.downloader import Downloader
from ..errors import KieError, LedgerError
from ..events import ClientClosed, CreatesPaused, CreditsReturned, Event, JobSucceeded
from ..inputs import Inputs
from ..jobs import Job
from ..ledger import Ledger, MemoryLedger, SqliteLedger
from ..logs import anew, logger
from ..rules.forecast import Forecast
from ..rules.pacing import PollBudget
from ..rules.schedule import SafetyNet
from ..sessions import Way
from ..settings import Settings
from ..subscribers import Subscribers
from ..transport import Transport
from ..waiting import in_thread, outlast
from .admission import Admission, Reach
from .clock import Clock
from .hints import HintDesk
from .pipeline import Pipeline
from .poll_scheduler import PollScheduler
from .preparing import Preparer
from .resolving import recover
from .saving import Saver
from .throttling import OwnThrottling, Throttling
from .uploads import Uploader

if TYPE_CHECKING:
    import aiohttp

    from ..receiver import Notice

log = logger(__name__)

_T = TypeVar("_T")

KEEP_EVERY: Final = 60.0
"""Seconds between two times that what was learned is kept; and once more at the end."""


HEAR_OUT: Final = 2.0
"""Seconds at the end for listeners that are behind."""

TOLD: Final = 4096
"""Ends of single tasks to remember so that each is told once."""


class Guest(Protocol):
    """Work that has to be brought to an end before the house closes."""

    ended: anyio.Event

    def stop(self, *, because: KieError) -> None:
        """End soon, and say why to whoever still waits."""

    def hear(self, event: CreatesPaused) -> None:
        """A pause is the account's, not one piece of work's."""


@attrs.frozen
class Shared:
    """What a fleet has in common, where one machine's processes have the state directory.

    Attributes:
        window: The account's window.
        throttling: What refusals have taught.
        licensed: Whether this process may send anything at all now.
    """

    window: Window
    throttling: Throttling
    licensed: Callable[[], bool] = lambda: True


class House:
    """What all work of a client shares.

    Args:
        settings: The client's.
        session: A session of the caller's, or ``None``.
        session_owner: Whether to close that session at the end.
        ledger_path: The client's own ledger; ``None`` to remember only as long as it lives.
        shared: What it has in common with a fleet; ``None`` for a client of one machine.
        tell: Who hears of events.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        session: aiohttp.ClientSession | None = None,
        session_owner: bool = False,
        ledger_path: Path | None = None,
        shared: Shared | None = None,
        tell: Callable[[Event], None] | None = None,
    ) -> None:
        self.settings = settings
        self._owned = session if session_owner else None
        self._shared = shared
        self.subscribers = Subscribers()
        if tell is not None:
            self.subscribers.add(tell)
        self.tell = self.subscribers.tell
        self.clock = Clock()
        way = Way.of(settings.proxy, settings.ca_file)
        self.transport = Transport(
            settings.base_url,
            settings.key,
            upload_url=settings.upload_url,
            session=session,
            request_timeout=settings.request_timeout,
            stall_timeout=settings.stall_timeout,
            tell=self.tell,
            heard=lambda: self.subscribers.anybody,
            way=way,
        )
        self._downloader = Downloader(
            session=session,
            max_bytes=settings.max_file_bytes,
            stall_timeout=settings.stall_timeout,
            api_url=settings.base_url,
            tell=self.tell,
            way=way,
        )
        self.saver = Saver(self.transport, self._downloader)
        self._reach = Reach(self.clock)
        scale = settings.time_scale
        pace = settings.polls_per_second / scale
        self.forecast = Forecast(polls=pace, scale=scale)
        self.poller = PollScheduler(
            self.transport,
            forecast=self.forecast,
            clock=self.clock,
            reach=self._reach,
            budget=PollBudget(pace, pace),
            net=SafetyNet(first=300.0 * scale, ceiling=600.0 * scale),
            tell=self.tell,
        )
        self.guests: set[Guest] = set()
        self._desks: set[HintDesk] = set()
        self._listening_since: datetime | None = None
        self._inputs: Inputs | None = None
        self._ledger_path = ledger_path
        self._learned: Path | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._closing = anyio.Event()
        self._hushed = False
        self._told: dict[tuple[type[Event], str], None] = {}
        self._keeper: asyncio.Task[None] | None = None
        # Made when the house opens:
        self.admission: Admission
        self.ledger: Ledger
        self.pipeline: Pipeline
        self.hints: HintDesk

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
            try:
                await outlast(self._keeper.done, self._left)
            finally:
                await self._hush()
            if not self._keeper.cancelled():
                self._keeper.exception()  # nobody is there to be told
            raise

    async def close(self) -> None:
        """End all work, cleanly: creates under way are seen through, saves get a grace."""
        if self._keeper is None:
            return
        self._closing.set()
        try:
            # A caller that was cancelled must find the house empty. Creates have a time-out.
            await outlast(self._keeper.done, self._left)
        finally:
            await self._hush()
        if not self._keeper.cancelled():
            self._keeper.result()

    async def _hush(self) -> None:
        """The last event, once; whoever comes later hears nothing."""
        if not self._hushed:
            self._hushed = True
            self.tell(ClientClosed())
        await self.subscribers.aclose(HEAR_OUT)

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

    def new_pipeline(
        self, ledger: Ledger, inputs: Inputs, tell: Callable[[Event], None] | None = None
    ) -> Pipeline:
        """A road for the jobs of a ledger.

        Args:
            ledger: Where they are.
            inputs: Where their local images are kept.
            tell: Who hears of what becomes of them; by default the client's listeners.
        """
        scale = self.settings.time_scale
        uploader = Uploader(
            inputs, self.transport, ledger, self.clock, time_scale=scale, tell=self.tell
        )
        return Pipeline(
            ledger=ledger,
            service=self.transport,
            admission=self.admission,
            poller=self.poller,
            saver=self.saver,
            clock=self.clock,
            prices=self.settings.prices,
            preparer=Preparer(ledger, self.transport, self.clock, uploader.link),
            on_unknown=self.settings.on_unknown,
            promised=self.promised,
            tell=tell or self.tell,
        )

    @asynccontextmanager
    async def taking_hints(
        self, pipeline: Pipeline, tell: Callable[[Event], None] | None = None
    ) -> AsyncIterator[HintDesk]:
        """Take callbacks for the jobs of a ledger, as long as it is open.

        Args:
            pipeline: Their road.
            tell: Who hears of it; by default the client's listeners.
        """
        desk = HintDesk(
            pipeline.ledger,
            self.transport,
            pipeline.preparer,
            pipeline.create_ended,
            listening=lambda: self.listening,
            found=self.admission.found,
            tell=tell or self.tell,
        )
        self._desks.add(desk)
        try:
            yield desk
        finally:
            self._desks.discard(desk)
            await desk.aclose()

    @property
    def listening(self) -> bool:
        """Whether callbacks come to this client."""
        return self._listening_since is not None

    def listen(self) -> None:
        """From now on callbacks come to this client."""
        if self._listening_since is None:
            self._listening_since = self.clock.now()

    async def deliver(self, notice: Notice) -> None:
        """A callback has come, and is believed: look at its task, and take its token's hint."""
        task_id = notice.callback.task_id
        self.poller.wake(task_id)
        if notice.token is None or self._tasks is None or self._closing.is_set():
            return
        for desk in self._desks:
            # The next callback need not wait until this one's task has been looked up.
            self._tasks.start_soon(desk.take, notice.token, task_id)

    async def knows(self, token: str) -> bool:
        """Whether a token is one that this client has sent."""
        known = False

        async def ask(desk: HintDesk) -> None:
            nonlocal known
            with suppress(LedgerError):  # another one may know
                if await desk.knows(token):
                    known = True
                    asking.cancel_scope.cancel()

        # All at once: a ledger that takes a long list in answers late.
        async with anyio.create_task_group() as asking:
            for desk in list(self._desks):
                asking.start_soon(ask, desk)
        return known

    @property
    def inputs(self) -> Inputs:
        """Where local images of the client's own jobs are kept; without a ledger, for its life."""
        if self._inputs is None:
            if self._ledger_path is not None:
                folder = self._ledger_path.with_name(f"{self._ledger_path.name}.inputs")
            else:
                folder = Path(tempfile.gettempdir()) / f"kie-mj-{uuid.uuid4().hex}"
            self._inputs = Inputs(folder)
        return self._inputs

    def promised(self, job: Job) -> bool:
        """Whether a callback will tell of the job's end: it was created while we listen."""
        since, born = self._listening_since, job.created_at
        told = job.request.callback_url is not None
        return told and since is not None and born is not None and born >= since

    async def _forget_inputs(self) -> None:
        if self._inputs is not None and self._ledger_path is None:
            await in_thread(shutil.rmtree, self._inputs.folder, True)

    async def call(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Run in a task of the house. Cancelling the caller cancels it too, where that is safe."""
        tasks = self.tasks
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        scope = anyio.CancelScope()

        async def work() -> None:
            try:
                with scope, anew():
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

    def tell_once(self, task_id: str, event: Event) -> None:
        """Tell of the end of a task of no batch, however many wait for it, and however often."""
        what = type(event), task_id
        if what in self._told:
            return
        self._told[what] = None
        if len(self._told) > TOLD:
            del self._told[next(iter(self._told))]
        self.tell(event)

    def _tell_of_single(self, event: Event) -> None:
        if isinstance(event, JobSucceeded | CreditsReturned):
            self.tell_once(event.job.task_id or "", event)
        else:
            self.tell(event)

    def _tell_of_pause(self, event: CreatesPaused) -> None:
        for guest in tuple(self.guests):
            guest.hear(event)
        self.tell(event)

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(anew())
                if self._owned is not None:
                    stack.push_async_callback(self._owned.close)
                await stack.enter_async_context(self.transport)
                await stack.enter_async_context(self._downloader)
                shared = self._shared or self._of_this_machine()
                stack.push_async_callback(shared.window.aclose)
                self.admission = Admission(
                    shared.window,
                    in_flight=self.settings.in_flight,
                    max_credits=self.settings.max_credits,
                    clock=self.clock,
                    reach=self._reach,
                    tell=self._tell_of_pause,
                    licensed=shared.licensed,
                    throttling=shared.throttling,
                )
                if self.settings.state_dir is not None:
                    await self._recall(self.settings.state_dir)
                    stack.push_async_callback(self._keep_what_was_learned)
                self.ledger = await self._open_ledger()
                stack.push_async_callback(self.ledger.aclose)
                stack.push_async_callback(self._forget_inputs)
                self.pipeline = self.new_pipeline(self.ledger, self.inputs, self._tell_of_single)
                self.hints = await stack.enter_async_context(self.taking_hints(self.pipeline))
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
            tasks.start_soon(self._keep_learning)
            if not ready.done():  # whoever opens it may have been cancelled
                ready.set_result(None)
            await self._closing.wait()
            guests = list(self.guests)
            for guest in guests:
                guest.stop(because=_closed())
            for guest in guests:
                await guest.ended.wait()
            tasks.cancel_scope.cancel()

    async def _recall(self, state_dir: Path) -> None:
        self._learned = durations_file.path_of(state_dir, self.settings.host)
        scale = self.settings.time_scale
        self.forecast.recall(await in_thread(durations_file.load, self._learned, scale))

    async def _keep_learning(self) -> None:
        while True:
            await anyio.sleep(KEEP_EVERY)
            await self._keep_what_was_learned()

    async def _keep_what_was_learned(self) -> None:
        """Keep what is new for the next run, and for those of other processes."""
        if self._learned is not None and (news := self.forecast.durations.take_news()):
            await in_thread(durations_file.add, self._learned, news)

    def _of_this_machine(self) -> Shared:
        settings = self.settings
        patience = settings.request_timeout
        if settings.state_dir is None:
            window = Window(MemorySlots(), settings.rate, gives_up_after=patience)
        else:
            window = Window.of_account(
                settings.state_dir,
                settings.host,
                settings.key.reveal(),
                settings.rate,
                gives_up_after=patience,
            )
        return Shared(window, OwnThrottling(settings.in_flight))

    async def _open_ledger(self) -> Ledger:
        if self._ledger_path is None:
            return MemoryLedger()
        return await SqliteLedger.open(self._ledger_path, self.settings.host)


def _closed() -> KieError:
    return KieError("the client was closed before this had ended; what was accepted can be resumed")
