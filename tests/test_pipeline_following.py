"""The road of a job past its create: waited for, looked at, and saved."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from pipeline_support import FOX, planned, watched
from support import VIRTUAL, Rig, destination, reply, until

from kie_mj_async.archive.downloader import LinkRefused
from kie_mj_async.engine.pipeline import Halt
from kie_mj_async.errors import (
    AuthenticationError,
    DownloadError,
    InvalidRequest,
    KieError,
    LedgerError,
    NotFound,
    RateLimited,
    ReplyLost,
    ResultExpired,
    TaskFailed,
    TaskTimedOut,
    WriteFailed,
)
from kie_mj_async.jobs import Expired, Failed, Job, Pending, Saved, State
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.lifecycle import Event, Move

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return VIRTUAL


async def accepted(rig: Rig, task_id: str) -> Job:
    """A running job from an earlier run."""
    return await rig.accept(await planned(rig), task_id)


async def test_a_failed_task_is_free() -> None:
    """A task that the service could not make fails its job at no cost, and frees its place."""
    rig = Rig()
    rig.service.on_record = lambda task, _n: rig.service.failure(task)
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        outcome = await rig.pipeline.travel(job, destination(Path("nowhere")), 600)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TaskFailed)
    assert outcome.job.credits == 0
    assert rig.admission.running == 0
    assert rig.admission.committed == 0


async def test_a_wait_that_ends_leaves_the_job_running(tmp_path: Path) -> None:
    """A timed-out job is pending, counts in flight for a while, and a later run goes on with it."""
    rig = Rig()
    rig.service.lasts = 500
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 100)
        assert isinstance(outcome, Pending)
        assert isinstance(outcome.error, TaskTimedOut)
        assert outcome.job.state is State.RUNNING
        assert rig.admission.running == 1
        again = await rig.pipeline.travel(outcome.job, destination(tmp_path), 600)
    assert isinstance(again, Saved)
    assert len(rig.service.creates) == 1
    assert rig.admission.running == 0


async def test_a_task_that_is_gone_has_expired(tmp_path: Path) -> None:
    """A running job that the service no longer knows ends as expired."""
    rig = Rig()
    job = await accepted(rig, rig.service.make(FOX).id)
    rig.service.on_record = lambda _t, _n: NotFound("recordInfo is null", code=422)
    await anyio.sleep(3600)
    async with rig.polling():
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 600)
    assert isinstance(outcome, Expired)
    assert isinstance(outcome.error, ResultExpired)
    assert rig.admission.running == 0


async def test_a_refused_key_halts_the_road(tmp_path: Path) -> None:
    """A 401 on a poll halts, and the job keeps its task."""
    rig = Rig()
    job = await accepted(rig, rig.service.make(FOX).id)
    rig.service.on_record = lambda _t, _n: AuthenticationError("no", code=401)
    async with rig.polling():
        with pytest.raises(Halt):
            await rig.pipeline.travel(job, destination(tmp_path), 600)
    stored = await rig.ledger.get("job")
    assert stored is not None
    assert stored.state is State.RUNNING
    assert stored.task_id == job.task_id


async def test_links_that_stay_refused_leave_the_job_pending(tmp_path: Path) -> None:
    """Before its expiry a job whose links are refused is pending, not lost."""
    rig = Rig()
    rig.downloader.on_fetch = lambda url, _n: LinkRefused("403", url=url)
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 600)
        assert isinstance(outcome, Pending)
        assert outcome.job.state is State.SUCCEEDED
        assert len(rig.service.minted) == 4
        rig.downloader.on_fetch = lambda _url, _n: None
        again = await rig.pipeline.travel(outcome.job, destination(tmp_path), 600)
    assert isinstance(again, Saved)


async def test_links_that_stay_refused_after_the_expiry_are_gone(tmp_path: Path) -> None:
    """After 14 days a job whose links are refused has expired."""
    rig = Rig()
    rig.downloader.on_fetch = lambda url, _n: LinkRefused("403", url=url)
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        job = await rig.pipeline.follow(job, 600)
        assert job.expires_at is not None
        completed = job.expires_at - timedelta(days=14)
        assert (rig.clock.now() - completed).total_seconds() < 12
        later = job.expires_at.timestamp() - rig.clock.wall() + 1
        wall = rig.clock.wall
        clock = type(rig.clock)(rig.clock.monotonic, lambda: wall() + later)
        rig.pipeline._clock = clock
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 600)
    assert isinstance(outcome, Expired)


async def test_what_is_saved_is_not_fetched_again(tmp_path: Path) -> None:
    """A job of which one file is on disk fetches only the other."""
    rig = Rig()
    rig.downloader.on_fetch = lambda url, _n: (
        DownloadError("boom", url=url) if "/1" in url else None
    )
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        outcome = await rig.pipeline.travel(job, destination(tmp_path), 600)
        assert isinstance(outcome, Pending)
        assert [file.index for file in outcome.job.files] == [0]
        rig.downloader.fetched.clear()
        rig.downloader.on_fetch = lambda _url, _n: None
        again = await rig.pipeline.travel(outcome.job, destination(tmp_path), 600)
    assert isinstance(again, Saved)
    assert rig.downloader.fetched == ["http://files.test/t1/1"]
    assert len(again.paths) == 2


async def test_a_disk_that_refuses_halts(tmp_path: Path) -> None:
    """When nothing can be written no job could be saved: the road halts, the job keeps its links."""
    rig = Rig()
    rig.downloader.on_fetch = lambda url, _n: WriteFailed("disk full", url=url)
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        with pytest.raises(Halt) as caught:
            await rig.pipeline.travel(job, destination(tmp_path), 600)
    assert isinstance(caught.value.error, WriteFailed)
    stored = await rig.ledger.get("job")
    assert stored is not None
    assert stored.state is State.SUCCEEDED


@pytest.mark.parametrize("event", [Event.SUCCEEDED, Event.FILE_SAVED, Event.SAVED])
async def test_a_ledger_that_fails_later_raises_its_error(tmp_path: Path, event: Event) -> None:
    """A ledger that cannot be written ends the job's road with its own error; nothing is lost."""
    rig = Rig()
    broken = True

    def refuse(_job: Job, move: Move) -> KieError | None:
        return LedgerError("disk full") if broken and move.event is event else None

    watched(rig).on_move = refuse
    async with rig.polling():
        job = await rig.pipeline.submit(await planned(rig))
        with pytest.raises(LedgerError):
            await rig.pipeline.travel(job, destination(tmp_path), 600)
        broken = False
        stored = await rig.ledger.get("job")
        assert stored is not None
        outcome = await rig.pipeline.travel(stored, destination(tmp_path), 600)
    assert isinstance(outcome, Saved)
    assert len(rig.service.creates) == 1


async def test_a_signal_may_hurry_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callback runs in no task, where anyio may not know which loop runs."""
    rig = Rig()

    def unknown() -> float:
        raise RuntimeError("not in a task")

    monkeypatch.setattr(anyio, "current_time", unknown)
    with anyio.CancelScope() as scope:
        rig.pipeline._saves.add(scope)
        asyncio.get_running_loop().call_soon(rig.pipeline.hurry, 10.0)
        await asyncio.sleep(0)
    assert scope.deadline == pytest.approx(rig.now + 10.0)


async def test_saves_get_a_grace(tmp_path: Path) -> None:
    """After ``hurry`` a stopped run's saves may finish within the grace, and no longer."""

    async def stop_while_saving(seconds: float) -> tuple[State, float]:
        rig = Rig()
        rig.downloader.seconds = seconds
        async with rig.polling():
            job = await rig.pipeline.submit(await planned(rig))
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(rig.pipeline.travel, job, destination(tmp_path), 600)
                    await until(lambda: rig.downloader.fetched, 600)
                    began = rig.now
                    rig.pipeline.hurry(10)
                    scope.cancel()
            stored = await rig.ledger.get("job")
        assert stored is not None
        return stored.state, rig.now - began

    assert (await stop_while_saving(8))[0] is State.SAVED
    state, took = await stop_while_saving(30)
    assert state is State.SUCCEEDED
    assert took == pytest.approx(10, abs=0.5)


async def test_several_may_wait_for_one_job() -> None:
    """Two waiters for one job both get its end, and it is written down once."""
    rig = Rig()
    job = await rig.pipeline.submit(await planned(rig))
    ends: list[Job] = []

    async def wait() -> None:
        ends.append(await rig.pipeline.follow(job, 600))

    async with rig.polling(), anyio.create_task_group() as waiters:
        waiters.start_soon(wait)
        waiters.start_soon(wait)
    assert [end.state for end in ends] == [State.SUCCEEDED, State.SUCCEEDED]
    assert rig.service.log.count("succeeded") == 1


async def test_reasons_are_kept() -> None:
    """A job that failed or is unresolved tells why, from the ledger."""
    rig = Rig()
    rig.service.on_create = lambda _n, _r: reply(422)
    job = await rig.pipeline.submit(await planned(rig))
    assert job.trouble is not None
    assert job.trouble.type == InvalidRequest.__name__
    assert job.trouble.code == "422"
    rig.service.on_create = lambda _n, _r: Silence(sent=True, reason="cut")
    job = await rig.pipeline.submit(await planned(rig, "other"))
    assert job.trouble is not None
    assert job.trouble.type == ReplyLost.__name__
    assert RateLimited.__name__ != job.trouble.type
