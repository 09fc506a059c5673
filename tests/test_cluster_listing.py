"""A list that a fleet works on: taken in once, handed out whole, whoever else renders meanwhile."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from cluster_support import ask
from fleet_support import Player, cluster_on, player_on, queued, until

from kie_mj_async.cluster import Cluster, FleetBatch, listing
from kie_mj_async.cluster.news import snapshot
from kie_mj_async.cluster.schema import migrate
from kie_mj_async.cluster.statements import SQL
from kie_mj_async.errors import BatchTimedOut, InvalidRequest, LedgerError
from kie_mj_async.jobs import (
    Expired,
    Failed,
    Job,
    Outcome,
    Pending,
    Saved,
    State,
    Unresolved,
)
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.prompts import Prompt

pytestmark = pytest.mark.anyio

LIST = [f"fox {number}" for number in range(6)]


async def read(batch: FleetBatch, seen: list[Outcome] | None = None) -> list[Outcome]:
    outcomes = [] if seen is None else seen
    async for outcome in batch:
        outcomes.append(outcome)
    return outcomes


def told(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(type(one).__name__ for one in outcomes)


async def begun(cluster: Cluster, prompts: Any, **options: Any) -> FleetBatch:
    """A list that was taken in."""
    batch = cluster.render(prompts, **options)
    await batch.plan()
    return batch


async def all_saved(player: Player) -> None:
    for job in await player.jobs():
        if job.state is State.PLANNED:
            await player.save(job)


# --- Taking in ------------------------------------------------------------------------------------


async def test_a_list_is_queued_whole_before_anything_is_read(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = cluster.render(LIST, batch="b", speed="fast")
        assert ask(queue_url, "SELECT count(*) FROM kie_mj.batch") == [(0,)]
        planned = await batch.plan()
        assert (planned.new, planned.known, planned.cost) == (6, 0, 150)
        assert await batch.plan() is planned
        assert len(queued(queue_url)) == batch.summary().total == 6
        assert all(name.startswith("b:1-") for name in queued(queue_url))


async def test_the_same_list_again_attaches_to_the_first(queue_url: str) -> None:
    async with (
        cluster_on(queue_url) as one,
        cluster_on(queue_url) as two,
        player_on(queue_url) as player,
    ):
        first, second = await begun(one, LIST), await begun(two, LIST)
        planned = await second.plan()
        assert (planned.new, planned.known) == (6, 0)  # none was sent yet
        assert len(queued(queue_url)) == 6
        results: list[list[Outcome]] = [[], []]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, first, results[0])
            tasks.start_soon(read, second, results[1])
            await anyio.sleep(0.2)
            await all_saved(player)
        # Each has all of it, though the jobs are the later list's by the books.
        for outcomes in results:
            assert sorted(one.job.prompt for one in outcomes) == LIST
            assert told(outcomes) == {"Saved": 6}
        third = await begun(one, [*LIST[:3], "a wolf"])
        assert (await third.plan()).cost == 25
        assert len(queued(queue_url)) == 7
        async with anyio.create_task_group() as tasks:
            outcomes = []
            tasks.start_soon(read, third, outcomes)
            await all_saved(player)
        assert sorted(one.job.prompt for one in outcomes) == ["a wolf", *LIST[:3]]


async def test_a_bad_entry_refuses_the_whole_list(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = cluster.render(["a fox", Prompt("a wolf", "list.csv", 3, {"speed": "sideways"})])
        with pytest.raises(InvalidRequest, match=r"list\.csv:3.*speed"):
            await read(batch)
        with pytest.raises(InvalidRequest, match="speed"):
            await batch.plan()
        assert queued(queue_url) == []
        assert ask(queue_url, "SELECT count(*) FROM kie_mj.job") == [(0,)]


@pytest.mark.parametrize("image", ["fox.png", "input:" + "a" * 64 + ".png"])
async def test_an_image_that_is_here_only_is_refused_by_its_place(
    queue_url: str, image: str
) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = cluster.render(["a fox", Prompt("a wolf", "list.csv", 3, {"image": image})])
        with pytest.raises(InvalidRequest, match=r"list\.csv:3: image.*by their URL"):
            await batch.plan()
        with pytest.raises(InvalidRequest, match=r"image.*by their URL"):
            await cluster.render(["a fox"], image=image).plan()
        assert queued(queue_url) == []


async def test_an_empty_list_ends_at_once(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        assert await read(cluster.render([])) == []


# --- Outcomes -------------------------------------------------------------------------------------


async def test_every_job_is_handed_out_once_earlier_ones_first(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url, out="s3://b/p") as player:
        await begun(cluster, LIST)
        jobs = await player.jobs()
        await player.save(jobs[0])
        await player.fail(jobs[1])
        batch = await begun(cluster, [*LIST, "a wolf"])
        assert (await batch.plan()).known == 2
        outcomes: list[Outcome] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, batch, outcomes)
            await until(lambda: len(outcomes) == 2)
            assert isinstance(outcomes[0], Saved)
            assert outcomes[0].locations == ("s3://b/p/1_0.jpeg",)
            await player.lose(jobs[2])
            await player.expire(jobs[3])
            for job in (await player.jobs())[4:]:
                await player.save(job)
        assert told(outcomes) == {"Saved": 4, "Failed": 1, "Unresolved": 1, "Expired": 1}
        assert len({one.job.key for one in outcomes}) == 7
        assert {type(one) for one in outcomes} == {Saved, Failed, Unresolved, Expired}
        assert batch.summary()[State.SAVED] == 4


async def test_a_place_that_is_known_later_is_told(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = await begun(cluster, LIST[:1])
        async with player_on(queue_url, out="/shared/renders") as player:
            await all_saved(player)
        outcome = (await read(batch))[0]
        assert isinstance(outcome, Saved)
        assert outcome.locations == ("/shared/renders/1_0.jpeg",)
        assert [str(path) for path in outcome.paths] == ["/shared/renders/1_0.jpeg"]


async def test_jobs_of_others_in_the_same_batch_are_not_handed_out(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        await begun(cluster, LIST)
        batch = await begun(cluster, [LIST[0], LIST[2], LIST[5], "a wolf"])
        await all_saved(player)
        outcomes = await read(batch)
        assert {one.job.prompt for one in outcomes} == {LIST[0], LIST[2], LIST[5], "a wolf"}
        assert len(outcomes) == 4


async def test_what_rests_is_handed_out_as_pending_with_the_reason(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        batch = await begun(cluster, LIST[:2])
        jobs = await player.jobs()
        await player.rest(jobs[0])
        await player.save(jobs[1])
        outcomes = await read(batch)
        assert told(outcomes) == {"Saved": 1, "Pending": 1}
        pending = next(one for one in outcomes if isinstance(one, Pending))
        assert str(pending.error) == "the disk is full"
        # The same list again wakes it.
        again = await begun(cluster, LIST[:2])
        name = f"default~2:{jobs[0].key}"
        assert name in queued(queue_url)
        rested = await player.ledger.get(jobs[0].key)
        assert rested is not None
        reading = asyncio.create_task(read(again))
        await anyio.sleep(0.2)
        assert not reading.done()
        ask(
            queue_url,
            "UPDATE kie_mj.job SET state = 'saved', told = pg_current_xact_id() WHERE seq = 1",
        )
        assert told(await reading) == {"Saved": 2}


async def test_what_goes_on_after_a_rest_is_handed_out_again(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        batch = await begun(cluster, LIST[:2])
        jobs = await player.jobs()
        outcomes: list[Outcome] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, batch, outcomes)
            await player.hold_back(jobs[0], 0)
            await until(lambda: len(outcomes) == 1)
            job = await player.ledger.get(jobs[0].key)
            assert job is not None
            await player.save(job)
            await until(lambda: len(outcomes) == 2)
            await player.save(jobs[1])
        assert told(outcomes) == {"Pending": 1, "Saved": 2}


async def test_steps_that_do_not_go_on_are_told_at_the_end(
    queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 1)
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        chain = TextToImage("a fox", then=["upscale:0,1"])
        batch = await begun(cluster, [chain, "a wolf"])
        assert (await batch.plan()).steps == 2
        first, *steps, last = await player.jobs()
        await player.lose(first)
        await player.save(last)
        outcomes = await read(batch)
        assert told(outcomes) == {"Unresolved": 1, "Saved": 1, "Pending": 2}
        for outcome in outcomes[2:]:
            assert isinstance(outcome, Pending)
            assert str(outcome.error) == f"waits for job {first.key}, which is unresolved"
        assert [one.job.seq for one in outcomes[2:]] == [step.seq for step in steps]


async def test_steps_whose_turn_has_come_are_waited_for(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        batch = await begun(cluster, [TextToImage("a fox", then=["upscale:0"])])
        first, step = await player.jobs()
        reading = asyncio.create_task(read(batch))
        await player.save(first)
        await anyio.sleep(0.3)
        assert not reading.done()
        await player.save(step)
        assert told(await reading) == {"Saved": 2}


# --- The end --------------------------------------------------------------------------------------


async def test_a_deadline_ends_the_reading_and_not_the_work(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        batch = cluster.render(LIST, deadline=0.3)
        began = anyio.current_time()
        with pytest.raises(
            BatchTimedOut, match=r"deadline of 0\.3 s has passed; the fleet goes on"
        ):
            await read(batch)
        assert anyio.current_time() - began < 2
        assert len(queued(queue_url)) == 6
        await all_saved(player)
        assert told(await read(cluster.render(LIST))) == {"Saved": 6}


async def test_leaving_the_loop_ends_cleanly(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        async with await begun(cluster, LIST) as batch:
            await all_saved(player)
            async for _ in batch:
                break
        assert batch.summary()[State.SAVED] == 6
        with pytest.raises(RuntimeError, match="iterated once"):
            await read(batch)
        await batch.aclose()
        assert cluster._news._task is None


async def test_closing_it_elsewhere_ends_the_loop(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = await begun(cluster, LIST)
        reading = asyncio.create_task(read(batch))
        await anyio.sleep(0.3)
        await batch.aclose()
        assert await reading == []


async def test_closing_the_cluster_is_an_error_in_the_loop(queue_url: str) -> None:
    """A loop that just ended would say that the list is done."""
    cluster = Cluster(queue_url)
    reading = asyncio.create_task(read(cluster.render(LIST)))
    await until(lambda: cluster._news._lists)
    await cluster.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await reading


async def test_it_is_read_on_over_a_restart_of_the_database(queue_url: str, postgres: Any) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = await begun(cluster, LIST)
        reading = asyncio.create_task(read(batch))
        await anyio.sleep(0.2)
        await anyio.to_thread.run_sync(postgres.restart)
        async with player_on(queue_url) as player:
            await all_saved(player)
        assert told(await reading) == {"Saved": 6}


async def test_a_list_that_waits_without_workers_is_logged(
    queue_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listing, "LOOK_AGAIN", 0.05)
    async with cluster_on(queue_url) as cluster:
        with pytest.raises(BatchTimedOut):
            await read(cluster.render(LIST, deadline=0.5))
        assert "batch default waits, and no worker is alive" in caplog.text


async def test_a_list_that_is_new_to_the_statistics_is_no_slower(queue_url: str) -> None:
    """Its last parts are put aside, and read, as quickly as its first ones."""
    async with cluster_on(queue_url) as cluster:
        for _ in range(2):
            await begun(cluster, [f"fox {number}" for number in range(3000)])
            ask(queue_url, "ANALYZE kie_mj.staged")  # it is empty again
        plan = _plan_of(queue_url, "count_digests", {"staging": 1, "digests": ["a", "b"]})
        assert "staged_by_digest" in plan, plan


def _plan_of(url: str, name: str, values: dict[str, Any]) -> str:
    with psycopg.connect(url) as link:
        link.execute(SQL["by_index_only"])
        rows = link.execute(b"EXPLAIN " + SQL[name], values).fetchall()
    return "\n".join(row[0] for row in rows)


async def test_outcomes_of_a_database_that_was_moved_are_handed_out(queue_url: str) -> None:
    """Another server counts its transactions from elsewhere."""
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        await begun(cluster, LIST)
        await all_saved(player)
        ask(queue_url, "UPDATE kie_mj.job SET told = '999999999'")
        await anyio.to_thread.run_sync(migrate, queue_url)
        assert told(await read(cluster.render(LIST))) == {"Saved": 6}


async def test_what_ends_under_a_number_that_was_given_again_is_handed_out(
    queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash may set the numbers of transactions back behind what was in sight."""
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        batch = await begun(cluster, LIST)
        jobs = await player.jobs()
        await player.fail(jobs[0])
        monkeypatch.setattr(listing, "snapshot", lambda _: "999999:999999:")
        outcomes: list[Outcome] = []
        reading = asyncio.create_task(read(batch, outcomes))
        await until(lambda: outcomes and cluster._news._lists)
        monkeypatch.setattr(listing, "snapshot", snapshot)
        await player.rest(jobs[1])
        for job in jobs[2:]:
            await player.save(job)
        await reading
        assert told(outcomes) == {"Failed": 1, "Pending": 1, "Saved": 4}
        assert len({one.job.key for one in outcomes}) == 6


async def test_a_slow_reader_holds_a_page_and_no_more(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        batch = await begun(cluster, [f"fox {number}" for number in range(2000)])
        # Half of them at once, the others while they are read.
        tell = "UPDATE kie_mj.job SET state = 'saved', told = pg_current_xact_id() WHERE seq "
        ask(queue_url, tell + "<= 1000")
        seen: set[int] = set()
        most = 0
        async for outcome in batch:
            assert outcome.job.seq not in seen
            seen.add(outcome.job.seq)
            if len(seen) == 10:
                ask(queue_url, tell + "> 1000")
            if len(seen) % 250 == 0:
                gc.collect()
                most = max(most, sum(isinstance(one, Job) for one in gc.get_objects()))
        assert len(seen) == 2000
        assert most <= listing.PAGE + 10
