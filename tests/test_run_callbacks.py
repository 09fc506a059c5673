"""Runs with callbacks, in virtual time: lost replies are found again, each job is on the road once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from support import VIRTUAL, Made, Rig

from kie_mj_async.engine import resolving
from kie_mj_async.errors import KieError, NotSent, ReplyLost, ResultExpired
from kie_mj_async.events import JobEnded
from kie_mj_async.jobs import Job, Outcome, State, Unresolved
from kie_mj_async.ledger.base import each_job
from kie_mj_async.requests import ExistingTask, Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.hints import LAST_CALLBACK
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio
HOOK = "https://hook.example/x"


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def told(name: str = "a fox", *then: str) -> TextToImage:
    return TextToImage(name, callback_url=HOOK, then=then)


def kinds(outcomes: Sequence[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


async def jobs(rig: Rig) -> list[Job]:
    return [job async for job in each_job(rig.ledger)]


async def charged_once(rig: Rig) -> None:
    """Every task is one job's, and what it cost is in the ledger."""
    tasks = Counter(job.task_id for job in await jobs(rig) if job.task_id)
    assert tasks == Counter(rig.service.tasks.keys())
    assert (await rig.ledger.counts()).credits == 25 * len(rig.service.tasks)


def lose(rig: Rig, *numbers: int) -> None:
    """The service accepts these creates, and its replies are lost."""

    def create(number: int, request: Request) -> Silence | None:
        if number not in numbers:
            return None
        rig.service.make(request)
        return Silence(sent=True, reason="cut")

    rig.service.on_create = create


@asynccontextmanager
async def going(
    rig: Rig, out: Path, listed: Sequence[Request], *, job_timeout: float = 1800.0
) -> AsyncIterator[list[Outcome]]:
    """A run under way, seen to its end when this is left; its outcomes so far."""
    run = rig.run(out, job_timeout=job_timeout)
    outcomes: list[Outcome] = []

    async def send(outcome: Outcome) -> None:
        outcomes.append(outcome)

    async with rig.polling(), anyio.create_task_group() as tasks:
        await run.plan(listed)
        tasks.start_soon(run.go, send)
        yield outcomes


async def lost_and_retried(out: Path) -> Rig:
    """An earlier run whose job was accepted, lost, and planned again by its user."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(out, [told()])
    await resolving.decide(rig.ledger, [], "retry", rig.clock.now())
    return rig


async def test_lost_replies_are_found_in_the_same_run(tmp_path: Path) -> None:
    """With callbacks no job ends unresolved, none is paid twice, and the steps behind them go on."""
    rig = Rig(callbacks=True)
    lose(rig, 1, 3, 4)
    listed = [told(f"fox {n}", "upscale:0") for n in range(4)]
    outcomes, error = await rig.render(tmp_path, listed)
    assert error is None
    assert kinds(outcomes) == {"Saved": 8}
    assert len(rig.service.creates) == 8
    await charged_once(rig)


async def test_with_callbacks_a_job_is_polled_once(tmp_path: Path) -> None:
    """The callback says when to look; a found job is looked at once more, to see whether it is."""
    rig = Rig(callbacks=True)
    lose(rig, 2)
    await rig.render(tmp_path, [told(f"fox {n}") for n in range(20)])
    polls = Counter(task_id for _, task_id in rig.service.polls)
    assert Counter(polls.values())[1] >= 19
    assert max(polls.values()) <= 2


async def test_a_callback_that_comes_after_the_wait(tmp_path: Path) -> None:
    """A job told as unresolved goes on as soon as its task is found, and is told again."""
    rig = Rig(callbacks=True, in_flight=1)
    lose(rig, 1)
    rig.service.lasts = 400.0
    rig.tells_after = lambda task: 900.0 if task.id == "t1" else task.lasts
    listed = [told("fox 0", "upscale:0"), told("fox 1"), told("fox 2")]
    outcomes, error = await rig.render(tmp_path, listed, job_timeout=500)
    assert error is None
    first, step = (await jobs(rig))[:2]
    told_as = [(type(one).__name__, one.job.key) for one in outcomes]
    assert [name for name, key in told_as if key == first.key] == ["Unresolved", "Saved"]
    assert [name for name, key in told_as if key == step.key] == ["Pending", "Saved"]
    assert (await rig.ledger.counts()).by_state == {State.SAVED: 4}
    await charged_once(rig)


async def test_a_job_found_while_its_outcome_is_taken(tmp_path: Path) -> None:
    """Nobody takes the outcome for a while: the job that is found meanwhile is not forgotten."""
    rig = Rig(callbacks=True)
    lose(rig, 1)
    rig.tells_after = lambda _task: 150.0
    run = rig.run(tmp_path, job_timeout=100)
    outcomes: list[Outcome] = []

    async def send(outcome: Outcome) -> None:
        if isinstance(outcome, Unresolved):
            await anyio.sleep(100)
        outcomes.append(outcome)

    async with rig.polling():
        await run.plan([told()])
        await run.go(send)
    assert kinds(outcomes) == {"Unresolved": 1, "Saved": 1}
    await charged_once(rig)


async def test_one_job_of_an_earlier_run_joins_this_one(tmp_path: Path) -> None:
    """A callback that comes to a later run takes the old job along."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [told("old")])
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service)
    async with going(later, tmp_path, [told("new")]) as outcomes:
        await anyio.sleep(20)
        await later.callback(rig.service.tasks["t1"])
    assert kinds(outcomes) == {"Saved": 2}
    await charged_once(rig)


async def test_a_later_run_waits_for_callbacks_of_an_earlier_one(tmp_path: Path) -> None:
    """The service calls again where nobody listened: what was lost a while ago may still be found."""
    rig = Rig()
    lose(rig, 1, 2)
    listed = [told("found", "upscale:0"), told("never told of")]
    await rig.render(tmp_path, listed)
    await anyio.sleep(600)
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service)
    rig.service.on_create = lambda _n, _r: None
    began = later.now
    async with going(later, tmp_path, listed) as outcomes:
        await anyio.sleep(300)
        assert outcomes == []
        await later.callback(rig.service.tasks["t1"])
    assert kinds(outcomes) == {"Saved": 2, "Unresolved": 1}
    assert isinstance(outcomes[-1], Unresolved)
    assert not any(event.earlier for event in later.events if isinstance(event, JobEnded))
    # No longer than the service goes on calling, nor than a job is waited for.
    assert later.now - began <= LAST_CALLBACK - 600


@pytest.mark.parametrize("listening", [True, False])
async def test_what_was_lost_long_ago_is_told_at_once(tmp_path: Path, listening: bool) -> None:
    """No callback comes any more, or nobody listens: the job is unresolved, as before."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [told()])
    if listening:
        await anyio.sleep(LAST_CALLBACK)
    later = Rig(callbacks=listening, ledger=rig.ledger, service=rig.service)
    began = later.now
    outcomes, _ = await later.render(tmp_path, [told()])
    assert kinds(outcomes) == {"Unresolved": 1}
    assert later.now == began
    assert [event.earlier for event in later.events if isinstance(event, JobEnded)] == [True]


async def test_a_create_from_the_future_is_told_too(tmp_path: Path) -> None:
    """After a clock was set back, an unresolved job seems to be of this run; it is told all the same."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [told()])
    (job,) = await jobs(rig)
    ahead = rig.clock.now() + timedelta(hours=1)
    await rig.ledger.record(job, lifecycle.retried())
    job = await rig.ledger.record(job, lifecycle.intent(ahead, 25, "a" * 32))
    await rig.ledger.record(job, lifecycle.lost(ReplyLost("cut")))
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service)
    outcomes, _ = await later.render(tmp_path, [told()])
    assert kinds(outcomes) == {"Unresolved": 1}


async def test_a_kept_hint_is_used_by_the_next_run(tmp_path: Path) -> None:
    """A run that was killed after a hint was kept: the next one, with or without callbacks, uses it."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [told()])
    (job,) = await jobs(rig)
    attempt = await rig.ledger.last_attempt(job.key)
    assert attempt is not None
    await rig.ledger.note_hint(attempt.token, "t1")
    outcomes, _ = await rig.render(tmp_path, [told()])
    assert kinds(outcomes) == {"Saved": 1}
    assert len(rig.service.creates) == 1


async def test_a_hint_that_comes_at_the_end_of_a_run(tmp_path: Path) -> None:
    """A run does not end while a callback's task is being looked up: it takes the job along."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [told("old")])
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service)
    rig.service.on_record = lambda task, n: NotSent("down") if (task.id, n) == ("t1", 1) else None
    run = later.run(tmp_path)
    outcomes: list[Outcome] = []

    async def send(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            lost = rig.service.tasks["t1"]
            tasks.start_soon(later.callback, lost)

    async with later.polling(), anyio.create_task_group() as tasks:
        await run.plan([told("new")])
        await run.go(send)
    assert kinds(outcomes) == {"Saved": 2}
    await charged_once(rig)


async def test_a_retried_jobs_lost_task_is_saved_as_well(tmp_path: Path) -> None:
    """Sent again by its user's word, the job has a task of its own; the lost one is an extra job."""
    rig = await lost_and_retried(tmp_path)
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service)
    async with going(later, tmp_path, [told()]) as outcomes:
        await anyio.sleep(20)
        await later.callback(rig.service.tasks["t1"])
    assert kinds(outcomes) == {"Saved": 2}
    key = (await jobs(rig))[0].key
    assert {one.job.key for one in outcomes} == {key, f"{key}+1"}
    assert len({file for one in outcomes for file in one.job.files}) == 4
    await charged_once(rig)
    outcomes, _ = await rig.render(tmp_path, [told()])
    assert len(rig.service.creates) == 2


async def test_an_extra_job_that_was_retried_is_seen_to_with_the_same_list(tmp_path: Path) -> None:
    """It is of no list, and costs nothing: any run in the directory saves what it can."""
    rig = Rig()
    await rig.render(tmp_path, [told()])
    lost = rig.service.make(told())
    extra = await rig.ledger.add("extra", ExistingTask(lost.id), lifecycle.adopted(lost.id))
    for move in (lifecycle.expired(ResultExpired("gone")), lifecycle.retried()):
        extra = await rig.ledger.record(extra, move)
    outcomes, _ = await rig.render(tmp_path, [told()])
    assert kinds(outcomes) == {"Saved": 2}
    assert len(rig.service.creates) == 1


async def test_a_retried_job_that_waits_for_its_turn_is_found(tmp_path: Path) -> None:
    """Its task is taken before it is sent again; it is on the road once."""
    rig = await lost_and_retried(tmp_path)
    later = Rig(callbacks=True, ledger=rig.ledger, service=rig.service, in_flight=1)
    blocker = rig.service.make(TextToImage("somebody else's"))
    later.admission.watched(blocker.id)
    async with going(later, tmp_path, [told()]) as outcomes:
        await anyio.sleep(20)
        await later.callback(rig.service.tasks["t1"])
        await anyio.sleep(20)
        later.admission.finish(blocker.id)
    assert kinds(outcomes) == {"Saved": 1}
    assert len(rig.service.creates) == 1
    assert len(rig.downloader.fetched) + len(later.downloader.fetched) == 2
    assert (await rig.ledger.counts()).credits == 25


async def test_repeat_beside_callbacks(tmp_path: Path) -> None:
    """With ``on_unknown="repeat"`` each paid task is a job, and the first to be found is enough."""
    rig = Rig(callbacks=True, on_unknown="repeat")
    lose(rig, 1, 2)
    outcomes, error = await rig.render(tmp_path, [told()])
    assert error is None
    assert kinds(outcomes) == {"Saved": 3}
    (key, *extra) = sorted(job.key for job in await jobs(rig))
    assert extra == [f"{key}+1", f"{key}+2"]
    await charged_once(rig)


async def test_a_task_that_is_somebody_elses(tmp_path: Path) -> None:
    """A callback that lies about its task changes nothing: the job is unresolved in the end."""
    rig = Rig(callbacks=True)
    lose(rig, 1)
    rig.tells_after = lambda _task: None
    owl = Record("x9", Status.SUCCEEDED, 1, task_type="mj_txt2img", params={"prompt": "an owl"})
    rig.service.tasks["x9"] = Made("x9", TextToImage("an owl"), 0.0, 1.0)
    rig.service.on_record = lambda task, _n: owl if task.id == "x9" else None
    async with going(rig, tmp_path, [told()], job_timeout=300) as outcomes:
        await anyio.sleep(5)
        (job,) = await jobs(rig)
        attempt = await rig.ledger.last_attempt(job.key)
        assert attempt is not None
        await rig.desk.take(attempt.token, "x9")
    assert kinds(outcomes) == {"Unresolved": 1}
    assert isinstance(outcomes[0].error, KieError)  # type: ignore[union-attr]
