"""The histogram of births."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.rules.ages import Ages


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10_000)), max_size=300))
def test_bins_hold_exactly_the_pending(steps: list[tuple[bool, float]]) -> None:
    """In whatever order tasks are born, looked at and end, none is counted twice or lost."""
    ages = Ages(1.0)
    pending: list[float] = []
    for add, born in steps:
        if add or not pending:
            pending.append(born)
            ages.add(born, 10_000.0)
        else:
            ages.remove(pending.pop(int(born) % len(pending)))
        if born > 9_000:
            ages.bins(10_000.0)
    bins = ages.bins(10_000.0)
    assert sum(count for _, count in bins) == len(pending) == ages.count
    assert all(count > 0 for _, count in bins)


def test_ages_are_right_within_a_tenth() -> None:
    """Of a hundred thousand tasks of all ages, in some two hundred bins."""
    chance = random.Random(1)
    ages = Ages(1.0)
    born = [chance.uniform(0, 50_000) for _ in range(100_000)]
    for one in born:
        ages.add(one, 50_000.0)
    bins = ages.bins(50_000.0)
    assert len(bins) < 250
    mean = sum(age * count for age, count in bins) / 100_000
    assert mean == pytest.approx(50_000 - sum(born) / 100_000, rel=0.02)


def test_the_eldest_are_told() -> None:
    """The birth up to which a part was born, and how many that are; a crowd of one age is one."""
    ages = Ages(1.0)
    for born in (0.0, 100.0, 200.0, 300.0):
        ages.add(born, 300.0)
    assert ages.eldest(0.25) == (0.0, 1)
    assert ages.eldest(0.5) == (100.0, 2)
    crowd = Ages(1.0)
    for _ in range(20):
        crowd.add(7.0, 7.0)
    assert crowd.eldest(0.25) == (7.0, 20)


def test_an_end_without_a_birth_changes_nothing() -> None:
    """Counts never go below zero."""
    ages = Ages(1.0)
    ages.remove(5.0)
    assert ages.count == 0
    assert ages.bins(10.0) == []


def test_those_of_one_time_are_counted() -> None:
    """With the part of a bin that reaches into it."""
    ages = Ages(1.0)
    for born in (0.0, 10.0, 10.5, 20.0, 20.2, 30.0):
        ages.add(born, 30.0)
    assert ages.between(9.0, 21.0) == 4
    assert ages.between(10.25, 21.0) == pytest.approx(3)
    assert ages.between(11.0, 19.0) == 0
    assert ages.between(-5.0, 0.0) == 1
    ages.remove(10.5)
    assert ages.between(9.0, 21.0) == 3
