"""A list on its way to a directory, as its user holds it."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import anyio
import anyio.to_thread
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .account import state_directory
from .archive import manifest
from .archive.directory import Directory
from .archive.manifest import Manifest
from .archive.parts import Parts
from .archive.store import Place, Store
from .engine.hints import HintDesk
from .engine.house import House
from .engine.pipeline import Destination, Pipeline
from .engine.preparing import taken_in
from .engine.prospect import Prospect
from .engine.resolving import recover
from .engine.run import Run
from .engine.staging import each
from .errors import BatchTimedOut, InvalidRequest, KieError, LedgerError, WriteFailed
from .events import BatchEnded, CreatesPaused, Event, Planned
from .inputs import Inputs
from .jobs import Counts, Outcome
from .ledger import SqliteLedger
from .logs import anew, logger
from .progress import Left, Progress
from .requests import ExistingTask, Request
from .rules import objects
from .rules.making import Wishes, as_requests
from .rules.prompts import Prompt
from .waiting import outlast, sole

log = logger(__name__)

GRACE: Final = 10.0
"""Seconds that files being saved have left when a batch is stopped."""
_ETA_EVERY: Final = 1.0
"""Seconds between two times that the time left is asked for anew."""
WORK_FOLDER: Final = ".kie-mj"
LEDGER_NAME: Final = "ledger.sqlite3"

Item = str | Prompt | Request
"""What a list may hold: prompts, or requests."""
SIMULATED_HOST: Final = "simulator"
"""The host that a ledger of simulated tasks names."""


def folder_of(out: str | os.PathLike[str], state_dir: Path | None = None) -> Path:
    """The local directory of a batch, which holds its ledger and its manifest.

    Args:
        out: The directory itself, or the address of an object store: its batch is kept in a directory
            of its own below the state directory, unless the user names another.
        state_dir: Where state that outlives a run belongs; by default where the environment says.

    Raises:
        ConfigError: The address cannot be used.
        InvalidRequest: An address came as a path, which cannot hold it.
    """
    text = os.fspath(out)
    if not objects.is_store_url(text):
        if not isinstance(out, str) and re.match(r"(s3|gs|az)a?:[/\\]", text):
            raise InvalidRequest(f"out: {text}: give the address of an object store as a text")
        return Path(text)
    root = objects.parse(text).root
    name = re.sub(r"[^A-Za-z0-9]+", "-", root)[:60].strip("-")
    tag = hashlib.sha256(root.encode()).hexdigest()[:12]
    return (state_dir or state_directory()) / "batches" / f"{name}-{tag}"


def ledger_path(out: str | os.PathLike[str]) -> Path:
    """Where the ledger of a batch is."""
    return folder_of(out) / WORK_FOLDER / LEDGER_NAME


def no_batch(named: str, folder: Path) -> str:
    """What to say where a batch was looked for and is not.

    Args:
        named: What the user wrote.
        folder: The local directory that this means.
    """
    where = "it" if str(folder) == named else folder
    return f"{named}: holds no batch (there is no {WORK_FOLDER}/{LEDGER_NAME} in {where})"


def holds_batch(named: str) -> bool:
    """Whether there is a batch in what the user named.

    Raises:
        InvalidRequest: It is a file, or cannot be looked at.
    """
    folder = folder_of(named)
    try:
        if folder.is_file():
            raise InvalidRequest(f"{named}: is a file; choose a directory")
        return ledger_path(folder).is_file()
    except OSError as error:
        raise InvalidRequest(f"{named}: cannot be used: {error.strerror}") from None


def check_batch(named: str) -> None:
    """See that there is a batch in what the user named.

    Raises:
        InvalidRequest: There is none, or it cannot be looked at.
    """
    if not holds_batch(named):
        raise InvalidRequest(no_batch(named, folder_of(named)))


async def open_existing(directory: Path, host: str) -> SqliteLedger:
    """The ledger of a directory that holds a batch, for work.

    Raises:
        LedgerError: It holds none, or one that cannot be used.
    """
    path = ledger_path(directory)
    if not await anyio.Path(path).is_file():
        raise LedgerError(no_batch(str(directory), directory), path=str(path))
    return await SqliteLedger.open(path, host)


@asynccontextmanager
async def recovered(directory: Path, host: str) -> AsyncIterator[SqliteLedger]:
    """The ledger of a directory that holds a batch, for decisions about its jobs.

    What a crash cut off is unresolved in it.

    Raises:
        LedgerError: It holds none, or one that cannot be used.
    """
    ledger = await open_existing(directory, host)
    try:
        await recover(ledger)
        yield ledger
    finally:
        await ledger.aclose()


class Batch:
    """A list on its way to a directory: an async iterator of outcomes.

    Its work belongs to the client. A slow reader slows it down; leaving the loop ends it cleanly, and
    the directory can be resumed. Made by ``Client.render`` and ``Client.resume``.
    """

    def __init__(
        self,
        house: House,
        out: str | os.PathLike[str],
        requests: AsyncIterable[Request] | None,
        timeout: float,
        deadline: float | None = None,
        *,
        work_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._house = house
        self._out = os.fspath(out)
        self._url = self._out if objects.is_store_url(self._out) else None
        if work_dir is not None and self._url is None:
            message = "work_dir: is for an object store; a directory holds its own ledger"
            raise InvalidRequest(message, field="work_dir", value=work_dir)
        self._folder = (
            Path(work_dir) if work_dir is not None else folder_of(out, house.settings.state_dir)
        )
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
        self._prospect: Prospect | None = None
        self._progress = Progress(began_at=house.clock.monotonic())
        self._foretold = -math.inf
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

    def progress(self) -> Progress:
        """How far it is: jobs, files, bytes, credits, its rate, and the time left (up to a second old).

        Cheap: look as often as you like.
        """
        now = self._house.clock.monotonic()
        if self.ended.is_set():
            return self._progress
        if now - self._foretold >= _ETA_EVERY:
            self._foretold = now
            self._progress = attrs.evolve(self._progress, eta=self.eta())
        return attrs.evolve(self._progress, at=now)

    def eta(self) -> Left | None:
        """Seconds until it is done.

        ``.middle`` is as likely too short as too long; it ends before ``.low`` with a chance of one in
        ten, and after ``.high`` with one of one in ten. It comes from what was learned of how long
        such tasks take, the account's window and the tasks that may run at once. What nobody can
        foresee is not in it: refusals, other programs of the account, time-outs. ``None`` while
        nobody can tell; cheap, but not for every frame of a film.
        """
        if self.ended.is_set():
            return Left(0.0, 0.0, 0.0)
        return self._prospect.left() if self._prospect is not None else None

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
            with self._send, self._scope, anew(batch=self._out):
                await self._work()
        except Exception as error:
            self._error = sole(error)
        finally:
            self._staged.set()
            if self._receive is not None and not self._go.is_set():
                self._receive.close()
            self._house.guests.discard(self)
            self._progress = attrs.evolve(
                self._progress, at=self._house.clock.monotonic(), eta=Left(0.0, 0.0, 0.0)
            )
            self.ended.set()
            with anew(batch=self._out):
                self._house.tell(BatchEnded(self._out, self._error))

    def _tell(self, event: Event) -> None:
        """What becomes of its jobs: kept in its numbers, and told to the client's listeners."""
        self._progress = self._progress.after(event, self._house.clock.monotonic())
        self._house.tell(event)

    def hear(self, event: CreatesPaused) -> None:
        """For its client: no create is sent for a while."""
        self._progress = self._progress.after(event, self._house.clock.monotonic())

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
        place: Place | None = None
        if self._requests is None:
            ledger = await open_existing(self._folder, house.settings.host)
        else:
            await anyio.to_thread.run_sync(_check_folder, self._folder)
            place = self._place(self._url)
            await place.prepare()
            ledger = await SqliteLedger.open(ledger_path(self._folder), house.settings.host)
        try:
            if place is None:
                place = self._place(await ledger.store())
            else:
                await ledger.bind(self._url)
            inputs = Inputs(self._folder / WORK_FOLDER / "inputs")
            self._pipeline = house.new_pipeline(ledger, inputs, self._tell)
            async with house.taking_hints(self._pipeline, self._tell) as hints:
                await self._run(self._pipeline, place, inputs, hints)
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(LedgerError):
                    self._counts = await ledger.counts()
                await ledger.aclose()

    async def _run(self, pipeline: Pipeline, place: Place, inputs: Inputs, hints: HintDesk) -> None:
        house = self._house
        self._prospect = Prospect(
            house.forecast, house.admission, house.clock, house.settings.time_scale
        )
        run = Run(
            pipeline,
            admission=house.admission,
            to=Destination(place, Manifest(self._folder)),
            clock=house.clock,
            in_flight=house.settings.in_flight,
            job_timeout=self._timeout,
            tell=self._tell,
            balance=house.transport.credits,
            hints=hints,
            prospect=self._prospect,
        )
        listed = self._requests
        self._planned = await run.plan(None if listed is None else taken_in(listed, inputs))
        self._counts = await pipeline.ledger.counts()
        self._staged.set()
        await self._go.wait()
        self._progress = attrs.evolve(self._progress, began_at=house.clock.monotonic())
        if (pause := house.admission.pause) is not None:
            self.hear(pause)
        await place.prepare()
        await anyio.to_thread.run_sync(place.parts.sweep)
        try:
            async with anyio.create_task_group() as work:
                work.start_soon(self._expire)
                await run.go(self._send.send)
                work.cancel_scope.cancel()
        finally:
            await self._publish(place.store)

    def _place(self, url: str | None) -> Place:
        return place_of(url or str(self._folder), self._folder / WORK_FOLDER / "parts")

    async def _publish(self, store: Store) -> None:
        """Bring the manifest to where the files are; it is kept here, so a failure costs nothing."""
        path = self._folder / manifest.NAME
        with anyio.move_on_after(GRACE, shield=True):
            try:
                await store.publish(manifest.NAME, path)
            except KieError as error:
                log.warning("%s is not up to date there: %s", manifest.NAME, error)


def place_of(out: str, parts: Path) -> Place:
    """Where results go, and what they pass through.

    Args:
        out: A local directory, or the URL of an object store.
        parts: The local folder that they are written in first.
    """
    if not objects.is_store_url(out):
        return Place(Directory(Path(out)), Parts(parts))
    from .archive.object_store import ObjectStore

    return Place(ObjectStore.from_url(out), Parts(parts))


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise WriteFailed(f"{folder}: is a file; choose a directory", billed="no")


async def requests_of(
    items: Iterable[Item] | AsyncIterable[Item], wishes: Wishes
) -> AsyncIterator[Request]:
    """A list as requests, one by one.

    Raises:
        InvalidRequest: An entry is bad.
    """
    async for item in each(items):
        for request in as_requests(item, wishes):
            yield request


async def existing_tasks(
    task_ids: Iterable[str] | AsyncIterable[str],
) -> AsyncIterator[Request]:
    """Tasks by their ids, one by one.

    Raises:
        InvalidRequest: Something listed is no id.
    """
    if isinstance(task_ids, str):
        raise InvalidRequest("task_ids: give a list of ids, not a single text", field="task_ids")
    async for task_id in each(task_ids):
        yield ExistingTask(task_id)
