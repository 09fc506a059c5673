"""The commands that make things: prompts as Midjourney users write them, chains, follow-ups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_support import Shell, bodies, books, complaint, pictures, serving
from test_media import VIDEO

from kie_mj_async.simulator import media


@pytest.fixture
def shell(shell: Shell) -> Shell:
    """The command line, with a clip that tests can read."""
    shell.patch.setattr(media, "_read_clips", lambda: [VIDEO])
    return shell


def creates(out: Path) -> list[tuple[str, dict[str, Any]]]:
    """The calls and bodies of all creates that were accepted, in their order."""
    return [
        (event["path"].rpartition("/")[2], event["body"])
        for event in books(out)
        if event["kind"] == "create" and event["task"]
    ]


PROMPTS = (
    "# Prompts of a Midjourney user",
    "",
    "a {red, green} bird in the snow, oil painting --ar {1:1, 16:9} --v 7 --s 250",
    "portrait of a nun --sref https://x.test/style.png --sw 200 --seed 7 --no hat, glasses --v 6.1",
    "  a lighthouse at night --niji 6 --weird 100 --c 10 --turbo  ",
    "a sign that says {a\\, b, c} --ar 7:3 --tile",
    "the --fast lane is what a {plain \\{brace\\}} is not --p abc",
)

SENT: list[dict[str, Any]] = [
    *(
        {"prompt": f"a {colour} bird in the snow, oil painting", "aspectRatio": ratio}
        | {"version": "7", "stylization": 250}
        for colour in ("red", "green")
        for ratio in ("1:1", "16:9")
    ),
    {
        "prompt": "portrait of a nun --sref https://x.test/style.png --sw 200 --seed 7 "
        "--no hat, glasses",
        "version": "6.1",
    },
    {
        **{"prompt": "a lighthouse at night", "version": "niji6", "weirdness": 100},
        **{"variety": 10, "speed": "turbo"},
    },
    {"prompt": "a sign that says a, b --ar 7:3 --tile"},
    {"prompt": "a sign that says c --ar 7:3 --tile"},
]


def test_a_prompt_file_of_a_midjourney_user(shell: Shell) -> None:
    """Flags with a field move there, others stay; braces make every combination; comments go."""
    shell.write("list.txt", *PROMPTS[:-1])
    result = shell("render", "list.txt", "--out", "out", "--simulate", "--json")
    assert result.code == 0, result.err
    assert "8 new jobs (simulated)" in result.err
    assert bodies(shell.folder / "out") == [{"taskType": "mj_txt2img", **body} for body in SENT]
    told = result.told
    assert (told["saved"], told["files"]) == (8, 32)
    assert told["jobs"][1]["prompt"] == (
        "a red bird in the snow, oil painting --ar 16:9 --v 7 --s 250"
    )
    again = shell("render", "list.txt", "--out", "out", "--simulate", "--json")
    assert (again.code, again.told) == (0, told)


def test_text_after_a_flag_is_refused(shell: Shell) -> None:
    """As Midjourney does: what looks like a flag in mid-sentence is named, with its line."""
    shell.write("list.txt", *PROMPTS)
    line = complaint(shell("render", "list.txt", "--out", "out", "--simulate"))
    assert line.startswith("list.txt:7: --fast in the prompt is followed by ")
    assert not (shell.folder / "out").exists()


def test_what_stands_around_every_prompt(shell: Shell) -> None:
    """``--prefix`` and ``--suffix`` go around the words; flags of theirs stand before the prompt's."""
    shell.write("list.txt", "a fox --ar 16:9", "a hare")
    around = ("--prefix", "{oil, ink}:", "--suffix", ", at night --ar 1:1 --v 7")
    result = shell("render", "list.txt", "--out", "out", "--simulate", *around)
    assert result.code == 0, result.err
    assert [(body["prompt"], body["aspectRatio"]) for body in bodies(shell.folder / "out")] == [
        ("oil: a fox, at night", "16:9"),
        ("ink: a fox, at night", "16:9"),
        ("oil: a hare, at night", "1:1"),
        ("ink: a hare, at night", "1:1"),
    ]


def test_the_cost_of_permutations_and_chains_is_asked_for(shell: Shell) -> None:
    """Every prompt that braces make, and every step, counts before anything is spent."""
    with serving() as service:
        shell.use(service)
        command = ("generate", "a {red, green} fox", "--out", "out", "--then", "upscale:0,2")
        result = shell(*command, "--then", "video:1")
        assert result.code == 2
        assert "would spend 200 credits" in result.err
        assert "for 8 new jobs, 6 of them steps of chains; add --yes" in result.err
        assert service.creates == []


def test_a_chain(shell: Shell) -> None:
    """Steps wait for what is before them, use its results, and are known to the next run."""
    shell.write("list.csv", "prompt,then", "a fox --ar 16:9,", "a hare,vary:3")
    command = ("render", "list.csv", "--out", "out", "--simulate", "--json")
    result = shell(*command, "--then", "upscale:0,2", "--then", "video:1 it runs --motion low")
    assert result.code == 0, result.err
    assert "6 new jobs, 4 of them steps of chains" in result.err
    out = shell.folder / "out"
    tasks = {job["prompt"]: job["task_id"] for job in reversed(result.told["jobs"])}
    by_call: dict[str, list[dict[str, Any]]] = {}
    for call, body in creates(out):
        by_call.setdefault(call, []).append(body)
    fox, hare = tasks["a fox --ar 16:9"], tasks["a hare"]
    assert sorted(by_call["generateUpscale"], key=lambda body: body["imageIndex"]) == [
        {"taskId": fox, "imageIndex": 0},
        {"taskId": fox, "imageIndex": 2},
    ]
    assert by_call["generateVary"] == [{"taskId": hare, "imageIndex": 3}]
    (video,) = (body for body in by_call["generate"] if body["taskType"] == "mj_video")
    assert (video["prompt"], video["motion"]) == ("it runs", "low")
    assert result.told["saved"] == len(result.told["jobs"]) == 6
    again = shell(*command, "--then", "upscale:0,2", "--then", "video:1 it runs --motion low")
    assert (again.code, len(creates(out))) == (0, 6)


def test_a_failed_beginning_fails_its_steps(shell: Shell) -> None:
    """What cannot be made is not paid for, and says what it waited for."""
    with serving("task.fail=#1") as service:
        shell.use(service)
        command = ("generate", "a fox", "--out", "out", "--yes", "--json", "--then", "upscale:0")
        result = shell(*command)
        assert len(service.creates) == 1
    assert (result.code, result.told["failed"], result.told["credits"]) == (1, 2, 0)


def test_local_images_are_uploaded_once(shell: Shell) -> None:
    """Pictures of the user's go up before their jobs are sent, each once."""
    fox, hare = shell.draw("fox.png"), shell.draw("hare.png", "blue")
    shell.write("list.txt", "a fox", "two foxes")
    command = ("render", "list.txt", "--out", "out", "--simulate", "--image", fox, "--image", hare)
    assert shell(*command).code == 0
    out = shell.folder / "out"
    uploads = [event["upload"]["sha256"] for event in books(out) if event["kind"] == "upload"]
    assert len(uploads) == len(set(uploads)) == 2
    links = [body["fileUrls"] for body in bodies(out)]
    assert links[0] == links[1]
    assert [any(sha in link for link in links[0]) for sha in uploads] == [True, True]


def test_a_picture_that_is_none(shell: Shell) -> None:
    """A file that is no picture is named, and nothing is sent."""
    shell.write("fox.png", "no picture")
    with serving() as service:
        shell.use(service)
        line = complaint(shell("generate", "a fox", "--out", "out", "--yes", "--image", "fox.png"))
        assert (service.books["uploads"], service.creates) == ([], [])
    assert line.startswith("--image: fox.png: ")
    assert not (shell.folder / "out").exists()


# Follow-ups of a task


def rendered(shell: Shell, *options: str) -> str:
    """A simulated task's id."""
    result = shell("generate", "a fox", "--out", "out", "--simulate", "--json", *options)
    assert result.code == 0, result.err
    task_id = result.told["jobs"][0]["task_id"]
    assert isinstance(task_id, str)
    return task_id


@pytest.mark.parametrize(
    ("command", "call", "files"),
    [("upscale", "generateUpscale", 1), ("vary", "generateVary", 4)],
)
def test_following_up_a_picture(shell: Shell, command: str, call: str, files: int) -> None:
    """A follow-up is a list of one: paced, kept, polled and saved like any, and made once."""
    task_id = rendered(shell)
    arguments = (command, task_id, "2", "--out", "out", "--simulate", "--watermark", "mine")
    result = shell(*arguments, "--json")
    assert result.code == 0, result.err
    out = shell.folder / "out"
    assert creates(out)[1:] == [(call, {"taskId": task_id, "imageIndex": 2, "waterMark": "mine"})]
    assert (result.told["saved"], result.told["files"]) == (2, 4 + files)
    assert len(pictures(out)) == 4 + files
    assert shell(*arguments).code == 0
    assert len(creates(out)) == 2
    assert "everything is saved" in shell("status", "out").out.lower()


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ([], {"taskType": "mj_video_extend_auto"}),
        (["--prompt", "it rests"], {"taskType": "mj_video_extend_manual", "prompt": "it rests"}),
    ],
)
def test_extending_a_video(shell: Shell, words: list[str], body: dict[str, str]) -> None:
    """``extend`` goes on by itself, or as ``--prompt`` says."""
    video = ("--task-type", "image-to-video", "--image", "http://x.test/a.png")
    task_id = rendered(shell, *video)
    result = shell("extend", task_id, "0", "--out", "out", "--simulate", *words)
    assert result.code == 0, result.err
    last = ("generateVideoExtend", {"taskId": task_id, "index": 0, **body})
    assert creates(shell.folder / "out")[-1] == last


def test_following_up_a_follow_up(shell: Shell) -> None:
    """A follow-up takes ``--then`` as a prompt does."""
    task_id = rendered(shell)
    steps = ("--then", "vary:0", "--then", "upscale:3")
    result = shell("upscale", task_id, "1", "--out", "out", "--simulate", *steps, "--json")
    assert result.code == 0, result.err
    assert [call for call, _ in creates(shell.folder / "out")] == [
        *("generate", "generateUpscale", "generateVary", "generateUpscale"),
    ]
    assert result.told["saved"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["upscale", "not an id", "0"], "task_id: 'not an id'"),
        (["upscale", "abc", "4"], "index: 4 is not allowed; use a whole number from 0 to 3"),
        (["vary", "abc", "0", "--watermark", " "], "--watermark: "),
        (["upscale", "abc", "0", "--then", "video:0"], "--then: video:0: it needs words"),
        (["extend", "abc", "0", "--prompt", " "], "prompt: "),
        (["upscale", "abc", "0", "--speed", "fast"], "--speed"),
    ],
)
def test_a_bad_follow_up_costs_nothing(shell: Shell, arguments: list[str], words: str) -> None:
    """What is wrong is named in one line; no directory is made."""
    line = complaint(shell(*arguments, "--out", "out", "--simulate"))
    assert words in line
    assert not (shell.folder / "out").exists()


def test_following_up_a_task_that_is_not_there(shell: Shell) -> None:
    """The service's refusal is the job's end; it is not charged."""
    result = shell("upscale", "0" * 32, "0", "--out", "out", "--simulate", "--json")
    assert (result.code, result.told["failed"], result.told["credits"]) == (1, 1, 0)


def test_consent_for_a_follow_up(shell: Shell) -> None:
    """A follow-up is paid, so it is asked for; what its kind costs is what the table says."""
    shell.write("prices.toml", "[mj_upscale]", "default = 5")
    with serving() as service:
        shell.use(service)
        result = shell("upscale", "abc", "0", "--out", "out", "--prices", "prices.toml")
        assert service.creates == []
    assert (result.code, result.out) == (2, "")
    assert "would spend 5 credits" in result.err
