"""From what a user wrote to requests: which type, what stands around a prompt, what its braces make.

One entry of a list can be several requests. A request keeps its text as written (after braces), flags
included: a job's key is made of it. Everything is checked here, before anything is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, Literal

import attrs

from ..errors import InvalidRequest
from ..fields import image_sources
from ..requests import (
    ImageToImage,
    ImageToVideo,
    OmniReference,
    PromptRequest,
    Request,
    StyleReference,
    TextToImage,
)
from .bodies import effective
from .chains import steps_of
from .flags import parts
from .permutations import MAX_EXPANSIONS, TELLABLE, count, expand
from .prompts import Prompt

TYPES: Final[Mapping[str, tuple[type[PromptRequest], Mapping[str, Any]]]] = {
    "text-to-image": (TextToImage, {}),
    "image-to-image": (ImageToImage, {}),
    "style-reference": (StyleReference, {}),
    "omni-reference": (OmniReference, {}),
    "image-to-video": (ImageToVideo, {}),
    "mj_txt2img": (TextToImage, {}),
    "mj_img2img": (ImageToImage, {}),
    "mj_style_reference": (StyleReference, {}),
    "mj_omni_reference": (OmniReference, {}),
    "mj_video": (ImageToVideo, {}),
    "mj_video_hd": (ImageToVideo, {"hd": True}),
}
"""What a prompt can become, by the names people give it, with the fields that the name implies."""


_IMAGES: Final = frozenset({"image", "images"})


@attrs.frozen
class Wishes:
    """What goes for every prompt of a list.

    Attributes:
        fields: The fields that every prompt is given; a prompt's own come first.
        kind: What prompts become; by default what their fields need.
        prefix: What stands before every prompt.
        suffix: What stands behind every prompt.
        names: What the user calls a field, for messages (``{"version": "--model"}``).
        cap: How many prompts one entry's braces may make.
    """

    fields: Mapping[str, Any] = attrs.field(factory=dict)
    kind: type[PromptRequest] | None = None
    prefix: str = ""
    suffix: str = ""
    names: Mapping[str, str] = attrs.field(factory=dict)
    cap: int = MAX_EXPANSIONS


def as_requests(item: object, wishes: Wishes) -> Iterator[Request]:
    """One entry of a list as requests.

    Args:
        item: A prompt, or a request, which is taken as it is.
        wishes: What goes for every prompt.

    Raises:
        InvalidRequest: A field, a flag or a brace is wrong; the message names the prompt's place.
    """
    if isinstance(item, Request):
        yield _checked(item, wishes)
    elif isinstance(item, Prompt):
        # Images go by two names; those of the prompt's own take the place of all others.
        apart = _IMAGES if item.fields.keys() & _IMAGES else ()
        fields = {name: value for name, value in wishes.fields.items() if name not in apart}
        names = {**wishes.names, **item.columns}
        try:
            fields |= dict(item.fields)
            yield from _requests(item.text, fields, attrs.evolve(wishes, names=names))
        except InvalidRequest as error:
            raise item.located(error) from None
    elif isinstance(item, str):
        yield from _requests(item, wishes.fields, wishes)
    else:
        message = (
            f"prompt: {item!r:.60} is not allowed; give a text or a request such as TextToImage"
        )
        raise InvalidRequest(message, field="prompt", value=item)


def as_request(item: object, wishes: Wishes) -> Request:
    """One entry as the one request that it is.

    Raises:
        InvalidRequest: As :func:`as_requests`, or its braces make several prompts.
    """
    made = list(islice(as_requests(item, wishes), 2))
    if len(made) > 1:
        message = (
            "prompt: its braces make several prompts, and this makes one thing; render them as a list, "
            "or write \\{ and \\} for plain braces"
        )
        raise InvalidRequest(message, field="prompt", value=item)
    return made[0]


def single(prompt: object, fields: Mapping[str, Any]) -> Request:
    """A prompt with fields, or a request without, as a job that belongs to no list.

    Raises:
        InvalidRequest: As :func:`as_request`, or it is followed by steps.
    """
    if isinstance(prompt, Request) and fields:
        names = ", ".join(fields)
        raise InvalidRequest(f"{names}: not allowed beside a request; put them into the request")
    request = as_request(prompt, Wishes(fields))
    if request.then:
        raise InvalidRequest(
            "then: is for a list; use render, or submit the steps one by one", field="then"
        )
    return request


def affixed(text: str, prefix: str = "", suffix: str = "") -> str:
    """A prompt with a text before and after its own, but before its flags.

    A blank is put where two words would run together. Flags may stand in the prefix and the suffix
    too; the prompt's own come last, so they win.
    """
    if not prefix and not suffix:
        return text
    (first, first_flags), (own, own_flags), (last, last_flags) = map(parts, (prefix, text, suffix))
    words = _beside(_beside(first, own), last).strip()
    flags = (one.strip() for one in (first_flags, last_flags, own_flags))
    return " ".join(one for one in (words, *flags) if one)


def _beside(left: str, right: str) -> str:
    apart = left[-1:].isalnum() or left[-1:] in tuple(",.;:!?")
    return f"{left} {right}" if apart and right[:1].isalnum() else left + right


def _requests(text: str, given: Mapping[str, Any], wishes: Wishes) -> Iterator[Request]:
    fields = {name: value for name, value in given.items() if value is not None}
    kind = _kind(fields, wishes.kind)
    _place_images(fields, kind)
    for made in _texts(text, wishes, raw=bool(fields.get("raw"))):
        yield _checked(kind(made, **fields), wishes)


def _checked(request: Request, wishes: Wishes) -> Request:
    """The request, which can be sent, and whose chain can be."""
    effective(request, wishes.names)
    steps_of(request, "")
    return request


def _texts(text: str, wishes: Wishes, *, raw: bool) -> Iterator[str]:
    """What the braces of a prompt, and of what stands around it, make."""
    if raw:
        yield affixed(text, wishes.prefix, wishes.suffix)
        return
    around = _count("prefix", wishes) * _count("suffix", wishes)
    total = around * count(text)
    if total > wishes.cap:
        many = f"{total:,}" if total < TELLABLE else "more than 10^15"
        whose = "its braces" if around == 1 else "its braces and those around it"
        message = f"prompt: {whose} make {many} prompts; at most {wishes.cap:,} are allowed"
        raise InvalidRequest(message, field="prompt", value=text)
    for prefix in _spread(wishes.prefix, total):
        for own in expand(text, total):
            for suffix in _spread(wishes.suffix, total):
                yield affixed(own, prefix, suffix)


def _count(name: Literal["prefix", "suffix"], wishes: Wishes) -> int:
    """How many texts the braces of what stands around every prompt make."""
    text: str = getattr(wishes, name)
    try:
        return count(text)
    except InvalidRequest as error:
        message = str(error).replace("prompt:", f"{wishes.names.get(name, name)}:", 1)
        raise InvalidRequest(message, field=name, value=text) from None


def _spread(text: str, cap: int) -> Iterator[str]:
    """What the braces of a text make, with its outer blanks: they part it from the prompt."""
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    return (text[:start] + made + text[stop:] for made in expand(text.strip(), cap))


def _kind(fields: dict[str, Any], kind: type[PromptRequest] | None) -> type[PromptRequest]:
    """The type that the fields ask for; a name of one among them is taken out."""
    name = fields.pop("task_type", None)
    if name is not None:
        known = TYPES.get(str(name).strip().lower().replace(" ", "-"))
        if known is None:
            message = f"task_type: {name!r:.60} is no type; use one of {', '.join(TYPES)}"
            raise InvalidRequest(message, field="task_type", value=name)
        kind, implied = known
        for field, value in implied.items():
            if fields.setdefault(field, value) != value:
                message = (
                    f"task_type {name} and {field} {fields[field]} contradict each other; keep one "
                    "of them"
                )
                raise InvalidRequest(message, field=field, value=fields[field])
        return kind
    if kind is not None:
        return kind
    return ImageToImage if fields.keys() & _IMAGES else TextToImage


def _place_images(fields: dict[str, Any], kind: type[PromptRequest]) -> None:
    """Give images to the field that the type has for them, however they were called."""
    own = {one.name for one in attrs.fields(kind)} & _IMAGES
    called = [name for name in ("image", "images") if name in fields]
    if not own or not called:
        return
    listed = [one for name in called for one in image_sources(fields.pop(name))]
    if kind is ImageToVideo and len(listed) > 1:
        message = f"{called[-1]}: {kind.__name__} takes one image, not {len(listed)}"
        raise InvalidRequest(message, field=called[-1], value=listed)
    fields[own.pop()] = listed
