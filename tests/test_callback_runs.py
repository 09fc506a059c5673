"""Whole runs with callbacks, chains and uploads, over real sockets against the simulator."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from support import KEY, SCALE, picture, sim_client, simulated, until

from kie_mj_async.batch import Batch, ledger_path
from kie_mj_async.client import Client
from kie_mj_async.errors import InvalidRequest, ReplyLost
from kie_mj_async.jobs import Job, Outcome, Saved, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.receiver import Notice, Receiver
from kie_mj_async.requests import (
    ExistingTask,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from kie_mj_async.rules.callbacks import Callback, token_of
from kie_mj_async.rules.wire import Record, Status
from kie_mj_async.simulator import Faults, Simulator

pytestmark = pytest.mark.anyio
WEBHOOK = "webhook-key"


@attrs.frozen
class Scene:
    """A service, a client that callbacks come to, and the address they come to."""

    sim: Simulator
    client: Client
    receiver: Receiver
    hook: str

    @property
    def books(self) -> dict[str, Any]:
        return self.sim.books()

    @property
    def spent(self) -> float:
        """What the service keeps of the account's credits."""
        spent: float = self.books["charged_total"]
        return spent


@asynccontextmanager
async def scene(
    faults: str = "", *, key: str | None = WEBHOOK, seed: int = 0, **settings: Any
) -> AsyncIterator[Scene]:
    async with (
        simulated(faults, webhook_key=key, seed=seed) as sim,
        listening(sim, key=key, **settings) as made,
    ):
        yield made


@asynccontextmanager
async def listening(
    sim: Simulator, *, key: str | None = WEBHOOK, **settings: Any
) -> AsyncIterator[Scene]:
    async with sim_client(sim, **settings) as client:
        receiver = client.receiver(key=key)
        async with receiver.listening() as hook:
            yield Scene(sim, client, receiver, hook)


async def collect(batch: Batch) -> list[Outcome]:
    return [outcome async for outcome in batch]


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


async def read(out: Path) -> tuple[list[Job], float]:
    """The jobs of a directory, and what they cost."""
    ledger = await SqliteLedger.read(ledger_path(out))
    try:
        return await ledger.scan(0, 10_000), (await ledger.counts()).credits
    finally:
        await ledger.aclose()


def prompts(count: int, hook: str) -> list[TextToImage]:
    return [TextToImage(f"fox {n}", callback_url=hook) for n in range(count)]


# --- Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [WEBHOOK, None])
async def test_one_poll_a_job(tmp_path: Path, key: str | None) -> None:
    """With callbacks, signed or known by their tokens, each task's record is read once."""
    async with scene(key=key) as on:
        outcomes = await collect(on.client.render(prompts(30, on.hook), tmp_path))
        polls = on.books["polls"]
    assert kinds(outcomes) == {"Saved": 30}
    assert len(polls) == 30
    assert max(polls.values()) == 1
    assert on.receiver.counts.received == 30
    assert on.receiver.counts.refused == 0


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_lost_replies_are_found_again(tmp_path: Path, seed: int) -> None:
    """Replies that are dropped: no job ends unresolved, none is paid twice, every credit is told."""
    faults = "create.drop-reply=15%,callback.twice=10%,callback.out-of-order=5%,task.fail=3%"
    async with scene(faults, seed=seed) as on:
        outcomes = await collect(on.client.render(prompts(80, on.hook), tmp_path))
        books, spent = on.books, on.spent
    assert books["faults"]["create.drop-reply"] > 5
    assert set(kinds(outcomes)) <= {"Saved", "Failed"}
    assert len(outcomes) == 80
    charged = Counter(one["prompt"] for one in books["creates"] if one["charged"])
    assert set(charged.values()) == {1}
    jobs, credits = await read(tmp_path)
    assert credits == spent
    assert len({job.task_id for job in jobs}) == 80


async def test_a_callback_before_its_creates_reply(tmp_path: Path) -> None:
    """Callbacks that beat their creates' replies are harmless, and spare all waiting."""
    async with scene("callback.early=100%") as on:
        outcomes = await collect(on.client.render(prompts(20, on.hook), tmp_path))
        polls, spent = on.books["polls"], on.spent
    assert kinds(outcomes) == {"Saved": 20}
    assert max(polls.values()) <= 2
    _, credits = await read(tmp_path)
    assert credits == spent == 500


async def test_an_early_callback_and_a_lost_reply(tmp_path: Path) -> None:
    """A hint that came before anybody knew that it was one."""
    async with scene("callback.early=100%,create.drop-reply=#1") as on:
        outcomes = await collect(on.client.render(prompts(2, on.hook), tmp_path))
        assert len(on.books["creates"]) == 2
    assert kinds(outcomes) == {"Saved": 2}


@pytest.mark.slow
async def test_callbacks_that_nobody_can_believe(tmp_path: Path) -> None:
    """Forged and stale callbacks are refused; the clock finds the ends, and nothing is lost."""
    async with scene("callback.forged=50%,callback.stale=50%") as on:
        outcomes = await collect(on.client.render(prompts(8, on.hook), tmp_path))
    assert kinds(outcomes) == {"Saved": 8}
    # A callback is tried again when it was refused, and then it is a true one.
    assert on.receiver.counts.forged + on.receiver.counts.stale >= 8
    assert on.receiver.counts.received < 8


async def test_a_forged_token(tmp_path: Path) -> None:
    """Who does not know a job's token cannot say which task is its own."""
    async with scene("create.drop-reply=#1,callback.never=100%", key=None) as on:
        batch = on.client.render(prompts(1, on.hook), tmp_path, timeout=1)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(collect(batch))
            await until(lambda: on.books["creates"])
            told = {"code": 200, "data": {"taskId": on.books["creates"][0]["task_id"]}}
            for address in (on.hook, f"{on.hook}?kmj={'0' * 32}"):
                async with session.post(address, json=told) as answer:
                    assert answer.status == 401
        assert kinds(ending.result()) == {"Unresolved": 1}


async def test_a_token_with_another_jobs_task(tmp_path: Path) -> None:
    """A token leads to a task only if the task is what the job asked for."""
    async with scene("create.drop-reply=#2,callback.never=100%", key=None) as on:
        other = await on.client.submit("an owl")
        batch = on.client.render(prompts(1, on.hook), tmp_path, timeout=1)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(collect(batch))
            await until(lambda: len(on.books["creates"]) == 2)
            address = on.books["creates"][1]["body"]["callBackUrl"]
            told = {"code": 200, "data": {"taskId": other.task_id}}
            async with session.post(address, json=told) as answer:
                assert answer.status == 200
        assert kinds(ending.result()) == {"Unresolved": 1}


async def test_a_lost_task_of_a_job_that_was_sent_again(tmp_path: Path) -> None:
    """The task that its user paid besides is a job of its own: listed, saved, and counted."""
    async with scene("create.drop-reply=#1,callback.never=100%") as on:
        batch = on.client.render(prompts(1, on.hook), tmp_path, timeout=0.2)
        assert kinds(await collect(batch)) == {"Unresolved": 1}
        assert await on.client.resolve(tmp_path, "retry") == 1
        batch = on.client.render(prompts(1, on.hook), tmp_path)
        lost = on.books["creates"][0]

        async def call_back() -> None:
            await until(lambda: len(on.books["creates"]) == 2)
            token = token_of(lost["body"]["callBackUrl"])
            notice = Notice(Callback(lost["task_id"]), signed=True, token=token)
            await on.client._house.deliver(notice)

        async with asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(collect(batch))
            tasks.create_task(call_back())
        outcomes, spent = ending.result(), on.spent
    assert kinds(outcomes) == {"Saved": 2}
    jobs, credits = await read(tmp_path)
    assert [job.key for job in jobs] == [jobs[0].key, f"{jobs[0].key}+1"]
    assert isinstance(jobs[1].request, ExistingTask)
    assert jobs[1].prompt == "fox 0"
    assert credits == spent == 50
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".jpeg"]) == 8


# --- Chains and uploads --------------------------------------------------------------------------


async def test_chains_over_sockets(tmp_path: Path) -> None:
    """Chains with callbacks and dropped replies: everything is made, once, and polled once."""
    async with scene("create.drop-reply=#2+11+30") as on:
        listed = [
            attrs.evolve(one, then=["upscale:0,3", "video:1 a pan", "extend:0"])
            for one in prompts(6, on.hook)
        ]
        outcomes = await collect(on.client.render(listed, tmp_path))
        books, spent = on.books, on.spent
    assert kinds(outcomes) == {"Saved": 6 * 5}
    assert books["faults"] == {"create.drop-reply": 3}
    jobs, credits = await read(tmp_path)
    assert credits == spent == 25 * len(jobs)
    paths = Counter(one["path"].rpartition("/")[2] for one in books["creates"])
    assert paths == {"generate": 12, "generateUpscale": 12, "generateVideoExtend": 6}
    assert max(books["polls"].values()) <= 2


@pytest.mark.slow
async def test_every_type_goes_the_same_road(tmp_path: Path) -> None:
    """All types of requests and of follow-ups are accepted by the strict service, and saved."""
    async with simulated() as sim, sim_client(sim) as client:
        image = picture(7)
        first = await client.submit("a fox")
        await first.wait()
        video = await client.submit(ImageToVideo("a fox", image=image, batch_size=2))
        await video.wait()
        listed = [
            TextToImage("a fox --ar 16:9 --v 7", variety=5, translate=True),
            ImageToImage("a fox", image=image),
            StyleReference("a fox", images=[image, picture(8)]),
            OmniReference("a fox", images=[image], omni_weight=400),
            ImageToVideo("a fox", image=image, hd=True, motion="low"),
            Upscale(first.task_id, 0),
            Vary(first.task_id, 1),
            Extend(video.task_id, 0),
            Extend(video.task_id, 1, prompt="on and on"),
        ]
        outcomes = await collect(client.render(listed, tmp_path))
        uploads = sim.books()["uploads"]
    assert kinds(outcomes) == {"Saved": 9}
    # Two images, in a directory of their own; the client's own jobs had uploaded the first already.
    assert len(uploads) == 3
    assert all(isinstance(one, Saved) and one.paths for one in outcomes)


async def test_an_image_is_uploaded_once(tmp_path: Path) -> None:
    """Many jobs, one image: one upload; a resume after the file is gone has it still."""
    path = tmp_path / "fox.png"
    path.write_bytes(picture(3))
    out = tmp_path / "out"
    async with simulated() as sim:
        listed = [ImageToImage(f"fox {n}", image=path) for n in range(12)]
        async with sim_client(sim, max_credits=100) as client:
            with pytest.raises(Exception, match="credits"):
                await collect(client.render(listed, out))
        path.unlink()
        async with sim_client(sim) as client:
            await collect(client.resume(out))
        assert len(sim.books()["uploads"]) == 1
        assert len(sim.books()["creates"]) == 12
    jobs, _ = await read(out)
    assert {job.state for job in jobs} == {State.SAVED}


async def test_an_image_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """A list with a bad image is refused whole, by the image's name."""
    async with simulated() as sim, sim_client(sim) as client:
        listed = [TextToImage("a fox"), ImageToImage("an owl", image=tmp_path / "owl.png")]
        with pytest.raises(InvalidRequest, match=r"owl\.png"):
            await collect(client.render(listed, tmp_path / "out"))
        assert sim.books()["creates"] == sim.books()["uploads"] == []


async def test_a_refused_upload(tmp_path: Path) -> None:
    """The service refuses the image: its job fails without a create, the others go on."""
    async with simulated("upload.400=100%") as sim, sim_client(sim) as client:
        listed = [ImageToImage("an owl", image=picture(1)), TextToImage("a fox")]
        outcomes = await collect(client.render(listed, tmp_path))
        assert len(sim.books()["creates"]) == 1
    assert kinds(outcomes) == {"Saved": 1, "Failed": 1}


# --- The client's own jobs -----------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("key", [WEBHOOK, None])
async def test_generate_with_callbacks(tmp_path: Path, key: str | None, durable: bool) -> None:
    """Single jobs are polled once too, with a ledger or without, with a webhook key or without."""
    ledger = tmp_path / "app.sqlite3" if durable else None
    async with simulated(webhook_key=key) as sim, own_client(sim, key=key, ledger=ledger) as on:
        async with asyncio.timeout(2.0), asyncio.TaskGroup() as tasks:
            made = [
                tasks.create_task(on.client.generate(request)) for request in prompts(5, on.hook)
            ]
        assert len({one.result().task_id for one in made}) == 5
        assert set(on.books["polls"].values()) == {1}
        assert on.receiver.counts.refused == 0


@asynccontextmanager
async def own_client(
    sim: Simulator, *, key: str | None = WEBHOOK, ledger: Path | None = None
) -> AsyncIterator[Scene]:
    """A client that is not scaled, so that polling would take seconds."""
    client = Client(KEY, base_url=sim.url, upload_url=sim.url, rate=(20, 10 * SCALE), ledger=ledger)
    async with client:
        receiver = client.receiver(key=key)
        async with receiver.listening() as hook:
            yield Scene(sim, client, receiver, hook)


@pytest.mark.parametrize("durable", [True, False])
async def test_generate_finds_a_lost_reply(tmp_path: Path, durable: bool) -> None:
    """Whoever waits for a job has it, although the reply of its create was lost."""
    ledger = tmp_path / "app.sqlite3" if durable else None
    faults = "create.drop-reply=#1"
    async with simulated(faults, webhook_key=WEBHOOK) as sim, own_client(sim, ledger=ledger) as on:
        result = await on.client.generate("a fox", callback_url=on.hook)
        assert result.task_id == on.books["creates"][0]["task_id"]
        assert len(result.urls) == 4
        assert len(on.books["creates"]) == 1
        assert on.client._house.admission.running == 0


async def test_submit_does_not_wait_for_a_lost_reply(tmp_path: Path) -> None:
    """It tells at once that nobody knows; with a name the job is found later."""
    ledger = tmp_path / "app.sqlite3"
    faults = "create.drop-reply=#1"
    async with simulated(faults, webhook_key=WEBHOOK) as sim, own_client(sim, ledger=ledger) as on:
        with pytest.raises(ReplyLost):
            await on.client.submit("a fox", callback_url=on.hook, key="fox")
        result = await on.client.generate("a fox", callback_url=on.hook, key="fox")
        assert result.task_id == on.books["creates"][0]["task_id"]
        assert len(on.books["creates"]) == 1


async def test_a_decision_leaves_creates_under_way_alone() -> None:
    """Retrying all that is unresolved does not take a create for lost that is being sent."""
    async with simulated(create_latency=60.0) as sim, sim_client(sim) as client:
        async with asyncio.TaskGroup() as tasks:
            making = tasks.create_task(client.submit("a fox", key="fox"))
            await until(lambda: sim.books()["creates"])
            assert await client.resolve(None, "retry") == 0
        task = making.result()
        again = await client.submit("a fox", key="fox")
        assert again.task_id == task.task_id
        assert len(sim.books()["creates"]) == 1


# --- Ends ----------------------------------------------------------------------------------------


async def test_closing_while_hints_are_under_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that closes in the middle of a lookup leaves no task behind and raises nothing."""
    before = asyncio.all_tasks()
    async with simulated("create.drop-reply=100%,callback.early=100%", webhook_key=WEBHOOK) as sim:
        async with listening(sim) as on:
            sim.world.faults = Faults.parse("create.drop-reply=100%,poll.500=100%")
            batch = on.client.render(prompts(4, on.hook), tmp_path)
            with caplog.at_level(logging.ERROR):
                async with batch:
                    running = asyncio.create_task(collect(batch))
                    await until(lambda: on.books["poll_total"] >= 4)
                assert await running == []
                late = Notice(Callback("t"), signed=True, token="0" * 32)
                await on.client._house.deliver(late)
                await on.client.aclose()
                await on.client._house.deliver(late)
                assert not await on.client._house.knows("0" * 32)
        assert caplog.records == []
        jobs, _ = await read(tmp_path)
        assert {job.state for job in jobs} == {State.UNRESOLVED}
        # The hints were kept: the next run uses them, also without callbacks.
        sim.world.faults = Faults()
        async with sim_client(sim) as client:
            outcomes = await collect(client.resume(tmp_path))
        assert kinds(outcomes) == {"Saved": 4}
        assert len(sim.books()["creates"]) == 4
    assert asyncio.all_tasks() - before == set()


async def test_relaxed_polling_is_for_tasks_made_while_listening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was made before callbacks came, or without one, is polled as ever."""
    hook = "http://hook.test/x"
    async with simulated() as sim, sim_client(sim) as client:
        house = client._house
        relaxed: list[bool] = []

        async def watch(*_args: object, **options: object) -> Record:
            relaxed.append(bool(options["relaxed"]))
            return Record(None, Status.FAILED)

        monkeypatch.setattr(house.poller, "watch", watch)

        async def made(key: str, callback_url: str | None) -> Job:
            request = TextToImage(key, callback_url=callback_url)
            return await house.pipeline.submit(await house.ledger.add(key, request))

        before = await made("before", hook)
        client.receiver(key=WEBHOOK)
        after, plain = await made("after", hook), await made("plain", None)
        for job in (before, after, plain):
            await house.pipeline.follow(job, 600)
        assert relaxed == [False, True, False]
