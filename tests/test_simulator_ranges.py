"""Byte ranges of a download."""

from __future__ import annotations

import pytest

from kie_mj_async.simulator import ranges

TAG, WHEN = '"tag"', "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=40-", (40, 100)),
        ("bytes=40-49", (40, 50)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-", None),
        ("bytes=50-40", None),
        ("bytes=0-1,5-6", None),
        ("lines=1-2", None),
    ],
)
def test_which_bytes(wanted: str | None, expected: tuple[int, int] | None) -> None:
    """A single range is cut to the file; what is not understood means the whole file."""
    assert ranges.part(wanted, None, TAG, WHEN, 100) == expected


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=500-600", "bytes=-0"])
def test_outside_the_file(wanted: str) -> None:
    """A range without a byte of the file cannot be answered."""
    with pytest.raises(ranges.Unsatisfiable):
        ranges.part(wanted, None, TAG, WHEN, 100)


@pytest.mark.parametrize(
    ("condition", "partial"), [(TAG, True), (WHEN, True), ('"old"', False), ('W/"tag"', False)]
)
def test_a_part_of_another_file_is_no_use(condition: str, partial: bool) -> None:
    """With If-Range a part is sent only of the very same file."""
    assert (ranges.part("bytes=5-", condition, TAG, WHEN, 100) is not None) == partial


def test_a_number_that_is_none() -> None:
    """More digits than any file has bytes are no range that is understood."""
    assert ranges.part(f"bytes={'9' * 5000}-", None, TAG, WHEN, 10) is None
    assert ranges.part("bytes=\u0663-", None, TAG, WHEN, 10) is None
