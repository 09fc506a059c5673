"""What we lean on in dbos, thing by thing, on a real PostgreSQL.

A new release that changes one of these fails here, with its version and what it means for us. Where
``cluster/engine.py`` uses a name that dbos does not promise, the test says so.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
import psycopg
import pytest
from cluster_support import Fleet, names, soon
from dbos import DBOS, DBOSClient, DBOSConfig

from kie_mj_async.cluster import engine as engine_module
from kie_mj_async.cluster.database import IDLE_IN_TRANSACTION, connect, connect_blocking
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.enqueuing import (
    QUEUE,
    SCHEMA,
    SHAPE,
    THERE,
    UNDER_WAY,
    Load,
    enqueue,
    forget,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DBOS_VERSION = version("dbos")
STATUS = f"{SCHEMA}.workflow_status"
STEPS = f"{SCHEMA}.operation_outputs"


def leans(still: object, on: str) -> None:
    """Fail loudly unless dbos still does what we lean on."""
    assert still, f"dbos {DBOS_VERSION} changed what kie_mj_async leans on: {on}"


class Recorder:
    """A road that remembers; ``hold`` keeps jobs in a step until it is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []
        self.hold = anyio.Event()
        self.holds: str | None = None
        self.loops: set[asyncio.AbstractEventLoop] = set()

    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""

    async def submit(self, name: str) -> str:
        return await self._do("submit", name)

    async def collect(self, name: str) -> str:
        return await self._do("collect", name)

    async def _do(self, step: str, name: str) -> str:
        self.calls.append((step, name))
        self.loops.add(asyncio.get_running_loop())
        if self.holds == step:
            await self.hold.wait()
        self.ended.append((step, name))
        return f"{step} of {name}"


async def until(question: Callable[[], object], what: str, within: float = 12.0) -> None:
    try:
        with anyio.fail_after(within):
            while not question():  # noqa: ASYNC110 - in other threads and processes
                await anyio.sleep(0.05)
    except TimeoutError:
        leans(False, what)


@asynccontextmanager
async def working(
    fleet: Fleet, road: Recorder, worker: str = "one", load: Load | None = None
) -> AsyncIterator[Engine]:
    engine = Engine(fleet.url, road, worker=worker, load=load)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.aclose()


async def take_out(fleet: Fleet, jobs: Sequence[str]) -> None:
    """As an operator does, with dbos's own tools."""
    pool = engine_module._pool(fleet.url, "test", 1)
    client = engine_module._client(fleet.url, pool)
    await asyncio.to_thread(client.cancel_workflows, list(jobs))
    pool.dispose()


def status_of(fleet: Fleet, name: str, column: str = "status") -> Any:
    return fleet.ask(f"SELECT {column} FROM {STATUS} WHERE workflow_uuid = %s", name)[0][0]


def test_the_names_that_dbos_does_not_promise_are_there() -> None:
    recover = getattr(DBOS, "_recover_pending_workflows", None)
    leans(recover, "DBOS._recover_pending_workflows (private) gives a dead worker's jobs back")
    assert recover is not None
    leans(
        list(inspect.signature(recover).parameters) == ["executor_ids"],
        "DBOS._recover_pending_workflows(executor_ids)",
    )
    source = inspect.getsource(DBOS)
    leans("background_thread_stop_events" in source, "DBOS(...).background_thread_stop_events")


def test_every_setting_that_we_use_is_known() -> None:
    ours = Engine("postgresql://u@h/d", Recorder(), worker="w")._config()
    unknown = set(ours) - set(DBOSConfig.__annotations__)
    leans(not unknown, f"the settings {sorted(unknown)} of DBOSConfig")


def test_every_parameter_that_we_use_is_known() -> None:
    for function, used in (
        (DBOS.destroy, {"workflow_completion_timeout_sec"}),
        (DBOS.workflow, {"name", "max_recovery_attempts"}),
        (DBOS.step, {"name"}),
        (DBOS.migrate, {"schema"}),
        (DBOSClient.cancel_workflows, {"workflow_ids"}),
        (
            DBOSClient.register_queue,
            {"global_concurrency", "worker_concurrency", "polling_interval_sec", "on_conflict"},
        ),
        (
            DBOS.list_workflows,
            {"status", "workflow_ids", "queues_only", "load_input", "load_output"},
        ),
        (
            DBOSClient,
            {"system_database_engine", "dbos_system_schema", "serializer", "application_name",
             "lazy", "retry_connection_errors"},
        ),
    ):  # fmt: skip
        missing = used - set(inspect.signature(function).parameters)
        leans(not missing, f"{function.__qualname__}({', '.join(sorted(missing))}=...)")


async def test_a_job_that_is_put_in_twice_is_attached_to_and_done_once(fleet: Fleet) -> None:
    road = Recorder()
    fleet.enqueue(["b:1", "b:1"])
    fleet.enqueue(["b:1"])
    async with working(fleet, road):
        await until(lambda: ("collect", "b:1") in road.ended, "the job is done")
        await until(lambda: status_of(fleet, "b:1") == "SUCCESS", "the job counts as done")
        fleet.enqueue(["b:1", "b:2"])
        await until(lambda: ("collect", "b:2") in road.ended, "a later job is done")
    leans(
        road.calls.count(("submit", "b:1")) == 1,
        "a workflow id is taken once, also when its workflow has ended",
    )


async def test_a_client_puts_jobs_in_without_a_worker_all_or_none(fleet: Fleet) -> None:
    fleet.enqueue(["b:1", "b:2"])
    leans(fleet.statuses() == {"ENQUEUED": 2}, "SQL alone can enqueue (enqueue_workflow)")
    leans(status_of(fleet, "b:1", "queue_name") == QUEUE, "the queue is the one we named")
    with pytest.raises(psycopg.Error):
        fleet.enqueue(["b:3", ""])
    leans(fleet.statuses() == {"ENQUEUED": 2}, "enqueue_workflow rolls back as a whole")


async def test_jobs_are_put_in_within_a_transaction_of_ours(fleet: Fleet) -> None:
    with connect_blocking(fleet.url, "test") as link:
        with link.transaction(force_rollback=True):
            enqueue(link, ["b:1"], 1)
        leans(fleet.statuses() == {}, "enqueue_workflow is part of our transaction")
        with link.transaction():
            enqueue(link, ["b:1"], 1)
            link.execute("INSERT INTO trace (job, worker, step, what) VALUES ('b', '', '', '')")
            leans(fleet.statuses() == {}, "enqueue_workflow is part of our transaction")
    leans(fleet.statuses() == {"ENQUEUED": 1}, "enqueue_workflow commits with us")


async def test_jobs_begin_in_the_order_of_their_places(fleet: Fleet) -> None:
    road = Recorder()
    long = [f"long:{number}" for number in range(20)]
    fleet.enqueue(long)
    fleet.enqueue(["short:0"])
    async with working(fleet, road, load=Load(1, 1)):
        await until(lambda: len(road.ended) >= 5, "some jobs are done")
    begun = [name for step, name in road.calls if step == "submit"]
    leans(set(begun[:2]) == {"long:0", "short:0"}, "lower priorities go first")
    leans(begun[2:] == long[1 : len(begun) - 1], "jobs begin in the order of their priorities")


async def test_a_frozen_workers_transaction_is_ended_by_the_server_soon(fleet: Fleet) -> None:
    async with working(fleet, Recorder()) as engine:
        assert engine._dbos is not None
        with engine._dbos._sys_db.engine.connect() as link:
            limit = link.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
        leans(
            limit == f"{IDLE_IN_TRANSACTION:g}s",
            f"sys_db_idle_transaction_timeout_sec; it is {limit} (a claim's locks stop all others)",
        )


async def test_a_job_goes_on_elsewhere_behind_its_last_finished_step(fleet: Fleet) -> None:
    first, second = Recorder(), Recorder()
    first.holds = "collect"
    fleet.enqueue(["b:1"])
    async with working(fleet, first, "first"):
        await until(lambda: ("collect", "b:1") in first.calls, "the job collects")
    leans(status_of(fleet, "b:1") == "ENQUEUED", "a cancelled workflow can be handed over")
    outcomes = fleet.ask(f"SELECT function_name, error FROM {STEPS}")
    leans(outcomes == [("submit", None)], "a step that was cancelled leaves nothing behind")
    async with working(fleet, second, "second"):
        await until(lambda: status_of(fleet, "b:1") == "SUCCESS", "it is done elsewhere")
    leans(
        second.calls == [("collect", "b:1")],
        "a finished step is replayed, and the unfinished one done again",
    )
    leans(status_of(fleet, "b:1", "executor_id") == "second", "the new worker's name is kept")


async def test_recovery_gives_back_the_jobs_of_the_workers_named_and_fences_their_stale_run(
    fleet: Fleet,
) -> None:
    road = Recorder()
    road.holds = "collect"
    fleet.enqueue(["b:ghost", "b:mine"])
    async with working(fleet, road) as engine:
        await until(lambda: len(road.calls) == 4, "both collect")
        leans(set(await engine.at_work()) == {"one"}, "list_workflows tells the executors at work")
        leans(await engine.recover(["nobody"]) == 0, "recovery leaves others' workflows alone")
        fleet.ask(
            f"UPDATE {STATUS} SET executor_id = 'ghost', owner_xid = 'ghost' "
            "WHERE workflow_uuid = 'b:ghost'"
        )
        leans(set(await engine.at_work()) == {"one", "ghost"}, "executor_id is what we set")
        leans(await engine.recover(["ghost"]) == 1, "recovery finds the dead executor's workflow")
        leans(status_of(fleet, "b:ghost", "queue_name") == QUEUE, "it goes back to its own queue")
        await until(
            lambda: road.calls.count(("collect", "b:ghost")) == 2, "a recovered workflow runs again"
        )
        leans(road.calls.count(("submit", "b:ghost")) == 1, "its finished step is not done again")
        leans(road.calls.count(("collect", "b:mine")) == 1, "others' workflows are left alone")
        road.hold.set()
        await until(lambda: fleet.statuses() == {"SUCCESS": 2}, "all are done")
        steps = fleet.ask(f"SELECT count(*) FROM {STEPS} WHERE function_name = 'collect'")
        leans(steps == [(2,)], "the stale run's step is not written down (owner_xid)")


async def test_jobs_of_another_version_are_left_to_its_workers(fleet: Fleet) -> None:
    road = Recorder()
    fleet.enqueue(["b:other", "b:ours"])
    leans(status_of(fleet, "b:ours", "application_version") == SHAPE, "app_version is kept")
    fleet.ask(f"UPDATE {STATUS} SET application_version = 'other' WHERE workflow_uuid = 'b:other'")
    async with working(fleet, road):
        await until(lambda: status_of(fleet, "b:ours") == "SUCCESS", "ours is done")
        await anyio.sleep(1)
    leans(status_of(fleet, "b:other") == "ENQUEUED", "a worker takes jobs of its own version only")


async def test_jobs_that_ended_long_ago_are_forgotten_wholly_and_others_are_left_alone(
    fleet: Fleet,
) -> None:
    road = Recorder()
    old, broken = ["b:old1", "b:old2"], "b:broken"
    fleet.enqueue([*old, broken, "b:late"])
    async with working(fleet, road):
        await until(lambda: fleet.statuses() == {"SUCCESS": 4}, "all are done")
    fleet.enqueue(["b:taken out"])
    await take_out(fleet, ["b:taken out"])
    fleet.enqueue(["b:waits"])
    fleet.ask(
        f"UPDATE {STATUS} SET completed_at = completed_at - 7200000 WHERE workflow_uuid = ANY(%s)",
        [*old, broken, "b:taken out"],
    )
    fleet.ask(f"UPDATE {STATUS} SET status = 'ERROR' WHERE workflow_uuid = %s", broken)
    link = await connect(fleet.url, "test")
    assert await forget(link, after=7300) == 0
    forgotten = [await forget(link, after=3600, limit=3) for _ in range(3)]
    await link.close()
    leans(
        forgotten == [3, 1, 0], "completed_at is when a workflow came to its end, however it ended"
    )
    kept = dict(fleet.ask(f"SELECT workflow_uuid, status FROM {STATUS}"))
    assert kept == {"b:late": "SUCCESS", "b:waits": "ENQUEUED"}
    tables = fleet.ask(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = %s "
        "AND column_name IN ('workflow_uuid', 'destination_uuid')",
        SCHEMA,
    )
    for (table,) in tables:
        rows = fleet.ask(f'SELECT * FROM {SCHEMA}."{table}"')
        gone = [row for row in rows if {*old, broken, "b:taken out"} & {*map(str, row)}]
        leans(not gone, f"{table} goes with a workflow, or is emptied by us")


async def test_what_is_kept_of_a_job_is_in_four_tables_and_the_old_ones_are_found_by_an_index(
    fleet: Fleet,
) -> None:
    look = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
    tables = [row[0] for row in fleet.ask(f"{look} AND table_type = 'BASE TABLE'", SCHEMA)]

    def count() -> dict[str, int]:
        return {one: fleet.ask(f'SELECT count(*) FROM {SCHEMA}."{one}"')[0][0] for one in tables}

    async def after(jobs: Sequence[str]) -> dict[str, int]:
        fleet.enqueue(jobs)
        async with working(fleet, Recorder()):
            done = len(jobs) + (first.get("workflow_status", 0) if first else 0)
            await until(lambda: fleet.statuses() == {"SUCCESS": done}, "all are done")
        return count()

    first: dict[str, int] = {}
    first = await after(names(10))
    second = await after(names(30, batch="c"))
    grown = {one: second[one] - first[one] for one in tables if second[one] != first[one]}
    wanted = {"workflow_status": 30, "operation_outputs": 60}
    wanted |= {"workflow_input": 30, "workflow_output": 30}
    leans(grown == wanted, f"each job leaves five rows, in tables that we empty; now {grown}")
    indexed = fleet.ask(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = 'workflow_status'",
        SCHEMA,
    )
    leans(any("(completed_at)" in one for (one,) in indexed), "an index of completed_at")


@pytest.mark.slow
async def test_the_number_of_jobs_under_way_is_held_over_two_processes(fleet: Fleet) -> None:
    fleet.worker(in_flight=3, per_worker=2).joined()
    fleet.worker(in_flight=3, per_worker=2).joined()
    fleet.enqueue(names(12, submit=0.3, collect=0.3))
    soon(lambda: fleet.statuses() == {"SUCCESS": 12}, 30, "all jobs are done")
    under_way: set[tuple[str, str]] = set()
    for job, worker, step, what in fleet.ask(
        "SELECT job, worker, step, what FROM trace ORDER BY id"
    ):
        if (step, what) == ("submit", "begin"):
            under_way.add((job, worker))
        if (step, what) == ("collect", "end"):
            under_way.discard((job, worker))
        leans(len(under_way) <= 3, "global_concurrency holds over all processes")
        busiest = max(Counter(one[1] for one in under_way).values(), default=0)
        leans(busiest <= 2, "worker_concurrency holds in each process")


async def test_everything_that_is_kept_is_json(fleet: Fleet) -> None:
    road = Recorder()
    fleet.enqueue(["b:1", "b:2"])
    async with working(fleet, road):
        await until(lambda: fleet.statuses() == {"SUCCESS": 2}, "all are done")
    tables = fleet.ask(
        "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns "
        "WHERE table_schema = %s AND column_name IN "
        "('inputs', 'output', 'error', 'serialization', 'value', 'message') GROUP BY 1",
        SCHEMA,
    )
    kept = 0
    for table, columns in tables:
        for column in columns:
            for (value,) in fleet.ask(f'SELECT "{column}" FROM {SCHEMA}."{table}"'):
                if value is None:
                    continue
                kept += 1
                if column == "serialization":
                    leans(value == "portable_json", f"{table} is kept as JSON, not as {value}")
                else:
                    json.loads(value)
    leans(kept >= 8, "what workflows and steps return is kept in columns of these names")


async def test_many_waiting_jobs_cost_no_threads(fleet: Fleet) -> None:
    road = Recorder()
    road.holds = "collect"
    before = threading.active_count()
    fleet.enqueue(names(150))
    async with working(fleet, road, load=Load(200, 200)) as engine:
        await until(lambda: len(road.calls) == 300, "all jobs wait in collect")
        more = threading.active_count() - before
        leans(more <= 30, f"waiting workflows are coroutines, not threads: {more} threads")
        assert engine.running == 150
        leans(road.loops == {asyncio.get_running_loop()}, "steps run where we send them")
        road.hold.set()
        await until(lambda: fleet.statuses() == {"SUCCESS": 150}, "all are done", 20)
    leans(await asyncio.to_thread(lambda: 1) == 1, "our event loop keeps its threads")


async def test_a_job_taken_out_while_it_waits_never_begins_and_one_under_way_stops_soon(
    fleet: Fleet,
) -> None:
    road = Recorder()
    road.holds = "submit"
    fleet.enqueue(["b:runs"])
    async with working(fleet, road, load=Load(1, 1)):
        await until(lambda: ("submit", "b:runs") in road.calls, "one runs")
        fleet.enqueue(["b:waits"])
        await take_out(fleet, ["b:waits", "b:runs"])
        road.hold.set()
        await until(lambda: ("submit", "b:runs") in road.ended, "the step under way ends")
        await anyio.sleep(1.2)
    leans(road.calls == [("submit", "b:runs")], "a cancelled workflow begins no step")
    leans(fleet.statuses() == {"CANCELLED": 2}, "it counts as cancelled")


async def test_nothing_is_taken_once_the_stop_events_are_set(fleet: Fleet) -> None:
    road = Recorder()
    async with working(fleet, road) as engine:
        engine._refuse()
        fleet.enqueue(["b:1"])
        await anyio.sleep(1.5)
        leans(fleet.statuses() == {"ENQUEUED": 1}, "the stop events end the dequeuing")


@pytest.mark.slow
async def test_a_worker_waits_for_its_database_and_goes_on_by_itself(
    fleet: Fleet, postgres: Any
) -> None:
    road = Recorder()
    road.holds = "submit"
    fleet.enqueue(["b:1"])
    async with working(fleet, road):
        await until(lambda: road.calls, "the job begins")
        postgres.stop()
        road.hold.set()  # its step ends while the database is away
        await anyio.sleep(1.5)
        postgres.start()
        fleet.enqueue(["b:2"])
        await until(
            lambda: fleet.statuses() == {"SUCCESS": 2},
            "a worker's writes are repeated, and its queue goes on, after an outage",
            20,
        )
    leans(
        Counter(road.calls).most_common(1)[0][1] == 1, "an outage makes no step run a second time"
    )


async def test_a_second_dbos_in_a_process_is_silently_the_first(fleet: Fleet) -> None:
    async with working(fleet, Recorder()) as engine:
        config = DBOSConfig(name="another", system_database_url="sqlite:///:memory:")
        leans(
            DBOS(config=config) is engine._dbos, "DBOS is one per process: Engine refuses a second"
        )


async def test_jobs_under_way_are_counted_by_worker_in_its_table(fleet: Fleet) -> None:
    leans(fleet.ask(THERE.decode()) == [(True,)], "enqueue_workflow and workflow_status are there")
    road = Recorder()
    road.holds = "collect"
    fleet.enqueue(["b:1", "b:2"])
    async with working(fleet, road):
        await until(lambda: len(road.calls) == 4, "both jobs are under way")
        leans(
            fleet.ask(UNDER_WAY.decode()) == [("one", 2)],
            "workflow_status has status PENDING, executor_id and queue_name of jobs under way",
        )
        road.hold.set()
        await until(lambda: fleet.ask(UNDER_WAY.decode()) == [], "jobs that are done are not")
