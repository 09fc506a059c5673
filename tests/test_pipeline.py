"""The road of a job: what is written down, in which order, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import anyio
import attrs
import pytest
from pipeline_support import FOX, planned, watched
from support import VIRTUAL, Rig, WatchedLedger, destination, reply

from kie_mj_async.account import STALE_AFTER
from kie_mj_async.engine.pipeline import MAX_REPEATS, Halt
from kie_mj_async.engine.resolving import recover
from kie_mj_async.errors import (
    AuthenticationError,
    BudgetReached,
    InsufficientCredits,
    KieError,
    LedgerError,
    NotSent,
)
from kie_mj_async.events import CreatesPaused, FileSaved, JobSubmitted, JobSucceeded
from kie_mj_async.jobs import Job, Saved, State
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.callbacks import token_of
from kie_mj_async.rules.lifecycle import Event, IllegalMove, Move
from kie_mj_async.rules.wire import Reply

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


# --- Submitting ----------------------------------------------------------------------------------


async def test_the_order_of_things(tmp_path: Path) -> None:
    """The slot, the durable intent, the POST, the durable id, and only then anything else."""
    rig = Rig()
    log = rig.service.log
    real = rig.window.take

    async def take(*, only_if_empty: bool = False) -> object:
        log.append("slot")
        return await real(only_if_empty=only_if_empty)

    rig.window.take = take  # type: ignore[method-assign, assignment]
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        assert log == ["slot", "intent", "POST", "accepted"]
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 600)
    assert log[4:] == ["succeeded", "file_saved", "file_saved", "saved"]
    assert isinstance(outcome, Saved)
    assert [path.read_bytes() for path in outcome.paths] == [
        b"http://files.test/t1/0",
        b"http://files.test/t1/1",
    ]
    told = [type(event) for event in rig.events]
    assert told == [JobSubmitted, JobSucceeded, FileSaved, FileSaved]
    assert outcome.job.credits == 25


@pytest.mark.parametrize("code", [429, 455])
async def test_refused_for_now_comes_again(code: int) -> None:
    """A 429 or 455 takes the job back to planned, durably, and later it is sent again."""
    rig = Rig()
    rig.service.on_create = lambda number, _r: reply(code) if number == 1 else None
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.RUNNING
    assert job.attempts == 2
    assert rig.service.log == ["intent", "POST", "refused", "intent", "POST", "accepted"]
    assert rig.service.creates[1][0] - rig.service.creates[0][0] >= 10
    assert rig.admission.committed == 25
    assert any(isinstance(event, CreatesPaused) for event in rig.events)


async def test_not_sent_comes_again() -> None:
    """A create that provably was not sent is sent again, with back-off."""
    rig = Rig()
    rig.service.on_create = lambda n, _r: Silence(sent=False, reason="refused") if n < 4 else None
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.RUNNING
    assert [entry for entry in rig.service.log if entry == "not_sent"] == ["not_sent"] * 3


async def test_what_waited_too_long_to_be_sent_is_held_back_and_comes_again() -> None:
    """A slow way to the first byte sends nothing, and the job goes on with a new slot."""
    rig = Rig()
    rig.service.connecting = STALE_AFTER + 1

    def recover(_job: Job, move: Move) -> None:
        if move.event is Event.NOT_SENT:
            rig.service.connecting = 0

    assert isinstance(rig.ledger, WatchedLedger)
    rig.ledger.on_move = recover
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.RUNNING
    assert rig.service.log == ["intent", "not_sent", "intent", "POST", "accepted"]
    assert rig.admission.committed == 25


async def test_an_unreachable_host_halts() -> None:
    """After a minute of nothing the job stays planned and no other would be sent."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: Silence(sent=False, reason="no route")
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    assert isinstance(caught.value.error, NotSent)
    job = await rig.ledger.get("job")
    assert job is not None
    assert job.state is State.PLANNED
    assert 60 <= rig.now <= 100


@pytest.mark.parametrize(("code", "kind"), [(401, AuthenticationError), (402, InsufficientCredits)])
async def test_a_refusal_of_the_account_halts(code: int, kind: type[KieError]) -> None:
    """A 401 or 402 leaves the job planned and stops what comes after it."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: reply(code)
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    assert isinstance(caught.value.error, kind)
    job = await rig.ledger.get("job")
    assert job is not None
    assert job.state is State.PLANNED
    assert len(rig.service.creates) == 1


@pytest.mark.parametrize("code", [400, 404, 422, 505])
async def test_a_refusal_of_the_request_fails_the_job(code: int) -> None:
    """The request itself is refused: the job has failed, free of charge, and is not sent again."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: reply(code)
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.FAILED
    assert job.credits == 0
    assert len(rig.service.creates) == 1
    assert rig.admission.committed == 0


UNKNOWN: list[Reply | Silence] = [
    Silence(sent=True, reason="cut"),
    reply(500),
    reply(501),
    reply(200),
    Reply(307, b""),
    Reply(200, b"<html>"),
    Reply(502, b"<html>"),
    Reply(200, b""),
    reply(599),
]


@pytest.mark.parametrize("answer", UNKNOWN, ids=str)
async def test_an_unknown_fate_is_left_to_the_user(answer: Reply | Silence) -> None:
    """Whatever may have been accepted is sent once, and parked."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: answer
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.UNRESOLVED
    assert len(rig.service.creates) == 1
    assert rig.admission.running == 1
    assert rig.admission.committed == 25


async def test_repeating_is_bounded() -> None:
    """With ``on_unknown="repeat"`` a job is sent a few times, each paid for, and then parked."""
    rig = Rig(on_unknown="repeat")
    rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.UNRESOLVED
    assert len(rig.service.creates) == MAX_REPEATS
    assert rig.admission.committed == 25 * MAX_REPEATS


async def test_repeating_ends_with_an_id() -> None:
    """With ``on_unknown="repeat"`` a create that works the second time leads on."""
    rig = Rig(on_unknown="repeat")
    rig.service.on_create = lambda n, _r: Silence(sent=True, reason="cut") if n == 1 else None
    job = await rig.pipeline.submit(await planned(rig))
    assert job.state is State.RUNNING
    assert job.attempts == 2


async def test_repeating_stops_at_the_cap() -> None:
    """Every repeat counts against the cap on credits."""
    rig = Rig(on_unknown="repeat", max_credits=50)
    rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    assert isinstance(caught.value.error, BudgetReached)
    assert len(rig.service.creates) == 2


@pytest.mark.parametrize("after", [0.01, 0.3, 0.5, 0.8, 1.05, 1.3])
async def test_a_create_under_way_is_seen_through(after: float) -> None:
    """Cancelling at any moment leaves a job either unsent, or with its id written down."""
    rig = Rig()
    rig.service.latency = 0.5
    watched(rig).seconds = 0.25
    job = await planned(rig)
    with anyio.move_on_after(after):
        await rig.pipeline.submit(job)
    stored = await rig.ledger.get("job")
    assert stored is not None
    if rig.service.creates:
        assert stored.state is State.RUNNING
        assert stored.task_id == "t1"
    else:
        assert stored.state is State.PLANNED
    assert rig.admission.running == len(rig.service.creates)


@pytest.mark.parametrize("after", [0.0, 5.0])
async def test_cancelled_in_the_queue_nothing_is_sent(after: float) -> None:
    """A job that still waits for its turn when it is cancelled stays planned, unsent."""
    rig = Rig(in_flight=1)
    rig.admission.watched("other")
    with anyio.move_on_after(after):
        await rig.pipeline.submit(await planned(rig))
    stored = await rig.ledger.get("job")
    assert stored is None or stored.state is State.PLANNED
    assert rig.service.creates == []
    assert rig.admission.running == 1


async def test_without_a_durable_intent_nothing_is_sent() -> None:
    """When the intent cannot be written there is no POST, and slot and credits are given back."""
    rig = Rig()
    watched(rig).on_move = lambda _j, _m: LedgerError("disk full")
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    assert isinstance(caught.value.error, LedgerError)
    assert rig.service.creates == []
    assert rig.admission.running == 0
    assert rig.admission.committed == 0


async def test_an_id_that_cannot_be_written_is_told() -> None:
    """When the id of an accepted task cannot be written the error carries it."""
    rig = Rig()
    watched(rig).on_move = lambda _j, move: (
        LedgerError("disk full", path="x") if move.event is Event.ACCEPTED else None
    )
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    error = caught.value.error
    assert isinstance(error, LedgerError)
    assert error.task_id == "t1"
    assert "t1" in str(error)
    assert error.billed == "yes"
    assert error.path == "x"
    assert rig.admission.running == 1
    assert rig.admission.committed == 25


@pytest.mark.parametrize(
    ("event", "answer"),
    [
        (Event.LOST, Silence(sent=True, reason="cut")),
        (Event.REFUSED, reply(429)),
        (Event.REJECTED, reply(422)),
        (Event.NOT_SENT, Silence(sent=False, reason="refused")),
    ],
)
async def test_an_end_that_cannot_be_written_halts(event: Event, answer: Reply | Silence) -> None:
    """When a create's end cannot be written the job is not sent again."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: answer
    watched(rig).on_move = lambda _j, move: LedgerError("full") if move.event is event else None
    with pytest.raises(Halt) as caught:
        await rig.pipeline.submit(await planned(rig))
    assert isinstance(caught.value.error, LedgerError)
    assert len(rig.service.creates) == 1
    stored = await rig.ledger.get("job")
    assert stored is not None
    assert stored.state is State.SUBMITTING


async def test_a_crash_inside_a_create_is_unresolved() -> None:
    """A job with an intent and no end may have been paid: the next run parks it."""
    rig = Rig()
    for number in range(450):
        job = await planned(rig, f"job{number}")
        await rig.intend(job)
    await recover(rig.ledger)
    counts = await rig.ledger.counts()
    assert counts.by_state == {State.UNRESOLVED: 450}
    stored = await rig.ledger.get("job7")
    assert stored is not None
    assert stored.trouble is not None
    assert "may have been accepted" in stored.trouble.message
    assert rig.service.creates == []


# --- Callbacks -----------------------------------------------------------------------------------


async def test_each_create_carries_a_token_of_its_own() -> None:
    """The address that is sent has a fresh token in it; the job keeps the address as it was given."""
    rig = Rig()
    hook = "https://hook.example/x?own=1"
    request = TextToImage("a fox", callback_url=hook)
    rig.service.on_create = lambda n, _r: reply(429) if n == 1 else None
    job = await rig.pipeline.submit(await rig.ledger.add("job", request))
    addresses = [sent.callback_url or "" for _, sent in rig.service.creates]
    tokens = [token_of(address) for address in addresses]
    assert len({*tokens, None}) == 3
    assert addresses[0] == f"{hook}&kmj={tokens[0]}"
    assert job.request == request
    attempts = [await rig.ledger.by_token(token or "") for token in tokens]
    assert [(one.number, one.task_id) for one in attempts if one] == [(1, None), (2, "t1")]


async def test_without_a_callback_there_is_no_token() -> None:
    """Nothing is put into a request that asks for no callback."""
    rig = Rig()
    await rig.pipeline.submit(await planned(rig))
    assert rig.service.creates[0][1] == FOX
    assert await rig.ledger.last_attempt("job") is None


async def test_an_accepted_task_is_not_passed_over_by_another_move() -> None:
    """A job that is moved on while its create is under way is a bug, and loud: the task is paid."""
    rig = Rig()

    def create(_number: int, _request: object) -> None:
        job = watched(rig)._jobs["job"]
        watched(rig)._jobs["job"] = attrs.evolve(job, state=State.ABANDONED)

    rig.service.on_create = create
    with pytest.raises(IllegalMove, match="job job is abandoned: accepted"):
        await rig.pipeline.submit(await planned(rig))
    assert rig.admission._sending == 0
    assert rig.admission.running == 1
