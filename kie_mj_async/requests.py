"""What can be asked for: one frozen value per task type, checked when it is made.

Nothing here knows how a request is sent (``rules/wire.py``) or what becomes of it. A field left at
``None`` is not sent, so the service's own default applies. Allowed values: kie-api.md, "POST
/api/v1/mj/generate". The founding document's spellings (``Relax``, ``Niji6``) and any case are
accepted; the official ones are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import attrs
from attrs import field

from .errors import InvalidRequest

SPEEDS: Final = ("relaxed", "fast", "turbo")
VERSIONS: Final = ("7", "6.1", "6", "5.2", "5.1", "niji6", "niji7")
ASPECT_RATIOS: Final = (
    "2:1", "16:9", "4:3", "3:2", "6:5", "1:1", "5:6", "3:4", "2:3", "9:16", "1:2",
)  # fmt: skip
TASK_TYPES: Final = (
    "mj_txt2img", "mj_img2img", "mj_style_reference", "mj_omni_reference", "mj_video", "mj_video_hd",
)  # fmt: skip
MOTIONS: Final = ("high", "low")
BATCH_SIZES: Final = (1, 2, 4)
MAX_PROMPT: Final = 2000
"""Characters a prompt may have."""
TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
"""What a task id looks like: 32 hex digits, or ``mj_task_abc123`` (kie-api.md), read leniently."""


def _refuse(name: str, value: Any, rule: str) -> InvalidRequest:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return InvalidRequest(f"{name}: {shown} {rule}", field=name, value=value)


def _spelled(value: str | None) -> str | None:
    """The official spelling: no outer blanks, lower case. What is no text is left to the check."""
    return value.strip().lower() if isinstance(value, str) else value


def _speed_text(value: str | None) -> str | None:
    plain = _spelled(value)
    return "relaxed" if plain == "relax" else plain


def _required_text(value: str) -> str:
    return _spelled(value) or value


def _version_text(value: str | int | float | None) -> str | None:
    if isinstance(value, int):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else _spelled(value)


def _one_of(allowed: tuple[Any, ...]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and attribute.default is None:
            return
        # By type too: 2.0 equals 2, and would be another key and another text on the wire.
        if not isinstance(value, type(allowed[0])) or value is True or value not in allowed:
            choices = ", ".join(str(one) for one in allowed)
            raise _refuse(attribute.name, value, f"is not allowed; use one of {choices}")

    return check


def _between(low: int, high: int) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            rule = f"is not allowed; use a whole number from {low} to {high}"
            raise _refuse(attribute.name, value, rule)

    return check


def _check_prompt(_self: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(attribute.name, value, "is not allowed; a prompt is a text that is not blank")
    if len(value) > MAX_PROMPT:
        rule = f"has {len(value)} characters; the service takes up to {MAX_PROMPT}"
        raise _refuse(attribute.name, value, rule)
    _check_encodable(attribute.name, value)


def _check_encodable(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refuse(name, value, "holds half a character (a lone surrogate)") from None


def _check_text(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value.strip():
        raise _refuse(attribute.name, value, "is not allowed; use a text that is not blank")
    _check_encodable(attribute.name, value)


def _check_url(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.default is None:
        return
    if not is_http_url(value):
        raise _refuse(attribute.name, value, "is not allowed; use an http:// or https:// URL")


def _stripped(value: str) -> str:
    return value.strip() if isinstance(value, str) else value


def _check_task_id(_self: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str) or not TASK_ID.fullmatch(value):
        rule = "is not a task id; use what the service calls taskId, such as 9f47c52047dd...3cce57"
        raise _refuse(attribute.name, value, rule)


def _check_flag(_self: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise _refuse(attribute.name, value, "is not allowed; use True or False")


def is_http_url(value: object) -> bool:
    """Whether this is an absolute http(s) URL with a host."""
    if not isinstance(value, str) or any(c.isspace() or ord(c) < 33 for c in value):
        return False
    try:
        parts = urlsplit(value)
        value.encode()
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


@attrs.frozen
class Request:
    """What a job asks for. Use one of the types below."""

    task_type: ClassVar[str]
    """The service's name for this type (kie-api.md, ``taskType``)."""

    @property
    def prompt(self) -> str:
        """The prompt; empty where none is known."""
        return ""

    @property
    def speed(self) -> str | None:
        """The speed that was asked for, where the type has one."""
        return None

    def given(self) -> dict[str, Any]:
        """The fields that were given, the prompt included, by their Python names."""
        return {
            one.name: value
            for one in attrs.fields(type(self))
            if (value := getattr(self, one.name)) is not None
        }

    def params(self) -> dict[str, Any]:
        """What tells this request from others of its prompt: its type and the fields given."""
        untold = ("prompt", "callback_url")
        return {name: value for name, value in self.to_dict().items() if name not in untold}

    def to_dict(self) -> dict[str, Any]:
        """A plain form that :func:`request_from_dict` reads back."""
        return {"type": type(self).__name__, **self.given()}


@attrs.frozen
class PromptRequest(Request):
    """The fields that every type made from a prompt takes. Use one of its subclasses.

    Args:
        prompt: What to make; 1 to 2000 characters.
        version: The model: 7, 6.1, 6, 5.2, 5.1, niji6 or niji7.
        speed: relaxed (slowest, cheapest), fast or turbo (fastest, dearest).
        aspect_ratio: Width to height, such as 16:9.
        stylization: 0 to 1000; the service suggests multiples of 50.
        weirdness: 0 to 3000; the service suggests multiples of 100.
        variety: 0 to 100.
        watermark: A text to mark the results with.
        translate: Let the service translate the prompt to English first.
        callback_url: Where the service reports the task's end.

    Raises:
        InvalidRequest: A field is out of range; the message names the field, its value and what is
            allowed.
    """

    prompt: str = field(validator=_check_prompt)
    version: str | None = field(
        default=None, kw_only=True, converter=_version_text, validator=_one_of(VERSIONS)
    )
    speed: str | None = field(
        default=None, kw_only=True, converter=_speed_text, validator=_one_of(SPEEDS)
    )
    aspect_ratio: str | None = field(
        default=None, kw_only=True, converter=_spelled, validator=_one_of(ASPECT_RATIOS)
    )
    stylization: int | None = field(default=None, kw_only=True, validator=_between(0, 1000))
    weirdness: int | None = field(default=None, kw_only=True, validator=_between(0, 3000))
    variety: int | None = field(default=None, kw_only=True, validator=_between(0, 100))
    watermark: str | None = field(default=None, kw_only=True, validator=_check_text)
    translate: bool | None = field(default=None, kw_only=True, validator=_check_flag)
    callback_url: str | None = field(default=None, kw_only=True, validator=_check_url)


@attrs.frozen
class TextToImage(PromptRequest):
    """Four images from a prompt."""

    task_type: ClassVar[str] = "mj_txt2img"


@attrs.frozen
class ImageToImage(PromptRequest):
    """Four images from a prompt and an image.

    Args:
        image: An http(s) URL that the service can fetch.
    """

    task_type: ClassVar[str] = "mj_img2img"

    image: str = field(kw_only=True, validator=_check_url)


@attrs.frozen
class ImageToVideo(PromptRequest):
    """Videos from a prompt and their first image.

    Args:
        image: An http(s) URL that the service can fetch.
        motion: high or low.
        batch_size: How many videos: 1, 2 or 4.
    """

    task_type: ClassVar[str] = "mj_video"

    image: str = field(kw_only=True, validator=_check_url)
    motion: str = field(
        default="high", kw_only=True, converter=_required_text, validator=_one_of(MOTIONS)
    )
    batch_size: int = field(default=1, kw_only=True, validator=_one_of(BATCH_SIZES))


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

    task_type: ClassVar[str] = ""

    task_id: str = field(converter=_stripped, validator=_check_task_id)
    prompt: str = field(default="", kw_only=True, validator=attrs.validators.instance_of(str))
    made_with: Mapping[str, Any] = field(factory=dict, kw_only=True)

    def params(self) -> dict[str, Any]:
        """Its parameters, as far as they are known."""
        return dict(self.made_with)


REQUEST_TYPES: Final[dict[str, type[Request]]] = {
    one.__name__: one for one in (TextToImage, ImageToImage, ImageToVideo, ExistingTask)
}


def request_from_dict(data: Mapping[str, Any]) -> Request:
    """Read back what :meth:`Request.to_dict` wrote.

    Raises:
        InvalidRequest: The type or a field is unknown, or a field is out of range.
    """
    fields = dict(data)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in REQUEST_TYPES:
        raise _refuse("type", name, f"is not allowed; use one of {', '.join(REQUEST_TYPES)}")
    kind = REQUEST_TYPES[name]
    known = [one.name for one in attrs.fields(kind)]
    for key, value in fields.items():
        if key not in known:
            raise _refuse(key, value, f"is no field of {name}; it has {', '.join(known)}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise InvalidRequest(f"{name}: {error}") from None
