"""Who is dead: what a fleet's workers may conclude from each other's heartbeats.

A worker holds a lease as long as it renews it. Times of leases are the database's, so that machines
need not agree about the time; a worker's own trust in its lease is measured with its own clock, from
before the renewal was sent. So a worker stops trusting its lease before anybody else may end it.

An old heartbeat alone proves nothing: after an outage of the database all of them are old. So silence
only counts as far as the observer was listening (see :class:`Watch`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

import attrs

EVERY: Final = 2.0
"""Seconds between two heartbeats."""

TTL: Final = 8.0
"""Seconds of silence after which a worker is dead."""

MARGIN: Final = 1.0
"""Seconds before that at which a worker stops trusting its own lease."""

BREAK: Final = 4.0
"""Seconds between two looks beyond which an observer was not listening."""

DRIFT: Final = 1.0
"""Seconds that the database's clock may run ahead of or behind an observer's between two looks."""


@attrs.frozen
class Lease:
    """One worker's lease, as the database has it.

    Attributes:
        worker: The worker's name, which no other worker ever has.
        epoch: Its number: a later lease has a higher one.
        beats: Its heartbeats so far.
        beat_at: When the last one came, by the database's clock.
        ended: Whether it was given back, or taken away.
    """

    worker: str
    epoch: int
    beats: int
    beat_at: float
    ended: bool = False


@attrs.frozen
class Watch:
    """Since when an observer has been listening without a break.

    Attributes:
        since: That time, by the database's clock.
        looked_at: The last look, by the database's clock.
        own: The last look, by the observer's own clock.
    """

    since: float
    looked_at: float
    own: float

    @classmethod
    def begun(cls, now: float, own: float) -> Watch:
        """The first look, or the first after a break."""
        return cls(now, now, own)

    def after(self, now: float, own: float) -> Watch:
        """After another look.

        A long pause (the observer was frozen, the database away) and a clock that was set begin the
        watch anew.
        """
        passed, told = own - self.own, now - self.looked_at
        if passed > BREAK or abs(told - passed) > DRIFT:
            return Watch.begun(now, own)
        return attrs.evolve(self, looked_at=now, own=own)


def dead(leases: Sequence[Lease], watch: Watch) -> list[Lease]:
    """Leases that nobody has renewed for too long."""
    return [one for one in leases if not one.ended and _dies_at(one, watch) <= watch.looked_at]


def next_death(leases: Sequence[Lease], watch: Watch) -> float:
    """Seconds from the last look to the earliest time at which one more may be dead."""
    deaths = [_dies_at(one, watch) for one in leases if not one.ended]
    return max(0.0, min(deaths, default=math.inf) - watch.looked_at)


def living(leases: Sequence[Lease], watch: Watch) -> list[Lease]:
    """Leases that hold, the eldest first."""
    gone = dead(leases, watch)
    return sorted(
        (one for one in leases if not one.ended and one not in gone), key=lambda one: one.epoch
    )


def keeper(leases: Sequence[Lease], watch: Watch) -> str | None:
    """The worker that looks after what belongs to nobody: the eldest one."""
    return next((one.worker for one in living(leases, watch)), None)


def orphaned(at_work: Collection[str], leases: Sequence[Lease], watch: Watch) -> list[str]:
    """Workers that have work and no lease: they ended, or never had one.

    Nothing is concluded before the observer has listened for a while: a lease that is not among
    these may have been taken a moment ago.
    """
    if watch.looked_at - watch.since < TTL:
        return []
    holds = {one.worker for one in leases if not one.ended}
    return sorted(set(at_work) - holds)


def trusted_until(asked_at: float) -> float:
    """How long a worker may trust a lease that it asked for at this time; both by its own clock."""
    return asked_at + TTL - MARGIN


def _dies_at(lease: Lease, watch: Watch) -> float:
    return max(lease.beat_at, watch.since) + TTL
