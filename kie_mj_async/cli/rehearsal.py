"""``--dry-run``: the jobs of a list, what would be sent for them, and the cost. Sends nothing.

The list is staged as a run would stage it, so keys are the real ones and what is known is known; but
in a copy of the directory's ledger, which is thrown away.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import attrs

from ..batch import ledger_path
from ..engine.preparing import taken_in
from ..engine.staging import each, stage
from ..events import Planned
from ..fields import ImageSource
from ..inputs import Inputs
from ..jobs import Job, State, told_as
from ..ledger import SqliteLedger
from ..ledger.base import jobs_in
from ..ledger.database import as_ledger_errors, check_host, check_not_empty, check_schema, connect
from ..requests import ChainStep
from ..rules.bodies import Call, call_of
from ..rules.chains import bound
from ..settings import checked_base_url
from ..waiting import in_thread
from .report import Exit, check_out
from .setup import SIMULATED_HOST
from .view import new_jobs, printable, say, short
from .work import Task


class _Images(Inputs):
    """Local images, taken in for as long as a rehearsal lasts.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._written: dict[str, str] = {}

    async def take(self, source: ImageSource, *, field: str = "image") -> str:
        """See :meth:`Inputs.take`; what the user wrote for it is remembered."""
        reference = await super().take(source, field=field)
        if not isinstance(source, bytes):
            self._written.setdefault(reference, os.fspath(source))
        return reference

    def as_written(self, image: str) -> str:
        """What the user wrote for an image; first, where several files have the same content."""
        return self._written.get(image, image)


@attrs.frozen
class _Staged:
    """A list as a run would begin with it.

    Attributes:
        ledger: The copy that it was taken into.
        run: The run of the copy that it belongs to.
        images: Its local images.
    """

    ledger: SqliteLedger
    run: int
    images: _Images

    async def jobs(self, *states: State) -> AsyncGenerator[Job, None]:
        """The list's jobs in these states, in the ledger's order."""
        for state in states:
            async for job in jobs_in(self.ledger, state, self.run):
                yield job


async def rehearse(task: Task) -> Exit:
    """Show what a generating command would do.

    Args:
        task: What it was asked to do.

    Raises:
        KieError: Bad input, or a directory that cannot be used.
    """
    assert task.requests is not None  # noqa: S101 - what goes on with a directory has no rehearsal
    task.check()
    simulate = task.options.simulate
    worker = await check_out(task.named, simulate=simulate, new=True, beside=True)
    host = SIMULATED_HOST if simulate else checked_base_url(None)
    with TemporaryDirectory(prefix="kie-mj-") as folder:
        copy = Path(folder) / "ledger.sqlite3"
        await in_thread(_copy, ledger_path(task.named), copy, host)
        ledger = await SqliteLedger.open(copy, host)
        try:
            images = _Images(Path(folder) / "inputs")
            listed = taken_in(each(task.requests()), images)
            run, plan = await stage(ledger, listed, task.options.prices)
            staged = _Staged(ledger, run, images)
            try:
                if task.as_json:
                    await _write_json(staged, plan, task, at_work=worker is not None)
                else:
                    await _write_blocks(staged)
                sys.stdout.flush()
            except BrokenPipeError:
                _let_go_of(sys.stdout)
        finally:
            await ledger.aclose()
    known = f", {plan.known:,} known already" if plan.known else ""
    cost = f"{plan.cost:,.0f} credits"
    say(f"{new_jobs(plan.new, plan.steps)}{known}, {cost}; nothing was sent")
    return Exit.DONE


def _copy(original: Path, copy: Path, host: str) -> None:
    """A ledger as it stands now, also while a process works on it; nothing where there is none."""
    if not original.is_file():
        return
    check_not_empty(original)
    with (
        as_ledger_errors(original),
        closing(connect(str(original))) as source,
        closing(connect(str(copy))) as target,
    ):
        source.execute("PRAGMA query_only = ON")
        check_schema(source, original, make=False)
        source.backup(target)
        check_host(target, original, host)


async def _write_blocks(staged: _Staged) -> None:
    """For people: a block for each job that would be sent."""
    async with aclosing(staged.jobs(State.PLANNED)) as jobs:
        async for job in jobs:
            call = _call(job, staged.images)
            body = json.dumps(call.body, indent=2, ensure_ascii=False)
            lines = [f"{job.key}  {short(job.title)}", f"POST {call.path}", *body.split("\n")]
            sys.stdout.write("".join(printable(line) + "\n" for line in (*lines, "")))


async def _write_json(staged: _Staged, plan: Planned, task: Task, *, at_work: bool) -> None:
    """For programs: one object, about new and known jobs."""
    head = {"new": plan.new, "known": plan.known, "credits": plan.cost}
    sys.stdout.write(json.dumps(head)[:-1] + ', "jobs": [')
    comma = ""
    known = (state for state in State if state is not State.PLANNED)
    async with aclosing(staged.jobs(State.PLANNED, *known)) as jobs:
        async for job in jobs:
            call, new = _call(job, staged.images), job.state is State.PLANNED
            told = {
                "key": job.key,
                "prompt": job.prompt,
                "state": told_as(job.state, at_work=at_work),
                "path": call.path,
                "body": call.body,
                "credits": task.options.prices.of(job.request) if new else 0,
            }
            sys.stdout.write(comma + json.dumps(told))
            comma = ", "
    sys.stdout.write("]}\n")


def _call(job: Job, images: _Images) -> Call:
    """What would be sent for a job; what is not known yet is described."""
    step = job.request
    if not isinstance(step, ChainStep):
        call = call_of(step)
        if "fileUrls" not in call.body:
            return call
        written = [images.as_written(one) for one in call.body["fileUrls"]]
        return attrs.evolve(call, body={**call.body, "fileUrls": written})
    results = tuple(f"<result {index} of job {step.parent}>" for index in range(step.index + 1))
    call = call_of(bound(step, Job(key=step.parent, request=step, task_id="later", urls=results)))
    if "taskId" not in call.body:
        return call
    return attrs.evolve(call, body={**call.body, "taskId": f"<task of job {step.parent}>"})


def _let_go_of(stream: TextIO) -> None:
    """Whoever read it has gone (``| head``); what is left in it goes nowhere, without a complaint."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
