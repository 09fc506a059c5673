"""Lost replies found again: what a callback's token leads to, in virtual time."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from support import VIRTUAL, Made, Rig, WatchedLedger, reply

from kie_mj_async.engine.admission import unnamed
from kie_mj_async.engine.pipeline import Halt
from kie_mj_async.errors import (
    AuthenticationError,
    KieError,
    LedgerError,
    Maintenance,
    NotFound,
    NotSent,
    ServerError,
)
from kie_mj_async.events import JobSubmitted
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import Attempt
from kie_mj_async.requests import ExistingTask, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import Accepted, Lost, Silence
from kie_mj_async.rules.lifecycle import Event, Move
from kie_mj_async.rules.pacing import Rate

pytestmark = pytest.mark.anyio
HOOK = "https://hook.example/x"
FOX = TextToImage("a fox", callback_url=HOOK)


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def lose(rig: Rig, *numbers: int) -> None:
    """The service accepts these creates (all by default), and its replies are lost."""

    def create(number: int, request: object) -> Silence | None:
        if numbers and number not in numbers:
            return None
        rig.service.make(request)  # type: ignore[arg-type]
        return Silence(sent=True, reason="cut")

    rig.service.on_create = create


async def lost(rig: Rig, key: str = "job", request: TextToImage = FOX) -> tuple[Job, Made]:
    """An unresolved job, and the task that it led to."""
    lose(rig)
    job = await rig.pipeline.submit(await rig.ledger.add(key, request))
    assert job.state is State.UNRESOLVED
    return job, list(rig.service.tasks.values())[-1]


async def attempt_of(rig: Rig, job: Job) -> Attempt:
    attempt = await rig.ledger.last_attempt(job.key)
    assert attempt is not None
    return attempt


async def state_of(rig: Rig, key: str = "job") -> tuple[State, str | None]:
    job = await rig.ledger.get(key)
    assert job is not None
    return job.state, job.task_id


class Road:
    """Takes jobs along."""

    def __init__(self) -> None:
        self.joined: list[Job] = []

    def join(self, job: Job) -> None:
        self.joined.append(job)


# --- Found ---------------------------------------------------------------------------------------


async def test_a_lost_task_becomes_its_jobs() -> None:
    """The task that a job's token names is its own: paid once, counted as running, and told."""
    rig = Rig(callbacks=True)
    rig.desk.road = road = Road()
    job, task = await lost(rig)
    assert rig.admission.running == 1
    await rig.callback(task)
    found = await rig.ledger.get("job")
    assert found is not None
    assert (found.state, found.task_id, found.credits) == (State.RUNNING, task.id, 25)
    assert road.joined == [found]
    assert [event.job for event in rig.events if isinstance(event, JobSubmitted)] == [found]
    assert rig.admission._tasks.keys() == {task.id}
    assert (await attempt_of(rig, job)).task_id == task.id
    assert await rig.ledger.open_hints() == []


async def test_the_same_callback_again_changes_nothing() -> None:
    """Duplicates, at once and later, are harmless."""
    rig = Rig(callbacks=True)
    rig.desk.road = road = Road()
    _, task = await lost(rig)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(rig.callback, task)
    await rig.callback(task)
    assert await state_of(rig) == (State.RUNNING, task.id)
    assert len(road.joined) == 1
    assert len(rig.service.polls) == 1
    assert (await rig.ledger.counts()).total == 1


async def test_a_callback_of_a_known_task_is_no_hint() -> None:
    """Where the create's reply told the task, its callback reads no record and moves nothing."""
    rig = Rig(callbacks=True)
    job = await rig.pipeline.submit(await rig.ledger.add("job", FOX))
    moves = len(await rig.ledger.history(job))
    await rig.callback(rig.service.tasks[job.task_id or ""])
    assert rig.service.polls == []
    assert len(await rig.ledger.history(job)) == moves


async def test_a_callback_that_beats_its_creates_reply() -> None:
    """While the create is under way nothing moves; its reply then tells the same."""
    rig = Rig(callbacks=True)
    rig.service.latency = 5.0
    early: list[Made] = []

    async def call_back() -> None:
        await anyio.sleep(1.0)
        _, request = rig.service.creates[0]
        early.append(rig.service.make(request))
        tasks.start_soon(rig.callback, early[0])
        await anyio.sleep(2.0)
        assert await state_of(rig) == (State.SUBMITTING, None)

    rig.service.on_create = lambda _n, _r: reply(200, {"taskId": early[0].id})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_back)
        job = await rig.pipeline.submit(await rig.ledger.add("job", FOX))
    assert (job.state, job.task_id, job.credits) == (State.RUNNING, "t1", 25)
    assert await rig.ledger.open_hints() == []


@asynccontextmanager
async def losing_what_is_called_back(rig: Rig) -> AsyncIterator[None]:
    """Creates take a while and their replies are lost; the first one's callback comes in between."""
    rig.service.latency = 5.0

    async def call_back() -> None:
        await anyio.sleep(1.0)
        await rig.callback(rig.service.make(rig.service.creates[0][1]))

    rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_back)
        yield


async def test_a_hint_for_a_create_that_is_lost_and_sent_again() -> None:
    """Where lost creates are repeated at once, one that a callback has named is not sent again."""
    rig = Rig(callbacks=True, on_unknown="repeat", rate=Rate(1, 60.0))
    async with losing_what_is_called_back(rig):
        job = await rig.pipeline.submit(await rig.ledger.add("job", FOX))
    assert (job.state, job.task_id, job.credits) == (State.RUNNING, "t1", 25)
    assert len(rig.service.creates) == 1
    assert await rig.ledger.open_hints() == []


async def test_a_callback_that_beats_a_reply_that_is_lost() -> None:
    """A hint that came during the create is used at the very moment its end is known to be lost."""
    rig = Rig(callbacks=True)
    async with losing_what_is_called_back(rig):
        job = await rig.pipeline.submit(await rig.ledger.add("job", FOX))
        ended = rig.now
        job = await rig.desk.wait(job, 600)
    assert (job.state, job.task_id) == (State.RUNNING, "t1")
    assert rig.now - ended == pytest.approx(0.01)  # what reading its record takes
    assert rig.admission._tasks.keys() == {"t1"}


async def test_waiting_for_a_creates_end_costs_nothing() -> None:
    """However long the create takes, a hint that waits for its end leaves the ledger alone."""
    looks: dict[float, int] = {}
    for latency in (5.0, 500.0):
        ledger = _Counting()
        rig = Rig(callbacks=True, ledger=ledger)
        rig.service.latency = latency
        rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rig.pipeline.submit, await rig.ledger.add("job", FOX))
            await anyio.sleep(1.0)
            await rig.callback(rig.service.make(rig.service.creates[0][1]))
        assert await state_of(rig) == (State.RUNNING, "t1")
        looks[latency] = ledger.looks
    assert looks[5.0] == looks[500.0]


async def test_a_creates_end_that_cannot_be_written_down() -> None:
    """A hint that waits for it lets go at once, and is kept for the next run."""
    rig = Rig(callbacks=True, ledger=(ledger := WatchedLedger()))
    rig.service.latency = 5.0
    rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
    full = LedgerError("disk full")
    ledger.on_move = lambda _job, move: full if move.event is Event.LOST else None
    ended: list[float] = []

    async def submit() -> None:
        with pytest.raises(Halt):
            await rig.pipeline.submit(await rig.ledger.add("job", FOX))
        ended.append(rig.now)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit)
        await anyio.sleep(1.0)
        await rig.callback(rig.service.make(rig.service.creates[0][1]))
    assert [rig.now] == ended
    assert await state_of(rig) == (State.SUBMITTING, None)
    assert [attempt.hint for attempt in await rig.ledger.open_hints()] == ["t1"]


class _Counting(WatchedLedger):
    """Counts how often a job is looked at."""

    looks = 0

    async def get(self, key: str) -> Job | None:
        self.looks += 1
        return await super().get(key)


async def test_waiting_ends_with_the_callback() -> None:
    """Whoever waits for an unresolved job has it as soon as its task is found, and joins no run."""
    rig = Rig(callbacks=True)
    rig.desk.road = road = Road()
    job, task = await lost(rig)

    async def later() -> None:
        await anyio.sleep(60)
        await rig.callback(task)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later)
        began = rig.now
        job = await rig.desk.wait(job, 600)
    assert (job.state, job.task_id) == (State.RUNNING, task.id)
    assert 60 <= rig.now - began < 61
    assert road.joined == []


async def test_waiting_has_an_end() -> None:
    """Without a callback a job is unresolved after the wait, and its waiter is forgotten."""
    rig = Rig(callbacks=True)
    job, _ = await lost(rig)
    began = rig.now
    assert (await rig.desk.wait(job, 600)).state is State.UNRESOLVED
    assert rig.now - began == pytest.approx(600)
    assert rig.desk._waiting == {}


async def test_nobody_waits_where_no_callbacks_come() -> None:
    """Without a receiver, or without a token, waiting ends at once; a kept hint is used all the same."""
    rig = Rig()
    job, task = await lost(rig)
    began = rig.now
    assert (await rig.desk.wait(job, 600)).state is State.UNRESOLVED
    plain, _ = await lost(rig, "plain", TextToImage("a fox"))
    assert await rig.ledger.last_attempt("plain") is None
    assert (await rig.desk.wait(plain, 600)).state is State.UNRESOLVED
    assert rig.now - began < 1
    await rig.ledger.note_hint((await attempt_of(rig, job)).token, task.id)
    assert (await rig.desk.wait(job, 600)).task_id == task.id


# --- Not believed --------------------------------------------------------------------------------


async def test_a_token_that_is_nobodys() -> None:
    """A token that no attempt has leads nowhere, and is not known."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    assert not await rig.desk.knows("0" * 32)
    assert await rig.desk.knows((await attempt_of(rig, job)).token)
    await rig.callback(task, "0" * 32)
    assert await state_of(rig) == (State.UNRESOLVED, None)
    assert rig.service.polls == []


async def test_a_task_of_other_parameters_is_not_adopted(caplog: pytest.LogCaptureFixture) -> None:
    """A token with a task that is not the job's is dropped and told; the right one still counts."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    _, other = await lost(rig, "other", TextToImage("an owl", callback_url=HOOK))
    token = (await attempt_of(rig, job)).token
    await rig.callback(other, token)
    assert await state_of(rig) == (State.UNRESOLVED, None)
    assert "is not job job, as a callback said: prompt is 'an owl', not 'a fox'" in caplog.text
    assert await rig.ledger.open_hints() == []
    await rig.callback(task)
    assert await state_of(rig) == (State.RUNNING, task.id)


async def test_a_task_that_is_another_jobs() -> None:
    """A task that belongs to a job already is not looked at again, whoever names it."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    _, twin = await lost(rig, "twin")
    await rig.callback(twin)
    await rig.callback(twin, (await attempt_of(rig, job)).token)
    assert await state_of(rig) == (State.UNRESOLVED, None)
    assert await state_of(rig, "twin") == (State.RUNNING, twin.id)
    assert task.looks == 0


async def test_an_extra_task_is_looked_at_too() -> None:
    """A stranger's task does not become a job by an old token."""
    rig = Rig(callbacks=True)
    job, _ = await lost(rig)
    job = await rig.ledger.record(job, lifecycle.abandoned(rig.clock.now()))
    await rig.callback(rig.service.make(TextToImage("an owl")), (await attempt_of(rig, job)).token)
    assert (await rig.ledger.counts()).total == 1


# --- Decided meanwhile ---------------------------------------------------------------------------


async def test_a_job_that_its_user_retried_and_that_was_not_sent_yet() -> None:
    """The task is the job's again, before it is sent a second time."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    job = await rig.ledger.record(job, lifecycle.retried())
    await rig.callback(task)
    assert await state_of(rig) == (State.RUNNING, task.id)
    # Whoever was about to send it finds it on its way.
    job = await rig.pipeline.submit(job)
    assert (job.state, job.task_id, job.credits) == (State.RUNNING, task.id, 25)
    assert len(rig.service.creates) == 1
    assert rig.admission.committed == 25


@pytest.mark.parametrize("decision", ["retried", "abandoned"])
async def test_a_task_that_its_job_has_gone_on_without(decision: str) -> None:
    """It is one more job, with its price: paid, listed and followed."""
    rig = Rig(callbacks=True)
    rig.desk.road = road = Road()
    job, task = await lost(rig)
    if decision == "retried":
        rig.service.on_create = lambda _n, _r: None
        job = await rig.ledger.record(job, lifecycle.retried())
        job = await rig.pipeline.submit(job)
    else:
        job = await rig.ledger.record(job, lifecycle.abandoned(rig.clock.now()))
    await rig.callback(task)
    assert await rig.ledger.get("job") == job
    extra = await rig.ledger.get("job+1")
    assert extra is not None
    assert (extra.state, extra.request) == (State.RUNNING, ExistingTask(task.id))
    assert (extra.task_id, extra.price, extra.credits) == (task.id, 25, 25)
    assert road.joined == [extra]
    assert [event.job for event in rig.events if isinstance(event, JobSubmitted)][-1] == extra
    await rig.callback(task)
    assert len(road.joined) == 1
    assert await rig.ledger.open_hints() == []


async def test_a_job_that_is_sent_again_while_its_task_is_looked_up() -> None:
    """What a hint means is decided when the record has been read, not before: nothing is lost."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    job = await rig.ledger.record(job, lifecycle.retried())
    rig.service.on_create = lambda _n, _r: None
    rig.service.on_record = lambda _t, looks: NotSent("down") if looks == 1 else None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.callback, task)  # reads again after half a second
        job = await rig.pipeline.submit(job)
    assert job.state is State.RUNNING
    assert await state_of(rig, "job+1") == (State.RUNNING, task.id)
    assert (await rig.ledger.counts()).credits == 50


async def test_a_job_that_is_sent_at_the_very_moment_of_its_adoption() -> None:
    """The ledger lets one of the two through; the task becomes one more."""
    ledger = _Hesitating()
    rig = Rig(callbacks=True, ledger=ledger)
    job, task = await lost(rig)
    job = await rig.ledger.record(job, lifecycle.retried())
    rig.service.on_create = lambda _n, _r: None
    ledger.holds = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.callback, task)
        await anyio.sleep(0.5)
        job = await rig.pipeline.submit(job)
    assert (job.attempts, job.task_id) == (2, "t2")
    assert await state_of(rig, "job+1") == (State.RUNNING, task.id)


class _Hesitating(WatchedLedger):
    """Takes a while over an adoption."""

    holds = False

    async def record(self, job: Job, move: Move) -> Job:
        if self.holds and move.event is Event.ADOPTED:
            await anyio.sleep(1.0)
        return await super().record(job, move)


# --- Trouble -------------------------------------------------------------------------------------


async def test_a_record_that_cannot_be_read_for_a_while() -> None:
    """Reading is tried again, also while the service does not know the task yet."""
    rig = Rig(callbacks=True)
    _, task = await lost(rig)
    troubles = [NotFound("not yet"), ServerError("no", code=500), NotSent("down")]
    rig.service.on_record = lambda _t, looks: troubles[looks - 1] if looks <= 3 else None
    await rig.callback(task)
    assert await state_of(rig) == (State.RUNNING, task.id)


async def test_a_maintenance_is_waited_out() -> None:
    """As long as a create would wait for its end; a paid task is worth as much as one to be paid."""
    rig = Rig(callbacks=True)
    _, task = await lost(rig)
    rig.service.on_record = lambda _t, looks: Maintenance("busy", code=455) if looks < 30 else None
    await rig.callback(task)
    assert 400 < rig.service.polls[-1][0] < 900
    assert await state_of(rig) == (State.RUNNING, task.id)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (NotSent("down"), 900),
        (NotFound("no such task"), 70),
        (AuthenticationError("no", code=401), 70),
    ],
)
async def test_a_record_that_cannot_be_read_at_all(error: KieError, seconds: float) -> None:
    """The hint is kept; a later run takes it."""
    rig = Rig(callbacks=True)
    _, task = await lost(rig)
    rig.service.on_record = lambda _t, _n: error
    await rig.callback(task)
    assert 0.3 * seconds < rig.service.polls[-1][0] <= seconds
    assert await state_of(rig) == (State.UNRESOLVED, None)
    [attempt] = await rig.ledger.open_hints()
    assert attempt.hint == task.id
    rig.service.on_record = lambda _t, _n: None
    later = Rig(ledger=rig.ledger, service=rig.service)
    await later.desk.settle()
    assert await state_of(rig) == (State.RUNNING, task.id)
    assert await rig.ledger.open_hints() == []


@pytest.mark.parametrize("state", [State.PLANNED, State.SUBMITTING])
async def test_a_kept_hint_of_a_job_that_was_retried(state: State) -> None:
    """It is used before the job is sent again, and as one more when it has been."""
    rig = Rig()
    job, task = await lost(rig)
    await rig.ledger.note_hint((await attempt_of(rig, job)).token, task.id)
    job = await rig.ledger.record(job, lifecycle.retried())
    if state is State.SUBMITTING:
        await rig.ledger.record(job, lifecycle.intent(rig.clock.now(), 25, "f" * 32))
    await rig.desk.settle()
    key = "job" if state is State.PLANNED else "job+1"
    assert await state_of(rig, key) == (State.RUNNING, task.id)


@pytest.mark.parametrize("error", [LedgerError("disk full"), RuntimeError("a bug")])
async def test_trouble_with_a_hint_is_told_and_goes_no_further(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with a hint, nobody is taken down by it."""
    rig = Rig(callbacks=True)
    _, task = await lost(rig)

    async def refuse(_job: Job, _move: Move) -> Job:
        raise error

    rig.ledger.record = refuse  # type: ignore[method-assign, assignment]
    await rig.callback(task)
    assert f"callback's task {task.id} could not be followed" in caplog.text
    assert await state_of(rig) == (State.UNRESOLVED, None)


async def test_an_extra_task_that_cannot_be_written_down(caplog: pytest.LogCaptureFixture) -> None:
    """Its id is in the log at least."""
    rig = Rig(callbacks=True)
    job, task = await lost(rig)
    await rig.ledger.record(job, lifecycle.abandoned(rig.clock.now()))

    async def refuse(*_: object) -> Job:
        raise LedgerError("disk full")

    rig.ledger.add = refuse  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.CRITICAL):
        await rig.callback(task)
    assert f"task {task.id} was paid and could not be written down" in caplog.text


# --- The end -------------------------------------------------------------------------------------


async def test_closing_waits_for_hints_under_way() -> None:
    """Closing cuts reading short and leaves nobody at the ledger; what comes later is ignored."""
    rig = Rig(callbacks=True)
    _, task = await lost(rig)
    rig.service.on_record = lambda _t, _n: NotSent("down")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.callback, task)
        await anyio.sleep(1.0)
        began = rig.now
        await rig.desk.aclose()
        assert rig.now == began
        assert rig.desk._busy == set()
    polls = len(rig.service.polls)
    await rig.callback(task)
    assert not await rig.desk.knows("0" * 32)
    assert len(rig.service.polls) == polls
    assert len(await rig.ledger.open_hints()) == 1


# --- The gate ------------------------------------------------------------------------------------


async def test_a_found_task_keeps_its_place_and_its_price() -> None:
    """The place in flight of a lost create is the found task's, whoever waits for it already."""
    rig = Rig(in_flight=2)
    for name, watched in (("a", False), ("b", True)):
        ticket = await rig.admission.enter(25)
        await rig.admission.leave(ticket, Lost(KieError("cut")), unnamed(name, 1))
        if watched:
            rig.admission.watched(f"task {name}")
        rig.admission.found(unnamed(name, 1), f"task {name}")
        assert rig.admission.running == 1
        assert (rig.admission._tasks[f"task {name}"].until == math.inf) is watched
        rig.admission.finish(f"task {name}", charged=False)
        assert (rig.admission.running, rig.admission.committed) == (0, 0)
    # One that nobody remembers any more runs all the same.
    rig.admission.found(unnamed("c", 1), "task c")
    assert rig.admission.running == 1
    ticket = await rig.admission.enter(25)
    await rig.admission.leave(ticket, Accepted("d"), unnamed("d", 1))
    assert rig.admission.running == 2


def test_the_names_of_lost_tasks_differ() -> None:
    """Each attempt of each job has a name of its own until its task is known."""
    assert len({unnamed("a", 1), unnamed("a", 2), unnamed("a/1", 1), unnamed("b", 1)}) == 4
