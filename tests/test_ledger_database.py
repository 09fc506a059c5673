"""A ledger file as a database: old schemas are brought up to date, whole or not at all."""

from __future__ import annotations

import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kie_mj_async.errors import LedgerError, LedgerTooNew, TaskFailed
from kie_mj_async.jobs import State
from kie_mj_async.ledger import Cursor, SqliteLedger, database
from kie_mj_async.ledger.base import each_job
from kie_mj_async.requests import ChainStep
from kie_mj_async.rules import lifecycle

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
OLD_SCHEMAS = Path(__file__).parent / "data"
ROW = """
INSERT INTO job (key, run, request, state, task_id, price, credits, urgency) VALUES
  ('1-abc', 1, '{"type":"TextToImage","prompt":"a fox"}', 'running', 'task-1', 25, 25, 1e18),
  ('1-def', 1, '{"type":"TextToImage","prompt":"an owl"}', 'planned', NULL, 0, 0, 1e18);
INSERT INTO event (seq, at, event, state) VALUES (1, 1.0, 'accepted', 'running');
INSERT INTO meta VALUES ('host', 'https://api.example'), ('run', '1');
"""


def an_old_ledger(path: Path, schema: int = 1) -> Path:
    connection = sqlite3.connect(path)
    text = (OLD_SCHEMAS / f"ledger_schema_{schema}.sql").read_text(encoding="utf-8")
    connection.executescript(text + ROW)
    connection.execute("PRAGMA application_id = 0x4B4D4A31")
    connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()
    return path


def schema_of(path: Path) -> tuple[int, list[tuple[str, str]]]:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    connection.close()

    def plain(sql: str) -> str:
        lines = (line.split("--")[0] for line in sql.splitlines())
        # A column that was added stands behind a comma where a new table has a line of its own.
        return re.sub(r"\s*([(),])\s*", r"\1", " ".join(" ".join(lines).split()))

    return version, [(name, plain(sql)) for name, sql in rows]


@pytest.mark.parametrize("schema", [1, 3])
async def test_an_old_ledger_is_brought_up_to_date(tmp_path: Path, schema: int) -> None:
    """Opening an old schema for work migrates it, and every job and event is as it was."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3", schema)
    ledger = await SqliteLedger.open(path, "https://api.example")
    jobs = await ledger.scan(0, 10)
    assert [(job.key, job.state, job.task_id, job.credits) for job in jobs] == [
        ("1-abc", State.RUNNING, "task-1", 25),
        ("1-def", State.PLANNED, None, 0),
    ]
    assert [one.event for one in await ledger.history(jobs[0])] == ["accepted"]
    assert await ledger.readings(5) == []
    await ledger.note_balance(AT, 500)
    assert [one.balance for one in await ledger.readings(5)] == [500]
    await ledger.record(jobs[1], lifecycle.intent(AT, 25))
    await ledger.aclose()

    fresh = await SqliteLedger.open(tmp_path / "fresh.sqlite3", "https://api.example")
    await fresh.aclose()
    assert schema_of(path) == schema_of(tmp_path / "fresh.sqlite3")


async def test_what_runs_gets_its_urgency(tmp_path: Path) -> None:
    """Jobs of older schemas are paged by when their results are gone, like new ones."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE job SET created_at = ? WHERE key = '1-abc'", (AT.timestamp(),))
    connection.commit()
    connection.close()
    ledger = await SqliteLedger.open(path, "https://api.example")
    (job,) = await ledger.page(State.RUNNING, Cursor(), 9)
    assert await ledger.page(State.RUNNING, Cursor.behind(job), 9) == []
    assert await ledger.due(AT + timedelta(days=15)) == 1
    await ledger.aclose()


@pytest.mark.parametrize("schema", [1, 3])
async def test_looking_does_not_migrate(tmp_path: Path, schema: int) -> None:
    """Status and gallery read an old ledger as it is and leave its schema alone."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3", schema)
    before = schema_of(path)
    ledger = await SqliteLedger.read(path)
    assert (await ledger.counts()).total == 2
    assert await ledger.readings(5) == []
    jobs = [job async for job in each_job(ledger)]
    assert [job.prompt for job in jobs] == ["a fox", "an owl"]
    assert len(await ledger.history(jobs[0])) == 1
    assert await ledger.page(State.PLANNED, Cursor(), 9) == jobs[1:]
    assert await ledger.due(AT) == 0
    assert (await ledger.find("1-a"), await ledger.by_task("task-1")) == (jobs[:1], jobs[0])
    assert await ledger.host() == "https://api.example"
    assert await ledger.store() is None
    await ledger.aclose()
    assert schema_of(path) == before


async def test_chains_and_callbacks_on_a_ledger_that_was_migrated(tmp_path: Path) -> None:
    """Jobs of before there were chains can be followed by steps, and sent again with a token."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3", 3)
    ledger = await SqliteLedger.open(path, "https://api.example")
    assert not await ledger.has_chains()
    running, planned = await ledger.scan(0, 9)
    step = await ledger.add("step", ChainStep("upscale", running.key, 0))
    assert await ledger.children(running.key) == [step]
    token = "a" * 32
    await ledger.record(planned, lifecycle.intent(AT, 25, token))
    await ledger.note_hint(token, "t9")
    [attempt] = await ledger.open_hints()
    assert (attempt.key, attempt.number, attempt.hint) == (planned.key, 1, "t9")
    await ledger.record(running, lifecycle.failed(TaskFailed("nsfw")))
    await ledger.aclose()


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that breaks in the middle is rolled back, and the file opens again later."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3")
    before = schema_of(path)
    text = database._text
    broken = text("migrate_1_to_2.sql") + "; INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(database, "_text", lambda _name: broken)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3"):
        await SqliteLedger.open(path, "https://api.example")
    assert schema_of(path) == before
    monkeypatch.setattr(database, "_text", text)
    ledger = await SqliteLedger.open(path, "https://api.example")
    assert (await ledger.counts()).total == 2
    await ledger.aclose()


def test_there_is_a_step_from_every_schema() -> None:
    """Every schema before this one has a file that leads to the next."""
    for step in range(1, database.SCHEMA):
        assert database._text(f"migrate_{step}_to_{step + 1}.sql")


async def test_a_newer_ledger_is_left_alone(tmp_path: Path) -> None:
    """What a newer version wrote is refused and not touched."""
    path = an_old_ledger(tmp_path / "ledger.sqlite3")
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {database.SCHEMA + 1}")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(LedgerTooNew, match="upgrade"):
        await SqliteLedger.open(path, "https://api.example")
    assert path.read_bytes() == content
