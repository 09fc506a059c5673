"""From lists to requests: formats, overrides, and errors that name the place."""

from __future__ import annotations

import json

import pytest
from cli_support import Shell, bodies, complaint, serving

from kie_mj_async.rules import uploads

LISTS: list[tuple[str, bytes | None, list[str]]] = [
    ("missing.txt", None, ["missing.txt", "No such file"]),
    ("empty.txt", b"", ["empty.txt", "no prompts", "one a line"]),
    ("notes.txt", b"# only notes\n\n", ["notes.txt", "no prompts"]),
    ("latin.txt", "a fox\ncaf\xe9\n".encode("latin-1"), ["latin.txt:2", "UTF-8", "0xe9"]),
    ("long.txt", b"a fox\n" * 6 + b"x" * 3000 + b"\n", ["long.txt:7: prompt: ", "3000", "2000"]),
    ("flag.txt", b"a fox\na hare --ar wide\n", ["flag.txt:2: --ar wide", "16:9"]),
    ("last.txt", b"a --v 7 fox\n", ["last.txt:1: --v 7", "followed by 'fox'"]),
    ("brace.txt", b"a fox\na {red fox\n", ["brace.txt:2: prompt: column 3: { is never closed"]),
    ("many.txt", b"a {1,2,3,4,5} {1,2,3,4,5,6} {1,2,3,4,5,6} {1,2,3,4,5,6}\n", ["1,080", "1,000"]),
    ("empty.csv", b"prompt\n", ["empty.csv", "no prompts"]),
    ("head.csv", b"prompt,colour\na fox,red\n", ["head.csv:1: 'colour' is no field"]),
    ("cell.csv", b"prompt,model\na fox,7\na hare,8\n", ["cell.csv:3: model: ", "'8'", "niji7"]),
    ("whole.csv", b"prompt,s\na fox,much\n", ["whole.csv:2: s: 'much'", "whole number"]),
    ("type.csv", b"prompt,task_type\na fox,song\n", ["type.csv:2: task_type: 'song'", "mj_video"]),
    (
        "motion.csv",
        b"prompt,motion\na fox,low\n",
        ["motion.csv:2: motion: is no field of text-to-image; image-to-video takes it"],
    ),
    (
        "need.csv",
        b"prompt,task_type\na fox,omni-reference\n",
        ["need.csv:2: images: is missing; omni-reference needs it"],
    ),
    ("file.csv", b"prompt,fileUrl\na fox,a.png\n", ["file.csv:2: fileUrl: image: a.png: does not"]),
    ("then.csv", b"prompt,then\na fox,vary:0|vary:9\n", ["then.csv:2: then: vary:9"]),
    ("line.jsonl", b'{"prompt": "a fox"}\n{"prompt": }\n', ["line.jsonl:2:12: not JSON"]),
    ("key.jsonl", b'{"prompt": "a fox", "hue": 1}\n', ["key.jsonl:1: 'hue' is no field"]),
    ("kind.jsonl", b'{"prompt": "a fox", "hd": "yes"}\n', ["kind.jsonl:1: hd: 'yes'", "true"]),
    (
        "clash.jsonl",
        b'{"prompt": "a fox --v 7", "model": 6}\n',
        ["clash.jsonl:1", "--v 7", "model 6"],
    ),
]


@pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])
@pytest.mark.parametrize(("name", "content", "words"), LISTS, ids=[one[0] for one in LISTS])
def test_a_bad_list_is_one_line_that_names_the_place(
    shell: Shell, name: str, content: bytes | None, words: list[str], simulated: bool
) -> None:
    """A bad list ends with exit 2 and one line; nothing is sent and no directory is made."""
    if content is not None:
        (shell.folder / name).write_bytes(content)
    good = shell.write("good.txt", "a fox")
    options = ["--simulate"] if simulated else []
    with serving() as service:
        shell.use(service)
        line = complaint(shell("render", good, name, "--out", "out", "--yes", *options))
        assert service.books["keys"] == []
    assert all(word in line for word in words), line
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (
            "a fox --v 7",
            ["--model", "6.1"],
            "list.csv:2: --v 7 in the prompt and --model 6.1 contr",
        ),
        (
            "a fox --ar 1:1",
            ["--aspect-ratio", "3:2"],
            "--ar 1:1 in the prompt and --aspect-ratio 3:2",
        ),
        ("a fox", ["--motion", "low"], "list.csv:2: --motion: is no field of style-reference"),
        ("a fox", ["--image", "no.png"], "list.csv:2: --image: no.png: does not exist"),
        ("a fox", ["--prefix", "{red"], "list.csv:2: --prefix: column 1"),
    ],
)
def test_a_clash_of_options_and_rows_names_both(
    shell: Shell, content: str, options: list[str], words: str
) -> None:
    """Where an option does not fit what a row says, the row is named and the option too."""
    shell.write("list.csv", "prompt,task_type", f"{content},style-reference")
    image = ["--image", "http://x.test/a.png"] if "--image" not in options else []
    line = complaint(shell("render", "list.csv", "--out", "out", "--simulate", *options, *image))
    assert words in line
    assert not (shell.folder / "out").exists()


def test_rows_of_a_table_override_the_options(shell: Shell) -> None:
    """A CSV's rows take what the command line says, but for what they say themselves."""
    shell.write(
        "list.csv",
        "prompt,task_type,ar,speed,image,hd",
        "a fox,,,,,",
        '"a hare, running",,16:9,turbo,,',
        "an owl,style-reference,,,http://x.test/owl.png,",
        "a newt,image-to-video,,,http://x.test/n.png,yes",
    )
    options = ("--speed", "relaxed", "--aspect-ratio", "1:1")
    result = shell("render", "list.csv", "--out", "out", "--simulate", *options)
    assert result.code == 0, result.err
    told = ("taskType", "prompt", "speed", "aspectRatio", "fileUrls")
    assert [tuple(body.get(name) for name in told) for body in bodies(shell.folder / "out")] == [
        ("mj_txt2img", "a fox", "relaxed", "1:1", None),
        ("mj_txt2img", "a hare, running", "turbo", "16:9", None),
        ("mj_style_reference", "an owl", "relaxed", "1:1", ["http://x.test/owl.png"]),
        ("mj_video_hd", "a newt", "relaxed", "1:1", ["http://x.test/n.png"]),
    ]


def test_json_lines_override_the_options(shell: Shell) -> None:
    """A JSONL list does the same; null says nothing, and a row's images take the place of others."""
    shell.write(
        "list.jsonl",
        json.dumps({"prompt": "a fox", "model": None}),
        json.dumps({"prompt": "a hare", "model": "niji6", "s": 50}),
        json.dumps(
            {"prompt": "an owl", "fileUrls": ["http://x.test/1.png", "http://x.test/2.png"]}
        ),
        json.dumps({"prompt": "a newt", "translate": True}),
    )
    options = ("--model", "7", "--image", "http://x.test/all.png")
    result = shell("render", "list.jsonl", "--out", "out", "--simulate", *options)
    assert result.code == 0, result.err
    fox, hare, owl, newt = bodies(shell.folder / "out")
    assert (fox["version"], fox["fileUrls"]) == ("7", ["http://x.test/all.png"])
    assert (hare["version"], hare["stylization"]) == ("niji6", 50)
    assert owl["fileUrls"] == ["http://x.test/1.png", "http://x.test/2.png"]
    assert (newt["enableTranslation"], newt["taskType"]) == (True, "mj_img2img")


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("csv", "prompt,speed\na fox,turbo\n"),
        ("csv", "prompt\tspeed\na fox\tturbo\n"),
        ("jsonl", '{"prompt": "a fox", "speed": "turbo"}\n'),
    ],
)
def test_other_formats_from_stdin(shell: Shell, form: str, lines: str) -> None:
    """``--format`` says how a list is written that has no name."""
    command = ("render", "-", "--out", "out", "--simulate", "--format", form)
    assert shell(*command, stdin=lines).code == 0
    assert [body["speed"] for body in bodies(shell.folder / "out")] == ["turbo"]


def test_stdin_is_text(shell: Shell) -> None:
    """Without ``--format`` stdin is one prompt a line, commas and all."""
    command = ("render", "-", "--out", "out", "--simulate")
    assert shell(*command, stdin="# of mine\na fox, red\n").code == 0
    assert [body["prompt"] for body in bodies(shell.folder / "out")] == ["a fox, red"]


def test_images_are_found_from_the_list(shell: Shell) -> None:
    """A row's path starts at its list's folder, an option's (and stdin's) at the working directory."""
    shell.write("lists/list.csv", "prompt,image", "a fox,fox.png", "a hare,")
    shell.draw("lists/fox.png")
    shell.draw("hare.png", "blue")
    command = ("render", "lists/list.csv", "-", "--format", "csv", "--out", "out", "--dry-run")
    result = shell(
        *command, "--image", "hare.png", "--json", stdin="prompt,image\nan owl,hare.png\n"
    )
    assert result.code == 0, result.err
    assert [job["body"]["fileUrls"] for job in result.told["jobs"]] == [
        ["lists/fox.png"], ["hare.png"], ["hare.png"],
    ]  # fmt: skip
    (shell.folder / "lists/fox.png").rename(shell.folder / "fox.png")
    line = complaint(shell("render", "lists/list.csv", "--out", "out", "--simulate"))
    assert line == "lists/list.csv:2: image: lists/fox.png: does not exist; check the path"
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("notes.png", "image: lists/notes.png: "),
        ("folder", "image: lists/folder: is no file; name one picture"),
        ("long.png", "image: lists/long.png: "),
    ],
)
def test_an_image_that_is_none_is_named_with_its_row(shell: Shell, image: str, words: str) -> None:
    """What is no picture is told with its place, before a directory is made."""
    shell.write("lists/notes.png", "no picture")
    shell.draw("lists/fox.png")
    (shell.folder / "lists" / "folder").mkdir()
    with (shell.folder / "lists" / "long.png").open("wb") as file:
        file.write((shell.folder / "lists" / "fox.png").read_bytes())
        file.truncate(uploads.MAX_BYTES + 1)
    shell.write("lists/list.csv", "prompt,image", "a fox,fox.png", f"a hare,{image}")
    line = complaint(shell("render", "lists/list.csv", "--out", "out", "--simulate"))
    assert line.startswith(f"lists/list.csv:3: {words}")
    assert not (shell.folder / "out").exists()
