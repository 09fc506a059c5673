"""Chains: what ``then`` makes of a job, and what a step asks for once the job before it has ended."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from ..errors import InvalidRequest
from ..jobs import Job, State
from ..requests import (
    ChainStep,
    Extend,
    FollowUp,
    ImageToVideo,
    PromptRequest,
    Request,
    Upscale,
    Vary,
)
from ..steps import Step
from . import naming
from .bodies import effective
from .flags import parts

LINK_LIFE: Final = timedelta(hours=12)
"""How long after a task's end its own links are trusted: half of what they are said to live."""

READY: Final = frozenset({State.SUCCEEDED, State.SAVED})
"""States of a job whose results can be worked on."""
HOPELESS: Final = frozenset({State.FAILED, State.EXPIRED, State.ABANDONED})
"""States of a job that will have no results, unless its user has it made again."""

_SOME_LINK: Final = "https://to.be/known"
_OF_IMAGES: Final = ("video", "video-hd")
_VIDEOS: Final = (*_OF_IMAGES, "extend")


@attrs.frozen
class _Result:
    """A result that a step can work on: of which job, which one, and whether it is a video."""

    job: str
    index: int
    video: bool


def steps_of(request: Request, key: str) -> list[tuple[str, ChainStep]]:
    """The jobs of a request's chain, parents first, with their keys.

    Args:
        request: What the chain begins with.
        key: That job's key.

    Raises:
        InvalidRequest: A step is for a result that will not be there, or of the wrong kind.
    """
    made: list[tuple[str, ChainStep]] = []
    if not request.then:
        return made
    results = _results(effective(request), key)
    for step in request.then:
        before, results = results, []
        for index in step.indexes:
            if index >= len(before):
                many = "is 1 result" if len(before) == 1 else f"are {len(before)} results"
                raise _refuse(step, f"there {many} before it, counted from 0")
            source = before[index]
            _check_kind(step, source)
            child = _step(request, step, source)
            child_key = naming.digest(child)
            made.append((child_key, child))
            results += _of_step(step, child_key)
    return made


def bound(step: ChainStep, parent: Job, link: str | None = None) -> Request:
    """What a step asks for, now that the job before it has results.

    Args:
        step: The step.
        parent: The job before it.
        link: A link to its result that works, where the parent's own may not.

    Raises:
        InvalidRequest: The job before it has no such result.
    """
    if parent.task_id is None:
        raise InvalidRequest(f"then: job {parent.key} has no task", field="then")
    if step.index >= len(parent.urls):
        many = "1 result" if len(parent.urls) == 1 else f"{len(parent.urls)} results"
        message = f"then: job {parent.key} has {many}, and none with index {step.index}"
        raise InvalidRequest(message, field="then")
    told: dict[str, Any] = {"watermark": step.watermark, "callback_url": step.callback_url}
    match step.kind:
        case "upscale":
            return Upscale(parent.task_id, step.index, **told)
        case "vary":
            return Vary(parent.task_id, step.index, **told)
        case "extend":
            words = step.prompt if step.own_words else ""
            return Extend(parent.task_id, step.index, prompt=words, **told)
        case _:
            return _video(step, link or parent.urls[step.index])


def wants_fresh_link(step: ChainStep, parent: Job, now: datetime) -> bool:
    """Whether the link to the parent's result may be dead by the time the service fetches it."""
    if step.kind not in _OF_IMAGES:
        return False
    return parent.completed_at is None or now - parent.completed_at > LINK_LIFE


def _results(request: Request, key: str) -> list[_Result]:
    video = isinstance(request, ImageToVideo | Extend)
    if isinstance(request, ImageToVideo):
        count = request.batch_size
    else:
        count = 1 if isinstance(request, Upscale) else 4
    return [_Result(key, index, video) for index in range(count)]


def _of_step(step: Step, key: str) -> list[_Result]:
    # How many videos a step makes is told by flags, and by the service: up to four.
    count = 1 if step.kind == "upscale" else 4
    return [_Result(key, index, step.kind in _VIDEOS) for index in range(count)]


def _check_kind(step: Step, source: _Result) -> None:
    if source.video and step.kind != "extend":
        raise _refuse(step, "it works on an image, and what is before it makes videos")
    if step.kind == "extend" and not source.video:
        raise _refuse(step, "it works on a video, and what is before it makes images")


def _step(request: Request, step: Step, source: _Result) -> ChainStep:
    words = step.prompt or request.prompt
    if step.kind in _OF_IMAGES and isinstance(request, PromptRequest) and not request.raw:
        # An image's flags are nothing to its video.
        words = step.prompt or parts(request.prompt)[0]
    made = ChainStep(
        step.kind,
        source.job,
        source.index,
        words,
        own_words=bool(step.prompt),
        watermark=request.watermark if isinstance(request, PromptRequest | FollowUp) else None,
        callback_url=request.callback_url,
    )
    if step.kind not in _OF_IMAGES:
        return made
    if not words:
        raise _refuse(step, f"it needs words; write {step} and what happens in it")
    if isinstance(request, PromptRequest):
        made = attrs.evolve(made, translate=request.translate, raw=request.raw)
    try:
        sent = effective(_video(made, _SOME_LINK))
    except InvalidRequest as error:
        raise _refuse(step, str(error)) from None
    # What its own flags say comes before the chain's.
    return attrs.evolve(made, speed=sent.speed or effective(request).speed)


def _video(step: ChainStep, image: str) -> ImageToVideo:
    return ImageToVideo(
        step.prompt,
        image=image,
        hd=step.kind == "video-hd",
        speed=step.speed,
        watermark=step.watermark,
        translate=step.translate,
        callback_url=step.callback_url,
        raw=step.raw,
    )


def _refuse(step: Step, why: str) -> InvalidRequest:
    return InvalidRequest(f"then: {step}: {why}", field="then", value=str(step))
