"""What a batch directory holds, told from its ledger: for people, as JSON, and as an exit code."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TextIO

import attrs

from ..archive import manifest, page
from ..batch import check_batch, folder_of, holds_batch, ledger_path
from ..errors import InvalidRequest, LedgerBusy
from ..jobs import Counts, Job, State, reason_of, told_as
from ..ledger import Cursor, SqliteLedger
from ..ledger.base import each_job, urgency
from ..rules import billing
from ..rules.billing import Evidence
from .configured import next_command
from .setup import SIMULATED_HOST
from .view import count_of, short

SOON: Final = timedelta(hours=48)
"""Results that expire within this are worth a warning."""

_LISTED: Final = 10
"""Jobs of one kind to list for people; ``--json`` has them all."""
_READINGS: Final = 20

_ORDER: Final = ("planned", "pending", "saved", "failed", "expired", "unresolved", "abandoned")


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    WORK_LEFT = 3
    UNRESOLVED = 4


@attrs.frozen
class Report:
    """A batch directory at a glance.

    Attributes:
        out: The directory, as the user wrote it.
        host: The API host of its tasks.
        counts: Jobs by state, files, credits.
        listed: The first few jobs that want attention, by what they are told as.
        expiring: The first few jobs whose results are gone soon and not saved yet.
        due: How many there are of those.
        worker: The process that works on it now, or ``None``.
        store: The object store that its results go to, or ``None``.
        page: The page that shows them, or ``None`` where there is none.
        evidence: What the account's balance says about unresolved jobs, or ``None``.
    """

    out: str
    host: str
    counts: Counts
    listed: dict[str, list[Job]]
    expiring: list[Job]
    due: int
    worker: int | None
    evidence: Evidence | None = None
    store: str | None = None
    page: Path | None = None

    def told_as(self, state: State) -> str:
        """What a job in this state is told as."""
        return told_as(state, at_work=self.worker is not None)

    def of(self, told: str) -> int:
        """Jobs that are told as this."""
        return sum(n for state, n in self.counts.by_state.items() if self.told_as(state) == told)

    def exit_code(self, *, stopped: bool = False) -> Exit:
        """The highest of the codes that apply.

        Args:
            stopped: Whether a run was stopped early by an error.
        """
        if self.of("unresolved"):
            return Exit.UNRESOLVED
        if stopped or self.of("planned") or self.of("pending"):
            return Exit.WORK_LEFT
        if self.of("failed") or self.of("expired"):
            return Exit.SOME_FAILED
        return Exit.DONE


async def read_report(out: str, now: datetime) -> Report:
    """Look at a directory, also while a run works in it.

    Raises:
        InvalidRequest: It holds no batch.
        LedgerError: Its ledger cannot be read.
    """
    check_batch(out)
    ledger = await SqliteLedger.read(ledger_path(out))
    try:
        counts = await ledger.counts()
        worker = await ledger.worker()
        first = {state: await ledger.page(state, Cursor(), _LISTED) for state in State}
        cut_off = first[State.SUBMITTING] if worker is None else []
        unfinished = (*first[State.SUCCEEDED], *first[State.RUNNING], *first[State.PLANNED])
        listed = {
            "unresolved": [*cut_off, *first[State.UNRESOLVED]],
            "failed": first[State.FAILED],
            "expired": first[State.EXPIRED],
            "held up": [job for job in unfinished if job.trouble is not None],
        }
        paid = sorted((*first[State.SUCCEEDED], *first[State.RUNNING]), key=urgency)
        until = now + SOON
        expiring = [job for job in paid if urgency(job) < until.timestamp()][:_LISTED]
        due = await ledger.due(until)
        evidence = billing.evidence(await ledger.readings(_READINGS))
        host, store = await ledger.host(), await ledger.store()
        path = folder_of(out) / page.NAME
        shown = path if path.is_file() else None
        return Report(out, host, counts, listed, expiring, due, worker, evidence, store, shown)
    finally:
        await ledger.aclose()


async def check_out(
    out: str, *, simulate: bool, new: bool = False, beside: bool = False
) -> int | None:
    """See that a run may work in a directory, before anything is made in it.

    Args:
        out: The directory, as the user wrote it.
        simulate: Whether the run is simulated. Neither kind of run knows the other's tasks.
        new: Whether a batch may begin there.
        beside: Whether another process may be working on it.

    Returns:
        That process.

    Raises:
        InvalidRequest: It may not; the message says what to do.
        LedgerBusy: Another process works on it.
        LedgerError: Its ledger cannot be read.
    """
    if new and not holds_batch(out):
        return None
    check_batch(out)
    ledger = await SqliteLedger.read(ledger_path(out))
    try:
        simulated = await ledger.host() == SIMULATED_HOST
        worker = await ledger.worker()
    finally:
        await ledger.aclose()
    if simulated and not simulate:
        message = f"{out}: was made with --simulate; add --simulate, or choose another directory"
        raise InvalidRequest(message)
    if simulate and not simulated:
        message = f"{out}: was made without --simulate; leave it out, or choose another directory"
        raise InvalidRequest(message)
    if worker is not None and not beside:
        message = f"{out}: process {worker} is working on it; wait for it to end, or stop it first"
        raise LedgerBusy(message, pid=worker, path=str(ledger.path))
    return worker


def resume_command(out: str, *, simulate: bool) -> str:
    """The command that goes on with a directory."""
    return next_command(f"resume {shlex.quote(out)}" + (" --simulate" if simulate else ""))


def tell(report: Report, say: Callable[[str], None]) -> None:
    """Say what stands where, and what to do next."""
    counts = report.counts
    _tell_counts(report, say)
    for told, title in _TITLES.items():
        if jobs := report.listed.get(told):
            say("")
            say(title)
            for job in jobs[:_LISTED]:
                say(f"  {job.key}  {short(job.title)}")
                say(f"      {reason_of(job)}")
            number = len(jobs) if told == "held up" else report.of(told)
            if number > _LISTED:
                say(f"  ... and {number - _LISTED:,} more; --json lists them all")
    if report.evidence is not None and report.of("unresolved"):
        say("")
        say(_told_evidence(report.evidence))
    if report.due:
        _tell_due(report, say)
    if report.worker is not None:
        say("")
        say(f"Process {report.worker} is working on it.")
        return
    shown = report.page if report.of("saved") else None
    if steps := _next_steps(report):
        if shown is not None:
            say("")
            say(f"Open {shown} in a browser to see what is saved.")
        say("")
        say("What to do next:")
        width = max(len(command) for command, _ in steps)
        for command, why in steps:
            say(f"  {command:<{width}}  {why}")
    elif counts.total and report.of("saved") == counts.total:
        say("")
        say(f"Everything is saved; {folder_of(report.out) / manifest.NAME} lists the files.")
        if shown is not None:
            say(f"Open {shown} in a browser to see them.")


def _tell_counts(report: Report, say: Callable[[str], None]) -> None:
    counts = report.counts
    say(f"{report.out}: {count_of(counts.total, 'job')} at {report.host}")
    if report.store is not None:
        say(f"  results in {report.store}, ledger and manifest in {folder_of(report.out)}")
    for told in _ORDER:
        if number := report.of(told):
            say(f"  {told:<11}{number:>7,}{_gloss(told, counts)}")
    say(f"  {'spent':<11}{counts.credits:>7,.0f} credits{_at_risk(counts)}")


def _tell_due(report: Report, say: Callable[[str], None]) -> None:
    say("")
    say(f"Warning: results of {count_of(report.due, 'job')} expire within 48 h; save them now:")
    for job in report.expiring:
        gone = datetime.fromtimestamp(urgency(job), UTC)
        say(f"  {gone:%Y-%m-%d %H:%M} UTC  {job.key}  {short(job.title)}")
    if report.due > len(report.expiring):
        say(f"  ... and {report.due - len(report.expiring):,} more")


_TITLES: Final = {
    "failed": "Failed (not charged):",
    "expired": "Expired:",
    "unresolved": "Unresolved (each may have been accepted and paid; it is not repeated by itself):",
    "held up": "Not there yet:",
}


def _gloss(told: str, counts: Counts) -> str:
    match told:
        case "saved":
            return f"   {count_of(counts.files, 'file')}, {_size(counts.bytes)}"
        case "planned":
            return "   not sent yet"
        case "pending":
            return "   accepted and paid, not on disk yet"
    return ""


def _at_risk(counts: Counts) -> str:
    return f", and up to {counts.at_risk:,.0f} more for unresolved jobs" if counts.at_risk else ""


def _told_evidence(found: Evidence) -> str:
    span = f"Between {found.since:%Y-%m-%d %H:%M} and {found.until:%H:%M} UTC"
    told = (
        f"{span} the balance fell by {found.fell:,.0f} credits; accepted jobs account for "
        f"{found.explained:,.0f}. "
    )
    if found.unexplained <= 0:
        verdict = "So unresolved jobs of that time were probably not paid"
    elif found.unexplained >= found.at_risk:
        verdict = "So unresolved jobs of that time were probably paid"
    else:
        verdict = (
            f"So of {found.at_risk:,.0f} credits of unresolved jobs of that time, about "
            f"{found.unexplained:,.0f} were probably paid"
        )
    return f"{told}{verdict}. This is evidence, not proof: other use of the account looks the same."


def _next_steps(report: Report) -> list[tuple[str, str]]:
    out = shlex.quote(report.out)
    simulate = report.host == SIMULATED_HOST
    steps = []
    if report.of("unresolved"):
        steps += [
            (
                next_command(f"resolve {out} --retry"),
                "plan them again, at the risk of paying twice",
            ),
            (next_command(f"resolve {out} --abandon"), "give them up"),
            (
                next_command(
                    f"resolve {out} JOB --adopt TASK_ID" + (" --simulate" if simulate else "")
                ),
                "if you find its task in your account's log on the web",
            ),
        ]
    if report.of("planned") or report.of("pending"):
        command = resume_command(report.out, simulate=simulate)
        steps.append((command, "go on with what is left; nothing is paid twice"))
    if report.of("failed") or report.of("expired"):
        steps.append(
            (
                next_command(f"resolve {out} JOB --retry"),
                "plan a failed job again; the start of its key is enough",
            )
        )
    return steps


async def write_json(out: str, report: Report, stream: TextIO) -> None:
    """Write the whole directory as one JSON object."""
    head: dict[str, Any] = {told: report.of(told) for told in _ORDER}
    head |= {
        "files": report.counts.files,
        "bytes": report.counts.bytes,
        "credits": report.counts.credits,
    }
    stream.write(json.dumps(head)[:-1] + ', "jobs": [')
    comma = ""
    ledger = await SqliteLedger.read(ledger_path(out))
    try:
        async for job in each_job(ledger):
            stream.write(comma + json.dumps(_plain(job, report)))
            comma = ", "
    finally:
        await ledger.aclose()
    stream.write("]}\n")


def _plain(job: Job, report: Report) -> dict[str, Any]:
    return {
        "key": job.key,
        "prompt": job.prompt,
        "state": report.told_as(job.state),
        "task_id": job.task_id,
        "files": [file.path for file in job.files],
        "error": reason_of(job) if job.trouble or job.state is State.SUBMITTING else None,
    }


def now() -> datetime:
    """The present (UTC)."""
    return datetime.now(UTC)


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return ""
