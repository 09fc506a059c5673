"""The simulated service's decisions, without a socket or a clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from kie_mj_async.simulator import Faults, World
from kie_mj_async.simulator.contract import EXTEND, GENERATE, UPSCALE, VARY
from kie_mj_async.simulator.verdicts import Answer

TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}
DAY = 86_400.0


def a_world(faults: str = "", **options: Any) -> World:
    return World(faults=Faults.parse(faults), **options)


def create(world: World, now: float, **options: Any) -> Answer:
    return world.create(GENERATE, dict(TEXT), now, **options)


def accepted(world: World, now: float = 1000.0) -> str:
    task_id = create(world, now).task_id
    assert task_id is not None
    return task_id


def test_the_window_rolls() -> None:
    """20 creates pass in 10 s, the 21st does not, and the first to leave makes room for one."""
    world = a_world()
    codes = [create(world, 1000 + number * 0.1).code for number in range(22)]
    assert codes == [200] * 20 + [429] * 2
    assert create(world, 1009.99).code == 429
    assert create(world, 1010).code == 200
    assert create(world, 1010.05).code == 429
    books = world.books(1010.05)
    assert books["refused_429_window"] == 4
    assert books["most_in_window"] == 20
    assert books["most_requests_in_window"] == 24
    assert books["accepted"] == 21


def test_refused_creates_take_no_room() -> None:
    """What is refused is neither charged nor counted into the window."""
    world = a_world("create.429=#1+2+3")
    for number in range(5):
        world.create(GENERATE, {"taskType": "mj_txt2img"}, 1000 + number)
    for number in range(20):
        assert create(world, 1006 + number * 0.01).code == 200
    assert world.books(1007)["credits"] == 100_000 - 20 * 25


def test_the_window_is_scaled() -> None:
    """The time scale shrinks the window with everything else."""
    world = a_world(time_scale=0.01, rate=(2, 10.0))
    assert [create(world, at).code for at in (5, 5.01, 5.05, 5.1)] == [200, 200, 429, 200]
    assert world.books(6)["window_seconds"] == pytest.approx(0.1)


def test_only_so_many_run_at_once() -> None:
    """Above the running cap creates are refused until a task has ended."""
    world = a_world(max_running=2)
    first = accepted(world)
    accepted(world)
    assert create(world, 1001).message.startswith("Too many tasks")
    world.finish(first)
    assert create(world, 1002).code == 200
    books = world.books(1003)
    assert (books["refused_429_running"], books["most_running"], books["running"]) == (1, 2, 2)


def test_credits_run_out() -> None:
    """Without the credits for another task a create is refused, code 402."""
    world = a_world(credits=60)
    assert [create(world, 1000).code for _ in range(3)] == [200, 200, 402]
    assert world.books(1000)["credits"] == 10


def test_wrong_keys_and_bodies() -> None:
    """An unknown key is 401 and an invalid body 422; faults do not hide either."""
    world = a_world("create.slow=1")
    assert create(world, 1, known_key=False).code == 401
    answer = world.create(GENERATE, {"prompt": "a fox"}, 1)
    assert (answer.code, answer.fault) == (422, None)
    assert "taskType" in answer.message
    assert world.books(1)["faults"] == {}


def test_tasks_end_in_time() -> None:
    """A task runs until its time has come, and keeps its files for 14 days."""
    world = a_world()
    task_id = accepted(world)
    assert world.tasks[task_id].state == "running"
    name = world.tasks[task_id].files("jpeg")[0]
    assert world.stored(name, 1010) is None
    ends = world.tasks[task_id].completes
    world.advance(ends)
    assert world.tasks[task_id].state == "succeeded"
    assert world.stored(name, ends + 14 * DAY - 1) is not None
    assert world.stored(name, ends + 14 * DAY) is None


def test_failures_are_not_charged() -> None:
    """A task is charged when it is accepted; the credits come back when it fails."""
    world = a_world("task.fail=#1,task.fail-create=#2")
    ids = [accepted(world) for _ in range(3)]
    assert world.books(1000)["charged_total"] == 75
    books = world.books(2000)
    assert [world.tasks[one].state for one in ids] == ["failed", "failed", "succeeded"]
    assert (books["charged_total"], books["refunded_total"]) == (25, 50)
    assert [books["tasks"][one]["fault"] for one in ids] == ["fail", "fail-create", None]
    assert books["faults"] == {"task.fail": 1, "task.fail-create": 1}


def test_stuck_slow_and_late_tasks() -> None:
    """A stuck task never ends, a slow one takes ten times as long, a late one is unknown at first."""
    world = a_world("task.stuck=#1,task.slow=#2,task.late-record=#3")
    stuck, slow, late = (accepted(world) for _ in range(3))
    assert world.poll(late, 1019).task is None
    assert world.poll(late, 1021).task is not None
    world.advance(1400)
    assert world.tasks[slow].state == "running"
    world.advance(1_000_000)
    assert world.tasks[slow].state == "succeeded"
    assert world.tasks[stuck].state == "running"
    world.finish(stuck)
    assert world.tasks[stuck].state == "succeeded"


def test_poking() -> None:
    """Tests can end a task early either way, and delete its results; the second end is nothing."""
    world = a_world()
    good, bad = accepted(world), accepted(world)
    world.finish(good)
    world.fail(good)
    world.fail(bad)
    assert [world.tasks[one].state for one in (good, bad)] == ["succeeded", "failed"]
    assert world.books(1000)["charged_total"] == 25
    world.expire(good)
    assert world.stored(world.tasks[good].files("jpeg")[0], 1001) is None
    assert world.books(1001)["tasks"][good]["expired"]
    with pytest.raises(KeyError):
        world.finish("nobody")


def test_follow_ups_build_on_results() -> None:
    """A follow-up is refused until its parent has results."""
    world = a_world()
    parent = accepted(world)
    body = {"taskId": parent, "imageIndex": 1}
    assert world.create(UPSCALE, body, 1001).code == 422
    world.finish(parent)
    answer = world.create(UPSCALE, body, 1002)
    assert answer.task_id is not None
    assert len(world.tasks[answer.task_id].source) == 1


def test_follow_ups_are_paid_and_counted_like_creates() -> None:
    """A follow-up is charged, takes a place in the window and one among the running tasks."""
    world = a_world(rate=(3, 10.0), max_running=1)
    parent = accepted(world)
    world.finish(parent)
    body = {"taskId": parent, "imageIndex": 0}
    assert world.create(UPSCALE, body, 1001).code == 200
    assert world.create(VARY, body, 1001).message.startswith("Too many tasks")
    for task_id in list(world.tasks):
        world.finish(task_id)
    assert world.create(VARY, body, 1002).code == 200
    for task_id in list(world.tasks):
        world.finish(task_id)
    assert world.create(UPSCALE, body, 1003).message.startswith("Your call frequency")
    books = world.books(1003)
    assert (books["charged_total"], books["accepted"]) == (75, 3)
    assert (books["refused_429_window"], books["refused_429_running"]) == (1, 1)


def test_follow_ups_of_follow_ups() -> None:
    """An upscale has one image, a variation four, an extended video one; each can be built on."""
    world = a_world(rate=(99, 10.0))
    film = {"taskType": "mj_video", "prompt": "a", "motion": "low", "fileUrl": "https://x.org/a"}

    def made(path: str, body: dict[str, Any]) -> str | None:
        task_id = world.create(path, body, 1000).task_id
        if task_id is not None:
            world.finish(task_id)
        return task_id

    def follow(path: str, parent: str | None, index: int) -> str | None:
        auto = {"index": index, "taskType": "mj_video_extend_auto"}
        return made(path, {"taskId": parent} | (auto if path == EXTEND else {"imageIndex": index}))

    varied = follow(VARY, made(GENERATE, TEXT), 3)
    larger = follow(UPSCALE, varied, 3)
    assert follow(VARY, larger, 0)
    assert follow(UPSCALE, larger, 1) is None
    videos = made(GENERATE, film | {"videoBatchSize": 2})
    longer = follow(EXTEND, videos, 1)
    assert follow(EXTEND, longer, 0)
    assert follow(EXTEND, longer, 1) is None
    assert follow(EXTEND, videos, 2) is None
    assert follow(EXTEND, varied, 0) is None
    assert follow(UPSCALE, videos, 0) is None
    world.expire(videos or "")
    assert follow(EXTEND, videos, 0) is None


def test_own_links_die_before_the_files() -> None:
    """A day after its end a result is fetched by a fresh link only, and no fault is spent on it."""
    world = a_world("download.500=1")
    task_id = accepted(world)
    world.finish(task_id)
    name = world.tasks[task_id].files("jpeg")[0]
    assert (world.download(name, 1000 + DAY - 1).dead, world.books(0)["faults"]) == (
        False,
        {"download.500": 1},
    )
    look = world.download(name, 1000 + DAY)
    assert (look.dead, look.fault, look.task is not None) == (True, None, True)
    assert not world.download(name, 1000 + DAY, fresh=True).dead


def test_seeds_repeat() -> None:
    """Equal seeds give equal ids, durations and faults, whatever the order of the polls."""

    def run(seed: int, order: int) -> list[object]:
        world = a_world("create.500=30%,poll.500=30%,task.fail=30%", seed=seed, rate=(99, 10.0))
        ids = [one for one in (create(world, 1000).task_id for _ in range(20)) if one]
        polled = {(one, turn): None for turn in range(3) for one in ids[::order]}
        faults = {key: world.poll(key[0], 1001).fault for key in polled}
        tasks = [(one.id, one.completes, one.verdict) for one in world.tasks.values()]
        return [tasks, sorted(faults.items(), key=str)]

    assert run(1, 1) == run(1, -1)
    assert run(1, 1) != run(2, 1)


def test_faults_of_a_create_decide_about_money() -> None:
    """A fault either refuses a create for free or spoils the answer to one that is charged."""
    for kind, charged in {"500": False, "drop": False, "500-charged": True, "stall": True}.items():
        world = a_world(f"create.{kind}=#1")
        answer = create(world, 1000)
        assert (answer.fault, answer.task_id is not None) == (kind, charged)
        entry = world.books(1000)["creates"][0]
        assert (entry["fault"], entry["charged"]) == (kind, charged)
        assert world.credits == 100_000 - 25 * charged


def test_retry_after_names_the_wait() -> None:
    """With the modifier, a 429 says when the window has room again, in whole seconds."""
    world = a_world("create.retry-after=1", rate=(1, 10.0))
    assert create(world, 1000).retry_after is None
    assert create(world, 1003.5).retry_after == 7


def test_a_redirected_create_is_taken() -> None:
    """A create that comes by the redirect's target is accepted, and the books tell its path."""
    world = a_world("create.redirect=1")
    assert create(world, 1000).fault == "redirect"
    assert create(world, 1000, route="/elsewhere" + GENERATE).code == 200
    first, second = world.books(1000)["creates"]
    assert (first["code"], first["task_id"]) == (307, None)
    assert second["path"].startswith("/elsewhere/")


def test_fresh_links_run_out() -> None:
    """A fresh link is for one file and 20 minutes, and cannot be made up."""
    world = a_world(time_scale=0.5)
    token = world.fresh_token("a.jpeg", 1000)
    assert world.is_fresh(token, "a.jpeg", 1599)
    assert not world.is_fresh(token, "a.jpeg", 1601)
    assert not world.is_fresh(token, "b.jpeg", 1001)
    assert not world.is_fresh("²-x", "a.jpeg", 1001)
    assert not world.is_fresh("9" * 20 + "-x", "a.jpeg", 1001)


def test_events_bring_a_world_back() -> None:
    """Applying the events of one world to another makes them equal, mid-flight and in the end."""
    events: list[Mapping[str, Any]] = []
    spec = "create.500-charged=20%,poll.500=20%,task.fail=20%,task.stuck=#2,task.slow=#3"
    first = a_world(spec, record=events.append, credits=900, seed=3)
    first.open(999)
    for number in range(30):
        first.create(GENERATE, dict(TEXT), 1000 + number)
    ids = list(first.tasks)
    for one in ids:
        first.poll(one, 1031)
    first.visit("h", "/m", 1032, key=True)
    first.finish(ids[0])
    first.fail(ids[1])
    first.expire(ids[0])
    first.download(first.tasks[ids[0]].files("jpeg")[0], 1033)

    second = a_world(spec, seed=3)
    for event in json.loads(json.dumps(events)):
        second.apply(event)
    for now in (1033, 1080, 5000):
        assert second.books(now) == first.books(now)
    assert create(second, 6000) == create(first, 6000)
