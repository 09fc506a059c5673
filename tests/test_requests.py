"""What can be asked for: every field's limits, spellings and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    request_from_dict,
)
from kie_mj_async.steps import Step

IMAGE = "https://cdn.example/fox.png"
OTHER = "https://cdn.example/owl.png"
KEPT = "input:" + "0a" * 32 + ".png"

GOOD: list[tuple[str, Any]] = [
    ("prompt", "x"),
    ("prompt", "x" * 2000),
    ("prompt", "  as it was written  "),
    ("stylization", 0),
    ("stylization", 1000),
    ("weirdness", 0),
    ("weirdness", 3000),
    ("variety", 0),
    ("variety", 100),
    ("watermark", "mine"),
    ("translate", True),
    ("translate", False),
    ("callback_url", "http://localhost:8080/hook?x=1"),
    *[("version", one) for one in ("7", "6.1", "6", "5.2", "5.1", "niji6", "niji7")],
    *[("speed", one) for one in ("relaxed", "fast", "turbo")],
    *[("aspect_ratio", one) for one in ("2:1", "16:9", "4:3", "3:2", "6:5", "1:1", "5:6")],
    *[("aspect_ratio", one) for one in ("3:4", "2:3", "9:16", "1:2")],
]

WHOLE = "whole number from {} to {}"
TEXT = "text that is not blank"
URL = "http:// or https:// URL"
SOURCE = "use an http(s) URL, the path of a file, or a file's bytes"
BAD: list[tuple[str, Any, str]] = [
    ("prompt", "", TEXT),
    ("prompt", " \n\t", TEXT),
    ("prompt", None, TEXT),
    ("prompt", 5, TEXT),
    ("prompt", b"bytes", TEXT),
    ("prompt", "x" * 2001, "has 2001 characters; the service takes up to 2000"),
    ("prompt", "half \ud800", "lone surrogate"),
    ("version", "8", "7, 6.1, 6, 5.2, 5.1, niji6, niji7"),
    ("version", "niji", "niji6"),
    ("version", 8, "6.1"),
    ("version", True, "6.1"),
    ("version", float("nan"), "6.1"),
    ("version", 10**310, "6.1"),
    ("version", "", "6.1"),
    ("version", ["7"], "6.1"),
    ("speed", "warp", "relaxed, fast, turbo"),
    ("speed", 1, "relaxed, fast, turbo"),
    ("speed", "", "relaxed, fast, turbo"),
    ("aspect_ratio", "7:3", "2:1, 16:9, 4:3, 3:2, 6:5, 1:1, 5:6, 3:4, 2:3, 9:16, 1:2"),
    ("aspect_ratio", 1, "16:9"),
    *[
        (name, bad, WHOLE.format(0, top))
        for name, top in (("stylization", 1000), ("weirdness", 3000), ("variety", 100))
        for bad in (-1, top + 1, 1.0, "5", True, float("nan"), [5])
    ],
    ("watermark", "", TEXT),
    ("watermark", "  ", TEXT),
    ("watermark", 5, TEXT),
    ("watermark", "\udfff", "lone surrogate"),
    ("translate", 1, "True or False"),
    ("translate", "yes", "True or False"),
    ("callback_url", "ftp://x/y", URL),
    ("callback_url", "", URL),
    ("raw", "yes", "True or False"),
    ("then", 5, "is no step; write STEP:INDEX, such as upscale:0,2"),
]
BAD_VIDEO: list[tuple[str, Any, str]] = [
    ("image", None, SOURCE),
    ("image", 5, SOURCE),
    ("image", b"", "holds no image"),
    ("image", "https://", URL),
    ("image", "https://x/a b.png", URL),
    ("image", "ftp://x/a.png", URL),
    ("image", (), "give at least one image"),
    ("image", (IMAGE, OTHER), "it takes one image, not 2"),
    ("hd", 1, "True or False"),
    ("motion", None, "high, low"),
    ("motion", "", "high, low"),
    ("motion", "medium", "high, low"),
    ("motion", 3, "high, low"),
    ("batch_size", 3, "1, 2, 4"),
    ("batch_size", 0, "1, 2, 4"),
    ("batch_size", True, "1, 2, 4"),
    ("batch_size", 2.0, "1, 2, 4"),
    ("batch_size", "2", "1, 2, 4"),
    ("batch_size", None, "1, 2, 4"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_a_field_takes_what_the_service_takes(name: str, value: Any) -> None:
    """Every official value and both ends of every range are taken, and kept as they are."""
    request = TextToImage(**{"prompt": "x", name: value})
    assert getattr(request, name) == value
    assert request.given() == {"prompt": "x", name: value}


def _check_refusal(caught: InvalidRequest, name: str, value: Any, words: str) -> None:
    assert caught.field == name
    assert caught.value is value or caught.value == value or str(value) == caught.value
    shown = repr(caught.value)
    assert str(caught).startswith(f"{name}: {shown[:40]}")
    assert words in str(caught)
    assert len(str(caught)) < 240


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_field_refuses_the_rest(name: str, value: Any, words: str) -> None:
    """A value out of range is refused; the message names field, value and what is allowed."""
    with pytest.raises(InvalidRequest) as caught:
        TextToImage(**{"prompt": "x", name: value})
    _check_refusal(caught.value, name, value, words)


@pytest.mark.parametrize(("name", "value", "words"), BAD_VIDEO)
def test_a_video_field_refuses_the_rest(name: str, value: Any, words: str) -> None:
    """The fields of a video have no None: they are required, or have a default."""
    with pytest.raises(InvalidRequest) as caught:
        ImageToVideo("x", **{"image": IMAGE, name: value})
    _check_refusal(caught.value, name, value, words)


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("speed", "Relax", "relaxed"),
        ("speed", "relax", "relaxed"),
        ("speed", "RELAXED", "relaxed"),
        ("speed", "Fast", "fast"),
        ("speed", " Turbo ", "turbo"),
        ("version", "Niji6", "niji6"),
        ("version", "NIJI7", "niji7"),
        ("version", 7, "7"),
        ("version", 7.0, "7"),
        ("version", 6.1, "6.1"),
        ("version", " 6 ", "6"),
        ("aspect_ratio", " 16:9", "16:9"),
        ("motion", "High", "high"),
        ("motion", " LOW ", "low"),
    ],
)
def test_other_spellings_become_the_official_ones(name: str, given: Any, kept: str) -> None:
    """The seed's spellings, any case, outer blanks and numbers are taken; the official one is kept."""
    assert getattr(ImageToVideo("x", image=IMAGE, **{name: given}), name) == kept


def test_absent_fields_are_not_given() -> None:
    """A field that was not given is None, so that the service's own default applies."""
    assert TextToImage("x").given() == {"prompt": "x"}
    assert ImageToVideo("x", image=IMAGE).given() == {
        "prompt": "x",
        "image": IMAGE,
        "motion": "high",
        "batch_size": 1,
    }


@pytest.mark.parametrize("image", [IMAGE, "fox.png", Path("fox.png"), b"bytes", KEPT])
def test_an_image_in_every_form(image: Any) -> None:
    """A URL, a path, a file's bytes, or one that was taken in; alone or in a list."""
    for kind in (ImageToImage, ImageToVideo):
        assert kind("x", image=image) == kind("x", image=[image])
        assert kind("x", image=image).image == image
        assert list(kind("x", image=image).images_given()) == [("image", image)]
    for several in (StyleReference, OmniReference):
        assert several("x", images=image) == several("x", images=[image])
        assert several("x", images=(image,)).images == (image,)
        made = several("x", images=[image, IMAGE])
        assert list(made.images_given()) == [("images", image), ("images", IMAGE)]
    assert ImageToImage("x", image=[image, OTHER]).image == (image, OTHER)


def test_bytes_of_images_are_not_shown() -> None:
    """What is logged of a request does not hold a file."""
    assert "image=<9 bytes>" in repr(ImageToVideo("x", image=bytes(9)))
    assert "images=(<9 bytes>,)" in repr(OmniReference("x", images=bytes(9)))


def test_a_request_without_images() -> None:
    """Where a type has no images, none are given."""
    assert list(TextToImage("x").images_given()) == []
    assert list(Upscale("abc", 0).images_given()) == []


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("index", None, WHOLE.format(0, 3)),
        ("index", -1, WHOLE.format(0, 3)),
        ("index", 4, WHOLE.format(0, 3)),
        ("index", True, WHOLE.format(0, 3)),
        ("index", "0", WHOLE.format(0, 3)),
        ("task_id", "a b", "is not a task id"),
        ("task_id", None, "is not a task id"),
        ("watermark", " ", TEXT),
        ("callback_url", "me.test", URL),
        ("prompt", " ", TEXT),
        ("prompt", None, TEXT),
        ("prompt", "x" * 2001, "2001 characters"),
    ],
)
def test_a_field_of_a_follow_up_refuses_the_rest(name: str, bad: Any, words: str) -> None:
    """The fields of follow-ups have the limits of kie-api.md too."""
    with pytest.raises(InvalidRequest) as caught:
        Extend(**{"task_id": "abc", "index": 0, name: bad})
    _check_refusal(caught.value, name, bad, words)


@pytest.mark.parametrize("bad", [0, 1001, 5.0, True, "5"])
def test_the_omni_weight(bad: Any) -> None:
    """1 to 1000."""
    assert [OmniReference("x", images=IMAGE, omni_weight=n).omni_weight for n in (1, 1000)] == [
        1,
        1000,
    ]
    with pytest.raises(InvalidRequest) as caught:
        OmniReference("x", images=IMAGE, omni_weight=bad)
    _check_refusal(caught.value, "omni_weight", bad, WHOLE.format(1, 1000))


@pytest.mark.parametrize("kind", [StyleReference, OmniReference])
@pytest.mark.parametrize(
    ("images", "words"),
    [([], "at least one image"), ([IMAGE, ""], SOURCE), (None, SOURCE), ([IMAGE, b""], "no image")],
)
def test_lists_of_images_that_cannot_be(kind: Any, images: Any, words: str) -> None:
    """A list needs an image, and each has to be one."""
    with pytest.raises(InvalidRequest, match=r"^images: ") as caught:
        kind("x", images=images)
    assert words in str(caught.value)


def test_chains_are_read_when_a_request_is_made() -> None:
    """What is to follow is read and checked with the request, and is no part of its plain form."""
    request = TextToImage("x", then=["upscale:0,2", Step("video", 0)])
    assert request.then == (Step("upscale", (0, 2)), Step("video", 0))
    assert Upscale("abc", 0, then="video:0 a pan").then == (Step("video", 0, "a pan"),)
    assert request.to_dict() == TextToImage("x").to_dict() == {"type": "TextToImage", "prompt": "x"}
    assert (TextToImage("x").then, ExistingTask("abc").then) == ((), ())
    with pytest.raises(InvalidRequest, match=r"^then: 'grow:0': kind: 'grow' is no step"):
        TextToImage("x", then="grow:0")


def test_only_the_prompt_is_positional() -> None:
    """Fields besides the prompt are named, so that their order never matters."""
    with pytest.raises(TypeError):
        TextToImage("x", "7")  # type: ignore[call-arg]


def test_a_request_is_frozen_and_hashable() -> None:
    """A request is a value; an edited one is checked again."""
    slip: Any = {"sped": "fast"}
    request = TextToImage("x", speed="fast")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.speed = "turbo"  # type: ignore[misc]
    assert hash(request) == hash(TextToImage("x", speed="Fast"))
    with pytest.raises(InvalidRequest, match=r"^speed"):
        attrs.evolve(request, speed="warp")
    with pytest.raises(InvalidRequest, match=r"^sped: is no field of TextToImage"):
        attrs.evolve(request, **slip)


_URLS = st.builds(
    lambda word: f"https://a.example/{word}.png", st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda one: bool(one.strip())
)
_COMMON: dict[str, st.SearchStrategy[Any]] = {
    "version": st.sampled_from(requests.VERSIONS),
    "speed": st.sampled_from(requests.SPEEDS),
    "aspect_ratio": st.sampled_from(requests.ASPECT_RATIOS),
    "stylization": st.integers(0, 1000),
    "weirdness": st.integers(0, 3000),
    "variety": st.integers(0, 100),
    "watermark": _TEXTS,
    "translate": st.booleans(),
    "callback_url": _URLS,
    "raw": st.booleans(),
}


def _made(kind: type[Request], **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Request]:
    fields = st.fixed_dictionaries({"prompt": _TEXTS, **needed}, optional=_COMMON)
    return fields.map(lambda given: kind(**given))


_IMAGES = _URLS | st.just(KEPT)
_SEVERAL = st.lists(_IMAGES, min_size=1, max_size=3)
_IDS = st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True)


def _following(kind: type[Request], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Request]:
    needed = {"task_id": _IDS, "index": st.integers(0, 3)}
    optional = {"watermark": _TEXTS, "callback_url": _URLS, **more}
    return st.fixed_dictionaries(needed, optional=optional).map(lambda given: kind(**given))


REQUESTS = st.one_of(
    _made(TextToImage),
    _made(ImageToImage, image=_IMAGES | _SEVERAL),
    _made(StyleReference, images=_SEVERAL),
    _made(OmniReference, images=_SEVERAL, omni_weight=st.none() | st.integers(1, 1000)),
    _made(
        ImageToVideo,
        image=_IMAGES,
        motion=st.sampled_from(requests.MOTIONS),
        batch_size=st.sampled_from(requests.BATCH_SIZES),
        hd=st.booleans(),
    ),
    _following(Upscale),
    _following(Vary),
    _following(Extend, prompt=_TEXTS | st.just("")),
    st.builds(ExistingTask, _IDS, prompt=st.text(st.characters(exclude_categories=["Cs"]))),
    st.builds(
        ChainStep,
        st.sampled_from(["upscale", "video"]),
        _IDS,
        st.integers(0, 3),
        _TEXTS,
        own_words=st.booleans(),
        speed=st.none() | st.sampled_from(requests.SPEEDS),
        raw=st.booleans(),
    ),
)


@given(REQUESTS)
def test_a_request_survives_json(request: Request) -> None:
    """The plain form, through JSON and back, is the same request of the same type."""
    again = request_from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert type(again) is type(request)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
_NAMES = st.sampled_from(
    [
        *sorted(
            {one.name for kind in requests.REQUEST_TYPES.values() for one in attrs.fields(kind)}
        ),
        "surprise",
    ]
)


@given(
    st.sampled_from([*requests.REQUEST_TYPES, "Request", "", None]),
    st.dictionaries(_NAMES, _JUNK, max_size=6),
)
def test_any_stored_form_gives_a_request_or_a_refusal(kind: Any, fields: dict[str, Any]) -> None:
    """Whatever stands in a stored form, reading it gives a request or InvalidRequest."""
    try:
        request = request_from_dict({"type": kind, **fields})
    except InvalidRequest:
        return
    assert type(request).__name__ == kind


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        ({"prompt": "x"}, "type", "use one of TextToImage, ImageToImage, StyleReference"),
        ({"type": "Request", "prompt": "x"}, "type", "TextToImage"),
        ({"type": ["TextToImage"], "prompt": "x"}, "type", "TextToImage"),
        ({"type": "TextToImage", "prompt": "x", "sped": 1}, "sped", "is no field of TextToImage"),
        ({"type": "TextToImage", "prompt": "x", "speed": "warp"}, "speed", "turbo"),
        ({"type": "TextToImage"}, None, "prompt"),
        ({"type": "TextToImage", "speed": "fast"}, "prompt", "is missing"),
        ({"type": "ImageToImage", "prompt": "x"}, "image", "is missing"),
    ],
)
def test_a_stored_form_that_is_wrong(data: dict[str, Any], field: str | None, words: str) -> None:
    """A stored form with an unknown type or field, or without a required one, is refused by name."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        request_from_dict(data)
    assert caught.value.field == field


def test_reading_leaves_the_stored_form_alone() -> None:
    """request_from_dict does not eat its argument."""
    data = {"type": "TextToImage", "prompt": "x"}
    request_from_dict(data)
    assert data == {"type": "TextToImage", "prompt": "x"}


def test_switches_that_say_nothing_are_not_kept() -> None:
    """What was written before a field existed reads, and is written, as it always was."""
    assert "raw" not in TextToImage("x", raw=False).to_dict()
    assert "hd" not in ImageToVideo("x", image=IMAGE, hd=False).to_dict()
    assert TextToImage("x", raw=True).to_dict()["raw"] is True
    assert Extend("abc", 0).to_dict() == {"type": "Extend", "task_id": "abc", "index": 0}


def test_an_existing_task_is_known_by_its_id() -> None:
    """A task needs nothing but its id, and is read back with whatever is known of it."""
    bare = ExistingTask("  mj_task_abc123 ")
    assert (bare.task_id, bare.prompt, bare.params(), bare.speed) == (
        "mj_task_abc123",
        "",
        {},
        None,
    )
    assert request_from_dict(bare.to_dict()) == bare
    known = ExistingTask("t1", prompt="a fox", made_with={"type": "TextToImage", "speed": "fast"})
    assert request_from_dict(known.to_dict()) == known
    assert known.params() == {"type": "TextToImage", "speed": "fast"}


@pytest.mark.parametrize("task_id", ["", "  ", "a b", "../x", "x" * 201, "id?x=1", "é", None, 7])
def test_what_cannot_be_a_task_id(task_id: Any) -> None:
    """An id that the service would never have given is refused before anything is asked."""
    with pytest.raises(InvalidRequest, match=r"task_id: .* is not a task id"):
        ExistingTask(task_id)


def test_the_params_of_a_request() -> None:
    """What is told of a request besides its prompt; how to be told of its end is not part of it."""
    request = TextToImage("a fox", speed="fast", callback_url="https://me.test/hook")
    assert request.params() == {"type": "TextToImage", "speed": "fast"}
