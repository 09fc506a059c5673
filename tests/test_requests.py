"""What can be asked for: every field's limits, spellings and messages."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async import requests
from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    ExistingTask,
    ImageToImage,
    ImageToVideo,
    PromptRequest,
    Request,
    TextToImage,
    is_http_url,
    request_from_dict,
)

IMAGE = "https://cdn.example/fox.png"

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
]
BAD_VIDEO: list[tuple[str, Any, str]] = [
    ("image", None, URL),
    ("image", "fox.png", URL),
    ("image", "https://", URL),
    ("image", "https://x/a b.png", URL),
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


@pytest.mark.parametrize("kind", [ImageToImage, ImageToVideo])
def test_an_image_is_required(kind: type[PromptRequest]) -> None:
    """A request that starts from an image cannot be made without one."""
    with pytest.raises(TypeError, match="image"):
        kind("x")


def test_only_the_prompt_is_positional() -> None:
    """Fields besides the prompt are named, so that their order never matters."""
    with pytest.raises(TypeError):
        TextToImage("x", "7")  # type: ignore[call-arg]


def test_a_request_is_frozen_and_hashable() -> None:
    """A request is a value; an edited one is checked again."""
    request = TextToImage("x", speed="fast")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.speed = "turbo"  # type: ignore[misc]
    assert hash(request) == hash(TextToImage("x", speed="Fast"))
    with pytest.raises(InvalidRequest):
        attrs.evolve(request, speed="warp")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://a.b/c", True),
        ("http://a", True),
        ("HTTPS://A.B", True),
        ("https://[::1]:8080/x", True),
        ("https://a:65535/", True),
        ("https://a:65536/", False),
        ("https://a:x/", False),
        ("https://[::1/", False),
        ("https://", False),
        ("https:///path", False),
        ("//a/b", False),
        ("a/b.png", False),
        ("C:\\fox.png", False),
        ("file:///etc/passwd", False),
        ("https://a/b c", False),
        ("https://a/\x00", False),
        ("https://a/\ud800", False),
        (None, False),
        (b"https://a", False),
    ],
)
def test_what_counts_as_a_url(text: object, good: bool) -> None:
    """Absolute http(s) URLs with a host pass; everything else does not."""
    assert is_http_url(text) is good


@given(st.text() | st.binary() | st.integers() | st.none())
def test_any_text_is_a_url_or_not(text: object) -> None:
    """Deciding on a URL never raises."""
    assert is_http_url(text) in (True, False)


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
}


def _made(kind: type[Request], **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Request]:
    fields = st.fixed_dictionaries({"prompt": _TEXTS, **needed}, optional=_COMMON)
    return fields.map(lambda given: kind(**given))


REQUESTS = st.one_of(
    _made(TextToImage),
    _made(ImageToImage, image=_URLS),
    _made(
        ImageToVideo,
        image=_URLS,
        motion=st.sampled_from(requests.MOTIONS),
        batch_size=st.sampled_from(requests.BATCH_SIZES),
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
_NAMES = st.sampled_from(["prompt", "image", "motion", "batch_size", *_COMMON, "surprise"])


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
        ({"prompt": "x"}, "type", "use one of TextToImage, ImageToImage, ImageToVideo"),
        ({"type": "Request", "prompt": "x"}, "type", "TextToImage"),
        ({"type": ["TextToImage"], "prompt": "x"}, "type", "TextToImage"),
        ({"type": "TextToImage", "prompt": "x", "sped": 1}, "sped", "is no field of TextToImage"),
        ({"type": "TextToImage", "prompt": "x", "speed": "warp"}, "speed", "turbo"),
        ({"type": "TextToImage"}, None, "prompt"),
        ({"type": "ImageToImage", "prompt": "x"}, None, "image"),
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


def test_every_type_has_its_service_name() -> None:
    """The types that can be read back, with the service's name of each."""
    assert {name: kind.task_type for name, kind in requests.REQUEST_TYPES.items()} == {
        "TextToImage": "mj_txt2img",
        "ImageToImage": "mj_img2img",
        "ImageToVideo": "mj_video",
        "ExistingTask": "",
    }


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
