"""A fleet for tests: a prepared database, and real workers as processes of their own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from cluster_driver import TRACE
from postgres_support import die_with_the_parent

from kie_mj_async.cluster import engine, enqueuing, lease

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


def soon(question: Callable[[], object], within: float, what: str) -> float:
    """Wait until the answer is true; how long that took."""
    began = time.monotonic()
    while not question():
        assert time.monotonic() - began < within, f"not within {within:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


class Worker:
    """A worker's process."""

    def __init__(self, url: str, log: Path, in_flight: int, per_worker: int, grace: float) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), url, str(in_flight), str(per_worker), str(grace)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=die_with_the_parent,  # noqa: PLW1509 - it calls nothing that locks
            )

    def says(self, within: float = 20.0) -> str:
        """Its next line on stdout."""
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], within)
            assert ready, f"it says nothing:\n{self.log.read_text()[-3000:]}"
            piece = os.read(self.process.stdout.fileno(), 1)
            assert piece, f"it has ended:\n{self.log.read_text()[-3000:]}"
            line += piece
        return line.decode().strip()

    def joined(self) -> str:
        """The name under which it has joined."""
        word, _, name = self.says().partition(" ")
        assert word == "joined"
        return name

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def left(self, within: float = 20.0) -> float:
        """Wait until it has ended in order; how long that took."""
        began = time.monotonic()
        assert self.process.wait(within) == 0, self.log.read_text()[-3000:]
        return time.monotonic() - began


class Fleet:
    """Workers on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._workers: list[Worker] = []

    def worker(self, in_flight: int = 100, per_worker: int = 40, grace: float = 5) -> Worker:
        """One more."""
        log = self._folder / f"worker-{len(self._workers)}.log"
        self._workers.append(Worker(self.url, log, in_flight, per_worker, grace))
        return self._workers[-1]

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return ask(self.url, statement, *values)

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
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
            worker.process.wait(10)
            if worker.process.stdout is not None:
                worker.process.stdout.close()


@contextmanager
def fleet(postgres: Any, folder: Path) -> Iterator[Fleet]:
    """A fleet on a fresh database."""
    postgres.start()
    url = postgres.create(prepare)
    one = Fleet(url, folder)
    try:
        yield one
    finally:
        one.end()
        postgres.start()
        postgres.drop(url)


def names(count: int, batch: str = "b", submit: float = 0.0, collect: float = 0.0) -> Sequence[str]:
    """Names of jobs whose steps take so long."""
    return [f"{batch}:{number}@{submit:g},{collect:g}" for number in range(count)]
