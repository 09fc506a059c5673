"""The journal, and what a simulator makes of it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from kie_mj_async.simulator import Simulator
from kie_mj_async.simulator.journal import Journal

pytestmark = pytest.mark.anyio
TEXT = {"taskType": "mj_txt2img", "prompt": "a fox"}


async def post(url: str, count: int) -> list[str]:
    headers = {"Authorization": "Bearer key"}
    ids = []
    async with aiohttp.ClientSession(headers=headers) as session:
        for _ in range(count):
            async with session.post(url + "/api/v1/mj/generate", json=TEXT) as answer:
                ids.append((await answer.json())["data"]["taskId"])
    return ids


def without_hosts(books: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in books.items() if name != "keys"}


async def test_events_are_kept_in_order(tmp_path: Path) -> None:
    """What was flushed is there for the next one who opens the file; directories are made."""
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path)
    assert await journal.open() == []
    for number in range(3):
        journal.append({"kind": "x", "at": number})
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(journal.flush)
    assert [json.loads(line)["at"] for line in path.read_text().splitlines()] == [0, 1, 2]
    journal.append({"kind": "x", "at": 3})
    await journal.aclose()
    again = Journal(path)
    assert [event["at"] for event in await again.open()] == [0, 1, 2, 3]
    await again.aclose()
    await again.aclose()


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_flush_loses_nothing(tmp_path: Path, steps: int) -> None:
    """What was taken before a flush was cancelled, as by a client that left, is written by the next."""
    journal = Journal(tmp_path / "journal.jsonl")
    await journal.open()
    journal.append({"at": 1})
    flush = asyncio.create_task(journal.flush())
    for _ in range(steps):
        await asyncio.sleep(0)
    flush.cancel()
    await asyncio.wait([flush])
    journal.append({"at": 2})
    await journal.aclose()
    assert journal.path.read_text() == '{"at":1}\n{"at":2}\n'


async def test_a_torn_last_line_is_removed(tmp_path: Path) -> None:
    """Half a line at the end never happened; what is written next starts on a line of its own."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"at":1}\n{"at":2}\n{"at":')
    journal = Journal(path)
    assert await journal.open() == [{"at": 1}, {"at": 2}]
    journal.append({"at": 3})
    await journal.aclose()
    assert path.read_text() == '{"at":1}\n{"at":2}\n{"at":3}\n'


async def test_another_file_is_refused(tmp_path: Path) -> None:
    """A file that is no journal is left alone; the message names the line."""
    path = tmp_path / "notes.txt"
    path.write_text("hello\n")
    with pytest.raises(ValueError, match=r"notes.txt, line 1"):
        await Simulator(journal=path).start()
    assert path.read_text() == "hello\n"


async def test_a_new_simulator_goes_on(tmp_path: Path) -> None:
    """A simulator with the journal of another one, never closed, has its tasks and books."""
    path = tmp_path / "journal.jsonl"
    first = Simulator(journal=path, credits=500, time_scale=0.01, seed=5)
    await first.start()
    ids = await post(first.url, 4)
    async with Simulator(journal=path, credits=9, time_scale=0.01, seed=5) as second:
        now = first._clock()
        assert without_hosts(second.world.books(now)) == without_hosts(first.world.books(now))
        assert second.books()["credits"] == 400
        more = await post(second.url, 2)
        assert len({*ids, *more}) == 6
    await first.aclose()


async def test_tasks_go_on_while_it_is_away(tmp_path: Path) -> None:
    """Time passes for tasks between two simulators as it would have within one."""
    path = tmp_path / "journal.jsonl"
    async with Simulator(journal=path, clock=lambda: 1000.0) as first:
        (task_id,) = await post(first.url, 1)
        assert first.books()["tasks"][task_id]["state"] == "running"
    async with Simulator(journal=path, clock=lambda: 1100.0) as second:
        assert second.books()["tasks"][task_id]["state"] == "succeeded"


_CHILD = """
import sys, anyio
from kie_mj_async.simulator import Simulator

async def main():
    async with Simulator(journal=sys.argv[1], credits=500) as sim:
        print(sim.url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_killed_simulator_goes_on(tmp_path: Path) -> None:
    """After a SIGKILL nothing that was answered is lost."""
    path = tmp_path / "journal.jsonl"
    async with await anyio.open_process([sys.executable, "-c", _CHILD, str(path)]) as child:
        assert child.stdout is not None
        try:
            url = (await child.stdout.receive()).decode().strip()
            ids = await post(url, 5)
        finally:
            child.kill()
    async with Simulator(journal=path) as sim:
        books = sim.books()
        assert list(books["tasks"]) == ids
        assert books["credits"] == 375
        assert [one["task_id"] for one in books["creates"]] == ids
