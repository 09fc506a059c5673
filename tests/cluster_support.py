"""A fleet for tests: a prepared database, and real workers as processes of their own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from cluster_driver import TRACE
from worker_process import WorkerProcess

from kie_mj_async.cluster import engine, enqueuing, lease
from kie_mj_async.cluster.database import connect_blocking

DRIVER = Path(__file__).with_name("cluster_driver.py")


def ask(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """A statement's rows."""
    with psycopg.connect(url, autocommit=True) as link:
        cursor = link.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description is not None else []


def prepare(url: str) -> None:
    """Make what a fleet needs in a database."""
    engine.migrate(url)
    ask(url, lease.TABLE)
    ask(url, TRACE)


def put_in(url: str, jobs: Sequence[str]) -> None:
    """Put jobs into a database's queue."""
    with connect_blocking(url, "tests") as link:
        enqueuing.enqueue(link, jobs, 1)


def soon(question: Callable[[], object], within: float, what: str) -> float:
    """Wait until the answer is true; how long that took."""
    began = time.monotonic()
    while not question():
        assert time.monotonic() - began < within, f"not within {within:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


class Fleet:
    """Workers on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._workers: list[WorkerProcess] = []

    def worker(self, in_flight: int = 100, per_worker: int = 40, grace: float = 5) -> WorkerProcess:
        """One more."""
        log = self._folder / f"worker-{len(self._workers)}.log"
        numbers = map(str, (in_flight, per_worker, grace))
        command = [sys.executable, str(DRIVER), self.url, *numbers]
        self._workers.append(WorkerProcess(command, log))
        return self._workers[-1]

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return ask(self.url, statement, *values)

    def enqueue(self, jobs: Sequence[str]) -> None:
        put_in(self.url, jobs)

    def trace(self, job: str) -> list[tuple[str, str, str]]:
        """What a job has left: worker, step and what, in order."""
        rows = self.ask("SELECT worker, step, what FROM trace WHERE job = %s ORDER BY id", job)
        return [(row[0], row[1], row[2]) for row in rows]

    def count(self, step: str, what: str = "end") -> int:
        rows = self.ask("SELECT count(*) FROM trace WHERE step = %s AND what = %s", step, what)
        return int(rows[0][0])

    def statuses(self) -> dict[str, int]:
        """Workflows by their status."""
        rows = self.ask(
            f"SELECT status, count(*) FROM {enqueuing.SCHEMA}.workflow_status GROUP BY 1"
        )
        return dict(rows)

    def logs(self) -> str:
        return "\n".join(f"== {one.log.name}\n{one.log.read_text()}" for one in self._workers)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()


@contextmanager
def fleet(postgres: Any, folder: Path) -> Iterator[Fleet]:
    """A fleet on a fresh database."""
    with postgres.fresh(prepare) as url:
        one = Fleet(url, folder)
        try:
            yield one
        finally:
            one.end()


def names(count: int, batch: str = "b", submit: float = 0.0, collect: float = 0.0) -> Sequence[str]:
    """Names of jobs whose steps take so long."""
    return [f"{batch}:{number}@{submit:g},{collect:g}" for number in range(count)]
