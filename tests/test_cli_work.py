"""The generating commands: what they make, what they say, what they cost, how they end."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time

import pytest
from cli_support import Shell, manifest, pictures, serving, wait_until

LIST = ("a fox", "", "# a comment", "an owl", "a newt")
KEYS = {
    *("planned", "pending", "saved", "failed", "expired", "unresolved", "abandoned"),
    *("files", "bytes", "credits", "jobs"),
}


def test_a_list_becomes_files(shell: Shell) -> None:
    """A rendered list is told by JSON alone on stdout; files, manifest and JSON agree."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        result = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        creates = service.creates
    assert result.code == 0, result.err
    assert [create["prompt"] for create in creates] == ["a fox", "an owl", "a newt"]
    told = result.told
    assert set(told) == KEYS
    assert {name: told[name] for name in ("planned", "pending", "failed", "expired")} == {
        "planned": 0, "pending": 0, "failed": 0, "expired": 0,
    }  # fmt: skip
    assert (told["saved"], told["unresolved"], told["abandoned"]) == (3, 0, 0)
    assert (told["files"], told["credits"]) == (12, 75)
    out = shell.folder / "out"
    names = sorted(name for job in told["jobs"] for name in job["files"])
    assert names == pictures(out) == sorted(line["path"] for line in manifest(out))
    assert told["bytes"] == sum((out / name).stat().st_size for name in names)
    for job, create in zip(told["jobs"], creates, strict=True):
        assert set(job) == {"key", "prompt", "state", "task_id", "files", "error"}
        assert (job["prompt"], job["task_id"]) == (create["prompt"], create["task_id"])
        assert (job["state"], job["error"]) == ("saved", None)
    assert {line["job"] for line in manifest(out)} == {job["key"] for job in told["jobs"]}
    assert shell("status", "out", "--json").told == told


def test_running_it_again_costs_nothing(shell: Shell) -> None:
    """A second run of the same list needs no consent, creates nothing and leaves the files."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        first = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        before = {path: path.stat().st_mtime_ns for path in (shell.folder / "out").glob("*.[jp]*g")}
        second = shell("render", "list.txt", "--out", "out", "--json")
        resumed = shell("resume", "out", "--json")
        assert len(service.creates) == 3
    assert len(before) == 12
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (second.code, resumed.code) == (0, 0)
    assert second.told == resumed.told == first.told
    assert "0 new jobs, 3 known already" in second.err


def test_an_edited_list_runs_only_what_is_new(shell: Shell) -> None:
    """What was added to a list is paid for, what was there is not, and the order does not matter."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        shell("render", "list.txt", "--out", "out", "--yes")
        shell.write("list.txt", "a newt", "a hare", "a fox")
        result = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        assert [create["prompt"] for create in service.creates][3:] == ["a hare"]
    assert "1 new job, 2 known already, 25 credits" in result.err
    assert (result.told["saved"], result.told["credits"]) == (4, 100)


def test_the_same_prompt_twice_is_two_jobs(shell: Shell) -> None:
    """A prompt that stands twice in a list is made twice, and not again by the next run."""
    shell.write("list.txt", "a fox", "a fox")
    with serving() as service:
        shell.use(service)
        shell("render", "list.txt", "--out", "out", "--yes")
        assert shell("render", "list.txt", "--out", "out", "--json").told["saved"] == 2
        assert len(service.creates) == 2
    assert len(pictures(shell.folder / "out")) == 8


def test_lists_come_from_several_files_and_stdin(shell: Shell) -> None:
    """Several lists are one batch, in the order they are named; "-" is stdin."""
    shell.write("one.txt", "a fox")
    shell.write("two.txt", "an owl")
    with serving() as service:
        shell.use(service)
        arguments = ("one.txt", "-", "two.txt", "--out", "out", "--yes")
        assert shell("render", *arguments, stdin="a newt\n").code == 0
        assert [create["prompt"] for create in service.creates] == ["a fox", "a newt", "an owl"]


def test_a_bad_line_of_stdin_is_named(shell: Shell) -> None:
    """A line of stdin that cannot be used is named by its number."""
    result = shell("render", "-", "--out", "out", "--simulate", stdin="a fox\n" + "x" * 2001)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("kie-mj: stdin:2: prompt: ")
    assert "2001 characters" in result.err
    assert not (shell.folder / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_a_list_may_come_from_a_pipe(shell: Shell) -> None:
    """A pipe, such as a shell's <(...), can be read only once, and that is enough."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"a fox\nan owl\n")
        os.close(writer)
        result = shell("render", f"/dev/fd/{reader}", "--out", "out", "--simulate", "--json")
    finally:
        os.close(reader)
    assert result.code == 0, result.err
    assert [job["prompt"] for job in result.told["jobs"]] == ["a fox", "an owl"]


def test_simulated_work_needs_nothing(shell: Shell) -> None:
    """With --simulate no key, no consent, no host and no state directory is used."""
    result = shell("generate", "a fox", "--out", "out", "--simulate", "--json")
    assert result.code == 0, result.err
    assert "1 new job (simulated)" in result.err
    assert result.told["files"] == 4
    assert not (shell.folder / "state").exists()
    again = shell("generate", "a fox", "--out", "out", "--simulate", "--json")
    assert (again.code, again.told) == (0, result.told)


# Consent


def test_without_consent_nothing_is_sent(shell: Shell) -> None:
    """Without --yes and without a terminal nothing is sent: exit 2, the price and the way on."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        result = shell("render", "list.txt", "--out", "out", "--json")
        assert service.creates == []
        assert (result.code, result.out) == (2, "")
        assert "would spend 75 credits" in result.err
        assert "for 3 new jobs; add --yes" in result.err
        assert shell("status", "out", "--json").told["planned"] == 3
        assert "add --yes" in shell("resume", "out").err
        assert shell("resume", "out", "--yes").code == 0
        assert len(service.creates) == 3


def test_consent_names_the_cap(shell: Shell) -> None:
    """What would be spent at most is said when a cap is below the price."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        result = shell("render", "list.txt", "--out", "out", "--max-credits", "30")
    assert "75 credits, of which at most 30 (--max-credits)" in result.err


# How a run ends


@pytest.mark.parametrize(
    ("faults", "options", "code", "counts"),
    [
        ("task.fail=#2", [], 1, {"saved": 2, "failed": 1, "credits": 50}),
        ("create.422=#1", [], 1, {"saved": 2, "failed": 1, "credits": 50}),
        ("create.402=#2+3+4", [], 3, {"saved": 1, "planned": 2, "credits": 25}),
        ("create.401=#1+2+3", [], 3, {"planned": 3, "credits": 0}),
        ("task.stuck=#1", ["--timeout", "1.5"], 3, {"saved": 2, "pending": 1, "credits": 75}),
        ("", ["--max-credits", "60"], 3, {"saved": 2, "planned": 1, "credits": 50}),
        ("create.drop-reply=#2", [], 4, {"saved": 2, "unresolved": 1, "credits": 50}),
        ("create.500=#1,task.fail=#1", [], 4, {"saved": 1, "failed": 1, "unresolved": 1}),
        (
            "create.drop-reply=#1,create.402=#3",
            [],
            4,
            {"saved": 1, "planned": 1, "unresolved": 1, "credits": 25},
        ),
        ("task.fail=#1,create.402=#3", [], 3, {"saved": 1, "planned": 1, "failed": 1}),
        ("create.drop=#1", ["--on-unknown", "repeat"], 0, {"saved": 3, "credits": 75}),
    ],
)
def test_the_exit_code_is_the_highest_that_applies(
    shell: Shell, faults: str, options: list[str], code: int, counts: dict[str, int]
) -> None:
    """0 all saved, 1 some failed, 3 work is left, 4 unresolved; JSON and status say the same."""
    shell.write("list.txt", *LIST)
    with serving(faults) as service:
        shell.use(service)
        arguments = ("--out", "out", "--yes", "--json", *options)
        result = shell("render", "list.txt", *arguments)
        tasks = service.books["tasks"]
    told = result.told
    assert (result.code, {name: told[name] for name in counts}) == (code, counts), result.err
    assert sum(told[name] for name in KEYS - {"files", "bytes", "credits", "jobs"}) == 3
    assert {job["task_id"] for job in told["jobs"]} - {None} <= set(tasks)
    status = shell("status", "out", "--json")
    assert (status.code, status.told) == (code, told)


def test_too_few_credits_stop_the_run(shell: Shell) -> None:
    """A balance that runs out ends the run with exit 3; once there is more, resume goes on."""
    shell.write("list.txt", *LIST)
    with serving(credits=40) as service:
        shell.use(service)
        result = shell("render", "list.txt", "--out", "out", "--yes")
    assert result.code == 3
    assert "stopped:" in result.err
    assert "402" in result.err
    assert "kie-mj resume out" in result.err


def test_a_cap_says_what_stopped_the_run(shell: Shell) -> None:
    """A cap that is reached is said with what is spent, and nothing is spent beyond it."""
    shell.write("list.txt", *LIST)
    with serving() as service:
        shell.use(service)
        result = shell("render", "list.txt", "--out", "out", "--yes", "--max-credits", "25")
        assert service.books["charged_total"] == 25
        assert "stopped: the next job would cost 25 credits" in result.err
        # Per invocation: the next one may spend as much again.
        shell("resume", "out", "--yes", "--max-credits", "25")
        assert service.books["charged_total"] == 50


def test_a_timed_out_job_is_resumed_without_paying(shell: Shell) -> None:
    """A job that timed out is pending; resume saves it under the same task, at no cost."""
    with serving("task.stuck=#1") as service:
        shell.use(service)
        first = shell("generate", "a fox", "--out", "out", "--yes", "--timeout", "0.3", "--json")
        assert (first.code, first.told["pending"]) == (3, 1)
        assert "not finished after waiting 0.3 s" in first.told["jobs"][0]["error"]
        service.finish_all()
        second = shell("resume", "out", "--json")
        assert len(service.creates) == 1
    assert (second.code, second.told["saved"], second.told["credits"]) == (0, 1, 25)
    assert second.told["jobs"][0]["task_id"] == first.told["jobs"][0]["task_id"]


def test_a_refused_key_is_said(shell: Shell) -> None:
    """A key that the service refuses ends the run with exit 3, nothing spent, and says 401."""
    with serving(api_key="another") as service:
        shell.use(service)
        result = shell("generate", "a fox", "--out", "out", "--yes")
        assert service.books["accepted"] == 0
    assert result.code == 3
    assert "401" in result.err
    assert shell("status", "out", "--json").told["planned"] == 1


def test_json_is_plain_ascii(shell: Shell) -> None:
    """The JSON can be printed wherever stdout goes, whatever the prompts hold."""
    prompt = "a fox ☃ 狐 🦊"
    result = shell("generate", prompt, "--out", "out", "--simulate", "--json")
    assert result.out.isascii()
    assert result.told["jobs"][0]["prompt"] == prompt


def test_long_lists_are_told_in_pages(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON holds every job, however many pages of the ledger that takes."""
    from kie_mj_async.ledger import base

    monkeypatch.setattr(base, "PAGE", 2)
    shell.write("list.txt", *(f"fox {number}" for number in range(5)))
    with serving() as service:
        shell.use(service)
        shell("render", "list.txt", "--out", "out")
    told = shell("status", "out", "--json").told
    assert [job["prompt"] for job in told["jobs"]] == [f"fox {number}" for number in range(5)]


# Interrupts and the question, in this process; tests/test_cli_process.py has them as processes


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_work_for_later(shell: Shell, number: signal.Signals) -> None:
    """An interrupted run ends with exit 3, every job is accounted for, and it says how to go on."""
    shell.write("list.txt", *LIST)
    with serving("task.stuck=100%") as service:
        shell.use(service)

        def interrupt() -> None:
            wait_until(lambda: service.books["poll_total"] >= 3)
            os.kill(os.getpid(), number)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        result = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        interrupting.join()
        tasks = set(service.books["tasks"])
    assert result.code == 3
    assert "Go on later with: kie-mj resume out" in result.err
    assert {job["task_id"] for job in result.told["jobs"]} == tasks
    assert result.told["pending"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_second_interrupt_waits_for_nothing(shell: Shell) -> None:
    """A second interrupt ends the process at once with exit 3, and says what is safe."""
    with serving("create.stall=#1") as service:
        shell.use(service)
        ends: list[int] = []

        def exited(code: int) -> None:
            ends.append(code)
            service.stop()  # this process goes on, so the create that hangs has to end

        def interrupt() -> None:
            wait_until(lambda: len(service.creates) == 1)
            while not ends:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)

        shell.patch.setattr(os, "_exit", exited)
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        result = shell("generate", "a fox", "--out", "out", "--yes")
        interrupting.join()
    assert ends[0] == 3
    assert "Stopped at once. What was under way is in the ledger." in result.err
    assert result.code == 4


class Screen(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
@pytest.mark.parametrize(
    ("answer", "code"), [("y\n", 0), ("YES \n", 0), ("n\n", 2), ("maybe\n", 2), ("\n", 2)]
)
def test_the_question_is_answered(shell: Shell, answer: str, code: int) -> None:
    """On a terminal the price is asked about, with the balance; only yes spends it."""
    import pty

    ours, theirs = pty.openpty()
    screen = Screen()
    shell.patch.setattr(sys, "stderr", screen)
    with serving(credits=30) as service, os.fdopen(theirs) as stdin:
        shell.use(service)
        shell.patch.setattr(sys, "stdin", stdin)
        os.write(ours, answer.encode())
        shell.write("list.txt", "a fox")
        result = shell("render", "list.txt", "--out", "out")
        creates = len(service.creates)
    os.close(ours)
    assert (result.code, creates) == (code, 1 if code == 0 else 0), screen.getvalue()
    assert "25 credits (balance: 30)" in screen.getvalue()
    assert "Go on? [y/N]" in screen.getvalue()
