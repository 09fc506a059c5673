"""A run over a ledger: the whole list, once, with bounded memory, wherever the last run stopped."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections import Counter
from datetime import timedelta
from pathlib import Path

import anyio
import attrs
import pytest
from support import VIRTUAL, Rig, WatchedLedger, moment, most_in, reply

from kie_mj_async.engine.run import BACKLOG
from kie_mj_async.errors import (
    AuthenticationError,
    BudgetReached,
    InsufficientCredits,
    InvalidRequest,
    KieError,
    LedgerError,
    NotSent,
    WriteFailed,
)
from kie_mj_async.events import JobEnded, Planned
from kie_mj_async.jobs import Failed, Job, Outcome, Pending, Saved, State, Unresolved
from kie_mj_async.ledger import Cursor, SqliteLedger, base
from kie_mj_async.requests import ExistingTask, Request, TextToImage
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.lifecycle import Event, Move
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.rules.wire import Reply

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def prompts(count: int, first: int = 0) -> list[Request]:
    return [TextToImage(f"prompt {number}") for number in range(first, first + count)]


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


async def running_job(
    rig: Rig, request: Request, *, urls: tuple[str, ...] = (), expires_in: float = 0
) -> Job:
    """A job that an earlier run has submitted, and seen succeed if it has links."""
    async with rig.ledger.staging() as staging:
        await staging.add([request])
    job = (await rig.ledger.scan(0, 10_000))[-1]
    task = rig.service.make(request)
    job = await rig.accept(job, task.id)
    if urls:
        ends = rig.clock.wall() + expires_in
        move = lifecycle.succeeded(
            urls, created_at=None, completed_at=None, expires_at=moment(ends)
        )
        job = await rig.ledger.record(job, move)
    return job


async def test_a_list_is_saved_once(tmp_path: Path) -> None:
    """Every job is created once and saved, within the window and the places in flight."""
    rig = Rig(in_flight=30)
    outcomes, error = await rig.render(tmp_path, prompts(120))
    assert error is None
    assert kinds(outcomes) == {"Saved": 120}
    assert len(rig.service.creates) == 120
    assert rig.service.most_running <= 30
    assert most_in([at for at, _ in rig.service.creates], 10.0) <= 20
    assert len({request.prompt for _, request in rig.service.creates}) == 120
    # Places bind: 120 jobs of a minute on 30 places take four minutes, and not much more.
    assert rig.now < 4 * 75


async def test_running_again_pays_nothing(tmp_path: Path) -> None:
    """The same list again creates nothing and gives every outcome, told as an earlier one."""
    rig = Rig()
    await rig.render(tmp_path, prompts(10))
    rig.events.clear()
    outcomes, error = await rig.render(tmp_path, prompts(10))
    assert error is None
    assert kinds(outcomes) == {"Saved": 10}
    assert len(rig.service.creates) == 10
    ended = [event for event in rig.events if isinstance(event, JobEnded)]
    assert all(event.earlier for event in ended)
    planned = next(event for event in rig.events if isinstance(event, Planned))
    assert (planned.new, planned.known, planned.cost) == (0, 10, 0)


async def test_an_edited_list_runs_only_what_is_new(tmp_path: Path) -> None:
    """Of an edited list only the new lines are created; the old ones keep their jobs."""
    rig = Rig()
    await rig.render(tmp_path, prompts(6))
    outcomes, _ = await rig.render(tmp_path, prompts(6, first=4))
    assert kinds(outcomes) == {"Saved": 6}
    assert {request.prompt for _, request in rig.service.creates[6:]} == {
        "prompt 6", "prompt 7", "prompt 8", "prompt 9",
    }  # fmt: skip


async def test_the_same_prompt_twice_is_two_jobs(tmp_path: Path) -> None:
    """A line that stands twice in the list is made twice, and only twice however often it runs."""
    rig = Rig()
    for _ in range(2):
        outcomes, _error = await rig.render(tmp_path, [TextToImage("a fox")] * 2)
        assert kinds(outcomes) == {"Saved": 2}
    assert len(rig.service.creates) == 2


async def test_a_bad_entry_costs_nothing(tmp_path: Path) -> None:
    """When an entry far down the list is bad nothing is staged and nothing is sent."""
    rig = Rig()

    def entries() -> object:
        yield from prompts(700)
        raise InvalidRequest("line 701: bad", field="prompt")

    run = rig.run(tmp_path)
    with pytest.raises(InvalidRequest):
        await run.plan(entries())  # type: ignore[arg-type]
    assert (await rig.ledger.counts()).total == 0
    assert rig.service.creates == []


@pytest.mark.parametrize(("code", "kind"), [(401, AuthenticationError), (402, InsufficientCredits)])
async def test_a_refusal_of_the_account_stops_new_creates_only(
    tmp_path: Path, code: int, kind: type[KieError]
) -> None:
    """On a 401 or 402 nothing more is sent, and what runs is still brought home."""
    rig = Rig(rate=Rate(5, 10.0))
    rig.service.on_create = lambda number, _r: reply(code) if number == 12 else None
    outcomes, error = await rig.render(tmp_path, prompts(50))
    assert isinstance(error, kind)
    assert kinds(outcomes) == {"Saved": len(rig.service.tasks)}
    assert 11 <= len(rig.service.creates) <= 15
    counts = await rig.ledger.counts()
    assert counts[State.PLANNED] == 50 - counts[State.SAVED]
    assert counts.total == 50


@pytest.mark.parametrize("places", [1, 100])
async def test_the_cap_on_credits(tmp_path: Path, places: int) -> None:
    """No more is spent than allowed, the rest stays planned, and another run goes on."""
    rig = Rig(max_credits=190, in_flight=places)
    outcomes, error = await rig.render(tmp_path, prompts(20))
    assert isinstance(error, BudgetReached)
    assert kinds(outcomes) == {"Saved": 7}
    assert len(rig.service.creates) == 7
    assert (await rig.ledger.counts())[State.PLANNED] == 13


async def test_the_cap_counts_what_may_have_been_paid(tmp_path: Path) -> None:
    """Unresolved jobs count against the cap, failed ones do not."""
    rig = Rig(max_credits=100, in_flight=1)
    rig.service.on_create = lambda n, _r: Silence(sent=True, reason="cut") if n == 1 else None
    rig.service.on_record = lambda task, _n: (
        rig.service.failure(task) if task.request.prompt == "prompt 1" else None
    )
    outcomes, error = await rig.render(tmp_path, prompts(9))
    assert isinstance(error, BudgetReached)
    # One lost, one failed for nothing, three saved: 100 credits.
    assert kinds(outcomes) == {"Unresolved": 1, "Failed": 1, "Saved": 3}


async def test_an_earlier_runs_failure_gives_this_run_no_credits(tmp_path: Path) -> None:
    """A task paid for by an earlier run that fails now does not widen this run's cap."""
    rig = Rig(max_credits=25)
    await running_job(rig, TextToImage("old"))
    rig.service.on_record = lambda task, _n: (
        rig.service.failure(task) if task.request.prompt == "old" else None
    )
    async with rig.ledger.staging() as staging:
        await staging.add(prompts(3))
    outcomes, error = await rig.render(tmp_path, None)
    assert isinstance(error, BudgetReached)
    assert len(rig.service.creates) == 1
    assert kinds(outcomes) == {"Failed": 1, "Saved": 1}


async def test_an_unreachable_host_ends_the_run(tmp_path: Path) -> None:
    """When the host vanishes the run ends after a minute, and everything can be resumed."""
    rig = Rig(rate=Rate(5, 10.0))
    down = False

    def create(_number: int, _request: Request) -> Reply | Silence | None:
        return Silence(sent=False, reason="no route") if down else None

    rig.service.on_create = create
    rig.service.on_record = lambda _t, _n: NotSent("no route") if down else None

    async with anyio.create_task_group() as tasks:

        async def vanish() -> None:
            nonlocal down
            await anyio.sleep(25)
            down = True

        tasks.start_soon(vanish)
        outcomes, error = await rig.render(tmp_path, prompts(30))
    assert isinstance(error, NotSent)
    assert 25 + 60 <= rig.now <= 25 + 60 + 45
    assert set(kinds(outcomes)) == {"Pending"}
    down = False
    rig.reach.heard()
    outcomes, error = await rig.render(tmp_path, None)
    assert error is None
    assert kinds(outcomes) == {"Saved": 30}
    assert len(rig.service.tasks) == 30


async def test_unresolved_jobs_are_told_and_left_alone(tmp_path: Path) -> None:
    """A lost create is one outcome of its own; running again does not send it again."""
    rig = Rig()
    rig.service.on_create = lambda n, _r: Silence(sent=True, reason="cut") if n == 3 else None
    outcomes, error = await rig.render(tmp_path, prompts(5))
    assert error is None
    assert kinds(outcomes) == {"Saved": 4, "Unresolved": 1}
    lost = next(one for one in outcomes if isinstance(one, Unresolved))
    assert lost.error.billed == "unknown"
    outcomes, _ = await rig.render(tmp_path, prompts(5))
    assert kinds(outcomes) == {"Saved": 4, "Unresolved": 1}
    assert len(rig.service.creates) == 5


async def test_repeat_takes_up_what_an_earlier_run_lost(tmp_path: Path) -> None:
    """With ``on_unknown="repeat"`` the list's unresolved jobs are sent again; others' are not."""
    rig = Rig()
    rig.service.on_create = lambda n, _r: Silence(sent=True, reason="cut") if n <= 2 else None
    await rig.render(tmp_path, prompts(3))
    again = Rig(on_unknown="repeat", ledger=rig.ledger, service=rig.service)
    outcomes, _ = await again.render(tmp_path, [TextToImage("prompt 1"), TextToImage("prompt 2")])
    assert kinds(outcomes) == {"Saved": 2}
    counts = await rig.ledger.counts()
    assert counts.by_state == {State.SAVED: 2, State.UNRESOLVED: 1}


async def test_what_was_lost_may_still_run(tmp_path: Path) -> None:
    """Recently lost creates hold places in flight in the next run, also when they are repeated."""
    rig = Rig()
    rig.service.on_create = lambda n, _r: Silence(sent=True, reason="cut") if n <= 2 else None
    await rig.render(tmp_path, prompts(2))
    again = Rig(on_unknown="repeat", in_flight=3, ledger=rig.ledger, service=rig.service)
    await again.render(tmp_path, prompts(6))
    assert again.service.most_running == 1


async def test_a_crash_inside_a_create_is_unresolved(tmp_path: Path) -> None:
    """A job that was being submitted when the process died is parked by the next run."""
    rig = Rig()
    run = rig.run(tmp_path)
    await run.plan(prompts(2))
    first = (await rig.ledger.scan(0, 1))[0]
    await rig.intend(first)
    outcomes, _ = await rig.render(tmp_path, prompts(2))
    assert kinds(outcomes) == {"Unresolved": 1, "Saved": 1}
    assert [request.prompt for _, request in rig.service.creates] == ["prompt 1"]


async def test_what_is_paid_for_comes_first(tmp_path: Path) -> None:
    """A resume saves what expires soonest first, then waits for what runs, then sends new jobs."""
    rig = Rig(in_flight=1)
    async with rig.ledger.staging() as staging:
        await staging.add(prompts(1))
    for name, expires in [("late", 900), ("soon", 100), ("later", 2000)]:
        urls = (f"http://files.test/{name}",)
        await running_job(rig, TextToImage(name), urls=urls, expires_in=expires)
    # More than may be on the road, so that what comes first shows.
    for number in range(BACKLOG + 5):
        await running_job(rig, TextToImage(f"runs {number}"))
    rig.service.log.clear()
    await rig.render(tmp_path, None)
    assert rig.downloader.fetched[:3] == [
        "http://files.test/soon",
        "http://files.test/late",
        "http://files.test/later",
    ]
    assert rig.service.log.index("file_saved") < rig.service.log.index("succeeded")
    assert rig.service.log.index("succeeded") < rig.service.log.index("POST")


async def test_the_soonest_expiry_comes_first_whatever_is_known(tmp_path: Path) -> None:
    """A task that was never seen to end may be gone sooner than one whose links are known."""
    rig = Rig(in_flight=1)
    for number in range(BACKLOG + 5):
        urls = (f"http://files.test/late {number}",)
        await running_job(rig, TextToImage(f"late {number}"), urls=urls, expires_in=14 * 86400)
    async with rig.ledger.staging() as staging:
        await staging.add([TextToImage("old")])
    (old,) = await rig.ledger.page(State.PLANNED, Cursor(), 9)
    for move in (
        lifecycle.intent(rig.clock.now(), 25),
        lifecycle.accepted("t-old", rig.clock.now() - timedelta(days=1)),
    ):
        old = await rig.ledger.record(old, move)
    seen = [job.prompt async for job in rig.run(tmp_path)._unfinished()]
    assert seen[0] == "old"
    assert len(seen) == BACKLOG + 6


async def test_tasks_made_elsewhere_are_saved_at_no_cost(tmp_path: Path) -> None:
    """A task that exists needs no create, no slot and no credits; what it was made of is told."""
    rig = Rig(max_credits=1)
    made = [rig.service.make(TextToImage(f"elsewhere {n}")) for n in range(3)]
    real = rig.service.truth
    rig.service.on_record = lambda task, _n: attrs.evolve(
        real(task), task_type="mj_txt2img", params={"prompt": task.request.prompt}
    )
    run = rig.run(tmp_path)
    planned = await run.plan([ExistingTask(one.id) for one in (*made, made[0])])
    assert (planned.new, planned.cost, planned.balance) == (3, 0, None)
    outcomes, error = await rig.render(tmp_path, [ExistingTask(one.id) for one in made])
    assert error is None
    assert kinds(outcomes) == {"Saved": 3}
    assert {one.job.prompt for one in outcomes} == {f"elsewhere {n}" for n in range(3)}
    assert rig.service.creates == []
    assert (await rig.ledger.counts()).credits == 0
    again, _ = await rig.render(tmp_path, [ExistingTask(one.id) for one in made])
    assert kinds(again) == {"Saved": 3}
    assert len(rig.downloader.fetched) == 6


async def test_a_slow_reader_holds_back_new_creates(tmp_path: Path) -> None:
    """While nobody takes outcomes, only so many jobs are begun as may be on the road."""
    rig = Rig(in_flight=10, rate=Rate(100, 1.0))
    run = rig.run(tmp_path)
    reading = anyio.Event()

    async def send(_outcome: Outcome) -> None:
        await reading.wait()

    async with rig.polling(), anyio.create_task_group() as tasks:
        await run.plan(prompts(200))
        tasks.start_soon(run.go, send)
        await anyio.sleep(3600)
        assert len(rig.service.creates) == 10 + BACKLOG
        reading.set()
    assert len(rig.service.creates) == 200


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list many times as long needs about the same memory."""
    monkeypatch.setattr(base, "PAGE", 20)

    async def peak(count: int) -> int:
        ledger = await SqliteLedger.open(tmp_path / f"{count}.sqlite3", "test")
        rig = Rig(in_flight=5, rate=Rate(1000, 0.1), ledger=ledger)
        rig.service.on_record = lambda task, _n: rig.service.failure(task)

        async def send(outcome: Outcome) -> None:
            # What the fakes remember is not the engine's.
            rig.service.tasks.pop(outcome.job.task_id or "")
            rig.service.creates.clear()
            rig.service.polls.clear()
            rig.events.clear()

        run = rig.run(tmp_path / str(count))
        async with rig.polling():
            await run.plan(TextToImage(f"{n}") for n in range(count))
            tracemalloc.start()
            await run.go(send)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert (await ledger.counts())[State.FAILED] == count
        await ledger.aclose()
        return most

    await peak(20)
    # What other tests left would make the collector lazy, and garbage count as memory.
    gc.collect()
    gc.freeze()
    # Both are longer than what is on the road, and than the pages in which a ledger is read.
    try:
        short, long = await peak(100), await peak(500)
    finally:
        gc.unfreeze()
    assert long < short * 1.5 + 200_000


@pytest.mark.parametrize("event", [Event.INTENT, Event.ACCEPTED, Event.SUCCEEDED, Event.FILE_SAVED])
async def test_a_ledger_that_cannot_be_written_stops_the_run(
    tmp_path: Path, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends with the ledger's own error, and when the disk is well again it goes on."""
    rig = Rig(rate=Rate(3, 10.0))
    ledger = rig.ledger
    assert isinstance(ledger, WatchedLedger)
    seen = 0

    def refuse(_job: Job, move: Move) -> KieError | None:
        nonlocal seen
        seen += move.event is event
        return LedgerError("disk full") if move.event is event and seen >= 2 else None

    ledger.on_move = refuse
    outcomes, error = await rig.render(tmp_path, prompts(40))
    assert type(error) is LedgerError
    assert len(rig.service.creates) < 40
    lost = 0
    if event is Event.ACCEPTED:
        # Each id that could not be written down is told, however many there are at once.
        told = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
        lost = len(told)
        assert lost == 2
        assert all(task_id in text for task_id, text in zip(("t2", "t3"), told, strict=True))
        assert error.task_id == "t2"
    ledger.on_move = lambda _j, _m: None
    outcomes, error = await rig.render(tmp_path, prompts(40))
    assert error is None
    assert kinds(outcomes) == Counter(Saved=40 - lost, Unresolved=lost)
    assert len(rig.service.creates) == 40
    assert len({request.prompt for _, request in rig.service.creates}) == 40


async def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    """When files cannot be written nothing more is sent, and a later run saves all that is paid."""
    rig = Rig(rate=Rate(3, 10.0))
    rig.downloader.on_fetch = lambda url, _n: WriteFailed("disk full", url=url)
    outcomes, error = await rig.render(tmp_path, prompts(100))
    assert isinstance(error, WriteFailed)
    paid = len(rig.service.creates)
    assert paid < 60
    assert set(kinds(outcomes)) == {"Pending"}
    rig.downloader.on_fetch = lambda _url, _n: None
    outcomes, error = await rig.render(tmp_path, prompts(100))
    assert error is None
    assert kinds(outcomes) == {"Saved": 100}
    assert len(rig.service.creates) == 100


async def test_a_timed_out_job_is_taken_up_again(tmp_path: Path) -> None:
    """Jobs whose wait ended are pending, keep their tasks, and are saved by a later run."""
    rig = Rig()
    rig.service.lasts = 400.0
    outcomes, error = await rig.render(tmp_path, prompts(3), job_timeout=100)
    assert error is None
    assert kinds(outcomes) == {"Pending": 3}
    assert all(isinstance(one, Pending) and one.error.task_id for one in outcomes)
    outcomes, _ = await rig.render(tmp_path, prompts(3))
    assert kinds(outcomes) == {"Saved": 3}
    assert len(rig.service.creates) == 3


async def test_a_resume_takes_whatever_is_left(tmp_path: Path) -> None:
    """Without a list, the ledger's unfinished jobs of every list are gone on with."""
    rig = Rig(max_credits=50)
    await rig.render(tmp_path, prompts(3))
    again = Rig(ledger=rig.ledger, service=rig.service)
    run = again.run(tmp_path)
    planned = await run.plan(None)
    assert (planned.new, planned.known, planned.cost) == (1, 0, 25)
    outcomes, error = await again.render(tmp_path, None)
    assert error is None
    assert kinds(outcomes) == {"Saved": 1}
    assert (await rig.ledger.counts()).by_state == {State.SAVED: 3}


async def test_the_manifest_is_the_ledgers(tmp_path: Path) -> None:
    """After a run the manifest has a line for each file; a torn or lost one comes back."""
    rig = Rig()
    await rig.render(tmp_path, prompts(3))
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(lines) == 6
    assert {line["prompt"] for line in lines} == {f"prompt {n}" for n in range(3)}
    manifest.write_text('{"job": "tor')
    await rig.render(tmp_path, prompts(3))
    again = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert sorted(map(str, again)) == sorted(map(str, lines))


async def test_cancelling_a_run_leaves_no_unknowns(tmp_path: Path) -> None:
    """A run that is cancelled at any moment can be resumed: nothing unresolved, nothing paid twice."""
    for after in (0.05, 0.15, 2, 9.95, 10.05, 30.3, 61, 63.5, 70):
        rig = Rig(rate=Rate(4, 10.0))
        out = tmp_path / str(after)
        with anyio.move_on_after(after) as scope:
            await rig.render(out, prompts(20))
        assert scope.cancelled_caught
        counts = await rig.ledger.counts()
        assert counts[State.UNRESOLVED] == counts[State.SUBMITTING] == 0
        outcomes, error = await rig.render(out, prompts(20))
        assert error is None
        assert kinds(outcomes) == {"Saved": 20}
        assert len(rig.service.creates) == len(rig.service.tasks) == 20


async def test_a_refused_request_is_one_jobs_matter(tmp_path: Path) -> None:
    """A 422 fails its own job and no other."""
    rig = Rig()
    rig.service.on_create = lambda _n, r: reply(422) if r.prompt == "prompt 2" else None
    outcomes, error = await rig.render(tmp_path, prompts(5))
    assert error is None
    assert kinds(outcomes) == {"Saved": 4, "Failed": 1}
    failed = next(one for one in outcomes if isinstance(one, Failed))
    assert failed.job.prompt == "prompt 2"
    assert all(len(one.paths) == 2 for one in outcomes if isinstance(one, Saved))


async def test_a_job_that_succeeds_meanwhile_is_handed_out_once(tmp_path: Path) -> None:
    """A running job whose task ends while others are handed out is on the road already."""
    rig = Rig()
    running = await running_job(rig, TextToImage("a fox"))
    links = ("http://files.test/0", "http://files.test/1")
    await running_job(rig, TextToImage("a wolf"), urls=links, expires_in=20 * 86400)
    handed_out = []
    async for job in rig.run(tmp_path)._unfinished():
        handed_out.append(job.prompt)
        if job.key == running.key:
            expires_at = rig.clock.now() + timedelta(days=30)
            move = lifecycle.succeeded(
                links, created_at=None, completed_at=None, expires_at=expires_at
            )
            await rig.ledger.record(job, move)
    assert handed_out == ["a fox", "a wolf"]
