"""Loggers whose records say what they are about."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support import VIRTUAL, Rig, picture
from told_support import sim_client, simulated, without_waiting

import kie_mj_async
from kie_mj_async.events import CallEnded, Event, JobSubmitted
from kie_mj_async.logs import Ids, about, anew, ids, logger
from kie_mj_async.requests import ImageToImage, Request, TextToImage
from kie_mj_async.rules.billing import Silence

PACKAGE = Path(kie_mj_async.__file__).parent


def test_outside_of_any_work_a_record_is_about_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The ids are there all the same, so that a format may name them."""
    with caplog.at_level(logging.INFO):
        logger("kie_mj_async.somewhere").info("here are %d", 7)
    [record] = caplog.records
    assert record.getMessage() == "here are 7"
    assert (
        vars(record).items()
        >= {
            "kie_batch": None,
            "kie_job": None,
            "kie_task_id": None,
        }.items()
    )
    assert record.name == "kie_mj_async.somewhere"
    assert record.pathname == __file__


def test_ids_add_up_and_go_away(caplog: pytest.LogCaptureFixture) -> None:
    """An inner block knows what the outer one is about; nothing is left behind it."""
    log = logger("kie_mj_async.somewhere")
    with caplog.at_level(logging.INFO), about(batch="renders"), about(job="1-a"):
        with about(task_id="t1"):
            log.info("deep", extra={"more": 1})
        assert ids() == Ids("renders", "1-a")
    assert ids() == Ids()
    [record] = caplog.records
    told = vars(record)
    assert (told["kie_batch"], told["kie_job"], told["kie_task_id"]) == ("renders", "1-a", "t1")
    assert told["more"] == 1


def test_work_that_is_asked_for_in_the_middle_of_other_work_is_about_itself_alone() -> None:
    with about(batch="renders", job="1-a", task_id="t1"):
        with anew(job="2-b"):
            assert ids() == Ids(None, "2-b")
        with anew():
            assert ids() == Ids()
        assert ids() == Ids("renders", "1-a", "t1")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
async def test_a_callbacks_records_are_about_its_job(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the request that brought it was about: it came in a context of its own."""
    rig = Rig(callbacks=True)

    def lose(_number: int, request: Request) -> Silence:
        rig.service.make(request)
        return Silence(sent=True, reason="cut")

    rig.service.on_create = lose
    request = TextToImage("a fox", callback_url="https://example.com/kie")
    job = await rig.pipeline.submit(await rig.ledger.add("1-a", request))
    (task,) = rig.service.tasks.values()
    seen: list[Ids] = []
    read = rig.service.record

    async def record(task_id: str) -> object:
        seen.append(ids())
        return await read(task_id)

    rig.service.record = record  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.INFO), about("a web app's", "9-z", "t9"):
        await rig.callback(task)
    (found,) = (one for one in caplog.records if "found for job" in one.getMessage())
    told = vars(found)
    assert (told["kie_batch"], told["kie_job"], told["kie_task_id"]) == (None, job.key, task.id)
    assert seen == [Ids(None, job.key, task.id)]


@pytest.mark.anyio
async def test_jobs_that_share_an_upload_do_not_share_their_ids(tmp_path: Path) -> None:
    """One of them uploads it and the others wait; each call behind that is its own job's."""
    (tmp_path / "fox.png").write_bytes(picture())
    heard: list[Event] = []
    async with simulated() as sim, sim_client(sim, on_event=heard.append) as client:
        listed = [ImageToImage(f"fox {n}", image=tmp_path / "fox.png") for n in range(4)]
        async for _ in client.render(listed, tmp_path / "out"):
            pass
    calls = [one for one in heard if isinstance(one, CallEnded)]
    keys = {one.job.key for one in heard if isinstance(one, JobSubmitted)}
    assert len(keys) == 4
    assert [one.about.job in keys for one in calls if one.call == "upload"] == [True]
    creates = [one.about for one in calls if one.call == "create"]
    assert {one.job for one in creates} == keys
    assert {one.task_id for one in creates} == {None}


@pytest.mark.anyio
async def test_what_is_started_inside_inherits_them() -> None:
    """Tasks beside each other do not see each other's."""
    seen = []

    async def work(job: str) -> None:
        with about(job=job):
            await anyio.lowlevel.checkpoint()
            seen.append(ids())

    with about(batch="renders"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, "one")
            tasks.start_soon(work, "two")
    assert sorted(one.job or "" for one in seen) == ["one", "two"]
    assert {one.batch for one in seen} == {"renders"}


def test_each_module_has_a_logger_of_its_own_and_no_other() -> None:
    """Its name is the module's, so that levels can be set apart."""
    makers = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r"^log = (.*)$", text, re.MULTILINE):
            assert name == "logger(__name__)", path
            makers.append(path)
        assert "getLogger(__name__)" not in text, path
    assert len(makers) > 20


@pytest.mark.anyio
async def test_every_record_of_a_troubled_run_says_what_it_is_about(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for a job's records finds them by its key, and those of its task by the id."""
    without_waiting(monkeypatch)
    faults = "create.429=#1,create.drop-reply=#2,poll.500=#1,download.503=#1,poll.unknown-flag=#2"
    with caplog.at_level(logging.DEBUG, "kie_mj_async"):
        async with simulated(faults) as sim, sim_client(sim) as client:
            async for _ in client.render([f"fox {n}" for n in range(4)], tmp_path):
                pass
    ours = [one for one in caplog.records if one.name.startswith("kie_mj_async")]
    assert len(ours) > 5
    for record in ours:
        told = vars(record)
        assert told.keys() >= {"kie_batch", "kie_job", "kie_task_id"}
        if "simulator" not in record.name:
            assert told["kie_batch"] == str(tmp_path), record.getMessage()
            assert told["kie_job"], record.getMessage()
        if record.getMessage().startswith("task ") and "accepted" not in record.getMessage():
            assert told["kie_task_id"] in record.getMessage()
