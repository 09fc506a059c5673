"""Prompt lists from files: every prompt knows its line, every mistake names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import sim_client, simulated

from kie_mj_async.errors import InvalidRequest
from kie_mj_async.jobs import Saved
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


FORMATS = {
    "list.csv": (
        "prompt,ar,model,images",
        "a fox,16:9,,",
        ",,,",
        '"an owl, white",,niji6,a.png|http://x/b.png',
    ),
    "list.TSV": (
        "prompt\tar\tmodel\timages",
        "a fox\t16:9",
        "an owl, white\t\tniji6\ta.png|http://x/b.png",
    ),
    "list.jsonl": (
        '{"prompt": "a fox", "ar": "16:9"}',
        "",
        '{"prompt": "an owl, white", "model": "niji6", "images": ["a.png", "http://x/b.png"]}',
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_fields_beside_prompts(tmp_path: Path, name: str) -> None:
    """Tables and JSON lines are told by their names, and hold fields; paths start at the list."""
    path = tmp_path / name
    path.write_text("\n".join(FORMATS[name]))
    fox, owl = read_prompts(path)
    assert (fox.text, fox.fields) == ("a fox", {"aspect_ratio": "16:9"})
    assert fox.place == f"{path}:{1 if name == 'list.jsonl' else 2}"
    images = [str(tmp_path / "a.png"), "http://x/b.png"]
    assert (owl.text, owl.fields) == ("an owl, white", {"version": "niji6", "images": images})


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("fox.png", "lists/fox.png"),
        ("../fox.png", "lists/../fox.png"),
        ("/pictures/fox.png", "/pictures/fox.png"),
        ("https://x.test/fox.png", "https://x.test/fox.png"),
    ],
)
def test_paths_start_at_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, found: str
) -> None:
    """A relative path is one from the list's folder; anything else stays as it is."""
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    Path("lists/list.csv").write_text(f"prompt,image\na fox,{image}\n")
    (prompt,) = read_prompts("lists/list.csv")
    assert prompt.fields == {"image": found}


@pytest.mark.anyio
async def test_rows_override_what_goes_for_all(tmp_path: Path) -> None:
    """``Client.render`` gives a row its own fields first, and makes each what its fields ask for."""
    path = tmp_path / "list.csv"
    path.write_text(
        "prompt,speed,task_type,image\n"
        "a fox --ar 16:9,,,\n"
        "an owl,turbo,,http://x.test/owl.png\n"
        '"a {red, blue} newt",,style-reference,http://x.test/newt.png\n'
    )
    async with simulated() as simulator, sim_client(simulator) as client:
        batch = client.render(read_prompts(path), tmp_path / "out", speed="relaxed")
        outcomes = [outcome async for outcome in batch]
        bodies = [create["body"] for create in simulator.books()["creates"]]
    assert len(outcomes) == 4
    assert all(isinstance(outcome, Saved) for outcome in outcomes)
    told = ("taskType", "prompt", "speed", "aspectRatio", "fileUrls")
    assert [tuple(body.get(name) for name in told) for body in bodies] == [
        ("mj_txt2img", "a fox", "relaxed", "16:9", None),
        ("mj_img2img", "an owl", "turbo", None, ["http://x.test/owl.png"]),
        ("mj_style_reference", "a red newt", "relaxed", None, ["http://x.test/newt.png"]),
        ("mj_style_reference", "a blue newt", "relaxed", None, ["http://x.test/newt.png"]),
    ]
