"""The bodies of the service's answers."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from kie_mj_async.simulator import answers
from kie_mj_async.simulator.contract import GENERATE
from kie_mj_async.simulator.tasks import Task, new_task

BODY: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox", "version": "7"}
LINKS = ["http://h/m/1.jpeg", "http://h/m/2.jpeg"]


def a_task(state: str = "succeeded", verdict: str = "success") -> Task:
    task = new_task(0, 1, GENERATE, BODY, parent=None, fault=None, now=1000.5, time_scale=1)
    task.state, task.verdict = state, verdict
    return task


def test_the_usual_shape() -> None:
    """An envelope, the request as a JSON text, links in an object, epoch milliseconds."""
    answer = answers.record(a_task(), LINKS)
    assert (answer["code"], answer["msg"]) == (200, "success")
    data = answer["data"]
    assert json.loads(data["paramJson"]) == BODY
    assert data["resultInfoJson"] == {"resultUrls": [{"resultUrl": link} for link in LINKS]}
    assert data["successFlag"] == 1
    assert data["createTime"] == 1_000_500
    assert data["completeTime"] > data["createTime"]
    assert data["errorCode"] is None


def test_the_recorded_fields() -> None:
    """The record has the fields that the live service's has, in its order, and no others."""
    assert list(answers.record(a_task(), LINKS)["data"]) == [
        "taskId", "taskType", "paramJson", "completeTime", "resultInfoJson", "successFlag",
        "createTime", "errorCode", "errorMessage",
    ]  # fmt: skip


def test_a_reason_is_told() -> None:
    """A task that could not begin says what was wrong."""
    task = a_task("failed", "fail-create")
    task.reason = "no image"
    assert answers.record(task, LINKS)["data"]["errorMessage"] == "no image"
    assert answers.record(a_task("running"), LINKS)["data"]["errorMessage"] is None


def test_while_it_generates() -> None:
    """A running task has no results and no end yet."""
    data = answers.record(a_task("running"), LINKS)["data"]
    assert data["successFlag"] == 0
    assert data["resultInfoJson"] is None
    assert data["completeTime"] is None


@pytest.mark.parametrize(("verdict", "flag"), [("fail", 2), ("fail-create", 3)])
def test_failures_say_why(verdict: str, flag: int) -> None:
    """A failure has its flag, a code, words, and no results."""
    data = answers.record(a_task("failed", verdict), LINKS)["data"]
    assert data["successFlag"] == flag
    assert data["errorCode"] == 500
    assert data["errorMessage"]
    assert data["resultInfoJson"] is None


def test_the_flat_shape() -> None:
    """No envelope, the request as an object, links as a list, ISO 8601 times."""
    data = answers.record(a_task(), LINKS, "flat")
    assert data["paramJson"] == BODY
    assert data["resultUrls"] == LINKS
    assert "code" not in data
    assert datetime.fromisoformat(data["createTime"]).timestamp() == 1000.5


def test_iso_times() -> None:
    """Times as text in the usual shape; none while there is no end."""
    data = answers.record(a_task(), LINKS, "iso")["data"]
    assert datetime.fromisoformat(data["completeTime"]).tzinfo is not None
    assert answers.record(a_task("running"), LINKS, "iso")["data"]["completeTime"] is None


def test_numbers_as_text() -> None:
    """Flags, times and the code are text, and so is the object of results."""
    answer = answers.record(a_task(), LINKS, "strings")
    data = answer["data"]
    assert answer["code"] == "200"
    assert data["successFlag"] == "1"
    assert data["createTime"] == "1000500"
    assert len(json.loads(data["resultInfoJson"])["resultUrls"]) == 2
    assert answers.record(a_task("running"), LINKS, "strings")["data"]["resultInfoJson"] is None


def test_odd_successes() -> None:
    """A success without links, and a flag nobody has heard of."""
    assert answers.record(a_task(), LINKS, "no-url")["data"]["resultInfoJson"] == {"resultUrls": []}
    assert answers.record(a_task(), LINKS, "unknown-flag")["data"]["successFlag"] == 7
