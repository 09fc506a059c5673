"""What the end of a create means for the money. The only place that decides it.

The service has no idempotency key, so a create that may have been accepted is never repeated by
itself (law 1: paid once). "Sent" is a fact that the transport observed (the HTTP layer was about to
write the first byte), not a guess from an exception's type.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

import attrs

from ..errors import ConfigError, KieError, MalformedReply, NotSent, ReplyLost
from ..jobs import Reading
from ..requests import SPEEDS, TASK_TYPES, ExistingTask, Request
from . import wire
from .bodies import lenient

PRICE: Final = 25
"""Credits a Midjourney task costs (kie-api.md, "Limits, prices, retention")."""

_DEFAULT: Final = "default"

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
        held: Whether we held it back ourselves; that tells nothing of the service.
    """

    sent: bool
    reason: str
    held: bool = False


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
    """No byte of it was written: it may be sent again.

    Attributes:
        error: Why.
        held: Whether we held it back ourselves; that tells nothing of the service.
    """

    error: NotSent
    held: bool = False


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
        return Unsent(NotSent(f"the create was not sent: {answer.reason}"), answer.held)
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


@attrs.frozen
class Prices:
    """What a task costs, by its type and speed.

    Attributes:
        default: Credits where nothing more is known.
        by_type: Credits by the service's type names, then by speed or ``default``.
    """

    default: float = PRICE
    by_type: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict)

    def of(self, request: Request) -> float:
        """Credits that this request costs when it is accepted."""
        if isinstance(request, ExistingTask):
            return 0
        if not self.by_type:
            return self.default
        sent = lenient(request)
        speeds = self.by_type.get(sent.task_type, {})
        return speeds.get(sent.speed or _DEFAULT, speeds.get(_DEFAULT, self.default))


def read_prices(text: str, source: str) -> Prices:
    """A price table from TOML: ``default = 25``, and tables such as ``[mj_video]`` with speeds.

    Args:
        text: The TOML.
        source: What to call it in errors.

    Raises:
        ConfigError: It is no such table; the message names the entry.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    default = _credits(table.pop(_DEFAULT, PRICE), f"{source}: {_DEFAULT}")
    by_type = {}
    for name, speeds in table.items():
        if name not in TASK_TYPES or not isinstance(speeds, dict):
            message = (
                f"{source}: {name}: not a task type; use a table named {', '.join(TASK_TYPES)}"
            )
            raise ConfigError(message)
        for speed in speeds:
            if speed not in (*SPEEDS, _DEFAULT):
                choices = ", ".join((*SPEEDS, _DEFAULT))
                raise ConfigError(f"{source}: {name}.{speed}: not a speed; use one of {choices}")
        by_type[name] = {
            speed: _credits(value, f"{source}: {name}.{speed}") for speed, value in speeds.items()
        }
    return Prices(default, by_type)


def _credits(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ConfigError(f"{place}: {value!r} is not allowed; use credits from 0")
    return value


def fits(committed: float, cost: float, cap: float | None) -> bool:
    """Whether one more job of this cost stays within the cap.

    Args:
        committed: Credits of what was accepted, is in flight, or is unresolved.
        cost: The job's price.
        cap: The user's ``max_credits``; ``None`` for no cap.
    """
    return cap is None or committed + cost <= cap


@attrs.frozen
class Evidence:
    """What two readings of the balance say about the unresolved jobs between them.

    It is evidence, not proof: whoever else uses the account changes the balance too.

    Attributes:
        since: When the first reading was taken (UTC).
        until: When the second was taken (UTC).
        fell: Credits by which the balance fell.
        explained: Credits that accepted jobs account for.
        at_risk: Credits that jobs which became unresolved in between may have cost.
    """

    since: datetime
    until: datetime
    fell: float
    explained: float
    at_risk: float

    @property
    def unexplained(self) -> float:
        """Credits that went somewhere else: into unresolved jobs, or to other users."""
        return self.fell - self.explained


def evidence(readings: Sequence[Reading]) -> Evidence | None:
    """What the readings say about the latest loss; ``None`` if nothing.

    Args:
        readings: In the order they were taken.
    """
    for before, after in reversed(list(pairwise(readings))):
        at_risk = after.at_risk - before.at_risk
        if at_risk > 0:
            fell = before.balance - after.balance
            return Evidence(before.at, after.at, fell, after.spent - before.spent, at_risk)
    return None
