"""The tables of the fleet's books, in a real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster_support import ask

from kie_mj_async.cluster import schema
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.cluster.schema import VERSION, migrate
from kie_mj_async.errors import LedgerError, LedgerTooNew

pytestmark = pytest.mark.anyio

_TABLES = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'kie_mj'"


async def opened(url: str) -> None:
    books = Books(url, "tests")
    try:
        await PostgresLedger.open(books, "b")
    finally:
        await books.aclose()


async def test_tables_are_made_once(database: str) -> None:
    assert migrate(database) == 0
    tables = ask(database, _TABLES)
    await opened(database)
    assert migrate(database) == VERSION
    assert ask(database, _TABLES) == tables
    assert ask(database, "SELECT id FROM kie_mj.batch") == [("b",)]


async def test_an_older_versions_tables_are_brought_up_to_date(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSION", 1)
        migrate(database)
    with pytest.raises(LedgerError, match="schema 1, this version needs 2; run: kie-mj cluster"):
        await opened(database)
    assert migrate(database) == 1
    await opened(database)
    assert migrate(database) == VERSION


def test_several_may_migrate_at_once(database: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(migrate, [database] * 6))
    assert sorted(found) == [0] + [VERSION] * 5


async def test_a_newer_versions_tables_are_refused_and_left_alone(database: str) -> None:
    migrate(database)
    ask(database, "UPDATE kie_mj.meta SET value = '99'")
    with pytest.raises(LedgerTooNew, match=r"127\.0\.0\.1.*schema 99.* upgrade the package"):
        migrate(database)
    with pytest.raises(LedgerTooNew, match="schema 99"):
        await opened(database)
    assert ask(database, "SELECT value FROM kie_mj.meta") == [("99",)]


async def test_a_database_without_tables_says_what_to_do(database: str) -> None:
    with pytest.raises(LedgerError, match="no tables of ours yet; run: kie-mj cluster migrate"):
        await opened(database)
    migrate(database)
    ask(database, "UPDATE kie_mj.meta SET value = '0'")
    with pytest.raises(LedgerError, match="run: kie-mj cluster migrate"):
        await opened(database)


def test_an_old_server_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST", 990000)
    with pytest.raises(LedgerError, match="PostgreSQL 99 or later is needed"):
        migrate(database)
    assert ask(database, _TABLES) == [(0,)]


def test_a_database_that_is_not_there_is_told_without_its_password() -> None:
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/nowhere") as caught:
        migrate("postgresql://u:secret@127.0.0.1:1/nowhere")
    assert "secret" not in str(caught.value)
