"""Decisions about jobs whose fate is unknown, and finding them after a crash."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kie_mj_async.engine import resolving
from kie_mj_async.engine.clock import Clock
from kie_mj_async.engine.preparing import Preparer
from kie_mj_async.engine.resolving import Decision, decide, find, recover
from kie_mj_async.errors import InvalidRequest, NotFound, ReplyLost, TaskFailed
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import MemoryLedger
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import Move
from kie_mj_async.rules.wire import Record, Status

pytestmark = pytest.mark.anyio

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
LOST = lifecycle.lost(ReplyLost("gone"))
FAILED = lifecycle.failed(TaskFailed("no"))
ACCEPTED = lifecycle.accepted("t1", NOW)
INTENT = lifecycle.intent(NOW, 25)


async def add(ledger: MemoryLedger, key: str, *moves: Move) -> Job:
    job = await ledger.add(key, TextToImage("a fox"))
    for move in moves:
        job = await ledger.record(job, move)
    return job


async def states(ledger: MemoryLedger) -> dict[str, State]:
    return {job.key: job.state for job in await ledger.scan(0, 1000)}


class Service:
    """Knows one record."""

    def __init__(self, **params: object) -> None:
        self.params = {"prompt": "a fox", **params}
        self.asked: list[str] = []

    async def record(self, task_id: str) -> Record:
        self.asked.append(task_id)
        if task_id == "none":
            raise NotFound("no such task")
        return Record(task_id, Status.SUCCEEDED, 1, task_type="mj_txt2img", params=self.params)

    async def fresh_link(self, url: str) -> str:
        raise AssertionError(f"nobody wants a link to {url}")


async def adopt(ledger: MemoryLedger, name: str, task_id: str, service: Service) -> Job:
    await recover(ledger)
    return await resolving.adopt(ledger, name, task_id, service, Preparer(ledger, service, Clock()))


async def test_recovery_finds_every_cut_off_create() -> None:
    """After a crash each create without an end is unresolved, and everything else stays."""
    ledger = MemoryLedger()
    for number in range(450):  # more than two pages
        await add(ledger, f"cut-{number}", INTENT)
    await add(ledger, "planned")
    await add(ledger, "running", INTENT, ACCEPTED)
    await recover(ledger)
    after = await states(ledger)
    assert after.pop("planned") is State.PLANNED
    assert after.pop("running") is State.RUNNING
    assert set(after.values()) == {State.UNRESOLVED}
    job = await find(ledger, "cut-7")
    assert job.trouble is not None
    assert "may have been accepted and paid" in job.trouble.message


async def test_a_key_or_its_start_names_a_job() -> None:
    """A start that fits one job names it; a whole key does even if it is another's start."""
    ledger = MemoryLedger()
    for key in ("1-ab", "1-abc", "1-x"):
        await add(ledger, key)
    assert (await find(ledger, "1-x")).key == "1-x"
    assert (await find(ledger, "1-ab")).key == "1-ab"
    assert (await find(ledger, "1-abc")).key == "1-abc"


@pytest.mark.parametrize(
    ("name", "words"), [("1-", "several jobs have"), ("", "several jobs"), ("2-", "no job has")]
)
async def test_a_name_that_fits_none_or_several(name: str, words: str) -> None:
    """A name that fits no job, or several, is an error that tells which."""
    ledger = MemoryLedger()
    await add(ledger, "1-a")
    await add(ledger, "1-b")
    with pytest.raises(InvalidRequest, match=words) as caught:
        await find(ledger, name)
    assert caught.value.field == "job"
    assert "kie-mj status" in str(caught.value)


@pytest.mark.parametrize(
    ("decision", "state"), [("retry", State.PLANNED), ("abandon", State.ABANDONED)]
)
async def test_a_decision_about_all(decision: Decision, state: State) -> None:
    """Without a name it is about all unresolved jobs, those of a crash included, and no other."""
    ledger = MemoryLedger()
    for number in range(450):
        await add(ledger, f"lost-{number}", INTENT, LOST)
    await add(ledger, "cut", INTENT)
    await add(ledger, "failed", INTENT, ACCEPTED, FAILED)
    await add(ledger, "given", INTENT, LOST, lifecycle.abandoned(NOW))
    await recover(ledger)
    assert await decide(ledger, [], decision, NOW) == 451
    after = await states(ledger)
    assert after.pop("failed") is State.FAILED
    assert after.pop("given") is State.ABANDONED
    assert set(after.values()) == {state}
    assert await decide(ledger, [], decision, NOW) == 0


async def test_a_decision_about_some() -> None:
    """Named jobs are decided about, each once, and the others are left."""
    ledger = MemoryLedger()
    for key in ("1-a", "1-b", "1-c"):
        await add(ledger, key, INTENT, LOST)
    assert await decide(ledger, ["1-a", "1-a", "1-c"], "retry", NOW) == 2
    assert await states(ledger) == {
        "1-a": State.PLANNED, "1-b": State.UNRESOLVED, "1-c": State.PLANNED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("moves", "decision", "allowed"),
    [
        ((INTENT, LOST, lifecycle.abandoned(NOW)), "retry", True),
        ((INTENT, ACCEPTED, FAILED), "retry", True),
        ((INTENT, ACCEPTED, lifecycle.expired(TaskFailed("gone"))), "retry", True),
        ((), "retry", False),
        ((INTENT, ACCEPTED), "retry", False),
        ((INTENT, ACCEPTED, FAILED), "abandon", False),
        ((INTENT, ACCEPTED), "abandon", False),
        ((), "abandon", False),
    ],
)
async def test_which_jobs_may_be_decided_about(
    moves: tuple[Move, ...], decision: Decision, allowed: bool
) -> None:
    """Failed, expired and abandoned jobs can be retried; only unresolved ones given up."""
    ledger = MemoryLedger()
    job = await add(ledger, "1-a", *moves)
    if allowed:
        assert await decide(ledger, ["1-a"], decision, NOW) == 1
        return
    with pytest.raises(InvalidRequest, match=f"job 1-a is {job.state}; only a job that is"):
        await decide(ledger, ["1-a"], decision, NOW)
    assert (await states(ledger))["1-a"] is job.state


async def test_one_bad_name_changes_nothing() -> None:
    """A decision is made about all that are named, or about none."""
    ledger = MemoryLedger()
    await add(ledger, "1-a", INTENT, LOST)
    with pytest.raises(InvalidRequest):
        await decide(ledger, ["1-a", "2-"], "abandon", NOW)
    assert await states(ledger) == {"1-a": State.UNRESOLVED}


async def test_a_task_is_adopted() -> None:
    """A task with the job's parameters becomes its own: it waits for it as for any other."""
    ledger = MemoryLedger()
    await add(ledger, "1-a", INTENT)
    job = await adopt(ledger, "1-", "t9", Service())
    assert (job.state, job.task_id, job.trouble) == (State.RUNNING, "t9", None)
    assert await ledger.by_task("t9") == job


@pytest.mark.parametrize(
    ("task_id", "params", "words"),
    [
        ("t9", {"prompt": "an owl"}, "task t9 is not job 1-a: prompt is 'an owl', not 'a fox'"),
        ("t1", {}, "task t1 belongs to job 1-b already"),
    ],
)
async def test_a_foreign_task_is_not_adopted(
    task_id: str, params: dict[str, object], words: str
) -> None:
    """A task with other parameters, or of another job, stays where it is."""
    ledger = MemoryLedger()
    await add(ledger, "1-a", INTENT, LOST)
    await add(ledger, "1-b", INTENT, ACCEPTED)
    with pytest.raises(InvalidRequest, match=words):
        await adopt(ledger, "1-a", task_id, Service(**params))
    assert (await states(ledger))["1-a"] is State.UNRESOLVED


async def test_a_task_that_the_job_had_before_is_not_adopted() -> None:
    """A task of an earlier attempt, whose end is known, is not the one whose fate is unknown."""
    ledger = MemoryLedger()
    job = await add(ledger, "1-a", INTENT, ACCEPTED)
    failed = lifecycle.failed(TaskFailed("task t1: no"))
    for move in (failed, lifecycle.retried(), INTENT, LOST):
        job = await ledger.record(job, move)
    service = Service()
    with pytest.raises(InvalidRequest, match="task t1 was job 1-a's before"):
        await adopt(ledger, "1-a", "t1", service)
    assert service.asked == []
    assert (await adopt(ledger, "1-a", "t2", service)).task_id == "t2"


async def test_an_unknown_task_is_not_adopted() -> None:
    """A task that the service does not know is an error, and nothing changes."""
    ledger = MemoryLedger()
    await add(ledger, "1-a", INTENT, LOST)
    with pytest.raises(NotFound):
        await adopt(ledger, "1-a", "none", Service())
    assert (await states(ledger))["1-a"] is State.UNRESOLVED


async def test_only_an_unresolved_job_is_given_a_task() -> None:
    """A job that is not unresolved keeps what it has, and the service is not asked."""
    ledger, service = MemoryLedger(), Service()
    await add(ledger, "1-a", INTENT, ACCEPTED)
    with pytest.raises(InvalidRequest, match="job 1-a is running"):
        await adopt(ledger, "1-a", "t9", service)
    assert service.asked == []
