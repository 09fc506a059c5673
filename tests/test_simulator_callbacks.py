"""Which callbacks are due when, what they say, and how they are signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from kie_mj_async.simulator import Faults, World, callbacks
from kie_mj_async.simulator.callbacks import Delivery
from kie_mj_async.simulator.contract import EXTEND, GENERATE, UPSCALE
from kie_mj_async.simulator.tasks import Task, new_task

HERE = "http://127.0.0.1:9/hook?token=abc"
TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox", "callBackUrl": HERE}
VIDEO = {"taskType": "mj_video", "prompt": "a fox", "motion": "low", "fileUrl": "https://x.org/a"}
LINKS = ["http://h/m/1.jpeg", "http://h/m/2.jpeg"]


def a_world(faults: str = "", **options: Any) -> World:
    return World(faults=Faults.parse(faults), **options)


def accepted(world: World, now: float = 1000.0, **changes: Any) -> str:
    task_id = world.create(GENERATE, TEXT | changes, now).task_id
    assert task_id is not None
    return task_id


def take(world: World, now: float, *statuses: int | None) -> list[Delivery]:
    """What is due, delivered with these statuses (200 where there are not enough)."""
    world.advance(now)
    found = world.callbacks.take(now)
    answers = [*statuses, *[200] * len(found)]
    for delivery, status in zip(found, answers, strict=False):
        world.delivered(delivery, now, status=status, error=None)
    return found


def ended(path: str = GENERATE, *, verdict: str = "success", **body: Any) -> Task:
    given = TEXT | body if path == GENERATE else body
    parent = None if path == GENERATE else new_task(
        0, 1, GENERATE, VIDEO, parent=None, fault=None, now=0, time_scale=1
    )  # fmt: skip
    task = new_task(0, 2, path, given, parent=parent, fault=None, now=1000, time_scale=1)
    task.verdict, task.state = verdict, "succeeded" if verdict == "success" else "failed"
    return task


def test_a_task_is_reported_when_it_ends() -> None:
    """One delivery at the task's end, and none for a task that did not ask."""
    world = a_world()
    world.create(GENERATE, {"taskType": "mj_txt2img", "prompt": "a fox"}, 1000)
    task_id = accepted(world)
    assert take(world, 1010) == []
    ends = world.tasks[task_id].completes
    assert world.next_callback() == min(task.completes for task in world.tasks.values())
    (delivery,) = take(world, ends)
    assert delivery == Delivery(task_id, 1, 1, HERE, ends, None, None)
    assert not world.callbacks.busy
    assert take(world, ends + 10_000) == []
    assert world.next_callback() is None


@pytest.mark.parametrize("status", [None, 199, 301, 401, 500, 503])
def test_failed_deliveries_are_tried_again(status: int | None) -> None:
    """Three more times: 1, 5 and 15 minutes after the last one failed; then never."""
    world = a_world(time_scale=0.5)
    task_id = accepted(world)
    now = world.tasks[task_id].completes
    for attempt, wait in enumerate([0, 30, 150, 450], 1):
        assert take(world, now + wait - 0.1) == []
        now += wait
        (delivery,) = take(world, now, status)
        assert delivery.attempt == attempt
    assert not world.callbacks.busy
    told = world.books(now)["callbacks"]
    assert [one["attempt"] for one in told] == [1, 2, 3, 4]
    assert [one["status"] for one in told] == [status] * 4


def test_a_retry_that_arrives_is_the_last() -> None:
    """Any status of the 200s ends it."""
    world = a_world()
    ends = world.tasks[accepted(world)].completes
    take(world, ends, 500)
    assert len(take(world, ends + 60, 204)) == 1
    assert not world.callbacks.busy


@pytest.mark.parametrize("url", ["https://example.com/hook", "http://10.0.0.1/hook"])
def test_other_machines_are_not_sent_to(url: str) -> None:
    """A callback that would leave the machine is noted, and not tried again."""
    world = a_world()
    task_id = accepted(world, callBackUrl=url)
    (delivery,) = take(world, world.tasks[task_id].completes, None)
    assert delivery.withheld == "not an address of this machine"
    assert not world.callbacks.busy
    (entry,) = world.books(3000)["callbacks"]
    assert (entry["url"], entry["withheld"]) == (url, delivery.withheld)


def test_failures_and_poked_ends_are_reported() -> None:
    """A task that fails is reported like one that succeeds, and at once when a test ends it."""
    world = a_world()
    good, bad = accepted(world), accepted(world)
    world.finish(good)
    world.fail(bad)
    assert [one.task_id for one in take(world, 1000)] == [good, bad]


def test_never() -> None:
    """A callback that does not come is in the books alone."""
    world = a_world("callback.never=#1")
    first, second = accepted(world), accepted(world)
    found = {one.task_id: one.withheld for one in take(world, 2000)}
    assert found == {first: "never", second: None}
    assert world.books(2000)["faults"] == {"callback.never": 1}


def test_twice() -> None:
    """The second one follows by a second, and each is tried again by itself."""
    world = a_world("callback.twice=#1")
    ends = world.tasks[accepted(world)].completes
    assert [one.copy for one in take(world, ends, 500)] == [1]
    assert [one.copy for one in take(world, ends + 1)] == [2]
    assert [(one.copy, one.attempt) for one in take(world, ends + 60)] == [(1, 2)]
    assert not world.callbacks.busy
    assert world.books(3000)["faults"] == {"callback.twice": 1}


def test_late() -> None:
    """A late one comes a minute after the end."""
    world = a_world("callback.late=1", time_scale=0.1)
    ends = world.tasks[accepted(world)].completes
    assert take(world, ends + 5.9) == []
    assert len(take(world, ends + 6)) == 1


def test_out_of_order() -> None:
    """It waits until the next one of another task has gone, or for a minute."""
    world = a_world("callback.out-of-order=#1+3")
    first, second, third = (accepted(world) for _ in range(3))
    for one in (first, second):
        world.finish(one)
    assert [one.task_id for one in take(world, 1000)] == [second]
    assert [one.task_id for one in take(world, 1001)] == [first]
    world.finish(third)
    assert take(world, 1060) == []
    assert [one.task_id for one in take(world, 1062)] == [third]


def test_early() -> None:
    """The task ends with its create, which says that its callback goes first."""
    world = a_world("callback.early=#1,task.fail=#1")
    answer = world.create(GENERATE, TEXT, 1000)
    assert answer.early
    assert answer.task_id is not None
    assert world.callbacks.untried(answer.task_id)
    (delivery,) = take(world, 1000, None)
    assert delivery.fault == "early"
    assert world.tasks[answer.task_id].state == "failed"
    assert not world.callbacks.untried(answer.task_id)
    assert not world.create(GENERATE, TEXT, 1000).early


def test_a_stuck_task_is_never_early() -> None:
    """What never ends has no callback to send before the answer."""
    world = a_world("callback.early=1,task.stuck=1")
    assert not world.create(GENERATE, TEXT, 1000).early


def test_faults_go_by_the_creates_that_ask() -> None:
    """Other tasks, and refused creates, do not count."""
    world = a_world("callback.never=#2")
    plain = {"taskType": "mj_txt2img", "prompt": "a fox"}
    bodies = (plain, TEXT, {**TEXT, "prompt": ""}, plain, TEXT)
    ids = [world.create(GENERATE, body, 1000).task_id for body in bodies]
    found = {one.task_id: one.withheld for one in take(world, 2000)}
    assert found == {ids[1]: None, ids[4]: "never"}


def test_events_bring_callbacks_back() -> None:
    """What is open after a restart is what was open before; nothing is forgotten or repeated."""
    events: list[Any] = []
    spec = "callback.twice=#1,callback.out-of-order=#2"
    first = a_world(spec, record=events.append)
    for number in range(5):
        accepted(first, 1000 + number)
    ids = list(first.tasks)
    first.finish(ids[0])
    first.finish(ids[3])
    take(first, 1005, 200, 500)
    second = a_world(spec)
    for event in json.loads(json.dumps(events)):
        second.apply(event)
    for now in (1006, 1040, 1066, 1500, 2000):
        again = take(second, now)
        assert again == take(first, now)
    assert not first.callbacks.busy
    assert second.books(2000) == first.books(2000)
    told = {(one["task_id"], one["copy"]) for one in first.books(2000)["callbacks"]}
    assert told == {(ids[0], 2), *((one, 1) for one in ids)}


def test_what_is_under_way_is_not_taken_again() -> None:
    """A delivery is handed out once, also when another one's end would hurry it."""
    world = a_world("callback.out-of-order=#1")
    first, second = accepted(world), accepted(world)
    world.finish(first)
    assert len(world.callbacks.take(1060)) == 1
    world.finish(second)
    assert [one.task_id for one in world.callbacks.take(2000)] == [second]


def test_the_body_of_a_success() -> None:
    """As documented: the id, the request as a text, the links in a list."""
    task = ended()
    body = callbacks.content(task, LINKS)
    assert (body["code"], body["msg"]) == (200, "success")
    assert json.loads(body["data"].pop("promptJson")) == TEXT
    assert body["data"] == {"taskId": task.id, "resultUrls": LINKS}


@pytest.mark.parametrize("verdict", ["fail", "fail-create"])
def test_the_body_of_a_failure(verdict: str) -> None:
    """As documented: code 500 and no links."""
    task = ended(verdict=verdict)
    assert callbacks.content(task, LINKS) == {
        "code": 500,
        "msg": "Image generation failed",
        "data": {"taskId": task.id, "resultUrls": []},
    }


def test_the_body_of_an_extended_video() -> None:
    """As record-info tells it, with its error code as a text."""
    extend: dict[str, Any] = {
        "taskId": "x",
        "index": 0,
        "taskType": "mj_video_extend_auto",
        "callBackUrl": HERE,
    }
    good = callbacks.content(ended(EXTEND, **extend), LINKS)
    assert (good["code"], good["data"]["successFlag"]) == (200, 1)
    assert good["data"]["resultInfoJson"]["resultUrls"][0] == {"resultUrl": LINKS[0]}
    assert good["data"]["errorCode"] is None
    bad = callbacks.content(ended(EXTEND, verdict="fail", **extend), LINKS)
    assert (bad["code"], bad["data"]["successFlag"]) == (500, 2)
    assert (bad["data"]["errorCode"], bad["data"]["resultInfoJson"]) == ("500", None)


def test_the_other_spelling_of_the_id() -> None:
    """data.task_id stands instead of data.taskId, whatever the shape."""
    for task in (ended(), ended(verdict="fail"), ended(UPSCALE, taskId="x", imageIndex=0)):
        data = callbacks.content(task, LINKS, "task_id")["data"]
        assert data["task_id"] == task.id
        assert "taskId" not in data


def test_signatures() -> None:
    """base64(HMAC-SHA256(key, id + "." + timestamp)), with the timestamp in Unix seconds."""
    found = callbacks.headers("abc", None, "key", 1234.9)
    digest = hmac.new(b"key", b"abc.1234", hashlib.sha256).digest()
    assert found == {
        "X-Webhook-Timestamp": "1234",
        "X-Webhook-Signature": base64.b64encode(digest).decode(),
    }
    assert callbacks.headers("abc", None, None, 1234) == {}


def test_bad_signatures() -> None:
    """A forged one is of another key, a stale one is right for a day ago; both need their fault."""
    right = callbacks.headers("abc", None, "key", 100_000)
    forged = callbacks.headers("abc", "forged", "key", 100_000)
    assert forged["X-Webhook-Timestamp"] == right["X-Webhook-Timestamp"]
    assert forged["X-Webhook-Signature"] != right["X-Webhook-Signature"]
    stale = callbacks.headers("abc", "stale", "key", 100_000)
    assert stale == callbacks.headers("abc", None, "key", 100_000 - 86_400)
    assert "X-Webhook-Signature" in callbacks.headers("abc", "forged", None, 1)
    assert callbacks.headers("abc", "stale", None, 100_000) == {}
