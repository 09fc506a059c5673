"""What a web replica holds: jobs in, results out, and decisions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from cluster_support import ask
from fleet_support import AT, CONTENT, cluster_on, folder_with, player_on, queued, until

from kie_mj_async.cluster import Cluster, QueuedJob, client
from kie_mj_async.cluster.schema import migrate
from kie_mj_async.errors import (
    ConfigError,
    InvalidRequest,
    KieError,
    LedgerError,
    ReplyLost,
    ResultExpired,
    TaskFailed,
    TaskTimedOut,
)
from kie_mj_async.jobs import State
from kie_mj_async.requests import ImageToImage, TextToImage
from kie_mj_async.rules import lifecycle

pytestmark = pytest.mark.anyio


# --- The package ----------------------------------------------------------------------------------


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_client_needs_neither_dbos_nor_sqlalchemy() -> None:
    assert not run(
        "import sys; from kie_mj_async.cluster import *; "
        "print(*(name for name in ('dbos', 'sqlalchemy') if name in sys.modules))"
    ).strip()


def test_without_the_extra_it_says_what_to_install() -> None:
    said = run(
        "import sys; sys.modules['psycopg'] = None\n"
        "import kie_mj_async.cluster\n"
        "try:\n    from kie_mj_async.cluster import Cluster\n"
        "except ImportError as error:\n    print(error)"
    )
    assert "pip install 'kie-mj-async[cluster]'" in said


def test_the_package_has_nothing_else_to_offer() -> None:
    import kie_mj_async.cluster as package

    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match="nobody"):
        _ = package.nobody  # type: ignore[attr-defined]


def test_a_url_is_checked_and_never_shown_with_its_password() -> None:
    with pytest.raises(ConfigError, match="a database URL looks like"):
        Cluster("mysql://x/y")
    assert "secret" not in repr(Cluster("postgresql://me:secret@db/app"))


VERBS = {
    "enter": lambda cluster: cluster.__aenter__(),
    "submit": lambda cluster: cluster.submit("a fox"),
    "render": lambda cluster: cluster.render(["a fox"]).plan(),
    "resolve": lambda cluster: cluster.resolve("retry"),
    "status": lambda cluster: cluster.status(),
    "look": lambda cluster: cluster.job("k").look(),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_says_how_to_make_the_tables(database: str, verb: str) -> None:
    async def ask_for_it() -> None:
        cluster = Cluster(database)
        try:
            await VERBS[verb](cluster)
        finally:
            await cluster.aclose()

    with pytest.raises(LedgerError, match="no tables of ours yet; run: kie-mj cluster migrate"):
        await ask_for_it()
    await anyio.to_thread.run_sync(migrate, database)
    with pytest.raises(LedgerError, match="there is no queue in it yet; run: kie-mj cluster migr"):
        await ask_for_it()


# --- Jobs in --------------------------------------------------------------------------------------


async def test_a_job_is_in_the_books_and_the_queue_when_submit_returns(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        named = await cluster.submit("a fox", speed="fast", key="order-17", batch="shop")
        other = await cluster.submit(TextToImage("a fox"), batch="shop")
        assert (named.key, named.batch) == ("order-17", "shop")
        assert repr(named) == "QueuedJob('order-17', batch='shop')"
        assert sorted(queued(queue_url)) == ["shop:named-order-17", f"shop:{other.key}"]
        job = await named.look()
        assert (job.state, job.key, job.prompt) == (State.PLANNED, "named-order-17", "a fox")
        assert (await cluster.job(other.key, batch="shop").look()).key == other.key
        assert (await cluster.job(job.key, batch="shop").look()) == job


async def test_a_job_that_cannot_be_queued_is_not_in_the_books(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        ask(queue_url, "ALTER TABLE kie_mj_dbos.workflow_status RENAME TO elsewhere")
        with pytest.raises(LedgerError, match="workflow_status"):
            await cluster.submit("a fox", key="k")
        ask(queue_url, "ALTER TABLE kie_mj_dbos.elsewhere RENAME TO workflow_status")
        assert ask(queue_url, "SELECT count(*) FROM kie_mj.job") == [(0,)]
        await cluster.submit("a fox", key="k")
        assert queued(queue_url) == ["default:named-k"]


async def test_a_key_attaches_to_the_job_that_is_there(queue_url: str) -> None:
    async with cluster_on(queue_url) as one, cluster_on(queue_url) as two:
        made: list[QueuedJob] = await asyncio.gather(
            *(cluster.submit("a fox", key="k") for cluster in (one, two, one, two))
        )
        assert {(await job.look()).seq for job in made} == {(await made[0].look()).seq}
        assert queued(queue_url) == ["default:named-k"]
        with pytest.raises(InvalidRequest, match="'k' is the name of a job with another request"):
            await two.submit("a wolf", key="k")
        assert len(queued(queue_url)) == 1


async def test_a_key_brings_a_job_back_that_rests(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        job = await cluster.submit("a fox", key="k")
        await player.rest(await job.look())
        await cluster.submit("a fox", key="k")
        assert queued(queue_url) == ["default:named-k", "default~2:named-k"]


async def test_a_users_own_name_goes_before_a_key_that_looks_like_it(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        for key in ("a", "named-a"):
            await cluster.submit(f"for {key}", key=key)
        for key in ("a", "named-a"):
            assert (await cluster.job(key).look()).prompt == f"for {key}"


@pytest.mark.parametrize("image", ["fox.png", Path("fox.png"), b"\x89PNG"])
async def test_an_image_that_is_here_only_is_refused(queue_url: str, image: Any) -> None:
    async with cluster_on(queue_url) as cluster:
        with pytest.raises(InvalidRequest, match=r"image.*by their URL") as caught:
            await cluster.submit("a fox", image=image)
        assert caught.value.field == "image"
        await cluster.submit(ImageToImage("a fox", image="https://files.example/fox.png"))
        assert ask(queue_url, "SELECT count(*) FROM kie_mj.job") == [(1,)]


async def test_what_cannot_be_asked_for_is_refused_before_anything_is_written(
    queue_url: str,
) -> None:
    async with cluster_on(queue_url) as cluster:
        with pytest.raises(InvalidRequest, match="speed"):
            await cluster.submit("a fox", speed="sideways")
        with pytest.raises(ConfigError, match="timeout"):
            await cluster.generate("a fox", timeout=0)
        with pytest.raises(ConfigError, match="batch: 'a:b'"):
            await cluster.submit("a fox", batch="a:b")
        assert ask(queue_url, "SELECT count(*) FROM kie_mj.batch") == [(0,)]


# --- Results out ----------------------------------------------------------------------------------


async def test_generate_waits_until_the_fleet_has_saved_it(queue_url: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    async with cluster_on(queue_url) as cluster, player_on(queue_url, out=str(shared)) as player:

        async def work() -> None:
            await until(lambda: queued(queue_url))
            job = (await player.jobs())[0]
            await anyio.sleep(0.2)
            folder_with(shared, await player.save(job, CONTENT, CONTENT))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            made = await cluster.generate("a fox", key="k", timeout=20)
        assert made.task_id == "task-named-k"
        assert made.locations == (str(shared / "1_0.jpeg"), str(shared / "1_1.jpeg"))
        assert len(made.urls) == 2
        assert cluster._news._task is None or await _ends(cluster)
        paths = await made.save(tmp_path / "mine")
        assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
        # And again, from wherever.
        async with cluster_on(queue_url) as other:
            assert await other.job("k").wait(5) == made


async def _ends(cluster: Cluster) -> bool:
    """Nobody waits, so nobody looks."""
    await until(lambda: cluster._news._task is None)
    return True


@pytest.mark.parametrize(
    ("fate", "error", "billed"),
    [
        ("fail", TaskFailed, "no"),
        ("expire", ResultExpired, "yes"),
        ("lose", ReplyLost, "unknown"),
    ],
)
async def test_a_job_that_ends_badly_raises_its_error(
    queue_url: str, fate: str, error: type[KieError], billed: str
) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        job = await cluster.submit("a fox", key="k")
        await getattr(player, fate)(await job.look())
        with pytest.raises(error) as caught:
            await cluster.generate("a fox", key="k", timeout=5)
        assert caught.value.billed == billed


async def test_a_job_that_was_given_up_raises(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        job = await cluster.submit("a fox")
        await player.lose(await job.look())
        assert await cluster.resolve("abandon") == 1
        with pytest.raises(KieError, match="given up by you"):
            await job.wait(5)


async def test_a_wait_that_is_over_says_how_to_come_back(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url, "shop") as player:
        job = await cluster.submit("a fox", key="k", batch="shop")
        back = r"cluster\.job\('k', batch='shop'\)\.wait\(\)"
        with pytest.raises(TaskTimedOut, match=back) as caught:
            await job.wait(0.1)
        assert caught.value.billed == "no"
        assert "no worker is alive: start one with kie-mj worker" in str(caught.value)
        ask(queue_url, "INSERT INTO kie_mj.worker (name, host, pid) VALUES ('w', 'h', 1)")
        await player.rest(await job.look())
        with pytest.raises(TaskTimedOut, match=r"within 0\.1 s \(the disk is full\)") as caught:
            await job.wait(0.1)
        assert (caught.value.task_id, caught.value.billed) == ("task-named-k", "yes")
        assert "no worker" not in str(caught.value)


async def test_a_job_that_goes_on_after_a_rest_is_waited_for(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        job = await cluster.submit("a fox")

        async def work() -> None:
            await player.hold_back(await job.look(), 0)
            await anyio.sleep(0.2)
            await player.save(await job.look())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            made = await job.wait(10)
        assert made.locations == ("/renders/1_0.jpeg",)


async def test_the_files_of_a_batch_are_listed_from_the_books(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url, "b") as player:
        for number in range(3):
            await cluster.submit(f"fox {number}", batch="b")
        first, _, last = await player.jobs()
        await player.save(first, CONTENT, CONTENT)
        await player.save(last)
        found = [(job.seq, file.path) async for job, file in cluster.files("b")]
        assert found == [(1, "1_0.jpeg"), (1, "1_1.jpeg"), (3, "3_0.jpeg")]
        with pytest.raises(LedgerError, match="there is no batch 'nobody'"):
            await anext(cluster.files("nobody"))


async def test_a_job_that_nobody_made_cannot_be_waited_for(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        with pytest.raises(InvalidRequest, match="batch default has no job 'k'"):
            await cluster.job("k").wait(5)
        with pytest.raises(InvalidRequest, match="batch nobody has no job 'k'"):
            await cluster.job("k", batch="nobody").look()


async def test_a_wait_outlasts_a_restart_of_the_database(queue_url: str, postgres: Any) -> None:
    async with cluster_on(queue_url) as cluster:
        job = await cluster.submit("a fox", key="k")
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(postgres.restart)
                async with player_on(queue_url) as player:
                    await player.save((await player.jobs())[0])

            tasks.start_soon(work)
            made = await job.wait(20)
        assert made.task_id == "task-named-k"


async def test_a_waits_deadline_counts_while_the_database_is_away(
    queue_url: str,
    postgres: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client, "LOOK_AGAIN", 0.2)
    async with cluster_on(queue_url) as cluster:
        job = await cluster.submit("a fox")
        cluster._books._patience = 0.3
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(postgres.stop)

            tasks.start_soon(work)
            began = anyio.current_time()
            with pytest.raises(TaskTimedOut):
                await job.wait(2.0)
            assert 2.0 <= anyio.current_time() - began < 4.0
        assert f"job {job.key}: " in caplog.text


async def test_closing_tells_whoever_waits(queue_url: str) -> None:
    cluster = Cluster(queue_url)
    job = await cluster.submit("a fox")
    wait = asyncio.create_task(job.wait(20))
    await anyio.sleep(0.3)
    await cluster.aclose()
    with pytest.raises(LedgerError, match="is closed already"):
        await wait


# --- Decisions ------------------------------------------------------------------------------------


def _again(url: str) -> set[str]:
    return {name for name in queued(url) if "~" in name}


async def test_a_job_that_is_retried_is_queued_again_under_its_next_turn(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        jobs = [await cluster.submit("a fox", key=key) for key in "abc"]
        for job in jobs[:2]:
            await player.lose(await job.look())
        await player.fail(await jobs[2].look())
        assert await cluster.resolve("retry") == 2
        assert {"default~2:named-a", "default~2:named-b"} == _again(queue_url)
        assert await cluster.resolve("retry", "c") == 1
        assert "default~2:named-c" in _again(queue_url)
        assert {(await job.look()).state for job in jobs} == {State.PLANNED}
        assert await cluster.resolve("retry") == 0


async def test_a_create_under_way_is_no_unresolved_one(queue_url: str) -> None:
    """Whoever decides does not take what workers are sending for lost."""
    async with cluster_on(queue_url) as cluster, player_on(queue_url) as player:
        job = await cluster.submit("a fox")
        await player.play(await job.look(), lifecycle.intent(AT, 25))
        assert await cluster.resolve("retry") == 0
        assert (await job.look()).state is State.SUBMITTING


async def test_a_decision_is_about_jobs_that_are_there(queue_url: str) -> None:
    async with cluster_on(queue_url) as cluster:
        with pytest.raises(LedgerError, match="there is no batch 'nobody'"):
            await cluster.resolve("retry", batch="nobody")
        await cluster.submit("a fox", key="k")
        with pytest.raises(InvalidRequest, match="no job has a key"):
            await cluster.resolve("abandon", "x")
        with pytest.raises(InvalidRequest, match="is planned; only a job that is unresolved"):
            await cluster.resolve("abandon", "k")
        with pytest.raises(ConfigError, match="decision"):
            await cluster.resolve("forget")  # type: ignore[arg-type]
