"""What a create may look like."""

from __future__ import annotations

from typing import Any

import pytest

from kie_mj_async.simulator import contract
from kie_mj_async.simulator.contract import EXTEND, GENERATE, UPSCALE, VARY, Parent, complaint

URL = "https://example.com/a.png"
TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}
IMAGE = {"taskType": "mj_img2img", "prompt": "a fox", "fileUrls": [URL]}
REFERENCES = ("mj_img2img", "mj_style_reference")
VIDEO = {"taskType": "mj_video", "prompt": "a fox", "fileUrl": URL, "motion": "high"}
PARENTS = {
    "images": Parent("succeeded", video=False, results=4, stored=True),
    "upscaled": Parent("succeeded", video=False, results=1, stored=True),
    "videos": Parent("succeeded", video=True, results=2, stored=True),
    "running": Parent("running", video=False, results=4, stored=False),
    "failed": Parent("failed", video=False, results=4, stored=False),
    "gone": Parent("succeeded", video=False, results=4, stored=False),
}


def wrong(path: str, body: object) -> str | None:
    return complaint(path, body, PARENTS.get)


@pytest.mark.parametrize(
    "body",
    [
        TEXT,
        TEXT | {"speed": "relaxed", "version": "niji6", "aspectRatio": "16:9"},
        TEXT | {"stylization": 0, "weirdness": 3000, "variety": 100, "waterMark": "me"},
        TEXT | {"enableTranslation": True, "callBackUrl": "https://example.com/hook"},
        TEXT | {"motion": "high", "videoBatchSize": 1},
        TEXT | {"version": None},
        TEXT | {"fileUrls": None, "fileUrl": None},
        TEXT | {"prompt": "x" * 2000},
        IMAGE,
        IMAGE | {"fileUrls": [URL, URL + "2"]},
        IMAGE | {"taskType": "mj_style_reference"},
        IMAGE | {"taskType": "mj_omni_reference", "ow": 500},
        IMAGE | {"taskType": "mj_omni_reference"},
        IMAGE | {"fileUrl": URL + "3"},
        *({**VIDEO, "videoBatchSize": count} for count in (1, 2, 4)),
        VIDEO | {"motion": "low", "fileUrl": None, "fileUrls": [URL]},
        VIDEO | {"fileUrls": [URL]},
        VIDEO,
        VIDEO | {"taskType": "mj_video_hd", "videoBatchSize": 4, "speed": "fast"},
    ],
)
def test_good_bodies_pass(body: dict[str, Any]) -> None:
    """Every task type passes with its own fields, in the official spelling."""
    assert wrong(GENERATE, body) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("no object", "body"),
        ([], "body"),
        ({"prompt": "a fox"}, "taskType"),
        ({"taskType": "mj_txt2img"}, "prompt"),
        (TEXT | {"taskType": "mj_nothing"}, "taskType"),
        (TEXT | {"taskType": 7}, "taskType"),
        (TEXT | {"prompt": "  "}, "prompt"),
        (TEXT | {"prompt": "x" * 2001}, "prompt"),
        (TEXT | {"prompt": "\ud800"}, "prompt"),
        (TEXT | {"speed": "Fast"}, "speed"),
        (TEXT | {"speed": "relax"}, "speed"),
        (TEXT | {"version": "Niji6"}, "version"),
        (TEXT | {"version": 7}, "version"),
        (TEXT | {"aspectRatio": "7:3"}, "aspectRatio"),
        (TEXT | {"stylization": 1001}, "stylization"),
        (TEXT | {"stylization": True}, "stylization"),
        (TEXT | {"weirdness": -1}, "weirdness"),
        (TEXT | {"variety": 5.0}, "variety"),
        (TEXT | {"ow": 100}, "ow"),
        (TEXT | {"enableTranslation": "yes"}, "enableTranslation"),
        (TEXT | {"callBackUrl": "ftp://example.com"}, "callBackUrl"),
        (TEXT | {"waterMark": ""}, "waterMark"),
        (TEXT | {"aspect_ratio": "1:1"}, "aspect_ratio"),
        (IMAGE | {"fileUrls": []}, "fileUrls"),
        (IMAGE | {"fileUrls": "https://example.com/a.png"}, "fileUrls"),
        (IMAGE | {"fileUrls": None}, "fileUrls"),
        (IMAGE | {"fileUrl": "a.png"}, "fileUrl"),
        (IMAGE | {"taskType": "mj_omni_reference", "ow": 0}, "ow"),
        (VIDEO | {"fileUrls": [URL, URL + "2"]}, "fileUrls"),
        (VIDEO | {"fileUrls": [URL + "2"]}, "fileUrls"),
        (VIDEO | {"fileUrls": [URL, URL]}, "fileUrls"),
        (VIDEO | {"fileUrl": None}, "fileUrls"),
        (VIDEO | {"prompt": None}, "prompt"),
        (VIDEO | {"ow": 100}, "ow"),
        (TEXT | {"fileUrls": [URL]}, "fileUrls"),
        (TEXT | {"fileUrl": URL}, "fileUrl"),
        (TEXT | {"motion": "low"}, "motion"),
        (TEXT | {"videoBatchSize": 2}, "videoBatchSize"),
        (IMAGE | {"videoBatchSize": 4}, "videoBatchSize"),
        (IMAGE | {"taskType": "mj_omni_reference", "ow": 1001}, "ow"),
        *((IMAGE | {"taskType": kind, "ow": 100}, "ow") for kind in REFERENCES),
        *((IMAGE | {"taskType": kind, "fileUrls": None}, "fileUrls") for kind in REFERENCES),
        (VIDEO | {"motion": None}, "motion"),
        (VIDEO | {"motion": "fast"}, "motion"),
        (VIDEO | {"videoBatchSize": 3}, "videoBatchSize"),
        (VIDEO | {"videoBatchSize": True}, "videoBatchSize"),
    ],
)
def test_bad_bodies_name_the_field(body: object, field: str) -> None:
    """A complaint begins with the field at fault."""
    message = wrong(GENERATE, body)
    assert message is not None
    assert field in message.split()


RECORDED: dict[str, Any] = {
    "aspectRatio": "1:1",
    "enableTranslation": True,
    "motion": "high",
    "prompt": "A studio-quality portrait photo of a ginger cat",
    "version": "7",
    "videoBatchSize": 1,
    "weirdness": 100,
}
FLAGS = "A cat --sref https://x.org/a.png https://x.org/b.png --sw 60 --seed 1 --v 7 --ar 3:4"


@pytest.mark.parametrize(
    "body",
    [
        {"taskType": "mj_txt2img", "speed": "relaxed", "stylization": 200, "variety": 10},
        {"taskType": "mj_style_reference", "speed": "fast", "fileUrls": [URL, URL + "2"]},
        {"taskType": "mj_omni_reference", "speed": "fast", "ow": 500, "fileUrls": [URL, URL + "2"]},
        {"taskType": "mj_txt2img", "speed": "fast", "prompt": FLAGS},
    ],
)
def test_what_was_recorded_passes(body: dict[str, Any]) -> None:
    """What the live service took is taken: speed for omni, what videos have at its default."""
    assert wrong(GENERATE, RECORDED | body) is None


@pytest.mark.parametrize("speed", ["relaxed", "fast", "turbo"])
@pytest.mark.parametrize("kind", contract.TASK_TYPES)
def test_every_type_takes_every_speed(kind: str, speed: str) -> None:
    """A speed is accepted everywhere, in the official spelling."""
    body = {"taskType": kind, "prompt": "a fox", "speed": speed, "motion": "high"}
    if kind != "mj_txt2img":
        body["fileUrl"] = URL
    assert wrong(GENERATE, body) is None


@pytest.mark.parametrize("path", [UPSCALE, VARY])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"taskId": "images", "imageIndex": 3}, None),
        ({"taskId": "images", "imageIndex": 4}, "imageIndex"),
        ({"taskId": "images"}, "imageIndex"),
        ({"imageIndex": 0}, "taskId"),
        ({"taskId": "nobody", "imageIndex": 0}, "taskId"),
        ({"taskId": "running", "imageIndex": 0}, "taskId"),
        ({"taskId": "gone", "imageIndex": 0}, "taskId"),
        ({"taskId": "videos", "imageIndex": 0}, "taskId"),
        ({"taskId": "upscaled", "imageIndex": 1}, "imageIndex"),
        ({"taskId": "images", "imageIndex": 0, "prompt": "a fox"}, "prompt"),
        ({"taskId": "images", "imageIndex": -1}, "imageIndex"),
        ({"taskId": "images", "imageIndex": True}, "imageIndex"),
        ({"taskId": "failed", "imageIndex": 0}, "taskId"),
        ({"taskId": "images", "imageIndex": 0, "callBackUrl": URL, "waterMark": "me"}, None),
        ({"taskId": "images", "imageIndex": 0, "callBackUrl": "x"}, "callBackUrl"),
    ],
)
def test_follow_ups_need_a_fitting_parent(path: str, body: object, field: str | None) -> None:
    """The parent has succeeded, has images that are stored, and as many as the index needs."""
    message = wrong(path, body)
    assert (message and message.split()[0]) == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        ({"taskType": "mj_video_extend_manual", "prompt": "go on"}, None),
        ({"taskType": "mj_video_extend_manual"}, "prompt"),
        ({"taskType": "mj_video"}, "taskType"),
        ({"index": 2}, "index"),
        ({"index": None}, "index"),
        ({"taskType": None}, "taskType"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"waterMark": "me", "callBackUrl": URL}, None),
        ({"motion": "high"}, "motion"),
        ({"taskId": "images"}, "taskId"),
    ],
)
def test_extending_needs_a_video(change: dict[str, Any], field: str | None) -> None:
    """Only videos can be extended, and by hand only with a prompt."""
    body = {"taskId": "videos", "index": 1, "taskType": "mj_video_extend_auto"} | change
    message = wrong(EXTEND, body)
    assert (message and message.split()[0]) == field


def test_paths_are_the_paid_calls() -> None:
    """Four calls make tasks."""
    assert contract.PATHS == (GENERATE, UPSCALE, VARY, EXTEND)
