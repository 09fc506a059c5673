"""Counting events in a rolling window."""

from __future__ import annotations

from kie_mj_async.simulator.rolling import Rolling


def test_an_event_leaves_after_exactly_one_span() -> None:
    """It counts until just before a span has passed, and not afterwards."""
    window = Rolling(10)
    window.add(100)
    assert window.count(109.999) == 1
    assert window.count(110) == 0


def test_most_is_over_any_window() -> None:
    """The most is that of the fullest window, wherever that lies."""
    window = Rolling(10)
    for at in (0, 9, 9.5, 10, 18, 40):
        window.add(at)
    assert window.most == 4


def test_wait_is_until_the_oldest_leaves() -> None:
    """An empty window needs no waiting."""
    window = Rolling(10)
    assert window.wait(5) == 0
    window.add(5)
    window.add(7)
    assert window.wait(8) == 7
