"""The time of an account: never faster than time itself, whatever the database's clock does."""

from __future__ import annotations

import random

import pytest

from kie_mj_async.rules.shared_time import TOLERANCE, Kept, Look, Sight, read


def look(at: float, *, set_by: float = 0.0, own: float = 0.0) -> Look:
    """A look at a moment, by a database's clock that was set, over a network of no delay."""
    return Look(1000.0 + at + set_by, own + at, own + at)


KEPT = Kept(version=7, told=1000.0, now=500.0)


def test_who_has_just_come_believes_what_was_written_down() -> None:
    """However long ago that was: without a look before there is nothing to compare with."""
    assert read(KEPT, look(3600), None) == Sight(look(3600), 7, 500.0)


def test_time_passes_from_look_to_look() -> None:
    """Whether or not anybody writes in between."""
    first = read(KEPT, look(0), None)
    second = read(KEPT, look(4), first)
    assert second.now == 504
    assert read(KEPT, look(9), second).now == 509
    assert second.at(own=6.0) == 506


def test_after_anothers_write_time_goes_on_from_there() -> None:
    """What passed before that write is the writer's to say."""
    first = read(KEPT, look(0), None)
    written = Kept(version=8, told=1003.0, now=501.0)
    assert read(written, look(5), first).now == 503


@pytest.mark.parametrize("step", [3600.0, 60.0, 1.0, -1.0, -3600.0])
def test_a_clock_that_is_set_changes_nothing_for_who_was_there(step: float) -> None:
    """Seconds by one's own clock pass all the same."""
    first = read(KEPT, look(0, own=77), None)
    second = read(KEPT, look(4, set_by=step, own=77), first)
    assert second.now == pytest.approx(504)
    assert read(KEPT, look(5, set_by=step, own=77), second).now == pytest.approx(505)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_time_stands_still_between_anothers_write_and_the_step(step: float) -> None:
    """Nobody knows which of the two was first."""
    first = read(KEPT, look(0), None)
    written = Kept(version=8, told=1003.0, now=503.0)
    second = read(written, look(5, set_by=step), first)
    assert second.now == 503
    assert read(written, look(6, set_by=step), second).now == 504


def test_a_slow_answer_is_no_step() -> None:
    """What the network may explain is believed."""
    first = read(KEPT, Look(1000.0, 0.0, 2.0), None)
    assert read(KEPT, Look(1001.0, 3.0, 3.0), first).now == 501
    assert read(KEPT, Look(1003.0, 3.0, 3.0), first).now == 503
    assert read(KEPT, Look(1003.0 + 2 * TOLERANCE, 3.0, 3.0), first).now == 501


@pytest.mark.parametrize("seed", range(40))
def test_it_never_runs_faster_than_time(seed: int) -> None:
    """Observers that come, look, write late or never, over a slow network, on a clock that is set."""
    draw = random.Random(seed)
    ahead = draw.choice((1, -1))
    real, set_by, kept, at_write = 0.0, 0.0, Kept(0, 0.0, 0.0), 0.0
    sights: dict[int, Sight] = {}
    for _ in range(300):
        real += draw.expovariate(2.0)
        if draw.random() < 0.03:
            set_by += ahead * draw.choice((0.5, 3.0, 500.0))
        who = draw.randrange(6)
        if draw.random() < 0.05:
            sights.pop(who, None)
        own = 1000.0 * who
        asked = real
        real += draw.uniform(0, 0.05)
        told_at = real
        real += draw.uniform(0, 0.05)
        sight = read(kept, Look(told_at + set_by, own + asked, own + real), sights.get(who))
        sights[who] = sight
        assert sight.now >= kept.now
        assert sight.now - kept.now <= told_at - at_write + 0.1 + TOLERANCE
        if draw.random() < 0.5:
            kept, at_write = Kept(kept.version + 1, sight.look.told, sight.now), told_at
