"""How a fleet stands: its jobs, its workers, its account's window, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import attrs

from ..jobs import State
from ..rules import leases, pacing
from ..rules.lifecycle import AT_RISK
from ..rules.pacing import Rate, Slot
from .books import Books, Hand
from .enqueuing import UNDER_WAY

_TOLD_AS: Final = {
    State.PLANNED: "queued",
    State.SUBMITTING: "running",
    State.RUNNING: "running",
    State.SUCCEEDED: "running",
    State.SAVED: "saved",
    State.FAILED: "failed",
    State.EXPIRED: "expired",
    State.UNRESOLVED: "unresolved",
    State.ABANDONED: "abandoned",
}

TOLD_AS: Final = (*dict.fromkeys(_TOLD_AS.values()), "resting")
"""What people are told of jobs, in the order of their way."""


@attrs.frozen
class WorkerStatus:
    """A worker that has not left.

    Attributes:
        name: Its name, which no other worker ever has.
        host: The machine that it runs on.
        pid: Its process there.
        since: When it joined.
        silent: Seconds since its last heartbeat, by the database's clock.
        alive: Whether that is within what a living worker takes.
        jobs: Jobs under way there.
        trouble: Why it begins no job at present; ``None`` where it does.
    """

    name: str
    host: str
    pid: int
    since: datetime
    silent: float
    alive: bool
    jobs: int
    trouble: str | None


@attrs.frozen
class AccountStatus:
    """An account's window and what refusals have taught.

    Attributes:
        name: A hash that stands for the account.
        slots: Creates that occupy the present window, those under way included.
        creates: How many the window has room for.
        seconds: The window's length.
        in_flight: Tasks at once, where refusals have lowered the number; else ``None``.
        paused: Seconds for which no create is sent, after a refusal; 0 where there is no pause.
    """

    name: str
    slots: int
    creates: int
    seconds: float
    in_flight: int | None
    paused: float


@attrs.frozen
class FleetStatus:
    """How a fleet stands.

    Attributes:
        batch: The batch whose jobs are counted; ``None`` for those of all.
        jobs: How many are ``queued``, ``running``, ``saved``, ``failed``, ``expired``, ``unresolved``,
            ``abandoned``, or ``resting`` (they could not be brought to their end and are put into the
            queue again later).
        files: Files saved.
        bytes: Their total size.
        credits: Credits spent.
        at_risk: Credits that creates may have cost besides whose fate is not known.
        workers: The workers, the eldest first.
        accounts: The accounts; a fleet has one.
    """

    batch: str | None
    jobs: Mapping[str, int]
    files: int
    bytes: int
    credits: float
    at_risk: float
    workers: tuple[WorkerStatus, ...]
    accounts: tuple[AccountStatus, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return attrs.asdict(
            self,
            value_serializer=lambda _one, _field, value: (
                value.isoformat() if isinstance(value, datetime) else value
            ),
        )


async def anybody_works(books: Books) -> bool:
    """Whether any worker of the fleet is alive."""
    rows = await books.read(lambda hand: hand.ask("standing_workers"))
    return any(row["silent"] <= leases.TTL for row in rows)


def overview(hand: Hand, batch: str | None = None, number: int | None = None) -> FleetStatus:
    """How the fleet stands now.

    Args:
        hand: The database.
        batch: The batch whose jobs are counted; ``None`` for those of all.
        number: What the books call it.
    """
    rows = hand.ask("standing_jobs", {"batch": number})
    jobs = dict.fromkeys(TOLD_AS, 0)
    for row in rows:
        jobs["resting" if row["rests"] else _TOLD_AS[State(row["state"])]] += row["number"]
    under_way = {row["worker"]: row["number"] for row in hand.link.execute(UNDER_WAY).fetchall()}
    return FleetStatus(
        batch=batch,
        jobs=jobs,
        files=sum(row["files"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
        credits=sum(row["credits"] for row in rows),
        at_risk=sum(row["price"] for row in rows if State(row["state"]) in AT_RISK),
        workers=tuple(
            WorkerStatus(
                row["name"],
                row["host"],
                row["pid"],
                row["began_at"],
                max(0.0, row["silent"]),
                row["silent"] <= leases.TTL,
                under_way.get(row["name"], 0),
                row["trouble"],
            )
            for row in hand.ask("standing_workers")
        ),
        accounts=tuple(_accounts(hand.ask("standing_accounts"))),
    )


def _accounts(rows: Iterable[Mapping[str, Any]]) -> Iterable[AccountStatus]:
    """The accounts of these rows, which are one for each slot."""
    for name, group in groupby(rows, key=lambda row: str(row["name"])):
        some = list(group)
        row = some[0]
        usual = Rate()
        rate = Rate(row["creates"] or usual.creates, row["seconds"] or usual.seconds)
        # Good enough to be looked at; a create believes less (``rules/shared_time.py``).
        now = row["now"] + max(0.0, row["clock"] - row["told"])
        slots = [
            Slot(one["id"], one["owner"], one["taken_at"], one["ended_at"], one["gives_up_at"])
            for one in some
            if one["id"] is not None
        ]
        yield AccountStatus(
            name,
            len(pacing.settle(slots, now, rate, ())),
            rate.creates,
            rate.seconds,
            row["cap"],
            max(0.0, row["paused_until"] - now),
        )
