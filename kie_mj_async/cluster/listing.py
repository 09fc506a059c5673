"""A list that a fleet works on, as its user holds it: taken in here, made by the workers."""

from __future__ import annotations

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

import anyio

from ..batch import Item
from ..engine.preparing import waits_for
from ..engine.staging import each, stage
from ..errors import BatchTimedOut, InvalidRequest, KieError, LedgerError
from ..events import Planned
from ..fields import KEPT, is_local
from ..jobs import Counts, Job, Outcome, Pending, State, outcome_of
from ..ledger.rows import job_from_row
from ..ledger.sql import Values
from ..logs import logger
from ..requests import Request
from ..rules import objects
from ..rules.billing import Prices
from ..rules.making import Wishes, as_requests
from ..rules.prompts import Prompt
from ..rules.stretches import Stretches, Ticks
from .books import Books
from .enqueuing import enqueue
from .ledger import PostgresLedger
from .news import Ear, News, snapshot
from .overview import anybody_works

log = logger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

PAGE: Final = 200
"""Jobs that are read at a time."""

LOOK_AGAIN: Final = 60.0
"""Seconds after which whoever waits looks for himself, whatever the feed says."""

COMPARED: Final = 10_000
"""Jobs that are asked after at a time, at the end of a list."""

LAST_SECONDS: Final = 5.0
"""Seconds for what is good to know at the end, but need not be."""


class _Closed(Exception):
    """The list was let go of while something of it was waited for."""


class FleetBatch:
    """A list that a fleet works on: an async iterator of outcomes.

    The work is the fleet's. A slow reader slows down nobody, and leaving the loop ends the reading
    alone: the fleet goes on, and rendering the same list again attaches to it. Made by
    ``Cluster.render``.
    """

    def __init__(
        self,
        books: Books,
        news: News,
        batch: str,
        requests: AsyncIterable[Request],
        prices: Prices,
        deadline: float | None = None,
        *,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._ready = ready
        self._books = books
        self._news = news
        self._batch = batch
        self._requests = requests
        self._prices = prices
        self._deadline = deadline
        self._ends_at = math.inf
        self._lock = anyio.Lock()
        self._ledger: PostgresLedger | None = None
        self._since = ""
        self._planned: Planned | None = None
        self._failed: Exception | None = None
        self._counts = Counts({})
        self._scope: anyio.CancelScope | None = None
        self._handed_out = Ticks(Stretches())
        self._iterated = False
        self._closed = anyio.Event()

    async def __aenter__(self) -> FleetBatch:
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
        """Take the list in and put its jobs into the queue; iterating goes on from there.

        Unlike on one machine the work begins now: when this returns the jobs are the fleet's.

        Raises:
            InvalidRequest: An entry of the list is bad; nothing was taken in.
            LedgerError: The database cannot be used.
        """
        async with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._planned is None:
                try:
                    self._planned = await self._take_in()
                except Exception as error:
                    self._failed = error  # what is left of the list is no list
                    raise
            return self._planned

    def summary(self) -> Counts:
        """How many jobs of the batch stood where, when it was last counted.

        That is when the list was taken in, and when its iteration ended or it was let go of.
        """
        return self._counts

    async def aclose(self) -> None:
        """Read no more. The fleet goes on with the work."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._scope is not None:
            self._scope.cancel()
        with anyio.move_on_after(LAST_SECONDS), suppress(LedgerError):
            await self._count()

    async def _take_in(self) -> Planned:
        await self._ready()
        ledger = await PostgresLedger.open(self._books, self._batch, enqueue=enqueue)
        # Before the list: whatever becomes of its jobs comes into sight after this.
        self._since = await self._books.read(snapshot)
        _, planned = await stage(ledger, self._requests, self._prices)
        await ledger.enqueue()
        self._ledger = ledger
        await self._count()
        return planned

    async def _count(self) -> None:
        if self._ledger is not None:
            self._counts = await self._ledger.counts()

    async def _outcomes(self) -> AsyncIterator[Outcome]:
        if self._iterated or self._closed.is_set():
            raise RuntimeError("a batch can be iterated once; render the list again for another")
        self._iterated = True
        if self._deadline is not None:
            self._ends_at = anyio.current_time() + self._deadline
        try:
            await self._within(self.plan)
            async with aclosing(self._pages()) as pages:
                async for page in pages:
                    for outcome in page:
                        if self._closed.is_set():
                            return
                        yield outcome
            await self._within(self._count)
        except _Closed:
            return

    async def _within(
        self, work: Callable[_P, Awaitable[_T]], *args: _P.args, **more: _P.kwargs
    ) -> _T:
        """Something done before the deadline, and before this is closed."""
        if self._closed.is_set():
            raise _Closed
        with anyio.CancelScope(deadline=self._ends_at) as scope:
            self._scope = scope
            try:
                return await work(*args, **more)
            finally:
                self._scope = None
        if self._closed.is_set():
            raise _Closed
        message = (
            f"batch {self._batch}: the deadline of {self._deadline:g} s has passed; the fleet goes on "
            "with the list, and rendering it again attaches to it"
        )
        raise BatchTimedOut(message)

    async def _pages(self) -> AsyncGenerator[list[Outcome], None]:
        """All outcomes: what had come to one before, what comes to one, and what cannot."""
        since = self._since
        self._handed_out = Ticks(self._list.stretches)
        for part in self._list.stretches.parts(PAGE):
            yield await self._within(self._settled, part, since)
        while self._list.stretches:
            # Asked first, in a transaction of its own: what was not active in that one has come into
            # sight of the next.
            active = await self._within(self._active)
            until = await self._within(self._books.read, snapshot)
            found = False
            async with aclosing(self._told_between(since, until)) as pages:
                async for page in pages:
                    found = found or bool(page)
                    yield page
            since = until
            if not active:
                break
            if not found:
                await self._within(self._until_news, since)
        async with aclosing(self._missed()) as pages:
            async for page in pages:
                yield page
        seq = 0
        while True:
            steps = await self._within(self._stuck, seq)
            if not steps:
                return
            seq = steps[-1].job.seq
            yield steps

    @property
    def _list(self) -> PostgresLedger:
        if self._ledger is None:
            raise RuntimeError("the list was not taken in")
        return self._ledger

    async def _active(self) -> bool:
        rows = await self._rows("any_active", _arrays(self._list.stretches))
        return bool(rows[0]["active"])

    async def _settled(self, part: Stretches, until: str) -> list[Outcome]:
        rows = await self._rows("settled_in_list", {"until": until, **_arrays(part)})
        return await self._told(rows)

    async def _missed(self) -> AsyncGenerator[list[Outcome], None]:
        """What ended in a transaction that looked like an old one.

        A database that crashed gives the numbers of some transactions again: of those that had left
        nothing on its disk, and may have been in sight all the same.
        """
        for part in self._list.stretches.parts(COMPARED):
            ended = await self._within(self._rows, "ended_in_list", _arrays(part))
            missed = [row["seq"] for row in ended if row["seq"] not in self._handed_out]
            for at in range(0, len(missed), PAGE):
                seqs = {"seqs": missed[at : at + PAGE]}
                rows = await self._within(self._rows, "jobs_of_list", seqs)
                yield await self._within(self._told, rows)

    async def _told_between(self, since: str, until: str) -> AsyncGenerator[list[Outcome], None]:
        listed = self._list.stretches
        always = {"since": since, "until": until, "first": listed.first, "last": listed.last}
        told, seq = "0", 0
        while True:
            values = {**always, "told": told, "seq": seq, "limit": PAGE}
            rows = await self._within(self._rows, "news_of_list", values)
            yield await self._within(self._told, [row for row in rows if row["seq"] in listed])
            if len(rows) < PAGE:
                return
            told, seq = rows[-1]["told_in"], rows[-1]["seq"]

    async def _until_news(self, since: str) -> None:
        """Wait until there may be news."""
        with self._news.of_list(self._list.number, self._list.stretches) as ear:
            await self._news.ready()
            await self._unless_told(since, ear)
        if self._news.closed:
            raise LedgerError(f"{self._books.where}: was closed while batch {self._batch} was read")

    async def _unless_told(self, since: str, ear: Ear) -> None:
        """Wait, unless something has come into sight before it could be heard of."""
        listed = self._list.stretches
        values: dict[str, Any] = {"since": since, "until": await self._books.read(snapshot)}
        values |= {"first": listed.first, "last": listed.last, "told": "0", "seq": 0, "limit": 1}
        if await self._rows("news_of_list", values) or await ear.wait(LOOK_AGAIN):
            return
        if not await anybody_works(self._books):
            log.warning(
                "batch %s waits, and no worker is alive: start one with kie-mj worker", self._batch
            )

    async def _stuck(self, seq: int) -> list[Outcome]:
        """Steps of chains that do not go on for now, and why."""
        values = {**_arrays(self._list.stretches), "seq": seq, "limit": PAGE}
        rows = await self._rows("stuck_in_list", values)
        keys = sorted({row["parent"] for row in rows})
        found = await self._rows("jobs_of_keys", {"keys": keys}) if keys else []
        before = {row["key"]: job_from_row(row) for row in found}
        return [
            Pending(job_from_row(row), KieError(waits_for(before[row["parent"]]), billed="no"))
            for row in rows
        ]

    async def _rows(self, query: str, values: Values) -> list[dict[str, Any]]:
        return await self._list.rows(query, values)

    async def _told(self, rows: Iterable[dict[str, Any]]) -> list[Outcome]:
        jobs = [job_from_row(row) for row in rows]
        for job in jobs:
            self._handed_out.add(job.seq)
        root = await root_of(self._list, jobs)
        return [outcome_of(job, root) for job in jobs]


async def root_of(ledger: PostgresLedger, jobs: Iterable[Job]) -> Path | str:
    """Where the results of these jobs are; a worker settles that with the first one."""
    if ledger.out is None and any(job.state is State.SAVED for job in jobs):
        ledger.out = (await ledger.rows("find_batch", {"id": ledger.id}))[0]["out"]
    return as_root(ledger.out)


def as_root(out: str | None) -> Path | str:
    """A batch's place as outcomes have it: a directory, or an object store's address."""
    return out if out is not None and objects.is_store_url(out) else Path(out or ".")


def _arrays(stretches: Stretches) -> dict[str, Any]:
    return {"firsts": stretches.firsts, "lasts": stretches.lasts}


async def fit_to_travel(
    items: Iterable[Item] | AsyncIterable[Item], wishes: Wishes
) -> AsyncIterator[Request]:
    """A list as requests that any machine can send, one by one.

    Raises:
        InvalidRequest: An entry is bad, or has an image that is here only.
    """
    async for item in each(items):
        for request in as_requests(item, wishes):
            try:
                check_images(request)
            except InvalidRequest as error:
                if isinstance(item, Prompt):
                    raise item.located(error) from None
                raise
            yield request


def check_images(request: Request) -> None:
    """See that a request's images can be had wherever it is sent from.

    Raises:
        InvalidRequest: One is here only.
    """
    for name, image in request.images_given():
        if is_local(image) or (isinstance(image, str) and KEPT.fullmatch(image)):
            what = f"{len(image)} bytes" if isinstance(image, bytes) else f"{str(image)!r:.80}"
            message = (
                f"{name}: {what} is on this machine only; a fleet takes images by their URL, so "
                "that any worker can send them"
            )
            raise InvalidRequest(message, field=name, value=image)
