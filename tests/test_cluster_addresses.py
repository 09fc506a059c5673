"""Every way into a fleet's database, at every kind of address, and what goes wrong with one."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from cluster_support import ask
from postgres_support import Postgres, running
from psycopg.conninfo import conninfo_to_dict

from kie_mj_async.cluster import engine as engine_module
from kie_mj_async.cluster import schema
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.database import checked, where
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.enqueuing import enqueue
from kie_mj_async.cluster.lease import WorkerLease, new_name
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.cluster.slots import AccountSlots
from kie_mj_async.errors import ConfigError, KieError, LedgerError
from kie_mj_async.requests import TextToImage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ODD = "p@ss:w/rd%2B?&=# +ü'\""
"""A password with all that has a meaning in a URL."""

GRANTS = """
GRANT USAGE ON SCHEMA kie_mj, kie_mj_dbos TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA kie_mj, kie_mj_dbos TO {role};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA kie_mj, kie_mj_dbos TO {role};
"""


# --- The ways in ----------------------------------------------------------------------------------


async def _books(url: str) -> None:
    books = Books(url, "tests", patience=0.3)
    try:
        await books.open()
        ledger = await PostgresLedger.open(books, "b", enqueue=enqueue)
        await ledger.submit("a", TextToImage("a fox"))
    finally:
        await books.aclose()


async def _slots(url: str) -> None:
    slots = AccountSlots(url, "a", owner="w", in_flight=9, running="0", patience=0.3)
    try:
        await slots.update(lambda present: (present.slots, None))
    finally:
        await slots.aclose()


async def _lease(url: str) -> None:
    lease = WorkerLease(url, new_name())
    try:
        await lease.join()
    finally:
        await lease.aclose()


class _Road:
    async def submit(self, name: str) -> str:
        return "submitted"

    async def collect(self, name: str) -> str:
        return "saved"

    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""


async def _engine(url: str) -> None:
    engine = Engine(url, _Road(), worker="w")
    try:
        await engine.open()
    finally:
        await engine.aclose()


async def _tables(url: str) -> None:
    await anyio.to_thread.run_sync(schema.migrate, url)


async def _queues_tables(url: str) -> None:
    await anyio.to_thread.run_sync(engine_module.migrate, url)


Way = Callable[[str], Awaitable[None]]

_WAYS: list[Way] = [_books, _slots, _lease, _engine]
_MIGRATIONS: list[Way] = [_tables, _queues_tables]


def _name(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.fixture(params=_WAYS, ids=_name)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[*_WAYS, *_MIGRATIONS], ids=_name)
def any_way(request: pytest.FixtureRequest) -> Any:
    return request.param


# --- The addresses --------------------------------------------------------------------------------


def _prepare(url: str) -> None:
    schema.migrate(url)
    engine_module.migrate(url)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of its own, which listens on a socket too, and asks for passwords."""
    with TemporaryDirectory(prefix="kie-mj-") as folder, running() as one:
        Path(folder).chmod(0o777)
        one.sockets = folder
        one.restart("fast")
        url = one.create(_prepare)
        password = ODD.replace("'", "''").replace("%", "%%")
        ask(url, f"CREATE ROLE odd LOGIN PASSWORD '{password}'")
        ask(url, GRANTS.format(role="odd"))
        ask(url, "CREATE ROLE nobody_much LOGIN")
        hba = Path(ask(url, "SHOW hba_file")[0][0])
        hba.write_text(f"host all odd 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        ask(url, "SELECT pg_reload_conf()")
        one.database = url  # type: ignore[attr-defined]
        yield one


@pytest.fixture
def own(server: Any) -> dict[str, str]:
    """The parts of that server's address."""
    return {key: str(value) for key, value in conninfo_to_dict(server.database).items()}


def _odd(own: dict[str, str], password: str = ODD) -> str:
    return f"postgresql://odd:{quote(password, safe='')}@127.0.0.1:{own['port']}/{own['dbname']}"


@pytest.fixture
def read_only(postgres: Any, own: dict[str, str]) -> Iterator[str]:
    """A database of the same name at another server, which can only be read."""
    postgres.start()
    postgres._do(f"CREATE DATABASE {own['dbname']}_")  # not to be in the way of others
    url = postgres.url(f"{own['dbname']}_")
    postgres._do(f"ALTER DATABASE {own['dbname']}_ RENAME TO standby")
    url = postgres.url("standby")
    _prepare(url)
    ask(url, "ALTER DATABASE standby SET default_transaction_read_only = on")
    yield url
    postgres.drop(url)


@pytest.fixture(scope="module")
def standby() -> Iterator[str]:
    """A database at a server that waits to be made the primary."""
    with running(durable=True) as one:
        url = one.create(_prepare)
        one.stop("fast")
        signal = one._data / "standby.signal"
        signal.touch()
        signal.chmod(0o644)
        one.start()
        assert ask(url, "SELECT pg_is_in_recovery()") == [(True,)]
        yield url


async def test_a_password_may_have_any_sign(own: dict[str, str], way: Way) -> None:
    await way(_odd(own))


async def test_a_socket_is_an_address(server: Any, own: dict[str, str], way: Way) -> None:
    url = f"postgresql:///{own['dbname']}?host={server.sockets}&port={own['port']}"
    await way(f"{url}&user=postgres")


async def test_the_second_host_is_used_where_the_first_is_not_there(
    own: dict[str, str], any_way: Way
) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{own['port']}"
    await any_way(f"postgresql://postgres@{hosts}/{own['dbname']}")


async def test_the_host_that_can_be_written_is_found(
    server: Any, read_only: str, any_way: Way
) -> None:
    standby = conninfo_to_dict(read_only)
    server._do("CREATE DATABASE standby")
    try:
        await anyio.to_thread.run_sync(_prepare, server.url("standby"))
        hosts = f"127.0.0.1:{standby['port']},127.0.0.1:{server._port}"
        await any_way(f"postgresql://postgres@{hosts}/standby?target_session_attrs=read-write")
    finally:
        server.drop(server.url("standby"))


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """The port of a host that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@pytest.mark.slow
async def test_a_host_that_says_nothing_is_passed_over(
    own: dict[str, str], silent: int, way: Way
) -> None:
    with anyio.fail_after(12):
        hosts = f"127.0.0.1:{silent},127.0.0.1:{own['port']}"
        await way(f"postgresql://postgres@{hosts}/{own['dbname']}")


async def test_the_rights_that_the_docs_name_are_enough(own: dict[str, str], way: Way) -> None:
    await way(_odd(own))


# --- What goes wrong ------------------------------------------------------------------------------


async def _refused(way: Way, url: str, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    with pytest.raises(KieError) as caught:
        await way(url)
    told = str(caught.value)
    assert all(word in told for word in words), told
    assert "\n" not in told
    shown = told + caplog.text + repr(caught.value.__cause__)
    for secret in ("wrong-secret", quote("wrong-secret"), ODD, quote(ODD, safe="")):
        assert secret not in shown


async def test_a_wrong_password_is_told_and_not_shown(
    own: dict[str, str], any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"127.0.0.1:{own['port']}/{own['dbname']}"
    words = (place, 'password authentication failed for user "odd"')
    await _refused(any_way, _odd(own, "wrong-secret"), caplog, *words)


async def test_a_database_that_is_not_there_is_told_and_not_made(
    server: Any, own: dict[str, str], any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql://postgres:wrong-secret@127.0.0.1:{own['port']}/nowhere"
    await _refused(any_way, url, caplog, 'database "nowhere" does not exist')
    assert not ask(server.database, "SELECT 1 FROM pg_database WHERE datname = 'nowhere'")


async def test_a_server_without_tls_is_told(
    own: dict[str, str], any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    await _refused(any_way, f"{_odd(own)}?sslmode=require", caplog, "SSL")


async def test_several_hosts_that_are_not_there_are_all_told(
    any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://u:wrong-secret@127.0.0.1:1,127.0.0.1:2/db"
    await _refused(any_way, url, caplog, "127.0.0.1:1,127.0.0.1:2/db", "port: '1'", "port: '2'")


async def test_a_server_that_can_only_be_read_is_told(
    standby: str, any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("cannot execute", "a standby?", "?target_session_attrs=read-write")
    await _refused(any_way, standby, caplog, *words)


async def test_no_host_that_can_be_written_is_told(
    standby: str, any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{standby}?target_session_attrs=read-write"
    await _refused(any_way, url, caplog, "read-only")


async def test_too_few_rights_are_told(
    own: dict[str, str], any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql://nobody_much@127.0.0.1:{own['port']}/{own['dbname']}"
    await _refused(any_way, url, caplog, "permission denied for", "too few rights")


async def test_a_database_without_tables_says_what_to_run(database: str, way: Way) -> None:
    with pytest.raises(LedgerError, match="run: kie-mj cluster migrate"):
        await way(database)


@pytest.mark.parametrize(
    "url",
    [
        "u:wrong-secret@127.0.0.1/db",
        "postgresql://u:wrong%ZZsecret@h/db",
        "postgresql://u:wrong-secret@h:x:/db?y",
        "postgresql://u:wrong-secret@h",
        "postgresql://u:wrong-secret@a:1,b:2,c/db?port=1,2",
    ],
)
async def test_what_is_no_address_is_refused_before_anything_is_tried(
    url: str, any_way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError) as caught:
        await any_way(url)
    assert "secret" not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s@a:1,b:2/db", "postgresql://a:1,b:2/db"),
        ("postgresql://u:s@a,b:5432/db", "postgresql://a,b:5432/db"),
        ("postgresql:///db?host=a,b&port=5&password=s", "postgresql://a:5,b:5/db"),
        ("postgresql:///db?host=/run/pg", "postgresql:///db?host=/run/pg"),
        ("postgresql:///db?host=/run/pg&port=5", "postgresql:///db?host=/run/pg&port=5"),
        ("postgresql://u:s@[::1]:5/db", "postgresql://::1:5/db"),
        ("postgresql://u:%40%2F@h/db", "postgresql://h/db"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert where(checked(url)) == shown


def test_ports_that_belong_to_no_host_are_refused() -> None:
    with pytest.raises(ConfigError, match="a port for each host"):
        checked("postgresql://u:secret@/db?host=a,b,c&port=1,2")
