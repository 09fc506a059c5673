"""``kie-mj resolve``: the user's decisions about jobs whose fate is unknown."""

from __future__ import annotations

from ..batch import folder_of, recovered
from ..engine import resolving
from ..engine.resolving import Decision
from ..errors import InvalidRequest
from .report import check_out, now, read_report, resume_command
from .setup import SIMULATED_HOST, Options, open_client
from .view import say


async def decide(out: str, names: list[str], decision: Decision) -> None:
    """Retry or abandon jobs; all unresolved ones when none is named. Needs no key, sends nothing.

    Raises:
        InvalidRequest: A name fits no job, or one that this cannot be decided about.
        LedgerError: The directory holds no ledger that can be used.
    """
    report = await read_report(out, now())
    async with recovered(folder_of(out), report.host) as ledger:
        number = await resolving.decide(ledger, names, decision, now())
    jobs = f"{number:,} job{'' if number == 1 else 's'}"
    if not number:
        say("No job is unresolved.")
    elif decision == "retry":
        command = resume_command(out, simulate=report.host == SIMULATED_HOST)
        say(f"{jobs} planned again. Submit with: {command}")
    else:
        say(f"{jobs} given up.")


async def adopt(out: str, names: list[str], task_id: str, options: Options) -> None:
    """Give an unresolved job the task that the user found for it.

    Raises:
        InvalidRequest: Not exactly one job was named, or the task was made with other parameters.
        KieError: The task could not be looked up.
    """
    if len(names) != 1:
        raise InvalidRequest("--adopt: name the one JOB that the task belongs to")
    await check_out(out, simulate=options.simulate)
    async with open_client(options, out=folder_of(out)) as client:
        job = await client.adopt(out, names[0], task_id)
    command = resume_command(out, simulate=options.simulate)
    say(f"Job {job.key} has task {task_id} now. Save it with: {command}")
