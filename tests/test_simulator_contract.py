"""What a create may look like."""

from __future__ import annotations

from typing import Any

import pytest

from kie_mj_async.simulator import contract
from kie_mj_async.simulator.contract import EXTEND, GENERATE, UPSCALE, VARY, Parent, complaint

URL = "https://example.com/a.png"
TEXT: dict[str, Any] = {"taskType": "mj_txt2img", "prompt": "a fox"}
IMAGE = {"taskType": "mj_img2img", "prompt": "a fox", "fileUrls": [URL]}
VIDEO = {"taskType": "mj_video", "prompt": "a fox", "fileUrl": URL, "motion": "high"}
PARENTS = {
    "images": Parent("succeeded", video=False, results=4, stored=True),
    "upscaled": Parent("succeeded", video=False, results=1, stored=True),
    "videos": Parent("succeeded", video=True, results=2, stored=True),
    "running": Parent("running", video=False, results=4, stored=False),
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
        TEXT | {"prompt": "x" * 2000},
        IMAGE,
        IMAGE | {"fileUrls": [URL, URL + "2"]},
        IMAGE | {"taskType": "mj_style_reference"},
        IMAGE | {"taskType": "mj_omni_reference", "ow": 500},
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
