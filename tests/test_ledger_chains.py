"""The contract of a ledger for chains, attempts and uploads, for every store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from ledger_support import HOST, STORES, store

from kie_mj_async.errors import InvalidRequest, NotSent, ReplyLost, TaskFailed
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import Attempt, Ledger, MemoryLedger, SqliteLedger, Staged, memory
from kie_mj_async.requests import ChainStep, ExistingTask, Request, TextToImage
from kie_mj_async.rules import lifecycle, naming
from kie_mj_async.rules.lifecycle import IllegalMove, Move
from kie_mj_async.rules.uploads import Upload

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC)
FOX = TextToImage("a fox")
CHAIN = attrs.evolve(FOX, then=["upscale:0,2", "video:1"])
T1, T2 = "1" * 32, "2" * 32
LOST = lifecycle.lost(ReplyLost("gone"))


@pytest.fixture(params=STORES)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with store(request, tmp_path) as made:
        yield made


async def stage(ledger: Ledger, *requests: Request) -> tuple[int, list[Staged]]:
    async with ledger.staging() as staging:
        return staging.run, await staging.add(requests)


async def play(ledger: Ledger, job: Job, *moves: Move) -> Job:
    for move in moves:
        job = await ledger.record(job, move)
    return job


def intent(token: str | None) -> Move:
    return lifecycle.intent(AT, 25, token)


# --- Chains --------------------------------------------------------------------------------------


async def test_a_chain_is_jobs_of_its_own(ledger: Ledger) -> None:
    """A chain is taken in as its first job and one job a step, parents first, all planned."""
    assert not await ledger.has_chains()
    _, staged = await stage(ledger, CHAIN, TextToImage("an owl"))
    assert [one.state for one in staged] == [State.PLANNED] * 5
    jobs = await ledger.scan(0, 9)
    assert [job.key for job in jobs] == [one.key for one in staged]
    first, zero, two, video, owl = jobs
    assert first.key == naming.digest(FOX)
    assert first.request == FOX
    assert (zero.request, two.request) == (
        ChainStep("upscale", first.key, 0, "a fox"),
        ChainStep("upscale", first.key, 2, "a fox"),
    )
    assert isinstance(video.request, ChainStep)
    assert (video.request.kind, video.request.parent, video.request.index) == ("video", two.key, 0)
    assert owl.request == TextToImage("an owl")
    assert await ledger.has_chains()
    assert await ledger.children(first.key) == [zero, two]
    assert await ledger.children(two.key) == [video]
    assert await ledger.children(zero.key) == await ledger.children("nobody") == []


async def test_the_same_chain_again_is_no_new_job(ledger: Ledger) -> None:
    """A second run meets the jobs of the first, steps included; a longer chain adds its steps."""
    _, first = await stage(ledger, FOX)
    _, staged = await stage(ledger, CHAIN)
    assert staged[0].key == first[0].key
    await play(ledger, (await ledger.scan(0, 1))[0], intent(None), lifecycle.accepted("t1", AT))
    run, again = await stage(ledger, CHAIN)
    assert run == 3
    assert [one.key for one in again] == [one.key for one in staged]
    assert [one.state for one in again] == [State.RUNNING] + 3 * [State.PLANNED]
    assert len(await ledger.scan(0, 99)) == 4


async def test_equal_chains_are_chains_of_their_own(ledger: Ledger) -> None:
    """A chain that is listed twice is made twice, steps and all."""
    _, staged = await stage(ledger, CHAIN, CHAIN)
    assert len({one.key for one in staged}) == 8


async def test_steps_of_a_run(ledger: Ledger) -> None:
    """Steps that an edited list does not hold are no longer of its run."""
    _, staged = await stage(ledger, CHAIN)
    run, _ = await stage(ledger, attrs.evolve(FOX, then=["upscale:2"]))
    assert [job.key for job in await ledger.children(staged[0].key, run)] == [staged[2].key]
    assert len(await ledger.children(staged[0].key)) == 2


async def test_a_chain_that_cannot_be_takes_nothing_in(ledger: Ledger) -> None:
    """An impossible step in the middle of a list leaves the ledger as it was."""
    await stage(ledger, FOX)
    with pytest.raises(InvalidRequest, match="then: upscale:4"):
        await stage(ledger, TextToImage("an owl"), attrs.evolve(FOX, then=["upscale:4"]))
    assert len(await ledger.scan(0, 99)) == 1
    assert not await ledger.has_chains()


# --- Attempts ------------------------------------------------------------------------------------


async def test_an_attempt_is_kept_with_its_intent(ledger: Ledger) -> None:
    """A create with a token is found by it, also when the ledger says no more of the job than that."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1))
    attempt = Attempt(T1, "k", 1, AT, 25)
    assert await ledger.by_token(T1) == await ledger.last_attempt("k") == attempt
    assert await ledger.by_token(T2) is await ledger.last_attempt("nobody") is None
    # What can name a task is not written into the history, which people read.
    assert [json.loads(one.detail or "{}") for one in await ledger.history(job)] == [
        {"submitted_at": AT.timestamp(), "price": 25}
    ]


async def test_without_a_token_there_is_no_attempt(ledger: Ledger) -> None:
    """Creates that nobody will be called back about are not kept."""
    job = await play(ledger, await ledger.add("k", FOX), intent(None))
    assert await ledger.last_attempt("k") is None
    await play(ledger, job, lifecycle.accepted("t1", AT))
    assert await ledger.last_attempt("k") is None


async def test_an_intent_that_cannot_be_leaves_no_attempt(ledger: Ledger) -> None:
    """The attempt is there if its intent is, and only then."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1))
    with pytest.raises(IllegalMove):
        await ledger.record(job, intent(T2))
    assert await ledger.by_token(T2) is None


@pytest.mark.parametrize(
    "move", [lifecycle.accepted("t1", AT), lifecycle.adopted("t1"), lifecycle.adopted("t1", 25, T1)]
)
async def test_what_an_attempt_led_to(ledger: Ledger, move: Move) -> None:
    """A task that is accepted, or found by the user or a callback, ends the last attempt."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1))
    if move.event is lifecycle.Event.ADOPTED:
        job = await ledger.record(job, LOST)
    job = await ledger.record(job, move)
    assert (job.task_id, job.credits) == ("t1", 25)
    assert await ledger.by_token(T1) == Attempt(T1, "k", 1, AT, 25, task_id="t1")


async def test_each_attempt_is_its_own(ledger: Ledger) -> None:
    """A job that is sent again has another attempt; the first one's fate stays as it is."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1), LOST, lifecycle.retried())
    assert await ledger.last_attempt("k") == Attempt(T1, "k", 1, AT, 25)
    await play(ledger, job, intent(T2), lifecycle.accepted("t2", AT))
    assert await ledger.by_token(T1) == Attempt(T1, "k", 1, AT, 25)
    assert await ledger.last_attempt("k") == Attempt(T2, "k", 2, AT, 25, task_id="t2")


async def test_the_first_hint_counts(ledger: Ledger) -> None:
    """A hint is kept until it is dropped; then another one may come."""
    await play(ledger, await ledger.add("k", FOX), intent(T1), LOST)
    assert await ledger.open_hints() == []
    for named in ("t1", "t2"):
        await ledger.note_hint(T1, named)
        assert await ledger.open_hints() == [Attempt(T1, "k", 1, AT, 25, hint="t1")]
    await ledger.note_hint(T1, None)
    assert await ledger.open_hints() == []
    await ledger.note_hint(T1, "t2")
    assert (await ledger.open_hints())[0].hint == "t2"
    await ledger.note_hint(T2, "t3")  # nobody's


async def test_a_hint_is_open_until_its_task_is_a_jobs(ledger: Ledger) -> None:
    """Hints that were used, and those of creates whose reply came after all, are done with."""
    for number, end in enumerate([LOST, lifecycle.accepted("t1", AT)]):
        token = str(number) * 32
        await play(ledger, await ledger.add(f"k{number}", FOX), intent(token))
        await ledger.note_hint(token, f"t{number}")
        assert len(await ledger.open_hints()) == 1 + number
        job = await ledger.get(f"k{number}")
        assert job is not None
        await ledger.record(job, end)
    assert [one.key for one in await ledger.open_hints()] == ["k0"]
    await ledger.record(await ledger.add("k0", FOX), lifecycle.adopted("t0", 25, "0" * 32))
    assert await ledger.open_hints() == []


async def test_a_job_for_a_task_that_was_paid_besides(ledger: Ledger) -> None:
    """It comes to be with its task and its price in one step, and ends the attempt that paid it."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1), LOST, lifecycle.retried())
    await ledger.note_hint(T1, "t1")
    await play(ledger, job, intent(T2), lifecycle.accepted("t2", AT))
    move = lifecycle.adopted("t1", 25, T1)
    extra = await ledger.add("k+1", ExistingTask("t1"), move)
    assert (extra.state, extra.task_id, extra.credits, extra.attempts) == (
        State.RUNNING, "t1", 25, 0,
    )  # fmt: skip
    assert await ledger.get("k+1") == await ledger.by_task("t1") == extra
    assert [one.event for one in await ledger.history(extra)] == ["adopted"]
    assert await ledger.open_hints() == []
    assert await ledger.by_token(T1) == Attempt(T1, "k", 1, AT, 25, task_id="t1", hint="t1")
    assert (await ledger.counts()).credits == 50
    # Again, it is the job that is there.
    done = lifecycle.failed(TaskFailed("nsfw"))
    failed = await ledger.record(extra, done)
    assert await ledger.add("k+1", ExistingTask("t1"), move) == failed


async def test_an_added_job_that_cannot_have_moved_is_not_there(ledger: Ledger) -> None:
    """A move that a new job cannot make adds nothing."""
    with pytest.raises(IllegalMove):
        await ledger.add("k", FOX, lifecycle.saved())
    assert await ledger.get("k") is None


async def test_attempts_outlive_the_process(tmp_path: Path) -> None:
    """What a killed run wrote of its attempts is there when the file is opened again."""
    path = tmp_path / "ledger.sqlite3"
    first = await SqliteLedger.open(path, HOST)
    await play(first, await first.add("k", FOX), intent(T1))
    await first.note_hint(T1, "t1")
    await first.note_upload(Upload("a.png", "https://up.example/a", AT))
    await first.aclose()
    second = await SqliteLedger.open(path, HOST)
    assert await second.open_hints() == [Attempt(T1, "k", 1, AT, 25, hint="t1")]
    assert await second.upload_of("a.png") == Upload("a.png", "https://up.example/a", AT)
    await second.aclose()


async def test_the_callback_of_a_dropped_job_is_known_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that nothing asks for again may still be called back about; memory is bounded."""
    monkeypatch.setattr(memory, "_TOKENS", 3)
    ledger = MemoryLedger()
    for number in range(5):
        job = await ledger.add(f"k{number}", FOX)
        token = f"{number:032x}"
        await play(ledger, job, intent(token), lifecycle.accepted(f"t{number}", AT))
        ledger.drop(job.key)
    known = [await ledger.by_token(f"{number:032x}") for number in range(5)]
    assert [one.task_id if one else None for one in known] == [None, None, "t2", "t3", "t4"]
    assert len(ledger._attempts) == len(ledger._dropped) == 3
    assert ledger._tokens == {}


async def test_a_refused_create_keeps_its_attempt(ledger: Ledger) -> None:
    """A create that was not sent, or refused, led to nothing; the next one is another attempt."""
    job = await play(ledger, await ledger.add("k", FOX), intent(T1))
    await play(ledger, job, lifecycle.not_sent(NotSent("dns")), intent(T2))
    assert (await ledger.last_attempt("k")) == Attempt(T2, "k", 2, AT, 25)
    assert (await ledger.by_token(T1)) == Attempt(T1, "k", 1, AT, 25)


# --- Uploads -------------------------------------------------------------------------------------


async def test_the_last_upload_of_an_image(ledger: Ledger) -> None:
    """Where an image was last uploaded to, and when; unknown ones are None."""
    assert await ledger.upload_of("a.png") is None
    for hours in (0, 23):
        upload = Upload("a.png", f"https://up.example/{hours}", AT + timedelta(hours=hours))
        await ledger.note_upload(upload)
        assert await ledger.upload_of("a.png") == upload
    assert await ledger.upload_of("b.png") is None
