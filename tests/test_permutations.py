r"""Permutations: ``a {red, green} bird`` makes what Midjourney makes of it."""

from __future__ import annotations

import re
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.rules.permutations import MAX_DEPTH, MAX_EXPANSIONS, count, expand


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a {red, green, yellow} bird", ["a red bird", "a green bird", "a yellow bird"]),
        (
            "a fruit salad bird --ar {3:2, 1:1, 2:3, 1:2}",
            [f"a fruit salad bird --ar {one}" for one in ("3:2", "1:1", "2:3", "1:2")],
        ),
        (
            "a fruit salad bird --{v 5, niji, test}",
            [f"a fruit salad bird --{one}" for one in ("v 5", "niji", "test")],
        ),
        (
            "a {red, green} bird in the {jungle, desert}",
            [f"a {c} bird in the {w}" for c in ("red", "green") for w in ("jungle", "desert")],
        ),
        (
            "A {sculpture, painting} of a {seagull {on a pier, on a beach}, "
            "poodle {on a sofa, in a truck}}.",
            [
                f"A {art} of a {who}."
                for art in ("sculpture", "painting")
                for who in (
                    "seagull on a pier",
                    "seagull on a beach",
                    "poodle on a sofa",
                    "poodle in a truck",
                )
            ],
        ),
        ("{red, pastel, yellow} bird", ["red bird", "pastel bird", "yellow bird"]),
        (r"{red, pastel \, yellow} bird", ["red bird", "pastel, yellow bird"]),
    ],
)
def test_what_midjourney_documents(text: str, prompts: list[str]) -> None:
    """The examples of Midjourney's own pages, in their order."""
    assert list(expand(text)) == prompts
    assert count(text) == len(prompts)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("{ red ,green } bird", ["red bird", "green bird"]),
        ("{red} bird", ["red bird"]),
        ("{} bird", ["bird"]),
        ("{a,a}", ["a", "a"]),
        ("a {, red} bird", ["a bird", "a red bird"]),
        ("{, red} bird", ["bird", "red bird"]),
        ("a bird {, --tile}", ["a bird", "a bird --tile"]),
        ("a{n owl, fox}", ["an owl", "afox"]),
        ("v {5.2, 6 {, --raw}} x", ["v 5.2 x", "v 6 x", "v 6 --raw x"]),
        (r"woman{::, ::2, \,} cars", ["woman:: cars", "woman::2 cars", "woman, cars"]),
        (r"{a \{b\, c\}, d}", ["a {b, c}", "d"]),
        (r"\{red, green\} \, bird", [r"{red, green} \, bird"]),
        (r"{a\b, c\ } \d", [r"a\b \d", r"c\ \d"]),
        ("{\n a,\n b\n}", ["a", "b"]),
        (" a  fox, --no x\\,y ", [" a  fox, --no x\\,y "]),
        ("", [""]),
    ],
)
def test_blanks_escapes_and_empty_options(text: str, prompts: list[str]) -> None:
    """Blanks around options go, escaped characters are text, and an option may be empty."""
    assert list(expand(text)) == prompts
    assert count(text) == len(prompts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {red, {green} bird", "prompt: column 3: { is never closed"),
        ("a {red, {green", "prompt: column 9: { is never closed"),
        ("red} bird", "prompt: column 4: } closes nothing"),
        (r"{red\} bird", "prompt: column 1: { is never closed"),
        ("{" * 5000, f"prompt: column {MAX_DEPTH + 1}: braces within more than {MAX_DEPTH} others"),
    ],
)
def test_a_brace_without_a_partner(text: str, message: str) -> None:
    """The error names the column, and how to write a plain brace."""
    for call in (count, expand):
        with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
            call(text)
        assert r"\{ and \} are plain braces" in str(caught.value)
        assert (caught.value.field, caught.value.value) == ("prompt", text)


def test_groups_may_stand_deep() -> None:
    """Up to the limit, nesting is fine."""
    assert list(expand("{a," * MAX_DEPTH + "b" + "}" * MAX_DEPTH)) == ["a"] * MAX_DEPTH + ["b"]


@pytest.mark.parametrize(
    ("text", "many"),
    [
        ("{a,b}" * 40, "1,099,511,627,776"),
        ("{a,b}" * 4000, "more than 10^15"),
        ("{" + "x," * 1000 + "x}", "1,001"),
    ],
)
def test_a_prompt_bomb_is_refused_before_anything_is_made(text: str, many: str) -> None:
    """Too many prompts are counted, not made: the error comes from the call, before the first."""
    with pytest.raises(InvalidRequest, match=re.escape(f"make {many} prompts; at most 1,000 are")):
        expand(text)


def test_the_count_has_no_limit() -> None:
    """A count is exact, however large; the cap is the caller's."""
    assert count("{a,b}" * 400) == 2**400
    assert len(list(expand("{" + "x," * 1000 + "x}", cap=1001))) == 1001
    assert list(expand("a fox", cap=1)) == ["a fox"]
    with pytest.raises(InvalidRequest, match=r"its braces make 2 prompts; at most 1 are"):
        expand("{a,b}", cap=1)


def test_prompts_are_made_as_they_are_asked_for() -> None:
    """The first prompts of a great many come at once."""
    first = list(islice(expand("{a,b}" * 45, cap=2**45), 2))
    assert first == ["a" * 45, "a" * 44 + "b"]


def escaped(option: str) -> str:
    return re.sub(r"([{},])", r"\\\1", option)


NEAR = st.lists(st.sampled_from(["{", "}", ",", "\\", " ", "a", "b ", "{a,b}"]), max_size=16)
OPTIONS = st.lists(
    st.text(max_size=8)
    .map(lambda one: re.sub(r"\s+,", ",", one).strip())
    .filter(lambda one: not one.endswith("\\")),
    min_size=1,
    max_size=5,
)


@given(st.text(st.characters(exclude_characters="{}")))
def test_a_text_without_braces_is_itself(text: str) -> None:
    """Whatever else is in it, blanks and backslashes too."""
    assert (list(expand(text)), count(text)) == ([text], 1)


@settings(max_examples=500)
@given(NEAR.map("".join) | st.text())
def test_a_text_makes_as_many_prompts_as_were_counted(text: str) -> None:
    """Whatever the text: both refuse it, or what is made is what was counted."""
    try:
        total = count(text)
    except InvalidRequest:
        with pytest.raises(InvalidRequest):
            expand(text)
        return
    if total > MAX_EXPANSIONS:
        with pytest.raises(InvalidRequest):
            expand(text)
    else:
        assert len(list(expand(text))) == total


@given(st.lists(OPTIONS, min_size=1, max_size=3))
def test_each_choice_comes_once_and_in_order(groups: list[list[str]]) -> None:
    """Escaped options come out as they went in: every combination, the first group slowest."""
    text = "|".join("{" + ", ".join(map(escaped, group)) + "}" for group in groups)
    assert list(expand(text)) == ["|".join(choice) for choice in product(*groups)]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers(1, 4))
def test_every_position_is_made_once(letters: list[str], groups: int) -> None:
    """Told apart by number, no two prompts are the same, and none is missing."""
    group = "{" + ",".join(f"{letter}{n}" for n, letter in enumerate(letters)) + "}"
    made = list(expand("-".join([group] * groups)))
    assert len(set(made)) == len(made) == len(letters) ** groups
