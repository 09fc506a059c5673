"""The contract of a ledger, for every store."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import anyio
import attrs
import pytest
from ledger_support import STORES, store

from kie_mj_async.errors import NotSent, ReplyLost, TaskFailed, WriteFailed
from kie_mj_async.jobs import Counts, Job, Reading, SavedFile, State
from kie_mj_async.ledger import Cursor, Ledger, MemoryLedger, base
from kie_mj_async.ledger.base import FAR_FUTURE, each_alike, each_job, urgency
from kie_mj_async.requests import ExistingTask, ImageToVideo, Request, TextToImage
from kie_mj_async.rules import lifecycle, naming
from kie_mj_async.rules.lifecycle import IllegalMove, Move, advance

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC)
URLS = ("https://cdn.example/0.png", "https://cdn.example/1.png")
FOX, OWL, HARE = TextToImage("a fox"), TextToImage("an owl"), TextToImage("a hare")
_T = TypeVar("_T")


@pytest.fixture(params=STORES)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with store(request, tmp_path) as made:
        yield made


async def stage(ledger: Ledger, *requests: Request) -> tuple[int, list[State]]:
    async with ledger.staging() as staging:
        return staging.run, [job.state for job in await staging.add(requests)]


async def play(ledger: Ledger, job: Job, *moves: Move) -> Job:
    for move in moves:
        job = await ledger.record(job, move)
    return job


def a_file(index: int, size: int = 10) -> SavedFile:
    return SavedFile(
        index, f"лиса_{index}.png", URLS[0], "ab" * 32, size, "image/png", 8, None, saved_at=AT
    )


def to_running(task_id: str = "abc") -> tuple[Move, ...]:
    return lifecycle.intent(AT, 25), lifecycle.accepted(task_id, AT)


def success(expires_at: datetime = AT + timedelta(days=14)) -> Move:
    return lifecycle.succeeded(URLS, created_at=AT, completed_at=AT, expires_at=expires_at)


# --- Taking in lists ------------------------------------------------------------------------------


async def test_a_list_is_taken_in(ledger: Ledger) -> None:
    """New jobs are planned, in the list's order, each under the key of its request."""
    run, states = await stage(ledger, FOX, OWL)
    assert (run, states) == (1, [State.PLANNED, State.PLANNED])
    jobs = await ledger.scan(0, 10)
    assert jobs == [
        Job(key=naming.digest(FOX), request=FOX, seq=1),
        Job(key=naming.digest(OWL), request=OWL, seq=2),
    ]


async def test_equal_prompts_are_counted(ledger: Ledger) -> None:
    """The n-th of equal requests is a job of its own, also when it comes in another part."""
    async with ledger.staging() as staging:
        await staging.add([FOX, OWL, FOX])
        await staging.add([FOX])
    digest = naming.digest(FOX)
    keys = [job.key for job in await ledger.scan(0, 10)]
    assert keys == [digest, naming.digest(OWL), f"{digest}-2", f"{digest}-3"]


async def test_the_same_list_again_is_no_new_job(ledger: Ledger) -> None:
    """A second run of a list meets its own jobs, in the states that they have."""
    await stage(ledger, FOX, OWL, FOX)
    first = await ledger.scan(0, 10)
    await play(ledger, first[0], *to_running())
    run, states = await stage(ledger, FOX, OWL, FOX)
    assert (run, states) == (2, [State.RUNNING, State.PLANNED, State.PLANNED])
    assert len(await ledger.scan(0, 10)) == 3


async def test_an_edited_list_runs_only_what_is_new(ledger: Ledger) -> None:
    """After an edit the new lines are new jobs; what left the list is no longer of the run."""
    await stage(ledger, FOX, OWL)
    run, states = await stage(ledger, OWL, HARE, OWL)
    assert (run, len(states)) == (2, 3)
    of_run = await ledger.page(State.PLANNED, Cursor(), 10, run)
    assert [job.prompt for job in of_run] == ["an owl", "a hare", "an owl"]
    assert [job.seq for job in of_run] == [2, 3, 4]
    assert [job.prompt for job in await ledger.page(State.PLANNED, Cursor(), 10, 1)] == ["a fox"]
    assert len(await ledger.page(State.PLANNED, Cursor(), 10)) == 4


async def test_a_callback_makes_no_new_job(ledger: Ledger) -> None:
    """The same wish with another callback is the job that is there."""
    await stage(ledger, FOX)
    await stage(ledger, attrs.evolve(FOX, callback_url="https://hook.example/x"))
    assert len(await ledger.scan(0, 10)) == 1


async def test_a_task_is_listed_once(ledger: Ledger) -> None:
    """A task that is listed twice is one job, and one that a job has already is that job."""
    await stage(ledger, FOX)
    (fox,) = await ledger.scan(0, 9)
    await play(ledger, fox, *to_running("t1"))
    run, states = await stage(
        ledger, ExistingTask("t1"), ExistingTask("t2"), ExistingTask("t2"), OWL
    )
    assert states == [State.RUNNING, State.PLANNED, State.PLANNED, State.PLANNED]
    assert [job.key for job in await ledger.scan(0, 9)] == [
        fox.key,
        "task-t2",
        naming.digest(OWL),
    ]
    assert [job.key for job in await ledger.page(State.RUNNING, Cursor(), 9, run)] == [fox.key]
    # What was learned of a task does not make it another one.
    job = await ledger.get("task-t2")
    assert job is not None
    told = attrs.evolve(ExistingTask("t2"), prompt="a hare", made_with={"type": "TextToImage"})
    success_told = lifecycle.succeeded(
        URLS, created_at=AT, completed_at=AT, expires_at=AT, request=told
    )
    job = await play(ledger, job, lifecycle.adopted("t2"), success_told)
    assert (job.request, job.prompt, job.credits) == (told, "a hare", 0)
    assert await ledger.get("task-t2") == job
    assert (await stage(ledger, ExistingTask("t2")))[1] == [State.SUCCEEDED]


async def test_what_is_due(ledger: Ledger) -> None:
    """Paid jobs that are not saved are counted by when their results are gone, seen to end or not."""
    await stage(ledger, FOX, OWL, HARE)
    fox, owl, _ = await ledger.scan(0, 9)
    await play(ledger, fox, *to_running("t1"), success(AT + timedelta(days=3)))
    await play(ledger, owl, *to_running("t2"))
    days = [2, 4, 15]
    assert [await ledger.due(AT + timedelta(days=n)) for n in days] == [0, 1, 2]


async def _fail_in_the_middle(ledger: Ledger) -> None:
    async with ledger.staging() as staging:
        await staging.add([OWL, HARE, FOX])
        raise ValueError("line 4 is bad")


async def test_a_list_is_there_whole_or_not_at_all(ledger: Ledger) -> None:
    """An error in the middle of a list leaves the ledger as it was, run number included."""
    await stage(ledger, FOX)
    with pytest.raises(ValueError, match="line 4 is bad"):
        await _fail_in_the_middle(ledger)
    assert [job.prompt for job in await ledger.scan(0, 10)] == ["a fox"]
    assert len(await ledger.page(State.PLANNED, Cursor(), 10, 1)) == 1
    assert (await stage(ledger, FOX, OWL))[0] == 2
    assert [job.seq for job in await ledger.scan(0, 10)] == [1, 2]


async def test_a_cancelled_list_leaves_nothing(ledger: Ledger) -> None:
    """Cancelling in the middle of a list leaves the ledger as it was, and usable."""
    with anyio.CancelScope() as scope:
        async with ledger.staging() as staging:
            await staging.add([OWL])
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert await ledger.scan(0, 10) == []
    assert (await stage(ledger, FOX))[0] == 1


async def test_an_empty_list_is_a_run_too(ledger: Ledger) -> None:
    """A list without a job still counts as a run."""
    assert await stage(ledger) == (1, [])
    assert (await stage(ledger, FOX))[0] == 2


# --- Single jobs ----------------------------------------------------------------------------------


async def test_a_job_is_added_once(ledger: Ledger) -> None:
    """A key that is known gives the job that is there, with its request and state."""
    made = await ledger.add("named-x", FOX)
    assert made == Job(key="named-x", request=FOX, seq=1)
    await play(ledger, made, *to_running())
    again = await ledger.add("named-x", OWL)
    assert (again.request, again.state) == (FOX, State.RUNNING)
    assert len(await ledger.scan(0, 10)) == 1


async def test_added_jobs_belong_to_no_list(ledger: Ledger) -> None:
    """A single job is not of any run, so that no batch takes it for its own."""
    run, _ = await stage(ledger, FOX)
    await ledger.add("named-x", OWL)
    assert [job.request for job in await ledger.page(State.PLANNED, Cursor(), 10, run)] == [FOX]


async def test_getting_a_job(ledger: Ledger) -> None:
    """A job is found under its key; an unknown key is None."""
    made = await ledger.add("named-x", FOX)
    assert await ledger.get("named-x") == made
    assert await ledger.get("named") is None


async def test_finding_by_task(ledger: Ledger) -> None:
    """The job of a task is found by the task's id; ids are compared whole."""
    job = await play(ledger, await ledger.add("k", FOX), *to_running("abc"))
    await ledger.add("planned", OWL)
    assert await ledger.by_task("abc") == job
    assert await ledger.by_task("ab") is None


async def test_finding_by_prefix(ledger: Ledger) -> None:
    """A prefix finds its jobs in order, ten at the most; nothing in it is a wildcard."""
    for key in ("a-1", "a-2", "b_1", "b%1", "B_1", "ä-1"):
        await ledger.add(key, FOX)
    found = {
        p: [job.key for job in await ledger.find(p)] for p in ("a-", "b_", "b%", "ä", "a-2", "c")
    }
    assert found == {
        "a-": ["a-1", "a-2"],
        "b_": ["b_1"],
        "b%": ["b%1"],
        "ä": ["ä-1"],
        "a-2": ["a-2"],
        "c": [],
    }
    for n in range(12):
        await ledger.add(f"many-{n:02}", FOX)
    assert [job.key for job in await ledger.find("many")] == [f"many-{n:02}" for n in range(10)]


# --- Moves ----------------------------------------------------------------------------------------


async def test_a_move_is_recorded(ledger: Ledger) -> None:
    """record() returns the job after the move, and that is what is stored, fact by fact."""
    job = await ledger.add("k", ImageToVideo("лиса", image=URLS[0], batch_size=2))
    expected = job
    moves = [
        lifecycle.intent(AT, 25),
        lifecycle.not_sent(NotSent("dns: ä")),
        *to_running("task-1"),
        lifecycle.held_up(TaskFailed("odd", error_code="x")),
        success(),
        lifecycle.relinked(URLS[:1]),
        lifecycle.file_saved(a_file(1)),
        lifecycle.file_saved(a_file(0)),
        lifecycle.saved(),
    ]
    for move in moves:
        expected = advance(expected, move)
        job = await ledger.record(job, move)
        assert job == expected
        assert await ledger.get("k") == expected
    assert [file.index for file in job.files] == [0, 1]


async def test_the_stored_job_is_what_moves(ledger: Ledger) -> None:
    """A caller with an old copy of a job moves the job as it stands."""
    old = await ledger.add("k", FOX)
    await play(ledger, old, *to_running())
    assert (await ledger.record(old, success())).task_id == "abc"


async def test_an_illegal_move_changes_nothing(ledger: Ledger) -> None:
    """IllegalMove: neither the job nor its history changes, and the ledger goes on."""
    job = await play(ledger, await ledger.add("k", FOX), *to_running())
    with pytest.raises(IllegalMove):
        await ledger.record(job, lifecycle.saved())
    assert await ledger.get("k") == job
    assert len(await ledger.history(job)) == 2
    assert (await ledger.record(job, success())).state is State.SUCCEEDED


async def test_one_illegal_move_disturbs_no_other(ledger: Ledger) -> None:
    """Among many moves at once an illegal one fails alone."""
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(9)]
    await ledger.record(jobs[4], lifecycle.intent(AT, 25))
    results = await asyncio.gather(
        *(ledger.record(job, lifecycle.intent(AT, 25)) for job in jobs), return_exceptions=True
    )
    assert [type(one) for one in results] == [Job] * 4 + [IllegalMove] + [Job] * 4
    assert (await ledger.counts()).by_state == {State.SUBMITTING: 9}
    assert {job.attempts for job in await ledger.scan(0, 10)} == {1}


async def test_a_cancelled_caller_disturbs_no_other(ledger: Ledger) -> None:
    """Callers that stop waiting leave the others' moves, and the ledger, as they should be."""
    jobs = [await ledger.add(f"k{n}", FOX) for n in range(10)]
    tasks = [asyncio.create_task(ledger.record(job, lifecycle.intent(AT, 25))) for job in jobs]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, Job) for one in results[1::2])
    stored = await ledger.scan(0, 10)
    assert all(job.state is State.SUBMITTING for job in stored[1::2])
    assert {job.state for job in stored} <= {State.PLANNED, State.SUBMITTING}
    after = await ledger.record(jobs[1], lifecycle.lost(ReplyLost("x")))
    assert after.state is State.UNRESOLVED


async def test_words_that_are_no_text_can_be_kept(ledger: Ledger) -> None:
    """A message with a byte that is no text (a file's name, say) does not stop the ledger."""
    job = await play(ledger, await ledger.add("k", FOX), *to_running())
    job = await ledger.record(job, lifecycle.held_up(WriteFailed("caf\udce9: disk full")))
    assert job.trouble is not None
    assert job.trouble.message == "caf\udce9: disk full"
    assert await ledger.get("k") == job
    assert len(await ledger.history(job)) == 3


async def test_the_history_of_a_job(ledger: Ledger) -> None:
    """Every event is kept, oldest first, with the state it led to and the facts it brought."""
    other = await ledger.add("other", OWL)
    job = await ledger.add("k", FOX)
    assert await ledger.history(job) == []
    await ledger.record(other, lifecycle.intent(AT, 25))
    job = await play(ledger, job, *to_running(), success(), lifecycle.file_saved(a_file(0)))
    past = await ledger.history(job)
    assert [(one.event, one.state) for one in past] == [
        ("intent", "submitting"),
        ("accepted", "running"),
        ("succeeded", "succeeded"),
        ("file_saved", "succeeded"),
    ]
    assert sorted(one.at for one in past) == [one.at for one in past]
    facts = [json.loads(one.detail or "{}") for one in past]
    assert facts[0] == {"submitted_at": AT.timestamp(), "price": 25}
    assert facts[1] == {"task_id": "abc", "created_at": AT.timestamp()}
    assert facts[2]["urls"] == list(URLS)
    assert facts[3]["file"]["path"] == "лиса_0.png"


async def test_readings_of_the_balance(ledger: Ledger) -> None:
    """A reading keeps the balance beside what the ledger knew; the last ones come back in order."""
    job = await ledger.add("k", FOX)
    await ledger.note_balance(AT, 1000)
    await ledger.record(job, lifecycle.intent(AT, 25))
    await ledger.note_balance(AT, 975)
    await ledger.record(job, lifecycle.accepted("abc", AT))
    await ledger.note_balance(AT, 975)
    assert await ledger.readings(2) == [Reading(AT, 975, 0, 25), Reading(AT, 975, 25, 0)]
    assert (await ledger.readings(9))[0] == Reading(AT, 1000, 0, 0)


async def test_a_job_is_found_by_its_task(ledger: Ledger) -> None:
    """A task's job is found by the task's id; an unknown id is nobody's."""
    job = await ledger.add("k", FOX)
    await play(ledger, job, *to_running())
    found = await ledger.by_task("abc")
    assert found is not None
    assert found.key == "k"
    assert await ledger.by_task("nobody") is None


# --- Reading --------------------------------------------------------------------------------------


async def test_a_page_is_in_order_of_expiry(ledger: Ledger) -> None:
    """Jobs of a state come soonest expiry first, ties and jobs without one in their order."""
    days = [9, 3, None, 3, 1, None]
    for n, day in enumerate(days):
        job = await play(ledger, await ledger.add(f"k{n}", FOX), *to_running())
        if day is not None:
            await ledger.record(job, success(AT + timedelta(days=day)))
    ready = await ledger.page(State.SUCCEEDED, Cursor(), 10)
    assert [job.key for job in ready] == ["k4", "k1", "k3", "k0"]
    assert [job.key for job in await ledger.page(State.RUNNING, Cursor(), 10)] == ["k2", "k5"]
    assert await ledger.page(State.SAVED, Cursor(), 10) == []


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_paging_meets_every_job_once(ledger: Ledger, size: int) -> None:
    """Reading on behind the last job meets each one once, ties at a page's edge included."""
    for n in range(7):
        job = await play(ledger, await ledger.add(f"k{n}", FOX), *to_running())
        await ledger.record(job, success(AT + timedelta(days=n % 2)))
    whole = [job.key for job in await ledger.page(State.SUCCEEDED, Cursor(), 100)]
    met: list[str] = []
    cursor = Cursor()
    while page := await ledger.page(State.SUCCEEDED, cursor, size):
        assert len(page) <= size
        met += [job.key for job in page]
        cursor = Cursor.behind(page[-1])
    assert met == whole == ["k0", "k2", "k4", "k6", "k1", "k3", "k5"]


async def test_scanning_in_parts(ledger: Ledger) -> None:
    """scan() goes through all jobs in their order, from any place."""
    await stage(ledger, *[TextToImage(f"fox {n}") for n in range(5)])
    assert [job.seq for job in await ledger.scan(0, 2)] == [1, 2]
    assert [job.seq for job in await ledger.scan(2, 9)] == [3, 4, 5]
    assert await ledger.scan(5, 9) == []


async def test_scanning_what_has_files(ledger: Ledger) -> None:
    """Jobs without files can be left out, wherever they stand."""
    await stage(ledger, *[TextToImage(f"fox {n}") for n in range(6)])
    for job in (await ledger.scan(0, 9))[1::2]:
        await play(ledger, job, *to_running(), success(), lifecycle.file_saved(a_file(0)))
    assert [job.seq for job in await ledger.scan(0, 2, with_files=True)] == [2, 4]
    assert [job.seq for job in await ledger.scan(4, 2, with_files=True)] == [6]
    assert [job.seq async for job in each_job(ledger, with_files=True)] == [2, 4, 6]
    assert [job.seq async for job in each_job(ledger)] == [1, 2, 3, 4, 5, 6]


async def test_planned_jobs_that_are_alike(ledger: Ledger) -> None:
    """They are told together, each with one of them, and only those that are planned still."""
    video = ImageToVideo("a fox", image=URLS[0])
    await stage(
        ledger, FOX, video, attrs.evolve(OWL, then=["upscale:0,1"]), ExistingTask("t1"), HARE
    )
    await ledger.record((await ledger.scan(0, 1))[0], lifecycle.intent(AT, 25))
    found, behind = await ledger.planned(Cursor(), 99)
    told = {one.request.task_type: (one.request.prompt, one.number) for one in found}
    assert len(told) == len(found)
    assert told.pop("mj_txt2img") in [("an owl", 2), ("a hare", 2)]
    assert told == {"mj_video": ("a fox", 1), "mj_upscale": ("an owl", 2), "": ("", 1)}
    assert await ledger.planned(behind, 99) == ([], behind)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 99])
async def test_a_survey_in_parts(
    ledger: Ledger, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are read at a time, each planned job is counted once."""
    monkeypatch.setattr(base, "SURVEYED", size)
    await stage(ledger, *[TextToImage(f"fox {n}", raw=n % 2 == 0) for n in range(6)])
    counted: Counter[object] = Counter()
    async for one in each_alike(ledger):
        assert isinstance(one.request, TextToImage)
        counted[one.request.raw] += one.number
    assert counted == {True: 3, False: 3}


async def test_counting(ledger: Ledger) -> None:
    """Counts tell the jobs of each state, and the files, bytes and credits of all."""
    assert await ledger.counts() == Counts({})
    await stage(ledger, FOX, OWL, HARE)
    fox, owl, _ = await ledger.scan(0, 3)
    saved = [lifecycle.file_saved(a_file(n, size=100 + n)) for n in range(2)]
    await play(ledger, fox, *to_running(), success(), *saved, lifecycle.saved())
    await play(ledger, owl, *to_running(), lifecycle.failed(TaskFailed("nsfw")))
    assert await ledger.counts() == Counts(
        {State.SAVED: 1, State.FAILED: 1, State.PLANNED: 1}, files=2, bytes=201, credits=25
    )


async def test_a_dropped_job_leaves_no_trace_in_memory() -> None:
    """What nothing asks for again can be dropped; its place is not given to another job."""
    ledger = MemoryLedger()
    first, second = [await ledger.add(key, FOX) for key in ("a", "b")]
    await ledger.record(first, lifecycle.intent(AT, 25))
    ledger.drop("a")
    ledger.drop("a")
    third = await ledger.add("c", FOX)
    assert [second.seq, third.seq] == [2, 3]
    assert await ledger.scan(0, 9) == [second, third]
    assert (await ledger.get("a"), await ledger.history(first)) == (None, [])


async def test_no_order_without_an_expiry() -> None:
    """A job without an expiry comes after every job with one."""
    job = Job(key="k", request=FOX)
    assert urgency(job) == FAR_FUTURE > datetime.max.replace(tzinfo=UTC).timestamp()
    assert Cursor.behind(attrs.evolve(job, seq=4, expires_at=AT)) == Cursor(AT.timestamp(), 4)


async def test_a_task_not_seen_to_end_is_urgent_by_its_creation() -> None:
    """Its results live for 14 days from some time after that; the earliest end counts."""
    job = Job(key="k", request=FOX, created_at=AT)
    assert urgency(job) == (AT + timedelta(days=14)).timestamp()
