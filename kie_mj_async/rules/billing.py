"""What the end of a create means for the money. The only place that decides it.

The service has no idempotency key, so a create that may have been accepted is never repeated by
itself (law 1: paid once). "Sent" is a fact that the transport observed (the HTTP layer was about to
write the first byte), not a guess from an exception's type.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from ..errors import KieError, MalformedReply, NotSent, ReplyLost
from ..requests import Request
from . import wire

PRICE: Final = 25
"""Credits a Midjourney task costs (kie-api.md, "Limits, prices, retention")."""

OnUnknown = Literal["park", "repeat"]
"""What to do about a create whose fate is unknown: leave it to the user, or send it again."""

_REFUSALS: Final = frozenset({400, 401, 402, 404, 422, 429, 455, 505})
_AGAIN: Final = frozenset({429, 455})
_HALT: Final = frozenset({401, 402})


@attrs.frozen
class Silence:
    """A create that ended without an answer.

    Attributes:
        sent: Whether the first byte may have been written.
        reason: What happened, for people.
    """

    sent: bool
    reason: str


@attrs.frozen
class Accepted:
    """The service has the task, and it is paid."""

    task_id: str


@attrs.frozen
class Refused:
    """Not accepted, not charged.

    Attributes:
        error: Why.
        then: ``again`` later, ``halt`` the batch (no job of it could do better), or ``fail`` the job.
    """

    error: KieError
    then: Literal["again", "halt", "fail"]


@attrs.frozen
class Unsent:
    """No byte of it was written: it may be sent again."""

    error: NotSent


@attrs.frozen
class Lost:
    """It may have been accepted and paid. Never repeated without the user's word."""

    error: KieError


Verdict = Accepted | Refused | Unsent | Lost


def judge(answer: wire.Reply | Silence) -> Verdict:
    """What a create's end means (kie-api.md, the table of codes)."""
    if isinstance(answer, Silence):
        if answer.sent:
            message = f"the create was sent and no answer came: {answer.reason}"
            return Lost(ReplyLost(message, billed="unknown"))
        return Unsent(NotSent(f"the create was not sent: {answer.reason}"))
    code = wire.envelope_code(answer)
    refusal = code if code is not None else (429 if answer.status == 429 else None)
    try:
        return Accepted(wire.read_task_id(answer))
    except KieError as error:
        if refusal in _REFUSALS:
            return Refused(error, _then(refusal))
        if not isinstance(error, MalformedReply):
            said = f"the service may have accepted the create before it failed: {error}"
            return Lost(ReplyLost(said, billed="unknown"))
        error.billed = "unknown"
        return Lost(error)


def _then(code: int) -> Literal["again", "halt", "fail"]:
    if code in _AGAIN:
        return "again"
    return "halt" if code in _HALT else "fail"


def price(request: Request) -> float:
    """Credits that this request costs when it is accepted."""
    return PRICE


def fits(committed: float, cost: float, cap: float | None) -> bool:
    """Whether one more job of this cost stays within the cap.

    Args:
        committed: Credits of what was accepted, is in flight, or is unresolved.
        cost: The job's price.
        cap: The user's ``max_credits``; ``None`` for no cap.
    """
    return cap is None or committed + cost <= cap
