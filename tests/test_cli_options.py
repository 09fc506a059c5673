"""Options: each reaches the service under its own name, and a bad one is named."""

from __future__ import annotations

import click
import pytest
from cli_support import Shell, bodies, complaint, serving
from test_media import VIDEO

from kie_mj_async.cli.shell import Command, Option, option
from kie_mj_async.simulator import media

OPTIONS: list[tuple[list[str], list[str]]] = [
    (["--aspect-ratio", "5:1"], ["--aspect-ratio: '5:1'", "16:9"]),
    (["--speed", "hyper"], ["--speed: 'hyper'", "turbo"]),
    (["--model", "8"], ["--model: '8'", "niji7"]),
    (["--stylization", "1001"], ["--stylization: 1001", "0 to 1000"]),
    (["--stylization", "much"], ["--stylization", "much", "render --help"]),
    (["--weirdness", "-1"], ["--weirdness: -1", "0 to 3000"]),
    (["--variety", "101"], ["--variety: 101", "0 to 100"]),
    (["--omni-weight", "400"], ["--omni-weight: ", "omni-reference takes it"]),
    (["--watermark", " "], ["--watermark: ", "not blank"]),
    (["--callback-url", "ftp://x"], ["--callback-url: 'ftp://x'", "http"]),
    (["--rate", "20"], ["--rate", "'20'", "20/10"]),
    (["--rate", "0/10"], ["--rate", "'0/10'", "20/10"]),
    (["--rate", "20/inf"], ["--rate", "20/inf", "20/10"]),
    (["--rate", "a/b"], ["--rate", "a/b", "20/10"]),
    (["--in-flight", "0"], ["--in-flight", "0"]),
    (["--max-credits", "0"], ["--max-credits", "0"]),
    (["--max-credits", "nan"], ["--max-credits", "nan"]),
    (["--timeout", "nan"], ["--timeout", "nan"]),
    (["--timeout", "-1"], ["--timeout", "-1"]),
    (["--on-unknown", "hope"], ["--on-unknown", "park", "repeat"]),
    (["--motion", "high"], ["--motion: is no field of text-to-image", "image-to-video takes it"]),
    (["--batch-size", "2"], ["--batch-size: ", "image-to-video"]),
    (["--hd"], ["--hd: ", "image-to-video"]),
    (["--task-type", "image-to-video"], ["--image: is missing", "image-to-video"]),
    (["--task-type", "mj_img2img"], ["--image: is missing", "image-to-image"]),
    (["--task-type", "omni-reference"], ["--image: is missing", "omni-reference"]),
    (
        ["--task-type", "text-to-image", "--image", "http://x/a.png"],
        ["--image: is no field of text-to-image", "image-to-image", "image-to-video"],
    ),
    (
        ["--task-type", "image-to-video", "--image", "http://x/a.png", "--image", "http://x/b.png"],
        ["--image: image-to-video takes one image, not 2"],
    ),
    (["--image", "ftp://x/fox.png"], ["--image: 'ftp://x/fox.png'", "http"]),
    (["--image", "fox.png"], ["--image: fox.png: does not exist"]),
    (["--task-type", "song"], ["--task-type: 'song'", "text-to-image", "mj_video_hd"]),
    (["--prefix", "{red"], ["--prefix: column 1: { is never closed"]),
    (["--then", "upscale"], ["--then: 'upscale' is no step", "upscale:0,2"]),
    (["--then", "paint:0"], ["--then: ", "paint", "vary"]),
    (["--then", "upscale:0", "--then", "vary:1"], ["--then: vary:1: ", "1 result before it"]),
    (["--then", "extend:0"], ["--then: extend:0: ", "works on a video"]),
    (["--format", "xml"], ["--format", "jsonl"]),
    (["--colour", "red"], ["--colour", "render --help"]),
]


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=lambda one: " ".join(one)[:40])
def test_a_bad_option_is_one_line_that_names_it(
    shell: Shell, options: list[str], words: list[str], dry: bool
) -> None:
    """A bad option ends with exit 2 and one line; nothing is sent and no directory is made."""
    shell.write("list.txt", "a fox")
    with serving() as service:
        shell.use(service)
        mode = "--dry-run" if dry else "--yes"
        line = complaint(shell("render", "list.txt", "--out", "out", mode, *options))
        assert service.books["keys"] == []
    assert all(word in line for word in words), line
    assert "list.txt" not in line
    assert not (shell.folder / "out").exists()


def test_every_option_of_pictures(shell: Shell) -> None:
    """The options of ``generate`` reach the service under its own names."""
    with serving() as service:
        shell.use(service)
        result = shell(
            "generate", "a fox", "--out", "out", "--yes", "--json",
            "--speed", "Relax", "--model", "6.1", "--aspect-ratio", "16:9", "--stylization", "50",
            "--weirdness", "100", "--variety", "5", "--watermark", "mine", "--translate",
            "--image", "http://127.0.0.1/fox.png", "--image", "http://127.0.0.1/owl.png",
            "--callback-url", "http://127.0.0.1:9/done", "--rate", "20/1", "--in-flight", "5",
        )  # fmt: skip
        (create,) = service.creates
    assert result.code == 0, result.err
    body = create["body"]
    address = body.pop("callBackUrl")
    assert address.startswith("http://127.0.0.1:9/done")
    assert body == {
        "taskType": "mj_img2img", "prompt": "a fox", "speed": "relaxed", "version": "6.1",
        "aspectRatio": "16:9", "stylization": 50, "weirdness": 100, "variety": 5,
        "waterMark": "mine", "enableTranslation": True,
        "fileUrls": ["http://127.0.0.1/fox.png", "http://127.0.0.1/owl.png"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "type_name", "more"),
    [
        (["style-reference"], "mj_style_reference", {}),
        (["Omni-Reference", "--omni-weight", "400"], "mj_omni_reference", {"ow": 400}),
        (["mj_img2img"], "mj_img2img", {}),
    ],
)
def test_types_by_their_names(
    shell: Shell, arguments: list[str], type_name: str, more: dict[str, object]
) -> None:
    """``--task-type`` takes our names of the types, and the service's."""
    image = "http://127.0.0.1/a.png"
    command = ("generate", "a fox", "--out", "out", "--simulate", "--image", image)
    result = shell(*command, "--task-type", *arguments)
    assert result.code == 0, result.err
    assert bodies(shell.folder / "out") == [
        {"taskType": type_name, "prompt": "a fox", "fileUrls": [image], **more}
    ]


@pytest.mark.parametrize(
    ("arguments", "type_name"),
    [
        (["--task-type", "image-to-video", "--hd"], "mj_video_hd"),
        (["--task-type", "mj_video_hd"], "mj_video_hd"),
        (["--task-type", "image-to-video"], "mj_video"),
    ],
)
def test_a_video(shell: Shell, arguments: list[str], type_name: str) -> None:
    """``--task-type image-to-video`` makes as many videos as were asked for."""
    shell.patch.setattr(media, "_read_clips", lambda: [VIDEO])
    command = ("generate", "a fox runs", "--out", "out", "--simulate", "--json", *arguments)
    video = ("--motion", "LOW", "--image", "http://127.0.0.1/a.png", "--batch-size", "2")
    result = shell(*command, *video)
    assert result.code == 0, result.err
    (body,) = bodies(shell.folder / "out")
    assert (body["taskType"], body["motion"], body["videoBatchSize"]) == (type_name, "low", 2)
    assert len(list((shell.folder / "out").glob("*.mp4"))) == result.told["files"] == 2


def test_prompts_as_they_are(shell: Shell) -> None:
    """With ``--raw`` braces and flags are part of the text, also of what stands around it."""
    prompt = "a {red, blue} fox --ar 16:9"
    command = ("generate", prompt, "--out", "out", "--simulate", "--raw", "--suffix", " --v 7")
    result = shell(*command, "--prefix", "oil, ")
    assert result.code == 0, result.err
    (body,) = bodies(shell.folder / "out")
    assert body == {
        "taskType": "mj_txt2img",
        "prompt": "oil, a {red, blue} fox --v 7 --ar 16:9",
    }


# The help page


def test_the_help_is_in_sections(shell: Shell) -> None:
    """Options that belong together stand together, each with a line of help; arguments have none."""
    told = shell("render", "--help").out
    titles = [line for line in told.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        *("Where results go:", "What to make:", "How prompts are read:", "What follows:"),
        *("What it may cost:", "How fast:", "Other options:"),
    ]
    assert "--dry-run" in told.partition("What it may cost:")[2].partition("How fast:")[0]
    assert "\n  FILE" not in told


@pytest.mark.parametrize("name", ["render", "generate", "upscale", "vary", "extend", "resume"])
def test_every_option_has_help(shell: Shell, name: str) -> None:
    """No option is left unexplained."""
    from kie_mj_async.cli.app import cli

    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert isinstance(parameter, Option)
            assert parameter.help, parameter.name


def test_a_command_without_sections() -> None:
    """An option of no section stands with the rest, which come last."""
    last = option(None, "--last", help="Z.")
    command = click.command("one", cls=Command)(
        last(option("First", "--first", help="A.")(_nothing))
    )
    told = command.get_help(click.Context(command))
    assert told.index("First:") < told.index("--first") < told.index("Other options:")
    assert told.index("Other options:") < told.index("--last") < told.index("--help")


def _nothing() -> None: ...
