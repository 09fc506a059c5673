"""What a worker does with a job when its database goes away, and when it has to leave itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from cluster_support import ask
from road_support import Yard, at_point, hasten, saved, yard_on
from support import until

from kie_mj_async.cluster.ledger import parts_of
from kie_mj_async.errors import LedgerError
from kie_mj_async.jobs import Job, State
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.lifecycle import Event, Move

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


async def away(postgres: Any, seconds: float) -> None:
    await anyio.sleep(seconds)
    await anyio.to_thread.run_sync(postgres.start)


@pytest.mark.parametrize(
    ("faults", "creates"),
    [
        ("", 1),
        pytest.param("create.400=#1", 1, marks=pytest.mark.slow),
        pytest.param("create.429=#1", 2, marks=pytest.mark.slow),
    ],
)
async def test_an_answer_that_could_not_be_written_is_written_when_the_database_is_back(
    queue_url: str, tmp_path: Path, postgres: Any, faults: str, creates: int
) -> None:
    async with yard_on(queue_url, tmp_path, faults) as yard:
        (name,) = await yard.put_in()
        stops = iter([postgres.stop])
        ended: list[str] = []
        async with yard.worker(patience=0.1) as one:

            async def go() -> None:
                ended.append(await one.go(name))

            with at_point("reply read", lambda: next(stops, lambda: None)()):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(go)
                    await until(lambda: yard.sim.books()["creates"])
                    await away(postgres, 0.5)
        assert ended == ["failed" if "400" in faults else "saved"]
        assert len(yard.sim.books()["creates"]) == creates
        assert len(yard.paid) == (0 if "400" in faults else 1)


@pytest.mark.slow
async def test_an_intent_that_could_not_be_written_is_no_create(yard: Yard, postgres: Any) -> None:
    """Though it may have been: its job is not one of unknown fate for that."""
    (name,) = await yard.put_in()
    stops = iter([postgres.stop])
    async with yard.worker(patience=0.1, request_timeout=30) as one:
        with at_point("before the intent", lambda: next(stops, lambda: None)()):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.go, name)
                await away(postgres, 0.7)
    await saved(yard, name)


async def test_an_intent_of_which_the_commit_was_not_answered_is_taken_back(yard: Yard) -> None:
    """The books say then that a create is under way, and nothing was sent."""
    (name,) = await yard.put_in()
    async with yard.worker(request_timeout=30) as one:
        async with one.road._way("b") as way:
            assert way is not None
            real = way.ledger.record
            failed: list[Move] = []

            async def record(job: Job, move: Move) -> Job:
                made = await real(job, move)
                if move.event is Event.INTENT and not failed:
                    failed.append(move)
                    raise LedgerError("whether the last change was written is not known")
                return made

            way.ledger.record = record  # type: ignore[method-assign]
        with anyio.fail_after(10):
            assert await one.go(name) == "saved"
        assert failed
    await saved(yard, name)


@pytest.mark.slow
async def test_the_database_restarts_while_tasks_run(yard: Yard, postgres: Any) -> None:
    names = await yard.put_in(*(TextToImage(f"fox {n}") for n in range(8)))
    async with yard.worker(patience=5) as one, anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one.go, name)
        await until(lambda: len(yard.paid) > 2)
        await anyio.to_thread.run_sync(postgres.restart)
    assert {(await yard.job(name)).state for name in names} == {State.SAVED}
    assert len(yard.paid) == 8


@pytest.mark.slow
async def test_a_worker_told_to_leave_does_not_wait_for_ever_for_a_database(
    yard: Yard, postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It says which task was paid, and that nobody knows of it."""
    (name,) = await yard.put_in()
    async with yard.worker(patience=0.1) as one:
        with at_point("reply read", postgres.stop), anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.road.submit, name)
                await until(lambda: yard.paid)
                await anyio.sleep(0.3)
                one.road.hurry(0)
                tasks.cancel_scope.cancel()
        postgres.start()
    (task,) = [one["task_id"] for one in yard.paid]
    assert any(
        one.levelname == "CRITICAL" and task in one.getMessage() and "never" in one.getMessage()
        for one in caplog.records
    )


@pytest.mark.slow
async def test_a_lost_lease_stops_a_job_without_another_word(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.worker() as one:
        yard.end("one")
        with anyio.move_on_after(0.5) as scope:
            await one.go(name)
        assert scope.cancelled_caught
    assert yard.paid == []
    assert (await yard.job(name)).state is State.PLANNED


@pytest.mark.slow
async def test_saves_that_a_leaving_worker_cuts_off_do_not_rest(yard: Yard) -> None:
    (name,) = await yard.put_in()
    yard.break_with("download.stall=100%")
    async with yard.worker() as one:
        with anyio.move_on_after(3) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.go, name)
                job = await yard.job(name)
                while job.state is not State.SUCCEEDED:
                    job = await yard.job(name)
                await anyio.sleep(0.2)
                one.road.hurry(0.2)
                await anyio.sleep(0.7)
                scope.cancel()
    assert yard.row(name)["rests"] is None
    assert yard.row(name)["turn"] == 1


async def test_a_paid_task_is_known_though_its_worker_was_cut_off_from_the_database(
    yard: Yard, postgres: Any
) -> None:
    """Meanwhile it was taken for dead, and its job for one of unknown fate."""
    (name,) = await yard.put_in()
    _, key, _ = parts_of(name)
    async with yard.worker("one", patience=0.2) as one:
        with at_point("reply read", postgres.stop):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.road.submit, name)
                await until(lambda: yard.paid)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(one.books, "put", gone)
                    await anyio.sleep(0.4)
                    postgres.start()
                    yard.end("one")
                    async with yard.ledger() as ledger:
                        assert (await ledger.settle(key)).state is State.UNRESOLVED
                await until(lambda: ask(yard.url, "SELECT 1 FROM kie_mj.receipt"))
                tasks.cancel_scope.cancel()
    job = await yard.job(name)
    assert (job.state, [job.task_id]) == (State.RUNNING, [yard.paid[0]["task_id"]])


def gone(_op: object) -> Any:
    """The database is still away, when it is back for others."""
    raise LedgerError("no route to the database")
