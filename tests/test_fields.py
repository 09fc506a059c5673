"""Checks and spellings of fields: what passes, and what is said of the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async import fields
from kie_mj_async.errors import InvalidRequest
from kie_mj_async.fields import is_address, is_http_url, is_local

URL = "https://a.example/fox.png"
KEPT = "input:" + "0a" * 32 + ".png"
Check = Callable[[Any, Any, Any], None]


def refusal(check: Check, value: Any, default: Any = None) -> InvalidRequest | None:
    """What a check says of a field called ``it``; ``None`` if it lets the value pass."""
    made = attrs.make_class("Made", {"it": attrs.field(default=default)})
    try:
        check(made(), attrs.fields(made).it, value)
    except InvalidRequest as error:
        return error
    return None


def check_refused(check: Check, value: Any, words: str, default: Any = None) -> None:
    error = refusal(check, value, default)
    assert error is not None
    assert error.field == "it"
    assert error.value == value or error.value is value
    assert str(error).startswith("it: ")
    assert words in str(error)
    assert len(str(error)) < 240


def test_what_is_shown_of_a_value_is_short() -> None:
    """A refusal names the field, the value cut short, and the rule, and carries the value whole."""
    error = fields.refuse("prompt", "x" * 500, "is too long")
    assert str(error) == "prompt: '" + "x" * 56 + "... is too long"
    assert (error.field, error.value) == ("prompt", "x" * 500)


@pytest.mark.parametrize(
    ("convert", "given", "kept"),
    [
        (fields.spelled, " 16:9 ", "16:9"),
        (fields.spelled, "Niji6", "niji6"),
        (fields.spelled, 5, 5),
        (fields.spelled, None, None),
        (fields.speed_text, "Relax", "relaxed"),
        (fields.speed_text, " RELAXED", "relaxed"),
        (fields.speed_text, "Turbo", "turbo"),
        (fields.speed_text, None, None),
        (fields.required_text, " High ", "high"),
        (fields.required_text, " ", " "),
        (fields.required_text, 3, 3),
        (fields.required_text, None, None),
        (fields.version_text, 7, "7"),
        (fields.version_text, 6.0, "6"),
        (fields.version_text, 5.2, "5.2"),
        (fields.version_text, "NIJI7", "niji7"),
        (fields.version_text, True, "True"),
        (fields.version_text, None, None),
        (fields.stripped, " abc\n", "abc"),
        (fields.stripped, 7, 7),
    ],
)
def test_spellings_become_the_official_ones(
    convert: Callable[[Any], Any], given: Any, kept: Any
) -> None:
    """Any case, outer blanks and numbers are taken; what is no text is left to the check."""
    assert convert(given) == kept


@pytest.mark.parametrize("value", [None, "a", "b"])
def test_one_of_takes_the_listed_and_none_where_it_is_the_default(value: Any) -> None:
    """The listed values pass, and "not given" where the field may be left out."""
    assert refusal(fields.one_of(("a", "b")), value) is None


@pytest.mark.parametrize(("value", "default"), [("c", None), ("", None), (1, None), (None, "a")])
def test_one_of_refuses_the_rest(value: Any, default: Any) -> None:
    """What is not listed is refused with the list; None too, where the field has a value."""
    check_refused(fields.one_of(("a", "b")), value, "is not allowed; use one of a, b", default)


@pytest.mark.parametrize("value", [2.0, True, "2", 3])
def test_one_of_numbers_looks_at_the_type(value: Any) -> None:
    """2.0 and True equal a listed number, and would be another text on the wire."""
    assert refusal(fields.one_of((1, 2, 4)), 2) is None
    check_refused(fields.one_of((1, 2, 4)), value, "use one of 1, 2, 4")


def test_between_includes_both_ends() -> None:
    """Both ends of a range pass, and None where the field may be left out."""
    check = fields.between(0, 5)
    assert [refusal(check, value) for value in (0, 5, None)] == [None] * 3
    for value in (-1, 6, 1.0, "3", True, float("nan"), [3]):
        check_refused(check, value, "is not allowed; use a whole number from 0 to 5")
    check_refused(fields.between(0, 5, needed=True), None, "use a whole number from 0 to 5")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "a text that is not blank"),
        (" \n", "a text that is not blank"),
        (None, "a text that is not blank"),
        (b"fox", "a text that is not blank"),
        ("x" * 2001, "has 2001 characters; the service takes up to 2000"),
        ("half \ud800", "a lone surrogate"),
    ],
)
def test_what_is_no_prompt(value: Any, words: str) -> None:
    """Blank, too long, no text, or not to be encoded."""
    check_refused(fields.check_prompt, value, words)


def test_what_is_a_prompt() -> None:
    """2000 characters of any script count as characters, not bytes."""
    assert refusal(fields.check_prompt, "狐" * 2000) is None


def test_texts_and_switches() -> None:
    """An optional text is not blank if it is given; a switch is True or False, and nothing like it."""
    assert [refusal(fields.check_text, value) for value in (None, "mine")] == [None, None]
    for value, words in (("", "not blank"), (5, "not blank"), ("\udfff", "surrogate")):
        check_refused(fields.check_text, value, words)
    assert [refusal(fields.check_flag, value) for value in (None, True, False)] == [None] * 3
    for value in (1, 0, "yes"):
        check_refused(fields.check_flag, value, "use True or False")


def test_addresses_of_callbacks() -> None:
    """An http(s) URL, or None where the field may be left out."""
    assert [refusal(fields.check_url, value) for value in (None, URL)] == [None, None]
    check_refused(fields.check_url, None, "http:// or https:// URL", default="x")
    check_refused(fields.check_url, "ftp://a/b", "http:// or https:// URL")


@pytest.mark.parametrize("value", ["9f47c52047dda21bb3df0488736cce57", "mj_task_abc123", "x" * 200])
def test_task_ids(value: str) -> None:
    """Both forms that were seen are ids."""
    assert refusal(fields.check_task_id, value) is None


@pytest.mark.parametrize("value", ["", "a b", "../x", "-x", "x" * 201, "id?x=1", "é", None, 7])
def test_what_is_no_task_id(value: Any) -> None:
    """What the service would never have given is refused before anything is asked."""
    check_refused(
        fields.check_task_id, value, "is not a task id; use what the service calls taskId"
    )


class _Pathlike:
    def __fspath__(self) -> str:
        return "fox.png"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (URL, URL),
        ("fox.png", "fox.png"),
        (Path("fox.png"), Path("fox.png")),
        (PurePosixPath("fox.png"), Path("fox.png")),
        (_Pathlike(), Path("fox.png")),
        (b"bytes", b"bytes"),
        (bytearray(b"bytes"), b"bytes"),
        (memoryview(b"bytes"), b"bytes"),
        (5, 5),
        (None, None),
    ],
)
def test_an_image_is_a_text_a_path_or_bytes(given: Any, kept: Any) -> None:
    """It is kept as something that can be hashed; a single one is a list of one."""
    made = fields.image_source(given)
    assert (made, type(made)) == (kept, type(kept))
    assert fields.image_sources(given) == (kept,)
    assert fields.one_or_more(given) == kept


def test_lists_of_images() -> None:
    """Any iterable is a list; of one it is that one, where one is all that there can be."""
    assert fields.image_sources(iter([URL, bytearray(b"b")])) == (URL, b"b")
    assert fields.one_or_more([URL, b"b"]) == (URL, b"b")
    assert fields.one_or_more([URL]) == URL
    assert fields.one_or_more([]) == ()


@pytest.mark.parametrize(
    "value", [URL, "fox.png", "a b/fox.png", Path("x"), b"x", KEPT, "C:\\x.png"]
)
def test_images(value: Any) -> None:
    """URLs, paths, bytes and kept images pass, alone or several."""
    assert refusal(fields.check_image, value) is None
    assert refusal(fields.check_images, value) is None
    assert refusal(fields.check_images, (value, URL)) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "use an http(s) URL, the path of a file, or a file's bytes"),
        ("", "use an http(s) URL"),
        (" ", "use an http(s) URL"),
        ("fox\0.png", "use an http(s) URL"),
        (5, "use an http(s) URL"),
        (["fox.png"], "use an http(s) URL"),
        (b"", "holds no image"),
        ("ftp://a/b.png", "use an http:// or https:// URL, or a path"),
        ("https://", "use an http:// or https:// URL, or a path"),
        ("https://x/a b.png", "use an http:// or https:// URL, or a path"),
        ("data:image/png;base64,AAAA", "use an http:// or https:// URL, or a path"),
        ("DATA:,x", "use an http:// or https:// URL, or a path"),
        ((), "give at least one image"),
    ],
)
def test_what_is_no_image(value: Any, words: str) -> None:
    """The message says what can be given; it is the same for one image and for several."""
    check_refused(fields.check_images, value, words)
    check_refused(fields.check_image, value, words)
    if value != ():
        with pytest.raises(InvalidRequest) as caught:
            fields.check_images(None, attrs.fields(attrs.make_class("M", ["it"])).it, (URL, value))
        assert (caught.value.field, caught.value.value) == ("it", value)


def test_several_images_where_one_is_taken() -> None:
    """The message says how many were given."""
    check_refused(fields.check_image, (URL, KEPT), "it takes one image, not 2")


def test_bytes_are_not_shown() -> None:
    """What people see of a file's bytes is how many there are."""
    assert fields.shown_images(b"x" * 1500) == "<1,500 bytes>"
    assert fields.shown_images((URL, b"x")) == f"({URL!r}, <1 bytes>)"
    assert fields.shown_images((b"x",)) == "(<1 bytes>,)"


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("fox.png", True),
        (Path("fox.png"), True),
        (b"x", True),
        (URL, False),
        (KEPT, False),
        (KEPT[:-1], True),
        (None, False),
        (5, False),
    ],
)
def test_what_is_still_to_be_taken_in(source: object, local: bool) -> None:
    """Paths and bytes are; URLs and what was taken in are not."""
    assert is_local(source) is local


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
def test_any_value_is_a_url_or_not(text: object) -> None:
    """Deciding on a URL never raises; what is one is meant as an address."""
    assert is_http_url(text) in (True, False)
    if isinstance(text, str) and is_http_url(text):
        assert is_address(text)


@given(st.text() | st.binary() | st.none() | st.lists(st.text() | st.binary(), max_size=3))
def test_any_images_pass_or_are_refused(value: Any) -> None:
    """Whatever is given, it is images that can be hashed, or InvalidRequest says why not."""
    kept = fields.one_or_more(value)
    if refusal(fields.check_images, kept) is None:
        hash(kept)
        assert os.fspath(kept) if isinstance(kept, Path) else kept
