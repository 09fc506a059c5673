"""A list on its way to a directory, as its user holds it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .archive.directory import Directory
from .archive.manifest import Manifest
from .archive.parts import Parts
from .archive.store import Place
from .engine.house import House
from .engine.pipeline import Destination, Pipeline
from .engine.run import Run
from .errors import BatchTimedOut, KieError, LedgerError, WriteFailed
from .events import Planned
from .jobs import Counts, Outcome
from .ledger import SqliteLedger
from .requests import Request
from .waiting import outlast

GRACE: Final = 10.0
"""Seconds that files being saved have left when a batch is stopped."""
WORK_FOLDER: Final = ".kie-mj"
LEDGER_NAME: Final = "ledger.sqlite3"
SIMULATED_HOST: Final = "simulator"
"""The host that a ledger of simulated tasks names."""


def ledger_path(directory: str | os.PathLike[str]) -> Path:
    """Where the ledger of a batch directory is."""
    return Path(directory) / WORK_FOLDER / LEDGER_NAME


async def open_existing(directory: Path, host: str) -> SqliteLedger:
    """The ledger of a directory that holds a batch, for work.

    Raises:
        LedgerError: It holds none, or one that cannot be used.
    """
    path = ledger_path(directory)
    if not await anyio.Path(path).is_file():
        message = f"{directory}: holds no batch (there is no {WORK_FOLDER}/{LEDGER_NAME} in it)"
        raise LedgerError(message, path=str(path))
    return await SqliteLedger.open(path, host)


class Batch:
    """A list on its way to a directory: an async iterator of outcomes.

    Its work belongs to the client. A slow reader slows it down; leaving the loop ends it cleanly, and
    the directory can be resumed. Made by ``Client.render`` and ``Client.resume``.
    """

    def __init__(
        self,
        house: House,
        out: Path,
        requests: AsyncIterable[Request] | None,
        timeout: float,
        deadline: float | None = None,
    ) -> None:
        self._house = house
        self._out = out
        self._requests = requests
        self._timeout = timeout
        self._deadline = deadline
        self._send: MemoryObjectSendStream[Outcome]
        self._receive: MemoryObjectReceiveStream[Outcome] | None = None
        self._stopped = False
        self._scope = anyio.CancelScope()
        self._go = anyio.Event()
        self._staged = anyio.Event()
        self._planned: Planned | None = None
        self._error: BaseException | None = None
        self._pipeline: Pipeline | None = None
        self._counts = Counts({})
        self.ended = anyio.Event()

    async def __aenter__(self) -> Batch:
        self._start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self._outcomes()

    async def plan(self) -> Planned:
        """Take the list in and check it, without sending anything; iterating goes on from there.

        Raises:
            InvalidRequest: An entry of the list is bad; nothing was taken in.
            LedgerError: The ledger cannot be used.
            WriteFailed: The directory cannot be written.
        """
        self._start()
        await self._staged.wait()
        if self._planned is None:
            raise self._error or RuntimeError("the batch was stopped before its list was taken in")
        return self._planned

    def summary(self) -> Counts:
        """How many jobs of the directory stand where; final once the batch has ended."""
        return self._counts

    def stop(self, grace: float = GRACE, *, because: KieError | None = None) -> None:
        """End it soon: creates under way are seen through, saves get a grace, the rest can be resumed.

        Args:
            grace: Seconds that files being saved have left.
            because: What to raise in the loop that iterates it; by default the loop just ends.
        """
        if self._stopped:
            return
        self._stopped = True
        self._error = self._error or because
        if self._receive is None:
            self.ended.set()
            return
        if self._pipeline is not None:
            self._pipeline.hurry(grace)
        self._scope.cancel()

    async def aclose(self) -> None:
        """Stop it and wait until it has ended."""
        self.stop()
        # Whoever leaves must find the work ended. It ends within a create's time-out.
        await outlast(self.ended.is_set, self.ended.wait)

    async def _outcomes(self) -> AsyncIterator[Outcome]:
        if self._go.is_set() or self._stopped:
            raise RuntimeError("a batch can be iterated once; render the list again for another")
        receive = self._start()
        self._go.set()
        try:
            if not self.ended.is_set():
                async for outcome in receive:
                    yield outcome
                await self.ended.wait()
            if self._error is not None:
                raise self._error
        finally:
            try:
                await self.aclose()
            finally:
                receive.close()

    def _start(self) -> MemoryObjectReceiveStream[Outcome]:
        if self._receive is None:
            tasks = self._house.tasks
            self._send, self._receive = anyio.create_memory_object_stream[Outcome](1)
            self._house.guests.add(self)
            tasks.start_soon(self._main)
        return self._receive

    async def _main(self) -> None:
        try:
            with self._send, self._scope:
                await self._work()
        except Exception as error:
            self._error = _sole(error)
        finally:
            self._staged.set()
            if self._receive is not None and not self._go.is_set():
                self._receive.close()
            self._house.guests.discard(self)
            self.ended.set()

    async def _expire(self) -> None:
        """Stop when the deadline passes."""
        if self._deadline is not None:
            await anyio.sleep(self._deadline)
            message = (
                f"{self._out}: the batch's deadline of {self._deadline:g} s has passed; what is left "
                "can be resumed"
            )
            self.stop(because=BatchTimedOut(message))

    async def _work(self) -> None:
        house = self._house
        work_folder = self._out / WORK_FOLDER
        place = Place(Directory(self._out), Parts(work_folder / "parts"))
        if self._requests is None:
            ledger = await open_existing(self._out, house.settings.host)
        else:
            await anyio.to_thread.run_sync(_check_out, self._out)
            await place.prepare()
            ledger = await SqliteLedger.open(ledger_path(self._out), house.settings.host)
        try:
            pipeline = house.new_pipeline(ledger)
            self._pipeline = pipeline
            run = Run(
                pipeline,
                admission=house.admission,
                to=Destination(place, Manifest(self._out)),
                clock=house.clock,
                in_flight=house.settings.in_flight,
                job_timeout=self._timeout,
                tell=house.tell,
                balance=house.transport.credits,
            )
            self._planned = await run.plan(self._requests)
            self._counts = await ledger.counts()
            self._staged.set()
            await self._go.wait()
            await place.prepare()
            await anyio.to_thread.run_sync(place.parts.sweep)
            async with anyio.create_task_group() as work:
                work.start_soon(self._expire)
                await run.go(self._send.send)
                work.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(LedgerError):
                    self._counts = await ledger.counts()
                await ledger.aclose()


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise WriteFailed(f"{out}: is a file; choose a directory", billed="no")


def _sole(error: BaseException) -> BaseException:
    """The one error inside nested groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
