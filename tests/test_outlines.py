"""Outlines: what has one costs the same and is of one class, whatever its words are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import (
    REQUEST_TYPES,
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
from kie_mj_async.rules.billing import Prices
from kie_mj_async.rules.kinds import kind_of
from kie_mj_async.rules.outlines import outline

IMAGE = "https://cdn.example/fox.png"
PRICES = Prices(
    25,
    {
        "mj_txt2img": {"relaxed": 1, "fast": 2, "turbo": 3, "default": 4},
        "mj_video": {"fast": 5, "default": 6},
        "mj_video_hd": {"default": 7},
        "mj_upscale": {"default": 8},
        "mj_vary": {"default": 9},
        "mj_video_extend_manual": {"default": 10},
        "mj_video_extend_auto": {"default": 11},
    },
)


def stored(request: Request) -> dict[str, Any]:
    """The request as a ledger tells it."""
    told: dict[str, Any] = json.loads(json.dumps(request.to_dict()))
    return told


OF_EACH_TYPE = [
    TextToImage("a fox", version="7", speed="fast", watermark="me", callback_url=IMAGE, raw=True),
    ImageToImage("a fox", image=[IMAGE, IMAGE + "?2"]),
    StyleReference("a fox", images=[IMAGE]),
    OmniReference("a fox", images=[IMAGE], omni_weight=5),
    ImageToVideo("a fox", image=IMAGE, hd=True, batch_size=2),
    Upscale("abc", 1),
    Vary("abc", 1, watermark="me"),
    Extend("abc", 0, prompt="on and on"),
    ExistingTask("abc", prompt="a fox", made_with={"type": "Vary", "images": [IMAGE]}),
    ChainStep("video", "1-abc", 0, "a fox", own_words=True, speed="turbo"),
]


@pytest.mark.parametrize("request_", OF_EACH_TYPE, ids=lambda one: type(one).__name__)
def test_a_request_of_each_type_has_an_outline(request_: Request) -> None:
    """It is the same before and after the ledger has stored it, and no other type's."""
    assert {type(one).__name__ for one in OF_EACH_TYPE} == REQUEST_TYPES.keys()
    mine = outline(stored(request_))
    assert [one for one in OF_EACH_TYPE if outline(stored(one)) == mine] == [request_]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TextToImage("a fox"), TextToImage("an owl, oil on canvas", watermark="me")),
        (TextToImage("a fox --v 7 --ar 1:1"), TextToImage("an owl's head --v 7 --ar 1:1")),
        (ImageToImage("x", image=IMAGE), ImageToImage("y", image=IMAGE + "?2")),
        (Upscale("abc", 0), Upscale("def", 3)),
        (ExistingTask("abc"), ExistingTask("def")),
        (ChainStep("upscale", "1-a", 0, "a fox"), ChainStep("upscale", "1-b", 1, "an owl")),
    ],
)
def test_what_differs_in_words_and_images_only(one: Request, other: Request) -> None:
    """Words, images and tasks matter to neither price nor class, so it has one outline."""
    assert outline(stored(one)) == outline(stored(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TextToImage("a fox"), TextToImage("a fox --turbo")),
        (TextToImage("a fox"), TextToImage("a fox", speed="turbo")),
        (TextToImage("a fox --turbo"), TextToImage("a fox --turbo", raw=True)),
        (TextToImage("a --turbo"), TextToImage("--turbo")),
        (TextToImage('a sign " --turbo "'), TextToImage('a sign "x" --turbo "')),
        (TextToImage("a fox"), TextToImage("a fox —turbo")),
        (Extend("abc", 0), Extend("abc", 0, prompt="on")),
        (ImageToVideo("x", image=IMAGE), ImageToVideo("x", image=IMAGE, hd=True)),
        (ChainStep("vary", "1-a", 0), ChainStep("upscale", "1-a", 0)),
    ],
)
def test_what_may_differ_in_price_or_class(one: Request, other: Request) -> None:
    """Flags count, as far as they are flags, and every field that says what is made."""
    assert outline(stored(one)) != outline(stored(other))


_PIECES = st.sampled_from(
    [
        *("a", "fox", " ", "  ", "\t", '"', "“", "”", "--", "—", "\u2013", "-", "x--fast"),
        *("--turbo", "--fast", "--relax", "—turbo", "\u2013fast", "--v 7", "--niji", "--v 99"),
        *("--oref", f"--oref {IMAGE}", "--draft", "--ar 1:1", "--hd", "--turbo now", "--motion"),
    ]
)
_WORDS = st.lists(_PIECES, max_size=5).map("".join)
_FIELDS: list[dict[str, Any]] = [{}, {"speed": "turbo"}, {"raw": True}, {"watermark": "me"}]


def made(words: str, fields: dict[str, Any]) -> list[Request]:
    """Requests of several types with these words, as far as they can be."""
    found: list[Request] = []
    with suppress(InvalidRequest):
        found.append(ChainStep("extend", "1-a", 0, words, own_words=bool(words)))
        found.append(Extend("abc", 0, prompt=words))
        found.append(TextToImage(words, **fields))
        found.append(ImageToVideo(words, image=IMAGE, **fields))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_WORDS, min_size=4, max_size=6),
    st.lists(_WORDS, min_size=1, max_size=3),
    st.sampled_from(_FIELDS),
)
def test_one_outline_means_one_price_and_one_class(
    heads: list[str], tails: list[str], fields: dict[str, Any]
) -> None:
    """Whatever prompts are made of: what is true of one with an outline is true of all."""
    groups: dict[Hashable, list[Request]] = defaultdict(list)
    for head, tail in product([*heads, "a fox", "an owl", ""], tails):
        for one in made(head + " " + tail, fields) + made(head + tail, fields):
            groups[outline(stored(one))].append(request_from_dict(stored(one)))
    for group in groups.values():
        assert len({PRICES.of(one) for one in group}) == 1, group
        assert len({kind_of(one) for one in group}) == 1, group
