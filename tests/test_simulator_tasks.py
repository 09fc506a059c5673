"""A task as the simulated service keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kie_mj_async.simulator.contract import EXTEND, GENERATE, UPSCALE, VARY
from kie_mj_async.simulator.tasks import DURATIONS, Task, duration_class, new_task

TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}
VIDEO = TEXT | {"taskType": "mj_video"}


def make(
    body: dict[str, Any],
    path: str = GENERATE,
    *,
    number: int = 1,
    parent: Task | None = None,
    fault: str | None = None,
    time_scale: float = 1.0,
) -> Task:
    return new_task(
        0, number, path, body, parent=parent, fault=fault, now=1000.0, time_scale=time_scale
    )


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (GENERATE, TEXT, "images, fast"),
        (GENERATE, TEXT | {"speed": "relaxed"}, "images, relaxed"),
        (GENERATE, TEXT | {"speed": "turbo"}, "images, turbo"),
        (GENERATE, TEXT | {"prompt": "a fox --oref https://x.org/y"}, "omni"),
        (GENERATE, TEXT | {"taskType": "mj_omni_reference"}, "omni"),
        (GENERATE, TEXT | {"taskType": "mj_style_reference"}, "reference"),
        (GENERATE, VIDEO, "video"),
        (GENERATE, TEXT | {"taskType": "mj_video_hd"}, "video, hd"),
        (UPSCALE, {"taskId": "x", "imageIndex": 0}, "upscale"),
        (VARY, {"taskId": "x", "imageIndex": 0}, "vary"),
        (EXTEND, {"taskId": "x", "taskType": "mj_video_extend_auto"}, "extend"),
    ],
)
def test_each_kind_has_its_class(path: str, body: dict[str, Any], expected: str) -> None:
    """Durations are far apart between classes, so each kind finds its own."""
    assert duration_class(path, body) == expected
    assert expected in DURATIONS


def test_durations_are_tight_and_scaled() -> None:
    """Tasks of a class last about as long as one another; the time scale shrinks all."""
    lasts = [make(TEXT, number=number).completes - 1000 for number in range(1, 60)]
    assert 40 < min(lasts) < 60 < max(lasts) < 80
    assert make(TEXT, time_scale=0.01).completes - 1000 == pytest.approx(lasts[0] / 100)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (TEXT, ["0_0.jpeg", "0_1.jpeg", "0_2.jpeg", "0_3.jpeg"]),
        (VIDEO, ["0_0.mp4"]),
        (VIDEO | {"videoBatchSize": 2}, ["0_0.mp4", "0_1.mp4"]),
    ],
)
def test_results_have_names(body: dict[str, Any], names: list[str]) -> None:
    """Four pictures, or as many videos as were asked for."""
    task = make(body)
    assert list(task.files("jpeg")) == [f"{task.id}_{name}" for name in names]


def test_an_upscale_has_its_parents_picture() -> None:
    """An upscale shows the chosen picture, a variation shows new ones; both keep the shape."""
    parent = make(TEXT | {"aspectRatio": "16:9"})
    body = {"taskId": parent.id, "imageIndex": 2}
    larger = make(body, UPSCALE, number=2, parent=parent)
    assert larger.source == (parent.source[2],)
    assert larger.enlarged
    assert larger.shape == (16, 9)
    varied = make(body, VARY, number=3, parent=parent)
    assert len(varied.source) == 4
    assert not set(varied.source) & set(parent.source)
    assert varied.prompt == "a fox"
    assert {larger.task_type, varied.task_type} == {"mj_upscale", "mj_vary"}


def test_extending_makes_one_video() -> None:
    """An extended video is one video, with its own prompt if it has one."""
    body = {"taskId": "x", "index": 0, "taskType": "mj_video_extend_manual", "prompt": "go on"}
    task = make(body, EXTEND, parent=make(VIDEO), number=2)
    assert task.video
    assert len(task.source) == 1
    assert task.prompt == "go on"


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (TEXT, (1, 1)),
        (TEXT | {"aspectRatio": "2:3"}, (2, 3)),
        (TEXT | {"prompt": "a fox --ar 3:4 --v 7"}, (3, 4)),
        (TEXT | {"prompt": "a fox --ar 3:0"}, (1, 1)),
        (TEXT | {"prompt": "a fox --ar 100:1"}, (1, 1)),
    ],
)
def test_shapes(body: dict[str, Any], shape: tuple[int, int]) -> None:
    """The field counts, then a sensible flag in the prompt, else a square."""
    assert make(body).shape == shape


def test_a_task_that_cannot_begin_fails() -> None:
    """What is wrong with the images of a create decides its end, and is told."""
    task = new_task(
        0, 1, GENERATE, TEXT, parent=None, fault="slow", now=0, time_scale=1, reason="no image"
    )
    assert (task.verdict, task.reason, task.fault) == ("fail-create", "no image", "slow")


def test_a_journal_of_an_older_simulator_is_read() -> None:
    """Facts that were not kept yet have their defaults."""
    kept = make(TEXT).to_json()
    del kept["reason"]
    assert Task.from_json(kept) == make(TEXT)


def test_own_links_work_for_a_day() -> None:
    """The links that record-info tells end after 24 h, scaled; the file stays longer."""
    task = make(TEXT)
    task.state = "succeeded"
    assert task.linked(task.completes + 43_199, 0.5)
    assert not task.linked(task.completes + 43_200, 0.5)
    assert task.stored(task.completes + 86_400, 14 * 86_400)


@pytest.mark.parametrize("fault", [None, "stuck", "slow", "fail", "fail-create", "late-record"])
def test_a_journal_keeps_every_fact(fault: str | None) -> None:
    """A task comes back from JSON as it was, a stuck one too."""
    task = make(TEXT, fault=fault)
    assert Task.from_json(json.loads(json.dumps(task.to_json(), allow_nan=False))) == task


def test_ids_repeat() -> None:
    """Ids are 32 hexadecimal digits that depend on seed and number alone."""
    ids = {make(TEXT, number=number).id for number in range(1, 50)}
    assert len(ids) == 49
    assert all(len(one) == 32 and int(one, 16) for one in ids)
    assert make(VIDEO).id == make(TEXT).id
