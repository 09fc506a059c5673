"""Steps of chains: how one is written, and what is said of what cannot be read."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.steps import KINDS, MAX_INDEX, Step, check_steps, steps


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("upscale:0", Step("upscale", 0)),
        ("upscale:0,2", Step("upscale", (0, 2))),
        ("upscale: 2 , 0", Step("upscale", (2, 0))),
        (" Vary : 1 ", Step("vary", 1)),
        ("video_hd:3", Step("video-hd", 3, "")),
        ("VIDEO-HD:3", Step("video-hd", 3)),
        ("video:0 a slow pan --motion low", Step("video", 0, "a slow pan --motion low")),
        ("video:0,1\n two lines\nof words \n", Step("video", (0, 1), "two lines\nof words")),
        ("video:0 2 cats", Step("video", 0, "2 cats")),
        ("extend:0", Step("extend", 0)),
        ("extend:0 more rain: a lot", Step("extend", 0, "more rain: a lot")),
        ("upscale:007", Step("upscale", 7)),
        ("upscale:00000000012", Step("upscale", 12)),
        ("upscale:99", Step("upscale", MAX_INDEX)),
    ],
)
def test_a_step_as_it_is_written(text: str, step: Step) -> None:
    """A kind, a colon, results with commas between, and words; case and blanks do not count."""
    assert Step.parse(text) == step
    assert Step.parse(str(step)) == step


def test_how_a_step_is_told() -> None:
    """A step's text is what a user would write."""
    assert str(Step("Upscale", [0, 2])) == "upscale:0,2"
    assert str(Step("video", 0, "a pan")) == "video:0 a pan"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no step; write STEP:INDEX, such as upscale:0,2"),
        ("upscale", "write STEP:INDEX"),
        ("upscale:", "write STEP:INDEX"),
        ("upscale:a", "write STEP:INDEX"),
        ("upscale:0,", "write STEP:INDEX"),
        ("video:0 , a pan", "write STEP:INDEX"),
        ("upscale:-1", "write STEP:INDEX"),
        ("upscale:0x", "write STEP:INDEX"),
        ("upscale:٣", "write STEP:INDEX"),
        ("upscale 0", "write STEP:INDEX"),
        (
            "grow:0",
            "'grow:0': kind: 'grow' is no step; use one of upscale, vary, video, video-hd, ext",
        ),
        ("upscale:0,0", "'upscale:0,0': indexes: (0, 0) names a result twice"),
        ("upscale:100", "'upscale:100': indexes: (100,) is not allowed; say which results"),
        ("upscale:" + "9" * 5000, "indexes: (999999999,) is not allowed"),
        ("upscale:0 sharper", "then: 'sharper' is not allowed; upscale takes no prompt"),
        ("vary:0 bluer", "vary takes no prompt"),
        ("video:0 " + "x" * 2001, "prompt: 'xxx"),
    ],
)
def test_what_is_no_step(text: str, words: str) -> None:
    """The message shows what was written and how to write it."""
    with pytest.raises(InvalidRequest) as caught:
        Step.parse(text)
    assert words in str(caught.value)
    assert str(caught.value).startswith("then: ")
    assert (caught.value.field, caught.value.value) == ("then", text)
    assert len(str(caught.value)) < 260


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": None}, "kind"),
        ({"kind": ["upscale"]}, "kind"),
        ({"indexes": None}, "indexes"),
        ({"indexes": True}, "indexes"),
        ({"indexes": "0"}, "indexes"),
        ({"indexes": ()}, "indexes"),
        ({"indexes": (0, 1.0)}, "indexes"),
        ({"indexes": (0, False)}, "indexes"),
        ({"indexes": -1}, "indexes"),
        ({"prompt": None}, "prompt"),
        ({"prompt": " "}, "prompt"),
    ],
)
def test_a_step_of_wrong_values(fields: dict[str, Any], name: str) -> None:
    """A field that cannot be is refused by name, however the step was made."""
    with pytest.raises(InvalidRequest) as caught:
        Step(**{"kind": "video", "indexes": 0, **fields})
    assert caught.value.field == name


def test_chains_in_any_form() -> None:
    """Texts, steps, one or several of them, or nothing."""
    upscale, video = Step("upscale", (0, 2)), Step("video", 0)
    assert steps(None) == steps([]) == ()
    assert steps("upscale:0,2") == steps(upscale) == (upscale,)
    assert steps(["upscale:0,2", video]) == steps(iter((upscale, "video:0"))) == (upscale, video)


@pytest.mark.parametrize("value", [5, [5], b"upscale:0", [None], [["upscale:0"]]])
def test_what_is_no_chain(value: Any) -> None:
    """What is no step in a chain is refused, with how to write one."""
    field = attrs.fields(attrs.make_class("Made", ["then"])).then
    with pytest.raises(InvalidRequest, match=r"^then: .* is no step; write STEP:INDEX"):
        check_steps(None, field, steps(value))
    check_steps(None, field, steps("upscale:0"))


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(0, MAX_INDEX), min_size=1, max_size=4, unique=True),
    st.from_regex(r"[a-z][a-z0-9 ,:]{0,20}[a-z]", fullmatch=True) | st.just(""),
)
def test_what_was_written_reads_the_same(kind: str, indexes: list[int], words: str) -> None:
    """A step's own text is that step again."""
    step = Step(kind, indexes, words if kind not in ("upscale", "vary") else "")
    assert Step.parse(str(step)) == step


@given(st.text() | st.from_regex(r"[a-z]{3,7}:[0-9, ]{1,6}.{0,5}"))
def test_any_text_is_a_step_or_refused(text: str) -> None:
    """Reading a step gives one or InvalidRequest."""
    try:
        assert Step.parse(text).kind in KINDS
    except InvalidRequest:
        return


@pytest.mark.parametrize(
    "text",
    [
        "video:0 a" + " " * 200_000 + "b",
        "video:" + "0," * 100_000 + "x",
        " " * 200_000,
        "video:0" + " " * 200_000 + ",",
        "x" * 200_000,
        "video" + " " * 200_000,
    ],
)
def test_long_texts_do_not_take_long(text: str) -> None:
    """Reading takes time in proportion to the text, whatever it is (law 7)."""
    began = time.perf_counter()
    with pytest.raises(InvalidRequest):
        Step.parse(text)
    assert time.perf_counter() - began < 2
