"""What a client tells while it works: each event at its time, with what it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeGuard

import anyio
import pytest
from support import KEY, answering, http, until
from told_support import QUICK, sim_client, simulated, without_waiting
from told_support import heard as witnessed

from kie_mj_async import Client, KieError, Progress, TaskTimedOut, events
from kie_mj_async.errors import LedgerError
from kie_mj_async.events import (
    BatchEnded,
    CallEnded,
    ClientClosed,
    CreatesPaused,
    Event,
    FileSaved,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    Planned,
    RateLimited,
    Retrying,
)
from kie_mj_async.jobs import Expired, Failed, Job, Saved, Unresolved
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.logs import ids
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.settings import scaled_time
from kie_mj_async.tasks import Task

ONE: Final = Rate(1, 0.5)
"""So that most jobs wait for their turn."""

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.fixture
def heard() -> list[Event]:
    return []


async def rendered(
    heard: list[Event], out: Path, faults: str = "", prompts: int = 3
) -> list[Progress]:
    """Render a few prompts; how far it was at each event."""
    seen: list[Progress] = []
    async with simulated(faults) as sim, sim_client(sim, on_event=heard.append) as client:
        batch = client.render([f"a fox no. {n}" for n in range(prompts)], out)
        with client.subscribe(lambda _: seen.append(batch.progress())):
            async for _ in batch:
                pass
        seen.append(batch.progress())
    return seen


def kinds(heard: list[Event]) -> Counter[str]:
    return Counter(type(one).__name__ for one in heard)


async def test_a_batch_tells_of_each_step(heard: list[Event], tmp_path: Path) -> None:
    """Each job sets out, is accepted, made, saved file by file, and ends; in that order."""
    await rendered(heard, tmp_path)
    told = kinds(heard)
    assert (told["JobStarted"], told["JobSubmitted"], told["JobSucceeded"]) == (3, 3, 3)
    assert (told["FileSaved"], told["JobEnded"], told["JobHeldBack"]) == (12, 3, 0)
    planned = next(one for one in heard if isinstance(one, Planned))
    started = next(one for one in heard if isinstance(one, JobStarted))
    assert planned.batch == started.batch == str(tmp_path)
    key = started.job.key
    steps = [
        type(one)
        for one in heard
        if isinstance(one, JobStarted | JobSubmitted | JobSucceeded | FileSaved)
        and one.job.key == key
    ]
    assert steps == [JobStarted, JobSubmitted, JobSucceeded, *[FileSaved] * 4]
    assert all(one.seconds > 0 for one in heard if isinstance(one, FileSaved))


async def test_calls_are_told_with_what_they_are_about(heard: list[Event], tmp_path: Path) -> None:
    """The endpoint, the answer, the time it took, and the job and task it was made for."""
    await rendered(heard, tmp_path, prompts=1)
    calls = [one for one in heard if isinstance(one, CallEnded)]
    creates = [one for one in calls if one.call == "create"]
    looks = [one for one in calls if one.call == "record-info"]
    submitted = next(one for one in heard if isinstance(one, JobSubmitted))
    assert [(one.method, one.status, one.code, one.error) for one in creates] == [
        ("POST", 200, 200, None)
    ]
    assert creates[0].url.endswith("/api/v1/mj/generate")
    assert looks
    for one in looks:
        assert one.about.job == submitted.job.key
        assert one.about.task_id == submitted.job.task_id
        assert one.about.batch == str(tmp_path)
        assert "?" not in one.url
    assert all(0 < one.seconds < 10 for one in calls)


async def test_refusals_and_repetitions_are_told(heard: list[Event], tmp_path: Path) -> None:
    """A 429 of a create, a look that failed, a transfer that broke off: each with its reason."""
    await rendered(
        heard, tmp_path, "create.429=#1,create.retry-after=#1,poll.500=#1,download.503=#1"
    )
    refused = [one for one in heard if isinstance(one, RateLimited)]
    assert [one.call for one in refused] == ["create"]
    assert refused[0].seconds is not None
    again = {one.what: one for one in heard if isinstance(one, Retrying)}
    assert set(again) == {"look", "file"}
    for one in again.values():
        assert one.failures == 1
        assert one.seconds > 0
        assert isinstance(one.error, KieError)
        assert one.about.batch == str(tmp_path)
        assert one.about.task_id
        assert one.about.job
    failed = [one for one in heard if isinstance(one, CallEnded) and one.error]
    assert {(one.call, one.code) for one in failed} == {("create", 429), ("record-info", 500)}


async def test_a_lost_reply_is_told(heard: list[Event], tmp_path: Path) -> None:
    """The create's call has no status, and the job ends unresolved."""
    await rendered(heard, tmp_path, "create.drop-reply=#1", prompts=1)
    create = next(one for one in heard if isinstance(one, CallEnded) and one.call == "create")
    assert (create.status, create.code) == (None, None)
    assert create.error
    end = next(one for one in heard if isinstance(one, JobEnded))
    assert isinstance(end.outcome, Unresolved)


async def test_jobs_that_were_not_sent_are_told(heard: list[Event], tmp_path: Path) -> None:
    """When the credits are gone, what had set out is put back; whatever sets out comes to an end."""
    with pytest.raises(KieError):
        await rendered(heard, tmp_path, "create.402=#2", prompts=6)
    told = kinds(heard)
    assert told["JobHeldBack"] >= 1
    assert told["JobStarted"] == told["JobEnded"] + told["JobHeldBack"]
    held = next(one for one in heard if isinstance(one, JobHeldBack))
    assert held.job.task_id is None


async def test_a_single_job_tells_the_same(heard: list[Event], tmp_path: Path) -> None:
    """``generate`` and ``save`` tell what a batch does, without a batch."""
    async with simulated() as sim, sim_client(sim, on_event=heard.append) as client:
        result = await client.generate("a fox")
        await result.save(tmp_path)
    steps = [type(one) for one in heard if not isinstance(one, CallEnded)]
    assert steps == [JobStarted, JobSubmitted, JobSucceeded, *[FileSaved] * 4, ClientClosed]
    started = heard[0]
    assert isinstance(started, JobStarted)
    assert started.batch is None
    assert {one.job.task_id for one in heard if isinstance(one, FileSaved)} == {result.task_id}


@pytest.mark.parametrize("durable", [False, True])
async def test_a_single_job_that_fails_is_told(
    heard: list[Event], tmp_path: Path, durable: bool
) -> None:
    """Its end, with its error; with a ledger and without."""
    ledger = tmp_path / "app.sqlite3" if durable else None
    async with simulated("task.fail=#1") as sim:
        with scaled_time(sim.url, QUICK):
            client = Client(KEY, base_url=sim.url, ledger=ledger, on_event=heard.append)
        async with client:
            with pytest.raises(KieError):
                await client.generate("a fox")
    ends = [one for one in heard if isinstance(one, JobEnded)]
    assert len(ends) == 1
    assert isinstance(ends[0].outcome, Failed)
    assert kinds(heard)["CreditsReturned"] == 1


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("faults", ["", "task.fail=#1"])
async def test_the_end_of_a_single_task_is_told_once(
    heard: list[Event], tmp_path: Path, durable: bool, faults: str
) -> None:
    """However many wait for it, at once and later, with its task and by its id."""
    ledger = tmp_path / "app.sqlite3" if durable else None
    async with simulated(faults) as sim:
        with scaled_time(sim.url, QUICK):
            client = Client(KEY, base_url=sim.url, ledger=ledger, on_event=heard.append)
        async with client:
            task = await client.submit("a fox")

            async def wait(one: Task) -> None:
                with suppress(KieError):
                    await one.wait()

            async with anyio.create_task_group() as tasks:
                for one in (task, task, client.task(task.task_id)):
                    tasks.start_soon(wait, one)
            await wait(task)
            await wait(client.task(task.task_id))
    told = kinds(heard)
    assert told["JobSucceeded"] + told["JobEnded"] == 1
    assert told["CreditsReturned"] == bool(faults)


async def test_a_single_task_that_is_gone_is_told(
    heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kie_mj_async.engine.poll_scheduler.NOT_YET", 0.0)
    async with simulated() as sim, sim_client(sim, on_event=heard.append) as client:
        with pytest.raises(KieError):
            await client.task("0" * 32).wait()
    (end,) = (one for one in heard if isinstance(one, JobEnded))
    assert isinstance(end.outcome, Expired)


async def test_a_single_job_that_is_given_up_before_it_is_sent(heard: list[Event]) -> None:
    """It had set out and was not sent; what was sent is nobody's to tell of any more."""
    async with simulated() as sim, sim_client(sim, on_event=heard.append, rate=ONE) as client:
        await client.submit("a fox")
        with anyio.move_on_after(0.05):
            await client.submit("an owl")
    told = [one for one in heard if isinstance(one, JobStarted | JobSubmitted | JobHeldBack)]
    assert [type(one) for one in told] == [JobStarted, JobSubmitted, JobStarted, JobHeldBack]
    assert told[-1].job.prompt == "an owl"


async def test_a_wait_that_runs_out_tells_nothing(heard: list[Event]) -> None:
    """The task goes on, and another wait may see its end."""
    async with simulated() as sim, sim_client(sim, on_event=heard.append) as client:
        task = await client.submit("a fox")
        with pytest.raises(TaskTimedOut):
            await task.wait(0.001)
        assert kinds(heard)["JobEnded"] == 0
        await task.wait()
    assert kinds(heard)["JobSucceeded"] == 1


async def test_a_known_job_does_not_set_out_again(heard: list[Event], tmp_path: Path) -> None:
    """A key that the ledger knows, of a job that has results or has failed."""
    async with simulated("task.fail=#2") as sim:
        with scaled_time(sim.url, QUICK):
            client = Client(
                KEY, base_url=sim.url, ledger=tmp_path / "app.sqlite3", on_event=heard.append
            )
        async with client:
            await client.generate("a fox", key="fox")
            with pytest.raises(KieError):
                await client.generate("an owl", key="owl")
            del heard[:]
            await client.generate("a fox", key="fox")
            with pytest.raises(KieError):
                await client.generate("an owl", key="owl")
    told = [one for one in heard if not isinstance(one, CallEnded | ClientClosed)]
    assert len(told) == 1
    assert isinstance(told[0], JobEnded)
    assert told[0].earlier


async def test_a_task_by_its_id_is_a_job_too(heard: list[Event], tmp_path: Path) -> None:
    """Its results and files are told as those of a job that is called after its task."""
    async with simulated() as sim:
        async with sim_client(sim) as client:
            task_id = (await client.generate("a fox")).task_id
        async with sim_client(sim, on_event=heard.append) as client:
            made = await client.task(task_id).wait()
            await made.save(tmp_path)
    jobs = [one.job for one in heard if isinstance(one, JobSucceeded | FileSaved)]
    assert len(jobs) == 5
    assert {one.key for one in jobs} == {f"task-{task_id}"}


async def test_a_listener_is_told_in_the_context_of_the_work(tmp_path: Path) -> None:
    """A function is called where it happens, so that it can see whose work it is."""
    seen: list[str | None] = []

    def listen(event: Event) -> None:
        if isinstance(event, JobStarted | FileSaved | JobEnded):
            seen.append(ids().batch)

    async with simulated() as sim, sim_client(sim, on_event=listen) as client:
        async for _ in client.render(["a fox"], tmp_path):
            pass
    assert seen == [str(tmp_path)] * 6


async def test_progress_is_the_events_in_numbers(heard: list[Event], tmp_path: Path) -> None:
    """At each moment of a batch, and once more at its end."""
    seen = await rendered(heard, tmp_path, "task.fail=#2")
    last = seen[-1]
    assert (last.total, last.ended, last.saved, last.failed) == (3, 3, 2, 1)
    assert (last.files, last.credits, last.running) == (8, 50, 0)
    assert last.bytes == sum(one.file.bytes for one in heard if isinstance(one, FileSaved))
    assert last.eta is not None
    assert last.eta.middle == 0
    assert last.rate > 0
    assert last.elapsed > 0
    totals = [one.ended for one in seen]
    assert totals == sorted(totals)
    assert max(one.running for one in seen) == 3


async def test_the_numbers_are_those_of_the_books(heard: list[Event], tmp_path: Path) -> None:
    """What a troubled run counts is what the service has charged, and every job has its end."""
    faults = (
        "create.429=#3,create.drop-reply=#5,task.fail=#2,poll.500=10%,poll.html=#4,download.503=#1"
    )
    async with simulated(faults) as sim, sim_client(sim, on_event=heard.append) as client:
        listed = [TextToImage(f"a fox no. {n}", then="upscale:0") for n in range(4)]
        batch = client.render(listed, tmp_path)
        async for _ in batch:
            pass
        books = sim.books()
    told = [one for one in heard if not isinstance(one, CallEnded)]
    witness = witnessed(told)
    assert witness.wrong == []
    assert witness.progress.total == batch.progress().ended == 8
    unknown = sum(one.outcome.job.price for one in told if lost(one))
    assert unknown > 0
    assert batch.progress().credits == books["charged_total"] - unknown


def lost(event: Event) -> TypeGuard[JobEnded]:
    return isinstance(event, JobEnded) and isinstance(event.outcome, Unresolved)


@pytest.mark.parametrize("how", ["stop", "deadline", "ledger", "break"])
async def test_a_run_that_is_cut_short_leaves_its_jobs_to_its_own_end(
    heard: list[Event], tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has set out and is told no end of is what :class:`BatchEnded` stands for."""

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, JobSubmitted):
            if how == "stop":
                batch.stop()
            elif how == "ledger":
                monkeypatch.setattr(SqliteLedger, "record", refuse)

    async def refuse(*_: object) -> Job:
        raise LedgerError("the disk is full", path="x")

    async with simulated() as sim, sim_client(sim, on_event=hear, rate=ONE) as client:
        deadline = 0.2 if how == "deadline" else None
        batch = client.render([f"fox {n}" for n in range(6)], tmp_path, deadline=deadline)
        with suppress(KieError):
            async for _ in batch:
                if how == "break":
                    break
        await batch.aclose()
        assert batch.ended.is_set()
    ends = [one for one in heard if isinstance(one, BatchEnded)]
    assert [one.batch for one in ends] == [str(tmp_path)]
    assert (ends[0].error is not None) == (how in ("deadline", "ledger"))
    behind = heard[heard.index(ends[0]) + 1 :]
    assert {type(one) for one in behind} <= {ClientClosed, CallEnded}
    before = heard[: heard.index(ends[0])]
    out: list[str] = []
    for one in before:
        if isinstance(one, JobStarted):
            assert one.job.key not in out
            out.append(one.job.key)
        elif isinstance(one, JobHeldBack):
            out.remove(one.job.key)
        elif isinstance(one, JobEnded):
            out.remove(one.outcome.job.key)
    assert out or how == "break"


async def test_the_numbers_are_final_when_the_end_is_told(tmp_path: Path) -> None:
    """A listener that looks at that moment sees what it will always see."""
    seen: list[Progress] = []

    def hear(event: Event) -> None:
        if isinstance(event, BatchEnded):
            seen.append(batch.progress())
            assert ids().batch == str(tmp_path)

    async with simulated() as sim, sim_client(sim, on_event=hear) as client:
        batch = client.render(["a fox"], tmp_path)
        async for _ in batch:
            pass
        assert seen == [batch.progress()]


async def test_a_pause_is_in_the_numbers_of_every_batch(heard: list[Event], tmp_path: Path) -> None:
    """It is the account's; a listener finds it in them already."""
    seen: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, CreatesPaused):
            seen.extend(one.progress().paused for one in batches)

    async with simulated("create.429=#1") as sim, sim_client(sim, on_event=hear) as client:
        batches = [client.render(["a fox"], tmp_path / name) for name in ("one", "two")]
        async with anyio.create_task_group() as tasks:
            for batch in batches:
                tasks.start_soon(drain, aiter(batch))
    assert len(seen) >= 2
    assert min(seen) > 0


async def test_a_pause_is_in_the_numbers_of_a_batch_that_begins_in_it(tmp_path: Path) -> None:
    """It is told when it begins; who comes later finds it all the same, with what is left of it."""
    paused = anyio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, CreatesPaused):
            paused.set()

    async with (
        simulated("create.429=#1") as sim,
        sim_client(sim, on_event=hear, rate=Rate(20, 30.0)) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(drain, aiter(client.render(["a fox"], tmp_path / "one")))
        await paused.wait()
        batch = client.render(["a fox"], tmp_path / "two")
        assert batch.progress().paused == 0
        tasks.start_soon(drain, aiter(batch))
        await until(lambda: batch.progress().paused)
        assert batch.progress().paused <= 30
        assert "429" in batch.progress().pause_reason
        tasks.cancel_scope.cancel()


async def test_an_answer_that_is_none_is_an_error(heard: list[Event]) -> None:
    """HTML with a status of 200 is no success, whoever measures calls."""
    async with (
        answering(http(b"<html>")) as server,
        Client(KEY, base_url=server.url, on_event=heard.append) as client,
    ):
        with pytest.raises(KieError):
            await client.credits()
    (bad,) = (one for one in heard if isinstance(one, CallEnded))
    assert (bad.call, bad.status, bad.code) == ("credits", 200, None)
    assert bad.error == "not the promised JSON"


async def test_the_numbers_of_a_batch_that_has_ended_stand_still(tmp_path: Path) -> None:
    """Its time is over, whenever somebody asks."""
    async with simulated() as sim, sim_client(sim) as client:
        batch = client.render(["a fox"], tmp_path)
        async for one in batch:
            assert isinstance(one, Saved)
        first = batch.progress()
        await anyio.sleep(0.05)
        assert batch.progress() == first


async def test_two_batches_of_a_client_are_counted_apart(tmp_path: Path) -> None:
    """Each has its own numbers; a client's listeners hear of both."""
    heard: list[Event] = []
    async with simulated() as sim, sim_client(sim, on_event=heard.append) as client:
        one = client.render(["a fox", "an owl"], tmp_path / "one")
        two = client.render(["a newt"], tmp_path / "two")
        async with anyio.create_task_group() as tasks:
            for batch in (one, two):
                tasks.start_soon(drain, aiter(batch))
    assert (one.progress().saved, two.progress().saved) == (2, 1)
    batches = Counter(event.batch for event in heard if isinstance(event, JobStarted))
    assert batches == {str(tmp_path / "one"): 2, str(tmp_path / "two"): 1}


def test_every_event_is_in_the_union() -> None:
    """What is told is documented, and a ``match`` over ``Event`` is exhaustive."""
    told = {one.__name__ for one in events.Event.__args__}
    defined = {
        name
        for name, one in vars(events).items()
        if isinstance(one, type) and one.__module__ == events.__name__
    }
    assert told == defined


async def drain(outcomes: AsyncIterator[object]) -> None:
    async for _ in outcomes:
        pass
