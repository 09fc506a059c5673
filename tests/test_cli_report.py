"""What a directory holds, as people are told: counts, reasons, and what to do next."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from cli_support import Result, Shell, serving

from kie_mj_async.batch import ledger_path
from kie_mj_async.cli.report import Exit, Report, read_report, tell
from kie_mj_async.errors import DownloadError, ReplyLost, TaskFailed
from kie_mj_async.jobs import Counts, Job, State, Trouble
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.lock import ProcessLock
from kie_mj_async.ledger.sqlite import lock_path
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
NASTY = "a fox \x1b[31m[red]"


def steps(result: Result) -> list[list[str]]:
    """The commands that a report advises."""
    told = result.err if "What to do next:" in result.err else result.out
    _, _, advice = told.partition("What to do next:\n")
    commands = [line.strip().split("   ")[0].split("  ")[0] for line in advice.splitlines()]
    return [shlex.split(command)[1:] for command in commands]


async def stage(out: Path, number: int = 1, host: str = "http://x") -> SqliteLedger:
    """A directory's ledger with some planned jobs."""
    ledger = await SqliteLedger.open(ledger_path(out), host)
    async with ledger.staging() as staging:
        await staging.add([TextToImage(f"fox {n}") for n in range(number)])
    return ledger


async def submit(ledger: SqliteLedger, key: str) -> Job:
    """Take a job to where its create is under way."""
    job = await ledger.get(key)
    assert job is not None
    return await ledger.record(job, lifecycle.intent(NOW, 25))


async def keys(ledger: SqliteLedger) -> list[str]:
    return [job.key for job in await ledger.scan(0, 100)]


def test_all_is_said_when_all_is_saved(shell: Shell) -> None:
    """A finished directory is two lines of numbers, where its files and its page are, and exit 0."""
    with serving() as service:
        shell.use(service)
        shell.write("list.txt", "a fox", "an owl")
        shell("render", "list.txt", "--out", "out", "--yes")
    shell.patch.delenv("KIE_API_KEY")
    result = shell("status", "out")
    assert (result.code, result.err) == (0, "")
    head, saved, spent, blank, files, page = result.out.splitlines()
    assert head == f"out: 2 jobs at {service.url}"
    assert saved.split()[:4] == ["saved", "2", "8", "files,"]
    assert spent.split() == ["spent", "50", "credits"]
    assert blank == ""
    assert files == "Everything is saved; out/manifest.jsonl lists the files."
    assert page == "Open out/index.html in a browser to see them."


def test_what_went_wrong_is_said_with_its_reason(shell: Shell) -> None:
    """Failed and unresolved jobs are listed with key, prompt and reason, and what is at risk."""
    shell.write("list.txt", NASTY, "an owl", "a newt")
    with serving("create.drop-reply=#2,task.fail=#1") as service:
        shell.use(service)
        told = shell("render", "list.txt", "--out", "out", "--yes", "--json")
        result = shell("status", "out")
    assert result.code == told.code == 4
    for job in told.told["jobs"]:
        if job["state"] == "saved":
            continue
        head = f"  {job['key']}  {job['prompt']}".replace("\x1b", "\\x1b")
        assert head in result.out
        assert job["error"] in result.out
        assert job["error"] in told.err
    assert "spent           25 credits, and up to 25 more for unresolved jobs" in result.out
    assert "\x1b" not in result.out + told.err


@pytest.mark.parametrize("simulated", [False, True], ids=["real", "simulated"])
def test_the_advice_works(shell: Shell, simulated: bool) -> None:
    """Every command that a report advises can be run as it stands, until all is saved."""
    shell.write("list.txt", "a fox", "an owl")
    out = "my out"
    if simulated:
        shell("render", "list.txt", "--out", out, "--simulate", "--timeout", "0.001")
    with serving("create.drop-reply=#1") as service:
        shell.use(service)
        if not simulated:
            shell("render", "list.txt", "--out", out, "--yes")
            retry, abandon, adopt = steps(shell("status", out))
            assert abandon == ["resolve", out, "--abandon"]
            assert adopt == ["resolve", out, "JOB", "--adopt", "TASK_ID"]
            retried = shell(*retry)
            assert retried.code == 0
            assert f"kie-mj resume '{out}'" in retried.err
        status = shell("status", out)
        assert status.code == 3
        (resume,) = steps(status)
        result = shell(*resume, "--yes")
    assert result.code == 0, result.err
    assert steps(result) == []
    assert shell("status", out, "--json").told["saved"] == 2


def test_a_failed_job_can_be_retried_as_advised(shell: Shell) -> None:
    """The advice for a failed job works with the start of its key."""
    with serving("task.fail=#1") as service:
        shell.use(service)
        failed = shell("generate", "a fox", "--out", "out", "--yes", "--json")
        assert failed.code == 1
        (advice,) = steps(failed)
        assert advice == ["resolve", "out", "JOB", "--retry"]
        key = failed.told["jobs"][0]["key"]
        assert shell(*[key[:6] if word == "JOB" else word for word in advice]).code == 0
        assert shell("resume", "out", "--yes", "--json").told["saved"] == 1


@pytest.mark.anyio
async def test_a_cut_off_create_is_unresolved(tmp_path: Path) -> None:
    """After a crash, a create whose end was never seen is told as unresolved, with its time."""
    ledger = await stage(tmp_path, 2)
    key, _ = await keys(ledger)
    await submit(ledger, key)
    await ledger.aclose()
    report = await read_report(str(tmp_path), NOW)
    assert (report.of("unresolved"), report.of("planned"), report.worker) == (1, 1, None)
    assert report.exit_code() is Exit.UNRESOLVED
    lines: list[str] = []
    tell(report, lines.append)
    text = "\n".join(lines)
    assert "its create was under way at 2027-01-15 08:00:00 UTC" in text
    assert "--retry" in text


@pytest.mark.anyio
async def test_beside_a_run_a_create_is_pending(tmp_path: Path) -> None:
    """While a process works, a create under way is pending, and nothing is advised."""
    ledger = await stage(tmp_path, 2)
    key, _ = await keys(ledger)
    await submit(ledger, key)
    try:
        report = await read_report(str(tmp_path), NOW)
        lines: list[str] = []
        tell(report, lines.append)
    finally:
        await ledger.aclose()
    assert (report.of("unresolved"), report.of("pending"), report.worker) == (0, 1, os.getpid())
    assert report.exit_code() is Exit.WORK_LEFT
    assert lines[-1] == f"Process {os.getpid()} is working on it."
    assert "What to do next:" not in lines


def test_json_beside_a_run(shell: Shell) -> None:
    """``status --json`` works beside a run, too."""
    assert shell("generate", "a fox", "--out", "out", "--simulate").code == 0
    path = ledger_path("out")
    lock = ProcessLock(lock_path(path), path)
    try:
        result = shell("status", "out", "--json")
    finally:
        lock.release()
    assert (result.code, result.told["saved"]) == (0, 1)


@pytest.mark.anyio
async def test_what_expires_soon_is_said(tmp_path: Path) -> None:
    """Results that expire within two days are warned about, also of tasks never seen to end."""
    ledger = await stage(tmp_path, 15)
    first, second, *others = await keys(ledger)
    for key, left in ((first, timedelta(hours=47)), (second, timedelta(hours=49))):
        job = await submit(ledger, key)
        job = await ledger.record(job, lifecycle.accepted(f"t{left}", NOW))
        move = lifecycle.succeeded(
            ("http://x/a",), created_at=NOW, completed_at=NOW, expires_at=NOW + left
        )
        await ledger.record(job, move)
    for number, key in enumerate(others):
        created = NOW - timedelta(days=13, hours=number)
        await ledger.record(await submit(ledger, key), lifecycle.accepted(f"r{number}", created))
    await ledger.aclose()
    report = await read_report(str(tmp_path), NOW)
    lines: list[str] = []
    tell(report, lines.append)
    at = lines.index("Warning: results of 14 jobs expire within 48 h; save them now:")
    assert report.due == 14
    assert lines[at + 1].startswith("  2027-01-15 20:00 UTC  ")
    assert [line[2:18] for line in lines[at + 1 : at + 11]] == sorted(
        line[2:18] for line in lines[at + 1 : at + 11]
    )
    assert lines[at + 11] == "  ... and 4 more"


@pytest.mark.anyio
async def test_long_lists_are_cut(tmp_path: Path) -> None:
    """Ten jobs of a kind are listed, and how many more there are."""
    ledger = await stage(tmp_path, 13)
    for key in await keys(ledger):
        await ledger.record(await submit(ledger, key), lifecycle.lost(ReplyLost("gone")))
    await ledger.aclose()
    lines: list[str] = []
    tell(await read_report(str(tmp_path), NOW), lines.append)
    assert sum("sent at 2027-01-15 08:00:00 UTC: gone" in line for line in lines) == 10
    assert "  ... and 3 more; --json lists them all" in lines


@pytest.mark.anyio
async def test_what_holds_a_job_up_is_said(tmp_path: Path) -> None:
    """A pending job that met trouble is listed with it."""
    ledger = await stage(tmp_path)
    job = await submit(ledger, (await keys(ledger))[0])
    job = await ledger.record(job, lifecycle.accepted("t1", NOW))
    await ledger.record(job, lifecycle.held_up(DownloadError("the link is dead")))
    await ledger.aclose()
    lines: list[str] = []
    tell(await read_report(str(tmp_path), NOW), lines.append)
    assert "Not there yet:" in lines
    assert "      the link is dead" in lines


@pytest.mark.parametrize(
    ("states", "stopped", "code"),
    [
        ({State.SAVED: 2}, False, Exit.DONE),
        ({State.ABANDONED: 1}, False, Exit.DONE),
        ({State.SAVED: 2}, True, Exit.WORK_LEFT),
        ({State.FAILED: 1}, False, Exit.SOME_FAILED),
        ({State.EXPIRED: 1}, False, Exit.SOME_FAILED),
        ({State.FAILED: 1, State.PLANNED: 1}, False, Exit.WORK_LEFT),
        ({State.FAILED: 1, State.RUNNING: 1}, False, Exit.WORK_LEFT),
        ({State.SUCCEEDED: 1}, False, Exit.WORK_LEFT),
        ({State.UNRESOLVED: 1, State.PLANNED: 1}, True, Exit.UNRESOLVED),
        ({State.SUBMITTING: 1}, False, Exit.UNRESOLVED),
    ],
)
def test_exit_codes(states: dict[State, int], stopped: bool, code: Exit) -> None:
    """The exit code is the highest that applies."""
    report = Report("out", "http://x", Counts(states), {}, [], 0, None)
    assert report.exit_code(stopped=stopped) is code


def test_numbers_and_sizes_are_for_people() -> None:
    """Large numbers have separators, sizes a unit, one thing no plural."""
    counts = Counts({State.SAVED: 12345}, files=1, bytes=1_234_567_890, credits=1234567)
    lines: list[str] = []
    report = Report("out", "http://x", counts, {}, [], 0, None)
    tell(report, lines.append)
    assert lines[0] == "out: 12,345 jobs at http://x"
    assert lines[1].split() == ["saved", "12,345", "1", "file,", "1.2", "GB"]
    assert lines[2].split()[1] == "1,234,567"
    lines.clear()
    tell(attrs.evolve(report, counts=Counts({State.SAVED: 1}, 2, 999)), lines.append)
    assert lines[0] == "out: 1 job at http://x"
    assert lines[1].endswith("2 files, 999 bytes")


def test_long_prompts_take_one_line() -> None:
    """A prompt of many words and lines is cut to fit."""
    trouble = Trouble("TaskFailed", str(TaskFailed("no")))
    job = Job(key="1-a", request=TextToImage("word \n" * 100), state=State.FAILED, trouble=trouble)
    lines: list[str] = []
    counts = Counts({State.FAILED: 1})
    tell(Report("out", "http://x", counts, {"failed": [job]}, [], 0, None), lines.append)
    (line,) = [line for line in lines if line.startswith("  1-a")]
    assert line.endswith("...")
    assert "\n" not in line
    assert len(line) < 80
