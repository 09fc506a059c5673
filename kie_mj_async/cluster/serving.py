"""A worker with all that it needs: the house of its work, the fleet's books, and its road."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import attrs

from ..account import Window, account_name
from ..archive.store import Place
from ..batch import WORK_FOLDER, place_of
from ..engine.house import House, Shared
from ..engine.pipeline import Pipeline
from ..engine.run import BACKLOG
from ..events import Event
from ..inputs import Inputs
from ..rules import objects
from ..rules.pacing import MAY_STILL_RUN
from ..settings import JOB_TIMEOUT, Settings
from ..waiting import in_thread, sole
from . import schema
from .books import Books
from .care import Care
from .database import SCHEMA
from .engine import Engine
from .enqueuing import Load
from .lease import WorkerLease, steady
from .ledger import PostgresLedger
from .road import JobRoad
from .slots import AccountSlots
from .tending import share_of, tend
from .worker import work

log = logging.getLogger(__name__)

GRACE: Final = 30.0
"""Seconds for jobs under way when a worker is told to stop."""

AT_FIRST: Final = 4
"""For how many workers the first one leaves jobs, until they have been counted."""

RUNNING: Final = (
    f"(SELECT count(*) FROM {SCHEMA}.job WHERE state = 'running' AND rest_until IS NULL)"  # noqa: S608
    f" + (SELECT count(*) FROM {SCHEMA}.job WHERE state = 'unresolved' "
    f"AND submitted_at > extract(epoch FROM statement_timestamp()) - {MAY_STILL_RUN:.0f})"
)
"""Tasks of the account that may be running, in SQL."""


@attrs.frozen
class Work:
    """What a worker does.

    Attributes:
        url: The fleet's database.
        settings: The client's settings; ``in_flight`` is the fleet's.
        out: Where results of new batches go, each in a folder of its own below it: a directory that
            all workers share, or an object store.
        work_dir: A local folder for what is under way to an object store.
        per_worker: Jobs under way in one worker at most; ``None`` for an even share of what the fleet
            has, whatever the number of workers.
        job_timeout: Seconds to wait for a task, before its job rests for a while.
        grace: Seconds for jobs under way when told to stop.
    """

    url: str
    settings: Settings
    out: str
    work_dir: Path
    per_worker: int | None = None
    job_timeout: float = JOB_TIMEOUT
    grace: float = GRACE


async def serve(
    work_of: Work,
    *,
    stop: anyio.Event,
    tell: Callable[[Event], None] = lambda _: None,
    joined: Callable[[Engine], None] = lambda _: None,
) -> None:
    """Work for a fleet until told to stop.

    Args:
        work_of: What is to be done.
        stop: Set to leave in order.
        tell: Who hears of events.
        joined: Called when jobs are taken, each time.

    Raises:
        ConfigError: A setting cannot work, or the fleet works for another account.
        WriteFailed: Results cannot be written.
        LedgerError: The database cannot be used, or has to be migrated.
    """
    settings = work_of.settings
    account = account_name(settings.host, settings.key.reveal())
    in_flight = settings.in_flight

    @asynccontextmanager
    async def road_of(lease: WorkerLease) -> AsyncIterator[JobRoad]:
        books = Books(work_of.url, f"{lease.name} books", worker=lease.name)
        slots = AccountSlots(
            work_of.url,
            account,
            owner=lease.name,
            in_flight=in_flight,
            running=RUNNING,
            rate=settings.rate,
        )
        window = Window(slots, settings.rate, gives_up_after=settings.request_timeout)
        house = House(settings, shared=Shared(window, slots, lease.holds), tell=tell)
        desk = _Desk(work_of, lease.name)
        try:
            await _ready(books)
            await house.open()
            async with anyio.create_task_group() as tasks:
                mine, load = _tends(lease), _shares(lease, in_flight + BACKLOG, work_of.per_worker)
                tasks.start_soon(tend, books, mine, settings.request_timeout, load)
                yield _road(work_of, house, books, lease, desk)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        finally:
            with anyio.CancelScope(shield=True):
                await house.close()
                await books.aclose()
                await in_thread(desk.clear)

    await work(
        work_of.url,
        road_of,
        stop=stop,
        account=account,
        load=share_of(in_flight + BACKLOG, AT_FIRST, work_of.per_worker),
        grace=work_of.grace,
        joined=joined,
    )


async def _ready(books: Books) -> None:
    await books.open()
    await books.read(lambda hand: schema.check(hand.link, books.where))


def _tends(lease: WorkerLease) -> Callable[[], bool]:
    return lambda: lease.eldest and lease.holds()


def _shares(lease: WorkerLease, jobs: int, most: int | None) -> Callable[[], Load]:
    return lambda: share_of(jobs, lease.fleet, most)


def _road(work_of: Work, house: House, books: Books, lease: WorkerLease, desk: _Desk) -> JobRoad:
    def changed() -> None:
        lease.trouble = sending.trouble or saving.trouble

    sending, saving = Care(steady, changed), Care(steady, changed)

    def pipeline(ledger: PostgresLedger) -> Pipeline:
        return house.new_pipeline(ledger, Inputs(desk.folder / "inputs"))

    return JobRoad(
        house,
        books,
        sending=sending,
        saving=saving,
        out=work_of.out,
        place_of=desk.place,
        job_timeout=work_of.job_timeout,
        new_pipeline=pipeline,
    )


class _Desk:
    """The folders of one worker for what is under way; gone when it leaves.

    No other worker uses them: two that save the same result, for one was taken for dead, must not
    write into one file.
    """

    def __init__(self, work_of: Work, worker: str) -> None:
        self.folder = work_of.work_dir / worker
        self._worker = worker
        self._made: set[Path] = set()

    def place(self, out: str) -> Place:
        if objects.is_store_url(out):
            parts = self.folder / "parts" / str(len(self._made))
        else:
            parts = Path(out) / WORK_FOLDER / "workers" / self._worker
        self._made.add(parts)
        return place_of(out, parts)

    def clear(self) -> None:
        for folder in (*self._made, self.folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another worker is in it
                folder.parent.rmdir()
