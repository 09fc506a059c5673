"""Flags in prompts: which move to fields, which stay, and which are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.requests import ASPECT_RATIOS, VERSIONS, TextToImage
from kie_mj_async.rules.flags import FIELDS, Flags, merge, parts, split_flags

OF_AN_IMAGE = FIELDS - {"omni_weight", "motion", "batch_size"}


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("--ar 16:9", {"aspect_ratio": "16:9"}),
        ("--aspect 2:3", {"aspect_ratio": "2:3"}),
        ("--v 7", {"version": "7"}),
        ("--version 6.1", {"version": "6.1"}),
        ("--v 6.0", {"version": "6"}),
        ("--niji 6", {"version": "niji6"}),
        ("--niji 7", {"version": "niji7"}),
        ("--s 500", {"stylization": 500}),
        ("--stylize 0", {"stylization": 0}),
        ("--w 3000", {"weirdness": 3000}),
        ("--weird 100", {"weirdness": 100}),
        ("--c 10", {"variety": 10}),
        ("--chaos 100", {"variety": 100}),
        ("--ow 400", {"omni_weight": 400}),
        ("--fast", {"speed": "fast"}),
        ("--relax", {"speed": "relaxed"}),
        ("--turbo", {"speed": "turbo"}),
        ("--motion low", {"motion": "low"}),
        ("--bs 2", {"batch_size": 2}),
        ("--AR 16:9 --Niji 6 --RELAX", {"aspect_ratio": "16:9", "version": "niji6", "speed": "relaxed"}),
        ("\u2014ar 3:2 \u2013v 7", {"aspect_ratio": "3:2", "version": "7"}),
        ("--ar\t4:3\n--s  50", {"aspect_ratio": "4:3", "stylization": 50}),
    ],
)  # fmt: skip
def test_a_flag_moves_to_its_field(flags: str, fields: dict[str, Any]) -> None:
    """Each spelling that Midjourney documents gives the field, and leaves the text alone."""
    found = split_flags(f"a fox, in  snow {flags}")
    assert (found.text, found.fields) == ("a fox, in  snow", fields)


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox",
        "a fox --no cats, dogs --seed 1 --tile --p abc123 --style raw --raw --q 2",
        "a fox --sref https://cdn.example/a--ar.png https://cdn.example/b.png --sw 60",
        "a fox --brand-new 5 --ar=16:9 --ar16:9",
        "a well--v 7 known fox--fast",
        "https://cdn.example/x--s5.png a fox",
        "a fox -- ar 16:9 - v 7 -v 7",
        'a sign that says "use --fast now"',
        "a sign that says “--v 7” in red",
        "a road —fast and empty— at night",
        "what a fox —v shaped ears",
        "a fox —s",
        "  a   fox ",
        "",
    ],
)
def test_what_has_no_field_stays_as_it_is(prompt: str) -> None:
    """Flags without a field, dashes of prose, words with hyphens, links and quotes are untouched."""
    assert split_flags(prompt) == Flags(prompt)


@pytest.mark.parametrize("flag", ["--ar 7:3", "--ar 21:9", "--v 5", "--v 8", "--niji 5", "--niji"])
def test_a_value_that_only_midjourney_has_stays(flag: str) -> None:
    """What the field lacks and Midjourney may take goes on to it, and is told."""
    found = split_flags(f"a fox {flag} --s 50 --no cat")
    assert found.text == f"a fox {flag} --no cat"
    assert found.fields == {"stylization": 50}
    assert [(one.value, one.written) for one in found.found] == [(None, flag), (50, "--s 50")]


def test_a_ratio_is_reduced() -> None:
    """A ratio in other numbers is the same ratio."""
    for ratio, plain in {"32:18": "16:9", "1920:1080": "16:9", "4:2": "2:1"}.items():
        assert split_flags(f"a fox --ar {ratio}").fields == {"aspect_ratio": plain}


def test_a_type_that_lacks_the_field_keeps_the_flag() -> None:
    """A flag whose field the type does not take stays, unread."""
    prompt = "a fox --ow 400 --bs 9 --motion blur --v 7"
    found = split_flags(prompt, OF_AN_IMAGE)
    assert (found.text, found.fields) == ("a fox --ow 400 --bs 9 --motion blur", {"version": "7"})
    assert split_flags(prompt, ()) == Flags(prompt)


@pytest.mark.parametrize(
    ("flags", "text", "fields"),
    [
        ("--ar 1:1 --ar 16:9", "a fox", {"aspect_ratio": "16:9"}),
        ("--v 7 --seed 1 --niji 6", "a fox --seed 1", {"version": "niji6"}),
        ("--fast --relax", "a fox", {"speed": "relaxed"}),
        ("--ar 7:3 --ar 16:9", "a fox", {"aspect_ratio": "16:9"}),
        ("--ar 16:9 --s 5 --ar 7:3", "a fox --ar 16:9 --ar 7:3", {"stylization": 5}),
    ],
)
def test_the_last_of_two_counts(flags: str, text: str, fields: dict[str, Any]) -> None:
    """As in Midjourney; all flags of a field move, or all stay in their order."""
    found = split_flags(f"a fox {flags}")
    assert (found.text, found.fields) == (text, fields)


@pytest.mark.parametrize(
    ("prompt", "words", "field"),
    [
        ("a fox --s 1001", "--s 1001 in the prompt is not allowed; use a whole", "stylization"),
        ("a fox --s 2.5", "--s 2.5 in the prompt", "stylization"),
        ("a fox --weird -1", "from 0 to 3000", "weirdness"),
        ("a fox --c ٣", "from 0 to 100", "variety"),
        ("a fox --chaos " + "9" * 5000, "--chaos '999", "variety"),
        ("a fox --ow 0", "from 1 to 1000", "omni_weight"),
        ("a fox --ar 1.39:1", "two whole numbers, width to height, such as 16:9", "aspect_ratio"),
        ("a fox --ar wide", "--ar wide", "aspect_ratio"),
        ("a fox --ar 0:1", "--ar 0:1", "aspect_ratio"),
        ("a fox --ar 16:9, --v 7", "--ar 16:9, in the prompt", "aspect_ratio"),
        ("a fox --v newest", "such as 7 or 6.1", "version"),
        ("a fox --niji cute", "--niji cute", "version"),
        ("a fox --motion wild", "use one of high, low", "motion"),
        ("a fox --bs 3", "use one of 1, 2, 4", "batch_size"),
        ("a fox --ar", "--ar in the prompt has no value", "aspect_ratio"),
        ("a fox --v --s 5", "--v in the prompt has no value", "version"),
        ("a --ar 1:1 fox in snow", "--ar 1:1 in the prompt is followed by 'fox in", "aspect_ratio"),
        ("a fox --fast cars", "--fast in the prompt is followed by 'cars'", "speed"),
        ("a fox --s \x1b[1m", "--s '\\x1b[1m'", "stylization"),
    ],
)  # fmt: skip
def test_what_midjourney_refuses_is_refused_before_it_costs(
    prompt: str, words: str, field: str
) -> None:
    """A value out of range, a missing one, and text after a flag are errors that name the flag."""
    with pytest.raises(InvalidRequest) as caught:
        split_flags(prompt)
    assert words in str(caught.value)
    assert (caught.value.field, len(str(caught.value)) < 250) == (field, True)


@pytest.mark.parametrize("prompt", ["--ar 16:9", " --tile", "--sref https://a.example/x.png --v 7"])
def test_a_prompt_of_flags_only_is_refused(prompt: str) -> None:
    """Midjourney needs a text; the error says so."""
    with pytest.raises(
        InvalidRequest, match="nothing but flags; Midjourney needs a text"
    ) as caught:
        split_flags(prompt)
    assert (caught.value.field, caught.value.value) == ("prompt", prompt)


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        (
            "85mm lens look --sref https://a.example/cat.png https://a.example/gradient.png "
            "--sw 60 --seed 123456 --v 7 --ar 3:4",
            "85mm lens look --sref https://a.example/cat.png https://a.example/gradient.png "
            "--sw 60 --seed 123456",
        ),
        (
            "Front view 45 degrees. --oref https://a.example/cat.png --ow 500 --seed 123456 "
            "--v 7 --ar 3:4",
            "Front view 45 degrees. --oref https://a.example/cat.png --ow 500 --seed 123456",
        ),
    ],
)
def test_prompts_of_recorded_tasks(prompt: str, left: str) -> None:
    """Prompts of text-to-image tasks that the service took: the fields are those it recorded."""
    found = split_flags(prompt, OF_AN_IMAGE)
    assert found.text == left
    request = TextToImage(found.text, **merge(found, {"speed": "fast", "stylization": 300}))
    assert request.given() | {"prompt": ""} == {
        "prompt": "",
        "version": "7",
        "aspect_ratio": "3:4",
        "speed": "fast",
        "stylization": 300,
    }


def test_flags_and_options_make_the_fields() -> None:
    """What is given either way counts; an option that is not given does not."""
    found = split_flags("a fox --ar 16:9 --s 50")
    options = {"version": "7", "speed": None, "aspect_ratio": None}
    assert merge(found, options) == {"aspect_ratio": "16:9", "stylization": 50, "version": "7"}


@pytest.mark.parametrize(
    ("flag", "option"),
    [
        ("--ar 32:18", {"aspect_ratio": " 16:9 "}),
        ("--v 7", {"version": 7}),
        ("--v 6.1", {"version": 6.1}),
        ("--niji 6", {"version": "Niji6"}),
        ("--relax", {"speed": "Relax"}),
        ("--s 50", {"stylization": 50}),
        ("--motion low", {"motion": "Low"}),
    ],
)
def test_the_same_said_twice_is_fine(flag: str, option: dict[str, Any]) -> None:
    """A flag and an option that agree, in any spelling, are one field."""
    found = split_flags(f"a fox {flag}")
    assert merge(found, option) == found.fields


@pytest.mark.parametrize(
    ("flag", "option", "message"),
    [
        ("--ar 16:9", {"aspect_ratio": "1:1"}, "--ar 16:9 in the prompt and --aspect-ratio 1:1 contra"),
        ("--ar 7:3", {"aspect_ratio": "1:1"}, "--ar 7:3 in the prompt and --aspect-ratio 1:1 contra"),
        ("--niji", {"version": "7"}, "--niji in the prompt and version 7 contradict each other; keep"),
        ("--c 1", {"variety": True}, "--c 1 in the prompt and variety True contradict"),
        ("\u2014v 7", {"version": []}, "\u2014v 7 in the prompt and version \\[\\] contradict"),
    ],
)  # fmt: skip
def test_a_clash_names_both(flag: str, option: dict[str, Any], message: str) -> None:
    """A flag and an option that differ are an error that names both as the user calls them."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        merge(split_flags(f"a fox {flag}"), option, {"aspect_ratio": "--aspect-ratio"})
    assert {caught.value.field: caught.value.value} == option


def test_text_and_flags_apart() -> None:
    """Where the flags begin, whatever they are."""
    assert parts("a fox  --tile --ar 1:1 ") == ("a fox", "--tile --ar 1:1 ")
    assert parts("a fox \u2014no cats") == ("a fox", "\u2014no cats")
    assert parts("a fox ") == ("a fox ", "")
    assert parts("--s 9999") == ("", "--s 9999")


def test_a_text_of_dashes_is_read_in_good_time() -> None:
    """A long text of would-be flags costs no more than its length allows."""
    for one in ("\u2014fast a ", '"a ', "\u201c ", "--no "):
        parts("a " + one * 5000)


PIECES = st.sampled_from(
    [
        *("--", "\u2014", "\u2013", "ar", "v", "fast", "niji", "s", "no", "x", " ", "  ", "\n"),
        *('"', "“", "”", "16:9", "7:3", "7", "6", ",", "{", "fox", "https://a.example/--v"),
    ]
)
NEAR_FLAGS = st.lists(PIECES, max_size=14).map("".join)
WORDS = st.text(st.characters(exclude_characters="-\u2013\u2014"), min_size=1).filter(str.strip)
GOOD = st.one_of(
    st.sampled_from(ASPECT_RATIOS).map(lambda one: ("aspect_ratio", one, f"--ar {one}")),
    st.sampled_from([v for v in VERSIONS if v[0] != "n"]).map(lambda v: ("version", v, f"--v {v}")),
    st.integers(0, 1000).map(lambda n: ("stylization", n, f"—s {n}")),
    st.integers(0, 3000).map(lambda n: ("weirdness", n, f"--WEIRD {n}")),
    st.integers(0, 100).map(lambda n: ("variety", n, f"--c {n}")),
    st.just(("speed", "turbo", "--turbo")),
)


@given(WORDS)
def test_any_text_without_dashes_is_itself(text: str) -> None:
    """A prompt without flags comes out letter by letter as it was."""
    assert split_flags(text) == Flags(text)
    assert parts(text) == (text, "")


@settings(max_examples=500)
@given(NEAR_FLAGS | st.text(), st.sampled_from([FIELDS, OF_AN_IMAGE, {"speed"}, ()]))
def test_a_second_split_finds_nothing_more(text: str, takes: Any) -> None:
    """Whatever the text: it is refused, or what is left has no flag that would move."""
    try:
        found = split_flags(text, takes)
    except InvalidRequest:
        return
    again = split_flags(found.text, takes)
    assert (again.text, again.fields) == (found.text, {})
    assert set(found.fields) <= set(takes)


@given(NEAR_FLAGS | st.text())
def test_parts_lose_nothing_but_blanks(text: str) -> None:
    """Text and flags together are the prompt."""
    words, flags = parts(text)
    assert "".join(f"{words} {flags}".split()) == "".join(text.split())


@given(WORDS, st.lists(GOOD, max_size=5))
def test_flags_written_again_say_the_same(text: str, flags: list[tuple[str, Any, str]]) -> None:
    """A text with flags gives these fields, the last of each; what was found, written again, too."""
    found = split_flags(" ".join([text, *(written for *_, written in flags)]))
    assert found.fields == {field: value for field, value, _ in flags}
    again = " ".join([found.text, *(one.written for one in found.found)])
    assert split_flags(again).fields == found.fields
    assert found.text.rstrip() == text.rstrip()
    TextToImage("a fox", **found.fields)


@pytest.mark.parametrize(
    "flag", [" \u2014ar", " \u2014foo", " \u2014ar 1 1", " --ar", ' "x', " \u201cx"]
)
def test_a_long_line_of_dashes_is_read_at_once(flag: str) -> None:
    """However long a line is: a single dash is not weighed against the whole rest of it."""
    began = time.process_time()
    words, behind = parts("a" + flag * 30_000)
    assert words.startswith("a")
    assert len(words) + len(behind) > 30_000
    assert time.process_time() - began < 1
