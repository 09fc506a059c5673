"""Callbacks over real sockets, in virtual time, with every fault."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import attrs
import pytest
from aiohttp import web

from kie_mj_async.simulator import KINDS, Simulator
from kie_mj_async.simulator.callbacks import signature
from kie_mj_async.testing import VirtualLoop, virtual_clock

pytestmark = pytest.mark.anyio
GENERATE = "/api/v1/mj/generate"
TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@attrs.frozen
class Got:
    """A callback as it came in."""

    at: float
    body: Any
    headers: dict[str, str]

    @property
    def task_id(self) -> Any:
        return self.body["data"].get("taskId")


@attrs.define
class Hook:
    """A receiver: what came in, and what it answers (``None``: nothing, ever)."""

    url: str = ""
    answers: list[int | None] = attrs.field(factory=list)
    got: list[Got] = attrs.field(factory=list)
    watch: Callable[[Got], Any] = lambda _: None

    async def handle(self, request: web.Request) -> web.Response:
        now = virtual_clock().wall()
        self.got.append(Got(now, await request.json(), dict(request.headers)))
        seen = self.watch(self.got[-1])
        if seen is not None:
            await seen
        status = self.answers.pop(0) if self.answers else 200
        if status is None:
            await anyio.sleep_forever()
        assert status is not None
        return web.Response(status=status, headers={"Location": self.url + "/moved"})


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    one = Hook()
    app = web.Application()
    app.router.add_post("/{path:.*}", one.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield one
    finally:
        await runner.cleanup()


@asynccontextmanager
async def service(faults: str = "", **options: Any) -> AsyncIterator[tuple[Simulator, Any, Hook]]:
    options = {"picture_side": 16, "clock": virtual_clock().wall, **options}
    headers = {"Authorization": "Bearer key"}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        hook() as one,
        Simulator(faults=faults, **options) as sim,
        aiohttp.ClientSession(sim.url, headers=headers, connector=connector) as session,
    ):
        yield sim, session, one


async def create(session: Any, url: str, path: str = GENERATE, **changes: Any) -> str:
    body = (TEXT if path == GENERATE else {}) | {"callBackUrl": url} | changes
    async with session.post(path, json=body) as answer:
        task_id: str = (await answer.json())["data"]["taskId"]
        return task_id


async def record(session: Any, task_id: str) -> Any:
    async with session.get(f"/api/v1/mj/record-info?taskId={task_id}") as answer:
        return (await answer.json())["data"]


async def test_a_success_is_posted_when_the_task_ends() -> None:
    """The documented body, at the task's own end, with links that work; then nothing more."""
    async with service() as (sim, session, one):
        task_id = await create(session, one.url)
        await anyio.sleep(50_000)
        (got,) = one.got
        ends = sim.books()["tasks"][task_id]["completed"]
        assert got.at == pytest.approx(ends, abs=0.05)
        assert (got.body["code"], got.body["msg"]) == (200, "success")
        results = (await record(session, task_id))["resultInfoJson"]["resultUrls"]
        links = [one["resultUrl"] for one in results]
        assert got.body["data"]["resultUrls"] == links
        assert json.loads(got.body["data"]["promptJson"])["prompt"] == "a fox"
        async with session.get(links[0]) as answer:
            assert answer.status == 200
        assert got.headers["Content-Type"].startswith("application/json")
        assert not {"Authorization", "X-Webhook-Signature"} & set(got.headers)
        (entry,) = sim.books()["callbacks"]
        assert (entry["status"], entry["attempt"], entry["error"]) == (200, 1, None)


async def test_failures_and_extended_videos() -> None:
    """A failure says so, and an extended video is told in the shape of record-info."""
    async with service("task.fail=#1") as (sim, session, one):
        failed = await create(session, one.url)
        body = {"taskType": "mj_video", "motion": "low", "fileUrl": "https://x.org/a.png"}
        film = await create(session, "https://example.invalid/", **body)
        for task_id in (failed, film):
            sim.world.finish(task_id)
        auto = {"taskId": film, "index": 0, "taskType": "mj_video_extend_auto"}
        longer = await create(session, one.url, GENERATE + "VideoExtend", **auto)
        await anyio.sleep(3600)
        bad, good = one.got
        assert bad.body == {
            "code": 500,
            "msg": "Image generation failed",
            "data": {"taskId": failed, "resultUrls": []},
        }
        assert good.task_id == longer
        assert good.body["data"]["resultInfoJson"]["resultUrls"][0]["resultUrl"].endswith(".mp4")
        away = [one for one in sim.books()["callbacks"] if one["task_id"] == film]
        assert [(one["status"], one["withheld"]) for one in away] == [
            (None, "not an address of this machine")
        ]


@pytest.mark.parametrize(
    ("answers", "waits", "statuses"),
    [
        ([500, 204], [60], [500, 204]),
        ([301], [60], [301, 200]),
        ([503, 503, 503, 503], [60, 300, 900], [503] * 4),
        ([None, 200], [75], [None, 200]),
    ],
)
async def test_retries(
    answers: list[int | None], waits: list[float], statuses: list[int | None]
) -> None:
    """After 1, 5 and 15 minutes, scaled; a receiver has 15 s; redirects are not followed."""
    async with service(time_scale=0.5) as (sim, session, one):
        one.answers.extend(answers)
        await create(session, one.url)
        await anyio.sleep(5000)
        times = [got.at for got in one.got]
        found = [after - before for before, after in pairwise(times)]
        # aiohttp rounds longer timeouts up to the next whole second of its clock.
        assert found == pytest.approx([wait / 2 for wait in waits], abs=1)
        assert [entry["status"] for entry in sim.books()["callbacks"]] == statuses
        if None in statuses:
            assert sim.books()["callbacks"][0]["error"] == "no answer within 7.5 s"


async def test_nobody_listens() -> None:
    """A receiver that is not there is tried four times, and the books say why it failed."""
    async with service() as (sim, session, one):
        port = one.url.rpartition(":")[2].partition("/")[0]
        await create(session, one.url.replace(port, "1"))
        await anyio.sleep(5000)
        told = sim.books()["callbacks"]
        assert [entry["attempt"] for entry in told] == [1, 2, 3, 4]
        assert all(entry["error"].startswith("ClientConnectorError") for entry in told)


async def test_signed_with_the_accounts_key() -> None:
    """With a webhook key every callback has the two headers, and the key is nowhere else."""
    async with service(webhook_key="sesame") as (sim, session, one):
        task_id = await create(session, one.url)
        await anyio.sleep(3600)
        headers = one.got[0].headers
        timestamp = headers["X-Webhook-Timestamp"]
        assert int(timestamp) == int(one.got[0].at)
        assert headers["X-Webhook-Signature"] == signature("sesame", task_id, timestamp)
        assert "sesame" not in json.dumps(sim.books())


async def test_blank_keys_are_refused() -> None:
    """A key that cannot sign is a mistake, not a wish for unsigned callbacks."""
    with pytest.raises(ValueError, match="webhook_key"):
        Simulator(webhook_key=" ")


async def times_of(kind: str, **options: Any) -> tuple[list[Got], Simulator, list[str]]:
    """Two tasks, the first with the fault: what came in."""
    async with service(f"callback.{kind}=#1", webhook_key="sesame", **options) as parts:
        sim, session, one = parts
        ids = [await create(session, one.url) for _ in range(2)]
        for task_id in ids:
            sim.books()
            sim.world.finish(task_id)
            await anyio.sleep(0.5)
        await anyio.sleep(5000)
        assert sim.books()["faults"] == {f"callback.{kind}": 1}
        return one.got, sim, ids


def genuine(got: Got, task_id: str) -> bool:
    timestamp = got.headers["X-Webhook-Timestamp"]
    return got.headers["X-Webhook-Signature"] == signature("sesame", task_id, timestamp)


async def test_never() -> None:
    """It does not come, and the next one does."""
    got, _, ids = await times_of("never")
    assert [one.task_id for one in got] == ids[1:]


async def test_twice() -> None:
    """The same twice, a second apart."""
    got, _, ids = await times_of("twice")
    assert [one.task_id for one in got] == [ids[0], ids[1], ids[0]]
    assert got[2].at - got[0].at == pytest.approx(1, abs=0.1)
    assert got[0].body == got[2].body


async def test_late() -> None:
    """A minute late."""
    got, sim, ids = await times_of("late")
    assert [one.task_id for one in got] == [ids[1], ids[0]]
    ends = sim.world.tasks[ids[0]].completes
    assert got[1].at - ends == pytest.approx(60, abs=0.1)


async def test_out_of_order() -> None:
    """After the next one of another task."""
    got, _, ids = await times_of("out-of-order")
    assert [one.task_id for one in got] == [ids[1], ids[0]]
    assert got[1].at - got[0].at == pytest.approx(1, abs=0.1)


async def test_forged_and_stale() -> None:
    """A forged one is not signed with the key; a stale one is, but a day ago."""
    got, _, ids = await times_of("forged")
    assert [genuine(one, task_id) for one, task_id in zip(got, ids, strict=True)] == [False, True]
    got, _, ids = await times_of("stale")
    assert genuine(got[0], ids[0])
    assert got[0].at - int(got[0].headers["X-Webhook-Timestamp"]) == pytest.approx(86_400, abs=1)


async def test_the_other_spelling() -> None:
    """data.task_id is signed like data.taskId."""
    got, _, ids = await times_of("task_id")
    assert got[0].body["data"]["task_id"] == ids[0]
    assert got[0].task_id is None
    assert genuine(got[0], ids[0])


@pytest.mark.parametrize("answers", [[], [500], [None]])
async def test_early(answers: list[int | None]) -> None:
    """It comes before the create is answered, whatever the receiver says, and tells the truth."""
    async with service("callback.early=#1") as (_, session, one):
        one.answers.extend(answers)
        flags: list[Any] = []

        async def look(got: Got) -> None:
            flags.append((await record(session, got.task_id))["successFlag"])

        one.watch = look
        task_id = await create(session, one.url)
        assert [got.task_id for got in one.got] == [task_id]
        assert flags == [1]
        await anyio.sleep(5000)
        assert len(one.got) == 1 + len(answers)


async def test_a_callback_that_went_already_is_not_waited_for() -> None:
    """A create whose callback was quicker than its own handler is answered."""
    async with service() as (sim, session, one):
        task_id = await create(session, one.url)
        await anyio.sleep(3600)
        assert sim._courier is not None
        with anyio.fail_after(1):
            await sim._courier.first_attempt(task_id)


async def test_a_broken_courier_is_not_silent() -> None:
    """A mistake in the simulator comes up when it is closed, rather than as missing callbacks."""
    async with hook() as one:
        sim = Simulator(clock=virtual_clock().wall)
        await sim.start()
        async with aiohttp.ClientSession(sim.url, headers={"Authorization": "Bearer k"}) as session:
            await create(session, one.url)
            del sim.world.callbacks._heap
            await create(session, one.url)
            await anyio.sleep(3600)
        with pytest.raises(ExceptionGroup):
            await sim.aclose()
        assert sim._runner is None
        await sim.aclose()


async def test_early_without_a_reply() -> None:
    """The callback of a create whose reply is lost has gone out all the same."""
    async with service("callback.early=#1,create.drop-reply=#1") as (sim, session, one):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await create(session, one.url)
        assert [got.task_id for got in one.got] == list(sim.world.tasks)


async def test_early_to_another_machine() -> None:
    """What is not sent holds up no answer."""
    async with service("callback.early=#1") as (sim, session, _):
        await create(session, "https://example.invalid/hook")
        assert [one["withheld"] for one in sim.books()["callbacks"]] == [
            "not an address of this machine"
        ]


TESTED = {"never", "twice", "early", "late", "out-of-order", "forged", "stale", "task_id"}


def test_every_fault_has_its_test() -> None:
    """The tests above leave no fault of callbacks out."""
    assert set(KINDS["callback"]) == TESTED


async def test_many_at_once() -> None:
    """One slow receiver does not hold up the others."""
    async with service(rate=(100, 10.0)) as (sim, session, one):
        one.answers.append(None)
        ids = [await create(session, one.url) for _ in range(30)]
        for task_id in ids:
            sim.world.finish(task_id)
        await anyio.sleep(1)
        assert sorted(got.task_id for got in one.got) == sorted(ids)
        await anyio.sleep(100)
        assert len(one.got) == 31


async def test_a_clock_that_jumps() -> None:
    """A test that puts the simulator's clock forward has its callback with the next request."""
    now = 1000.0
    async with service(clock=lambda: now) as (sim, session, one):
        task_id = await create(session, one.url)
        now += 3600
        await record(session, task_id)
        await anyio.sleep(1)
        assert [got.task_id for got in one.got] == [task_id]
        assert sim.books()["callbacks"][0]["at"] == now


async def test_the_end_ends_everything() -> None:
    """Closing does not wait for receivers or retries, nor for an early callback's create."""
    async with hook() as one:
        one.answers.extend([None, None])
        both = anyio.Event()
        one.watch = lambda _: both.set() if len(one.got) == 2 else None
        sim = Simulator(faults="callback.early=#2", clock=virtual_clock().wall)
        await sim.start()
        headers = {"Authorization": "Bearer key"}
        async with aiohttp.ClientSession(sim.url, headers=headers) as session:
            sim.world.finish(await create(session, one.url))

            async with anyio.create_task_group() as group:
                group.start_soon(create, session, one.url)
                await both.wait()
                with anyio.fail_after(3):
                    await sim.aclose()
        assert sim.books()["callbacks"] == []
        await sim.aclose()


async def test_a_later_simulator_goes_on(tmp_path: Path) -> None:
    """With a journal, what was open is sent by the next simulator: retries at their time."""
    journal = tmp_path / "journal.jsonl"
    async with service(journal=journal) as (first, session, one):
        one.answers.append(500)
        tried, running = [await create(session, one.url) for _ in range(2)]
        first.world.finish(tried)
        await anyio.sleep(1)
        url = one.url
    assert [got.task_id for got in one.got] == [tried]
    await anyio.sleep(20)
    async with service(journal=journal) as (second, _, other):
        # The receiver has another port by now; the callbacks still go to the old one.
        await anyio.sleep(5000)
        assert other.got == []
        told = [
            (entry["task_id"], entry["attempt"], entry["status"], entry["url"])
            for entry in second.books()["callbacks"]
        ]
        assert told[0] == (tried, 1, 500, url)
        assert {(*one[:2], one[3]) for one in told[1:]} == {
            *((tried, number, url) for number in (2, 3, 4)),
            *((running, number, url) for number in (1, 2, 3, 4)),
        }
    async with service(journal=journal) as (third, _, _):
        await anyio.sleep(5000)
        assert len(third.books()["callbacks"]) == len(told)
