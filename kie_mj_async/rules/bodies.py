"""What is sent: a request to the call that makes its task, and a task's record compared with it.

Writes what kie-api.md's official and recorded sources agree on ("POST /api/v1/mj/generate",
"Follow-up tasks").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ..errors import InvalidRequest
from ..fields import KEPT, is_local
from ..requests import (
    ExistingTask,
    Extend,
    FollowUp,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    PromptRequest,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
)
from .flags import FIELDS, merge, split_flags
from .wire import Record, plain, whole_text

GENERATE: Final = "/api/v1/mj/generate"
UPSCALE: Final = "/api/v1/mj/generateUpscale"
VARY: Final = "/api/v1/mj/generateVary"
EXTEND: Final = "/api/v1/mj/generateVideoExtend"

_FIELD_NAMES: Final = {
    "prompt": "prompt",
    "version": "version",
    "speed": "speed",
    "aspect_ratio": "aspectRatio",
    "stylization": "stylization",
    "weirdness": "weirdness",
    "variety": "variety",
    "omni_weight": "ow",
    "watermark": "waterMark",
    "translate": "enableTranslation",
    "callback_url": "callBackUrl",
    "motion": "motion",
    "batch_size": "videoBatchSize",
    "task_id": "taskId",
    "index": "imageIndex",
}
_IMAGES: Final = ("image", "images")
_NOT_SENT: Final = frozenset({"raw", "hd"})
"""Fields that the service does not know by themselves: they decide what else is sent."""

_NAMES_OF_TYPES: Final[dict[str, str]] = {
    TextToImage.task_type: TextToImage.__name__,
    ImageToImage.task_type: ImageToImage.__name__,
    StyleReference.task_type: StyleReference.__name__,
    OmniReference.task_type: OmniReference.__name__,
    "mj_video": ImageToVideo.__name__,
    "mj_video_hd": ImageToVideo.__name__,
    Upscale.task_type: Upscale.__name__,
    Vary.task_type: Vary.__name__,
    "mj_video_extend_manual": Extend.__name__,
    "mj_video_extend_auto": Extend.__name__,
}


@attrs.frozen
class Call:
    """A paid call.

    Attributes:
        path: Its path at the API host.
        body: Its JSON. Fields that were not given are absent.
    """

    path: str
    body: Mapping[str, Any]


def effective(request: Request, names: Mapping[str, str] | None = None) -> Request:
    """The request as it is sent: the flags in its prompt moved to the fields they have.

    The request itself keeps the text as it was written, and so does its key.

    Args:
        request: As written.
        names: What the user calls a field, for messages (``{"version": "--model"}``).

    Raises:
        InvalidRequest: A flag has a value that is not allowed, or contradicts a field.
    """
    if not isinstance(request, PromptRequest) or request.raw:
        return request
    own = attrs.fields_dict(type(request))
    flags = split_flags(request.prompt, [name for name in FIELDS if name in own])
    if not flags.found:
        return request
    # What a field is without anybody's word contradicts nothing.
    given = {
        name: value
        for name in FIELDS & own.keys()
        if (value := getattr(request, name)) != own[name].default
    }
    return attrs.evolve(request, prompt=flags.text, **merge(flags, given, names))


def lenient(request: Request) -> Request:
    """The request as it is sent, or as written where that is refused.

    Flags were sent as they stood before they had fields, so what a ledger has may be refused now.
    """
    try:
        return effective(request)
    except InvalidRequest:
        return request


def call_of(request: Request) -> Call:
    """The call that makes this request's task.

    Local images stand in it as the request names them; in one that is sent, they are links.

    Raises:
        InvalidRequest: See :func:`effective`.
    """
    return _call(effective(request))


def _call(sent: Request) -> Call:
    if isinstance(sent, FollowUp):
        return _follow_up(sent)
    body: dict[str, Any] = {"taskType": sent.task_type}
    for name, value in sent.given().items():
        if name not in (*_IMAGES, *_NOT_SENT):
            body[_FIELD_NAMES[name]] = value
    # The official pages prefer the list form, for a single image too.
    if images := [_named(one) for _, one in sent.images_given()]:
        body["fileUrls"] = images
    return Call(GENERATE, body)


def differences(request: Request, record: Record, *, any_link: bool = False) -> list[str]:
    """How a record's parameters differ from a request's, for people; empty where they match.

    The service adds defaults of its own, so only what the request says is compared. Where a local
    image was uploaded to is another place each time, so that is not. A task of before flags had
    fields has them in its prompt.

    Args:
        request: As written.
        record: What the service tells.
        any_link: Whether its images may have been sent by other links than it names.
    """
    found = _differences(lenient(request), record, any_link=any_link)
    return found if not found or _differences(request, record, any_link=any_link) else []


def _differences(sent: Request, record: Record, *, any_link: bool) -> list[str]:
    found = []
    if record.task_type is not None and record.task_type != sent.task_type:
        found.append(f"taskType is {record.task_type}, not {sent.task_type}")
    any_link = any_link or any(_is_ours(one) for _, one in sent.images_given())
    for name, wanted in _call(sent).body.items():
        if name in ("taskType", "callBackUrl") or (name == "fileUrls" and any_link):
            continue
        there = record.params.get(name)
        if name == "fileUrls" and there is None and record.params.get("fileUrl") is not None:
            there = [record.params["fileUrl"]]
        if there != wanted:
            found.append(f"{name} is {there!r:.80}, not {wanted!r:.80}")
    return found


def described(task: ExistingTask, record: Record) -> ExistingTask:
    """A task with what its record tells of how it was made.

    The service fills in what was not asked for (a motion for pictures); that is left out.
    """
    names = {sent: name for name, sent in _FIELD_NAMES.items()}
    kind = record.task_type or ""
    made_with: dict[str, Any] = {"type": _NAMES_OF_TYPES.get(kind, kind or "unknown")}
    for sent, value in record.params.items():
        name, known = names.get(sent, sent), plain(value)
        untold = sent in ("taskType", "prompt", "callBackUrl") or known in (None, "", [])
        of_videos = name in ("motion", "batch_size") and "video" not in kind
        if not untold and not of_videos:
            made_with[whole_text(name)] = known
    prompt = record.params.get("prompt")
    words = whole_text(prompt) if isinstance(prompt, str) else task.prompt
    return attrs.evolve(task, prompt=words, made_with=made_with)


def _follow_up(request: FollowUp) -> Call:
    told = {
        _FIELD_NAMES[name]: value
        for name in ("task_id", "index", "watermark", "callback_url")
        if (value := getattr(request, name)) is not None
    }
    if isinstance(request, Upscale | Vary):
        return Call(UPSCALE if isinstance(request, Upscale) else VARY, told)
    told["index"] = told.pop("imageIndex")
    told["taskType"] = request.task_type
    if request.prompt:
        told["prompt"] = request.prompt
    return Call(EXTEND, told)


def _named(image: Any) -> str:
    """An image in a body: its URL, or what it is where it has none yet."""
    return f"<{len(image):,} bytes>" if isinstance(image, bytes) else str(image)


def _is_ours(image: Any) -> bool:
    """Whether an image of a request is a local one."""
    return is_local(image) or bool(isinstance(image, str) and KEPT.fullmatch(image))
