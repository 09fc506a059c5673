"""Runs with chains, local images and callbacks, in virtual time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from support import VIRTUAL, Rig, reply

from kie_mj_async.engine import resolving
from kie_mj_async.engine.run import BACKLOG
from kie_mj_async.errors import InvalidRequest, NotFound, NotSent
from kie_mj_async.events import JobEnded, Planned
from kie_mj_async.jobs import Job, Outcome, Pending, Saved, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.base import PAGE, each_job
from kie_mj_async.requests import ChainStep, ImageToVideo, Request, TextToImage
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.pacing import Rate

pytestmark = pytest.mark.anyio
HOOK = "https://hook.example/x"


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


def chain(name: str = "a fox", *then: str, **fields: object) -> TextToImage:
    return TextToImage(name, then=then or ("upscale:0,1", "video:0"), **fields)  # type: ignore[arg-type]


def kinds(outcomes: Sequence[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


def sent(rig: Rig) -> list[str]:
    return [request.task_type for _, request in rig.service.creates]


async def jobs(rig: Rig) -> list[Job]:
    return [job async for job in each_job(rig.ledger)]


async def charged_once(rig: Rig, *, failed: int = 0) -> None:
    """Every task is one job's, and what it cost is in the ledger."""
    tasks = Counter(job.task_id for job in await jobs(rig) if job.task_id)
    assert tasks == Counter(rig.service.tasks.keys())
    assert (await rig.ledger.counts()).credits == 25 * (len(rig.service.tasks) - failed)


def fail(rig: Rig, *types: str) -> None:
    rig.service.on_record = lambda task, _n: (
        rig.service.failure(task) if task.request.task_type in types else None
    )


def lose(rig: Rig, *numbers: int) -> None:
    """The service accepts these creates, and its replies are lost."""

    def create(number: int, request: Request) -> Silence | None:
        if number not in numbers:
            return None
        rig.service.make(request)
        return Silence(sent=True, reason="cut")

    rig.service.on_create = create


# --- Chains --------------------------------------------------------------------------------------


async def test_a_chain_is_made_step_by_step(tmp_path: Path) -> None:
    """Parents first, each step when its parent has results, each paid once, each its own outcome."""
    rig = Rig()
    outcomes, error = await rig.render(tmp_path, [chain(), TextToImage("an owl")])
    assert error is None
    assert kinds(outcomes) == {"Saved": 5}
    # An upscale has one result in truth; the fake makes two of everything.
    assert sorted(sent(rig)) == ["mj_txt2img", "mj_txt2img", "mj_upscale", "mj_upscale", "mj_video"]
    born = {job.key: rig.service.tasks[job.task_id or ""] for job in await jobs(rig)}
    for job in await jobs(rig):
        if isinstance(job.request, ChainStep):
            parent = born[job.request.parent]
            assert born[job.key].created >= parent.created + parent.lasts
            assert parent.id in repr(born[job.key].request)
    await charged_once(rig)
    planned = next(event for event in rig.events if isinstance(event, Planned))
    assert (planned.new, planned.steps, planned.cost) == (5, 3, 125)


async def test_a_chain_again_pays_nothing(tmp_path: Path) -> None:
    """The same list again creates nothing, and tells every outcome once."""
    rig = Rig()
    await rig.render(tmp_path, [chain()])
    rig.events.clear()
    outcomes, _ = await rig.render(tmp_path, [chain()])
    assert kinds(outcomes) == {"Saved": 4}
    assert len(rig.service.creates) == 4
    assert all(event.earlier for event in rig.events if isinstance(event, JobEnded))


async def test_steps_for_what_was_rendered_before(tmp_path: Path) -> None:
    """Adding steps to a list pays for the steps only; others that left the list are not sent."""
    rig = Rig()
    await rig.render(tmp_path, [TextToImage("a fox")])
    run = rig.run(tmp_path)
    await run.plan([chain("a fox", "vary:1")])
    outcomes, _ = await rig.render(tmp_path, [chain("a fox", "upscale:0")])
    assert kinds(outcomes) == {"Saved": 2}
    assert sent(rig) == ["mj_txt2img", "mj_upscale"]
    planned = [event for event in rig.events if isinstance(event, Planned)]
    assert [(one.new, one.known, one.cost) for one in planned[1:]] == [(1, 1, 25), (1, 1, 25)]
    outcomes, _ = await rig.render(tmp_path, None)  # all that the directory holds
    assert sent(rig)[2:] == ["mj_vary"]
    await charged_once(rig)


@pytest.mark.parametrize("end", ["refused", "failed", "expired"])
async def test_a_failure_fails_what_is_behind_it(tmp_path: Path, end: str) -> None:
    """The steps behind it, and theirs, fail without a create, and say why."""
    rig = Rig()
    if end == "refused":
        rig.service.on_create = lambda _n, _r: reply(422)
    elif end == "failed":
        fail(rig, "mj_txt2img")
    else:
        rig.service.on_record = lambda _t, _n: NotFound("recordInfo is null")
    outcomes, error = await rig.render(tmp_path, [chain()])
    assert error is None
    assert len(rig.service.creates) == 1
    first = outcomes[0].job
    assert first.state is (State.EXPIRED if end == "expired" else State.FAILED)
    assert kinds(outcomes)["Failed"] == 3 + (end != "expired")
    for outcome in outcomes[1:]:
        assert outcome.job.attempts == 0
        assert outcome.job.trouble is not None
        assert "the job before it" in outcome.job.trouble.message
    # An expired one may have been charged.
    assert (await rig.ledger.counts()).credits == (25 if end == "expired" else 0)


async def test_a_step_that_fails_takes_only_its_own_along(tmp_path: Path) -> None:
    """The other branches of a chain go on."""
    rig = Rig()
    rig.service.on_record = lambda task, _n: (
        rig.service.failure(task)
        if task.request.task_type == "mj_upscale" and task.request.given()["index"] == 0
        else None
    )
    outcomes, _ = await rig.render(tmp_path, [chain()])
    assert kinds(outcomes) == {"Saved": 2, "Failed": 2}
    assert sent(rig) == ["mj_txt2img", "mj_upscale", "mj_upscale"]
    await charged_once(rig, failed=1)


async def test_a_result_that_is_missing_fails_its_step(tmp_path: Path) -> None:
    """A step for a result that did not come costs nothing."""
    rig = Rig()
    outcomes, _ = await rig.render(tmp_path, [chain("a fox", "upscale:3")])
    assert kinds(outcomes) == {"Saved": 1, "Failed": 1}
    assert sent(rig) == ["mj_txt2img"]


async def test_retrying_a_parent_plans_its_steps_again(tmp_path: Path) -> None:
    """The steps that had failed with it, unsent, are made after it."""
    rig = Rig()
    fail(rig, "mj_txt2img")
    await rig.render(tmp_path, [chain(), chain("an owl")])
    fail(rig)
    first = (await jobs(rig))[0]
    assert await resolving.decide(rig.ledger, [first.key], "retry", rig.clock.now()) == 1
    outcomes, _ = await rig.render(tmp_path, [chain(), chain("an owl")])
    assert kinds(outcomes) == {"Saved": 4, "Failed": 4}
    assert len(rig.service.creates) == 2 + 4
    assert (await rig.ledger.counts()).credits == 100


async def test_a_retry_that_is_cut_off_can_be_repeated() -> None:
    """Steps are planned before their parent, so that no crash leaves them failed behind it."""
    rig = Rig()
    fail(rig, "mj_txt2img")
    async with rig.ledger.staging() as staging:
        await staging.add([chain()])
    async with rig.polling():
        first = await rig.pipeline.submit((await jobs(rig))[0])
        await rig.pipeline.follow(first, 600)
        for job in (await jobs(rig))[1:]:
            await rig.pipeline.submit(job)
    rig.service.log.clear()
    order: list[str] = []
    real = rig.ledger.record

    async def record(job: Job, move: object) -> Job:
        order.append(job.key)
        return await real(job, move)  # type: ignore[arg-type]

    rig.ledger.record = record  # type: ignore[method-assign]
    await resolving.decide(rig.ledger, [first.key], "retry", rig.clock.now())
    assert len(order) == 4
    assert order[-1] == first.key


async def test_what_is_behind_an_unresolved_job_waits(tmp_path: Path) -> None:
    """Its steps stay planned and are told as pending, with the reason, in each run."""
    rig = Rig()
    lose(rig, 1)
    for earlier in (False, True):
        rig.events.clear()
        outcomes, _ = await rig.render(tmp_path, [chain()])
        assert kinds(outcomes) == {"Unresolved": 1, "Pending": 3}
        parents = {job.key: job for job in await jobs(rig)}
        for outcome in outcomes[1:]:
            assert isinstance(outcome, Pending)
            assert isinstance(outcome.job.request, ChainStep)
            parent = parents[outcome.job.request.parent]
            assert str(outcome.error) == f"waits for job {parent.key}, which is {parent.state}"
        ended = [event for event in rig.events if isinstance(event, JobEnded)]
        assert [event.earlier for event in ended] == [earlier, False, False, False]
    assert len(rig.service.creates) == 1
    # The user decides: its task is found, and the chain goes on.
    first = (await jobs(rig))[0]
    await resolving.adopt(rig.ledger, first.key, "t1", rig.service, rig.pipeline.preparer)
    outcomes, _ = await rig.render(tmp_path, [chain()])
    assert kinds(outcomes) == {"Saved": 4}
    await charged_once(rig)


async def test_giving_up_a_parent_fails_its_steps(tmp_path: Path) -> None:
    """An abandoned parent has no results, and its steps cost nothing."""
    rig = Rig()
    lose(rig, 1)
    await rig.render(tmp_path, [chain()])
    await resolving.decide(rig.ledger, [], "abandon", rig.clock.now())
    outcomes, _ = await rig.render(tmp_path, [chain()])
    assert kinds(outcomes) == {"Abandoned": 1, "Failed": 3}
    assert len(rig.service.creates) == 1


async def test_what_is_behind_a_timeout_goes_on_later(tmp_path: Path) -> None:
    """Steps of a job that is not there in time are pending, and a resume makes them."""
    rig = Rig()
    rig.service.lasts = 4000.0
    outcomes, _ = await rig.render(tmp_path, [chain()], job_timeout=600)
    assert kinds(outcomes) == {"Pending": 4}
    assert [outcome.job.state for outcome in outcomes] == [State.RUNNING] + 3 * [State.PLANNED]
    rig.service.lasts = 60.0
    outcomes, _ = await rig.render(tmp_path, None, job_timeout=7200)
    assert kinds(outcomes) == {"Saved": 4}
    await charged_once(rig)


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
async def test_many_chains_keep_every_place_full(tmp_path: Path, count: int) -> None:
    """Steps that wait hold no place: far more of them than places do not slow a run down."""
    rig = Rig(in_flight=20, rate=Rate(1000, 0.1))
    listed = [chain(f"fox {n}", "upscale:0,1", "video:0") for n in range(count)]
    assert 3 * count > BACKLOG + 20
    outcomes, error = await rig.render(tmp_path, listed)
    assert error is None
    assert kinds(outcomes) == {"Saved": 4 * count}
    await charged_once(rig)
    assert rig.service.most_running == 20
    # Tasks of a minute on 20 places: only what it costs to notice their ends comes on top.
    assert rig.now < 60 * (4 * count / 20) * 1.35
    # Chains are brought to their end, one after another, not all begun and none finished.
    order = [request.task_type for _, request in rig.service.creates]
    assert order.index("mj_video") < 4 * (20 + BACKLOG) + 40


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
async def test_steps_that_wait_need_no_memory(tmp_path: Path) -> None:
    """However many steps wait, only those next and on the road are held, besides a page of the list."""
    count = 200
    ledger = await SqliteLedger.open(tmp_path / "ledger.sqlite3", "test")
    rig = Rig(in_flight=5, rate=Rate(1000, 0.1), ledger=ledger)
    run = rig.run(tmp_path)
    outcomes, alive, line = 0, 0, 0

    async def send(_outcome: Outcome) -> None:
        nonlocal outcomes, alive, line
        outcomes += 1
        line = max(line, len(run._followers._taken))
        rig.events.clear()  # the rig remembers them all
        if outcomes % 100 == 0:
            gc.collect()
            alive = max(alive, sum(isinstance(one, Job) for one in gc.get_objects()))

    async with rig.polling():
        await run.plan(chain(f"{n}") for n in range(count))
        await run.go(send)
    assert (await ledger.counts())[State.SAVED] == outcomes == 4 * count
    assert line <= 3 * (5 + BACKLOG)
    assert alive < PAGE + 4 * (5 + BACKLOG)
    assert 4 * count > 1.5 * (PAGE + 4 * (5 + BACKLOG))
    await ledger.aclose()


async def test_a_stop_in_the_middle_of_chains(tmp_path: Path) -> None:
    """A run that stops early leaves the steps planned, and the next one goes on."""
    rig = Rig(max_credits=50)
    outcomes, error = await rig.render(tmp_path, [chain()])
    assert error is not None
    assert set(kinds(outcomes)) == {"Saved"}
    rest = Rig(ledger=rig.ledger, service=rig.service)
    outcomes, error = await rest.render(tmp_path, None)
    assert error is None
    assert kinds(outcomes) == {"Saved": 2}
    await charged_once(rig)


async def test_a_video_takes_a_link_that_lives(tmp_path: Path) -> None:
    """A step of a job that ended long ago is sent with a fresh link."""
    rig = Rig()
    await rig.render(tmp_path, [TextToImage("a fox")])
    await anyio.sleep(13 * 3600)
    outcomes, _ = await rig.render(tmp_path, [chain("a fox", "video:1")])
    assert kinds(outcomes) == {"Saved": 2}
    _, request = rig.service.creates[1]
    assert isinstance(request, ImageToVideo)
    assert request.image == "http://files.test/t1/1?fresh"


async def test_a_link_that_grew_old_in_the_queue(tmp_path: Path) -> None:
    """What waited long for its turn is made ready anew, so that no minted link is dead when sent."""
    rig = Rig(in_flight=1)
    await rig.render(tmp_path, [TextToImage("a fox")])
    await anyio.sleep(13 * 3600)
    rig.service.lasts = 1300.0
    minted: dict[str, float] = {}

    def mint(url: str) -> str:
        fresh = f"{url}?{len(rig.service.minted)}"
        minted[fresh] = rig.now
        return fresh

    rig.service.on_link = mint
    outcomes, _ = await rig.render(tmp_path, [chain("a fox", "video:0,1")])
    assert kinds(outcomes) == {"Saved": 3}
    for at, request in rig.service.creates[1:]:
        assert isinstance(request, ImageToVideo)
        assert at - minted[str(request.image)] < 300
    assert rig.admission.running == 0


# --- Local images --------------------------------------------------------------------------------

IMAGE = f"input:{'a' * 64}.png"


async def test_a_refused_upload_fails_its_job(tmp_path: Path) -> None:
    """It costs no create and no slot; other jobs go on."""
    rig = Rig()
    rig.service.on_upload = lambda _name: InvalidRequest("image: not taken")
    listed = [ImageToVideo("a fox", image=IMAGE), TextToImage("an owl")]
    outcomes, error = await rig.render(tmp_path, listed)
    assert error is None
    assert kinds(outcomes) == {"Failed": 1, "Saved": 1}
    assert len(rig.service.creates) == 1
    failed = next(one for one in outcomes if not isinstance(one, Saved))
    assert (failed.job.attempts, failed.job.credits) == (0, 0)


async def test_an_upload_host_that_does_not_answer_stops_the_run(tmp_path: Path) -> None:
    """The jobs stay planned, and the next run sends them."""
    rig = Rig()
    rig.service.on_upload = lambda _name: NotSent("no route to the upload host")
    listed = [ImageToVideo(f"fox {n}", image=IMAGE) for n in range(5)]
    outcomes, error = await rig.render(tmp_path, listed)
    assert isinstance(error, NotSent)
    assert outcomes == []
    assert rig.service.creates == []
    assert (await rig.ledger.counts()).by_state == {State.PLANNED: 5}
    rig.service.on_upload = lambda name: f"http://up.test/{name}"
    outcomes, error = await rig.render(tmp_path, listed)
    assert error is None
    assert kinds(outcomes) == {"Saved": 5}
    assert all("http://up.test/" in repr(request) for _, request in rig.service.creates)
