"""Who goes next in a run: each job once, and steps of chains when their turn has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from kie_mj_async.engine.following import Followers
from kie_mj_async.errors import ReplyLost, TaskFailed
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import Cursor, MemoryLedger, base
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import Move

pytestmark = pytest.mark.anyio
AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
INTENT = lifecycle.intent(AT, 25)
ACCEPTED = lifecycle.accepted("t1", AT)
DONE = lifecycle.succeeded(
    ("http://files.test/0",), created_at=AT, completed_at=AT, expires_at=AT + timedelta(days=14)
)
ENDS: dict[State, tuple[Move, ...]] = {
    State.PLANNED: (),
    State.RUNNING: (INTENT, ACCEPTED),
    State.SUCCEEDED: (INTENT, ACCEPTED, DONE),
    State.SAVED: (INTENT, ACCEPTED, DONE, lifecycle.saved()),
    State.FAILED: (INTENT, ACCEPTED, lifecycle.failed(TaskFailed("nsfw"))),
    State.EXPIRED: (INTENT, ACCEPTED, DONE, lifecycle.expired(TaskFailed("gone"))),
    State.UNRESOLVED: (INTENT, lifecycle.lost(ReplyLost("gone"))),
    State.ABANDONED: (INTENT, lifecycle.lost(ReplyLost("gone")), lifecycle.abandoned(AT)),
}
"""How a job comes to a state."""
ON = (State.SUCCEEDED, State.SAVED, State.FAILED, State.EXPIRED, State.ABANDONED)
"""States of a parent with which its children go on: to be made, or to fail with it."""


class SlowLedger(MemoryLedger):
    """Answers when others have had their turn."""

    async def get(self, key: str) -> Job | None:
        job = await super().get(key)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return job


async def stage(ledger: MemoryLedger, *requests: Request) -> int:
    async with ledger.staging() as staging:
        await staging.add(requests)
    return staging.run


async def a_chain(
    state: State, *then: str, ledger: MemoryLedger | None = None
) -> tuple[MemoryLedger, Followers, list[Job]]:
    """A chain whose first job is in this state."""
    ledger = ledger or MemoryLedger()
    run = await stage(ledger, TextToImage("a fox", then=then or ("upscale:0,1", "video:0")))
    first = (await ledger.scan(0, 1))[0]
    for move in ENDS[state]:
        first = await ledger.record(first, move)
    followers = Followers(ledger)
    await followers.open(run)
    return ledger, followers, await ledger.scan(0, 99)


def popped(followers: Followers) -> list[Job]:
    found = []
    while (job := followers.pop()) is not None:
        found.append(job)
    return found


async def test_a_job_is_taken_once() -> None:
    """A job that is next or on the road is put there by nobody else, until it has left the road."""
    ledger, followers, jobs = await a_chain(State.PLANNED)
    assert await followers.turn_of(jobs[0]) == jobs[0]
    assert followers.any_taken
    assert await followers.turn_of(jobs[0]) is None
    assert not followers.push(jobs[0])
    followers.release(jobs[0])
    assert followers.push(jobs[0])
    assert not followers.push(jobs[0])
    assert popped(followers) == [jobs[0]]
    assert await followers.turn_of(jobs[0]) is None
    assert len(await ledger.scan(0, 99)) == 4


@pytest.mark.parametrize("state", ENDS)
async def test_whose_turn_it_is(state: State) -> None:
    """A planned step goes when its parent has results, or will have none; not before."""
    _, followers, jobs = await a_chain(state)
    fresh = [await followers.turn_of(job) for job in jobs[1:]]
    direct = jobs[1:3] if state in ON else [None, None]
    assert fresh == [*direct, None]  # the video's parent is a planned step


@pytest.mark.parametrize("state", ENDS)
async def test_what_a_jobs_end_brings(state: State) -> None:
    """Its steps come along if they can; else they and theirs are told, each with what it waits for."""
    _, followers, jobs = await a_chain(state)
    stuck = await followers.ended(jobs[0])
    if state in ON:
        assert stuck == []
        assert popped(followers) == jobs[1:3]
        return
    assert popped(followers) == []
    if state is State.PLANNED:  # it was not sent: the run has stopped
        assert stuck == []
    else:
        assert {(job.key, before.key) for job, before in stuck} == {
            (jobs[1].key, jobs[0].key),
            (jobs[2].key, jobs[0].key),
            (jobs[3].key, jobs[1].key),
        }


async def test_a_step_that_was_begun_is_not_brought_again() -> None:
    """Only planned steps are brought along."""
    ledger, followers, jobs = await a_chain(State.SAVED)
    await ledger.record(jobs[1], INTENT)
    assert await followers.ended(jobs[0]) == []
    assert popped(followers) == [jobs[2]]


async def test_a_job_that_has_moved_on_is_not_taken() -> None:
    """What a page held some time ago is looked at again before it is taken."""
    ledger, followers, jobs = await a_chain(State.PLANNED)
    for move in ENDS[State.SAVED]:
        await ledger.record(jobs[0], move)
    assert await followers.turn_of(jobs[0]) is None


class CountingLedger(MemoryLedger):
    """Counts how often a job is asked for."""

    asked = 0

    async def get(self, key: str) -> Job | None:
        self.asked += 1
        return await super().get(key)


async def test_who_cannot_have_moved_is_not_asked_for() -> None:
    """What was not taken since its page was read is as it was listed."""
    ledger = CountingLedger()
    run = await stage(ledger, *(TextToImage(f"fox {n}") for n in range(5)))
    followers = Followers(ledger)
    await followers.open(run)
    async for job in followers.planned():
        assert await followers.turn_of(job) == job
    assert ledger.asked == 0
    assert [await followers.turn_of(job) for job in await ledger.scan(0, 9)] == [None] * 5


@pytest.mark.parametrize("page", [1, 2, 99])
@pytest.mark.parametrize("left", [True, False])
async def test_who_was_taken_since_its_page_was_read_is_asked_for(
    page: int, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that others took meanwhile does not go twice, whether it has left the road or not."""
    monkeypatch.setattr(base, "PAGE", page)
    ledger = MemoryLedger()
    run = await stage(ledger, *(TextToImage(f"fox {n}") for n in range(4)))
    followers = Followers(ledger)
    await followers.open(run)
    taken: list[str] = []
    others = await ledger.scan(1, 9)
    async for job in followers.planned():
        if (turn := await followers.turn_of(job)) is not None:
            taken.append(turn.prompt)
        while others:  # callbacks have found their tasks
            other = await ledger.record(others.pop(0), lifecycle.adopted("t9"))
            assert followers.push(other)
            assert followers.pop() == other
            if left:
                followers.release(other)
    assert taken == ["fox 0"]


async def test_a_step_whose_parent_ends_while_it_is_listed() -> None:
    """It is brought along and listed, and goes once."""
    ledger, followers, jobs = await a_chain(State.RUNNING)
    listed = followers.planned()
    step = await anext(listed)
    assert step == jobs[1]
    await ledger.record(jobs[0], DONE)
    await followers.ended(jobs[0])
    assert popped(followers) == jobs[1:3]
    for job in jobs[1:3]:
        for move in ENDS[State.SAVED]:
            await ledger.record(job, move)
        followers.release(job)
    assert await followers.turn_of(step) is None
    assert [await followers.turn_of(job) async for job in listed][:1] == [None]


async def test_a_step_is_found_twice_at_the_same_time() -> None:
    """The list's turn and the end of its parent bring a step at once: it is taken once."""
    for delay in range(12):
        _, followers, jobs = await a_chain(State.SAVED, "upscale:0", ledger=SlowLedger())
        taken: list[Job | None] = []

        async def listed(
            wait: int = delay,
            followers: Followers = followers,
            step: Job = jobs[1],
            taken: list[Job | None] = taken,
        ) -> None:
            for _ in range(wait):
                await anyio.lowlevel.checkpoint()
            taken.append(await followers.turn_of(step))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listed)
            tasks.start_soon(followers.ended, jobs[0])
        both = [*(job for job in taken if job), *popped(followers)]
        assert both == [jobs[1]]


async def test_steps_that_left_the_list_stay() -> None:
    """A step of an earlier list that this one does not hold is neither brought nor told."""
    ledger = MemoryLedger()
    await stage(ledger, TextToImage("a fox", then=["upscale:0", "vary:0"]))
    run = await stage(ledger, TextToImage("a fox", then=["upscale:1"]))
    first = (await ledger.scan(0, 1))[0]
    for move in ENDS[State.RUNNING]:
        first = await ledger.record(first, move)
    followers = Followers(ledger)
    await followers.open(run)
    [(stuck, _)] = await followers.ended(first)
    assert stuck.request.given()["index"] == 1
    await ledger.record(first, DONE)
    await followers.ended(first)
    assert popped(followers) == [stuck]
    everything = Followers(ledger)
    await everything.open(None)
    await everything.ended(first)
    assert len(popped(everything)) == 2


async def test_without_chains_nothing_is_asked() -> None:
    """A ledger without chains is not searched for steps at each end."""
    ledger = MemoryLedger()
    run = await stage(ledger, TextToImage("a fox"))
    asked: list[str] = []

    async def children(key: str, run: int | None = None) -> list[Job]:
        asked.append(f"{key} of {run}")
        return []

    ledger.children = children  # type: ignore[method-assign]
    followers = Followers(ledger)
    await followers.open(run)
    (job,) = await ledger.page(State.PLANNED, Cursor(), 9)
    assert await followers.ended(job) == []
    assert await followers.stuck_behind(job) == []
    assert asked == []
