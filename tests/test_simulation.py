"""The engine in virtual time, in worlds that go wrong: the laws hold, and each rule is needed."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from simulation import play as playing
from simulation import wires
from simulation.__main__ import main
from simulation.play import play
from simulation.script import EPISODES, Life, Script, write

from kie_mj_async.account import Present, Window
from kie_mj_async.engine import pipeline, poll_scheduler, resolving, run
from kie_mj_async.engine.admission import Admission
from kie_mj_async.engine.following import Followers
from kie_mj_async.engine.hints import HintDesk
from kie_mj_async.engine.saving import Saver
from kie_mj_async.engine.watch import Watch
from kie_mj_async.errors import MalformedReply, NotSent
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import Cursor, Ledger, MemoryLedger
from kie_mj_async.rules import billing, lifecycle, pacing
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.lifecycle import Event, Move, advance
from kie_mj_async.rules.pacing import Rate, Slot, Throttle

Rules = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No log lines of the thousands of mishaps."""
    log = logging.getLogger("kie_mj_async")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(level)


# --- The laws hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_laws_hold_in_small_worlds(seed: int) -> None:
    """Sixty jobs, a rough world: paid once, nothing lost, within the limits, and an end."""
    played = play(seed, 60)
    assert not played.broken, played.report()
    assert (played.figures["paid twice"], played.figures["lost"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_the_laws_hold(first: int) -> None:
    """A hundred worlds of three hundred jobs, ten worlds a test."""
    for seed in range(first, first + 10):
        played = play(seed, 300)
        assert not played.broken, played.report()


def test_a_seed_plays_again_event_by_event() -> None:
    """The same seed gives the same events, so that a failing one can be looked into."""
    one, two = play(5, 60, keep=None), play(5, 60, keep=None)
    assert one.last == two.last
    assert (one.digest, one.figures) == (two.digest, two.figures)
    assert one.figures["events"] == len(one.last) > 300
    assert play(6, 60).digest != one.digest


def test_a_seed_plays_again_in_another_process() -> None:
    """Nothing of a play hangs on the order of hashes: another process sees the same events."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "5", "--jobs", "60"]
    shown = {
        subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.partition("virtual hours")[0]
        for seed in ("1", "2")
    }
    assert len(shown) == 1
    assert f"digest {play(5, 60).digest:08x}" in shown.pop()


@pytest.mark.slow
def test_worlds_go_wrong_in_every_way() -> None:
    """Between them, the scripts hold every kind of mishap, and the plays meet them."""
    scripts = [write(seed, 300) for seed in range(200)]
    kinds = {episode.kind for script in scripts for episode in script.episodes}
    assert kinds == set(EPISODES)
    assert {life.how for script in scripts for life in script.lives} >= {
        "crash after a time", "crash at a step", "interrupt",
    }  # fmt: skip
    assert any(life.gap > 14 * 86_400 for script in scripts for life in script.lives)
    played = [play(seed, 60) for seed in range(20, 30)]
    for what in ("429s", "crashes", "interrupts", "clock jumps", "unresolved", "adopted"):
        assert sum(one.figures.get(what, 0) for one in played) > 0, what


# --- The command ---------------------------------------------------------------------------------


def test_the_command_prints_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The documented command plays seeds and prints what happened in numbers."""
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    assert main(["--seeds", "2", "--jobs", "20"]) == 0
    shown = capsys.readouterr().out
    for name in (
        "jobs  40",
        "paid twice  0",
        "lost  0",
        "virtual hours",
        "laws broken in  0 seeds",
    ):
        assert name in shown


def test_a_broken_law_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken law ends the command with 1; the seed, the script and the last events are shown."""
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    send_lost_ones_again(monkeypatch)
    assert main(["--seeds", "12", "--jobs", "60"]) == 1
    shown = capsys.readouterr().out
    assert "is paid 2 times" in shown or "nobody knows its task" in shown
    assert "events; the last:" in shown
    assert "again: python -m tests.simulation --seed" in shown


# --- Breaking a rule breaks a law ----------------------------------------------------------------


def send_lost_ones_again(rules: Rules) -> None:
    """A create whose reply was lost counts as not sent."""
    real = billing.judge

    def judge(answer: Any) -> billing.Verdict:
        verdict = real(answer)
        if isinstance(verdict, billing.Lost):
            return billing.Unsent(NotSent("surely not"))
        return verdict

    rules.setattr(billing, "judge", judge)


def forget_the_intent(rules: Rules) -> None:
    """The intent is not stored."""
    real = MemoryLedger.record

    async def record(self: MemoryLedger, job: Job, move: Move) -> Job:
        if move.event is Event.INTENT:
            return advance(job, move)
        return await real(self, job, move)

    rules.setattr(MemoryLedger, "record", record)


def free_slots_at_sending(rules: Rules) -> None:
    """A slot is free one window after its create was sent, not after the reply."""

    def end(slot_id: int, present: Present) -> tuple[list[Slot], None]:
        return [
            attrs.evolve(slot, ended_at=slot.taken_at) if slot.id == slot_id else slot
            for slot in present.slots
        ], None

    rules.setattr(Window, "_end", staticmethod(end))


def forget_slots_at_start(rules: Rules) -> None:
    """A new process begins with an empty window."""

    def settle(slots: Sequence[Slot], now: float, rate: Rate, gone: set[str]) -> list[Slot]:
        kept = [slot for slot in slots if slot.owner not in gone]
        return pacing.settle(kept, now, rate, gone)

    rules.setattr("kie_mj_async.account.settle", settle)


def plan_again_after_a_crash(rules: Rules) -> None:
    """A job caught in the middle of its create is simply planned again."""

    async def recover(ledger: Ledger) -> None:
        while cut_off := await ledger.page(State.SUBMITTING, Cursor(), 200):
            for job in cut_off:
                await ledger.record(job, lifecycle.not_sent(NotSent("surely not")))

    rules.setattr(resolving, "recover", recover)
    rules.setattr(run, "recover", recover)


def drop_the_shield(rules: Rules) -> None:
    """Cancelling cuts into a create."""
    real = anyio.CancelScope

    class Thin:
        CancelScope = staticmethod(lambda **_: real())
        current_time = staticmethod(anyio.current_time)
        Event = anyio.Event

    rules.setattr(pipeline, "anyio", Thin)


def ignore_the_places(rules: Rules) -> None:
    """Creates go however many tasks run."""

    def wait(self: Throttle, now: float, *, running: int, sending: int) -> float | None:
        return max(0.0, self.paused_until - now)

    rules.setattr(Throttle, "wait", wait)


def forget_what_may_run(rules: Rules) -> None:
    """What an earlier run has lost does not count as running, nor what it left running."""

    async def nothing(_self: run.Run) -> None:
        pass

    rules.setattr(run.Run, "_count_what_may_run", nothing)
    rules.setattr(Admission, "watched", lambda _self, _task_id: None)


def spend_more(rules: Rules) -> None:
    """The cap on credits is not looked at."""
    rules.setattr(billing, "fits", lambda _committed, _cost, _cap: True)


def give_up_at_once(rules: Rules) -> None:
    """The first "no such task" is a verdict."""
    rules.setattr(poll_scheduler, "NOT_YET", 0.0)


def believe_the_gateway(rules: Rules) -> None:
    """HTML from a gateway counts as a refusal."""
    real = billing.judge

    def judge(answer: Any) -> billing.Verdict:
        verdict = real(answer)
        if isinstance(verdict, billing.Lost) and isinstance(verdict.error, MalformedReply):
            return billing.Refused(verdict.error, "fail")
        return verdict

    rules.setattr(billing, "judge", judge)


def leave_a_file_out(rules: Rules) -> None:
    """The first result of a task is never fetched."""
    real = Saver.save

    async def later_ones(
        self: Saver, task_id: str, urls: Sequence[str], wanted: Collection[int], *rest: Any,
        **how: Any,
    ) -> None:  # fmt: skip
        await real(self, task_id, urls, [index for index in wanted if index], *rest, **how)

    rules.setattr(Saver, "save", later_ones)


def write_half_files(rules: Rules) -> None:
    """A file comes under its name before all of it is there."""
    rules.setattr(wires, "content", lambda task_id, index: f"result {index} of task {task_id}, to")


def believe_the_clock(rules: Rules) -> None:
    """A task is as old as the wall clock says."""
    real = Watch

    def watch(
        kind: Kind, born: float, task_id: str, timeout: float, deadline: float, *rest: Any,
        **more: Any,
    ) -> object:  # fmt: skip
        timeout = max(timeout, deadline - born)
        return real(kind, born, task_id, timeout, deadline, *rest, **more)

    rules.setattr(poll_scheduler, "Watch", watch)


def forget_hints(rules: Rules) -> None:
    """What a callback named is not used by the next run when this one is cut off."""

    async def nothing(_self: HintDesk) -> None:
        pass

    def lossy(seed: int, jobs: int) -> Script:
        """A world where replies are lost and callbacks come: elsewhere nothing can be forgotten."""
        return attrs.evolve(write(seed, jobs), callbacks=True, roughness=3.0, on_unknown="park")

    rules.setattr(HintDesk, "settle", nothing)
    rules.setattr(playing, "write", lossy)


def put_steps_on_the_road_twice(rules: Rules) -> None:
    """Whoever finds a job puts it on the road."""

    def push(self: Followers, job: Job) -> bool:
        self._next.append(job)
        return True

    rules.setattr(Followers, "push", push)


def send_steps_at_once(rules: Rules) -> None:
    """A step does not wait for the job before it."""

    async def always(_self: Followers, _job: Job) -> bool:
        return True

    rules.setattr(Followers, "_may_go", always)


def forget_steps(rules: Rules) -> None:
    """The end of a job brings nothing along."""

    async def nothing(_self: Followers, _job: Job) -> list[tuple[Job, Job]]:
        return []

    rules.setattr(Followers, "ended", nothing)


BREAKS: list[tuple[Callable[[Rules], None], str]] = [
    (send_lost_ones_again, "nobody knows its task"),
    (forget_the_intent, "intent is not durable"),
    (free_slots_at_sending, "creates within 10 s"),
    (forget_slots_at_start, "creates within 10 s"),
    (plan_again_after_a_crash, "nobody knows its task"),
    (drop_the_shield, "cut in two"),
    (ignore_the_places, "in flight"),
    (forget_what_may_run, "tasks run"),
    (spend_more, "credits"),
    (give_up_at_once, "is expired, and its task"),
    (believe_the_gateway, "nobody knows its task"),
    (leave_a_file_out, "is saved with"),
    (write_half_files, "is not that result"),
    (believe_the_clock, "is expired, and its task"),
    (forget_hints, "nobody followed it"),
    (put_steps_on_the_road_twice, "an illegal move"),
    (send_steps_at_once, "has left work"),
    (forget_steps, "has left work"),
]
LONG_SOUGHT = (
    forget_what_may_run,
    believe_the_gateway,
    believe_the_clock,
    forget_hints,
    put_steps_on_the_road_twice,
)
"""Rules whose breaking shows in few worlds only."""


@pytest.mark.parametrize(
    ("rule", "law"),
    [
        pytest.param(
            rule, law, id=rule.__name__, marks=[pytest.mark.slow] if rule in LONG_SOUGHT else []
        )
        for rule, law in BREAKS
    ],
)
def test_breaking_a_rule_breaks_a_law(
    rule: Callable[[Rules], None], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each guard is needed: without it some seed breaks the law it stands for."""
    rule(monkeypatch)
    seen: list[str] = []
    for seed in range(60):
        seen += play(seed, 100).broken
        if any(law in broken for broken in seen):
            return
    pytest.fail(f"no seed broke the law ({law}); seen: {seen}")


def test_an_engine_that_waits_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that makes no progress is a broken law, not a test that hangs."""

    async def never(*_: Any) -> float:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(poll_scheduler.PollScheduler, "_verdict", never)
    calm = Life("none", 0, 1, reboot=False, wall=0, same_list=False)
    real = write

    def quiet(seed: int, jobs: int) -> Script:
        return attrs.evolve(real(seed, jobs), lives=(calm,), episodes=(), jumps=())

    monkeypatch.setattr(playing, "write", quiet)
    assert "has no end" in play(1, 5).broken[0]
