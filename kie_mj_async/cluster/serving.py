"""A worker with all that it needs: the house of its work, the fleet's books, and its road."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import attrs

from ..account import Window, account_name
from ..engine.house import House, Shared
from ..engine.pipeline import Pipeline
from ..engine.run import BACKLOG
from ..events import Event
from ..inputs import Inputs
from ..logs import logger
from ..rules.pacing import MAY_STILL_RUN
from ..settings import JOB_TIMEOUT, Settings
from ..waiting import in_thread, sole
from . import schema
from .books import Books
from .care import Care
from .database import SCHEMA
from .desk import Desk
from .engine import Engine
from .enqueuing import Load
from .lease import WorkerLease, steady
from .ledger import PostgresLedger
from .road import JobRoad
from .slots import AccountSlots
from .tending import share_of, tend
from .worker import work

log = logger(__name__)

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
        cares = _Cares(lease)
        slots = AccountSlots(
            work_of.url,
            account,
            owner=lease.name,
            in_flight=in_flight,
            running=RUNNING,
            rate=settings.rate,
        )
        window = Window(slots, settings.rate, gives_up_after=settings.request_timeout)
        house = House(settings, shared=Shared(window, slots, cares.allow), tell=tell)
        desk = Desk(work_of.work_dir, work_of.out, lease.name)
        try:
            await _ready(books)
            # A setting that cannot work shall be seen at once; later it is waited for.
            await desk.prepare()
            await house.open()
            async with anyio.create_task_group() as tasks:
                mine, load = _tends(lease), _shares(lease, in_flight + BACKLOG, work_of.per_worker)
                tasks.start_soon(tend, work_of.url, books, mine, settings.request_timeout, load)
                tasks.start_soon(desk.keep_tidy, books)
                yield _road(work_of, house, books, cares, desk)
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


class _Cares:
    """Who holds back what, and tells the operators why."""

    def __init__(self, lease: WorkerLease) -> None:
        self._lease = lease
        self.sending = Care(steady, self._changed)
        self.saving = Care(steady, self._changed)

    def allow(self) -> bool:
        """Whether a create may go out now: asked for just before its first byte."""
        return self._lease.holds() and not self.sending.holds and not self.saving.holds

    def _changed(self) -> None:
        self._lease.trouble = self.sending.trouble or self.saving.trouble


def _road(work_of: Work, house: House, books: Books, cares: _Cares, desk: Desk) -> JobRoad:
    def pipeline(ledger: PostgresLedger) -> Pipeline:
        return house.new_pipeline(ledger, Inputs(desk.inputs))

    return JobRoad(
        house,
        books,
        sending=cares.sending,
        saving=cares.saving,
        out=work_of.out,
        place_of=desk.place,
        job_timeout=work_of.job_timeout,
        new_pipeline=pipeline,
    )
