"""The ledger's file: who may open it, what is refused, and what is on disk when."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from support import until

from kie_mj_async.errors import KieError, LedgerBusy, LedgerError, LedgerTooNew, WrongHost
from kie_mj_async.jobs import SavedFile, State
from kie_mj_async.ledger import Cursor, SqliteLedger
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
HOST = "https://api.example"
AT = datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC)
FOX, OWL = TextToImage("a fox"), TextToImage("an owl")
TO_RUNNING = (lifecycle.intent(AT, 25), lifecycle.accepted("abc", AT))
FILE = SavedFile(
    0, "fox_0.png", "https://cdn.example/0.png", "ab" * 32, 9, "image/png", 8, None, saved_at=AT
)
HOLD = """
import asyncio, sys
from pathlib import Path
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.requests import TextToImage
async def main():
    ledger = await SqliteLedger.open(Path(sys.argv[1]), "https://api.example")
    await ledger.add("from-the-other", TextToImage("a fox"))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch" / ".kie-mj" / "ledger.sqlite3"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[SqliteLedger]:
    made = await SqliteLedger.open(path, HOST)
    yield made
    await made.aclose()


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on the ledger."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def sql(path: Path, *statements: str) -> list[object]:
    """Run statements on a file that nobody has open; the first value of each answer."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        rows = [db.execute(one).fetchone() for one in statements]
    finally:
        db.close()
    return [row[0] if row else None for row in rows]


def statements_of(ledger: SqliteLedger) -> list[str]:
    """A list that fills with the statements that the ledger runs."""
    seen: list[str] = []
    ledger._connection.set_trace_callback(seen.append)
    return seen


async def stage(ledger: SqliteLedger, *requests: TextToImage) -> tuple[int, list[State]]:
    async with ledger.staging() as staging:
        return staging.run, [job.state for job in await staging.add(requests)]


async def made(path: Path, *requests: TextToImage) -> None:
    ledger = await SqliteLedger.open(path, HOST)
    await stage(ledger, *requests)
    await ledger.aclose()


async def refused(path: Path, kind: type[KieError] = LedgerError) -> KieError:
    """Both ways to open the file are refused with this error, which names the path."""
    with pytest.raises(kind) as read:
        await SqliteLedger.read(path)
    with pytest.raises(kind) as caught:
        await SqliteLedger.open(path, HOST)
    for error in (read.value, caught.value):
        assert str(path) in str(error)
        assert getattr(error, "path", None) == str(path)
    return caught.value


# --- What is on disk ------------------------------------------------------------------------------


async def test_a_reopened_ledger_is_equal(path: Path) -> None:
    """Every fact of every job, its run and its history are there after reopening."""
    ledger = await SqliteLedger.open(path, HOST)
    await stage(ledger, FOX, OWL)
    fox, owl = await ledger.scan(0, 2)
    success = lifecycle.succeeded((FILE.url,), created_at=AT, completed_at=AT, expires_at=AT)
    for move in (*TO_RUNNING, success, lifecycle.file_saved(FILE)):
        fox = await ledger.record(fox, move)
    await ledger.record(owl, lifecycle.intent(AT, 25))
    jobs, counts, past = await ledger.scan(0, 9), await ledger.counts(), await ledger.history(fox)
    await ledger.aclose()
    again = await SqliteLedger.open(path, HOST)
    assert await again.scan(0, 9) == jobs
    assert await again.counts() == counts
    assert await again.history(fox) == past
    assert await again.page(State.SUBMITTING, Cursor(), 9, 1) == jobs[1:]
    assert (await stage(again))[0] == 2
    assert await again.host() == HOST
    await again.aclose()


async def test_what_is_answered_is_durable(ledger: SqliteLedger) -> None:
    """The file is in WAL mode with synchronous FULL: an answered move survives a power cut."""
    db = ledger._connection
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2


async def test_an_answer_comes_after_the_commit(ledger: SqliteLedger, path: Path) -> None:
    """When record() returns, another connection reads the move."""
    job = await ledger.add("k", FOX)
    for move in TO_RUNNING:
        job = await ledger.record(job, move)
        assert sql(path, "SELECT state FROM job")[0] == job.state


async def test_many_moves_share_a_commit(ledger: SqliteLedger) -> None:
    """A hundred moves at once take a few commits; one after another each takes its own."""
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(100)]
    seen = statements_of(ledger)
    await asyncio.gather(*(ledger.record(job, lifecycle.intent(AT, 25)) for job in jobs))
    assert seen.count("COMMIT") <= 4
    assert sum(one.startswith("UPDATE job") for one in seen) == 100
    seen.clear()
    for job in jobs[:5]:
        await ledger.record(job, lifecycle.accepted("abc", AT))
    assert seen.count("COMMIT") == 5


async def test_a_page_needs_no_sorting(ledger: SqliteLedger) -> None:
    """Pages and lookups go by an index: their cost does not grow with the list (law 6)."""
    from kie_mj_async.ledger.sql import SQL

    values = {"state": "planned", "urgency": 0, "seq": 0, "run": None, "limit": 9}
    values |= {"key": "k", "task_id": "abc"}
    for name in ("page", "planned", "scan", "job_by_key", "job_by_task", "events_of"):
        plan = ledger._connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values).fetchall()
        text = " ".join(row["detail"] for row in plan)
        assert "SEARCH" in text
        assert "TEMP B-TREE" not in text
        assert "SCAN" not in text


async def test_closing_finishes_what_is_queued(path: Path) -> None:
    """aclose() waits for moves that were asked for, and a second one does no harm."""
    ledger = await SqliteLedger.open(path, HOST)
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(20)]
    tasks = [asyncio.create_task(ledger.record(job, lifecycle.intent(AT, 25))) for job in jobs]
    await asyncio.sleep(0)
    await ledger.aclose()
    await ledger.aclose()
    assert all(job.state is State.SUBMITTING for job in await asyncio.gather(*tasks))
    assert sql(path, "SELECT count(*) FROM job WHERE state = 'submitting'") == [20]


async def test_a_closed_ledger_says_so(path: Path) -> None:
    """Using a closed ledger is a LedgerError, not sqlite3's own."""
    ledger = await SqliteLedger.open(path, HOST)
    await ledger.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await ledger.add("k", FOX)
    with pytest.raises(LedgerError, match="closed"):
        await stage(ledger, FOX)


async def test_a_closed_ledger_keeps_no_thread(path: Path) -> None:
    """A client may open many in its life."""
    before = threading.active_count()
    for _ in range(5):
        ledger = await SqliteLedger.open(path, HOST)
        await ledger.add("k", FOX)
        await ledger.aclose()
    await until(lambda: threading.active_count() <= before + 1)  # one of anyio's opens files


@pytest.mark.parametrize("native", [True, False])
async def test_closing_outlasts_a_cancellation(path: Path, native: bool) -> None:
    """Whoever is cancelled while he closes leaves no lock behind, and what was queued is kept."""
    ledger = await SqliteLedger.open(path, HOST)
    job = await ledger.add("k", FOX)
    gate = Gate(ledger, "COMMIT")
    move = asyncio.create_task(ledger.record(job, lifecycle.intent(AT, 25)))
    await asyncio.to_thread(gate.reached.wait, 10)
    scope = anyio.CancelScope()

    async def close() -> None:
        with scope:
            await ledger.aclose()

    closing = asyncio.create_task(close())
    await asyncio.sleep(0)
    (closing.cancel if native else scope.cancel)()
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.opened.set()
    await asyncio.wait([closing, move])
    assert move.result().state is State.SUBMITTING
    again = await SqliteLedger.open(path, HOST)
    assert (await again.counts())[State.SUBMITTING] == 1
    await again.aclose()


async def test_a_full_disk_changes_nothing(ledger: SqliteLedger, path: Path) -> None:
    """When the disk is full, all that wait are told, nothing is written, and later it goes on."""
    db = ledger._connection
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(50)]
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    long = lifecycle.lost(KieError("x" * 2000))
    moves = [ledger.record(job, lifecycle.intent(AT, 25)) for job in jobs]
    moves += [ledger.record(job, long) for job in jobs]
    results = await asyncio.gather(*moves, return_exceptions=True)
    for one in results:
        assert isinstance(one, LedgerError)
        assert "free some disk space and resume" in str(one)
        assert str(path) in str(one)
    with pytest.raises(LedgerError, match="disk space"):
        await stage(ledger, *[TextToImage("x" * 1000 + str(n)) for n in range(99)])
    db.execute("PRAGMA max_page_count = 1000000")
    assert (await ledger.counts()).by_state == {State.PLANNED: 50}
    assert (await ledger.record(jobs[0], lifecycle.intent(AT, 25))).attempts == 1
    assert (await stage(ledger, FOX))[0] == 1


# --- Cancelling -----------------------------------------------------------------------------------


class Gate:
    """Stops the ledger's thread at a statement, until it is opened."""

    def __init__(self, ledger: SqliteLedger, statement: str) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self._statement = statement
        ledger._connection.set_trace_callback(self._trace)

    def _trace(self, statement: str) -> None:
        if statement.startswith(self._statement) and not self.reached.is_set():
            self.reached.set()
            self.opened.wait(10)


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "INSERT INTO job", "COMMIT"])
@pytest.mark.parametrize("native", [True, False])
async def test_a_list_cancelled_at_any_statement(
    ledger: SqliteLedger, statement: str, native: bool
) -> None:
    """Cancelling while the thread is at work: the list is there whole or not, and others go on."""
    other = await ledger.add("other", OWL)
    gate = Gate(ledger, statement)
    scope = anyio.CancelScope()

    async def take_in() -> None:
        with scope:
            await stage(ledger, *[TextToImage(f"fox {n}") for n in range(20)])

    task = asyncio.create_task(take_in())
    await asyncio.to_thread(gate.reached.wait, 10)
    move = asyncio.create_task(ledger.record(other, lifecycle.intent(AT, 25)))
    await asyncio.sleep(0)
    if native:
        task.cancel()
    else:
        scope.cancel()
    await asyncio.sleep(0.02)  # the cancellation has arrived, whatever it does
    gate.opened.set()
    await asyncio.wait([task])
    assert (await move).state is State.SUBMITTING
    there = len(await ledger.page(State.PLANNED, Cursor(), 100))
    assert there in ((20,) if statement == "COMMIT" else (0, 20))
    assert (await stage(ledger, FOX))[0] == (2 if there else 1)


@pytest.mark.parametrize("native", [True, False])
async def test_a_cancelled_move_stands_once_it_is_begun(ledger: SqliteLedger, native: bool) -> None:
    """A caller that stops waiting does not undo its move, and those in the same commit get theirs."""
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(3)]
    gate = Gate(ledger, "UPDATE job")
    scope = anyio.CancelScope()

    async def move() -> None:
        with scope:
            await ledger.record(jobs[0], lifecycle.intent(AT, 25))

    first = asyncio.create_task(move())
    rest = [asyncio.create_task(ledger.record(job, lifecycle.intent(AT, 25))) for job in jobs[1:]]
    await asyncio.to_thread(gate.reached.wait, 10)
    if native:
        first.cancel()
    else:
        scope.cancel()
    await asyncio.wait([first], timeout=0.02)
    gate.opened.set()
    assert [job.state for job in await asyncio.gather(*rest)] == [State.SUBMITTING] * 2
    assert (await ledger.counts()).by_state == {State.SUBMITTING: 3}


# --- Who may open it ------------------------------------------------------------------------------


async def test_a_second_opener_is_refused(ledger: SqliteLedger, path: Path) -> None:
    """Within a process too, only one works on a ledger."""
    with pytest.raises(LedgerBusy, match=f"process {os.getpid()}") as caught:
        await SqliteLedger.open(path, HOST)
    assert (caught.value.pid, caught.value.path) == (os.getpid(), str(path))
    assert (await ledger.add("k", FOX)).seq == 1


async def test_another_process_is_refused(holder: subprocess.Popen[str], path: Path) -> None:
    """A ledger that another process works on is refused with that process's id."""
    with pytest.raises(LedgerBusy) as caught:
        await SqliteLedger.open(path, HOST)
    assert caught.value.pid == holder.pid


async def test_a_killed_process_blocks_nobody(holder: subprocess.Popen[str], path: Path) -> None:
    """After SIGKILL the ledger opens at once, with all that was answered."""
    holder.kill()
    holder.wait()
    ledger = await SqliteLedger.open(path, HOST)
    assert [job.key for job in await ledger.scan(0, 9)] == ["from-the-other"]
    await ledger.aclose()


async def test_reading_beside_another_process(holder: subprocess.Popen[str], path: Path) -> None:
    """Looking works while another process works on it, and again once it is gone."""
    reader = await SqliteLedger.read(path)
    assert [job.key for job in await reader.scan(0, 9)] == ["from-the-other"]
    assert await reader.host() == HOST
    await reader.aclose()
    holder.kill()
    holder.wait()
    reader = await SqliteLedger.read(path)
    assert (await reader.counts()).total == 1
    await reader.aclose()


async def test_a_reader_sees_the_present(ledger: SqliteLedger, path: Path) -> None:
    """A reader sees each committed move, and holds up neither the writer nor another reader."""
    reader, other = await SqliteLedger.read(path), await SqliteLedger.read(path)
    await ledger.add("k", FOX)
    for one in (reader, other):
        assert (await one.counts()).total == 1
    await ledger.add("k2", FOX)
    assert (await reader.counts()).total == 2
    await reader.aclose()
    await other.aclose()


async def test_a_reader_changes_nothing(ledger: SqliteLedger, path: Path) -> None:
    """A ledger that was opened to look at refuses to be written."""
    await ledger.add("k", FOX)
    reader = await SqliteLedger.read(path)
    with pytest.raises(LedgerError, match="readonly"):
        await reader.add("k2", FOX)
    assert (await reader.counts()).total == 1
    await reader.aclose()


async def test_another_host_is_refused(path: Path) -> None:
    """A ledger knows its host: another one is refused, naming both, and nothing changes."""
    await made(path, FOX)
    with pytest.raises(WrongHost) as caught:
        await SqliteLedger.open(path, "https://other.example")
    for words in (str(path), HOST, "https://other.example"):
        assert words in str(caught.value)
    ledger = await SqliteLedger.open(path, HOST)
    assert len(await ledger.scan(0, 9)) == 1
    await ledger.aclose()


# --- What is refused ------------------------------------------------------------------------------


async def test_a_newer_ledger_is_refused_untouched(path: Path) -> None:
    """A ledger of a newer version is refused, saying to upgrade, and not a byte of it changes."""
    await made(path, FOX)
    sql(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    error = await refused(path, LedgerTooNew)
    assert "upgrade the package" in str(error)
    assert path.read_bytes() == before


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database. " * 500)


def another_database(path: Path) -> None:
    sql(path, "CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('dear diary')")


def another_database_with_versions(path: Path) -> None:
    another_database(path)
    sql(path, "PRAGMA user_version = 1")


def another_database_with_a_high_version(path: Path) -> None:
    another_database(path)
    sql(path, "PRAGMA user_version = 77")


def an_empty_database_with_a_version(path: Path) -> None:
    sql(path, "PRAGMA user_version = 77")


@pytest.mark.parametrize(
    "spoil",
    [
        garbage,
        an_empty_database_with_a_version,
        another_database,
        another_database_with_versions,
        another_database_with_a_high_version,
    ],
)
async def test_another_file_is_refused_untouched(path: Path, spoil: Callable[[Path], None]) -> None:
    """A file that is no ledger is refused as such, and not a byte of it changes."""
    path.parent.mkdir(parents=True)
    spoil(path)
    before = path.read_bytes()
    error = await refused(path)
    assert type(error) is LedgerError
    assert "ledger" in str(error)
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
async def test_a_cut_off_ledger_is_a_ledger_error(path: Path, share: float) -> None:
    """A ledger whose end is missing gives LedgerError with its path, now or when it is read."""
    await made(path, *[TextToImage(f"a long enough prompt about fox {n}" * 20) for n in range(200)])
    whole = path.read_bytes()
    assert len(whole) > 100_000
    path.write_bytes(whole[: int(len(whole) * share)])
    for work in (False, True):
        with pytest.raises(LedgerError) as caught:
            await _read_all(path, work)
        assert str(path) in str(caught.value)
        assert "restore it from a backup" in str(caught.value)


async def _read_all(path: Path, work: bool) -> None:
    ledger = await (SqliteLedger.open(path, HOST) if work else SqliteLedger.read(path))
    try:
        await ledger.counts()
        await ledger.scan(0, 1000)
    finally:
        await ledger.aclose()


async def test_a_directory_in_its_place(path: Path) -> None:
    """A directory where the file should be is a LedgerError with its path."""
    path.mkdir(parents=True)
    await refused(path)


async def test_a_file_in_the_way(path: Path, tmp_path: Path) -> None:
    """A file where a directory should be is a LedgerError with the path."""
    (tmp_path / "batch").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be made") as caught:
        await SqliteLedger.open(path, HOST)
    assert str(path.parent) in str(caught.value)


async def test_two_requests_of_one_key_are_not_mixed_up(path: Path) -> None:
    """A key whose stored request is another one stops the list before anything is spent."""
    await made(path, FOX)
    sql(path, "UPDATE job SET request = replace(request, 'fox', 'cat')")
    ledger = await SqliteLedger.open(path, HOST)
    with pytest.raises(LedgerError, match="two requests have the key 1-"):
        await stage(ledger, OWL, FOX)
    assert len(await ledger.scan(0, 9)) == 1
    await ledger.aclose()


class HasNoPlaceInTheHistory:
    """The job's row can keep it; the line in its history cannot."""

    def to_dict(self) -> dict[str, str]:
        return FOX.to_dict()


async def test_a_move_that_fails_midway_changes_nothing(ledger: SqliteLedger) -> None:
    """A move that cannot be written whole is not written at all; others of its commit are."""
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(3)]
    odd = lifecycle.Move(lifecycle.Event.INTENT, {"request": {"no": "request"}, "urls": {1, 2}})
    odd_midway = lifecycle.Move(lifecycle.Event.INTENT, {"request": HasNoPlaceInTheHistory()})
    moves = [odd, lifecycle.intent(AT, 25), odd_midway]
    work = (ledger.record(job, move) for job, move in zip(jobs, moves, strict=True))
    results = await asyncio.gather(*work, return_exceptions=True)
    assert [type(one).__name__ for one in results] == ["AttributeError", "Job", "TypeError"]
    stored = await ledger.scan(0, 9)
    assert [job.attempts for job in stored] == [0, 1, 0]
    assert [len(await ledger.history(job)) for job in stored] == [0, 1, 0]


async def test_who_works_on_it(path: Path) -> None:
    """A reader can tell which process works on the ledger, and that none does."""
    ledger = await SqliteLedger.open(path, HOST)
    reader = await SqliteLedger.read(path)
    assert await reader.worker() == os.getpid()
    await ledger.aclose()
    assert await reader.worker() is None
    await reader.aclose()


async def test_no_ledger_to_read(path: Path) -> None:
    """Looking at a ledger that is not there is an error, and makes none."""
    with pytest.raises(LedgerError, match="there is no such ledger"):
        await SqliteLedger.read(path)
    assert not path.parent.exists()


async def test_an_empty_file_is_refused_untouched(path: Path) -> None:
    """A file of no bytes has lost its jobs: it is refused, and the journal beside it is kept."""
    path.parent.mkdir(parents=True)
    path.touch()
    journal = path.with_name(path.name + "-wal")
    journal.write_bytes(b"the last jobs")
    assert "is empty" in str(await refused(path))
    assert (path.read_bytes(), journal.read_bytes()) == (b"", b"the last jobs")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
async def test_a_read_only_ledger(path: Path) -> None:
    """A ledger that may not be written is a LedgerError with its path when opened for work."""
    await made(path, FOX)
    for one in path.parent.iterdir():
        one.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(LedgerError) as caught:
            await SqliteLedger.open(path, HOST)
        assert str(path.parent) in str(caught.value)
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize("name", ["a b.sqlite3", "ü?x=1#y%20.sqlite3", ":memory:"])
async def test_any_file_name(tmp_path: Path, name: str) -> None:
    """The path is a path, not a URI: every name is the file's own."""
    await made(tmp_path / name, FOX)
    assert (tmp_path / name).is_file()
    assert sql(tmp_path / name, "SELECT count(*) FROM job") == [1]
