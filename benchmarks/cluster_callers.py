"""Who has jobs made, for ``cluster.py``: each measurement in a process of its own.

python -m benchmarks.cluster_callers WORK WISHES        prints its figures as JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from benchmarks import cluster_model as model
from benchmarks.overhead_model import cpu
from benchmarks.peer_world import AT_ONCE, CREATES, WINDOW
from kie_mj_async.jobs import Generation, Outcome, Saved

Figures = dict[str, Any]

BATCH = "benchmark"


def prompts(jobs: int, first: int = 0) -> list[str]:
    """A list."""
    return [
        f"a lighthouse in a storm, oil on canvas, number {n}" for n in range(first, first + jobs)
    ]


@attrs.define
class Ends:
    """When jobs came to their ends, by the service's word, the files' and the caller's."""

    saving: list[float] = attrs.field(factory=list)
    hearing: list[float] = attrs.field(factory=list)

    def take(self, outcome: Outcome) -> None:
        """Note one that was heard of now.

        Raises:
            RuntimeError: It was not saved.
        """
        if not isinstance(outcome, Saved) or outcome.job.completed_at is None:
            raise RuntimeError(f"not saved: {outcome}")
        saved = max(file.saved_at for file in outcome.job.files)
        self.saving.append((saved - outcome.job.completed_at).total_seconds())
        self.hearing.append((datetime.now(UTC) - saved).total_seconds())


async def render_alone(base: str, jobs: int, scale: float, folder: Path) -> Figures:
    """A list, by one machine."""
    ends = Ends()
    async with _client(base, scale, folder) as client:
        used, began = cpu(), time.perf_counter()
        async for outcome in client.render(prompts(jobs), folder / "out"):
            ends.take(outcome)
        seconds, used = time.perf_counter() - began, cpu() - used
    return {"seconds": seconds, "cpu": used, **attrs.asdict(ends), **_memory()}


async def render_by_fleet(url: str, jobs: int) -> Figures:
    """A list, as whoever has it made sees it."""
    from kie_mj_async.cluster import Cluster

    ends = Ends()
    async with Cluster(url) as cluster:
        used, began = cpu(), time.perf_counter()
        batch = cluster.render(prompts(jobs), batch=BATCH)
        await batch.plan()
        planned = cpu() - used
        async for outcome in batch:
            ends.take(outcome)
        seconds, used = time.perf_counter() - began, cpu() - used
    return {
        "seconds": seconds, "planned": planned, "cpu": used, **attrs.asdict(ends), **_memory()
    }  # fmt: skip


async def one_by_one_alone(base: str, jobs: int, scale: float, folder: Path) -> Figures:
    """One job at a time, by one machine: until it is accepted, and from its end until it is saved."""
    async with _client(base, scale, folder) as client:

        async def make(prompt: str) -> Generation:
            made: Generation = await client.generate(prompt)
            await made.save(folder / "out")
            return made

        return await _one_by_one(make, jobs)


async def one_by_one_by_fleet(url: str, jobs: int) -> Figures:
    """The same by a fleet."""
    from kie_mj_async.cluster import Cluster

    async with Cluster(url) as cluster:
        return await _one_by_one(cluster.generate, jobs)


async def _one_by_one(make: Callable[[str], Any], jobs: int) -> Figures:
    before, after, used = [], [], cpu()
    for prompt in prompts(jobs, 100_000):
        asked = datetime.now(UTC)
        made: Generation = await make(prompt)
        if made.created_at is None or made.completed_at is None:
            raise RuntimeError("the service does not say when")
        before.append((made.created_at - asked).total_seconds())
        after.append((datetime.now(UTC) - made.completed_at).total_seconds())
    return {"before": before, "after": after, "cpu": cpu() - used}


async def enqueue_list(url: str, jobs: int) -> Figures:
    """A list into the queue."""
    from kie_mj_async.cluster import Cluster

    async with Cluster(url) as cluster:
        used, began = cpu(), time.perf_counter()
        await cluster.render(prompts(jobs), batch=BATCH).plan()
        return {"seconds": time.perf_counter() - began, "cpu": cpu() - used, **_memory()}


async def enqueue_singly(url: str, jobs: int) -> Figures:
    """Jobs into the queue, each by a call of its own: what a web replica does."""
    from kie_mj_async.cluster import Cluster

    async with Cluster(url) as cluster:
        used, began = cpu(), time.perf_counter()
        for prompt in prompts(jobs):
            await cluster.submit(prompt, batch="singly")
        return {"seconds": time.perf_counter() - began, "cpu": cpu() - used, **_memory()}


CHILDREN: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(render_alone, render_by_fleet, one_by_one_alone, one_by_one_by_fleet),
        *(enqueue_list, enqueue_singly),
    )
}


def _client(base: str, scale: float, folder: Path) -> Any:
    from kie_mj_async.client import Client
    from kie_mj_async.rules.pacing import Rate
    from kie_mj_async.secret import Secret
    from kie_mj_async.settings import Settings

    settings = Settings(
        key=Secret("none"),
        base_url=base,
        host="benchmark",
        rate=Rate(CREATES, WINDOW * scale),
        in_flight=AT_ONCE,
        state_dir=folder / "state",
        time_scale=scale,
    )
    return Client.from_settings(settings)


def _memory() -> Figures:
    return {"peak": model.memory_of(os.getpid(), "VmHWM")}


def command_of(work: Callable[..., Any], **wishes: Any) -> list[str]:
    """How to run a measurement in a process of its own."""
    name = work.__name__
    return [sys.executable, "-m", "benchmarks.cluster_callers", name, json.dumps(wishes)]


def measured(work: Callable[..., Any], within: float = 600.0, **wishes: Any) -> Figures:
    """A measurement in a process of its own."""
    return dict(json.loads(model.run_child(command_of(work, **wishes), within)))


def child(name: str, wishes: Figures) -> None:
    """One measurement; prints its figures."""
    if "folder" in wishes:
        wishes["folder"] = Path(wishes["folder"])
    print(json.dumps(asyncio.run(CHILDREN[name](**wishes))))


if __name__ == "__main__":
    child(sys.argv[1], json.loads(sys.argv[2]))
