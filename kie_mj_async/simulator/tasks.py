"""A task as the simulated service keeps it: how long it takes, what it makes, what it costs.

Pure values. The world moves tasks along; this module does not know the limits, the balance or HTTP.
Durations follow kie-api.md, "Real durations", and are guesses where nothing was recorded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from . import chance
from .contract import EXTEND, EXTEND_TYPES, GENERATE, UPSCALE, VARY, VIDEO_TYPES, Parent

PRICE: Final = 25.0
"""Credits a task costs (kie-api.md, "Limits, prices, retention")."""

RETENTION: Final = 14 * 86_400.0
"""Unscaled seconds for which results are stored."""

LINK_LIFE: Final = 86_400.0
"""Unscaled seconds for which a result's own link works; fresh ones work as long as it is stored."""

DURATIONS: Final[dict[str, tuple[float, float]]] = {
    "images, relaxed": (214, 10),
    "images, fast": (61, 4),
    "images, turbo": (30, 2.5),
    "reference": (60, 4),
    "omni": (248, 9),
    "video": (120, 8),
    "video, hd": (170, 10),
    "upscale": (25, 2),
    "vary": (58, 4),
    "extend": (110, 8),
}
"""Mean and standard deviation in unscaled seconds, by class."""

_RATIO: Final = re.compile(r"--(?:ar|aspect)\s+(\d{1,4}):(\d{1,4})(?!\d)")


def duration_class(path: str, body: Mapping[str, Any]) -> str:
    """The key in :data:`DURATIONS` for a create that has passed the contract."""
    task_type = body.get("taskType")
    if path == UPSCALE:
        return "upscale"
    if path == VARY:
        return "vary"
    if path == EXTEND:
        return "extend"
    if task_type == "mj_video":
        return "video"
    if task_type == "mj_video_hd":
        return "video, hd"
    if task_type == "mj_omni_reference" or "--oref" in body["prompt"]:
        return "omni"
    speed = body.get("speed", "fast")
    if task_type == "mj_style_reference" and speed == "fast":
        return "reference"
    return f"images, {speed}"


@attrs.define
class Task:
    """One task.

    Args:
        id: 32 hexadecimal digits.
        number: Its place among all accepted tasks, from 1.
        created: When it was accepted, in seconds.
        completes: When it will end; infinity when it is stuck.
        verdict: How it will end: ``success``, ``fail`` or ``fail-create``.
        task_type: What record-info calls it.
        path: The call that made it.
        body: That call's body.
        prompt: What is drawn; a follow-up has its parent's.
        source: For each result, what makes its picture unlike any other. An upscale has its
            parent's.
        shape: Width and height of the results, as a ratio.
        price: Credits it was charged.
        visible: When record-info starts to know it, in seconds.
        fault: The fault of the kind ``task`` that it suffers, or ``None``.
        state: ``running``, ``succeeded`` or ``failed``.
        expired: Whether its results were deleted before their time.
        reason: Why it was sure to fail, or ``None``.
    """

    id: str
    number: int
    created: float
    completes: float
    verdict: str
    task_type: str
    path: str
    body: dict[str, Any]
    prompt: str
    source: tuple[str, ...]
    shape: tuple[int, int]
    price: float
    visible: float
    fault: str | None = None
    state: str = "running"
    expired: bool = False
    reason: str | None = None

    @property
    def video(self) -> bool:
        """Whether its results are videos."""
        return self.task_type in VIDEO_TYPES or self.task_type in EXTEND_TYPES

    @property
    def enlarged(self) -> bool:
        """Whether its result is twice as large as usual."""
        return self.path == UPSCALE

    def files(self, picture_suffix: str) -> tuple[str, ...]:
        """The names of its results."""
        suffix = "mp4" if self.video else picture_suffix
        return tuple(f"{self.id}_0_{index}.{suffix}" for index in range(len(self.source)))

    def stored(self, now: float, retention: float) -> bool:
        """Whether its results can be fetched.

        Args:
            now: Seconds.
            retention: Seconds for which results are kept.
        """
        return self.state == "succeeded" and not self.expired and now < self.completes + retention

    def linked(self, now: float, time_scale: float) -> bool:
        """Whether the links that record-info tells still work."""
        return now < self.completes + LINK_LIFE * time_scale

    def as_parent(self, now: float, retention: float) -> Parent:
        """What the contract needs to know of it, for a follow-up."""
        return Parent(self.state, self.video, len(self.source), self.stored(now, retention))

    def to_json(self) -> dict[str, Any]:
        """The fields that a journal keeps. Infinity is no JSON, so it becomes null."""
        kept = {name: getattr(self, name) for name in _KEPT}
        return {**kept, "completes": None if math.isinf(self.completes) else self.completes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        """Read back what :meth:`to_json` made."""
        fields = {name: data[name] for name in _KEPT if name in data}
        fields["source"] = tuple(fields["source"])
        fields["shape"] = tuple(fields["shape"])
        if fields["completes"] is None:
            fields["completes"] = math.inf
        return cls(**fields)


_KEPT: Final = tuple(one.name for one in attrs.fields(Task) if one.name not in {"state", "expired"})


def new_task(
    seed: int,
    number: int,
    path: str,
    body: dict[str, Any],
    *,
    parent: Task | None,
    fault: str | None,
    now: float,
    time_scale: float,
    reason: str | None = None,
) -> Task:
    """The task that an accepted create makes.

    Args:
        seed: The run's seed.
        number: Its place among all accepted tasks, from 1.
        path: The call.
        body: Its body, which has passed the contract.
        parent: The task a follow-up builds on.
        fault: A fault of the kind ``task``, or ``None``.
        now: Seconds.
        time_scale: Factor on durations.
        reason: Why its generation cannot even begin, or ``None``.
    """
    task_id = chance.digest("task", seed, number)
    mean, deviation = DURATIONS[duration_class(path, body)]
    lasts = chance.normal(mean, deviation, seed, "duration", number) * time_scale
    lasts = {"slow": 10 * lasts, "stuck": math.inf}.get(fault or "", lasts)
    task_type = {UPSCALE: "mj_upscale", VARY: "mj_vary"}.get(path, body.get("taskType", ""))
    prompt = body.get("prompt") or (parent.prompt if parent else "")
    verdict = "fail-create" if reason else "success"
    if fault in {"fail", "fail-create"}:
        verdict = fault
    return Task(
        id=task_id,
        number=number,
        created=now,
        completes=now + lasts,
        verdict=verdict,
        task_type=task_type,
        path=path,
        body=body,
        prompt=prompt,
        source=_sources(task_id, path, body, parent),
        shape=parent.shape if parent else _shape(body),
        price=PRICE,
        visible=now + (20 * time_scale if fault == "late-record" else 0),
        fault=fault,
        reason=reason,
    )


def _sources(
    task_id: str, path: str, body: Mapping[str, Any], parent: Task | None
) -> tuple[str, ...]:
    if path == UPSCALE and parent:
        return (parent.source[body["imageIndex"]],)
    if path == EXTEND:
        count = 1
    elif path == GENERATE and body["taskType"] in VIDEO_TYPES:
        count = body.get("videoBatchSize", 1)
    else:
        count = 4
    return tuple(f"{task_id}/{index}" for index in range(count))


def _shape(body: Mapping[str, Any]) -> tuple[int, int]:
    """Width to height: the field, else a flag inside the prompt, else square."""
    if ratio := body.get("aspectRatio"):
        width, height = ratio.split(":")
        return int(width), int(height)
    flag = _RATIO.search(body["prompt"])
    if flag:
        width, height = int(flag[1]), int(flag[2])
        # Beyond 4:1 there would be nothing left to draw on the shorter side.
        if width and height and 1 / 4 <= width / height <= 4:
            return width, height
    return 1, 1
