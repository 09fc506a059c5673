"""What one life of the program touches: every wire runs through a power that can be cut.

When the power is cut, whatever waits for the world ends at once, and nothing that the dead engine
still tries reaches the world: the nearest that one process comes to a SIGKILL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from kie_mj_async.account import Change, MemorySlots
from kie_mj_async.archive.downloader import Downloader, LinkRefused
from kie_mj_async.archive.manifest import Manifest
from kie_mj_async.archive.store import NameOf, Place
from kie_mj_async.engine.admission import Admission, Ticket
from kie_mj_async.errors import DownloadError, LedgerError, NotSent, ReplyLost, WriteFailed
from kie_mj_async.jobs import Counts, Job, Reading, SavedFile, State
from kie_mj_async.ledger import Attempt, Cursor, MemoryLedger
from kie_mj_async.ledger.base import Alike, PastEvent, Staging
from kie_mj_async.requests import Request
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.lifecycle import Event, IllegalMove, Move
from kie_mj_async.rules.uploads import Upload
from kie_mj_async.rules.wire import Record, Reply

from .invariants import content
from .world import GATEWAY, World, envelope

_T = TypeVar("_T")

REQUEST_TIMEOUT = 60.0

_MAY_BE_TOO_LATE = (Event.INTENT, Event.ADOPTED, Event.RETRIED)


class PowerCut(BaseException):
    """The program is dead. No handler of the engine may live through it."""


class Power:
    """Keeps one life of the program going.

    Args:
        steps: Cut it at the so-many-th step; ``None`` for never.

    Attributes:
        root: The task to end when it is cut.
    """

    def __init__(self, steps: int | None = None) -> None:
        self.on = True
        self.root: asyncio.Task[None] | None = None
        self._steps_left = steps if steps is not None else -1
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._loop = asyncio.get_running_loop()

    def cut(self) -> None:
        """Pull the plug."""
        self.on = False
        for future in self._waiting:
            if not future.done():
                future.set_exception(PowerCut())
        if self.root is not None:
            self.root.cancel()

    def step(self) -> None:
        """A point between two effects, where a crash may come."""
        if not self.on:
            raise PowerCut
        self._steps_left -= 1
        if self._steps_left == 0:
            self.cut()
            raise PowerCut

    async def sleep(self, seconds: float) -> None:
        """Wait for the world."""
        if not self.on:
            raise PowerCut
        future = self._loop.create_future()
        handle = self._loop.call_later(seconds, _finish, future)
        self._waiting[future] = None
        try:
            await future
        finally:
            handle.cancel()
            del self._waiting[future]


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class WiredSlots(MemorySlots):
    """The account's window, which outlives the program."""

    def __init__(self, world: World, power: Power) -> None:
        super().__init__(world.monotonic)
        self._world = world
        self._power = power

    async def update(self, change: Change[_T]) -> _T:
        self._power.step()
        result = await self._world.slots.update(change)
        self._power.step()
        return result


class WatchedGate(Admission):
    """The real gate; the laws see each create that it lets through."""

    def __init__(self, world: World, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._world = world

    async def enter(self, cost: float) -> Ticket:
        ticket = await super().enter(cost)
        self._world.laws.granted(self.running, self.throttle.cap, self.committed)
        return ticket


class WiredLedger:
    """The ledger on its disk.

    Attributes:
        failed: Whether the disk has refused a write.
    """

    def __init__(self, world: World, power: Power, *, by_user: bool = False) -> None:
        self._world = world
        self._store: MemoryLedger = world.store
        self._power = power
        self._by_user = by_user
        self.failed = False

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[Staging]:
        self._power.step()
        async with self._store.staging() as staging:
            yield staging
            self._power.step()
        self._power.step()

    async def add(self, key: str, request: Request, move: Move | None = None) -> Job:
        self._may_write()
        known = await self._store.get(key)
        job = await self._store.add(key, request, move)
        if known is None and move is not None:
            self._moved(Job(key=key, request=request), move, job)
        self._power.step()
        return job

    async def record(self, job: Job, move: Move) -> Job:
        world, power = self._world, self._power
        await asyncio.sleep(0)
        if world.chance("slow write"):
            await power.sleep(world.draw.expovariate(2.0))
        self._may_write()
        if move.event is Event.FILE_SAVED and move.file is not None:
            world.laws.kept(job, move.file)
        before = await self._store.get(job.key) or job
        try:
            after = await self._store.record(job, move)
        except IllegalMove as error:
            # What a callback has moved on is found so by whoever else was about to move it.
            if world.script.callbacks and move.event in _MAY_BE_TOO_LATE:
                raise
            raise world.laws.fail(f"an illegal move: {error}") from error
        self._moved(before, move, after)
        power.step()
        await asyncio.sleep(0)
        return after

    def _may_write(self) -> None:
        self._power.step()
        if self._world.lasting("ledger full") and not self._by_user:
            self.failed = True
            raise LedgerError("database or disk is full")

    def _moved(self, before: Job, move: Move, after: Job) -> None:
        name = self._world.name(after)
        self._world.note(f"ledger: {name} {move.event.value} -> {after.state.value}")
        self._world.laws.moved(before, move, after, by_user=self._by_user)

    async def get(self, key: str) -> Job | None:
        return await self._store.get(key)

    async def find(self, prefix: str) -> list[Job]:
        return await self._store.find(prefix)

    async def by_task(self, task_id: str) -> Job | None:
        return await self._store.by_task(task_id)

    async def children(self, key: str, run: int | None = None) -> list[Job]:
        return await self._store.children(key, run)

    async def has_chains(self) -> bool:
        return await self._store.has_chains()

    async def by_token(self, token: str) -> Attempt | None:
        return await self._store.by_token(token)

    async def last_attempt(self, key: str) -> Attempt | None:
        return await self._store.last_attempt(key)

    async def note_hint(self, token: str, task_id: str | None) -> None:
        self._power.step()
        await self._store.note_hint(token, task_id)
        self._power.step()

    async def open_hints(self) -> list[Attempt]:
        return await self._store.open_hints()

    async def upload_of(self, name: str) -> Upload | None:
        return await self._store.upload_of(name)

    async def note_upload(self, upload: Upload) -> None:
        await self._store.note_upload(upload)

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        self._power.step()
        return await self._store.page(state, after, limit, run)

    async def planned(self, after: Cursor, limit: int) -> tuple[list[Alike], Cursor]:
        self._power.step()
        return await self._store.planned(after, limit)

    async def scan(self, after_seq: int, limit: int, *, with_files: bool = False) -> list[Job]:
        return await self._store.scan(after_seq, limit, with_files=with_files)

    async def history(self, job: Job) -> list[PastEvent]:
        return await self._store.history(job)

    async def due(self, before: datetime) -> int:
        return await self._store.due(before)

    async def counts(self) -> Counts:
        return await self._store.counts()

    async def note_balance(self, at: datetime, balance: float) -> None:
        await self._store.note_balance(at, balance)

    async def readings(self, last: int) -> list[Reading]:
        return await self._store.readings(last)

    async def aclose(self) -> None:
        """The disk stays."""


class WiredService:
    """The service's calls, over a bad network."""

    def __init__(self, world: World, power: Power) -> None:
        self._world = world
        self._power = power
        self._life = world.life
        self._keys = {name: key for key, name in world.names.items()}

    async def create(self, request: Request, *, may_send: Callable[[], bool]) -> Reply | Silence:
        world, power, draw = self._world, self._power, self._world.draw
        world.laws.posting(await self._job_of(request))
        power.step()
        if world.lasting("outage") or world.chance("not sent"):
            await power.sleep(draw.uniform(0.01, 10))
            return Silence(sent=False, reason="no connection")
        if not may_send():
            return Silence(sent=False, reason="too late", held=True)
        begun = world.now
        slow = world.chance("slow")
        there = draw.uniform(1, 40) if slow else draw.uniform(0.01, 0.3)
        back = draw.uniform(0.5, 40) if slow else draw.uniform(0.02, 0.8)
        arrives_anyway = draw.random() < 0.5
        if world.chance("lost on the way"):
            await power.sleep(min(there, REQUEST_TIMEOUT))
            return Silence(sent=True, reason="the connection broke")
        try:
            await power.sleep(there)
        except PowerCut:
            # What was written before the crash may arrive after it, within a moment.
            if arrives_anyway:
                in_flight = min(begun + there, world.now + 0.5)
                world.loop.call_at(in_flight, world.arrive, request, self._life)
            raise
        answer = world.arrive(request, self._life)
        power.step()
        await power.sleep(min(back, REQUEST_TIMEOUT - (world.now - begun)))
        if there + back >= REQUEST_TIMEOUT:
            return Silence(sent=True, reason="timed out")
        if world.chance("reply lost"):
            return Silence(sent=True, reason="the connection broke")
        if world.chance("html"):
            return GATEWAY
        if world.chance("code 500"):
            return envelope(500)
        if world.chance("no id"):
            return envelope(200, {})
        return answer

    async def _job_of(self, request: Request) -> Job | None:
        return await self._world.store.get(self._keys[self._world.name_of(request)])

    async def record(self, task_id: str) -> Record:
        await self._exchange(task_id)
        return self._world.look(task_id)

    async def fresh_link(self, url: str) -> str:
        await self._exchange(None)
        return self._world.mint(url)

    async def _exchange(self, task_id: str | None) -> None:
        world = self._world
        if world.lasting("outage"):
            await self._power.sleep(world.draw.uniform(0.01, 10))
            raise NotSent("no connection", task_id=task_id)
        if world.chance("poll times out"):
            await self._power.sleep(REQUEST_TIMEOUT)
            raise ReplyLost("timed out", task_id=task_id)
        await self._power.sleep(world.draw.uniform(0.02, 0.4))


class WiredDownloader(Downloader):
    """Downloads to the world's files: each is under its name when it is complete."""

    def __init__(self, world: World, power: Power) -> None:
        super().__init__()
        self._world = world
        self._power = power

    async def fetch(
        self, url: str, index: int, into: Place, name_of: NameOf, **_how: object
    ) -> SavedFile:
        world, power = self._world, self._power
        await power.sleep(world.draw.uniform(0.05, 3))
        if world.lasting("disk full"):
            raise WriteFailed("no space left", url=url)
        if not world.serves(url):
            raise LinkRefused(f"{url}: refused", url=url)
        if world.chance("download fails"):
            raise DownloadError(f"{url}: broke off", url=url)
        result = content(url.split("/")[3], index)
        attempt = 1
        while world.files.get(name := name_of(".png", attempt), result) != result:
            attempt += 1
        power.step()
        world.files[name] = result
        world.note(f"file: {name}")
        power.step()
        at = datetime.now(UTC)
        return SavedFile(index, name, url, "0" * 64, len(result), "image/png", 8, 8, at)


class NoManifest(Manifest):
    """The manifest is made from the ledger; nothing here depends on it."""

    def __init__(self) -> None:
        super().__init__(Path())

    async def fits(self, files: int, job_of: Callable[[str], Awaitable[Job | None]]) -> bool:
        return True

    async def rebuild(self, jobs: AsyncIterable[Job]) -> None:
        pass

    async def append(self, job: Job, file: SavedFile) -> None:
        pass
