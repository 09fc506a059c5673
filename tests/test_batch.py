"""Batches over a real local service: saved whole, paid once, stopped cleanly, resumed anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from support import KEY, SCALE, scaled, sim_client, simulated, until

from kie_mj_async.batch import Batch, ledger_path
from kie_mj_async.client import Client
from kie_mj_async.errors import (
    AuthenticationError,
    BatchTimedOut,
    BudgetReached,
    InvalidRequest,
    KieError,
    LedgerBusy,
    LedgerError,
    WriteFailed,
    WrongHost,
)
from kie_mj_async.jobs import Outcome, Pending, Saved, State, Unresolved
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.requests import Request, TextToImage

pytestmark = pytest.mark.anyio


def prompts(count: int, first: int = 0) -> list[str]:
    return [f"prompt {number}" for number in range(first, first + count)]


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


async def all_of(batch: Batch) -> list[Outcome]:
    return [outcome async for outcome in batch]


def check_files(out: Path, files: int) -> None:
    """Every file of the manifest is on disk as it says, and no other is."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == files
    for line in lines:
        content = (out / line["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == line["sha256"]
        assert len(content) == line["bytes"]
    named = {line["path"] for line in lines} | {"manifest.jsonl", ".kie-mj"}
    assert {path.name for path in out.iterdir()} == named
    assert list((out / ".kie-mj" / "parts").iterdir()) == []


def tasks_but_the_servers() -> set[asyncio.Task[object]]:
    return {
        task
        for task in asyncio.all_tasks()
        if not any(name in repr(task) for name in ("RequestHandler", "aiohttp/web"))
    }


@pytest.mark.slow
async def test_two_hundred_prompts_through_a_bad_day(tmp_path: Path) -> None:
    """With every transient fault about, all is saved, paid once, within the window; again is free."""
    faults = "create.429=5%,poll.500=5%,poll.drop=5%,download.503=5%,download.truncate=5%"
    async with simulated(faults, seed=7) as sim:
        async with sim_client(sim) as client:
            batch = client.render(prompts(200), tmp_path)
            outcomes = await all_of(batch)
        books = sim.books()
        assert kinds(outcomes) == {"Saved": 200}
        assert batch.summary().by_state == {State.SAVED: 200}
        assert books["accepted"] == 200
        assert books["charged_total"] == 200 * 25
        assert books["most_in_window"] <= 20
        paid = Counter(one["prompt"] for one in books["creates"] if one["charged"])
        assert set(paid.values()) == {1}
        assert books["faults"]["create.429"] > 0
        assert books["faults"]["download.truncate"] > 0
        check_files(tmp_path, 800)
        async with sim_client(sim) as client:
            again = await all_of(client.render(prompts(200), tmp_path))
        assert kinds(again) == {"Saved": 200}
        assert len(sim.books()["creates"]) == len(books["creates"])
        assert not [key for key in books["keys"] if key["authorization"] and key["prefix"] == "/m"]


async def test_lost_replies_are_unresolved_and_never_paid_twice(tmp_path: Path) -> None:
    """Exactly the creates whose reply was lost are unresolved; running again leaves them so."""
    faults = "create.drop-reply=10%,create.429=5%,poll.500=5%,download.truncate=5%"
    async with simulated(faults, seed=3) as sim:
        for _ in range(2):
            async with sim_client(sim) as client:
                outcomes = await all_of(client.render(prompts(60), tmp_path))
            books = sim.books()
            lost = {one["prompt"] for one in books["creates"] if one["fault"] == "drop-reply"}
            assert lost
            told = {one.job.prompt for one in outcomes if isinstance(one, Unresolved)}
            assert told == lost
            assert kinds(outcomes)["Saved"] == 60 - len(lost)
            assert max(Counter(c["prompt"] for c in books["creates"] if c["charged"]).values()) == 1


async def test_repeating_lost_creates_is_the_users_choice(tmp_path: Path) -> None:
    """With ``on_unknown="repeat"`` all is saved, and what was paid twice was asked for."""
    async with simulated("create.drop-reply=#2", seed=3) as sim:
        async with sim_client(sim, on_unknown="repeat") as client:
            outcomes = await all_of(client.render(prompts(5), tmp_path))
        assert kinds(outcomes) == {"Saved": 5}
        assert sim.books()["accepted"] == 6


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "client", "scope"])
async def test_leaving_early_is_clean(tmp_path: Path, how: str) -> None:
    """However a batch is left, no task and no connection stays, and a later run goes on."""
    before = tasks_but_the_servers()
    async with simulated() as sim:
        client = Client.from_settings(scaled(sim, in_flight=3))

        async def read(batch: Batch) -> None:
            async for _ in batch:
                pass

        if how == "scope":
            with anyio.CancelScope() as scope:
                async with client:
                    async for _ in client.render(prompts(16), tmp_path):
                        scope.cancel()
        else:
            await client.__aenter__()
            batch = client.render(prompts(16), tmp_path)
            if how == "break":
                async for _ in batch:
                    break
            elif how == "aclose":
                async for _ in batch:
                    await batch.aclose()
            else:
                task = asyncio.create_task(read(batch))
                await until(lambda: sim.books()["accepted"] > 2)
                if how == "cancel":
                    task.cancel()
                else:
                    await client.aclose()
                await asyncio.wait([task])
                assert task.cancelled() is (how == "cancel")
                if how == "client":
                    with pytest.raises(KieError, match="closed"):
                        task.result()
            await client.aclose()
        assert 0 < len(sim.books()["creates"]) < 16
        assert tasks_but_the_servers() == before
        server = sim._runner.server if sim._runner is not None else None
        assert server is not None
        await until(lambda: not server.connections)
        ledger = await SqliteLedger.open(ledger_path(tmp_path), "sim")
        counts = await ledger.counts()
        await ledger.aclose()
        assert counts[State.SUBMITTING] == counts[State.UNRESOLVED] == 0
        assert counts.total == 16
        async with sim_client(sim) as client:
            outcomes = await all_of(client.render(prompts(16), tmp_path))
        assert kinds(outcomes) == {"Saved": 16}
        assert sim.books()["accepted"] == 16
        check_files(tmp_path, 64)


async def test_an_edited_list_runs_only_what_is_new(tmp_path: Path) -> None:
    """Lines that were there are free, new ones are made, and duplicates count as often as they stand."""
    async with simulated() as sim, sim_client(sim) as client:
        await all_of(client.render(["a fox", "a fox", "a hen"], tmp_path))
        assert sim.books()["accepted"] == 3
        outcomes = await all_of(client.render(["a hen", "a fox", "an owl", "a fox"], tmp_path))
        assert kinds(outcomes) == {"Saved": 4}
        assert sim.books()["accepted"] == 4
        check_files(tmp_path, 16)


async def test_a_list_with_a_mistake_costs_nothing(tmp_path: Path) -> None:
    """A bad entry at the end is an error before the first create, from ``plan`` and from the loop."""

    async def feed() -> AsyncIterator[str]:
        for prompt in prompts(600):
            yield prompt
        yield ""

    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(InvalidRequest, match="prompt"):
            await (batch := client.render(feed(), tmp_path)).plan()
        with pytest.raises(InvalidRequest, match="prompt"):
            await all_of(batch)
        with pytest.raises(InvalidRequest, match="prompt"):
            await all_of(client.render(feed(), tmp_path))
        assert sim.books()["creates"] == []


async def test_a_plan_sends_nothing(tmp_path: Path) -> None:
    """``plan`` tells what a run would cost; iterating goes on from there."""
    async with simulated() as sim, sim_client(sim) as client:
        async with client.render(prompts(3), tmp_path, speed="fast") as batch:
            planned = await batch.plan()
            assert (planned.new, planned.known, planned.cost) == (3, 0, 75)
            assert sim.books()["creates"] == []
            assert batch.summary()[State.PLANNED] == 3
            assert kinds(await all_of(batch)) == {"Saved": 3}
        assert {one["body"]["speed"] for one in sim.books()["creates"]} == {"fast"}


async def test_a_plan_that_is_not_followed_ends_with_its_client(tmp_path: Path) -> None:
    """A planned batch that nobody iterates does not keep the client from closing."""
    async with simulated() as sim:
        with anyio.fail_after(5):
            async with sim_client(sim) as client:
                await client.render(prompts(3), tmp_path).plan()
        assert sim.books()["creates"] == []


async def test_a_batch_is_iterated_once(tmp_path: Path) -> None:
    """A second loop over the same batch is an error, at once, also after ``stop``."""
    async with simulated() as sim, sim_client(sim) as client:
        batch = client.render(prompts(1), tmp_path)
        await all_of(batch)
        with anyio.fail_after(5):
            with pytest.raises(RuntimeError, match="once"):
                await all_of(batch)
            stopped = client.render(prompts(1), tmp_path)
            stopped.stop()
            with pytest.raises(RuntimeError):
                await all_of(stopped)
            await stopped.aclose()


async def test_a_cap_on_credits_ends_the_loop_with_its_reason(tmp_path: Path) -> None:
    """Outcomes come first, then ``BudgetReached``; a resume with more money goes on."""
    async with simulated() as sim:
        got: list[Outcome] = []
        async with sim_client(sim, max_credits=60) as client:

            async def read() -> None:
                async for outcome in client.render(prompts(5), tmp_path):
                    got.append(outcome)  # noqa: PERF401

            with pytest.raises(BudgetReached):
                await read()
        assert kinds(got) == {"Saved": 2}
        assert sim.books()["charged_total"] == 50
        async with sim_client(sim) as client:
            outcomes = await all_of(client.resume(tmp_path))
        assert kinds(outcomes) == {"Saved": 3}


async def test_a_timed_out_job_is_pending_and_resumed(tmp_path: Path) -> None:
    """A task that takes longer than the wait is pending with its id; a resume saves it."""
    async with simulated("task.stuck=#1") as sim:
        async with sim_client(sim) as client:
            outcomes = await all_of(client.render(["slow"], tmp_path, timeout=0.5))
        [pending] = outcomes
        assert isinstance(pending, Pending)
        task_id = pending.error.task_id
        assert task_id is not None
        sim.world.finish(task_id)
        async with sim_client(sim) as client:
            outcomes = await all_of(client.resume(tmp_path))
        assert kinds(outcomes) == {"Saved": 1}
        assert sim.books()["accepted"] == 1


async def test_a_batch_has_a_deadline(tmp_path: Path) -> None:
    """A batch that is not done in time ends with its reason, and a resume goes on."""
    async with simulated("task.stuck=#1") as sim:
        async with sim_client(sim) as client:
            with pytest.raises(BatchTimedOut, match="can be resumed"):
                await all_of(client.render(["slow"], tmp_path, deadline=0.5))
            assert client.render(["x"], tmp_path, deadline=9).summary().total == 0
        [task_id] = sim.books()["tasks"]
        sim.world.finish(task_id)
        async with sim_client(sim) as client:
            assert kinds(await all_of(client.resume(tmp_path))) == {"Saved": 1}
        assert sim.books()["accepted"] == 1


async def test_a_wrong_key_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    """Planning asks for the balance: a refused key is an error there, before any create."""
    async with simulated(api_key="another") as sim, sim_client(sim) as client:
        with pytest.raises(AuthenticationError):
            await all_of(client.render(prompts(2), tmp_path))
        assert sim.books()["creates"] == []


async def test_dead_links_are_replaced(tmp_path: Path) -> None:
    """Links that answer 403 are replaced by fresh ones, and every file is saved."""
    async with simulated("download.dead-link=50%") as sim, sim_client(sim) as client:
        outcomes = await all_of(client.render(prompts(4), tmp_path))
        assert kinds(outcomes) == {"Saved": 4}
        assert sim.books()["faults"]["download.dead-link"] > 0
        check_files(tmp_path, 16)


async def test_a_directory_without_a_ledger_cannot_be_resumed(tmp_path: Path) -> None:
    """Resuming a folder that holds no batch is a clear error, and makes nothing in it."""
    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(LedgerError, match="holds no batch"):
            await all_of(client.resume(tmp_path))
    assert list(tmp_path.iterdir()) == []


async def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """An output path that is a file is a clear error."""
    (tmp_path / "file").write_text("mine")
    async with simulated() as sim, sim_client(sim) as client:
        with pytest.raises(WriteFailed, match="is a file"):
            await all_of(client.render(prompts(1), tmp_path / "file"))
        with pytest.raises(WriteFailed, match="cannot be written"):
            await all_of(client.render(prompts(1), tmp_path / "file" / "below"))
        assert sim.books()["creates"] == []


async def test_another_hosts_directory_is_refused(tmp_path: Path) -> None:
    """A directory whose tasks live at another host is refused before anything is sent."""
    async with simulated() as sim:
        async with sim_client(sim) as client:
            await all_of(client.render(prompts(1), tmp_path))
        async with sim_client(sim, host="other") as client:
            with pytest.raises(WrongHost, match="other"):
                await all_of(client.render(prompts(2), tmp_path))
        assert sim.books()["accepted"] == 1


async def test_one_worker_for_one_directory(tmp_path: Path) -> None:
    """A second batch on a directory in use is told who uses it; afterwards it may."""
    async with simulated() as sim, sim_client(sim) as client:
        async with client.render(prompts(2), tmp_path) as first:
            await first.plan()
            with pytest.raises(LedgerBusy) as caught:
                await all_of(client.render(prompts(2), tmp_path))
            assert caught.value.pid == os.getpid()
            assert kinds(await all_of(first)) == {"Saved": 2}
        assert kinds(await all_of(client.render(prompts(2), tmp_path))) == {"Saved": 2}


async def test_a_users_file_is_left_alone(tmp_path: Path) -> None:
    """A file of the user's under a result's name stays as it is; the result takes another name."""
    async with simulated() as sim:
        async with sim_client(sim) as client:
            [first] = await all_of(client.render(["a fox"], tmp_path / "a"))
        assert isinstance(first, Saved)
        other = tmp_path / "b"
        other.mkdir()
        (other / first.paths[0].name).write_text("mine")
        async with sim_client(sim) as client:
            [second] = await all_of(client.render(["a fox"], other))
        assert isinstance(second, Saved)
        assert (other / first.paths[0].name).read_text() == "mine"
        assert second.paths[0].name != first.paths[0].name


async def test_two_batches_at_once_share_the_window(tmp_path: Path) -> None:
    """Two batches of a client, and two clients of an account, together stay within one window."""
    async with simulated() as sim:
        state = tmp_path / "state"
        async with (
            sim_client(sim, state_dir=state) as one,
            sim_client(sim, state_dir=state) as two,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(all_of, one.render(prompts(24), tmp_path / "a"))
            tasks.start_soon(all_of, one.render(prompts(12), tmp_path / "b"))
            tasks.start_soon(all_of, two.render(prompts(12), tmp_path / "c"))
        books = sim.books()
        assert books["accepted"] == 48
        assert books["refused_429_window"] == 0
        assert books["most_requests_in_window"] <= 20


PROCESS = """
import asyncio, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from support import Secret, Settings, Rate, Client

async def main():
    settings = Settings(key=Secret({key!r}), base_url={url!r}, host="sim",
        rate=Rate(20, {seconds}), time_scale={scale}, state_dir=Path({state!r}))
    async with Client.from_settings(settings) as client:
        prompts = [f"{{sys.argv[1]}} {{n}}" for n in range(25)]
        async for _ in client.render(prompts, {out!r} + sys.argv[1]):
            pass

asyncio.run(main())
"""


@pytest.mark.slow
async def test_two_processes_share_the_window(tmp_path: Path) -> None:
    """Two processes of an account on one machine together stay within one window."""
    scale = 0.03
    async with simulated(scale=scale) as sim:
        code = PROCESS.format(
            root=str(Path(__file__).parent.parent),
            tests=str(Path(__file__).parent),
            key=KEY,
            url=sim.url,
            seconds=10 * scale,
            scale=scale,
            state=str(tmp_path / "state"),
            out=str(tmp_path) + "/",
        )
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                command = [sys.executable, "-W", "error", "-c", code, name]
                tasks.start_soon(partial(anyio.run_process, command, stderr=subprocess.PIPE))
        books = sim.books()
        assert books["accepted"] == 50
        assert books["refused_429_window"] == 0
        assert books["most_requests_in_window"] <= 20


async def test_requests_are_taken_as_they_are(tmp_path: Path) -> None:
    """A list may mix prompts and requests; fields go to the prompts only."""
    async with simulated() as sim, sim_client(sim) as client:
        items: list[str | Request] = ["a fox", TextToImage("a hen", version="niji6")]
        outcomes = await all_of(client.render(items, tmp_path, version="7"))
        assert kinds(outcomes) == {"Saved": 2}
        bodies = {one["prompt"]: one["body"]["version"] for one in sim.books()["creates"]}
        assert bodies == {"a fox": "7", "a hen": "niji6"}


async def test_the_scale_of_these_tests() -> None:
    """The client's window is the simulator's."""
    async with simulated() as sim:
        assert sim.books()["window_seconds"] == pytest.approx(10 * SCALE)
