"""Workers that are frozen or killed inside a transaction of the fleet's books, at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import ask
from frozen_driver import count
from postgres_support import die_with_the_parent

from kie_mj_async.cluster import database
from kie_mj_async.cluster import lease as lease_module
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.lease import GUARD, WorkerLease
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.leases import Lease

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_DRIVER = Path(__file__).with_name("frozen_driver.py")
_TABLES = """
CREATE TABLE pair (side text PRIMARY KEY, n integer NOT NULL);
INSERT INTO pair VALUES ('a', 0), ('b', 0);
CREATE TABLE done (worker text NOT NULL, number integer NOT NULL);
"""


class Driver:
    """A worker's process, which writes without end under the lease of its name."""

    def __init__(self, url: str, name: str, log: Path, seconds: float, what: str) -> None:
        self.name = name
        self.url = url
        self._log = log
        joined = "INSERT INTO kie_mj.worker (name, host, pid) VALUES (%s, '', 0)"
        ask(url, joined, name)
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(_DRIVER), url, name, str(seconds), what],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.DEVNULL,
                preexec_fn=die_with_the_parent,  # noqa: PLW1509 - it calls nothing that locks
            )

    def said(self) -> list[str]:
        """The whole lines that it has said."""
        return self._log.read_text().rpartition("\n")[0].split("\n")

    async def until(self, happened: Callable[[], bool], what: str, within: float = 20) -> float:
        began = time.monotonic()
        while not happened():
            assert time.monotonic() - began < within, f"{what}; it said {self.said()[-3:]}"
            await anyio.sleep(0.01)
        return time.monotonic() - began

    async def more(self, lines: int = 5) -> None:
        """Wait until it has gone on."""
        least = len(self.said()) + lines
        await self.until(lambda: len(self.said()) >= least, "it goes on")

    async def freeze_within_a_transaction(self, rng: random.Random) -> None:
        """Stop it at a random moment at which it holds what others want."""
        state = (
            "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) "
            "JOIN pg_class ON pg_class.oid = relation WHERE application_name = %s "
            "AND relname = 'pair' AND mode = 'RowExclusiveLock' AND state = 'idle in transaction'"
        )
        for _ in range(200):
            await anyio.sleep(rng.uniform(0.001, 0.02))
            self.process.send_signal(signal.SIGSTOP)
            await anyio.sleep(0.01)  # its last statement comes to its end
            if ask(self.url, state, self.name)[0][0]:
                return
            self.process.send_signal(signal.SIGCONT)
        pytest.fail("it was never caught inside a transaction")

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def driving(
    url: str, folder: Path, name: str, *, seconds: float = 1.0, what: str = "count"
) -> Iterator[Driver]:
    driver = Driver(url, name, folder / f"{name}.log", seconds, what)
    try:
        yield driver
    finally:
        driver.kill()


@asynccontextmanager
async def books_of(url: str, name: str) -> AsyncIterator[Books]:
    books = Books(url, name)
    try:
        await books.open()
        yield books
    finally:
        await books.aclose()


@pytest.fixture
def url(books_url: str) -> str:
    ask(books_url, _TABLES)
    return books_url


def _numbers(url: str, worker: str) -> list[int]:
    rows = ask(url, "SELECT number FROM done WHERE worker = %s ORDER BY number", worker)
    return [row[0] for row in rows]


def _check_nothing_is_half_done(url: str) -> None:
    (a,), (b,) = ask(url, "SELECT n FROM pair ORDER BY side")
    assert a == b == ask(url, "SELECT count(*) FROM done")[0][0]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.7, 5), (database.IDLE_IN_TRANSACTION, 1)])
async def test_what_a_frozen_worker_holds_is_free_soon_and_it_goes_on_when_it_thaws(
    url: str, tmp_path: Path, seconds: float, rounds: int
) -> None:
    rng = random.Random(7)
    with driving(url, tmp_path, "frozen", seconds=seconds) as driver:
        await driver.more()
        async with books_of(url, "other") as other:
            for number in range(rounds):
                await driver.freeze_within_a_transaction(rng)
                before = len(driver.said())
                began = time.monotonic()
                await other.write(count("other", number))
                assert time.monotonic() - began < seconds + 1
                _check_nothing_is_half_done(url)
                driver.thaw()
                await driver.until(lambda: len(driver.said()) > before + 5, "it goes on")  # noqa: B023
        driver.kill()
        last = int(driver.said()[-1])
        assert _numbers(url, "frozen") in (list(range(last + 1)), list(range(last + 2)))
    _check_nothing_is_half_done(url)


async def test_a_worker_that_lost_its_lease_while_it_was_frozen_writes_no_more(
    url: str, tmp_path: Path
) -> None:
    rng = random.Random(11)
    keeper = WorkerLease(url, "keeper")
    await keeper.join()
    for name in ("one", "two", "three"):
        with driving(url, tmp_path, name, seconds=0.7) as driver:
            await driver.more()
            await driver.freeze_within_a_transaction(rng)
            dead = Lease(name, 0, 0, 0.0)
            assert not await keeper._end(dead), (
                "it is not taken while a write under it is under way"
            )
            with anyio.fail_after(3):
                while not await keeper._end(dead):  # noqa: ASYNC110 - another process holds it
                    await anyio.sleep(0.05)
            written = _numbers(url, name)
            driver.thaw()
            await driver.until(lambda: driver.said()[-1] == "lost", "it learns it")
            driver.process.wait(10)
        assert _numbers(url, name) == written == list(range(len(written)))
    await keeper.leave()
    _check_nothing_is_half_done(url)


async def test_a_worker_that_is_killed_leaves_each_transaction_done_or_not(
    url: str, tmp_path: Path
) -> None:
    rng = random.Random(13)
    for number in range(8):
        name = f"killed{number}"
        with driving(url, tmp_path, name) as driver:
            await driver.more(3)
            await anyio.sleep(rng.uniform(0, 0.03))
            driver.kill()
            acknowledged = len(driver.said())
            async with books_of(url, "other") as other:
                with anyio.fail_after(3):
                    await other.write(count("other", number))
            assert _numbers(url, name) in (
                list(range(acknowledged)),
                list(range(acknowledged + 1)),  # the answer to the commit did not come
            )
    _check_nothing_is_half_done(url)


async def test_a_job_whose_worker_is_killed_is_where_one_of_two_states_is(
    books_url: str, tmp_path: Path
) -> None:
    rng = random.Random(17)
    async with books_of(books_url, "replica") as books:
        ledger = await PostgresLedger.open(books, "b")
        async with ledger.staging() as staging:
            await staging.add([TextToImage(f"fox {number}") for number in range(400)])
        order = [job.key for job in await ledger.scan(0, 1000)]
    way = ["planned", "submitting", "running"]
    for number in range(5):
        _anew(books_url)
        with driving(books_url, tmp_path, f"killed{number}", what="move") as driver:
            await driver.more(4)
            await anyio.sleep(rng.uniform(0, 0.05))
            driver.kill()
            said = driver.said()
        stand = dict(ask(books_url, "SELECT key, state FROM kie_mj.job"))
        told = dict.fromkeys(order, "planned") | dict(line.split(" ") for line in said)
        ahead = [key for key in order if stand[key] != told[key]]
        assert len(ahead) <= 1
        for key in ahead:  # the answer to its commit did not come
            assert way.index(stand[key]) == way.index(told[key]) + 1
        _check_each_state_has_what_belongs_to_it(books_url)


def _state(url: str, name: str) -> str:
    look = "SELECT state FROM pg_stat_activity WHERE application_name = %s"
    return str(ask(url, look, name)[0][0])


async def test_whoever_has_waited_for_a_result_is_known_to_be_idle(url: str) -> None:
    """Else the server waits for more of the same message, for which it has no limit."""
    with database.connect_blocking(url, "one") as link, link.pipeline():
        link.execute(b"BEGIN")
        assert link.execute(b"SELECT n FROM pair FOR UPDATE").fetchall()
        assert _state(url, "one") == "idle in transaction"
        assert link.execute(b"SELECT n FROM pair").fetchone()
        assert _state(url, "one") == "idle in transaction"
        link.execute(b"ROLLBACK")


async def test_a_dead_worker_that_froze_within_a_message_is_cut_off(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "IDLE_IN_TRANSACTION", 0.4)
    ask(url, "INSERT INTO kie_mj.worker (name, host, pid) VALUES ('one', '', 0)")
    keeper = WorkerLease(url, "keeper")
    await keeper.join()
    link = database.connect_blocking(url, "one books")
    try:
        pipeline = link.pipeline()
        pipeline.__enter__()
        link.execute(b"BEGIN")
        link.execute(GUARD.encode(), ("one",))
        await anyio.sleep(0.1)
        assert _state(url, "one books") == "active"
        dead, began = Lease("one", 0, 0, 0.0), time.monotonic()
        while not await keeper._end(dead):  # noqa: ASYNC110 - the server ends it
            await anyio.sleep(0.05)
        assert 0.2 < time.monotonic() - began < 2
        with pytest.raises(psycopg.OperationalError):
            link.execute(b"COMMIT").fetchall()
    finally:
        link.close()
        await keeper.leave()


async def test_a_server_that_can_limits_whole_transactions(url: str) -> None:
    (version,) = ask(url, "SELECT current_setting('server_version_num')::integer")[0]
    wanted = "2min" if version >= 170000 else None
    with database.connect_blocking(url, "one") as link:
        row = link.execute(b"SELECT current_setting('transaction_timeout', true) AS it").fetchone()
        assert row == {"it": wanted}
    other = await database.connect(url, "one")
    cursor = await other.execute(b"SELECT current_setting('transaction_timeout', true)")
    assert await cursor.fetchone() == (wanted,)
    await other.close()


def _anew(url: str) -> None:
    """All jobs as they were made."""
    ask(url, "UPDATE kie_mj.job SET state = 'planned', task_id = NULL, attempts = 0, owner = NULL")
    ask(url, "DELETE FROM kie_mj.event")
    ask(url, "DELETE FROM kie_mj.receipt")
    ask(url, "DELETE FROM kie_mj.attempt")


def _check_each_state_has_what_belongs_to_it(url: str) -> None:
    rows: list[Any] = ask(
        url,
        "SELECT state, task_id IS NOT NULL, owner IS NOT NULL, "
        "(SELECT count(*) FROM kie_mj.receipt WHERE seq = job.seq), "
        "(SELECT state FROM kie_mj.event WHERE seq = job.seq ORDER BY id DESC LIMIT 1) "
        "FROM kie_mj.job",
    )
    assert set(rows) <= {
        ("planned", False, False, 0, None),
        ("submitting", False, True, 0, "submitting"),
        ("running", True, False, 1, "running"),
    }
