"""The ETA: what a batch says it will still take, beside what it took, in virtual time.

    python -m benchmarks.eta [--runs 20] [--jobs 20,60,100,300] [--only TEXT]

Whole batches of the real client: ledger, window, poll loop and all, over a service in memory whose tasks
take times drawn at random. Nobody waits: a virtual clock jumps from event to event. At a quarter, a half
and three quarters of each run the ETA is asked for; afterwards it is known what was true. See README.md
beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from benchmarks import overhead_model as model
from benchmarks.polling_model import RECORDED, TRUTHS, Truth
from kie_mj_async.client import Client
from kie_mj_async.engine import house
from kie_mj_async.engine.clock import Clock
from kie_mj_async.progress import Left
from kie_mj_async.requests import OmniReference, Request, TextToImage
from kie_mj_async.rules import wire
from kie_mj_async.rules.kinds import kind_of
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings
from kie_mj_async.testing import VirtualLoop, virtual_clock

PARTS = (0.25, 0.5, 0.75)
LEARNED = 60
"""Durations of each class that a forecast has seen that is not cold."""

ROUND_TRIP = (0.8, 1.2)
SAVING = (0.3, 0.9)
IMAGE = "https://cdn.example/a.png"


@attrs.frozen
class World:
    """What is rendered.

    Attributes:
        name: What it is, for people.
        classes: The share of each class, a request of it, and how long its tasks take.
    """

    name: str
    classes: Sequence[tuple[float, Callable[[int], Request], Truth]]

    def draw(self, chance: random.Random, jobs: int) -> list[tuple[Request, float]]:
        """Jobs, and how long the task of each takes."""
        shares = [share for share, _, _ in self.classes]
        drawn = [chance.choices(self.classes, shares)[0] for _ in range(jobs)]
        return [(make(number), truth.draw(chance)) for number, (_, make, truth) in enumerate(drawn)]


def text(speed: str) -> Callable[[int], Request]:
    return lambda number: TextToImage(model.prompt(number), speed=speed, version="7")


def omni(number: int) -> Request:
    return OmniReference(model.prompt(number), images=[IMAGE], speed="fast", version="7")


MAKERS = (text("fast"), text("relaxed"), omni)
WORLDS = (
    World("log-normal(20, 0.35)", [(1.0, text("fast"), TRUTHS["log-normal(20, 0.35)"])]),
    World(
        "the recordings' mix",
        [(share, make, truth) for make, (share, _, truth) in zip(MAKERS, RECORDED, strict=True)],
    ),
)


class Service(model.MemoryService):
    """A service in memory, whose tasks take as long as was drawn for their prompts."""

    def __init__(self, jobs: Sequence[tuple[Request, float]], chance: random.Random) -> None:
        super().__init__()
        self.clock: Clock
        self._lasts = {request.prompt: seconds for request, seconds in jobs}
        self._chance = chance
        self._tasks: dict[str, tuple[datetime, float, float]] = {}

    async def create(self, request: Request, *, may_send: Callable[[], bool]) -> wire.Reply:
        """Accept, after a while."""
        half = 0.5 * self._chance.uniform(*ROUND_TRIP)
        await asyncio.sleep(half)
        self.creates += 1
        task_id = f"{self.creates:032x}"
        ends = self.clock.monotonic() + self._lasts[request.prompt]
        self._tasks[task_id] = self.clock.now(), ends, self._lasts[request.prompt]
        await asyncio.sleep(half)
        return wire.Reply(200, b'{"code": 200, "data": {"taskId": "%s"}}' % task_id.encode())

    async def record(self, task_id: str) -> wire.Record:
        """Where it stands."""
        self.reads += 1
        born, ends, lasts = self._tasks[task_id]
        if self.clock.monotonic() < ends:
            return wire.Record(task_id, wire.Status.GENERATING, 0, created_at=born)
        done = datetime.fromtimestamp(born.timestamp() + lasts, born.tzinfo)
        return wire.Record(task_id, wire.Status.SUCCEEDED, 1, model.LINKS, born, done)


class Saver(model.MemorySaver):
    """Saves nothing, in a while."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def save(self, *args: Any, **options: Any) -> None:
        """Each takes as long as four files may."""
        await asyncio.sleep(self._chance.uniform(*SAVING))
        await super().save(*args, **options)


@attrs.frozen
class Said:
    """An ETA, and what was true: seconds."""

    left: Left
    truth: float

    @property
    def off(self) -> float:
        """By what part of the truth it was too short (negative) or too long."""
        return self.left.middle / self.truth - 1.0

    @property
    def inside(self) -> bool:
        """Whether the truth was within its spread."""
        return self.left.low <= self.truth <= self.left.high


async def run(world: World, jobs: int, cold: bool, seed: int) -> dict[float, Said]:
    """One batch: what was said at each part of it."""
    chance = random.Random(f"{world.name} {jobs} {cold} {seed}")
    drawn = world.draw(chance, jobs)
    service = Service(drawn, chance)
    settings = Settings(
        key=Secret("none"), base_url="http://127.0.0.1:9", host=model.HOST, rate=Rate(20, 10.0)
    )
    client = Client.from_settings(settings)
    within: Any = client._house
    within.transport = within.poller._reader = service
    within.saver = Saver(chance)
    service.clock = within.clock
    if not cold:
        for _, make, truth in world.classes:
            for _ in range(LEARNED):
                within.forecast.observe(kind_of(make(0)), truth.draw(chance))
    told: list[tuple[float, Left]] = []
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        async with client:
            within.window._monotonic = service.clock.monotonic
            batch = client.render([request for request, _ in drawn], Path(folder))
            await batch.plan()
            began = service.clock.monotonic()

            async def ask() -> None:
                while True:
                    if (left := batch.eta()) is not None:
                        told.append((service.clock.monotonic() - began, left))
                    await asyncio.sleep(1.0)

            asking = asyncio.ensure_future(ask())
            async for _ in batch:
                pass
            took = service.clock.monotonic() - began
            asking.cancel()
    said = {}
    for part in PARTS:
        at, left = min(told, key=lambda one: abs(one[0] - part * took))
        said[part] = Said(left, took - at)
    return said


def shared_memory() -> str | None:
    """A folder in memory, where there is one: ledgers are synced at every step."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def summary(said: Sequence[Said]) -> list[str]:
    """The mean error, the 90th percentile of its size, and how often the truth was inside."""
    sizes = sorted(abs(one.off) for one in said)
    p90 = sizes[min(len(sizes) - 1, round(0.9 * len(sizes)))]
    inside = sum(one.inside for one in said) / len(said)
    return [f"{statistics.mean(one.off for one in said):+.0%}", f"{p90:.0%}", f"{inside:.0%}"]


def show(runs: int, sizes: Sequence[int], only: str) -> None:
    """Print the table."""
    head = ["durations", "forecast", "jobs"]
    head += [f"{what} at {part:.0%}" for part in PARTS for what in ("error", "p90", "inside")]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head), flush=True)
    for world in WORLDS:
        for cold in (False, True):
            for jobs in sizes:
                row = [world.name, "cold" if cold else "known", str(jobs)]
                if only not in " ".join(row):
                    continue
                said = [virtually(world, jobs, cold, seed) for seed in range(runs)]
                for part in PARTS:
                    row += summary([one[part] for one in said])
                print("| " + " | ".join(row) + " |", flush=True)


def virtually(world: World, jobs: int, cold: bool, seed: int) -> dict[float, Said]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run(world, jobs, cold, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--jobs", default="20,60,100,300")
    parser.add_argument("--only", default="", help="rows that hold this text")
    given = parser.parse_args()
    house.Clock = virtual_clock  # type: ignore[attr-defined,assignment]
    show(given.runs, [int(one) for one in given.jobs.split(",")], given.only)


if __name__ == "__main__":
    main()
