"""A fleet whose connections end at pgbouncer, which gives each transaction another of its own.

Skipped where it is not installed, but not in CI: there its absence is a failure.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import ask, put_in, soon
from postgres_support import die_with_the_parent
from psycopg.conninfo import conninfo_to_dict

from kie_mj_async.cluster import engine as engine_module
from kie_mj_async.cluster import lease as lease_module
from kie_mj_async.cluster import schema
from kie_mj_async.cluster.books import Books, Hand
from kie_mj_async.cluster.database import connect, connect_blocking, is_pooled
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.enqueuing import SCHEMA, Load, enqueue
from kie_mj_async.cluster.lease import WorkerLease
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.cluster.slots import AccountSlots
from kie_mj_async.errors import LedgerError
from kie_mj_async.requests import TextToImage

_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        _PROGRAM is None and not os.environ.get("CI"),
        reason="no pgbouncer: apt-get install pgbouncer",
    ),
]

_MODES = ["session", "transaction"]


@contextmanager
def pgbouncer(url: str, **settings: object) -> Iterator[str]:
    """The URL of the same database through a pgbouncer with these settings."""
    assert _PROGRAM is not None, "no pgbouncer: apt-get install pgbouncer"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = conninfo_to_dict(url)
    folder = Path(tempfile.mkdtemp(prefix="kie-mj-pgb-"))
    folder.chmod(0o755)
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # which it refuses
        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    (folder / "users").write_text(f'"{where["user"]}" ""\n')
    given = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": folder / "users",
        **settings,
    }
    lines = [f"* = host={where['host']} port={where['port']}", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in given.items()]
    (folder / "ini").write_text("\n".join(["[databases]", *lines, ""]))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [_PROGRAM, str(folder / "ini")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_the_parent,  # noqa: PLW1509 - it calls nothing that locks
            **who,
        )

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        soon(listens, 10, "pgbouncer listens")
        yield f"postgresql://{where['user']}@127.0.0.1:{port}/{where['dbname']}"
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(url: str) -> None:
    schema.migrate(url)
    engine_module.migrate(url)
    ask(url, "CREATE TABLE note (id serial PRIMARY KEY, word text NOT NULL)")


@pytest.fixture
def direct(postgres: Any) -> Iterator[str]:
    postgres.start()
    url = postgres.create(_prepare)
    yield url
    postgres.drop(url)


@pytest.fixture(params=[None, "options"])
def passed_over(request: pytest.FixtureRequest) -> dict[str, object]:
    """What pgbouncer does about parameters that it does not know: refuse them, or pass them over."""
    return {"ignore_startup_parameters": request.param} if request.param else {}


@asynccontextmanager
async def opened(url: str, name: str) -> AsyncIterator[Books]:
    books = Books(url, name, patience=20)
    try:
        yield books
    finally:
        await books.aclose()


def _note(word: str) -> Callable[[Hand], None]:
    def act(hand: Hand) -> None:
        hand.wrote = True
        hand.link.execute(b"INSERT INTO note (word) VALUES (%s)", (word,))

    return act


@pytest.mark.parametrize("mode", _MODES)
async def test_it_is_known_where_a_connection_ends(
    direct: str, mode: str, passed_over: dict[str, object]
) -> None:
    with pgbouncer(direct, pool_mode=mode, **passed_over) as url:
        for place, pooled in ((direct, False), (url, True)):
            link = await connect(place, "one")
            assert is_pooled(link) is pooled
            await link.close()
            with connect_blocking(place, "one") as other:
                assert is_pooled(other) is pooled


@pytest.mark.parametrize("mode", _MODES)
async def test_replicas_take_lists_in_and_put_them_into_the_queue(
    direct: str, mode: str, passed_over: dict[str, object]
) -> None:
    async def replica(number: int) -> None:
        async with opened(url, f"replica {number}") as books:
            ledger = await PostgresLedger.open(books, f"batch{number}", enqueue=enqueue)
            for first in range(0, 80, 10):
                async with ledger.staging() as staging:
                    await staging.add([TextToImage(f"fox {n}") for n in range(first, first + 10)])
            await asyncio.gather(*(ledger.receipts("x") for _ in range(40)))

    with pgbouncer(direct, pool_mode=mode, default_pool_size=5, **passed_over) as url:
        await asyncio.gather(*(replica(number) for number in range(5)))
    assert ask(direct, "SELECT count(*) FROM kie_mj.job WHERE queued") == [(400,)]
    assert ask(direct, "SELECT count(*) FROM kie_mj_dbos.workflow_status") == [(400,)]


@pytest.mark.parametrize("mode", _MODES)
async def test_a_transaction_has_its_limits_and_leaves_none_behind(
    direct: str, mode: str, passed_over: dict[str, object]
) -> None:
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    look = "SELECT " + ", ".join(f"current_setting('{name}') AS \"{name}\"" for name in names)
    with pgbouncer(direct, pool_mode=mode, default_pool_size=1, **passed_over) as url:
        async with opened(url, "replica") as books:
            rows = await books.read(lambda hand: hand.link.execute(look.encode()).fetchall())
            assert list(rows[0].values()) == ["10s", "5s"]
        assert ask(url, look) == [("0", "0")]


async def test_connections_that_go_away_under_it_lose_and_repeat_nothing(direct: str) -> None:
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    wanted = [f"{who}-{n}" for who in range(6) for n in range(60)]
    done = anyio.Event()

    async def write(who: int) -> None:
        async with opened(url, f"replica {who}") as books:
            for n in range(60):
                await books.write(_note(f"{who}-{n}"))

    async def disturb() -> int:
        ended = 0
        while not done.is_set():
            ended += (await anyio.to_thread.run_sync(ask, direct, end))[0][0]
            await anyio.sleep(0.1)
        return ended

    with pgbouncer(direct, pool_mode="transaction", default_pool_size=3) as url:
        disturbing = asyncio.ensure_future(disturb())
        try:
            await asyncio.gather(*(write(who) for who in range(6)))
        finally:
            done.set()
        assert await disturbing > 0
    assert sorted(row[0] for row in ask(direct, "SELECT word FROM note")) == sorted(wanted)


async def test_statements_are_not_looked_for_in_a_connection_that_never_had_them(
    direct: str, passed_over: dict[str, object]
) -> None:
    async def worker(number: int) -> None:
        slots = AccountSlots(url, "a", owner=f"w{number}", in_flight=9, running="0", patience=5)
        lease = WorkerLease(url, f"w{number}")
        await lease.join()
        for _ in range(12):
            await slots.update(lambda present: (present.slots, None))
            assert await lease._renew() is not None
        await slots.aclose()
        await lease.leave()

    settings: dict[str, object] = {"pool_mode": "transaction", "default_pool_size": 3}
    with pgbouncer(direct, **settings, **passed_over) as url:
        await asyncio.gather(*(worker(number) for number in range(5)))


class _Road:
    def __init__(self) -> None:
        self.done: list[str] = []

    async def submit(self, name: str) -> str:
        return "submitted"

    async def collect(self, name: str) -> str:
        self.done.append(name)
        return "saved"

    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", _MODES)
async def test_a_worker_takes_jobs(direct: str, mode: str) -> None:
    """Not recommended, for its heartbeats wait for the pool; but it works."""
    names = [f"b:{n}" for n in range(60)]
    done = f"SELECT count(*) FROM {SCHEMA}.workflow_status WHERE status = 'SUCCESS'"
    with pgbouncer(direct, pool_mode=mode) as url:
        put_in(url, names)
        road = _Road()
        engine = Engine(url, road, worker="one", load=Load(20, 20))
        await engine.open()
        try:
            with anyio.fail_after(15):
                while ask(direct, done) != [(60,)]:  # noqa: ASYNC110 - in the server
                    await anyio.sleep(0.1)
        finally:
            await engine.aclose()
    assert sorted(road.done) == sorted(names)


async def test_a_pool_without_room_costs_a_worker_its_heartbeat(
    direct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why workers connect directly."""
    monkeypatch.setattr(lease_module, "ANSWER", 0.3)
    with (
        pgbouncer(direct, pool_mode="transaction", default_pool_size=1) as url,
        psycopg.connect(url) as busy,
    ):
        busy.execute("SELECT 1")
        lease = WorkerLease(url, "one")
        with pytest.raises(LedgerError, match="TimeoutError"):
            await lease.join()
        await lease.aclose()
