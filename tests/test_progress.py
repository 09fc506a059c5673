"""Progress: events folded into numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import play as playing
from support import VIRTUAL, Made, Rig
from told_support import Witness, heard

from kie_mj_async.engine import resolving
from kie_mj_async.errors import KieError
from kie_mj_async.events import (
    CreatesPaused,
    CreditsReturned,
    Event,
    FileSaved,
    JobAdded,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    Planned,
)
from kie_mj_async.jobs import (
    Abandoned,
    Expired,
    Failed,
    Job,
    Outcome,
    Pending,
    Saved,
    SavedFile,
    State,
    Unresolved,
)
from kie_mj_async.progress import Progress
from kie_mj_async.requests import ExistingTask, Request, TextToImage
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.wire import Record

JOB = Job(key="1-a", request=TextToImage("a fox"), price=25, credits=25)
FILE = SavedFile(0, "a.png", "http://x/a", "00", 1000, "image/png", 8, 8, datetime.now(UTC))
SAVED = Saved(JOB, ())


def after(*events: Event, now: float = 100.0) -> Progress:
    return reduce(lambda progress, event: progress.after(event, now), events, Progress(100.0))


def test_a_plan_says_how_much_there_is() -> None:
    """Known jobs count as submitted, and as generated where their task has ended."""
    progress = after(Planned(new=5, known=3, generating=1, cost=125))
    assert (progress.total, progress.submitted, progress.succeeded) == (8, 3, 2)
    assert (progress.ended, progress.saved, progress.credits) == (0, 0, 0)


def test_a_job_goes_through_the_three_lanes() -> None:
    """Submitted, generated and saved are counted one after another, files and bytes on the way."""
    steps = (
        Planned(1, 0, 0, 25), JobSubmitted(JOB), JobSucceeded(JOB), FileSaved(JOB, FILE),
        FileSaved(JOB, FILE), JobEnded(SAVED),
    )  # fmt: skip
    progress = after(*steps)
    assert (progress.submitted, progress.succeeded, progress.saved) == (1, 1, 1)
    assert (progress.files, progress.bytes, progress.credits) == (2, 2000, 25)


@pytest.mark.parametrize(
    ("kind", "counter"),
    [
        (Failed, "failed"), (Expired, "failed"), (Unresolved, "unresolved"), (Pending, "pending"),
        (Abandoned, "abandoned"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("earlier", [False, True])
def test_every_outcome_ends_a_job(
    kind: type[Failed | Expired | Unresolved | Pending | Abandoned], counter: str, earlier: bool
) -> None:
    """Whatever an outcome is, the job is done with and nothing is left to wait for."""
    outcome: Outcome = kind(JOB, KieError("no"))
    progress = after(Planned(1, 0, 0, 25), JobEnded(outcome, earlier=earlier), now=200)
    assert getattr(progress, counter) == progress.ended == 1
    assert progress.earlier == earlier


def test_what_a_failed_task_cost_comes_back() -> None:
    """A failed task is not charged, so its credits do not count as spent."""
    assert after(JobSubmitted(JOB), JobSubmitted(JOB), CreditsReturned(JOB, 25)).credits == 25


def test_only_this_run_is_counted_as_spent() -> None:
    """A job that was paid before and is made again counts with the price of this time."""
    again = Job(key="1-a", request=TextToImage("a fox"), state=State.RUNNING, price=25, credits=50)
    assert after(JobSubmitted(again)).credits == 25


def test_a_pause_lasts_until_its_end() -> None:
    """A pause is known with its reason and the time at which it is over."""
    progress = after(CreatesPaused("too fast", 10), now=130)
    assert (progress.paused_until, progress.pause_reason) == (140, "too fast")


# --- Stories that can be --------------------------------------------------------------------------


def of(number: int, **facts: Any) -> Job:
    return Job(key=f"j{number}", request=TextToImage("a fox"), price=25, credits=25, **facts)


@st.composite
def lives(draw: st.DrawFn) -> list[list[Event]]:
    """What is told of each of some jobs, one after the other."""
    told: list[list[Event]] = []
    for number in range(draw(st.integers(0, 6))):
        planned = of(number)
        running = of(number, state=State.RUNNING, task_id=f"t{number}")
        made = of(number, state=State.SUCCEEDED, task_id=f"t{number}", urls=("http://x/a",))
        lost = of(number, state=State.UNRESOLVED)
        trouble = KieError("no")
        out: list[Event] = [JobStarted(planned)] * draw(st.integers(1, 2))
        if len(out) == 2:
            out.insert(1, JobHeldBack(planned))
        begun = [*out, JobSubmitted(running)]
        found = [JobSubmitted(running), JobStarted(running, None, "unresolved")]
        saved = [JobSucceeded(made), FileSaved(made, FILE), JobEnded(Saved(made, ()))]
        failed = [CreditsReturned(running, 25), JobEnded(Failed(running, trouble))]
        told.append(
            draw(
                st.sampled_from(
                    [
                        [*begun, *saved],
                        [*begun, *failed],
                        [*begun, JobSucceeded(made), JobEnded(Expired(made, trouble))],
                        [*begun, JobEnded(Pending(running, trouble))],
                        [*out, JobEnded(Failed(planned, trouble))],
                        [*out, JobEnded(Unresolved(lost, trouble))],
                        [*out, JobEnded(Unresolved(lost, trouble)), *found, *saved],
                        [*out, JobEnded(Unresolved(lost, trouble)), *found, *failed],
                        [JobEnded(Pending(planned, trouble))],
                        [
                            JobEnded(Pending(planned, trouble)),
                            JobStarted(planned, None, "pending"),
                            JobSubmitted(running),
                            *saved,
                        ],
                        [JobEnded(Saved(made, ()), earlier=True)],
                        [JobEnded(Abandoned(planned, trouble), earlier=True)],
                    ]
                )
            )
        )
    return told


@settings(max_examples=80, deadline=None)
@given(lives(), st.randoms(use_true_random=False))
def test_the_numbers_fit_whatever_comes_first(told: list[list[Event]], chance: Any) -> None:
    """However the jobs' events are mixed, no number is wrong at any moment, and all add up."""
    first = [one[0] for one in told]
    earlier = [one.outcome for one in first if isinstance(one, JobEnded) and one.earlier]
    done = sum(isinstance(one, Saved) for one in earlier)
    witness = Witness()
    witness.hear(Planned(len(told) - len(earlier), len(earlier), 0, 0, accepted=done, made=done))
    queues = [list(one) for one in told]
    while any(queues):
        witness.hear(chance.choice([one for one in queues if one]).pop(0))
    witness.run_ended()
    assert witness.wrong == []


@pytest.fixture
def _quiet() -> Iterator[None]:
    """No log lines of the thousands of mishaps."""
    log = logging.getLogger("kie_mj_async")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(level)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have each life of simulated worlds witnessed; what was wrong."""
    wrong: list[str] = []

    class Program(playing._Program):
        def __init__(self, world: Any, power: Any, ledger: Any) -> None:
            self.witness = Witness()
            self._power, self._ledger = power, ledger
            super().__init__(world, power, ledger)
            self.pipeline._tell = self._tell

        def _tell(self, event: Event) -> None:
            self.witness.hear(event)

        async def main(self, *, same_list: bool) -> None:
            before = (await self._world.store.counts()).credits
            await super().main(same_list=same_list)
            if self.error is None and self._power.on:
                self.witness.run_ended()
                spent = (await self._world.store.counts()).credits - before
                if spent != self.witness.progress.credits:
                    self.witness.wrong.append(f"{spent} spent")
            told = f"seed {self._world.script.seed}, life {self._world.life}"
            wrong.extend(f"{told}: {one}" for one in self.witness.wrong)

    monkeypatch.setattr(playing, "_Program", Program)
    return wrong


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("seed", [0, 2, 126])
def test_the_numbers_fit_in_worlds_that_go_wrong(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, stopped, resumed and edited runs: what is told can be, and is whole at the end."""
    wrong = watch(monkeypatch)
    playing.play(seed, 60)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet", "untraced")
def test_the_numbers_fit_in_many_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = watch(monkeypatch)
    for seed in range(3, 30):
        playing.play(seed, 60)
    assert wrong == []


# --- One at a time --------------------------------------------------------------------------------


def lose_first(rig: Rig) -> None:
    """The reply of the first create is lost; its task is made all the same."""

    def create(number: int, request: Request) -> Silence | None:
        if number > 1:
            return None
        rig.service.make(request)
        return Silence(sent=True, reason="cut")

    rig.service.on_create = create


def told(prompt: str, then: str | None = None) -> TextToImage:
    return TextToImage(prompt, callback_url="https://example.com/kie", then=then)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
class TestRuns:
    """Runs of the real engine in virtual time."""

    async def test_jobs_of_earlier_lists_are_counted(self, tmp_path: Path) -> None:
        """A run over an edited list saves what the list before it had begun, and says so."""
        rig = Rig()
        rig.service.lasts = 500.0
        await rig.render(tmp_path, [TextToImage("fox"), TextToImage("owl")], job_timeout=1)
        del rig.events[:]
        await rig.render(tmp_path, [TextToImage("fox"), TextToImage("newt")])
        plan = next(one for one in rig.events if isinstance(one, Planned))
        assert (plan.new, plan.known, plan.others, plan.generating) == (1, 1, 1, 2)
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.total, witness.progress.saved) == (3, 3)

    async def test_extra_tasks_of_earlier_runs_are_counted(self, tmp_path: Path) -> None:
        """A task that was paid besides a job's own is of no list, and is seen to."""
        rig = Rig()
        await rig.ledger.add("extra", ExistingTask(rig.service.make(TextToImage("fox")).id))
        await rig.render(tmp_path, [TextToImage("owl")])
        witness = heard(rig.events)
        assert witness.wrong == []
        assert witness.progress.saved == 2

    async def test_a_task_that_is_listed_twice_is_counted_once(self, tmp_path: Path) -> None:
        rig = Rig()
        task = ExistingTask(rig.service.make(TextToImage("fox")).id)
        await rig.render(tmp_path, [task, task])
        assert heard(rig.events).wrong == []
        del rig.events[:]
        await rig.render(tmp_path, [task, task])
        assert heard(rig.events).wrong == []

    async def test_what_is_made_again_is_submitted_once(self, tmp_path: Path) -> None:
        """An unresolved job of an earlier run was submitted to nobody's knowledge."""
        rig = Rig(on_unknown="repeat")
        lose_first(rig)
        rig.pipeline.on_unknown = "park"
        await rig.render(tmp_path, [TextToImage("fox")])
        rig.pipeline.on_unknown = "repeat"
        del rig.events[:]
        await rig.render(tmp_path, [TextToImage("fox")])
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.total, witness.progress.submitted) == (1, 1)

    async def test_a_job_that_is_found_after_its_end_is_counted_once(self, tmp_path: Path) -> None:
        """It was told as unresolved, and the step behind it as pending; both go on after all."""
        rig = Rig(callbacks=True, in_flight=1)
        lose_first(rig)
        rig.service.lasts = 400.0
        rig.tells_after = lambda task: 900.0 if task.id == "t1" else task.lasts
        listed = [told("fox 0", "upscale:0"), told("fox 1"), told("fox 2")]
        await rig.render(tmp_path, listed, job_timeout=500)
        assert {one.again for one in rig.events if isinstance(one, JobStarted)} == {
            *(None, "unresolved", "pending")
        }
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.total, witness.progress.saved) == (4, 4)

    async def test_a_resume_tells_what_waits_for_a_decision(self, tmp_path: Path) -> None:
        """An unresolved job, and the step behind it, are of the run; neither is left open."""
        rig = Rig()
        lose_first(rig)
        rig.service.lasts = 900.0
        listed = [TextToImage("fox", then="upscale:0"), TextToImage("owl")]
        await rig.render(tmp_path, listed, job_timeout=1)
        del rig.events[:]
        outcomes, _ = await rig.render(tmp_path, None)
        assert [type(one) for one in outcomes] == [Pending, Saved]
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.total, witness.progress.earlier) == (3, 1)

    async def test_a_task_found_besides_is_one_job_more(self, tmp_path: Path) -> None:
        """Made again while its first task, whose reply was lost, was paid as well."""
        rig = Rig(callbacks=True, on_unknown="repeat")
        lose_first(rig)
        await rig.render(tmp_path, [told("fox")])
        assert sum(isinstance(one, JobAdded) for one in rig.events) == 1
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.total, witness.progress.credits) == (2, 50)

    async def test_what_an_earlier_run_paid_comes_back_in_this_one(self, tmp_path: Path) -> None:
        """The numbers are of this run, so they may be below nothing; the ledger's add up."""
        rig = Rig()
        rig.service.lasts = 900.0
        await rig.render(tmp_path, [TextToImage("fox")], job_timeout=1)
        del rig.events[:]

        def fail(task: Made, _looks: int) -> Record:
            return rig.service.failure(task)

        rig.service.on_record = fail
        await rig.render(tmp_path, None)
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.credits, witness.progress.running) == (-25, 0)
        assert (await rig.ledger.counts()).credits == 0

    async def test_jobs_that_are_given_up_are_counted(self, tmp_path: Path) -> None:
        """By their user, before this run; the step behind one fails."""
        rig = Rig()
        lose_first(rig)
        listed = [TextToImage("fox", then="upscale:0")]
        await rig.render(tmp_path, listed)
        await resolving.decide(rig.ledger, [], "abandon", rig.clock.now())
        del rig.events[:]
        await rig.render(tmp_path, listed)
        witness = heard(rig.events)
        assert witness.wrong == []
        assert (witness.progress.abandoned, witness.progress.failed) == (1, 1)
