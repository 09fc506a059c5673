"""Who waits for a job hears of its end: one look a second for all who wait in this process.

Jobs are told by the transaction in which they came to their outcome, and a look asks what has come into
sight since the last one: what one snapshot of the database sees and the one before did not. Nothing is
missed or told twice by that, in whatever order transactions end, and one that stays open holds up
nobody.

It is a look and not the database's NOTIFY, which needs a session of its own (no pooler in transaction
mode) and makes commits wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import anyio

from ..errors import LedgerError
from ..logs import logger
from .books import Books, Hand

log = logger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks."""

PAGE: Final = 500
"""Jobs told at a time."""


def snapshot(hand: Hand) -> str:
    """What the database shows at this moment, as it says so itself."""
    return str(hand.ask("snapshot")[0]["snapshot"])


class Ear:
    """Somebody who waits.

    Args:
        jobs: The numbers (``seq``) of the jobs that it is about.
    """

    def __init__(self, jobs: Container[int]) -> None:
        self.jobs = jobs
        self._heard = anyio.Event()

    def wake(self) -> None:
        """There may be news."""
        self._heard.set()

    async def wait(self, seconds: float) -> bool:
        """Wait until there may be news, or so many seconds have passed; whether there may be."""
        with anyio.move_on_after(seconds):
            await self._heard.wait()
        heard, self._heard = self._heard.is_set(), anyio.Event()
        return heard


class News:
    """The feed of one process. It looks only while somebody waits.

    Args:
        books: Where the jobs are.
        every: Seconds between two looks.
    """

    def __init__(self, books: Books, *, every: float = EVERY) -> None:
        self._books = books
        self._every = every
        self._jobs: dict[tuple[int, int], set[Ear]] = {}
        self._lists: dict[int, set[Ear]] = {}
        self._task: asyncio.Task[None] | None = None
        self._begun = anyio.Event()
        self.closed = False

    @contextmanager
    def of_job(self, batch: int, seq: int) -> Iterator[Ear]:
        """Listen for one job's outcome, once :meth:`ready` was awaited."""
        with self._listening(self._jobs, (batch, seq), Ear((seq,))) as ear:
            yield ear

    @contextmanager
    def of_list(self, batch: int, jobs: Container[int]) -> Iterator[Ear]:
        """Listen for the outcomes of these jobs of a batch, once :meth:`ready` was awaited."""
        with self._listening(self._lists, batch, Ear(jobs)) as ear:
            yield ear

    async def ready(self) -> None:
        """Wait until whatever comes to its outcome from now on will be heard by who listens already."""
        if not self.closed:
            self._start()
            await self._begun.wait()

    async def aclose(self) -> None:
        """Look no more, and wake all who wait."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])
        self._wake_all()

    @contextmanager
    def _listening(self, ears: dict[Any, set[Ear]], name: Any, ear: Ear) -> Iterator[Ear]:
        ears.setdefault(name, set()).add(ear)
        try:
            yield ear
        finally:
            ears[name].discard(ear)
            if not ears[name]:
                del ears[name]

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="kie-mj news")

    async def _run(self) -> None:
        since: str | None = None
        try:
            while self._jobs or self._lists:
                try:
                    if since is None:
                        since = await self._books.read(snapshot)
                        self._begun.set()
                    else:
                        since = await self._look(since)
                except LedgerError as error:
                    log.warning("no news of jobs: %s", error)
                await anyio.sleep(self._every)
        finally:
            # Whoever comes next begins anew; nobody is left waiting for what does not come.
            self._begun.set()
            self._begun = anyio.Event()
            self._task = None
            self._wake_all()

    async def _look(self, since: str) -> str:
        """Wake those for whom something came into sight, and return what is in sight now."""
        until = await self._books.read(snapshot)
        async for row in told_between(self._books, since, until):
            place = row["batch"], row["seq"]
            for ear in self._jobs.get(place, ()):
                ear.wake()
            for ear in self._lists.get(row["batch"], ()):
                if row["seq"] in ear.jobs:
                    ear.wake()
        return until

    def _wake_all(self) -> None:
        for ears in (self._jobs, self._lists):
            for some in ears.values():
                for ear in some:
                    ear.wake()


async def told_between(books: Books, since: str, until: str) -> AsyncIterator[dict[str, Any]]:
    """Jobs (batch, key, seq) that came to their outcome between two snapshots, page by page."""
    place: dict[str, Any] = {"told": "0", "in_batch": 0, "seq": 0}
    while True:
        values = {"since": since, "until": until, "limit": PAGE, **place}
        rows = await books.read(partial(Hand.ask, query="news", values=values))
        for row in rows:
            yield row
        if len(rows) < PAGE:
            return
        last = rows[-1]
        place = {"told": last["told_in"], "in_batch": last["batch"], "seq": last["seq"]}
