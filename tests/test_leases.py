"""Who is dead, concluded from heartbeats alone."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.rules.leases import (
    BREAK,
    DRIFT,
    EVERY,
    MARGIN,
    TTL,
    Lease,
    Watch,
    dead,
    keeper,
    living,
    next_death,
    orphaned,
    trusted_until,
)

NOW = 1_000_000.0
OWN = 50.0
LONG = Watch(since=NOW - 3600, looked_at=NOW, own=OWN)
"""Somebody who has listened for an hour."""


def lease(worker: str = "a", silent: float = 0.0, epoch: int = 1, ended: bool = False) -> Lease:
    return Lease(worker, epoch, beats=7, beat_at=NOW - silent, ended=ended)


@pytest.mark.parametrize(("silent", "gone"), [(0, False), (TTL - 0.01, False), (TTL, True)])
def test_a_worker_is_dead_after_so_many_seconds_of_silence(silent: float, gone: bool) -> None:
    assert bool(dead([lease(silent=silent)], LONG)) is gone


def test_a_lease_that_has_ended_is_not_ended_again() -> None:
    assert dead([lease(silent=100, ended=True)], LONG) == []


def test_silence_counts_only_as_far_as_somebody_listened() -> None:
    fresh = Watch.begun(NOW, OWN)
    old = lease(silent=1000)
    assert dead([old], fresh) == []
    later = attrs.evolve(fresh, looked_at=NOW + TTL)
    assert dead([old], later) == [old]


def test_a_watch_goes_on_from_look_to_look() -> None:
    watch = Watch.begun(NOW, OWN)
    for number in range(1, 10):
        watch = watch.after(NOW + number * EVERY, OWN + number * EVERY)
    assert watch.since == NOW
    assert watch.looked_at == NOW + 9 * EVERY


def test_a_watch_begins_anew_after_a_break() -> None:
    after = LONG.after(NOW + BREAK + 1, OWN + BREAK + 1)
    assert after == Watch.begun(NOW + BREAK + 1, OWN + BREAK + 1)


@pytest.mark.parametrize("jump", [3600.0, -3600.0, DRIFT + 0.1])
def test_a_watch_begins_anew_when_the_databases_clock_was_set(jump: float) -> None:
    after = LONG.after(NOW + EVERY + jump, OWN + EVERY)
    assert after.since == after.looked_at == NOW + EVERY + jump
    assert dead([lease(silent=1)], after) == []


def test_the_next_look_is_when_somebody_may_be_dead() -> None:
    assert next_death([lease(silent=3), lease("b", silent=6)], LONG) == TTL - 6
    assert next_death([lease(silent=20)], LONG) == 0
    assert next_death([lease(silent=20, ended=True)], LONG) == math.inf
    assert next_death([], LONG) == math.inf


def test_the_eldest_living_worker_keeps_the_house() -> None:
    leases = [lease("young", epoch=9), lease("old", epoch=3), lease("dead", TTL, epoch=1)]
    assert [one.worker for one in living(leases, LONG)] == ["old", "young"]
    assert keeper(leases, LONG) == "old"
    assert keeper([], LONG) is None


def test_work_without_a_lease_is_orphaned() -> None:
    leases = [lease("a"), lease("gone", ended=True)]
    assert orphaned({"a", "gone", "never-joined"}, leases, LONG) == ["gone", "never-joined"]


def test_a_silent_lease_is_not_orphaned_work_as_long_as_it_has_not_been_ended() -> None:
    assert orphaned({"a"}, [lease("a", silent=100)], LONG) == []


def test_nothing_is_orphaned_for_somebody_who_has_just_begun_to_listen() -> None:
    watch = attrs.evolve(LONG, since=NOW - TTL + 0.1)
    assert orphaned({"unknown"}, [], watch) == []


@given(
    renewals=st.lists(st.floats(0, 20), min_size=1, max_size=20),
    delay=st.floats(0, 3),
    rate=st.floats(0.999, 1.001),
)
def test_a_worker_stops_trusting_its_lease_before_anybody_may_end_it(
    renewals: list[float], delay: float, rate: float
) -> None:
    own, until, beat_at = 0.0, trusted_until(0.0), 0.0
    for pause in renewals:
        own += pause
        # The database notes the heartbeat after it was sent, by a clock that runs a little otherwise.
        until, beat_at = trusted_until(own), (own + delay) * rate
    silent = Lease("a", 1, 1, beat_at)
    at = until * rate
    watch = Watch(since=-3600, looked_at=at, own=0)
    assert dead([silent], watch) == []
    assert MARGIN > 0
