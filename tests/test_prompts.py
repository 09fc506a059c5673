"""Prompt lists: what is a prompt, and where an error points to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.rules.prompts import Prompt, parse_lines, parse_task_ids


def parse(*lines: bytes) -> list[Prompt]:
    return list(parse_lines(lines, "list.txt"))


def test_one_prompt_a_line() -> None:
    """Each line is a prompt without its outer blanks; blank lines and comments are skipped."""
    found = parse(
        b"a fox\n", b"\n", b"# a comment\n", b"  an owl --ar 3:4 \r\n", b"  # too\n", b"hare"
    )
    assert [(one.text, one.line) for one in found] == [
        ("a fox", 1),
        ("an owl --ar 3:4", 4),
        ("hare", 6),
    ]
    assert [one.place for one in found] == ["list.txt:1", "list.txt:4", "list.txt:6"]


def test_a_hash_inside_is_no_comment() -> None:
    """Only a line that starts with # is a comment."""
    assert [one.text for one in parse(b"room #9")] == ["room #9"]


def test_a_byte_order_mark_is_no_text() -> None:
    """The mark that some editors write at the start of a file is dropped, also before a comment."""
    assert [one.text for one in parse(b"\xef\xbb\xbfa fox\n", b"b")] == ["a fox", "b"]
    assert [one.text for one in parse(b"\xef\xbb\xbf# note\n", b"b")] == ["b"]


def test_any_script() -> None:
    """Prompts are UTF-8 text in any script."""
    assert parse("лиса 🦊 狐".encode())[0].text == "лиса 🦊 狐"


@pytest.mark.parametrize(
    ("lines", "place", "words"),
    [
        ([b"fine\n", b"caf\xe9\n"], "list.txt:2:", "byte 0xe9 at position 4"),
        ([b"\xef\xbb\xbfcaf\xe9\n"], "list.txt:1:", "byte 0xe9 at position 4"),
        ([b"\xff\xfea\x00\n"], "list.txt:1:", "byte 0xff at position 1"),
        ([], "list.txt:", "no prompts"),
        ([b"# only\n", b" \n"], "list.txt:", "no prompts"),
    ],
)
def test_an_error_names_file_and_line(lines: list[bytes], place: str, words: str) -> None:
    """What is wrong with a list is said with file, line and, for bad bytes, position (law 8)."""
    with pytest.raises(InvalidRequest) as caught:
        parse(*lines)
    assert str(caught.value).startswith(place)
    assert words in str(caught.value)
    assert caught.value.field == "prompt"


def test_a_prompt_of_any_length_is_read() -> None:
    """Braces may make short prompts of a long line: how long one may be is decided later."""
    assert len(parse(("ä" * 3000 + "\r\n").encode())[0].text) == 3000


def test_a_list_is_read_as_it_goes() -> None:
    """Prompts come out one by one: an endless list is not read to its end first (law 6)."""

    def endless() -> Any:
        while True:
            yield b"a fox\n"

    prompts = parse_lines(endless(), "list.txt")
    assert [next(prompts).line for _ in range(3)] == [1, 2, 3]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=5))
def test_any_bytes_give_prompts_or_a_refusal(lines: list[bytes]) -> None:
    """Whatever a file holds, its prompts make requests, or InvalidRequest says why not."""
    try:
        found = parse(*lines)
    except InvalidRequest:
        return
    assert found
    assert all(one.text.strip() and one.line >= 1 for one in found)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InvalidRequest("speed: no", field="speed", value=5), "list.csv:7: speed: no"),
        (InvalidRequest("version: no", field="version"), "list.csv:7: --model: version: no"),
        (InvalidRequest("no"), "list.csv:7: no"),
    ],
)
def test_an_error_gets_its_place(error: InvalidRequest, told: str) -> None:
    """File, line, and the column where the list calls it otherwise; field and value are kept."""
    prompt = Prompt(
        "a fox", "list.csv", 7, {"version": "9"}, {"version": "--model", "speed": "speed"}
    )
    located = prompt.located(error)
    assert str(located) == told
    assert (located.field, located.value) == (error.field, error.value)


def test_task_ids_one_a_line() -> None:
    """A list of tasks is read like one of prompts."""
    lines = [b"\xef\xbb\xbf# from the web app\n", b"\n", b" 9f47c52047dd \r\n", b"mj_task_abc123"]
    assert [one.task_id for one in parse_task_ids(lines, "ids.txt")] == [
        "9f47c52047dd",
        "mj_task_abc123",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"abc\n", b"x y\n"], r"ids\.txt:2: task_id: 'x y' is not a task id"),
        ([b"abc\n", b"\xff\n"], r"ids\.txt:2: not UTF-8"),
        ([b"# nothing\n"], r"ids\.txt: no task ids in it"),
    ],
)
def test_a_bad_list_of_tasks(lines: list[bytes], message: str) -> None:
    """What is no id, and a list without one, is an error that names its place."""
    with pytest.raises(InvalidRequest, match=message):
        list(parse_task_ids(lines, "ids.txt"))
