"""Chance that repeats."""

from __future__ import annotations

from statistics import fmean

from kie_mj_async.simulator import chance


def test_digest_depends_on_every_part() -> None:
    """Equal parts give equal fingerprints; parts cannot flow into one another."""
    assert chance.digest("a", 1) == chance.digest("a", 1)
    assert len(chance.digest("a")) == 32
    assert chance.digest("ab", "c") != chance.digest("a", "bc")


def test_digest_takes_any_text() -> None:
    """Half a character, which JSON can carry, is no obstacle."""
    assert chance.digest("\ud800") != chance.digest("\ud801")


def test_unit_is_even() -> None:
    """Numbers lie strictly between 0 and 1 and are spread evenly."""
    numbers = [chance.unit("spread", count) for count in range(4000)]
    assert 0 < min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(fmean(numbers) - 0.5) < 0.02


def test_normal_keeps_its_mean_and_its_floor() -> None:
    """The mean is met, and nothing falls below half of it."""
    numbers = [chance.normal(60, 4, count) for count in range(2000)]
    assert abs(fmean(numbers) - 60) < 0.5
    assert min(chance.normal(10, 100, count) for count in range(200)) == 5
