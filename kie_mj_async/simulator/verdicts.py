"""What decisions come to: the answers to creates, looks and uploads, and the words of refusals.

Plain values, made in ``world.py`` and rendered by the shells. Codes and words are kie-api.md's.
"""

from __future__ import annotations

from typing import Final

import attrs

from .tasks import Task

REFUSALS: Final[dict[str, tuple[int, str]]] = {
    "400": (400, "The request is not valid."),
    "401": (401, "You do not have access permissions"),
    "402": (402, "Insufficient credits. Please top up your account."),
    "404": (404, "The requested resource does not exist."),
    "422": (422, "The request parameters are not valid."),
    "429": (429, "Your call frequency is too high. Please try again later."),
    "429-bare": (429, ""),
    "429-running": (429, "Too many tasks are running at the same time. Please try again later."),
    "455": (455, "The service is under maintenance. Please try again later."),
    "500": (500, "Server exception, please try again later."),
    "501": (501, "Generation failed."),
    "505": (505, "This feature is disabled."),
    "html": (502, ""),
    "drop": (0, ""),
    "redirect": (307, ""),
    "unknown-code": (599, "Unexpected state."),
}
"""Faults that keep a create or an upload from being accepted: the code for the books (0: none) and
the words."""


@attrs.frozen
class Answer:
    """What a create comes to.

    Args:
        code: The code a faultless answer has.
        message: Its words.
        task_id: The new task, or ``None`` when the create is refused.
        fault: The fault that spoils the answer, or ``None``.
        retry_after: Seconds to name in a Retry-After header, or ``None``.
        number: The create's number, from 1.
        early: Whether the task's callback goes out before this answer.
    """

    code: int
    message: str
    task_id: str | None
    fault: str | None
    retry_after: float | None
    number: int
    early: bool = False


@attrs.frozen
class Look:
    """What a poll or a download comes to.

    Args:
        task: The task, or ``None`` when there is none to see.
        fault: The fault that spoils the answer, or ``None``.
        hint: Whether a refusal carries Retry-After.
        dead: Whether the link's time is up, though the file is stored.
    """

    task: Task | None
    fault: str | None
    hint: bool
    dead: bool = False
