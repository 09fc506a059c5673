"""Prompt lists from files: every prompt knows its line, every mistake names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.prompt_files import read_prompts


def test_one_a_line(tmp_path: Path) -> None:
    """Blank lines and comments are skipped, and prompts remember where they stood."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa fox\r\n\r\n# no\r\n  ein Wal ~ 鯨  \r\n".encode())
    found = list(read_prompts(path))
    assert [(one.text, one.place) for one in found] == [
        ("a fox", f"{path}:1"),
        ("ein Wal ~ 鯨", f"{path}:4"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no prompts"),
        (b"# only\n\n", "no prompts"),
        (b"a fox\nbad \xff byte\n", ":2: not UTF-8"),
        (b"a fox\n" + b"x" * 2001, ":2: prompt: 2001"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, content: bytes, words: str) -> None:
    """An error says in which file and line the mistake is."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        list(read_prompts(str(path)))
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, or a folder, is bad input that names it."""
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            list(read_prompts(path))


def test_read_as_it_is_needed(tmp_path: Path) -> None:
    """A long file is not read at once: what comes before a mistake comes out first."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a fox\n" * 3 + b"\xff\n")
    prompts = read_prompts(path)
    assert [next(prompts).line for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvalidRequest):
        next(prompts)
