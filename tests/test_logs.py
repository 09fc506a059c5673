"""Loggers whose records say what they are about."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support import sim_client, simulated

import kie_mj_async
from kie_mj_async.logs import Ids, about, ids, logger

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
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Whoever looks for a job's records finds them by its key, and those of its task by the id."""
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
