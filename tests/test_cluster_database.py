"""The fleet's connections, on a real PostgreSQL."""

from __future__ import annotations

import anyio
import psycopg
import pytest

from kie_mj_async.cluster import database as module
from kie_mj_async.cluster.database import checked, connect, lost, where
from kie_mj_async.errors import ConfigError, LedgerError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x",
        "u:secret@host/db",
        "postgresql://u:secret@h:port:/db?x",
        "postgres://u:secret@h",
    ],
)
def test_what_is_no_database_is_refused_without_telling_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(url)
    assert "secret" not in str(caught.value)


def test_a_database_is_shown_without_its_password() -> None:
    assert where("postgresql://u:secret@h:5433/db?sslmode=require") == "postgresql://h:5433/db"
    assert where("postgresql:///db") == "postgresql://localhost/db"


def test_an_error_is_told_in_one_line_with_the_place() -> None:
    error = lost("postgresql://u:secret@h/db", psycopg.OperationalError("it broke\nin detail"))
    assert str(error) == "postgresql://h/db: it broke"
    assert str(lost("postgresql://h/db", TimeoutError())) == "postgresql://h/db: TimeoutError"


async def test_connections_carry_their_owners_name_and_their_limits(database: str) -> None:
    async with await connect(database, "worker one") as link:
        for setting, value in (
            ("application_name", "worker one"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("statement_timeout", "10s"),
        ):
            row = await (await link.execute(f"SHOW {setting}".encode())).fetchone()
            assert row == (value,)


async def test_a_connection_that_does_nothing_in_a_transaction_is_ended(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_IN_TRANSACTION", 0.2)
    link = await connect(database, "frozen")
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):  # noqa: PT012
        async with link.transaction():
            await link.execute("SELECT 1")
            await anyio.sleep(0.5)
            await link.execute("SELECT 1")
    await link.close()


async def test_options_in_the_url_are_kept(database: str) -> None:
    async with await connect(f"{database}?options=-c%20work_mem%3D8MB", "one") as link:
        assert await (await link.execute("SHOW work_mem")).fetchone() == ("8MB",)
        assert await (await link.execute("SHOW statement_timeout")).fetchone() == ("10s",)


async def test_no_database_is_a_ledger_error_without_the_password() -> None:
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/nowhere") as caught:
        await connect("postgresql://u:secret@127.0.0.1:1/nowhere", "one")
    assert "secret" not in str(caught.value)
