"""What can be asked for: one frozen value per task type, checked when it is made.

Nothing here knows how a request is sent (``rules/bodies.py``) or what becomes of it. A field left at
``None`` is not sent, so the service's own default applies. Allowed values: kie-api.md, "POST
/api/v1/mj/generate". The founding document's spellings (``Relax``, ``Niji6``) and any case are
accepted; the official ones are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Final, Self

import attrs
from attrs import field

from . import fields as checks
from .errors import InvalidRequest
from .fields import (
    ASPECT_RATIOS,
    BATCH_SIZES,
    KEPT,
    MAX_PROMPT,
    MOTIONS,
    SPEEDS,
    TASK_ID,
    VERSIONS,
    ImageSource,
    is_http_url,
    is_local,
    refuse,
)
from .steps import Step, check_steps, steps

__all__ = [
    "ASPECT_RATIOS", "BATCH_SIZES", "KEPT", "MAX_PROMPT", "MOTIONS", "PROMPT_TYPES",
    "REQUEST_TYPES", "SPEEDS", "TASK_ID", "TASK_TYPES", "VERSIONS", "ChainStep", "ExistingTask",
    "Extend", "FollowUp", "ImageSource", "ImageToImage", "ImageToVideo", "OmniReference",
    "PromptRequest", "ReferenceRequest", "Request", "StyleReference", "TextToImage", "Upscale",
    "Vary", "is_http_url", "is_local", "request_from_dict", "takers", "wrong_field",
]  # fmt: skip

TASK_TYPES: Final = (
    "mj_txt2img", "mj_img2img", "mj_style_reference", "mj_omni_reference", "mj_video", "mj_video_hd",
    "mj_upscale", "mj_vary", "mj_video_extend_manual", "mj_video_extend_auto",
)  # fmt: skip
"""The service's names of what it makes."""

_SILENT: Final = "silent default"
"""Marks fields whose default says nothing: it is not kept, so keys made before the field hold."""
_UNKEPT: Final = "not kept"
"""Marks fields that are for whoever takes the request in, and no part of what is asked for."""


@attrs.frozen
class Request:
    """What a job asks for. Use one of its subclasses.

    Raises:
        InvalidRequest: A field is missing, or not one of the type's; the message says which types
            take it.
    """

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Check the names of the fields, so that a wrong one is told like a wrong value."""
        for name, value in given.items():
            if name not in _names(cls):
                raise wrong_field(name, value, cls)
        for name in _needed(cls)[len(args) :]:
            if (args or given) and name not in given:
                raise InvalidRequest(f"{name}: is missing; {cls.__name__} needs it", field=name)
        return super().__new__(cls)

    @property
    def task_type(self) -> str:
        """The service's name for this type (kie-api.md, ``taskType``); empty where it has none."""
        return ""

    @property
    def prompt(self) -> str:
        """The prompt; empty where none is known."""
        return ""

    @property
    def title(self) -> str:
        """What to call it, for people; empty where nothing is known."""
        return self.prompt

    @property
    def speed(self) -> str | None:
        """The speed that was asked for, where the type has one."""
        return None

    @property
    def callback_url(self) -> str | None:
        """Where the service reports the task's end, if that was asked for."""
        return None

    @property
    def then(self) -> tuple[Step, ...]:
        """What is to be done with the results."""
        return ()

    def given(self) -> dict[str, Any]:
        """The fields that were given, the prompt included, by their Python names."""
        kind: Any = type(self)
        return {
            name: value
            for name, silent in _kept(kind)
            if (value := getattr(self, name)) is not None and value != silent
        }

    def params(self) -> dict[str, Any]:
        """What tells this request from others of its prompt: its type and the fields given."""
        untold = ("prompt", "callback_url")
        return {name: value for name, value in self.to_dict().items() if name not in untold}

    def to_dict(self) -> dict[str, Any]:
        """A plain form that :func:`request_from_dict` reads back, once its images are taken in."""
        return {"type": type(self).__name__, **self.given()}

    def images_given(self) -> Iterator[tuple[str, Any]]:
        """The images it starts from, with the names of their fields."""
        for name in ("image", "images"):
            value = getattr(self, name, None)
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    yield name, one


@attrs.frozen
class PromptRequest(Request):
    """The fields that every type made from a prompt takes. Use one of its subclasses.

    Args:
        prompt: What to make; 1 to 2000 characters. Midjourney's flags in it (``--ar 16:9 --v 7``)
            become fields when it is sent, where the service has a field for them.
        version: The model: 7, 6.1, 6, 5.2, 5.1, niji6 or niji7.
        speed: relaxed (slowest, cheapest), fast or turbo (fastest, dearest).
        aspect_ratio: Width to height, such as 16:9.
        stylization: 0 to 1000; the service suggests multiples of 50.
        weirdness: 0 to 3000; the service suggests multiples of 100.
        variety: 0 to 100.
        watermark: A text to mark the results with.
        translate: Let the service translate the prompt to English first.
        callback_url: Where the service reports the task's end.
        raw: Send the prompt as it is, its flags too.
        then: What to do with the results, for ``Client.render``: ``["upscale:0,2", "video:0"]``.

    Raises:
        InvalidRequest: A field is out of range; the message names the field, its value and what is
            allowed.
    """

    prompt: str = field(validator=checks.check_prompt)
    version: str | None = field(
        default=None,
        kw_only=True,
        converter=checks.version_text,
        validator=checks.one_of(VERSIONS),
    )
    speed: str | None = field(
        default=None, kw_only=True, converter=checks.speed_text, validator=checks.one_of(SPEEDS)
    )
    aspect_ratio: str | None = field(
        default=None,
        kw_only=True,
        converter=checks.spelled,
        validator=checks.one_of(ASPECT_RATIOS),
    )
    stylization: int | None = field(default=None, kw_only=True, validator=checks.between(0, 1000))
    weirdness: int | None = field(default=None, kw_only=True, validator=checks.between(0, 3000))
    variety: int | None = field(default=None, kw_only=True, validator=checks.between(0, 100))
    watermark: str | None = field(default=None, kw_only=True, validator=checks.check_text)
    translate: bool | None = field(default=None, kw_only=True, validator=checks.check_flag)
    callback_url: str | None = field(default=None, kw_only=True, validator=checks.check_url)
    raw: bool = field(
        default=False, kw_only=True, validator=checks.check_flag, metadata={_SILENT: True}
    )
    then: tuple[Step, ...] = field(
        default=(),
        kw_only=True,
        converter=steps,
        validator=check_steps,
        metadata={_UNKEPT: True},
    )


@attrs.frozen
class TextToImage(PromptRequest):
    """Four images from a prompt."""

    task_type: ClassVar[str] = "mj_txt2img"


@attrs.frozen
class ImageToImage(PromptRequest):
    """Four images from a prompt and an image, or several.

    Args:
        image: An http(s) URL that the service can fetch, the path of a file, or its bytes; or a list.
    """

    task_type: ClassVar[str] = "mj_img2img"

    image: ImageSource | tuple[ImageSource, ...] = field(
        kw_only=True,
        converter=checks.one_or_more,
        validator=checks.check_images,
        repr=checks.shown_images,
    )


@attrs.frozen
class ReferenceRequest(PromptRequest):
    """What every type takes that refers to other images. Use one of its subclasses.

    Args:
        images: Each an http(s) URL that the service can fetch, the path of a file, or its bytes.
    """

    images: tuple[ImageSource, ...] = field(
        kw_only=True,
        converter=checks.image_sources,
        validator=checks.check_images,
        repr=checks.shown_images,
    )


@attrs.frozen
class StyleReference(ReferenceRequest):
    """Four images from a prompt, in the style of other images.

    Args:
        images: As of :class:`ReferenceRequest`.
    """

    task_type: ClassVar[str] = "mj_style_reference"


@attrs.frozen
class OmniReference(ReferenceRequest):
    """Four images from a prompt, with a person or a thing of other images in them.

    Args:
        images: As of :class:`ReferenceRequest`.
        omni_weight: How closely to keep to them: 1 to 1000.
    """

    task_type: ClassVar[str] = "mj_omni_reference"

    omni_weight: int | None = field(default=None, kw_only=True, validator=checks.between(1, 1000))


@attrs.frozen
class ImageToVideo(PromptRequest):
    """Videos from a prompt and their first image.

    Args:
        image: An http(s) URL that the service can fetch, the path of a file, or its bytes.
        motion: high or low.
        batch_size: How many videos: 1, 2 or 4.
        hd: In high definition.
    """

    image: ImageSource = field(
        kw_only=True,
        converter=checks.one_or_more,
        validator=checks.check_image,
        repr=checks.shown_images,
    )
    motion: str = field(
        default="high",
        kw_only=True,
        converter=checks.required_text,
        validator=checks.one_of(MOTIONS),
    )
    batch_size: int = field(default=1, kw_only=True, validator=checks.one_of(BATCH_SIZES))
    hd: bool = field(
        default=False, kw_only=True, validator=checks.check_flag, metadata={_SILENT: True}
    )

    @property
    def task_type(self) -> str:
        """The service's name for this type."""
        return "mj_video_hd" if self.hd else "mj_video"


@attrs.frozen
class FollowUp(Request):
    """What every follow-up of a task takes. Use one of its subclasses.

    Args:
        task_id: The task it follows, as the service wrote it.
        index: Which of its results, from 0.
        watermark: A text to mark the results with.
        callback_url: Where the service reports the task's end.
        then: What to do with the results, for ``Client.render``.

    Raises:
        InvalidRequest: A field is out of range.
    """

    task_id: str = field(converter=checks.stripped, validator=checks.check_task_id)
    index: int = field(validator=checks.between(0, 3, needed=True))
    watermark: str | None = field(default=None, kw_only=True, validator=checks.check_text)
    callback_url: str | None = field(default=None, kw_only=True, validator=checks.check_url)
    then: tuple[Step, ...] = field(
        default=(),
        kw_only=True,
        converter=steps,
        validator=check_steps,
        metadata={_UNKEPT: True},
    )

    @property
    def title(self) -> str:
        """What to call it, for people."""
        return f"{type(self).__name__.lower()} {self.index} of task {self.task_id}"


@attrs.frozen
class Upscale(FollowUp):
    """One of a task's images, larger."""

    task_type: ClassVar[str] = "mj_upscale"


@attrs.frozen
class Vary(FollowUp):
    """Four variations of one of a task's images."""

    task_type: ClassVar[str] = "mj_vary"


@attrs.frozen
class Extend(FollowUp):
    """One of a task's videos, longer.

    Args:
        prompt: How it goes on; without one the service decides.
    """

    prompt: str = field(default="", kw_only=True, metadata={_SILENT: True})

    @prompt.validator
    def _check_prompt(self, attribute: attrs.Attribute[str], value: Any) -> None:
        if value != "":
            checks.check_prompt(self, attribute, value)

    @property
    def task_type(self) -> str:
        """The service's name for this type."""
        return "mj_video_extend_manual" if self.prompt else "mj_video_extend_auto"


@attrs.frozen
class ExistingTask(Request):
    """A task that the service has already: nothing is sent or paid, its results are saved.

    Args:
        task_id: Its id, as the service wrote it.
        prompt: What it was made from; known once its record has been read.
        made_with: Its other parameters, likewise.

    Raises:
        InvalidRequest: It cannot be an id.
    """

    task_id: str = field(converter=checks.stripped, validator=checks.check_task_id)
    prompt: str = field(default="", kw_only=True, validator=attrs.validators.instance_of(str))
    made_with: Mapping[str, Any] = field(factory=dict, kw_only=True)

    def params(self) -> dict[str, Any]:
        """Its parameters, as far as they are known."""
        return dict(self.made_with)


@attrs.frozen
class ChainStep(Request):
    """A step of a chain, waiting for the job before it. Made from ``then`` where a list is taken in.

    Args:
        kind: As of a :class:`~kie_mj_async.steps.Step`.
        parent: The key of the job whose result it works on.
        index: Which of that job's results, from 0.
        prompt: Its own words, or else those of the chain.
        own_words: Whether ``prompt`` is its own.
        speed: As the chain's.
        watermark: As the chain's.
        translate: As the chain's.
        raw: As the chain's.
        callback_url: As the chain's.
    """

    kind: str
    parent: str
    index: int
    prompt: str = ""
    own_words: bool = field(
        default=False, kw_only=True, validator=checks.check_flag, metadata={_SILENT: True}
    )
    speed: str | None = None
    watermark: str | None = None
    translate: bool | None = None
    callback_url: str | None = None
    raw: bool = field(
        default=False, kw_only=True, validator=checks.check_flag, metadata={_SILENT: True}
    )

    @property
    def title(self) -> str:
        """What to call it, for people."""
        between = ": " if self.own_words else " of "
        return f"{self.kind} {self.index}{between}{self.prompt or self.parent}"

    def params(self) -> dict[str, Any]:
        """What it makes, and of which result of which job; the rest is its chain's."""
        plain = {"upscale": Upscale, "vary": Vary, "extend": Extend}
        told: dict[str, Any] = {"type": plain.get(self.kind, ImageToVideo).__name__}
        if self.kind == "video-hd":
            told["hd"] = True
        told |= {"parent": self.parent, "index": self.index}
        given = {"speed": self.speed, "watermark": self.watermark, "translate": self.translate}
        return told | {name: value for name, value in given.items() if value is not None}

    @property
    def task_type(self) -> str:
        """The service's name for what it will be."""
        extend = "mj_video_extend_manual" if self.own_words else "mj_video_extend_auto"
        return {"video": "mj_video", "video-hd": "mj_video_hd", "extend": extend}.get(
            self.kind, f"mj_{self.kind}"
        )


PROMPT_TYPES: Final[tuple[type[PromptRequest], ...]] = (
    TextToImage, ImageToImage, StyleReference, OmniReference, ImageToVideo,
)  # fmt: skip
"""What a prompt can become."""

REQUEST_TYPES: Final[dict[str, type[Request]]] = {
    one.__name__: one for one in (*PROMPT_TYPES, Upscale, Vary, Extend, ExistingTask, ChainStep)
}


def _names(kind: type[Request]) -> tuple[str, ...]:
    return tuple(one.name for one in attrs.fields(kind))


@cache
def _kept(kind: type[Request]) -> tuple[tuple[str, Any], ...]:
    """The fields that are kept, each with the value that says nothing: ``None`` or its default."""
    fields = (one for one in attrs.fields(kind) if not one.metadata.get(_UNKEPT))
    return tuple((one.name, one.default if one.metadata.get(_SILENT) else None) for one in fields)


def _needed(kind: type[Request]) -> tuple[str, ...]:
    return tuple(one.name for one in attrs.fields(kind) if one.default is attrs.NOTHING)


def takers(name: str) -> list[str]:
    """The types that have a field of this name, for messages; steps are made by nobody's hand."""
    kinds = (kind for kind in REQUEST_TYPES.values() if kind is not ChainStep)
    return [kind.__name__ for kind in kinds if name in _names(kind)]


def wrong_field(name: str, value: Any, kind: type[Request]) -> InvalidRequest:
    """The error for a field that a type does not have."""
    if kinds := takers(name):
        *most, last = kinds
        has = f"{', '.join(most)} and {last} take it" if most else f"{last} takes it"
    else:
        has = f"it has {', '.join(_names(kind))}"
    message = f"{name}: is no field of {kind.__name__}; {has}"
    return InvalidRequest(message, field=name, value=value)


def request_from_dict(data: Mapping[str, Any]) -> Request:
    """Read back what :meth:`Request.to_dict` wrote.

    Raises:
        InvalidRequest: The type or a field is unknown, or a field is out of range.
    """
    given = dict(data)
    name = given.pop("type", None)
    if not isinstance(name, str) or name not in REQUEST_TYPES:
        raise refuse("type", name, f"is not allowed; use one of {', '.join(REQUEST_TYPES)}")
    try:
        return REQUEST_TYPES[name](**given)
    except TypeError as error:
        raise InvalidRequest(f"{name}: {error}") from None
