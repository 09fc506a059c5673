"""Which jobs a list has, in little room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kie_mj_async.rules.stretches import Stretches, Ticks


def stretches_of(numbers: set[int]) -> Stretches:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return Stretches((first, last) for first, last in found)


def numbers_of(stretches: Stretches) -> list[int]:
    pairs = zip(stretches.firsts, stretches.lasts, strict=True)
    return [number for first, last in pairs for number in range(first, last + 1)]


@given(st.sets(st.integers(1, 60)))
def test_they_have_the_numbers_that_they_were_made_of(numbers: set[int]) -> None:
    stretches = stretches_of(numbers)
    assert {number for number in range(62) if number in stretches} == numbers
    assert bool(stretches) is bool(numbers)
    if numbers:
        assert (stretches.first, stretches.last) == (min(numbers), max(numbers))


@given(st.sets(st.integers(1, 60)), st.integers(1, 10))
def test_parts_are_of_one_size_and_have_every_number_once(numbers: set[int], size: int) -> None:
    parts = [numbers_of(part) for part in stretches_of(numbers).parts(size)]
    assert [number for part in parts for number in part] == sorted(numbers)
    assert all(len(part) == size for part in parts[:-1])
    assert not parts or 1 <= len(parts[-1]) <= size


@given(st.sets(st.integers(1, 60)), st.data())
def test_what_was_ticked_off_is_known(numbers: set[int], data: st.DataObject) -> None:
    ticks = Ticks(stretches_of(numbers))
    ticked = data.draw(st.sets(st.sampled_from(sorted(numbers)))) if numbers else set()
    for number in ticked:
        ticks.add(number)
    assert {number for number in numbers if number in ticks} == ticked


def test_an_empty_list_has_no_parts() -> None:
    assert list(Stretches().parts(5)) == []
    assert 1 not in Stretches()
    assert (Stretches().first, Stretches().last) == (1, 0)
    assert repr(Stretches([(2, 4)])) == "Stretches([(2, 4)])"
