"""Jobs whose fate is unknown: finding them after a crash, and the user's decisions about them.

Nothing here decides by itself: a create that may have been accepted is repeated, given up, or given
its task only on the user's word.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal

from ..errors import InvalidRequest, ReplyLost
from ..jobs import Job, State
from ..ledger import Cursor, Ledger
from ..rules import lifecycle
from ..rules.lifecycle import IllegalMove
from .poll_scheduler import Reader
from .preparing import Preparer

Decision = Literal["retry", "abandon"]

_PAGE: Final = 200
_MAY_BE_RETRIED: Final = (State.UNRESOLVED, State.FAILED, State.EXPIRED, State.ABANDONED)


async def recover(ledger: Ledger) -> None:
    """Bring what a crash left between two steps to where a user can see it.

    A create whose intent is there and whose end is not may have been accepted. Nothing else needs
    recovery: every other state is where its next step begins.
    """
    while cut_off := await ledger.page(State.SUBMITTING, Cursor(), _PAGE):
        for job in cut_off:
            message = "the run ended before an answer came: it may have been accepted and paid"
            await ledger.record(job, lifecycle.lost(ReplyLost(message)))


async def find(ledger: Ledger, name: str) -> Job:
    """The job that a user means by a key, or by the start of one.

    Raises:
        InvalidRequest: None or several fit.
    """
    found = await ledger.find(name)
    exact = [job for job in found if job.key == name] or found
    if len(exact) != 1:
        problem = "several jobs have" if exact else "no job has"
        message = f"job: {problem} a key that starts with {name!r}; kie-mj status lists them"
        raise InvalidRequest(message, field="job", value=name)
    return exact[0]


async def decide(ledger: Ledger, names: list[str], decision: Decision, now: datetime) -> int:
    """Retry or abandon the named jobs, or all unresolved ones when none is named.

    After a crash :func:`recover` goes first. Where jobs are being sent meanwhile it must not: their
    creates would be taken for lost, and sent again.

    Retrying a job whose lost create was accepted after all pays twice. Failed, expired and abandoned
    jobs can be retried by name.

    Args:
        ledger: Where they are.
        names: Keys, or starts of keys.
        decision: What to do.
        now: The present (UTC).

    Returns:
        How many jobs were decided about.

    Raises:
        InvalidRequest: A name fits no job, or one that this cannot be decided about; nothing was
            changed.
    """
    allowed = _MAY_BE_RETRIED if decision == "retry" else (State.UNRESOLVED,)
    jobs = [await find(ledger, name) for name in names]
    for job in jobs:
        _must_be(job, allowed, "retried" if decision == "retry" else "given up")
    move = lifecycle.retried() if decision == "retry" else lifecycle.abandoned(now)
    if names:
        for job in {job.key: job for job in jobs}.values():
            if decision == "retry":
                # First: a job that is planned already could not be retried again after a crash.
                await _retry_behind(ledger, job)
            await ledger.record(job, move)
        return len({job.key for job in jobs})
    number = 0
    while page := await ledger.page(State.UNRESOLVED, Cursor(), _PAGE):
        for job in page:
            with suppress(IllegalMove):  # a callback has just found its task
                await ledger.record(job, move)
                number += 1
    return number


async def _retry_behind(ledger: Ledger, job: Job) -> None:
    """Plan the steps of a chain again that failed, unsent, because this job had."""
    left = [job]
    while left:
        left += [
            await ledger.record(child, lifecycle.retried())
            for child in await ledger.children(left.pop().key)
            if child.state is State.FAILED and child.attempts == 0
        ]


async def adopt(ledger: Ledger, name: str, task_id: str, reader: Reader, preparer: Preparer) -> Job:
    """Take a task that the user found for an unresolved job's own; :func:`recover` goes first.

    Raises:
        InvalidRequest: The task was made with other parameters, belongs to another job, or was this
            job's before.
        NotFound: The service knows no such task.
        KieError: It could not be looked up.
    """
    job = await find(ledger, name)
    _must_be(job, (State.UNRESOLVED,), "given a task")
    other = await ledger.by_task(task_id)
    if other is not None:
        raise InvalidRequest(f"task {task_id} belongs to job {other.key} already", field="task_id")
    if await _had_before(ledger, job, task_id):
        message = (
            f"task {task_id} was job {job.key}'s before, and its end is known; it is not the one whose "
            "fate is unknown"
        )
        raise InvalidRequest(message, field="task_id", value=task_id)
    record = await reader.record(task_id)
    if differences := await preparer.differences(job, record):
        message = f"task {task_id} is not job {job.key}: {'; '.join(differences)}"
        raise InvalidRequest(message, field="task_id", value=task_id)
    return await ledger.record(job, lifecycle.adopted(task_id))


async def _had_before(ledger: Ledger, job: Job, task_id: str) -> bool:
    """Whether an earlier attempt of the job led to this task: then it is not the lost one."""
    facts = [json.loads(past.detail) for past in await ledger.history(job) if past.detail]
    return any(fact.get("task_id") == task_id for fact in facts)


def _must_be(job: Job, states: tuple[State, ...], what: str) -> None:
    if job.state not in states:
        which = " or ".join(states)
        message = f"job {job.key} is {job.state}; only a job that is {which} can be {what}"
        raise InvalidRequest(message, field="job", value=job.key)
