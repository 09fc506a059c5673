"""Workers' roads within this process: a real database, a simulated service, and no queue between."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from cluster_support import ask
from support import scaled, simulated

from kie_mj_async import failpoints
from kie_mj_async.account import MemorySlots, Window
from kie_mj_async.cluster import care, road
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.care import Care
from kie_mj_async.cluster.desk import Desk
from kie_mj_async.cluster.enqueuing import enqueue
from kie_mj_async.cluster.lease import steady
from kie_mj_async.cluster.ledger import PostgresLedger, name_of, parts_of
from kie_mj_async.cluster.road import JobRoad
from kie_mj_async.engine.house import House, Shared
from kie_mj_async.engine.staging import stage
from kie_mj_async.engine.throttling import OwnThrottling
from kie_mj_async.events import Event
from kie_mj_async.inputs import Inputs
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules.billing import Prices
from kie_mj_async.simulator import Faults, Simulator

SCALE = 0.001
FOX = TextToImage("a fox")
JOIN = "INSERT INTO kie_mj.worker (name, host, pid) VALUES (%s, '', 1)"
FENCE = "UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'x' WHERE name = %s"


@attrs.define
class Hand:
    """A worker of which only the road is there, and what it holds."""

    name: str
    road: JobRoad
    house: House
    books: Books
    sending: Care
    saving: Care
    desk: Desk
    told: list[Event]

    async def go(self, name: str) -> str:
        """Both steps of a job; what its state is then."""
        await self.road.submit(name)
        return await self.road.collect(name)


class Yard:
    """A fleet's database, the service, and where results go.

    Args:
        url: The database.
        sim: The service.
        out: Where results go.
        scale: How fast the service is.
    """

    def __init__(self, url: str, sim: Simulator, out: str, scale: float) -> None:
        self.scale = scale
        self.url = url
        self.sim = sim
        self.out = out
        self.slots = MemorySlots()

    def break_with(self, faults: str) -> None:
        """From now on, these faults; counted on from before."""
        self.sim.world.faults = Faults.parse(faults)

    @property
    def paid(self) -> list[dict[str, Any]]:
        """Creates that were charged."""
        return [one for one in self.sim.books()["creates"] if one["charged"]]

    @asynccontextmanager
    async def worker(
        self,
        name: str = "one",
        *,
        tell: Callable[[Event], None] = lambda _: None,
        patience: float = 10.0,
        job_timeout: float = 20.0,
        **changes: Any,
    ) -> AsyncIterator[Hand]:
        """A worker that has joined."""
        ask(self.url, JOIN, name)
        settings = scaled(self.sim, self.scale, **{"request_timeout": 1.0, **changes})
        books = Books(self.url, name, worker=name, patience=patience)
        sending, saving = Care(steady), Care(steady)
        window = Window(self.slots, settings.rate, gives_up_after=settings.request_timeout)
        told: list[Event] = []

        def hear(event: Event) -> None:
            told.append(event)
            tell(event)

        def allow() -> bool:
            return not sending.holds and not saving.holds

        shared = Shared(window, OwnThrottling(settings.in_flight), allow)
        house = House(settings, shared=shared, tell=hear)
        desk = Desk(Path(self.out).parent / "local", self.out, name)
        await house.open()
        try:
            one = JobRoad(
                house,
                books,
                sending=sending,
                saving=saving,
                out=self.out,
                place_of=desk.place,
                job_timeout=job_timeout,
                new_pipeline=lambda ledger: house.new_pipeline(ledger, Inputs(desk.inputs)),
            )
            yield Hand(name, one, house, books, sending, saving, desk, told)
        finally:
            with anyio.CancelScope(shield=True):
                await house.close()
                await books.aclose()
            desk.clear()

    @asynccontextmanager
    async def ledger(
        self, batch: str = "b", worker: str | None = None
    ) -> AsyncIterator[PostgresLedger]:
        """A batch, as a client has it, or a worker that is played."""
        books = Books(self.url, f"{batch} {worker}", worker=worker, patience=10)
        try:
            yield await PostgresLedger.open(books, batch, enqueue=enqueue)
        finally:
            await books.aclose()

    async def put_in(self, *requests: Request, batch: str = "b") -> list[str]:
        """Put a list in; the names of its jobs, steps of chains behind what they follow."""
        async with self.ledger(batch) as ledger:
            await stage(ledger, requests or (FOX,), Prices())
            return [name_of(batch, job.key) for job in await ledger.scan(0, 1000)]

    async def job(self, name: str) -> Job:
        """A job, whatever its turn."""
        async with self.ledger(parts_of(name)[0]) as ledger:
            job = await ledger.get(parts_of(name)[1])
        assert job is not None
        return job

    def row(self, name: str) -> dict[str, Any]:
        """What only a fleet keeps of a job."""
        batch, key, _ = parts_of(name)
        query = (
            "SELECT queued, turn, rest_until - extract(epoch FROM now())::float8, owner "
            "FROM kie_mj.job JOIN kie_mj.batch ON number = batch WHERE id = %s AND key = %s"
        )
        (row,) = ask(self.url, query, batch, key)
        return dict(zip(("queued", "turn", "rests", "owner"), row, strict=True))

    def end(self, worker: str) -> None:
        """Take its lease away."""
        ask(self.url, FENCE, worker)

    def pictures(self, batch: str = "b") -> list[str]:
        """The names of the files that are in a batch's folder."""
        folder = Path(self.out) / batch
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def digests(self, batch: str = "b") -> list[str]:
        """The digests of those files."""
        folder = Path(self.out) / batch
        return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir())


@contextmanager
def at_point(point: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something each time a failure point is reached."""

    def reached(name: str) -> None:
        if name == point:
            act()

    failpoints.install(reached)
    try:
        yield
    finally:
        failpoints.install(None)


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Make short what is long for a real service's sake."""
    patch.setattr(care, "FIRST", 0.2)
    patch.setattr(road, "_LOOK", 0.05)
    patch.setattr(road, "DATABASE_CEILING", 0.2)


@asynccontextmanager
async def yard_on(url: str, folder: Path, faults: str = "", **options: Any) -> AsyncIterator[Yard]:
    scale = options.pop("scale", SCALE)
    async with simulated(faults, scale=scale, **options) as sim:
        yield Yard(url, sim, str(folder / "out"), scale)


def files_of(job: Job) -> list[str]:
    """The names that a saved job's files have."""
    return sorted(file.path for file in job.files)


async def saved(yard: Yard, name: str) -> Job:
    """The job, of which is seen that it was saved, paid once, and nothing is left beside it."""
    job = await yard.job(name)
    assert job.state is State.SAVED, job.trouble
    assert len(yard.paid) == 1
    assert yard.pictures() == files_of(job)
    assert len(job.files) == len(job.urls) == 4
    return job
