"""``--dry-run``: what a command would do, told without doing it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from cli_support import Shell, bodies, complaint, serving

from kie_mj_async.batch import ledger_path
from kie_mj_async.cli.app import run
from kie_mj_async.engine import staging
from kie_mj_async.ledger import SqliteLedger, base
from kie_mj_async.ledger.lock import ProcessLock
from kie_mj_async.ledger.sqlite import lock_path
from kie_mj_async.requests import TextToImage

DRY = ("--out", "out", "--dry-run")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: when it was written, and what is in it."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_shows_a_block_for_each_job(shell: Shell) -> None:
    """On stdout the key, the title, the call and the body of each job; on stderr the sum."""
    shell.write("list.txt", "a {red, green} fox --ar 16:9 --seed 7")
    result = shell("render", "list.txt", *DRY)
    assert result.code == 0
    assert result.err == "2 new jobs, 50 credits; nothing was sent\n"
    blocks = result.out.removesuffix("\n\n").split("\n\n")
    assert len(blocks) == 2
    title, call, body = blocks[1].split("\n", 2)
    key, _, prompt = title.partition("  ")
    assert (key[:2], prompt) == ("1-", "a green fox --ar 16:9 --seed 7")
    assert call == "POST /api/v1/mj/generate"
    assert json.loads(body) == {
        "taskType": "mj_txt2img",
        "prompt": "a green fox --seed 7",
        "aspectRatio": "16:9",
    }


def test_it_needs_and_leaves_nothing(shell: Shell) -> None:
    """No key, no service, no directory, no state; and no temporary files afterwards."""
    shell.draw("fox.png")
    shell.patch.setenv("TMPDIR", str(shell.folder / "tmp"))
    (shell.folder / "tmp").mkdir()
    shell.patch.setattr("tempfile.tempdir", None)
    before = contents(shell.folder)
    for options in ((), ("--json",), ("--simulate",), ("--simulate", "--json")):
        result = shell("generate", "a fox", "--image", "fox.png", *DRY, *options)
        assert result.code == 0, result.err
    assert contents(shell.folder) == before
    assert sorted(path.name for path in shell.folder.iterdir()) == ["fox.png", "tmp"]
    assert list((shell.folder / "tmp").iterdir()) == []


def test_what_is_shown_is_what_is_sent(shell: Shell) -> None:
    """The keys and bodies of a dry run are those of the run after it."""
    shell.write("list.txt", "a {red, green} fox --ar 16:9 --seed 7", "an owl --v 7")
    command = ("render", "list.txt", "--out", "out", "--simulate", "--json", "--speed", "fast")
    shown = shell(*command, "--dry-run").told
    assert not (shell.folder / "out").exists()
    done = shell(*command).told
    assert [job["key"] for job in shown["jobs"]] == [job["key"] for job in done["jobs"]]
    assert [job["body"] for job in shown["jobs"]] == bodies(shell.folder / "out")
    assert {name: shown[name] for name in ("new", "known", "credits")} == {
        "new": 3, "known": 0, "credits": 75,
    }  # fmt: skip
    assert set(shown["jobs"][0]) == {"key", "prompt", "state", "path", "body", "credits"}
    assert [(job["state"], job["credits"]) for job in shown["jobs"]] == [("planned", 25)] * 3


def test_known_jobs_are_told_as_known(shell: Shell) -> None:
    """What a directory has is not shown again, but counted; its files stay as they are, to the byte."""
    shell.write("list.txt", "a fox")
    assert shell("render", "list.txt", "--out", "out", "--simulate").code == 0
    before = contents(shell.folder / "out")
    shell.write("list.txt", "an owl", "a fox", "a fox")
    result = shell("render", "list.txt", *DRY, "--simulate")
    assert result.err == "2 new jobs, 1 known already, 50 credits; nothing was sent\n"
    assert result.out.count("POST") == 2
    told = shell("render", "list.txt", *DRY, "--simulate", "--json").told
    assert (told["new"], told["known"], told["credits"]) == (2, 1, 50)
    assert sorted((job["prompt"], job["state"], job["credits"]) for job in told["jobs"]) == [
        ("a fox", "planned", 25), ("a fox", "saved", 0), ("an owl", "planned", 25),
    ]  # fmt: skip
    assert contents(shell.folder / "out") == before


def test_jobs_that_wait_are_new(shell: Shell) -> None:
    """What an earlier run took in without sending it would be sent, and so it is shown."""
    with serving() as service:
        shell.use(service)
        assert shell("generate", "a fox", "--out", "out").code == 2
        before = contents(shell.folder / "out")
        result = shell("generate", "a fox", *DRY)
        assert service.creates == []
    assert result.err == "1 new job, 25 credits; nothing was sent\n"
    assert contents(shell.folder / "out") == before


def test_chains(shell: Shell) -> None:
    """Steps are shown with what they wait for, and counted as such."""
    command = ("generate", "a fox --ar 16:9", *DRY, "--speed", "turbo", "--simulate")
    steps = (
        "--then",
        "upscale:0,2",
        "--then",
        "video-hd:1 it runs --motion low",
        "--then",
        "extend:0",
    )
    result = shell(*command, *steps, "--json")
    fox, large, larger, video, longer = result.told["jobs"]
    assert (large["path"], large["body"]) == (
        "/api/v1/mj/generateUpscale",
        {"taskId": f"<task of job {fox['key']}>", "imageIndex": 0},
    )
    assert larger["body"] == {"taskId": f"<task of job {fox['key']}>", "imageIndex": 2}
    assert video["path"] == fox["path"] == "/api/v1/mj/generate"
    assert video["body"] == {
        "taskType": "mj_video_hd",
        "prompt": "it runs",
        "speed": "turbo",
        "motion": "low",
        "videoBatchSize": 1,
        "fileUrls": [f"<result 0 of job {larger['key']}>"],
    }
    assert (longer["path"], longer["body"]) == (
        "/api/v1/mj/generateVideoExtend",
        {
            "taskId": f"<task of job {video['key']}>",
            "index": 0,
            "taskType": "mj_video_extend_auto",
        },
    )
    assert result.err == ("5 new jobs, 4 of them steps of chains, 125 credits; nothing was sent\n")
    told = shell(*command, *steps).out
    assert f"<result 0 of job {larger['key']}>" in told
    assert "1 new job, 1 of them" not in told
    assert ", 1 of them a step of a chain, 50 credits" in shell(*command, "--then", "vary:0").err


@pytest.mark.parametrize(
    ("command", "path", "body"),
    [
        (["upscale"], "generateUpscale", {"taskId": "abc", "imageIndex": 1}),
        (["vary"], "generateVary", {"taskId": "abc", "imageIndex": 1}),
        (
            ["extend", "--prompt", "it rests"],
            "generateVideoExtend",
            {
                **{"taskId": "abc", "index": 1, "prompt": "it rests"},
                "taskType": "mj_video_extend_manual",
            },
        ),
    ],
)
def test_follow_ups(shell: Shell, command: list[str], path: str, body: dict[str, object]) -> None:
    """A follow-up is rehearsed as it would be sent; whether its task exists is not asked."""
    result = shell(*command, "abc", "1", *DRY, "--json")
    (job,) = result.told["jobs"]
    assert (job["path"].rpartition("/")[2], job["body"]) == (path, body)


def test_prices_count(shell: Shell) -> None:
    """The cost is that of the price table."""
    shell.write("prices.toml", "default = 10", "[mj_upscale]", "default = 2.5")
    result = shell(
        "generate", "a fox", *DRY, "--prices", "prices.toml", "--then", "upscale:0", "--json"
    )
    assert result.told["credits"] == 12.5
    assert [job["credits"] for job in result.told["jobs"]] == [10, 2.5]


def test_beside_a_run(shell: Shell) -> None:
    """A directory that a process works on is looked at as it stands; what it does goes on."""

    async def during() -> tuple[str, int]:
        ledger = await SqliteLedger.open(ledger_path("out"), "simulator")
        try:
            async with ledger.staging() as staging:
                await staging.add([TextToImage("an owl")])
                first = await asyncio.to_thread(shell, "render", "list.txt", *DRY, "--simulate")
            second = await asyncio.to_thread(
                shell, "render", "list.txt", *DRY, "--simulate", "--json"
            )
            assert {job["state"] for job in second.told["jobs"]} == {"planned", "saved"}
            return first.err, (await ledger.counts()).total
        finally:
            await ledger.aclose()

    shell.write("list.txt", "a fox", "a hare")
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    said, jobs = asyncio.run(during())
    assert said == "1 new job, 1 known already, 25 credits; nothing was sent\n"
    assert jobs == 2


def test_a_create_under_way_beside_a_run(shell: Shell) -> None:
    """A job that a living process is sending is pending; left by a dead one it is unresolved."""
    with serving("create.drop-reply=#1") as service:
        shell.use(service)
        assert shell("generate", "a fox", "--out", "out", "--yes").code == 4
    lock = ProcessLock(lock_path(ledger_path("out")), ledger_path("out"))
    try:
        told = shell("generate", "a fox", *DRY, "--json").told
    finally:
        lock.release()
    assert [job["state"] for job in told["jobs"]] == ["unresolved"]


# What cannot be rehearsed


def test_a_bad_list_shows_nothing(shell: Shell) -> None:
    """A mistake on the last line is all that is said."""
    shell.write("list.txt", *(f"fox {number}" for number in range(20)), "a fox --ar wide")
    assert "list.txt:21: --ar wide" in complaint(shell("render", "list.txt", *DRY))


def test_a_picture_that_is_none_shows_nothing(shell: Shell) -> None:
    """What a run would refuse when it takes pictures in, its rehearsal refuses too."""
    shell.write("fox.png", "no picture")
    command = ("generate", "a fox", "--image", "fox.png")
    assert complaint(shell(*command, *DRY)).startswith("--image: fox.png: ")


def test_a_directory_of_the_other_kind(shell: Shell) -> None:
    """A simulated directory is refused without --simulate, one of another host is too."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    assert "--simulate" in complaint(shell("generate", "a fox", *DRY))
    with serving() as here, serving() as there:
        shell.use(here)
        assert shell("generate", "a fox", "--out", "other", "--yes").code == 0
        shell.use(there)
        line = complaint(shell("generate", "a fox", "--out", "other", "--dry-run"))
    assert line.startswith(
        f"other{os.sep}.kie-mj{os.sep}ledger.sqlite3: its tasks live at {here.url}"
    )


def test_a_damaged_ledger_is_named(shell: Shell) -> None:
    """A ledger that cannot be read is named by its own path, and left as it is."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    path = shell.folder / "out" / ".kie-mj" / "ledger.sqlite3"
    path.write_bytes(b"nonsense" * 1000)
    line = complaint(shell("generate", "a fox", *DRY, "--simulate"))
    assert line.startswith(f"out{os.sep}.kie-mj{os.sep}ledger.sqlite3: ")
    assert path.read_bytes() == b"nonsense" * 1000


def test_words_of_others_cannot_steer_the_terminal(shell: Shell) -> None:
    """A prompt's control characters are shown, not obeyed."""
    result = shell("generate", "a fox\x9b2J \u202e red \x1b[1m", *DRY)
    assert not {"\x9b", "\u202e", "\x1b"} & set(result.out)
    assert "POST /api/v1/mj/generate" in result.out


def test_a_reader_who_goes_away(tmp_path: Path) -> None:
    """``| head`` ends it without a complaint."""
    (tmp_path / "list.txt").write_text("".join(f"fox {number}\n" for number in range(2000)))
    command = [sys.executable, "-m", "kie_mj_async.cli", "render", "list.txt", *DRY]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    assert said == "2,000 new jobs, 50,000 credits; nothing was sent\n"


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_long_lists_take_no_more_memory(shell: Shell) -> None:
    """Five times the list, the same memory: it is staged and shown in parts."""
    peaks = []
    with Path(os.devnull).open("w") as nowhere:
        shell.patch.setattr(sys, "stdout", nowhere)
        assert run(["generate", "a fox", *DRY]) == 0  # what is imported counts for neither
        for length in (2_000, 10_000):
            shell.write("list.txt", *(f"a fox with the number {one}" for one in range(length)))
            tracemalloc.start()
            try:
                assert run(["render", "list.txt", *DRY]) == 0
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6, peaks


def test_chunks_are_staged_in_order(shell: Shell) -> None:
    """A list of several chunks and pages is shown whole, in its order."""
    shell.patch.setattr(staging, "CHUNK", 3)
    shell.patch.setattr(base, "PAGE", 4)
    shell.write("list.txt", *(f"fox {number}" for number in range(10)))
    told = shell("render", "list.txt", *DRY, "--json").told
    assert [job["prompt"] for job in told["jobs"]] == [f"fox {number}" for number in range(10)]
    assert len({job["key"] for job in told["jobs"]}) == 10
