"""The client over a real local service: one thing at a time, paid once, whatever its caller does."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiohttp
import anyio
import pytest
from support import KEY, SCALE, scaled, sim_client, simulated, until

from kie_mj_async.account import state_directory
from kie_mj_async.client import Client
from kie_mj_async.errors import (
    AuthenticationError,
    BudgetReached,
    ConfigError,
    InvalidRequest,
    KieError,
    LedgerBusy,
    NotSent,
    ReplyLost,
    ResultExpired,
    TaskFailed,
    TaskTimedOut,
    WrongHost,
)
from kie_mj_async.events import Event, JobSubmitted
from kie_mj_async.jobs import Generation, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.requests import TextToImage

pytestmark = pytest.mark.anyio


async def test_one_prompt_to_files(tmp_path: Path) -> None:
    """``generate`` waits for the task; its result knows its links and saves them, verified."""
    async with simulated() as sim, sim_client(sim) as client:
        result = await client.generate("a fox in the snow", aspect_ratio="16:9", speed="fast")
        assert result.task_id in sim.books()["tasks"]
        assert len(result.urls) == 4
        assert result.expires_at is not None
        assert result.completed_at is not None
        assert (result.expires_at - result.completed_at).days == 14
        paths = await result.save(tmp_path / "fox")
        assert [path.parent for path in paths] == [tmp_path / "fox"] * 4
        assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in paths)
        assert await result.save(tmp_path / "fox") == paths
        assert len(list((tmp_path / "fox").iterdir())) == 4
        body = sim.books()["creates"][0]["body"]
        assert (body["aspectRatio"], body["speed"]) == ("16:9", "fast")


async def test_a_task_by_its_id(tmp_path: Path) -> None:
    """``submit`` returns once accepted; the task can be waited for, here or by its id alone."""
    async with simulated() as sim:
        async with sim_client(sim) as client:
            task = await client.submit(TextToImage("a lighthouse", version="niji6"))
            assert sim.books()["tasks"][task.task_id]["state"] == "running"
            assert repr(task) == f"Task({task.task_id!r})"
        async with sim_client(sim) as client:
            result = await client.task(f" {task.task_id} ").wait()
            assert result.task_id == task.task_id
            assert len(await result.save(tmp_path)) == 4
        assert sim.books()["accepted"] == 1


async def test_a_task_tells_how_long_it_will_take() -> None:
    """From its class and age while it runs; nothing is left once it has ended."""
    async with simulated() as sim, sim_client(sim) as client:
        task = await client.submit("a fox", speed="fast")
        left = task.eta
        assert left is not None
        assert left.low < left.middle < left.high
        assert left.middle == pytest.approx(61 * SCALE, rel=0.3)
        assert client.task(task.task_id).eta is None, "its age is not known"
        await task.wait()
        assert task.eta is not None
        assert task.eta.high == 0.0


async def test_a_batch_tells_how_long_it_will_take(tmp_path: Path) -> None:
    """Once it has begun; nothing is left once it has ended."""
    async with simulated() as sim, sim_client(sim) as client:
        batch = client.render(["a fox", "an owl"], out=tmp_path)
        assert batch.eta() is None
        await batch.plan()
        seen = [batch.eta() async for _ in batch]
        assert seen[0] is not None
        assert seen[0].high < 10
        done = batch.eta()
        assert done is not None
        assert done.high == 0.0


async def test_a_failed_task(tmp_path: Path) -> None:
    """A task that the service cannot make raises its words and id, and the cap gets its credits."""
    async with simulated("task.fail=#1") as sim, sim_client(sim, max_credits=25) as client:
        with pytest.raises(TaskFailed, match="generation failed") as caught:
            await client.generate("a fox")
        assert caught.value.task_id in sim.books()["tasks"]
        assert caught.value.billed == "no"
        await client.generate("a hen")
        with pytest.raises(BudgetReached):
            await client.generate("an owl")


async def test_a_wait_that_ends() -> None:
    """A wait that times out tells the id, under which the task can be waited for again."""
    async with simulated("task.stuck=#1") as sim, sim_client(sim) as client:
        with pytest.raises(TaskTimedOut) as caught:
            await client.generate("a fox", timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        task_id = caught.value.task_id
        assert task_id is not None
        sim.world.finish(task_id)
        assert (await client.task(task_id).wait()).task_id == task_id


async def test_a_lost_reply_is_told() -> None:
    """A create whose reply was lost raises, names the doubt, and is sent once only."""
    async with simulated("create.drop-reply=#1") as sim, sim_client(sim) as client:
        with pytest.raises(ReplyLost) as caught:
            await client.generate("a fox")
        assert caught.value.billed == "unknown"
        assert len(sim.books()["creates"]) == 1


async def test_a_refused_request() -> None:
    """The service's 422 is an ``InvalidRequest`` with its words; a bad field never leaves the house."""
    async with simulated("create.422=#1") as sim, sim_client(sim) as client:
        with pytest.raises(InvalidRequest, match="422"):
            await client.generate("a fox")
        with pytest.raises(InvalidRequest, match="weirdness"):
            await client.generate("a fox", weirdness=9999)
        with pytest.raises(InvalidRequest, match="beside a request"):
            await client.generate(TextToImage("a fox"), speed="fast")
        with pytest.raises(ConfigError, match="timeout"):
            await client.task("abc").wait(timeout=0)
        with pytest.raises(InvalidRequest, match="task_id"):
            client.task("  ")
        assert len(sim.books()["creates"]) == 1


async def test_a_wrong_key() -> None:
    """A key that the service refuses is an ``AuthenticationError`` everywhere."""
    async with simulated(api_key="another") as sim, sim_client(sim) as client:
        for call in (client.generate("a fox"), client.credits(), client.task("x").wait()):
            with pytest.raises(AuthenticationError) as caught:
                await call
            assert KEY not in str(caught.value)


async def test_the_balance() -> None:
    """``credits`` is the account's balance."""
    async with simulated(credits=1000) as sim, sim_client(sim) as client:
        assert await client.credits() == 1000
        await client.submit("a fox")
        assert await client.credits() == 975


async def test_a_named_job_is_paid_once(tmp_path: Path) -> None:
    """With ``key=`` the same call again, and in another process's time, takes up the same task."""
    ledger = tmp_path / "app.sqlite3"
    async with simulated() as sim:
        for _ in range(2):
            client = Client(KEY, base_url=sim.url, ledger=ledger, state_dir=tmp_path / "state")
            async with client:
                first = await client.submit("a fox", key="order 7")
                second = await client.submit("a fox", key="order 7")
                assert first.task_id == second.task_id
                with pytest.raises(InvalidRequest, match="another request"):
                    await client.submit("a hen", key="order 7")
        assert sim.books()["accepted"] == 1


async def test_the_same_name_at_once_is_paid_once() -> None:
    """Concurrent calls with one ``key=`` wait for one create and get the same task."""
    async with simulated() as sim, sim_client(sim) as client:
        results = await asyncio.gather(*(client.generate("a fox", key="k") for _ in range(5)))
        assert len({result.task_id for result in results}) == 1
        assert sim.books()["accepted"] == 1


async def test_without_a_name_every_call_is_new() -> None:
    """Without ``key=`` the same prompt twice is two tasks."""
    async with simulated() as sim, sim_client(sim) as client:
        one, two = await asyncio.gather(client.submit("a fox"), client.submit("a fox"))
        assert one.task_id != two.task_id


async def test_a_named_failure_stays_failed() -> None:
    """A named job that failed raises the same error again instead of paying again."""
    async with simulated("create.422=#1") as sim, sim_client(sim) as client:
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="422"):
                await client.submit("a fox", key="k")
        assert len(sim.books()["creates"]) == 1


async def test_cancelling_the_caller_never_cuts_a_create(tmp_path: Path) -> None:
    """A caller that is cancelled during its create leaves a job with its task's id written down."""
    ledger_file = tmp_path / "app.sqlite3"
    async with simulated(create_latency=30.0) as sim:
        client = Client(KEY, base_url=sim.url, ledger=ledger_file, state_dir=tmp_path)
        async with client:
            call = asyncio.create_task(client.generate("a fox", key="k"))
            await until(lambda: sim.books()["creates"])
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        [task_id] = sim.books()["tasks"]
        ledger = await SqliteLedger.read(ledger_file)
        job = await ledger.get("named-k")
        await ledger.aclose()
        assert job is not None
        assert (job.state, job.task_id) == (State.RUNNING, task_id)


async def test_a_timeout_of_the_callers_ends_the_wait_only() -> None:
    """``asyncio.timeout`` around ``generate`` works, and the client goes on to be usable."""
    async with simulated("task.stuck=#1") as sim, sim_client(sim) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.generate("a fox")
        assert (await client.generate("a hen")).urls
        assert sim.books()["accepted"] == 2


async def test_a_ledger_in_use(tmp_path: Path) -> None:
    """A second client on the same ledger file is told that it is in use; another host is refused."""
    async with simulated() as sim:
        options = {"base_url": sim.url, "ledger": tmp_path / "app.sqlite3", "state_dir": tmp_path}
        async with Client(KEY, **options):  # type: ignore[arg-type]
            with pytest.raises(LedgerBusy):
                async with Client(KEY, **options):  # type: ignore[arg-type]
                    pass
        with pytest.raises(WrongHost):
            async with Client(KEY, **{**options, "base_url": "http://127.0.0.1:9"}):  # type: ignore[arg-type]
                pass


async def test_a_lent_session_is_used_and_left_as_it_was() -> None:
    """A lent session's connector carries the calls; it stays open, and its own headers stay out."""
    async with simulated() as sim, aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        async with Client(KEY, base_url=sim.url, session=session) as client:
            await client.credits()
            assert session.connector is not None
            kept = sum(len(found) for found in session.connector._conns.values())
            assert kept == 1, "the call went over the lent connector"
            await client.submit("a fox")
            assert sum(len(found) for found in session.connector._conns.values()) == kept
        assert not session.closed
        async with session.get(sim.url + "/simulator/health") as response:
            assert response.status == 200


async def test_a_closed_session_cannot_be_lent() -> None:
    """Lending a session that is closed is an error at once."""
    session = aiohttp.ClientSession()
    await session.close()
    with pytest.raises(RuntimeError, match="closed"):
        async with Client(KEY, base_url="http://127.0.0.1:9", session=session):
            pass


async def test_an_unreachable_host_is_not_waited_for_by_single_calls() -> None:
    """``credits`` raises ``NotSent`` at once when nothing listens."""
    async with Client(KEY, base_url="http://127.0.0.1:9") as client:
        with pytest.raises(NotSent, match="cannot connect"):
            await client.credits()


async def test_a_client_is_opened_once() -> None:
    """Work needs an open client, and a client opens once; closing twice is fine."""
    async with simulated() as sim:
        client = Client.from_settings(scaled(sim))
        with pytest.raises(RuntimeError, match="not open"):
            await client.credits()
        await client.aclose()
        async with client:
            with pytest.raises(RuntimeError, match="once"):
                await client.__aenter__()
            await client.credits()
        await client.aclose()
        with pytest.raises(RuntimeError, match="not open"):
            await client.credits()


async def test_closing_ends_what_waits() -> None:
    """Closing the client ends every wait on it, at once, and nothing stays behind."""
    async with simulated("task.stuck=100%") as sim:
        async with Client.from_settings(scaled(sim)) as client:
            calls = [asyncio.create_task(client.generate(f"{n}")) for n in range(3)]
            await until(lambda: sim.books()["accepted"] == 3)
        with anyio.fail_after(5):
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, KieError) and "closed" in str(end) for end in ends)


async def test_a_client_may_be_closed_by_another_task() -> None:
    """A client opened in one task can be closed in another, as frameworks do."""
    async with simulated() as sim:
        client = Client.from_settings(scaled(sim))
        await asyncio.create_task(client.__aenter__())
        assert await client.credits() > 0
        await asyncio.create_task(client.aclose())


async def test_a_task_that_the_service_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the service does not know raises ``ResultExpired`` once it is no longer early."""
    monkeypatch.setattr("kie_mj_async.engine.poll_scheduler.NOT_YET", 0.0)
    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(ResultExpired):
            await client.task("0" * 32).wait(timeout=20)


async def test_an_expired_result_cannot_be_saved(tmp_path: Path) -> None:
    """Saving what the service has deleted raises, and leaves no file."""
    async with simulated() as sim, sim_client(sim) as client:
        result = await client.generate("a fox")
        sim.world.expire(result.task_id)
        with pytest.raises(KieError) as caught:
            await result.save(tmp_path)
        assert caught.value.task_id == result.task_id
    assert list(tmp_path.iterdir()) == []


async def test_a_listener_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in ``on_event`` is logged, and the work goes on."""
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)
        raise ValueError("mine")

    async with simulated() as sim, sim_client(sim, on_event=listen) as client:
        with caplog.at_level(logging.ERROR):
            assert (await client.generate("a fox")).urls
    assert any(isinstance(event, JobSubmitted) for event in seen)
    assert "listener failed" in caplog.text


async def test_the_key_shows_nowhere() -> None:
    """Neither the client, nor its settings, nor its tasks show the key."""
    async with simulated() as sim, sim_client(sim) as client:
        task = await client.submit("a fox")
        for shown in (client, task, task.job, client._house.settings, vars(client), scaled(sim)):
            assert KEY not in repr(shown)
        assert str(client) == f"Client(base_url={sim.url!r})"


def test_settings_are_checked_before_anything_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, or a setting that cannot work, is a ``ConfigError`` when the client is made."""
    monkeypatch.delenv("KIE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="KIE_API_KEY"):
        Client()
    bad: dict[str, object] = {
        "base_url": "nowhere",
        "upload_url": "nowhere",
        "rate": (0, 10),
        "in_flight": 0,
        "on_unknown": "maybe",
        "max_credits": -1,
        "request_timeout": float("nan"),
        "polls_per_second": 0,
        "max_file_bytes": 0,
        "stall_timeout": 0,
    }
    for name, value in bad.items():
        with pytest.raises(ConfigError, match=name):
            Client(KEY, **{name: value})  # type: ignore[arg-type]


def test_a_generation_made_by_hand_cannot_save() -> None:
    """Only a client's result can be saved; its tasks are values otherwise."""
    with pytest.raises(RuntimeError, match="by hand"):
        asyncio.run(Generation("t", ()).save("x"))


def test_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The argument, then the environment, then the platform's place."""
    monkeypatch.setenv("KIE_STATE_DIR", str(tmp_path / "env"))
    assert state_directory(tmp_path / "arg") == tmp_path / "arg"
    assert state_directory() == tmp_path / "env"
    monkeypatch.delenv("KIE_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert state_directory() == tmp_path / "xdg" / "kie-mj-async"
    monkeypatch.setattr("sys.platform", "darwin")
    assert "Application Support" in str(state_directory())
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert state_directory() == tmp_path / "local" / "kie-mj-async"
