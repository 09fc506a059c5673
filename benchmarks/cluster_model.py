"""The world of ``cluster.py``: a fleet of processes, a PostgreSQL that syncs, and their meters."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import attrs
import psycopg

from kie_mj_async.cluster import Cluster
from kie_mj_async.simulator import Simulator

# The fleet of the tests: its workers, and a real PostgreSQL.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fleet_runs import DRIVER, prepare
from postgres_support import Postgres, running
from worker_process import WorkerProcess

Server = Postgres
TICKS = os.sysconf("SC_CLK_TCK")


# --- Meters ---------------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, user and system, all threads."""
    return sum(_stat(pid)[11:13]) / TICKS


def server_cpu(pid: int) -> float:
    """CPU seconds of a PostgreSQL server so far, of backends that have ended too."""
    total = sum(_stat(pid)[11:15])
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = _stat(int(folder.name))
                total += sum(fields[11:13]) if fields[1] == pid else 0
    return total / TICKS


def _stat(pid: int) -> list[int]:
    """What the kernel says of a process, from its state (told as 0) on."""
    text = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    return [0, *map(int, text.split()[1:])]


def memory_of(pid: int, what: str = "VmRSS") -> float:
    """MiB that a process uses; ``VmHWM`` for the most so far."""
    found = Path(f"/proc/{pid}/status").read_text().partition(f"{what}:")[2].split()
    return int(found[0]) / 1024 if found else 0.0


@attrs.frozen
class Sums:
    """What a database, its server and its workers have done so far; differences are sums too.

    Attributes:
        at: When, in seconds.
        commits: Transactions that ended well, those that only read too.
        writes: Transactions that changed something.
        rows: Rows inserted, updated and deleted.
        wal: Bytes of the write-ahead log.
        pages: Whole pages in it: those that were changed for the first time since a checkpoint.
        syncs: Times that it was synced.
        server: CPU seconds of the server.
        workers: CPU seconds of the workers.
    """

    at: float
    commits: float
    writes: float
    rows: float
    wal: float
    pages: float
    syncs: float
    server: float
    workers: float

    def __sub__(self, other: Sums) -> Sums:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Sums(*(one - before for one, before in pairs))

    def per(self, number: float) -> Sums:
        """A share of each."""
        return Sums(*(one / number for one in attrs.astuple(self)))


_SUMS = """
SELECT d.xact_commit, pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    d.tup_inserted + d.tup_updated + d.tup_deleted,
    pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
    (SELECT wal_fpi FROM pg_stat_wal),
    (SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal')
FROM pg_stat_database AS d WHERE d.datname = %s
"""


def ask(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """A statement's rows."""
    with psycopg.connect(url, autocommit=True) as link:
        cursor = link.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description is not None else []


@contextmanager
def server() -> Iterator[Postgres]:
    """A PostgreSQL as it comes: it syncs."""
    with running(durable=True) as postgres:
        yield postgres


# --- A fleet --------------------------------------------------------------------------------------


@attrs.define
class Worker:
    """A worker's process."""

    process: WorkerProcess
    name: str

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.process.pid


class Fleet:
    """Workers on a database of their own, that render what a service makes.

    Args:
        postgres: The server.
        service: Where the service is.
        folder: Where results and logs go.
        scale: How fast the service is.
        window: What a window's ten seconds are multiplied by; as the scale without a word.
    """

    def __init__(
        self,
        postgres: Postgres,
        service: str,
        folder: Path,
        *,
        scale: float,
        window: float | None = None,
    ) -> None:
        self.postgres = postgres
        self.url = postgres.create(prepare)
        self.workers: list[Worker] = []
        self.out = folder / "out"
        self._service = service
        self._folder = folder
        self._scale = scale
        self._window = scale if window is None else window
        self._gone = 0.0
        self._count = 0

    def start(self, workers: int, *options: str) -> None:
        """Let more workers join."""
        begun = [self._begin(options) for _ in range(workers)]
        self.workers += [Worker(one, one.joined()) for one in begun]

    def _begin(self, options: Sequence[str]) -> WorkerProcess:
        self._count += 1
        command = [
            *(sys.executable, str(DRIVER), self.url, self._service, str(self.out)),
            *("--work-dir", str(self._folder / "work"), "--scale", str(self._scale)),
            *("--window", str(self._window), "--polls", "5", *options),
        ]
        return WorkerProcess(command, self._folder / f"worker-{self._count}.log")

    def sums(self) -> Sums:
        """What was done so far."""
        name = self.url.rpartition("/")[2]
        workers = self._gone + sum(cpu_of(one.pid) for one in self.workers)
        row = ask(self.postgres.url(), _SUMS, name)[0]
        server = server_cpu(self.postgres.pid)
        return Sums(*[time.monotonic(), *map(float, row), server, workers])

    def during(self, seconds: float) -> Sums:
        """What is done in a second, over so many of them."""
        before = self.sums()
        time.sleep(seconds)
        done = self.sums() - before
        return done.per(done.at)

    def under_way(self) -> dict[str, list[str]]:
        """Names of the jobs under way, by worker."""
        found: dict[str, list[str]] = {}
        for worker, name in ask(
            self.url,
            "SELECT executor_id, workflow_uuid FROM kie_mj_dbos.workflow_status "
            "WHERE status = 'PENDING'",
        ):
            found.setdefault(worker, []).append(name)
        return found

    def tasks(self, names: Sequence[str]) -> list[str]:
        """The tasks of jobs, by their names in the queue."""
        keys = [name.partition(":")[2] for name in names]
        batches = [re.split("[~:]", name)[0] for name in names]
        rows = ask(
            self.url,
            "SELECT job.task_id FROM unnest(%s::text[], %s::text[]) AS one (id, key) "
            "JOIN kie_mj.batch ON batch.id = one.id "
            "JOIN kie_mj.job ON job.batch = batch.number AND job.key = one.key "
            "WHERE job.task_id IS NOT NULL",
            batches,
            keys,
        )
        return [row[0] for row in rows]

    def enqueue(self, batch: str, prompts: Sequence[str]) -> None:
        """Put a list in."""

        async def go() -> None:
            async with Cluster(self.url) as cluster:
                await cluster.render(prompts, batch=batch).plan()

        asyncio.run(go())

    def without_task(self) -> int:
        """How many jobs the service has not been heard to have accepted."""
        return int(ask(self.url, "SELECT count(*) FROM kie_mj.job WHERE task_id IS NULL")[0][0])

    def unsaved(self) -> int:
        """How many jobs are not saved yet."""
        return int(ask(self.url, "SELECT count(*) FROM kie_mj.job WHERE state <> 'saved'")[0][0])

    def saved(self, within: float) -> None:
        """Wait until all jobs are saved.

        Raises:
            TimeoutError: They are not; it tells how they stand.
        """
        try:
            until(lambda: self.unsaved() == 0, within, "all are saved", 0.2)
        except TimeoutError as error:
            states = ask(self.url, "SELECT state, count(*) FROM kie_mj.job GROUP BY 1")
            raise TimeoutError(f"{error}: {states}") from None

    def sizes(self) -> dict[str, int]:
        """Bytes of each table with its indexes, if it has any rows."""
        rows = ask(
            self.url,
            "SELECT nspname || '.' || relname, pg_total_relation_size(pg_class.oid) "
            "FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE relkind = 'r' AND nspname IN ('kie_mj', 'kie_mj_dbos') "
            "AND pg_relation_size(pg_class.oid) > 0 ORDER BY 2 DESC",
        )
        return dict(rows)

    def lose(self, worker: Worker) -> None:
        """Kill a worker, if it lives, and forget it."""
        worker.process.end()
        self.workers.remove(worker)

    def drain(self) -> None:
        """Let all leave in order, so that the server has counted all that they did."""
        for one in self.workers:
            one.process.send(signal.SIGTERM)
        for one in self.workers:
            self._gone += cpu_of(one.pid)
            one.process.left()
        self.workers.clear()
        until(lambda: not self.postgres.connections(self.url), 10, "workers have left")

    def end(self) -> None:
        """Kill what is left, and drop the database."""
        for one in list(self.workers):
            self.lose(one)
        self.postgres.drop(self.url)
        shutil.rmtree(self.out, ignore_errors=True)


@contextmanager
def fleet_of(
    postgres: Postgres,
    service: str,
    folder: Path,
    *,
    scale: float,
    window: float | None = None,
    workers: int = 0,
) -> Iterator[Fleet]:
    """A fleet, for as long as this is open."""
    os.sync()  # what the last one left to write is not this one's
    fleet = Fleet(postgres, service, folder, scale=scale, window=window)
    try:
        fleet.start(workers)
        yield fleet
    finally:
        fleet.end()


class Service:
    """A simulator in a thread with an event loop of its own.

    Args:
        portal: That loop.
        simulator: It.
    """

    def __init__(self, portal: anyio.from_thread.BlockingPortal, simulator: Simulator) -> None:
        self.url = simulator.url
        self._portal = portal
        self._simulator = simulator

    @property
    def books(self) -> dict[str, Any]:
        """What it has seen."""
        return self._portal.call(self._simulator.books)


@contextmanager
def simulated(**options: Any) -> Iterator[Service]:
    """A simulator with these options, and small pictures."""
    with anyio.from_thread.start_blocking_portal() as portal:
        simulator = Simulator(picture_side=32, **options)
        portal.call(simulator.start)
        try:
            yield Service(portal, simulator)
        finally:
            portal.call(simulator.aclose)


def until(question: Callable[[], object], within: float, what: str, every: float = 0.1) -> None:
    """Wait until the answer is true.

    Raises:
        TimeoutError: It took too long.
    """
    deadline = time.monotonic() + within
    while not question():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:g} s: {what}")
        time.sleep(every)


# --- One machine's syncs, as the kernel saw them --------------------------------------------------

TRACED = "fsync,fdatasync,pwrite64"
_CALL = re.compile(r"(fsync|fdatasync|pwrite64)\(\d+<([^>]*)>.* = (\d+)$")


@attrs.frozen
class Syncs:
    """What one machine had written down.

    Attributes:
        ledger: Syncs of the ledger.
        window: Syncs of the account's window.
        wal: Bytes written to the two.
    """

    ledger: int
    window: int
    wal: int


def traced(command: Sequence[str], log: Path) -> Sequence[str]:
    """A command, looked at by strace."""
    options = ["-f", "-y", "-qq", "-s", "0", "-e", f"trace={TRACED}", "-o", str(log)]
    return ["strace", *options, *command]


def syncs_in(log: Path) -> Syncs:
    """What strace has seen."""
    ledger = window = wal = 0
    with log.open() as lines:
        for line in lines:
            call = _CALL.search(line.rstrip())
            if call is None or ".sqlite3" not in call[2]:
                continue
            if call[1] == "pwrite64":
                wal += int(call[3])
            elif "ledger" in call[2]:
                ledger += 1
            else:
                window += 1
    return Syncs(ledger, window, wal)


def run_child(command: Sequence[str], within: float) -> str:
    """The last line of a process.

    Raises:
        RuntimeError: It failed.
    """
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=within)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{ended.stderr}")
    return ended.stdout.splitlines()[-1]
