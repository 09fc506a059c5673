"""A fleet of real workers on a real PostgreSQL: who does what when one dies, freezes or leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import anyio
import pytest
from cluster_support import Fleet, names, soon

from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.enqueuing import SCHEMA, Load
from kie_mj_async.errors import ConfigError, KieError, LedgerError

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TAKEN_OVER = 10.0
"""Seconds within which a dead worker's jobs go on elsewhere; what is promised is 15."""


def finished(fleet: Fleet, count: int) -> bool:
    return fleet.statuses() == {"SUCCESS": count}


def ends(fleet: Fleet, step: str) -> list[int]:
    """How often each job has ended a step."""
    rows = fleet.ask(
        "SELECT count(*) FROM trace WHERE step = %s AND what = 'end' GROUP BY job", step
    )
    return [row[0] for row in rows]


def test_importing_the_package_imports_neither_dbos_nor_a_driver() -> None:
    check = (
        "import sys, kie_mj_async, kie_mj_async.client, kie_mj_async.cli\n"
        "bad = {'dbos', 'psycopg', 'sqlalchemy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
async def test_two_workers_share_the_jobs_and_each_job_is_done_once(fleet: Fleet) -> None:
    workers = {fleet.worker().joined(), fleet.worker().joined()}
    fleet.enqueue(names(60, submit=0.1, collect=0.6))
    soon(lambda: finished(fleet, 60), 20, "all jobs are done")
    assert ends(fleet, "submit") == [1] * 60
    assert ends(fleet, "collect") == [1] * 60
    assert {row[0] for row in fleet.ask("SELECT DISTINCT worker FROM trace")} == workers


@pytest.mark.slow
async def test_a_killed_workers_jobs_go_on_elsewhere_soon(fleet: Fleet) -> None:
    doomed = fleet.worker()
    first = doomed.joined()
    fleet.enqueue([*names(3, "in-submit", submit=60), *names(3, "in-collect", collect=60)])
    soon(lambda: fleet.count("collect", "begin") == 3, 10, "three jobs collect")
    second = fleet.worker().joined()
    await anyio.sleep(1)  # the second one knows the first
    doomed.send(signal.SIGKILL)
    took = soon(
        lambda: fleet.count("submit", "begin") == 9 and fleet.count("collect", "begin") == 6,
        15,
        "unfinished steps are done again",
    )
    assert took < TAKEN_OVER
    # A step that had ended is not done again, one that had not is.
    assert fleet.trace("in-collect:0@0,60") == [
        (first, "submit", "begin"),
        (first, "submit", "end"),
        (first, "collect", "begin"),
        (second, "collect", "begin"),
    ]
    assert fleet.trace("in-submit:0@60,0") == [
        (first, "submit", "begin"),
        (second, "submit", "begin"),
    ]


@pytest.mark.slow
async def test_a_frozen_worker_is_fenced_and_starts_over_under_another_name(fleet: Fleet) -> None:
    frozen = fleet.worker()
    first = frozen.joined()
    jobs = names(3, collect=12)
    fleet.enqueue(jobs)
    soon(lambda: fleet.count("collect", "begin") == 3, 10, "three jobs collect")
    second = fleet.worker().joined()
    await anyio.sleep(1)
    frozen.send(signal.SIGSTOP)
    took = soon(lambda: fleet.count("collect", "begin") == 6, 15, "they go on elsewhere")
    assert took < TAKEN_OVER
    await anyio.sleep(5)  # its steps would have ended meanwhile
    frozen.send(signal.SIGCONT)
    third = frozen.joined()
    assert third not in (first, second)
    soon(lambda: finished(fleet, 3), 15, "all jobs are done")
    for job in jobs:
        lines = fleet.trace(job)
        assert (second, "collect", "end") in lines
        assert (first, "collect", "end") not in lines, "a fenced worker wrote"
    fleet.enqueue(names(40, "later"))
    soon(lambda: finished(fleet, 43), 15, "later jobs are done")
    later = fleet.ask("SELECT DISTINCT worker FROM trace WHERE job LIKE 'later%%'")
    assert {row[0] for row in later} <= {second, third}


@pytest.mark.slow
async def test_all_jobs_end_once_though_the_database_crashes_under_two_workers(
    fleet: Fleet, postgres: Any
) -> None:
    alive = {fleet.worker().joined(), fleet.worker().joined()}
    fleet.enqueue(names(60, submit=0.2, collect=1.0))
    soon(lambda: fleet.count("collect") >= 10, 20, "some jobs are done")
    postgres.restart("immediate", away=1.0)
    soon(lambda: finished(fleet, 60), 30, "all jobs are done")
    assert {row[0] for row in fleet.ask("SELECT DISTINCT worker FROM trace")} == alive
    ended = fleet.ask("SELECT name FROM kie_mj.worker WHERE ended_at IS NOT NULL")
    assert ended == [], "a living worker was taken for dead"


@pytest.mark.slow
async def test_a_long_outage_of_the_database_makes_nobody_dead(fleet: Fleet, postgres: Any) -> None:
    fleet.worker().joined()
    fleet.worker().joined()
    fleet.enqueue(names(10, collect=14))
    soon(lambda: fleet.count("collect", "begin") == 10, 10, "all jobs collect")
    postgres.restart("immediate", away=10)  # longer than a lease
    soon(lambda: finished(fleet, 10), 35, "all jobs are done")
    assert fleet.ask("SELECT name FROM kie_mj.worker WHERE ended_at IS NOT NULL") == []
    began = "SELECT count(DISTINCT (job, worker)) FROM trace WHERE step = 'collect'"
    assert fleet.ask(began) == [(10,)], "a job went to another worker"


async def test_a_worker_told_to_stop_finishes_what_it_can_within_its_grace(fleet: Fleet) -> None:
    worker = fleet.worker(grace=5)
    worker.joined()
    fleet.enqueue(names(5, submit=0.5, collect=0.7))
    soon(lambda: fleet.count("collect", "begin") == 5, 10, "all jobs collect")
    worker.send(signal.SIGTERM)
    fleet.enqueue(names(5, "late"))
    assert worker.left() < 4
    assert fleet.statuses() == {"SUCCESS": 5, "ENQUEUED": 5}
    assert ends(fleet, "collect") == [1] * 5


async def test_a_worker_told_to_stop_sends_nothing_more(fleet: Fleet) -> None:
    worker = fleet.worker(grace=30)
    worker.joined()
    fleet.enqueue(names(3, submit=60, collect=60))
    soon(lambda: fleet.count("submit", "begin") == 3, 10, "all jobs have begun")
    worker.send(signal.SIGTERM)
    assert worker.left() < 4, "it does not wait for what is not sent yet"
    assert fleet.statuses() == {"ENQUEUED": 3}


@pytest.mark.slow
async def test_a_worker_told_to_stop_leaves_the_rest_to_others_at_once(fleet: Fleet) -> None:
    leaving = fleet.worker(grace=0.5)
    leaving.joined()
    fleet.enqueue(names(5, collect=60))
    soon(lambda: fleet.count("collect", "begin") == 5, 10, "all jobs collect")
    staying = fleet.worker().joined()
    leaving.send(signal.SIGTERM)
    assert leaving.left() < 5
    soon(lambda: fleet.count("collect", "begin") == 10, 4, "they go on elsewhere")
    assert fleet.statuses() == {"PENDING": 5}
    now = fleet.ask(f"SELECT DISTINCT executor_id FROM {SCHEMA}.workflow_status")
    assert now == [(staying,)]


@pytest.mark.slow
async def test_jobs_of_a_fleet_that_died_whole_go_on_with_the_next_worker(fleet: Fleet) -> None:
    last = fleet.worker(grace=0)
    last.joined()
    fleet.enqueue(names(2, collect=2))
    soon(lambda: fleet.count("collect", "begin") == 2, 10, "all jobs collect")
    last.send(signal.SIGTERM)
    last.left()
    assert fleet.statuses() == {"ENQUEUED": 2}
    fleet.worker().joined()
    soon(lambda: finished(fleet, 2), 25, "all jobs are done")


@pytest.mark.slow
async def test_a_step_that_fails_is_done_again_and_the_job_does_not_end_as_broken(
    fleet: Fleet,
) -> None:
    fleet.ask("ALTER TABLE trace RENAME TO away")
    fleet.worker().joined()
    fleet.enqueue(names(1))
    await anyio.sleep(1.5)
    assert fleet.statuses() == {"PENDING": 1}
    fleet.ask("ALTER TABLE away RENAME TO trace")
    soon(lambda: finished(fleet, 1), 10, "the job is done")


class Nowhere:
    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""

    async def submit(self, name: str) -> str:
        return name

    async def collect(self, name: str) -> str:
        return name


async def test_a_worker_without_a_database_says_so_at_once() -> None:
    engine = Engine("postgresql://u:secret@127.0.0.1:1/nowhere", Nowhere(), worker="one")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/nowhere") as caught:
        await engine.open()
    assert "secret" not in str(caught.value)


async def test_a_database_that_was_not_migrated_is_refused_with_the_way_out(
    database: str,
) -> None:
    engine = Engine(database, Nowhere(), worker="one")
    with pytest.raises(LedgerError, match="kie-mj cluster migrate"):
        await engine.open()


async def test_a_process_has_one_worker_at_a_time_and_may_have_another_after_it(
    fleet: Fleet,
) -> None:
    for number in range(2):
        engine = Engine(fleet.url, Nowhere(), worker=f"w{number}")
        await engine.open()
        with pytest.raises(KieError, match="one worker"):
            await Engine(fleet.url, Nowhere(), worker="second").open()
        fleet.enqueue([f"job-{number}"])
        with anyio.fail_after(10):
            while not finished(fleet, number + 1):  # noqa: ASYNC110 - in another process
                await anyio.sleep(0.1)
        assert await engine.aclose() == 0


def test_a_load_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError):
        Load(in_flight=10, per_worker=11)
