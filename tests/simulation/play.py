"""One seed, played through: lives of the program one after another, until all is said and done."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import attrs

from kie_mj_async.account import Window
from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.parts import Parts
from kie_mj_async.archive.store import Place
from kie_mj_async.engine import resolving
from kie_mj_async.engine.admission import Reach
from kie_mj_async.engine.clock import Clock
from kie_mj_async.engine.hints import HintDesk
from kie_mj_async.engine.pipeline import Destination, Pipeline
from kie_mj_async.engine.poll_scheduler import PollScheduler
from kie_mj_async.engine.preparing import Preparer
from kie_mj_async.engine.run import Run
from kie_mj_async.engine.saving import Saver
from kie_mj_async.errors import InvalidRequest, KieError
from kie_mj_async.events import Event
from kie_mj_async.jobs import Job, Outcome, State
from kie_mj_async.ledger import Cursor
from kie_mj_async.requests import ChainStep
from kie_mj_async.rules.forecast import Forecast
from kie_mj_async.rules.pacing import PollBudget, Rate
from kie_mj_async.testing import MAX_LIMIT, VirtualLoop

from .invariants import GONE, Broken
from .script import DAY, SPEEDS, Jump, Life, Script, write
from .wires import (
    REQUEST_TIMEOUT,
    NoManifest,
    Power,
    PowerCut,
    WatchedGate,
    WiredDownloader,
    WiredLedger,
    WiredService,
    WiredSlots,
)
from .world import CREATES, PRICES, SECONDS, World

UNFINISHED: Final = (State.PLANNED, State.SUBMITTING, State.RUNNING, State.SUCCEEDED)
_CALM_LIFE: Final = Life("none", 0, 30, reboot=False, wall=0, same_list=False)
_MAX_LIVES: Final = 200
_ROUNDING: Final = 1e-6


@attrs.frozen
class Played:
    """What became of a seed.

    Attributes:
        script: Its script.
        broken: The laws that did not hold, in words.
        digest: Of all events.
        last: The last events, in words.
        figures: What happened, in numbers.
        virtual: Seconds in the world, and ``wall`` outside of it.
    """

    script: Script
    broken: tuple[str, ...]
    digest: int
    last: tuple[str, ...]
    figures: dict[str, int]
    virtual: float
    wall: float

    def report(self) -> str:
        """All that is needed to look into it."""
        lines = [f"seed {self.script.seed}: {'; '.join(self.broken) or 'all laws hold'}"]
        lines += [f"  {line}" for line in self.script.lines()]
        lines += [f"  digest {self.digest:08x} of {self.figures['events']} events; the last:"]
        lines += [f"    {line}" for line in self.last]
        replay = f"python -m tests.simulation --seed {self.script.seed} --jobs {self.script.jobs}"
        return "\n".join([*lines, f"  again: {replay}"])


def play(seed: int, jobs: int, *, keep: int | None = 60) -> Played:
    """Play a seed.

    Args:
        seed: The seed.
        jobs: How long the list is.
        keep: How many events to keep in words; ``None`` for all.
    """
    begun = time.perf_counter()
    script = write(seed, jobs)
    with asyncio.Runner(loop_factory=partial(VirtualLoop, limit=MAX_LIMIT)) as runner:
        world = runner.run(_play(script, keep))
    figures = dict(world.figures)
    figures |= {
        "jobs": jobs,
        "events": world.trace.events,
        "paid twice": world.laws.paid_twice,
        "lost": world.laws.lost,
    }
    return Played(
        script=script,
        broken=tuple(world.laws.broken),
        digest=world.trace.digest,
        last=tuple(world.trace.lines),
        figures=figures,
        virtual=world.now,
        wall=time.perf_counter() - begun,
    )


def be_quick() -> None:
    """Say nothing about the thousands of mishaps, and look for garbage less often."""
    logging.getLogger("kie_mj_async").setLevel(logging.CRITICAL + 1)
    gc.set_threshold(50_000, 20, 100)


async def _play(script: Script, keep: int | None) -> World:
    world = World(script, keep)
    try:
        await _lives(world)
    except Broken:
        pass
    except Exception as error:
        world.laws.fail(f"the engine failed: {error!r}")
    return world


async def _lives(world: World) -> None:
    script = world.script
    same_list = True
    while True:
        world.life += 1
        number = world.life - 1
        calm = world.calm
        plan = script.lives[number] if number < len(script.lives) else _CALM_LIFE
        world.cap = None if calm else script.max_credits
        await _live(world, plan, same_list=same_list)
        same_list = plan.same_list
        left = await world.store.counts()
        if calm and await _left(world):
            raise world.laws.fail(f"a run in a calm world has left work: {dict(left.by_state)}")
        finished = left.total > 0 and not any(left[state] for state in UNFINISHED)
        await asyncio.sleep(1.0)  # what a killed program had written may arrive meanwhile
        await _user(world, all_of_them=calm or finished)
        left = await world.store.counts()
        if left.total and not any(left[state] for state in (*UNFINISHED, State.UNRESOLVED)):
            break
        if world.life > _MAX_LIVES:
            raise world.laws.fail(f"no end after {_MAX_LIVES} runs: {dict(left.by_state)}")
        await _gap(world, plan)
    await world.laws.at_the_end()


async def _left(world: World) -> bool:
    """Whether there is work that a run could have done: steps behind an unresolved job wait for it."""
    jobs = {job.key: job for job in await world.store.scan(0, 10**9)}
    for job in jobs.values():
        before = job
        while before.state is State.PLANNED and isinstance(before.request, ChainStep):
            before = jobs[before.request.parent]
        if job.state in UNFINISHED and before.state is not State.UNRESOLVED:
            return True
    return False


async def _gap(world: World, plan: Life) -> None:
    await asyncio.sleep(plan.gap)
    world.jump(plan.wall)
    if plan.gap >= DAY / 2:
        world.away += plan.gap
    if plan.reboot:
        world.reboot()


# --- A life --------------------------------------------------------------------------------------


async def _live(world: World, plan: Life, *, same_list: bool) -> None:
    """One life of the program, to its own end or to the one that is planned for it."""
    power = Power(int(plan.after) if plan.how == "crash at a step" else None)
    ledger = WiredLedger(world, power)
    program = _Program(world, power, ledger)
    root = asyncio.create_task(program.main(same_list=same_list))
    power.root = root
    world.note(f"life {world.life} begins")
    ends = world.now + plan.after if plan.how in ("crash after a time", "interrupt") else None
    must_end = world.now + _patience(world.script)
    with _jumps(world):
        while not root.done():
            at = must_end if ends is None else min(ends, must_end)
            await asyncio.wait({root}, timeout=max(0.0, at - world.now))
            if root.done():
                break
            if world.now >= must_end - _ROUNDING:
                world.laws.fail(f"life {world.life} has no end: {_patience(world.script):.0f} s")
                power.cut()
            elif ends is not None and world.now >= ends - _ROUNDING:
                ends = None
                if plan.how == "interrupt":
                    world.figures["interrupts"] += 1
                    program.pipeline.hurry(10.0)
                    root.cancel()
                else:
                    power.cut()
                    await asyncio.wait({root}, timeout=0.001)
                    if not root.done():
                        raise world.laws.fail("a dead program goes on")
    graceful = power.on
    if not graceful:
        world.figures["crashes"] += 1
        _orphan(world)
    _examine(world, root)
    world.note(
        f"life {world.life} ends ({program.error or ('in order' if graceful else 'killed')})"
    )
    if world.laws.broken:
        raise Broken
    await world.laws.after_life(graceful=graceful, ledger_failed=ledger.failed)


def _patience(script: Script) -> float:
    slowest = max(SPEEDS[speed][1] for speed in script.speeds)
    return 7200 + 3 * (script.ends + script.jobs * max(1.0, slowest / script.in_flight))


@contextmanager
def _jumps(world: World) -> Iterator[None]:
    """With the wall clock's jumps of this life to come."""

    def due(jump: Jump) -> None:
        world.jump(jump.seconds)

    timers = [
        world.loop.call_at(world.away + jump.at, due, jump)
        for jump in world.script.jumps
        if jump.at > world.active
    ]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _orphan(world: World) -> None:
    """The slots of a killed process belong to one that is gone."""

    world.slots.slots = [
        slot if slot.ended_at is not None else attrs.evolve(slot, owner=GONE)
        for slot in world.slots.slots
    ]


def _examine(world: World, root: asyncio.Task[None]) -> None:
    """See that a life ended in a way that lives may end."""
    if root.cancelled():
        return
    error = root.exception()
    if error is None:
        return
    for one in _leaves(error):
        if not isinstance(one, PowerCut | Broken | asyncio.CancelledError):
            world.laws.fail(f"the engine failed: {one!r}")


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


class _Program:
    """The real engine, put together as a client does it.

    Attributes:
        error: What stopped its run, if anything did.
    """

    def __init__(self, world: World, power: Power, ledger: WiredLedger) -> None:
        script = world.script
        self.error: KieError | None = None
        self._world = world
        self._clock = clock = Clock(world.monotonic, world.wall)
        reach = Reach(clock)
        service = WiredService(world, power)
        window = Window(
            WiredSlots(world, power),
            Rate(CREATES, SECONDS),
            gives_up_after=REQUEST_TIMEOUT,
        )
        self._gate = WatchedGate(
            world,
            window,
            in_flight=script.in_flight,
            max_credits=world.cap,
            clock=clock,
            reach=reach,
            chance=world.draw.random,
        )
        self._poller = PollScheduler(
            service,
            forecast=Forecast(),
            clock=clock,
            reach=reach,
            budget=PollBudget(5.0, 5.0),
            chance=world.draw.random,
        )
        self.pipeline = Pipeline(
            ledger=ledger,
            service=service,
            admission=self._gate,
            poller=self._poller,
            saver=Saver(service, WiredDownloader(world, power)),
            clock=clock,
            prices=PRICES,
            on_unknown=script.on_unknown,
            promised=lambda job: job.request.callback_url is not None,
            chance=world.draw.randbytes,
        )
        self._desk = HintDesk(
            ledger,
            service,
            self.pipeline.preparer,
            self.pipeline.create_ended,
            found=self._gate.found,
            tell=self._tell,
            chance=world.draw.random,
        )

    async def main(self, *, same_list: bool) -> None:
        """Render the list, or resume."""
        run = Run(
            self.pipeline,
            admission=self._gate,
            to=Destination(Place(Directory(Path()), Parts(Path())), NoManifest()),
            clock=self._clock,
            in_flight=self._world.script.in_flight,
            job_timeout=1800.0,
            tell=self._tell,
            hints=self._desk if self._world.script.callbacks else None,
        )
        staged = (await self._world.store.counts()).total > 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._poller.run)
            callbacks: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

            async def receive() -> None:
                while True:
                    token, task_id = await callbacks.get()
                    self._poller.wake(task_id)
                    tasks.start_soon(self._desk.take, token, task_id)

            tasks.start_soon(receive)
            # The world calls from outside of any task.
            self._world.on_callback = lambda token, task_id: callbacks.put_nowait((token, task_id))
            try:
                await run.plan(None if staged and not same_list else self._world.requests)
                await run.go(self._send)
            except KieError as error:
                self.error = error
            finally:
                self._world.on_callback = None
            await self._desk.aclose()
            tasks.cancel_scope.cancel()

    def _tell(self, event: Event) -> None:
        self._world.figures[type(event).__name__] += 1

    async def _send(self, _outcome: Outcome) -> None:
        self._world.figures["outcomes"] += 1


# --- The user ------------------------------------------------------------------------------------


async def _user(world: World, *, all_of_them: bool) -> None:
    """Between two runs: what the user decides about unresolved jobs, and about a few that failed."""
    power = Power()
    ledger = WiredLedger(world, power, by_user=True)
    service = WiredService(world, power)
    draw = world.draw
    await resolving.recover(ledger)
    unresolved = await ledger.page(State.UNRESOLVED, Cursor(), 10**9)
    world.figures["unresolved"] += len(unresolved)
    retried = 0
    for job in unresolved:
        choice = draw.choice(("retry", "abandon", "adopt", "leave"))
        if choice == "leave" and not all_of_them:
            continue
        if choice == "adopt" and await _adopt(world, ledger, service, job):
            continue
        if choice == "retry":
            retried += 1
            await resolving.decide(ledger, [job.key], "retry", _now(world))
        else:
            await resolving.decide(ledger, [job.key], "abandon", _now(world))
    if not world.calm:
        for state in (State.FAILED, State.EXPIRED, State.ABANDONED):
            for job in (await ledger.page(state, Cursor(), 3))[: draw.randrange(4)]:
                now = await ledger.get(job.key)
                if now is not None and now.state is state:  # not retried with the job before it
                    await resolving.decide(ledger, [job.key], "retry", _now(world))


async def _adopt(world: World, ledger: WiredLedger, service: WiredService, job: Job) -> bool:
    """Whether the user found the job's task, and the service tells of it."""
    name = world.name(job)
    found = [one.id for one in world.laws.unknown_of(name)]
    preparer = Preparer(ledger, service, Clock(world.monotonic, world.wall))
    recent = list(world.tasks.values())[-3:]
    # Nobody but the user could tell one lost task of a job from another.
    others = [one.id for one in recent if one.name != name or one.known]
    for task_id in [*others, *found]:
        try:
            await resolving.adopt(ledger, job.key, task_id, service, preparer)
        except InvalidRequest:
            if task_id in found:
                raise
        except KieError:
            continue
        else:
            world.figures["adopted"] += 1
            return True
    return False


def _now(world: World) -> datetime:
    return datetime.fromtimestamp(world.wall(), UTC)
