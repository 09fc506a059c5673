"""Types of requests: which fields each takes and needs, what it is called, and that it is a value."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import attrs
import pytest

from kie_mj_async import requests
from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    ChainStep,
    ExistingTask,
    Extend,
    ImageToImage,
    ImageToVideo,
    OmniReference,
    Request,
    StyleReference,
    TextToImage,
    Upscale,
    Vary,
    takers,
)
from kie_mj_async.steps import Step

IMAGE = "https://cdn.example/fox.png"
OTHER = "https://cdn.example/owl.png"
KEPT = "input:" + "0a" * 32 + ".png"

NEEDED: dict[type[Request], dict[str, Any]] = {
    TextToImage: {"prompt": "x"},
    ImageToImage: {"prompt": "x", "image": IMAGE},
    StyleReference: {"prompt": "x", "images": (IMAGE,)},
    OmniReference: {"prompt": "x", "images": (IMAGE,)},
    ImageToVideo: {"prompt": "x", "image": IMAGE},
    Upscale: {"task_id": "abc", "index": 0},
    Vary: {"task_id": "abc", "index": 0},
    Extend: {"task_id": "abc", "index": 0},
    ExistingTask: {"task_id": "abc"},
}
"""Every type that a user makes, with what it cannot do without."""

OF_PROMPTS = (TextToImage, ImageToImage, StyleReference, OmniReference, ImageToVideo)
FOLLOW_UPS = (Upscale, Vary, Extend)
FIELDS: dict[str, tuple[Any, tuple[type[Request], ...]]] = {
    "prompt": ("y", (*OF_PROMPTS, Extend, ExistingTask)),
    "version": ("7", OF_PROMPTS),
    "speed": ("fast", OF_PROMPTS),
    "aspect_ratio": ("16:9", OF_PROMPTS),
    "stylization": (50, OF_PROMPTS),
    "weirdness": (100, OF_PROMPTS),
    "variety": (5, OF_PROMPTS),
    "translate": (True, OF_PROMPTS),
    "raw": (True, OF_PROMPTS),
    "watermark": ("mine", (*OF_PROMPTS, *FOLLOW_UPS)),
    "callback_url": ("https://me.test/hook", (*OF_PROMPTS, *FOLLOW_UPS)),
    "then": ((Step("upscale", 0),), (*OF_PROMPTS, *FOLLOW_UPS)),
    "image": (OTHER, (ImageToImage, ImageToVideo)),
    "images": ((OTHER, IMAGE), (StyleReference, OmniReference)),
    "omni_weight": (500, (OmniReference,)),
    "motion": ("low", (ImageToVideo,)),
    "batch_size": (2, (ImageToVideo,)),
    "hd": (True, (ImageToVideo,)),
    "task_id": ("def", (*FOLLOW_UPS, ExistingTask)),
    "index": (3, FOLLOW_UPS),
    "made_with": ({"speed": "fast"}, (ExistingTask,)),
}
"""Every field, a value for it, and the types that take it (kie-api.md, notes of the field table)."""

PAIRS = [(name, kind) for name in FIELDS for kind in NEEDED]


def named(kinds: tuple[type[Request], ...]) -> str:
    """Types as a message lists them."""
    *most, last = (kind.__name__ for kind in kinds)
    return f"{', '.join(most)} and {last} take it" if most else f"{last} takes it"


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_field_belongs_to_its_types(name: str, kind: type[Request]) -> None:
    """A type takes its own fields; any other is refused, and the message says which types take it."""
    value, kinds = FIELDS[name]
    if kind in kinds:
        assert getattr(kind(**NEEDED[kind] | {name: value}), name) == value
        return
    with pytest.raises(InvalidRequest) as caught:
        kind(**NEEDED[kind] | {name: value})
    assert str(caught.value) == f"{name}: is no field of {kind.__name__}; {named(kinds)}"
    assert (caught.value.field, caught.value.value) == (name, value)


def test_every_field_has_its_row() -> None:
    """The table of this file leaves no field and no type out."""
    kinds = {one for one in requests.REQUEST_TYPES.values() if one is not ChainStep}
    assert kinds == NEEDED.keys()
    assert {one.name for kind in kinds for one in attrs.fields(kind)} == FIELDS.keys()
    for name, (_, taking) in FIELDS.items():
        assert takers(name) == [kind.__name__ for kind in taking]


def test_a_field_of_no_type() -> None:
    """A slip is answered with the fields that there are."""
    with pytest.raises(
        InvalidRequest, match=r"^sped: is no field of Upscale; it has task_id, index"
    ):
        Upscale("abc", 0, sped="fast")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, needed in NEEDED.items() for name in needed]
)
def test_what_a_type_needs(kind: Any, name: str) -> None:
    """A field that a type cannot do without is asked for by name, however the others are given."""
    needed = dict(NEEDED[kind])
    if len(needed) > 1:
        del needed[name]
        with pytest.raises(InvalidRequest, match=f"^{name}: is missing; {kind.__name__} needs it"):
            kind(**needed)
        first = next(iter(NEEDED[kind]))
        if name != first:
            with pytest.raises(InvalidRequest, match=f"^{name}: is missing"):
                kind(needed.pop(first), **needed)
    with pytest.raises(TypeError, match=next(iter(NEEDED[kind]))):
        kind()


EXAMPLES: list[Request] = [
    *(kind(**needed) for kind, needed in NEEDED.items()),
    *(
        kind(
            **NEEDED[kind]
            | {name: value for name, (value, kinds) in FIELDS.items() if kind in kinds}
        )
        for kind in NEEDED
    ),
    OmniReference("x", images=[Path("a.png"), b"bytes", IMAGE]),
    ChainStep("video", "1-ab", 2, "a pan", own_words=True, speed="fast"),
]


@pytest.mark.parametrize("request_", EXAMPLES, ids=lambda one: type(one).__name__)
def test_a_request_is_a_value(request_: Request) -> None:
    """Each type can be pickled, copied, evolved and, where its parts can be, hashed."""
    copies = [copy.copy(request_), copy.deepcopy(request_), attrs.evolve(request_)]
    copies += [pickle.loads(pickle.dumps(request_, protocol)) for protocol in range(2, 6)]
    for one in copies:
        assert one == request_
        assert type(one) is type(request_)
        if not isinstance(request_, ExistingTask):
            assert hash(one) == hash(request_)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (TextToImage("x"), "mj_txt2img"),
        (ImageToImage("x", image=IMAGE), "mj_img2img"),
        (StyleReference("x", images=IMAGE), "mj_style_reference"),
        (OmniReference("x", images=IMAGE), "mj_omni_reference"),
        (ImageToVideo("x", image=IMAGE), "mj_video"),
        (ImageToVideo("x", image=IMAGE, hd=True), "mj_video_hd"),
        (Upscale("abc", 0), "mj_upscale"),
        (Vary("abc", 0), "mj_vary"),
        (Extend("abc", 0), "mj_video_extend_auto"),
        (Extend("abc", 0, prompt="more"), "mj_video_extend_manual"),
        (ExistingTask("abc"), ""),
        (ChainStep("upscale", "k", 0), "mj_upscale"),
        (ChainStep("vary", "k", 0), "mj_vary"),
        (ChainStep("video", "k", 0), "mj_video"),
        (ChainStep("video-hd", "k", 0), "mj_video_hd"),
        (ChainStep("extend", "k", 0, "of the chain"), "mj_video_extend_auto"),
        (ChainStep("extend", "k", 0, "more", own_words=True), "mj_video_extend_manual"),
    ],
)
def test_every_type_has_its_service_name(request_: Request, name: str) -> None:
    """The service's name of each type (kie-api.md), where it has one."""
    assert request_.task_type == name
    assert not name or name in requests.TASK_TYPES


@pytest.mark.parametrize(
    ("request_", "title"),
    [
        (TextToImage("a fox"), "a fox"),
        (Upscale("abc", 2), "upscale 2 of task abc"),
        (Vary("abc", 0), "vary 0 of task abc"),
        (Extend("abc", 0, prompt="more"), "extend 0 of task abc"),
        (ExistingTask("abc"), ""),
        (ExistingTask("abc", prompt="a fox"), "a fox"),
        (ChainStep("upscale", "1-ab", 2, "a fox"), "upscale 2 of a fox"),
        (ChainStep("upscale", "1-ab", 2), "upscale 2 of 1-ab"),
    ],
)
def test_what_people_are_told_of_a_request(request_: Request, title: str) -> None:
    """Its prompt, or what it does to which task."""
    assert request_.title == title


def test_what_a_request_lacks() -> None:
    """What a type has no field for can be asked all the same."""
    upscale = Upscale("abc", 0)
    assert (upscale.prompt, upscale.speed, upscale.callback_url) == ("", None, None)
    existing = ExistingTask("abc")
    assert (existing.speed, existing.callback_url, existing.then) == (None, None, ())
    bare = Request()
    assert (bare.task_type, bare.prompt, bare.given()) == ("", "", {})
