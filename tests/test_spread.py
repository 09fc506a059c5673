"""Distributions in bins."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.rules.spread import guess, pour, spread_of


def bins_of(*seconds: float, width: float = 0.05, doubt: float = 0.0) -> dict[int, float]:
    bins: dict[int, float] = {}
    pour(bins, [math.log(one) for one in seconds], [1.0] * len(seconds), width)
    if doubt:
        guess(bins, math.log(seconds[0]), doubt, tried=True)
    return bins


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=30), st.floats(0.0, 0.25))
def test_nothing_is_lost_on_the_way_into_bins(seconds: list[float], width: float) -> None:
    """Bins hold the whole weight, their ages ascend, and their sums lie inside of them."""
    spread = spread_of(bins_of(*seconds, width=width, doubt=0.5), len(seconds))
    assert spread.total == pytest.approx(len(seconds) + 0.5)
    assert spread.ages == sorted(set(spread.ages))
    assert all(
        part <= weight * age
        for part, weight, age in zip(spread.sums, spread.weights, spread.ages, strict=True)
    )


def test_quantiles_and_shares_agree() -> None:
    """Half the tasks reach the median; those who have reached it have a later one."""
    spread = spread_of(bins_of(10, 20, 30, 40, width=0.01), 4)
    assert spread.quantile(0.5) == pytest.approx(25, rel=0.25)
    assert spread.alive(25) == pytest.approx(0.5)
    assert spread.alive(0) == 1.0
    assert spread.alive(1e9) == 0.0
    assert spread.quantile(0.25, age=25) == pytest.approx(30, rel=0.05)


def test_what_is_left_is_told_with_its_spread() -> None:
    """A task of half a minute's age in a class of a minute has half a minute left, more or less."""
    left = spread_of(bins_of(58, 60, 60, 62, doubt=0.2), 4).left(30)
    assert 20 < left.low < left.middle == pytest.approx(30, abs=2)
    assert left.middle < left.high < 60


@given(st.floats(0, 1e7))
def test_what_is_left_is_never_negative(age: float) -> None:
    """At any age, also beyond all that was ever seen."""
    left = spread_of(bins_of(60, 61, doubt=0.5), 2).left(age)
    assert 0.0 <= left.low <= left.middle <= left.high


def test_a_guess_reaches_far_both_ways_until_it_was_tried() -> None:
    """Then much less than the middle is unlikely."""
    untried: dict[int, float] = {}
    tried: dict[int, float] = {}
    guess(untried, math.log(60), 1.0, tried=False)
    guess(tried, math.log(60), 1.0, tried=True)
    assert spread_of(untried, 0).alive(60 / 5) == pytest.approx(0.83, abs=0.03)
    assert spread_of(tried, 0).alive(60 / 5) > 0.9
    assert 0.1 < spread_of(untried, 0).alive(300) < spread_of(tried, 0).alive(300) < 0.4
