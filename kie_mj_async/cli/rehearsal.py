"""``--dry-run``: the jobs of a list, what would be sent for them, and the cost. Sends nothing.

The list is staged as a run would stage it, so keys are the real ones and what is known is known; but
in a copy of the directory's ledger, which is thrown away.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, closing, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TextIO

import attrs

from ..batch import ledger_path
from ..engine.preparing import with_images
from ..fields import is_local
from ..inputs import Inputs
from ..jobs import Job, State, told_as
from ..ledger import Cursor, SqliteLedger
from ..ledger.base import PAGE
from ..ledger.database import as_ledger_errors, check_host, check_not_empty, check_schema, connect
from ..requests import ChainStep, Request
from ..rules.billing import Prices
from ..rules.bodies import Call, call_of
from ..rules.chains import bound
from ..settings import checked_base_url
from ..waiting import in_thread
from .report import Exit, check_out, short
from .setup import SIMULATED_HOST
from .view import new_jobs, printable, say
from .work import Task

_CHUNK: Final = 500
"""Requests to stage at a time."""


@attrs.frozen
class _Plan:
    """What a list comes to.

    Attributes:
        run: The run of the copied ledger that the list belongs to.
        new: Jobs that would be sent.
        steps: Those of the new ones that are steps of chains.
        known: Jobs that an earlier run has dealt with or begun.
        credits: What the new ones cost.
    """

    run: int
    new: int = 0
    steps: int = 0
    known: int = 0
    credits: float = 0


class _Images:
    """Local images, taken in for as long as a rehearsal lasts.

    Args:
        inputs: Where they are kept.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._written: dict[str, str] = {}

    async def taken(self, request: Request) -> Request:
        """The request as a ledger can hold it.

        Raises:
            InvalidRequest: An image cannot be used.
        """
        found: dict[Any, str] = {}
        for name, image in request.images_given():
            if is_local(image) and image not in found:
                found[image] = await self._inputs.take(image, field=name)
                self._written.setdefault(found[image], os.fspath(image))
        return with_images(request, found)

    def as_written(self, image: str) -> str:
        """What the user wrote for an image; first, where several files have the same content."""
        return self._written.get(image, image)


async def rehearse(task: Task) -> Exit:
    """Show what a generating command would do.

    Args:
        task: What it was asked to do.

    Raises:
        KieError: Bad input, or a directory that cannot be used.
    """
    assert task.requests is not None  # noqa: S101 - what goes on with a directory has no rehearsal
    for _ in task.requests():  # all of it is checked before any of it is shown
        pass
    simulate = task.options.simulate
    worker = await check_out(task.named, simulate=simulate, new=True, beside=True)
    host = SIMULATED_HOST if simulate else checked_base_url(None)
    with TemporaryDirectory(prefix="kie-mj-") as folder:
        copy = Path(folder) / "ledger.sqlite3"
        await in_thread(_copy, ledger_path(task.named), copy, host)
        ledger = await SqliteLedger.open(copy, host)
        try:
            images = _Images(Inputs(Path(folder) / "inputs"))
            plan = await _staged(ledger, task.requests(), images, task.options.prices)
            show = _write_json if task.as_json else _write_blocks
            try:
                await show(ledger, plan, images, task, at_work=worker is not None)
                sys.stdout.flush()
            except BrokenPipeError:
                _let_go_of(sys.stdout)
        finally:
            await ledger.aclose()
    known = f", {plan.known:,} known already" if plan.known else ""
    cost = f"{plan.credits:,.0f} credits"
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


async def _staged(
    ledger: SqliteLedger, requests: Iterable[Request], images: _Images, prices: Prices
) -> _Plan:
    async with ledger.staging() as staging:
        plan = _Plan(staging.run)
        for chunk in _chunks(requests):
            for job in await staging.add([await images.taken(request) for request in chunk]):
                if job.state is State.PLANNED:
                    plan = attrs.evolve(
                        plan,
                        new=plan.new + 1,
                        steps=plan.steps + isinstance(job.request, ChainStep),
                        credits=plan.credits + prices.of(job.request),
                    )
                else:
                    plan = attrs.evolve(plan, known=plan.known + 1)
    return plan


def _chunks(requests: Iterable[Request]) -> Iterator[list[Request]]:
    rest = iter(requests)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


async def _jobs(ledger: SqliteLedger, plan: _Plan, *states: State) -> AsyncGenerator[Job, None]:
    """The list's jobs in these states, in the ledger's order."""
    for state in states:
        cursor = Cursor()
        while jobs := await ledger.page(state, cursor, PAGE, plan.run):
            cursor = Cursor.behind(jobs[-1])
            for job in jobs:
                yield job


async def _write_blocks(
    ledger: SqliteLedger, plan: _Plan, images: _Images, _task: Task, *, at_work: bool
) -> None:
    """For people: a block for each job that would be sent."""
    async with aclosing(_jobs(ledger, plan, State.PLANNED)) as jobs:
        async for job in jobs:
            call = _call(job, images)
            body = json.dumps(call.body, indent=2, ensure_ascii=False)
            lines = [f"{job.key}  {short(job.title)}", f"POST {call.path}", *body.split("\n")]
            sys.stdout.write("".join(printable(line) + "\n" for line in (*lines, "")))


async def _write_json(
    ledger: SqliteLedger, plan: _Plan, images: _Images, task: Task, *, at_work: bool
) -> None:
    """For programs: one object, about new and known jobs."""
    head = {"new": plan.new, "known": plan.known, "credits": plan.credits}
    sys.stdout.write(json.dumps(head)[:-1] + ', "jobs": [')
    comma = ""
    known = (state for state in State if state is not State.PLANNED)
    async with aclosing(_jobs(ledger, plan, State.PLANNED, *known)) as jobs:
        async for job in jobs:
            call, new = _call(job, images), job.state is State.PLANNED
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
