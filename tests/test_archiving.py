"""``Client.archive``: results of tasks made elsewhere, by whoever, at no cost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import sim_client, simulated

from kie_mj_async.errors import InvalidRequest, ResultExpired
from kie_mj_async.jobs import Expired, Failed, Saved, State
from kie_mj_async.requests import ExistingTask, TextToImage
from kie_mj_async.simulator import Simulator

pytestmark = pytest.mark.anyio


async def made_elsewhere(sim: Simulator, *prompts: str) -> list[str]:
    """What a web app did."""
    async with sim_client(sim) as client:
        return [(await client.submit(TextToImage(one, speed="fast"))).task_id for one in prompts]


async def test_tasks_from_anywhere_are_saved(tmp_path: Path) -> None:
    """Ids from any iterable become files with the prompt that their record tells; nothing is paid."""
    async with simulated() as sim:
        ids = await made_elsewhere(sim, "a fox", "an owl", "a hare")

        async def coming_in() -> AsyncIterator[str]:
            for one in (*ids, ids[0]):
                yield one

        async with sim_client(sim, max_credits=1) as client:
            outcomes = [one async for one in client.archive(coming_in(), tmp_path)]
        assert sim.books()["accepted"] == 3
    saved = {one.job.task_id: one for one in outcomes if isinstance(one, Saved)}
    assert set(saved) == set(ids)
    assert {one.job.prompt for one in outcomes} == {"a fox", "an owl", "a hare"}
    assert all(path.is_file() for one in saved.values() for path in one.paths)
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert json.loads(lines[0])["params"] == {"type": "TextToImage", "speed": "fast"}


async def test_what_was_rendered_here_is_not_fetched_again(tmp_path: Path) -> None:
    """A task that a job of the directory has is that job, told once more and fetched once."""
    async with simulated() as sim, sim_client(sim) as client:
        (made,) = [one async for one in client.render(["a fox"], tmp_path)]
        assert made.job.task_id is not None
        fetched = len(sim.books()["downloads"])
        (again,) = [one async for one in client.archive([made.job.task_id], tmp_path)]
        assert isinstance(again, Saved)
        assert again.job.key == made.job.key
        assert len(sim.books()["downloads"]) == fetched
        assert isinstance(again.job.request, TextToImage)


async def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Leaving early leaves the rest for the same call, or for a resume."""
    async with simulated() as sim:
        ids = await made_elsewhere(sim, *(f"prompt {number}" for number in range(8)))
        async with sim_client(sim, in_flight=1) as client:
            async for _ in client.archive(ids, tmp_path):
                break
        async with sim_client(sim) as client:
            batch = client.resume(tmp_path)
            assert {type(one) async for one in batch} <= {Saved}
            assert batch.summary().by_state == {State.SAVED: 8}


async def test_failed_and_forgotten_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed task is told with its prompt; one that the service does not know has expired."""
    monkeypatch.setattr("kie_mj_async.engine.poll_scheduler.NOT_YET", 0.1)
    async with simulated("task.fail=#1") as sim:
        (failed,) = await made_elsewhere(sim, "a fox")
        async with sim_client(sim) as client:
            outcomes = [one async for one in client.archive([failed, "f" * 32], tmp_path)]
    by_id = {one.job.task_id: one for one in outcomes}
    assert isinstance(by_id[failed], Failed)
    assert by_id[failed].job.prompt == "a fox"
    gone = by_id["f" * 32]
    assert isinstance(gone, Expired)
    assert isinstance(gone.error, ResultExpired)
    assert isinstance(gone.job.request, ExistingTask)


async def test_what_is_no_id_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """A bad id anywhere in the list, or a text in place of a list, takes nothing in."""
    async with simulated() as sim, sim_client(sim) as client:
        for listed in (["abc", "not an id"], "abc"):
            with pytest.raises(InvalidRequest, match="task_id"):
                await client.archive(listed, tmp_path).plan()
        assert sim.books()["keys"] == []
        assert client.archive(["abc"], tmp_path).summary().total == 0
