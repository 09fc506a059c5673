"""What a fleet's ledger does besides its contract: leases, receipts, the queue, lists at once."""

from __future__ import annotations

import asyncio
import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import attrs
import psycopg
import pytest
from cluster_support import ask
from ledger_support import HOST

from kie_mj_async.cluster import database as connections
from kie_mj_async.cluster.books import Books, LeaseLost
from kie_mj_async.cluster.enqueuing import enqueue
from kie_mj_async.cluster.ledger import (
    Enqueue,
    PostgresLedger,
    Receipt,
    batches_to_queue,
    creates_of_the_dead,
    name_of,
    parts_of,
)
from kie_mj_async.cluster.schema import migrate
from kie_mj_async.cluster.statements import SQL
from kie_mj_async.errors import ConfigError, InvalidRequest, LedgerError, TaskFailed, WrongHost
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import Cursor
from kie_mj_async.requests import ExistingTask, Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import IllegalMove, Move

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
FOX = TextToImage("a fox")
INTENT = lifecycle.intent(AT, 25)
DRIVER = Path(__file__).with_name("ledger_driver.py")


@asynccontextmanager
async def opened(
    url: str, batch: str = "b", worker: str | None = None, enqueue: Enqueue | None = None
) -> AsyncIterator[PostgresLedger]:
    """A batch; of a worker, with a lease."""
    if worker is not None:
        join = (
            "INSERT INTO kie_mj.worker (name, host, pid) VALUES (%s, '', 1) ON CONFLICT DO NOTHING"
        )
        ask(url, join, worker)
    books = Books(url, f"{batch} {worker}", worker=worker, patience=10)
    try:
        yield await PostgresLedger.open(books, batch, enqueue=enqueue)
    finally:
        await books.aclose()


def fence(url: str, worker: str) -> None:
    ask(url, "UPDATE kie_mj.worker SET ended_at = now(), ended_by = 'x' WHERE name = %s", worker)


async def play(ledger: PostgresLedger, job: Job, *moves: Move) -> Job:
    for move in moves:
        job = await ledger.record(job, move)
    return job


async def take_in(ledger: PostgresLedger, *requests: Request) -> int:
    async with ledger.staging() as staging:
        await staging.add(requests)
    return staging.run


def queued(url: str) -> list[str]:
    rows = ask(url, "SELECT workflow_uuid FROM kie_mj_dbos.workflow_status ORDER BY priority, 1")
    return [row[0] for row in rows]


# --- Batches --------------------------------------------------------------------------------------


async def test_batches_do_not_see_each_other(books_url: str) -> None:
    async with opened(books_url, "one") as one, opened(books_url, "two") as two:
        for ledger in (one, two):
            await take_in(ledger, FOX, attrs.evolve(FOX, then=["upscale:0"]))
        job = await play(one, (await one.scan(0, 1))[0], lifecycle.intent(AT, 25, "1" * 32))
        assert (await two.scan(0, 1))[0].state is State.PLANNED
        assert len(await two.scan(0, 9)) == 3
        assert await two.by_token("1" * 32) is await two.last_attempt(job.key) is None
        assert (await two.counts()).by_state == {State.PLANNED: 3}
        assert len(await two.history(job)) == 0


async def test_a_batch_knows_its_host_and_where_its_results_go(books_url: str) -> None:
    async with opened(books_url) as ledger:
        books = ledger._books
        assert (ledger.host, ledger.out) == (None, None)
        await ledger.bind(HOST, "s3://one")
        again = await PostgresLedger.open(books, "b")
        assert (again.host, again.out) == (HOST, "s3://one")
        await again.bind(HOST, "s3://two")
        assert again.out == "s3://one"
        with pytest.raises(WrongHost, match=f"batch b: its tasks live at {HOST}, and this worker"):
            await again.bind("https://other.example", "s3://one")
        assert await PostgresLedger.known(books, "nobody") is None
        with pytest.raises(ConfigError, match="letters, digits"):
            await PostgresLedger.open(books, "a:b")


async def test_who_binds_a_batch_first_settles_where_it_is(books_url: str) -> None:
    async with opened(books_url) as ledger:
        late = await PostgresLedger.open(ledger._books, "b")
        await ledger.bind(HOST, "s3://one")
        await late.bind(HOST, "s3://two")
        assert late.out == "s3://one"


def test_a_jobs_name_in_the_queue_tells_its_batch_and_key() -> None:
    for key in ("1-abc", "named-a:b~c"):
        for turn in (1, 2, 30):
            assert parts_of(name_of("my.batch-1", key, turn)) == ("my.batch-1", key, turn)
    assert name_of("b", "k") == "b:k"


@pytest.mark.parametrize(
    "name",
    [
        *("page", "planned", "scan", "job_by_key", "job_by_task", "events_of", "children", "due"),
        *("job_to_move", "to_queue", "receipts", "count_digests", "jobs_known", "last_attempt"),
        *("creates_of_the_dead", "to_queue_behind"),
    ],
)
def test_no_statement_reads_a_whole_table(books_url: str, name: str) -> None:
    """Pages and lookups go by an index: their cost does not grow with the list, or its neighbours."""
    values = {"batch": 1, "state": "planned", "urgency": 0.0, "seq": 0, "run": None, "limit": 9}
    values |= {"key": "k", "task_id": "abc", "before": 0.0, "staging": 1}
    values |= {"digests": ["a"], "keys": ["a"], "parent": "k", "seconds": 0.0}
    with psycopg.connect(books_url) as link:
        link.execute("SET enable_seqscan = off")
        link.execute("SET enable_bitmapscan = off")
        plan = link.execute(b"EXPLAIN " + SQL[name], values).fetchall()
    text = "\n".join(row[0] for row in plan)
    assert "Index" in text
    assert not re.search("Seq Scan on (job|event|attempt|receipt|staged)", text), text
    if name == "creates_of_the_dead":
        assert "job_by_owner" in text, text
    if name in ("page", "planned", "scan", "events_of", "children"):
        assert "Sort" not in text, text


# --- Under a lease --------------------------------------------------------------------------------


async def test_a_worker_without_its_lease_moves_nothing(books_url: str) -> None:
    async with opened(books_url, worker="w1") as ledger:
        job = await ledger.add("k", FOX)
        fence(books_url, "w1")
        with pytest.raises(LeaseLost, match="worker w1 was taken for dead"):
            await ledger.record(job, INTENT)
        with pytest.raises(LeaseLost):
            await ledger.add("other", FOX)
        assert await ledger.scan(0, 9) == [job]
        assert await ledger.history(job) == []


async def test_who_holds_a_create_is_kept_as_long_as_it_is_under_way(books_url: str) -> None:
    async with opened(books_url, worker="w1") as ledger:

        def owner() -> object:
            return ask(books_url, "SELECT owner FROM kie_mj.job")[0][0]

        job = await ledger.add("k", FOX)
        assert owner() is None
        job = await ledger.record(job, INTENT)
        assert owner() == "w1"
        job = await ledger.record(job, lifecycle.accepted("t1", AT))
        assert owner() is None
        assert await ledger.receipts("k") == [Receipt("k", 1, "t1", "w1")]


async def test_a_fenced_workers_receipt_is_kept(books_url: str) -> None:
    async with opened(books_url, worker="w1") as thawed, opened(books_url, worker="w2") as other:
        job = await play(thawed, await thawed.add("k", FOX), INTENT)
        fence(books_url, "w1")
        with pytest.raises(LeaseLost):
            await thawed.record(job, lifecycle.accepted("t1", AT))
        stored = await other.get("k")
        assert stored is not None
        assert stored.state is State.SUBMITTING
        assert await creates_of_the_dead(other._books) == [("b", "k")]
        settled = await other.settle("k")
        assert (settled.state, settled.task_id, settled.credits) == (State.RUNNING, "t1", 25)
        # It goes on as it was: nothing new sets out.
        assert await other.of_turn("k", 1) is not None
        assert await creates_of_the_dead(other._books) == []


async def test_a_receipt_that_comes_late_settles_what_was_unresolved(books_url: str) -> None:
    async with opened(books_url, worker="w1") as thawed, opened(books_url, worker="w2") as other:
        job = await play(thawed, await thawed.add("k", FOX), INTENT)
        fence(books_url, "w1")
        assert (await other.settle("k")).state is State.UNRESOLVED
        with pytest.raises(LeaseLost):
            await thawed.record(job, lifecycle.accepted("t1", AT))
        settled = await other.get("k")
        assert settled is not None
        assert (settled.state, settled.task_id, settled.credits) == (State.RUNNING, "t1", 25)
        events = [one.event for one in await other.history(job)]
        assert events == ["intent", "lost", "adopted"]
        assert await other.of_turn("k", 2) is not None
        assert await other.of_turn("k", 1) is None


async def test_a_receipt_of_an_earlier_create_is_a_job_of_its_own(books_url: str) -> None:
    async with opened(books_url, worker="w1") as thawed, opened(books_url, worker="w2") as other:
        job = await play(thawed, await thawed.add("k", FOX), INTENT)
        fence(books_url, "w1")
        again = await play(other, await other.settle("k"), lifecycle.retried(), INTENT)
        with pytest.raises(LeaseLost):
            await thawed.record(job, lifecycle.accepted("t1", AT))
        fence(books_url, "w2")
        async with opened(books_url, worker="w3") as third:
            settled = await third.settle("k")
            assert (settled.state, settled.attempts) == (State.UNRESOLVED, again.attempts)
            assert [one.task_id for one in await third.receipts("k")] == ["t1"]
            extra = await third.by_task("t1")
            assert extra is not None
            assert (extra.key, extra.state, extra.credits) == ("k+1", State.RUNNING, 25)
            assert extra.request == ExistingTask("t1")
            assert await batches_to_queue(third._books, steps=False) == ["b"]


async def test_a_receipt_never_changes(books_url: str) -> None:
    async with opened(books_url, worker="w1") as ledger:
        job = await play(ledger, await ledger.add("k", FOX), INTENT)
        await ledger.record(job, lifecycle.accepted("t1", AT))
        with pytest.raises(IllegalMove):
            await ledger.record(job, lifecycle.accepted("t2", AT))
        assert [one.task_id for one in await ledger.receipts("k")] == ["t1"]


async def test_a_receipt_outlives_a_move_that_cannot_be(books_url: str) -> None:
    """The answer of a create that nobody waits for any more is kept, and other moves go on."""
    async with opened(books_url, worker="w1") as ledger:
        job = await play(ledger, await ledger.add("k", FOX), INTENT)
        other = await ledger.add("other", FOX)
        await ledger.settle("k", mine=True)
        await ledger.record(job, lifecycle.abandoned(AT))
        told = await asyncio.gather(
            ledger.record(other, INTENT),
            ledger.record(job, lifecycle.accepted("t1", AT)),
            return_exceptions=True,
        )
        assert isinstance(told[0], Job)
        assert isinstance(told[1], IllegalMove)
        assert [one.task_id for one in await ledger.receipts("k")] == ["t1"]


async def test_the_creates_of_the_living_are_left_alone(books_url: str) -> None:
    async with opened(books_url, worker="w1") as one, opened(books_url, worker="w2") as two:
        job = await play(one, await one.add("k", FOX), INTENT)
        assert await two.settle("k") == await two.settle("k", mine=True) == job
        assert await one.settle("k") == job
        assert await creates_of_the_dead(two._books) == []
        assert (await one.settle("k", mine=True)).state is State.UNRESOLVED
        planned = await one.add("other", FOX)
        assert await two.settle("other") == planned


async def test_a_web_replica_needs_no_lease(books_url: str) -> None:
    async with opened(books_url, worker="w1") as worker, opened(books_url) as web:
        job = await play(worker, await worker.add("k", FOX), INTENT, lifecycle.accepted("t", AT))
        fence(books_url, "w1")
        job = await web.record(job, lifecycle.failed(TaskFailed("nsfw")))
        assert (await web.record(job, lifecycle.retried())).state is State.PLANNED


async def test_two_that_move_one_job_are_one_after_the_other(books_url: str) -> None:
    async with opened(books_url, worker="w1") as one, opened(books_url, worker="w2") as two:
        jobs = [await one.add(f"k{n}", FOX) for n in range(30)]
        told = await asyncio.gather(
            *(ledger.record(job, INTENT) for ledger in (one, two) for job in jobs),
            *(one.add(f"new{n}", FOX) for n in range(9)),
            *(two.add(f"new{n}", FOX) for n in range(9)),
            return_exceptions=True,
        )
        kinds = Counter(type(it) for it in told)
        assert kinds == {Job: 30 + 18, IllegalMove: 30}
        assert len(await one.scan(0, 99)) == 39
        assert all([len(await one.history(job)) == 1 for job in jobs])


@pytest.mark.slow
async def test_moves_outlast_a_crash_of_the_database(books_url: str, postgres: Any) -> None:
    async with opened(books_url, worker="w1") as one, opened(books_url, worker="w2") as two:
        jobs = [await one.add(f"k{n}", FOX) for n in range(40)]
        moves = [INTENT, lifecycle.accepted("t", AT)]
        moves += [lifecycle.held_up(TaskFailed(str(n))) for n in range(30)]

        async def go(number: int, job: Job) -> None:
            for move in moves:
                job = await (one, two)[number % 2].record(job, move)

        async with anyio.create_task_group() as tasks:
            for number, job in enumerate(jobs):
                tasks.start_soon(go, number, job)
            for _ in range(2):
                await anyio.sleep(0.2)
                await anyio.to_thread.run_sync(postgres.restart, "immediate", 0.2)
        for job in jobs:
            events = [past.event for past in await one.history(job)]
            assert events == ["intent", "accepted", *30 * ["held_up"]]
        assert (await one.counts()).credits == 40 * 25


@pytest.mark.slow
async def test_moves_outlast_connections_that_are_cut_at_any_moment(books_url: str) -> None:
    """Each is made once, whichever statement the cut comes in."""
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'b w_'"
    )
    done = anyio.Event()
    cuts = 0

    async def harass() -> None:
        nonlocal cuts
        while not done.is_set():
            began = anyio.current_time()
            cuts += len(await anyio.to_thread.run_sync(ask, books_url, cut))
            # On a busy machine the others are slower as well: they get their time between two cuts.
            slow = anyio.current_time() - began
            await anyio.sleep(0.01 + cuts % 7 / 100 + 3 * slow)

    async with opened(books_url, worker="w1") as one, opened(books_url, worker="w2") as two:
        jobs = [await one.add(f"k{n}", FOX) for n in range(20)]

        async def go(number: int, job: Job) -> None:
            ledger = (one, two)[number % 2]
            for move in (INTENT, lifecycle.accepted("t", AT)):
                job = await ledger.record(job, move)
            for n in range(40):
                job = await ledger.record(job, lifecycle.held_up(TaskFailed(str(n))))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harass)
            async with anyio.create_task_group() as movers:
                for number, job in enumerate(jobs):
                    movers.start_soon(go, number, job)
            done.set()
        for job in jobs:
            events = [past.event for past in await one.history(job)]
            assert events == ["intent", "accepted", *40 * ["held_up"]]
    assert cuts > 5


# --- Lists ----------------------------------------------------------------------------------------


async def test_a_lists_jobs_are_in_the_queue_when_it_is_there(queue_url: str) -> None:
    async with opened(queue_url, enqueue=enqueue) as ledger:
        await take_in(ledger, FOX, TextToImage("an owl", then=["upscale:0"]))
        jobs = await ledger.scan(0, 9)
        names = [name_of("b", job.key) for job in jobs]
        assert queued(queue_url) == names[:2]
        await take_in(ledger, FOX, TextToImage("an owl", then=["upscale:0"]))
        assert queued(queue_url) == names[:2]
        assert await ledger.scan(0, 9) == jobs
        assert await ledger.enqueue() == 0
        await play(
            ledger,
            jobs[1],
            INTENT,
            lifecycle.accepted("t", AT),
            lifecycle.succeeded(("u",), created_at=AT, completed_at=AT, expires_at=AT),
        )
        assert await batches_to_queue(ledger._books) == ["b"]
        assert await ledger.enqueue(behind=jobs[0].key) == 0
        assert await ledger.enqueue(behind=jobs[1].key) == 1
        assert sorted(queued(queue_url)) == sorted(names)
        assert await ledger.enqueue() == 0
        assert await batches_to_queue(ledger._books) == []


async def test_a_step_is_queued_when_what_is_before_it_has_ended(queue_url: str) -> None:
    async with opened(queue_url, enqueue=enqueue) as ledger:
        await take_in(ledger, TextToImage("an owl", then=["upscale:0", "video:0"]))
        first = (await ledger.scan(0, 1))[0]
        job = await play(ledger, first, INTENT, lifecycle.accepted("t", AT))
        assert await ledger.enqueue() == 0
        await ledger.record(job, lifecycle.failed(TaskFailed("nsfw")))
        assert await ledger.enqueue() == 1
        assert await ledger.enqueue() == 0


async def test_a_job_that_rests_is_queued_again_after_its_rest(queue_url: str) -> None:
    async with opened(queue_url, enqueue=enqueue) as ledger:
        await take_in(ledger, FOX)
        (job,) = await ledger.scan(0, 9)
        job = await play(ledger, job, INTENT, lifecycle.accepted("t", AT))
        assert await ledger.rest(job.key, 1, 60.0)
        assert await ledger.enqueue() == 0
        assert await batches_to_queue(ledger._books) == []
        assert not await ledger.rest(job.key, 1, 60.0), "its turn is over"
        assert await ledger.rest(job.key, 2, -1.0)
        assert await batches_to_queue(ledger._books, steps=False) == ["b"]
        assert await ledger.enqueue() == 1
        assert f"b~3:{job.key}" in queued(queue_url)
        await ledger.record(job, lifecycle.failed(TaskFailed("nsfw")))
        assert not await ledger.rest(job.key, 3, 60.0), "it has come to its end"


async def test_a_list_that_is_taken_in_again_wakes_its_jobs(queue_url: str) -> None:
    async with opened(queue_url, enqueue=enqueue) as ledger:
        await take_in(ledger, FOX)
        (job,) = await ledger.scan(0, 9)
        await play(ledger, job, INTENT, lifecycle.accepted("t", AT))
        assert await ledger.rest(job.key, 1, 3600.0)
        await take_in(ledger, FOX)
        assert await ledger.enqueue() == 1


async def test_a_job_that_sets_out_again_is_queued_under_another_name(queue_url: str) -> None:
    async with opened(queue_url, enqueue=enqueue) as ledger:
        await take_in(ledger, FOX)
        (job,) = await ledger.scan(0, 9)
        job = await play(ledger, job, INTENT, lifecycle.refused(TaskFailed("later")))
        assert await ledger.enqueue() == 0
        failed = lifecycle.failed(TaskFailed("nsfw"))
        job = await play(ledger, job, INTENT, lifecycle.accepted("t", AT), failed)
        await ledger.record(job, lifecycle.retried())
        assert await ledger.enqueue() == 1
        assert sorted(queued(queue_url)) == [f"b:{job.key}", f"b~2:{job.key}"]
        assert await ledger.of_turn(job.key, 2) is not None
        assert await ledger.of_turn("nobody", 1) is None


async def test_a_list_that_cannot_be_queued_is_not_there(books_url: str) -> None:
    def refuse(link: connections.Link, names: Any, first: int) -> None:
        link.execute(b"SELECT no_such_function()")

    async with opened(books_url, enqueue=refuse) as ledger:
        with pytest.raises(LedgerError, match="no_such_function"):
            await take_in(ledger, FOX)
        assert await ledger.scan(0, 9) == []
        assert ask(books_url, "SELECT run, jobs FROM kie_mj.batch") == [(0, 0)]


async def test_a_list_may_come_slowly(books_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no transaction open, and nobody waits for it."""
    monkeypatch.setattr(connections, "IDLE_IN_TRANSACTION", 0.2)
    async with opened(books_url) as ledger, opened(books_url, worker="w1") as worker:
        await take_in(ledger, FOX)
        (job,) = await worker.scan(0, 9)
        async with ledger.staging() as staging:
            await staging.add([FOX])
            await anyio.sleep(0.4)
            await worker.record(job, INTENT)
            await staging.add([TextToImage("an owl")])
        assert [one.state for one in await ledger.scan(0, 9)] == [State.SUBMITTING, State.PLANNED]


async def test_what_a_list_put_aside_is_gone_afterwards(books_url: str) -> None:
    async with opened(books_url) as ledger:
        await take_in(ledger, FOX)
        with pytest.raises(InvalidRequest):
            await take_in(ledger, TextToImage("an owl"), attrs.evolve(FOX, then=["upscale:9"]))
        for table in ("staging", "staged"):
            assert ask(books_url, f"SELECT count(*) FROM kie_mj.{table}") == [(0,)]


async def test_a_list_is_not_there_after_a_crash_of_the_database_in_its_middle(
    database: str, postgres: Any
) -> None:
    migrate(database)
    async with opened(database) as ledger:

        async def take_in_with_a_crash() -> None:
            async with ledger.staging() as staging:
                await staging.add([FOX])
                await anyio.to_thread.run_sync(postgres.restart)
                await staging.add([TextToImage("an owl")])

        with pytest.raises(LedgerError, match="take it in again"):
            await take_in_with_a_crash()
        assert await ledger.scan(0, 9) == []
        assert await take_in(ledger, FOX) == 1


def _drive(url: str, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(DRIVER), url, "b", str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
async def test_two_processes_take_in_the_same_list_at_once(queue_url: str) -> None:
    """Each job is there once, in the queue once, and neither waits for the other's end."""
    drivers = [_drive(queue_url, *part) for part in ((0, 2000), (0, 2000), (1000, 3000))]
    runs = [driver.communicate(timeout=50)[0].strip() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0, 0]
    assert sorted(runs) == ["1", "2", "3"]
    async with opened(queue_url) as ledger:
        jobs = await ledger.scan(0, 9999)
        assert [job.seq for job in jobs] == list(range(1, 3001))
        assert len({job.key for job in jobs}) == 3000
    assert len(queued(queue_url)) == 3000


async def test_lists_that_begin_at_the_same_moment_have_runs_of_their_own(books_url: str) -> None:
    """Each sees the run of the one before it, also if both had to wait for their turn."""
    runs: list[int] = []

    async def begin(ledger: PostgresLedger) -> None:
        async with ledger.staging() as staging:
            runs.append(staging.run)

    async with opened(books_url) as one, opened(books_url) as other:
        with psycopg.connect(books_url) as turn:
            turn.execute("SELECT 1 FROM kie_mj.batch FOR UPDATE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(begin, one)
                tasks.start_soon(begin, other)
                waiting = "SELECT 1 FROM pg_locks WHERE NOT granted HAVING count(*) >= 2"
                while not ask(books_url, waiting):  # noqa: ASYNC110 - in the server
                    await anyio.sleep(0.02)
                turn.rollback()
    assert sorted(runs) == [1, 2]


@pytest.mark.slow
async def test_a_worker_goes_on_while_its_batch_is_taken_in_again(books_url: str) -> None:
    requests = [TextToImage(f"fox {n}") for n in range(3000)]
    async with opened(books_url) as web, opened(books_url, worker="w1") as worker:
        await take_in(web, *requests)
        jobs = await worker.scan(0, 300)

        async def move(job: Job) -> None:
            for one in (INTENT, lifecycle.accepted(f"t{job.seq}", AT)):
                job = await worker.record(job, one)

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(take_in, web, *requests[::-1])
            for job in jobs[::-1]:
                tasks.start_soon(move, job)
        assert len(await web.page(State.RUNNING, Cursor(), 999)) == 300
        assert (await web.counts()).total == 3000


def _peak() -> float:
    """The most memory that this process ever had, in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@pytest.mark.slow
async def test_many_thousand_prompts_are_taken_in_parts(books_url: str) -> None:
    """Whatever their number, no more than a part of them is in memory; a second time adds none."""
    number, part = 40_000, 500
    before = _peak()
    async with opened(books_url) as ledger:
        for _ in range(2):
            async with ledger.staging() as staging:
                for start in range(0, number, part):
                    await staging.add([TextToImage(f"fox {n}") for n in range(start, start + part)])
        assert _peak() - before < 24
        assert (await ledger.counts()).by_state == {State.PLANNED: number}
        (last,) = await ledger.scan(number - 1, 9)
        assert last.prompt == f"fox {number - 1}"


async def test_errors_of_a_ledger_carry_no_password(books_url: str) -> None:
    secret = books_url.replace("postgres@", "postgres:secret@")
    async with opened(secret) as ledger:
        with pytest.raises(LedgerError) as caught:
            await ledger.add("nul\0", FOX)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error | None)
