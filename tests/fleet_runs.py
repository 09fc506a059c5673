"""Fleets that lose workers and their database: what such a run does, and what must hold afterwards.

``python -m tests.fleet_runs --jobs 300`` renders a list with three workers. One is killed inside a
create, one is frozen inside another for 20 seconds and comes back, and PostgreSQL crashes once. Then it
compares the books of both sides and the files, and prints the figures. It exits with 1 if a law was
broken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

from cluster_support import ask, soon
from crash_runs import Service, serving
from postgres_support import Postgres, running
from worker_process import WorkerProcess

from kie_mj_async.cluster import engine, schema
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.enqueuing import enqueue
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.engine.staging import stage
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger.base import each_job
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules import naming
from kie_mj_async.rules.billing import Prices
from kie_mj_async.rules.lifecycle import SETTLED

DRIVER: Final = Path(__file__).with_name("fleet_driver.py")
BATCH: Final = "foxes"


def prepare(url: str) -> None:
    """Make what a fleet needs in a database."""
    schema.migrate(url)
    engine.migrate(url)


class Renderers:
    """A fleet, its database and the service it is paid by.

    Args:
        url: The database.
        service: The service.
        folder: Where results and logs go.
    """

    def __init__(self, url: str, service: Service, folder: Path) -> None:
        self.url = url
        self.service = service
        self.out = folder / "out"
        self._folder = folder
        self._workers: list[WorkerProcess] = []

    def worker(self, *options: str) -> WorkerProcess:
        """One more, with more of the driver's options."""
        number = len(self._workers)
        scale = self.service.scale
        command = [
            *(sys.executable, str(DRIVER), self.url, self.service.url, str(self.out)),
            *("--work-dir", str(self._folder / "work"), "--scale", str(scale)),
            *("--window", str(scale), "--polls", str(5 / scale), *options),
        ]
        self._workers.append(WorkerProcess(command, self._folder / f"worker-{number}.log"))
        return self._workers[-1]

    def enqueue(self, *requests: Request, batch: str = BATCH) -> None:
        """Put a list in."""

        async def go() -> None:
            async with self._ledger(batch) as ledger:
                await stage(ledger, requests, Prices())

        asyncio.run(go())

    def jobs(self, batch: str = BATCH) -> list[Job]:
        """All jobs, as the books have them."""

        async def go() -> list[Job]:
            async with self._ledger(batch) as ledger:
                return [job async for job in each_job(ledger)]

        return asyncio.run(go())

    def wait(self, within: float, batch: str = BATCH) -> list[Job]:
        """Wait until all jobs have come to an end, and those of unknown fate are left."""
        until = time.monotonic() + within
        while True:
            jobs = self.jobs(batch)
            states = Counter(job.state for job in jobs)
            if states.keys() <= SETTLED:
                return jobs
            assert time.monotonic() < until, f"not within {within:g} s: {states}\n{self.logs()}"
            time.sleep(0.3)

    def logs(self) -> str:
        """The end of what each worker has said."""
        return "\n".join(f"== {one.log}\n{one.log.read_text()[-1500:]}" for one in self._workers)

    def drain(self) -> None:
        """Let every worker leave in order."""
        for worker in self._workers:
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGTERM)
        for worker in self._workers:
            worker.ended()

    def end(self) -> None:
        for worker in self._workers:
            worker.end()

    @asynccontextmanager
    async def _ledger(self, batch: str) -> AsyncIterator[PostgresLedger]:
        books = Books(self.url, "test")
        await books.open()
        try:
            yield await PostgresLedger.open(books, batch, enqueue=enqueue)
        finally:
            await books.aclose()


@contextmanager
def renderers(
    postgres: Postgres, folder: Path, *, scale: float, faults: str = ""
) -> Iterator[Renderers]:
    """A fleet on a fresh database, and a simulated service."""
    with postgres.fresh(prepare) as url, serving(faults, scale=scale) as service:
        fleet = Renderers(url, service, folder)
        try:
            yield fleet
        finally:
            fleet.end()


@attrs.frozen
class Verdict:
    """What was found at the end.

    Attributes:
        jobs: Jobs of the list.
        saved: Those that are saved.
        unresolved: Those of unknown fate, told as such.
        paid_twice: Jobs that were paid more than once.
        lost: Tasks that were paid and that nobody knows of, without their job being unresolved.
        most_in_window: Creates in any window, by the service's books.
        refused: Refusals (429).
        wrong: Anything else that must not be, in words.
    """

    jobs: int
    saved: int
    unresolved: int
    paid_twice: int
    lost: int
    most_in_window: int
    refused: int
    wrong: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether every law was kept."""
        return not (self.paid_twice or self.lost or self.wrong or self.most_in_window > 20)


def judge(fleet: Renderers, batch: str = BATCH) -> Verdict:
    """Compare the fleet's books, the service's books, and the files."""
    books = fleet.service.books
    jobs = fleet.jobs(batch)
    paid = defaultdict(set)
    for create in books["creates"]:
        if create["charged"]:
            paid[create["prompt"]].add(create["task_id"])
    known = {job.task_id for job in jobs} - {None}
    unresolved = {job.prompt for job in jobs if job.state is State.UNRESOLVED}
    lost = [
        task for prompt, tasks in paid.items() for task in tasks - known if prompt not in unresolved
    ]
    wrong = [
        f"job {job.key} was left {job.state}: {job.trouble}"
        for job in jobs
        if job.state not in (State.SAVED, State.UNRESOLVED)
    ]
    return Verdict(
        jobs=len(jobs),
        saved=sum(job.state is State.SAVED for job in jobs),
        unresolved=len(unresolved),
        paid_twice=sum(len(tasks) > 1 for tasks in paid.values()),
        lost=len(lost),
        most_in_window=books["most_requests_in_window"],
        refused=books["refused_429_window"] + books["refused_429_running"],
        wrong=(*wrong, *_wrong_files(fleet, jobs, batch)),
    )


def _wrong_files(fleet: Renderers, jobs: list[Job], batch: str) -> Iterator[str]:
    folder = fleet.out / batch
    truth = {
        naming.file_name(job.prompt, job.key, index, ".jpeg"): digest
        for job in jobs
        if job.state is State.SAVED and job.task_id is not None
        for index, digest in enumerate(fleet.service.files(job.task_id))
    }
    seen = {path.name: path for path in folder.iterdir() if path.is_file()}
    if truth.keys() != seen.keys():
        yield f"files that should not be there, or are not: {truth.keys() ^ seen.keys()}"
    for name in truth.keys() & seen.keys():
        if hashlib.sha256(seen[name].read_bytes()).hexdigest() != truth[name]:
            yield f"{name} is not what the service has"


def rough_run(
    postgres: Postgres, folder: Path, *, jobs: int, scale: float, frozen: float
) -> tuple[Verdict, dict[str, Any]]:
    """Three workers; one is killed inside a create, one frozen inside another, and PostgreSQL crashes.

    Args:
        postgres: The server.
        folder: Where results and logs go.
        jobs: How long the list is.
        scale: How fast the service is.
        frozen: Seconds for which a worker is frozen at least; it is until it was taken for dead.
    """
    with renderers(postgres, folder, scale=scale) as fleet:
        fleet.enqueue(*(TextToImage(f"a fox, number {number}") for number in range(jobs)))
        began = time.monotonic()
        each = ("--per-worker", str(min(40, jobs // 3)))
        killed = fleet.worker(*each, "--stop-at", "reply read", "--nth", str(jobs // 15))
        frost = fleet.worker(*each, "--stop-at", "reply read", "--nth", str(jobs // 12), "--freeze")
        steady = fleet.worker(*each)
        _, frosted, _ = [worker.joined() for worker in (killed, frost, steady)]
        assert killed.says(60) == "stops"
        killed.ended(10)
        died = time.monotonic()
        assert frost.says(60) == "stops"
        stopped = time.monotonic()
        time.sleep(2)  # the steady one is in the middle of its work when the server crashes
        postgres.restart(away=0.5)
        # Silence during the crash does not count against it.
        dead = "SELECT 1 FROM kie_mj.worker WHERE name = %s AND ended_at IS NOT NULL"
        soon(lambda: ask(fleet.url, dead, frosted), 60, "the frozen worker is taken for dead")
        time.sleep(max(0.0, stopped + frozen - time.monotonic()))
        frost.send(signal.SIGCONT)
        frost.joined()
        fleet.wait(120)
        time.sleep(0.5)  # whoever saves a second time would have done so
        verdict = judge(fleet)
        fleet.drain()
        figures = {"seconds": time.monotonic() - began, "killed after": died - began}
        return verdict, figures


def main() -> int:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--frozen", type=float, default=20.0)
    options = parser.parse_args()
    with running() as postgres, tempfile.TemporaryDirectory() as folder:
        verdict, figures = rough_run(
            postgres, Path(folder), jobs=options.jobs, scale=options.scale, frozen=options.frozen
        )
    for name, value in attrs.asdict(verdict).items():
        print(f"{name:>15}: {value}")  # noqa: T201
    for name, value in figures.items():
        print(f"{name:>15}: {value:.1f}")  # noqa: T201
    return 0 if verdict.sound else 1


if __name__ == "__main__":
    sys.exit(main())
