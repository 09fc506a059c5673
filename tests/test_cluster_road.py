"""What a worker does with a job from the queue, from wherever it stands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from cluster_support import ask
from fleet_support import queued
from road_support import FOX, Hand, Yard, files_of, hasten, saved, yard_on
from support import until

from kie_mj_async.cluster import road as module
from kie_mj_async.cluster.books import LeaseLost
from kie_mj_async.cluster.ledger import name_of, parts_of
from kie_mj_async.engine.pipeline import MAX_REPEATS
from kie_mj_async.errors import TaskTimedOut
from kie_mj_async.events import FileSaved
from kie_mj_async.jobs import Job, State, error_of
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle, wire
from kie_mj_async.rules.lifecycle import Move
from kie_mj_async.simulator import Faults

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


async def begin(yard: Yard, name: str, worker: str, *moves: Any) -> Job:
    """Let a worker make these moves."""
    batch, key, _ = parts_of(name)
    ask(yard.url, "INSERT INTO kie_mj.worker (name, host, pid) VALUES (%s, '', 1)", worker)
    async with yard.ledger(batch, worker) as ledger:
        job = await ledger.get(key)
        assert job is not None
        for move in moves:
            job = await ledger.record(job, move)
    return job


# --- From every state -----------------------------------------------------------------------------


async def test_a_job_is_submitted_followed_and_saved(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.worker() as one:
        assert await one.road.submit(name) == "running"
        assert await one.road.collect(name) == "saved"
    await saved(yard, name)


async def test_each_step_may_run_again(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.worker() as one:
        assert [await one.road.submit(name) for _ in range(2)] == ["running"] * 2
        assert [await one.road.collect(name) for _ in range(2)] == ["saved"] * 2
        assert await one.road.submit(name) == "saved"
    await saved(yard, name)


async def test_another_worker_goes_on_with_a_running_task(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.worker("one") as one:
        await one.road.submit(name)
    yard.end("one")
    async with yard.worker("two") as two:
        assert await two.go(name) == "saved"
    await saved(yard, name)


async def test_another_worker_saves_what_the_first_has_not(yard: Yard) -> None:
    (name,) = await yard.put_in()
    first: list[str] = []
    yard.break_with("download.stall=60%")
    with anyio.CancelScope() as scope:

        def stop(event: object) -> None:
            if isinstance(event, FileSaved) and not first:
                first.append(event.file.path)
                scope.cancel()
                one.road.hurry(0)

        async with yard.worker("one", tell=stop) as one:
            await one.go(name)
    yard.break_with("")
    partly = await yard.job(name)
    assert partly.state is State.SUCCEEDED
    assert 1 <= len(partly.files) < 4
    yard.end("one")
    async with yard.worker("two") as two:
        assert await two.go(name) == "saved"
        again = [event.file.path for event in two.told if isinstance(event, FileSaved)]
        assert len(again) == 4 - len(partly.files)
    await saved(yard, name)


async def test_a_name_whose_turn_is_over_does_nothing(yard: Yard) -> None:
    (name,) = await yard.put_in()
    batch, key, _ = parts_of(name)
    async with yard.ledger() as ledger:
        await ledger.rest(key, 1, 60)
    async with yard.worker() as one:
        assert await one.road.submit(name) == await one.road.collect(name) == "over"
        assert yard.paid == []
        assert await one.go(name_of(batch, key, 2)) == "saved"


async def test_a_batch_that_is_gone_does_nothing(yard: Yard) -> None:
    async with yard.worker() as one:
        assert await one.go("nowhere:key") == "over"


# --- Creates that were cut off --------------------------------------------------------------------


async def test_a_create_that_was_cut_off_is_waited_for_and_then_unresolved(yard: Yard) -> None:
    (name,) = await yard.put_in()
    await begin(yard, name, "dead", sent_now())
    yard.end("dead")
    async with yard.worker(request_timeout=0.5) as one:
        began = anyio.current_time()
        assert await one.go(name) == "unresolved"
        assert 0.5 <= anyio.current_time() - began < 2
    assert yard.paid == []
    assert "its worker died before an answer came" in str(error_of(await yard.job(name)))


async def test_a_receipt_that_is_there_is_used_at_once(yard: Yard) -> None:
    (name,) = await yard.put_in()
    job = await begin(yard, name, "dead", sent_now())
    async with yard.worker(request_timeout=30) as one:
        task = await make_task(one)
        yard.end("dead")
        await receive(yard, job, "dead", task)
        assert await one.go(name) == "saved"
    assert (await saved(yard, name)).task_id == task


async def test_a_receipt_that_comes_within_the_time_of_a_create_is_used(yard: Yard) -> None:
    (name,) = await yard.put_in()
    job = await begin(yard, name, "frozen", sent_now())
    yard.end("frozen")
    async with yard.worker(request_timeout=30) as one:
        task = await make_task(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.go, name)
            await anyio.sleep(0.3)
            assert (await yard.job(name)).state is State.SUBMITTING
            await receive(yard, job, "frozen", task)
    assert (await saved(yard, name)).task_id == task


def sent_now() -> Move:
    """The intent of a create that is sent at this moment."""
    return lifecycle.intent(datetime.now(UTC), 25)


async def make_task(hand: Hand) -> str:
    """A task of the account, made beside the fleet's books."""
    answer = await hand.house.transport.create(FOX, may_send=lambda: True)
    assert isinstance(answer, wire.Reply)
    return wire.read_task_id(answer)


async def receive(yard: Yard, job: Job, worker: str, task: str) -> None:
    """The answer of a create reaches a worker whose lease is gone."""
    async with yard.ledger("b", worker) as ledger:
        with suppress(LeaseLost):  # its receipt is kept all the same
            await ledger.catch_up(job, job.attempts, lifecycle.accepted(task, datetime.now(UTC)))


async def test_a_create_of_a_living_worker_is_left_to_it(yard: Yard) -> None:
    (name,) = await yard.put_in()
    await begin(yard, name, "slow", sent_now())
    async with yard.worker(request_timeout=0.1) as one:
        with anyio.move_on_after(0.4) as scope:
            await one.road.submit(name)
        assert scope.cancelled_caught
    assert (await yard.job(name)).state is State.SUBMITTING


async def test_where_repeating_is_allowed_it_is_sent_again_under_another_name(yard: Yard) -> None:
    (name,) = await yard.put_in()
    batch, key, _ = parts_of(name)
    await begin(yard, name, "dead", sent_now())
    yard.end("dead")
    async with yard.worker(request_timeout=0.2, on_unknown="repeat") as one:
        assert await one.go(name) == "over"
        assert yard.paid == []
        assert yard.row(name)["turn"] == 2
        assert await one.go(name_of(batch, key, 2)) == "saved"
    assert (await saved(yard, name)).attempts == 2


async def test_two_workers_at_one_repeated_job_send_it_once(queue_url: str, tmp_path: Path) -> None:
    """One repeats it on the spot, and another one finds it in the queue meanwhile."""
    async with yard_on(queue_url, tmp_path, "create.drop=#1") as yard:
        (name,) = await yard.put_in()
        batch, key, _ = parts_of(name)
        options: dict[str, Any] = {"on_unknown": "repeat", "request_timeout": 5.0}
        async with (
            yard.worker("one", **options) as one,
            yard.worker("two", **options) as two,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(one.go, name)
            await until(lambda: yard.row(name)["turn"] == 2)
            tasks.start_soon(two.go, name_of(batch, key, 2))
        assert (await saved(yard, name)).attempts == 2
        assert len(yard.sim.books()["creates"]) == 2


async def test_a_job_is_not_repeated_for_ever(queue_url: str, tmp_path: Path) -> None:
    async with yard_on(queue_url, tmp_path, "create.drop=100%") as yard:
        (name,) = await yard.put_in()
        batch, key, _ = parts_of(name)
        async with yard.worker(on_unknown="repeat") as one:
            for turn in range(1, MAX_REPEATS + 1):
                await one.go(name_of(batch, key, turn))
        assert (await yard.job(name)).state is State.UNRESOLVED
        assert len(yard.sim.books()["creates"]) == MAX_REPEATS


# --- Refusals and failures ------------------------------------------------------------------------


async def settles(hand: Hand, name: str, on: Callable[[], object], then: Callable[[], None]) -> str:
    """Let a job go on until something holds, do something, and see how it ends."""
    ended: list[str] = []

    async def go() -> None:
        ended.append(await hand.go(name))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        await until(on)
        assert not ended
        then()
    return ended[0]


@pytest.mark.parametrize(("code", "words"), [("401", "401"), ("402", "402")])
async def test_a_refused_key_and_an_empty_account_hold_creates_back_until_it_works(
    queue_url: str, tmp_path: Path, code: str, words: str
) -> None:
    async with yard_on(queue_url, tmp_path, f"create.{code}=100%") as yard:
        names = await yard.put_in(FOX, TextToImage("an owl"))
        async with yard.worker() as one, anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(one.go, name)
            await until(lambda: one.sending.trouble)
            assert words in (one.sending.trouble or "")
            asked = len(yard.sim.books()["creates"])
            await anyio.sleep(0.1)
            assert len(yard.sim.books()["creates"]) == asked, "nothing is sent in the pause"
            yard.break_with("")
        assert one.sending.trouble is None
        assert {(await yard.job(name)).state for name in names} == {State.SAVED}
        assert len(yard.paid) == 2


@pytest.mark.slow
async def test_jobs_that_wait_for_the_window_are_held_back_too(
    queue_url: str, tmp_path: Path
) -> None:
    """They have passed the look at what holds them back before it came."""
    async with yard_on(queue_url, tmp_path, "create.402=100%", scale=0.05) as yard:
        names = await yard.put_in(*(TextToImage(f"fox {n}") for n in range(30)))
        async with yard.worker() as one:
            with anyio.move_on_after(0.5):
                async with anyio.create_task_group() as tasks:
                    for name in names:
                        tasks.start_soon(one.road.submit, name)
                    await until(lambda: one.sending.trouble)
                    one.sending._until += 60
                    asked = len(yard.sim.books()["creates"])
                    await anyio.sleep_forever()
            assert len(yard.sim.books()["creates"]) <= 20
            assert len(yard.sim.books()["creates"]) - asked <= 20 - asked + 1
        assert {(await yard.job(name)).state for name in names} == {State.PLANNED}


@pytest.mark.parametrize(
    "faults",
    [
        "create.429=#1",
        pytest.param("create.455=#1", marks=pytest.mark.slow),
        pytest.param("create.429-bare=#1", marks=pytest.mark.slow),
    ],
)
async def test_later_again_is_later_again(queue_url: str, tmp_path: Path, faults: str) -> None:
    async with yard_on(queue_url, tmp_path, faults) as yard:
        (name,) = await yard.put_in()
        async with yard.worker() as one:
            assert await one.go(name) == "saved"
        await saved(yard, name)


async def test_an_answer_that_says_nothing_parks_the_job_and_holds_nobody_up(
    queue_url: str, tmp_path: Path
) -> None:
    async with yard_on(queue_url, tmp_path, "create.500-charged=#1") as yard:
        lost, good = await yard.put_in(FOX, TextToImage("an owl"))
        async with yard.worker() as one:
            assert await one.go(lost) == "unresolved"
            assert await one.go(good) == "saved"
            assert one.sending.trouble is None


async def test_a_failing_prompt_ends_as_failed(queue_url: str, tmp_path: Path) -> None:
    async with yard_on(queue_url, tmp_path, "task.fail=#1,create.400=#2") as yard:
        names = await yard.put_in(FOX, TextToImage("an owl"))
        async with yard.worker() as one:
            assert [await one.go(name) for name in names] == ["failed", "failed"]
            assert one.saving.trouble is one.sending.trouble is None


async def test_a_refused_key_while_tasks_run_loses_nothing(queue_url: str, tmp_path: Path) -> None:
    async with yard_on(queue_url, tmp_path, "poll.401=100%") as yard:
        (name,) = await yard.put_in()
        async with yard.worker() as one:
            ended = await settles(
                one, name, lambda: one.saving.trouble, lambda: yard.break_with("")
            )
            assert ended == "saved"
            assert one.saving.trouble is None
        await saved(yard, name)


# --- Results --------------------------------------------------------------------------------------


async def test_a_folder_that_cannot_be_written_is_waited_for(yard: Yard) -> None:
    (name,) = await yard.put_in()
    in_the_way = Path(yard.out)
    in_the_way.write_text("no folder")
    async with yard.worker() as one:
        ended = await settles(one, name, lambda: one.saving.trouble, in_the_way.unlink)
        assert ended == "saved"
        assert one.saving.trouble is None
    await saved(yard, name)


async def test_a_folder_that_was_taken_away_is_made_again(yard: Yard) -> None:
    first, second = await yard.put_in(FOX, TextToImage("an owl"))
    async with yard.worker() as one:
        assert await one.go(first) == "saved"
        shutil.rmtree(yard.out)
        assert await one.go(second) == "saved"
        assert yard.pictures() == files_of(await yard.job(second))


async def test_what_cannot_be_saved_is_not_paid(yard: Yard) -> None:
    first, second = await yard.put_in(FOX, TextToImage("an owl"))
    in_the_way = Path(yard.out)
    in_the_way.write_text("no folder")
    async with yard.worker() as one, anyio.create_task_group() as tasks:
        tasks.start_soon(one.go, first)
        await until(lambda: one.saving.trouble)
        one.saving._until += 60
        tasks.start_soon(one.go, second)
        await anyio.sleep(0.3)
        assert len(yard.paid) == 1
        tasks.cancel_scope.cancel()


async def test_a_batch_of_another_host_rests_and_costs_nothing(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.ledger() as ledger:
        await ledger.bind("https://another.example", "/elsewhere")
    async with yard.worker() as one:
        assert await one.go(name) == "over"
    assert yard.paid == []
    assert (await yard.job(name)).state is State.PLANNED
    row = yard.row(name)
    assert (row["queued"], row["turn"]) == (False, 2)
    assert row["rests"] == pytest.approx(module.ASTRAY, abs=5)


async def test_a_settled_job_of_another_host_is_over(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.worker() as one:
        await one.go(name)
        ask(yard.url, "UPDATE kie_mj.batch SET host = 'https://another.example'")
        one.road._ways.clear()
        with anyio.fail_after(5):
            assert await one.go(name) == "saved"


async def test_a_store_that_this_worker_cannot_use_lets_its_jobs_rest(yard: Yard) -> None:
    (name,) = await yard.put_in()
    async with yard.ledger() as ledger:
        await ledger.bind("sim", "ftp://nowhere/b")
    async with yard.worker() as one:
        assert await one.go(name) == "over"
        assert one.saving.trouble is None
    assert (await yard.job(name)).state is State.RUNNING
    assert yard.row(name)["rests"] == pytest.approx(module.ASTRAY, abs=5)


@pytest.mark.slow
async def test_a_task_that_takes_too_long_rests_and_is_saved_in_the_end(yard: Yard) -> None:
    (name,) = await yard.put_in()
    batch, key, _ = parts_of(name)
    yard.sim.world.faults = Faults.parse("task.slow=100%")
    async with yard.worker(job_timeout=0.1) as one:
        assert await one.go(name) == "over"
        assert isinstance(error_of(await yard.job(name)), TaskTimedOut)
        assert yard.row(name)["rests"] == pytest.approx(module.REST_FIRST, abs=5)
        ask(yard.url, "UPDATE kie_mj.job SET rest_until = 0")
        async with yard.ledger() as ledger:
            assert await ledger.enqueue() == 1
        again = name_of(batch, key, 2)
        assert again in queued(yard.url)
    async with yard.worker("two") as two:
        assert await two.go(again) == "saved"
    await saved(yard, name)


@pytest.mark.parametrize(
    "faults",
    ["download.404=100%", pytest.param("download.html=100%", marks=pytest.mark.slow)],
)
async def test_results_that_cannot_be_had_rest_and_are_saved_later(yard: Yard, faults: str) -> None:
    first, second = await yard.put_in(FOX, TextToImage("an owl"))
    batch, key, _ = parts_of(first)
    yard.break_with(faults)
    async with yard.worker() as one:
        assert await one.go(first) == "over"
        assert one.saving.trouble is None, "others are not held up"
        yard.break_with("")
        assert await one.go(second) == "saved"
        assert await one.go(name_of(batch, key, 2)) == "saved"
    assert len(yard.paid) == 2


async def test_a_job_rests_longer_each_time() -> None:
    rests = [module.rest_after(turn) for turn in (1, 2, 3, 10, 10_000)]
    assert rests == [60, 120, 240, 3600, 3600]


async def test_two_workers_that_save_one_job_leave_no_second_files(yard: Yard) -> None:
    """As when one that was frozen in the middle comes back."""
    (name,) = await yard.put_in()
    async with yard.worker("one") as one, yard.worker("two") as two:
        await one.road.submit(name)
        job = await yard.job(name)
        await until(lambda: yard.sim.books()["tasks"][job.task_id]["state"] != "running")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.road.collect, name)
            tasks.start_soon(two.road.collect, name)
    await saved(yard, name)
    assert not [*Path(yard.out).rglob("*.part")]


# --- Chains ---------------------------------------------------------------------------------------


async def test_a_step_is_queued_when_the_job_before_it_has_ended(yard: Yard) -> None:
    first, step = await yard.put_in(TextToImage("x", then=["upscale:0"]))
    async with yard.worker() as one:
        assert queued(yard.url) == [first]
        await one.go(first)
        assert sorted(queued(yard.url)) == sorted([first, step])
        assert await one.go(step) == "saved"
    assert len(yard.paid) == 2


async def test_a_step_is_queued_though_the_worker_died_before_it_could(yard: Yard) -> None:
    first, step = await yard.put_in(TextToImage("x", then=["upscale:0"]))
    async with yard.worker("one") as one:
        await one.road.submit(first)
        async with yard.ledger("b", "one") as ledger:
            job = await ledger.get(parts_of(first)[1])
            assert job is not None
            to = await one.road._destination(one.road._ways["b"])
            await one.road._ways["b"].pipeline.travel(job, to, 10)
    assert (await yard.job(first)).state is State.SAVED
    assert queued(yard.url) == [first]
    async with yard.worker("two") as two:
        assert await two.go(first) == "saved"
    assert step in queued(yard.url)


async def test_a_step_behind_a_failed_job_fails_unpaid(queue_url: str, tmp_path: Path) -> None:
    async with yard_on(queue_url, tmp_path, "task.fail=#1") as yard:
        first, step = await yard.put_in(TextToImage("x", then=["upscale:0"]))
        async with yard.worker() as one:
            assert await one.go(first) == "failed"
            assert step in queued(yard.url)
            assert await one.go(step) == "failed"
        assert len(yard.sim.books()["creates"]) == 1


async def test_a_step_whose_parent_set_out_again_rests_and_holds_nobody_up(
    queue_url: str, tmp_path: Path
) -> None:
    async with yard_on(queue_url, tmp_path, "task.fail=#1") as yard:
        first, step = await yard.put_in(TextToImage("x", then=["upscale:0"]))
        async with yard.worker() as one:
            assert await one.go(first) == "failed"
            async with yard.ledger() as ledger:
                await ledger.record(await yard.job(first), lifecycle.retried())
            with anyio.fail_after(3):
                assert await one.go(step) == "over"
            assert one.sending.trouble is None
            assert yard.row(step)["queued"] is False
        assert (await yard.job(step)).state is State.PLANNED


# --- Batches at hand ------------------------------------------------------------------------------


async def test_batches_at_hand_stay_bounded(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAYS", 2)
    names = [(await yard.put_in(FOX, batch=f"b{number}"))[0] for number in range(5)]
    async with yard.worker() as one:
        for name in names:
            assert await one.go(name) == "saved"
        assert list(one.road._ways) == ["b3", "b4"]
        folders = [*Path(yard.out).glob(".kie-mj/workers/one/parts/*")]
        assert sorted(folder.name for folder in folders) == ["b3", "b4"]
        assert await one.go(names[0]) == "saved"


async def test_a_batch_that_is_worked_on_stays_at_hand(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAYS", 0)
    (name,) = await yard.put_in()
    async with yard.worker() as one:
        async with one.road._way("b") as way, one.road._way("b") as again:
            assert way is again
        assert not one.road._ways
        assert await one.go(name) == "saved"
