"""What a callback's token says of a create that nobody saw the end of.

Each create carries a random token in its callback's address, which only the service was given. So a
callback with the token names the task that the create led to, whatever became of its reply.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final

from ..jobs import State

LAST_CALLBACK: Final = 2700.0
"""Seconds after a create within which its callback may still come: a task takes up to ten minutes, and
a callback that nobody took is repeated 1, 5 and 15 minutes later (kie-api.md, "Callbacks")."""


class Course(Enum):
    """What to do about a hint."""

    NOTHING = "nothing"
    """It tells nothing new."""
    WAIT = "wait"
    """The create's own end is under way, and tells the same or makes the job unresolved."""
    ADOPT = "adopt"
    """The task is the job's, once its record shows the job's parameters."""
    EXTRA = "extra"
    """The task is paid, and its job goes on without it: it is one more."""


def course(state: State, *, attempts: int, number: int, task_id: str | None) -> Course:
    """What to do about a callback that names a task for an attempt of a job.

    Args:
        state: Where the job stands.
        attempts: How many attempts it had.
        number: Which of them the callback is for.
        task_id: The task that this attempt is known to have led to, if it is known.
    """
    if task_id is not None:
        return Course.NOTHING
    if number != attempts:
        return Course.EXTRA
    match state:
        case State.SUBMITTING:
            return Course.WAIT
        # Planned: its user wants it made again, and that has not been sent yet.
        case State.UNRESOLVED | State.PLANNED:
            return Course.ADOPT
        case _:
            return Course.EXTRA


def seconds_left(sent_at: datetime | None, now: datetime) -> float:
    """For how long a callback of a create may still come; 0 if it is over.

    Args:
        sent_at: When it was sent (UTC); one in the future counts as now.
        now: The present (UTC).
    """
    if sent_at is None:
        return 0.0
    return max(0.0, LAST_CALLBACK - max(0.0, (now - sent_at).total_seconds()))
