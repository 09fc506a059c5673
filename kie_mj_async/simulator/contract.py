"""What a create may look like: the service's rules for the bodies of its paid calls.

Pure: a body in, a complaint out. It knows nothing of limits, credits or tasks; the parent of a
follow-up is described to it by the caller. Source: kie-api.md, "POST /api/v1/mj/generate" and
"Follow-up tasks". Only the official spellings pass and unknown fields are refused, so that a client
which is tested here does not live on the service's leniency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ..requests import (
    ASPECT_RATIOS,
    BATCH_SIZES,
    MAX_PROMPT,
    MOTIONS,
    SPEEDS,
    VERSIONS,
    is_http_url,
)

GENERATE: Final = "/api/v1/mj/generate"
UPSCALE: Final = "/api/v1/mj/generateUpscale"
VARY: Final = "/api/v1/mj/generateVary"
EXTEND: Final = "/api/v1/mj/generateVideoExtend"
PATHS: Final = (GENERATE, UPSCALE, VARY, EXTEND)
"""The paid calls."""

VIDEO_TYPES: Final = ("mj_video", "mj_video_hd")
TASK_TYPES: Final = (
    "mj_txt2img", "mj_img2img", "mj_style_reference", "mj_omni_reference", *VIDEO_TYPES,
)  # fmt: skip
EXTEND_TYPES: Final = ("mj_video_extend_manual", "mj_video_extend_auto")

Check = Callable[[Any], str | None]
"""Takes a field's value; returns what is wrong with it, to follow the field's name."""


@attrs.frozen
class Parent:
    """What a follow-up needs to know of the task it builds on.

    Args:
        state: ``running``, ``succeeded`` or ``failed``.
        video: Whether its results are videos.
        results: How many results it has, or will have.
        stored: Whether its results are still stored.
    """

    state: str
    video: bool
    results: int
    stored: bool


def _one_of(allowed: tuple[Any, ...]) -> Check:
    choices = ", ".join(str(one) for one in allowed)
    kind = type(allowed[0])

    def check(value: Any) -> str | None:
        # The type is compared too: True equals 1, and 7.0 equals 7.
        if type(value) is kind and value in allowed:
            return None
        return f"is not within the range of allowed options: {choices}"

    return check


def _between(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        if type(value) is int and low <= value <= high:
            return None
        return f"must be a whole number from {low} to {high}"

    return check


def _text(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "must be a text that is not blank"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return None


def _prompt(value: Any) -> str | None:
    complaint = _text(value)
    if complaint is None and len(value) > MAX_PROMPT:
        return f"cannot be longer than {MAX_PROMPT} characters"
    return complaint


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _url(value: Any) -> str | None:
    return None if is_http_url(value) else "must be an http or https URL"


def _urls(value: Any) -> str | None:
    if isinstance(value, list) and value and all(is_http_url(one) for one in value):
        return None
    return "must be a list of http or https URLs that is not empty"


_COMMON: Final[dict[str, Check]] = {"waterMark": _text, "callBackUrl": _url}

_GENERATE: Final[dict[str, Check]] = {
    "taskType": _one_of(TASK_TYPES),
    "prompt": _prompt,
    "speed": _one_of(SPEEDS),
    "version": _one_of(VERSIONS),
    "aspectRatio": _one_of(ASPECT_RATIOS),
    "stylization": _between(0, 1000),
    "weirdness": _between(0, 3000),
    "variety": _between(0, 100),
    "ow": _between(1, 1000),
    "fileUrl": _url,
    "fileUrls": _urls,
    "motion": _one_of(MOTIONS),
    "videoBatchSize": _one_of(BATCH_SIZES),
    "enableTranslation": _flag,
    **_COMMON,
}

_FOLLOW_UP: Final[dict[str, Check]] = {"taskId": _text, "imageIndex": _between(0, 3), **_COMMON}

_EXTEND: Final[dict[str, Check]] = {
    "taskId": _text,
    "index": _between(0, 3),
    "taskType": _one_of(EXTEND_TYPES),
    "prompt": _prompt,
    **_COMMON,
}

_FIELDS: Final = {GENERATE: _GENERATE, UPSCALE: _FOLLOW_UP, VARY: _FOLLOW_UP, EXTEND: _EXTEND}

_REQUIRED: Final = {
    GENERATE: ("taskType", "prompt"),
    UPSCALE: ("taskId", "imageIndex"),
    VARY: ("taskId", "imageIndex"),
    EXTEND: ("taskId", "index", "taskType"),
}


def complaint(path: str, body: object, parent: Callable[[str], Parent | None]) -> str | None:
    """What the service would refuse about this body.

    Args:
        path: One of :data:`PATHS`.
        body: The parsed JSON.
        parent: Finds the task a follow-up builds on, by its id.

    Returns:
        The message of the 422, which names the field, or ``None`` when the body is fine.
    """
    if not isinstance(body, dict):
        return "the body must be a JSON object"
    # A null counts as not given, as it does at the service.
    given = {name: value for name, value in body.items() if value is not None}
    checks = _FIELDS[path]
    for name in _REQUIRED[path]:
        if name not in given:
            return f"{name} cannot be empty"
    for name, value in given.items():
        if name not in checks:
            return f"{name} is not a field of this call"
        wrong = checks[name](value)
        if wrong:
            return f"{name} {wrong}"
    if path == GENERATE:
        return _generate(given)
    if given.get("taskType") == "mj_video_extend_manual" and "prompt" not in given:
        return "prompt cannot be empty for mj_video_extend_manual"
    index = "index" if path == EXTEND else "imageIndex"
    return _builds_on(parent(given["taskId"]), index, given[index], video=path == EXTEND)


# What only videos have. Recorded image tasks carry these values, so they pass there, and no others.
_AT_REST: Final[dict[str, Any]] = {"motion": "high", "videoBatchSize": 1}


def _generate(given: Mapping[str, Any]) -> str | None:
    """The rules that tie fields to the task type."""
    task_type = given["taskType"]
    urls = given.get("fileUrls", []) + ([given["fileUrl"]] if "fileUrl" in given else [])
    if task_type != "mj_txt2img" and not urls:
        return f"fileUrls cannot be empty for {task_type}"
    if task_type == "mj_txt2img" and urls:
        name = "fileUrls" if "fileUrls" in given else "fileUrl"
        return f"{name} is not allowed for mj_txt2img"
    if "ow" in given and task_type != "mj_omni_reference":
        return f"ow is not allowed for {task_type}"
    if task_type in VIDEO_TYPES:
        return _video(given, task_type)
    for name, default in _AT_REST.items():
        if given.get(name, default) != default:
            return f"{name} is not allowed for {task_type}"
    return None


def _video(given: Mapping[str, Any], task_type: str) -> str | None:
    listed = given.get("fileUrls", [])
    if len(listed) > 1 or (listed and given.get("fileUrl", listed[0]) != listed[0]):
        return f"fileUrls must hold one URL for {task_type}"
    if "motion" not in given:
        return f"motion cannot be empty for {task_type}"
    return None


def _builds_on(parent: Parent | None, name: str, index: int, *, video: bool) -> str | None:
    if parent is None:
        return "taskId does not exist"
    if parent.state != "succeeded":
        return "taskId must be of a task that has succeeded"
    if parent.video != video:
        return f"taskId must be of a task with {'videos' if video else 'images'}"
    if not parent.stored:
        return "taskId is of a task whose results are no longer stored"
    if index >= parent.results:
        return f"{name} must be below {parent.results}"
    return None
