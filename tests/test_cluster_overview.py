"""How a fleet stands: jobs, workers, the account's window."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import anyio
import pytest
from cluster_support import ask
from fleet_support import cluster_on, player_on

from kie_mj_async.account import Window
from kie_mj_async.cluster import FleetStatus
from kie_mj_async.cluster.slots import AccountSlots
from kie_mj_async.engine.throttling import Lesson
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import Rate

pytestmark = pytest.mark.anyio


async def test_an_empty_fleet_stands_still(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        status = await cluster.status()
    assert set(status.jobs.values()) == {0}
    assert (status.files, status.bytes, status.credits, status.at_risk) == (0, 0, 0, 0)
    assert not status.workers
    assert not status.accounts


async def test_jobs_are_counted_by_what_people_call_them(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url, "b") as player:
        for number in range(9):
            await cluster.submit(f"fox {number}", key=str(number), batch="b")
        jobs = await player.jobs()
        await player.start(jobs[0])
        await player.save(jobs[1], b"12345", b"678")
        await player.fail(jobs[2])
        await player.expire(jobs[3])
        await player.lose(jobs[4])
        await player.lose(jobs[5])
        await cluster.resolve("abandon", "5", batch="b")
        await player.rest(jobs[6])
        await cluster.submit("elsewhere")
        status = await cluster.status(batch="b")
        assert status.jobs == {
            "queued": 2,
            "running": 1,
            "saved": 1,
            "failed": 1,
            "expired": 1,
            "unresolved": 1,
            "abandoned": 1,
            "resting": 1,
        }
        assert (status.batch, status.files, status.bytes) == ("b", 2, 8)
        assert (status.credits, status.at_risk) == (100, 25)
        assert (await cluster.status()).jobs["queued"] == 3
        with pytest.raises(LedgerError, match="there is no batch 'nobody'"):
            await cluster.status(batch="nobody")


def join(url: str, name: str, silent: float = 0.0, trouble: str | None = None) -> None:
    ask(
        url,
        "INSERT INTO kie_mj.worker (name, host, pid, trouble, beat_at) "
        "VALUES (%s, 'box', 7, %s, clock_timestamp() - make_interval(secs => %s))",
        name,
        trouble,
        silent,
    )


async def test_workers_are_told_with_their_jobs_and_their_last_heartbeat(queue_url: str) -> None:
    join(queue_url, "one")
    join(queue_url, "two", 30, "the key was refused")
    join(queue_url, "gone")
    ask(queue_url, "UPDATE kie_mj.worker SET ended_at = now() WHERE name = 'gone'")
    async with cluster_on(queue_url) as cluster:
        for _ in range(3):
            await cluster.submit("a fox")
        ask(
            queue_url,
            "UPDATE kie_mj_dbos.workflow_status SET status = 'PENDING', executor_id = 'one' "
            "WHERE workflow_uuid IN (SELECT workflow_uuid FROM kie_mj_dbos.workflow_status LIMIT 2)",
        )
        status = await cluster.status()
    one, two = status.workers
    assert (one.name, one.host, one.pid, one.alive, one.jobs) == ("one", "box", 7, True, 2)
    assert one.trouble is None
    assert (two.name, two.alive, two.jobs, two.trouble) == ("two", False, 0, "the key was refused")
    assert 30 <= two.silent < 40
    assert isinstance(one.since, datetime)


def slots_of(url: str, **options: Any) -> AccountSlots:
    return AccountSlots(url, "abc", owner="one", in_flight=100, running="0", **options)


async def test_the_window_is_told_with_its_rate(queue_url: str) -> None:
    rate = Rate(5, 1.0)
    slots = slots_of(queue_url, rate=rate)
    window = Window(slots, rate, gives_up_after=60, chance=lambda: 0.0)
    async with cluster_on(queue_url) as cluster:
        taken = [await window.take() for _ in range(3)]
        (account,) = (await cluster.status()).accounts
        assert (account.name, account.slots) == ("abc", 3)
        assert (account.creates, account.seconds) == (5, 1.0)
        assert (account.in_flight, account.paused) == (None, 0)
        for one in taken:
            await window.end(one)  # type: ignore[arg-type]
        await anyio.sleep(1.2)
        assert (await cluster.status()).accounts[0].slots == 0
    await slots.aclose()


async def test_what_refusals_have_taught_is_told(queue_url: str) -> None:
    slots = slots_of(queue_url)

    def lesson(throttle: Any, now: float, _running: int) -> Any:
        import attrs

        return attrs.evolve(throttle, cap=40, paused_until=now + 8)

    taught: Lesson = lesson
    slots.learn(taught, 0.0)
    await slots.share()
    async with cluster_on(queue_url) as cluster:
        (account,) = (await cluster.status()).accounts
    assert (account.slots, account.creates, account.seconds) == (0, 20, 10.0)  # as nobody said
    assert account.in_flight == 40
    assert 6 < account.paused <= 8
    await slots.aclose()


async def test_it_can_be_told_as_json(queue_url: str) -> None:
    join(queue_url, "one")
    async with cluster_on(queue_url) as cluster:
        await cluster.submit("a fox")
        status: FleetStatus = await cluster.status()
    told = json.loads(json.dumps(status.to_dict()))
    assert told["jobs"]["queued"] == 1
    assert told["workers"][0]["name"] == "one"
    assert datetime.fromisoformat(told["workers"][0]["since"]) == status.workers[0].since
    assert list(told) == [
        "batch", "jobs", "files", "bytes", "credits", "at_risk", "workers", "accounts"
    ]  # fmt: skip
