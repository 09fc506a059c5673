"""Cancelling at every await, and at every step of the event loop: nothing leaks, all can be resumed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from support import scaled, until

from kie_mj_async.archive.manifest import Manifest
from kie_mj_async.batch import ledger_path
from kie_mj_async.client import Client
from kie_mj_async.engine.house import House
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.simulator import Simulator

pytestmark = pytest.mark.anyio

SCALE = 0.0005
SEED = 20261122


class Steps(selectors.DefaultSelector):
    """Counts the steps of an event loop, and does something at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._due: int | None = None
        self._act: Callable[[], object]

    def at(self, nth: int, act: Callable[[], object]) -> None:
        """Do this at the n-th step from now."""
        self._due, self._act = self.count + nth, act

    def never(self) -> bool:
        """Do nothing any more; whether it is done already."""
        done = self._due is None
        self._due = None
        return done

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.count += 1
        if self.count == self._due:
            self._due = None
            self._act()
            timeout = 0
        return super().select(timeout)


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose steps are counted."""

    def __init__(self) -> None:
        self.steps = Steps()
        super().__init__(self.steps)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": SteppedLoop}


def steps() -> Steps:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop.steps


class Counted(Coroutine[Any, Any, None]):
    """A coroutine that calls ``act`` at its n-th await, with what it waits for."""

    def __init__(
        self, inner: Coroutine[Any, Any, None], nth: int, act: Callable[[Any], object]
    ) -> None:
        self._inner = inner
        self._left = nth
        self._act = act

    def send(self, value: Any) -> Any:
        return self._count(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._count(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._inner.__await__()

    def _count(self, awaited: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self._act(awaited)
        return awaited


Work = Callable[[], Coroutine[Any, Any, None]]
Cut = Callable[[Work, int], Awaitable[bool]]
"""Runs work and cancels it at a place; whether the work got that far."""


async def cut_task(work: Work, nth: int) -> bool:
    """Cancel the task as soon as it waits for the n-th time."""
    return await _cut_at_await(work, nth, lambda task, _awaited: task.cancel())


async def cut_task_late(work: Work, nth: int) -> bool:
    """Cancel the task when what it waits for the n-th time is there, before it can take it."""

    def cancel(task: asyncio.Task[None], awaited: Any) -> None:
        if awaited is None:
            task.cancel()
        else:
            awaited.add_done_callback(lambda _: task.cancel())

    return await _cut_at_await(work, nth, cancel)


async def cut_scope(work: Work, nth: int) -> bool:
    """Cancel a scope around the work as soon as it waits for the n-th time."""
    scope = anyio.CancelScope()

    async def scoped() -> None:
        with scope:
            await work()

    return await _cut_at_await(scoped, nth, lambda _task, _awaited: scope.cancel())


async def _cut_at_await(
    work: Work, nth: int, cancel: Callable[[asyncio.Task[None], Any], object]
) -> bool:
    reached = False

    def act(awaited: Any) -> None:
        nonlocal reached
        reached = True
        cancel(task, awaited)

    task = asyncio.create_task(Counted(work(), nth, act))
    await _ended(task)
    return reached


async def cut_task_at_step(work: Work, nth: int) -> bool:
    """Cancel the task at the n-th step of the event loop."""
    task = asyncio.create_task(work())
    steps().at(nth, task.cancel)
    await _ended(task)
    return steps().never()


async def cut_scope_at_step(work: Work, nth: int) -> bool:
    """Cancel a scope around the work at the n-th step of the event loop."""
    scope = anyio.CancelScope()

    async def scoped() -> None:
        with scope:
            await work()

    steps().at(nth, scope.cancel)
    await _ended(asyncio.create_task(scoped()))
    return steps().never()


async def _ended(task: asyncio.Task[None]) -> None:
    with anyio.fail_after(10):
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


@attrs.define
class Holdings:
    """What the process holds: tasks, and open files and sockets."""

    tasks: set[asyncio.Task[Any]]
    files: Counter[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(asyncio.all_tasks(), open_files())

    async def again(self) -> None:
        """Nothing is held but what was held before. The server's end may take a moment."""
        ours = {one for one in asyncio.all_tasks() - self.tasks if "aiohttp/web" not in repr(one)}
        assert ours == set()
        with contextlib.suppress(TimeoutError):
            await until(lambda: Holdings.now() == self, 5)
        assert asyncio.all_tasks() == self.tasks
        assert open_files() == self.files


def open_files() -> Counter[str]:
    """What is open, sockets by their kind only; nothing where the system does not tell."""
    found: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that lists them is gone again
                target = str(link.readlink())
                found["socket" if target.startswith("socket:") else target] += 1
    return found


@attrs.define
class Bench:
    """A service, a place for batches, and what was held before the first of them."""

    sim: Simulator
    folder: Path
    number: int = 0

    @property
    def out(self) -> Path:
        return self.folder / str(self.number)

    @property
    def prompts(self) -> list[str]:
        return [f"batch {self.number} prompt {n}" for n in range(3)]

    @property
    def accepted(self) -> list[str]:
        """The tasks of the present batch."""
        creates = self.sim.books()["creates"]
        return [
            one["task_id"] for one in creates if one["prompt"] in self.prompts and one["charged"]
        ]

    def client(self, ledger: Path | None = None) -> Client:
        settings = scaled(
            self.sim, SCALE, state_dir=self.folder / "state", polls_per_second=50 * SCALE
        )
        client = Client.from_settings(settings)
        if ledger is not None:
            client._move_in(House(settings, ledger_path=ledger))
        return client

    async def loop(self) -> None:
        """A batch, iterated directly."""
        async with self.client() as client:
            async for _ in client.render(self.prompts, self.out, speed="turbo"):
                await asyncio.sleep(0)

    async def entered(self) -> None:
        """A batch, entered, planned and iterated."""
        async with (
            self.client() as client,
            client.render(self.prompts, self.out, speed="turbo") as batch,
        ):
            await batch.plan()
            async for _ in batch:
                await asyncio.sleep(0)

    async def generate(self) -> None:
        """The same prompts, one by one, with a ledger of the client's own."""
        async with self.client(self.out / "app.sqlite3") as client:
            for prompt in self.prompts:
                await client.generate(prompt, key=prompt, speed="turbo")

    async def holdings(self) -> Holdings:
        """What is held when nobody is connected any more."""
        assert self.sim._runner is not None
        server = self.sim._runner.server
        assert server is not None
        await until(lambda: not server.connections)
        await asyncio.sleep(0.01)
        return Holdings.now()

    async def check(self, ledger_file: Path) -> None:
        """Nothing is half, and the ledger knows all that was paid."""
        assert list(self.out.rglob("*.part")) == []
        if not ledger_file.exists():
            assert self.accepted == []
            return
        ledger = await SqliteLedger.open(ledger_file, "sim")
        try:
            counts = await ledger.counts()
            assert counts[State.SUBMITTING] == counts[State.UNRESOLVED] == 0
            for task_id in self.accepted:
                assert await ledger.by_task(task_id) is not None
        finally:
            await ledger.aclose()

    async def go_on(self, work: Work) -> None:
        """The same again ends well, and nothing was paid twice."""
        await work()
        prompts = Counter(
            one["prompt"] for one in self.sim.books()["creates"] if one["prompt"] in self.prompts
        )
        assert prompts == dict.fromkeys(self.prompts, 1)
        assert len(self.accepted) == 3

    async def try_render(self, cut: Cut, work: Work, nth: int) -> bool:
        """Cancel a new batch at a place, check, and go on with it; whether it got that far."""
        self.number += 1
        held = await self.holdings()
        reached = await cut(work, nth)
        await held.again()
        await self.check(ledger_path(self.out))
        await self.go_on(work)
        lines = (self.out / "manifest.jsonl").read_text().splitlines()
        assert len(lines) == len(list(self.out.glob("*.*g"))) == 12
        return reached

    async def try_inside(self, cut: Cut, nth: int) -> bool:
        """Cancel one that is left early, of a client that lives on: it has ended, its folder is free."""
        self.number += 1
        async with self.client() as client:

            async def work() -> None:
                async with client.render(self.prompts, self.out, speed="turbo") as batch:
                    async for _ in batch:
                        break

            reached = await cut(work, nth)
            assert client._house.guests == set()
            await self.check(ledger_path(self.out))
            await self.go_on(self.loop)
        return reached

    async def try_generate(self, cut: Cut, nth: int) -> bool:
        """Cancel calls of ``generate`` at a place, check, and make them again."""
        self.number += 1
        self.out.mkdir()
        held = await self.holdings()
        reached = await cut(self.generate, nth)
        await held.again()
        await self.check(self.out / "app.sqlite3")
        await self.go_on(self.generate)
        return reached


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place in memory, where there is one: what is synced is the subject of other tests."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
async def bench(folder: Path) -> AsyncIterator[Bench]:
    async with Simulator(time_scale=SCALE, picture_side=16) as sim:
        yield Bench(sim, folder)


async def at_every(attempt: Callable[[int], Awaitable[bool]]) -> int:
    """Try 1, 2, 3 and so on, until the work ends before; how often it was cancelled."""
    nth = 1
    while await attempt(nth):
        nth += 1
    return nth - 1


async def some_steps(work: Work, count: int) -> list[int]:
    """So many of the steps of the event loop that the work takes, by chance."""
    before = steps().count
    await work()
    every = range(1, steps().count - before + 1)
    return sorted(random.Random(SEED).sample(every, min(count, len(every))))


@pytest.mark.parametrize(
    ("how", "cut"),
    [
        ("loop", cut_task),
        ("entered", cut_scope),
        pytest.param("loop", cut_task_late, marks=pytest.mark.slow),
        pytest.param("loop", cut_scope, marks=pytest.mark.slow),
        pytest.param("entered", cut_task, marks=pytest.mark.slow),
        pytest.param("entered", cut_task_late, marks=pytest.mark.slow),
    ],
)
async def test_a_batch_cancelled_at_every_await(bench: Bench, how: str, cut: Cut) -> None:
    """Cancelling the task that iterates, at each await in turn, leaves nothing and loses nothing."""
    work = getattr(bench, how)
    times = await at_every(lambda nth: bench.try_render(cut, work, nth))
    assert times >= 5


@pytest.mark.parametrize("cut", [cut_task, cut_scope])
async def test_a_batch_of_a_client_that_lives_on(bench: Bench, cut: Cut) -> None:
    """A cancelled batch has ended when its task has, also where the client stays open."""
    times = await at_every(lambda nth: bench.try_inside(cut, nth))
    assert times >= 3


@pytest.mark.parametrize("cut", [cut_task, cut_task_late, cut_scope])
async def test_a_call_cancelled_at_every_await(bench: Bench, cut: Cut) -> None:
    """Cancelling ``generate`` at each await in turn: each task paid is in the durable ledger."""
    times = await at_every(lambda nth: bench.try_generate(cut, nth))
    assert times >= 5


async def test_a_manifest_cancelled_at_every_await(folder: Path) -> None:
    """Cancelling while a thread opens, writes or closes the manifest leaves no file open."""

    async def nothing() -> AsyncIterator[Job]:
        none: tuple[Job, ...] = ()
        for job in none:
            yield job

    manifest = Manifest(folder)
    for _ in range(20):  # how far the thread is by then is chance
        held = Holdings.now()
        assert await at_every(lambda nth: cut_scope(lambda: manifest.rebuild(nothing()), nth)) >= 5
        await held.again()


CUTS_AT_STEPS = [cut_task_at_step, cut_scope_at_step]


@pytest.mark.parametrize("cut", CUTS_AT_STEPS)
async def test_a_batch_cancelled_at_some_steps(bench: Bench, cut: Cut) -> None:
    """Cancelling at any step of the event loop, whoever's it is, leaves nothing and loses nothing."""
    for nth in await some_steps(bench.loop, 8):
        await bench.try_render(cut, bench.loop, nth)


@pytest.mark.parametrize("cut", CUTS_AT_STEPS)
async def test_a_call_cancelled_at_some_steps(bench: Bench, cut: Cut) -> None:
    """Cancelling ``generate`` at any step: each task paid is in the durable ledger."""
    for nth in await some_steps(bench.generate, 8):
        await bench.try_generate(cut, nth)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("cut", CUTS_AT_STEPS)
@pytest.mark.usefixtures("untraced")
async def test_a_batch_cancelled_at_many_steps(bench: Bench, cut: Cut) -> None:
    """Cancelling at any of many steps of the event loop leaves nothing and loses nothing."""
    for nth in await some_steps(bench.entered, 80):
        await bench.try_render(cut, bench.entered, nth)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("cut", CUTS_AT_STEPS)
async def test_a_call_cancelled_at_many_steps(bench: Bench, cut: Cut) -> None:
    """Cancelling ``generate`` at any of many steps: each task paid is in the durable ledger."""
    for nth in await some_steps(bench.generate, 90):
        await bench.try_generate(cut, nth)
