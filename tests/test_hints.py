"""What a callback's token says of a create: every state, every attempt, as a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kie_mj_async.jobs import State
from kie_mj_async.rules.hints import LAST_CALLBACK, Course, course, seconds_left

LAST = {
    State.PLANNED: Course.ADOPT,
    State.SUBMITTING: Course.WAIT,
    State.UNRESOLVED: Course.ADOPT,
    State.RUNNING: Course.EXTRA,
    State.SUCCEEDED: Course.EXTRA,
    State.SAVED: Course.EXTRA,
    State.FAILED: Course.EXTRA,
    State.EXPIRED: Course.EXTRA,
    State.ABANDONED: Course.EXTRA,
}
"""What a task of unknown origin means for the job's last attempt."""


def test_every_state_is_decided() -> None:
    """No state of a job is without an answer."""
    assert LAST.keys() == set(State)


@pytest.mark.parametrize("state", State)
def test_the_last_attempt(state: State) -> None:
    """The task is the job's as long as it has none and none is being made for it."""
    assert course(state, attempts=2, number=2, task_id=None) is LAST[state]


@pytest.mark.parametrize("state", State)
def test_an_earlier_attempt(state: State) -> None:
    """The job was sent again meanwhile: whatever became of that, this task is one more."""
    assert course(state, attempts=3, number=2, task_id=None) is Course.EXTRA


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("state", State)
def test_an_attempt_whose_task_is_known(state: State, number: int) -> None:
    """A callback of a task that is known tells nothing new, however often it comes."""
    assert course(state, attempts=2, number=number, task_id="t1") is Course.NOTHING


NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ago", "left"),
    [
        (0, LAST_CALLBACK),
        (600, LAST_CALLBACK - 600),
        (LAST_CALLBACK, 0),
        (LAST_CALLBACK + 1, 0),
        (-3600, LAST_CALLBACK),
    ],
)
def test_how_long_a_callback_may_still_come(ago: float, left: float) -> None:
    """So long after the create as the service goes on calling; a clock set back adds nothing."""
    assert seconds_left(NOW - timedelta(seconds=ago), NOW) == left


def test_what_was_never_sent_is_not_called_back_about() -> None:
    """Without a time of sending there is nothing to wait for."""
    assert seconds_left(None, NOW) == 0


def test_all_calls_of_the_slowest_tasks_are_waited_for() -> None:
    """Ten minutes of making, and three calls more after 1, 5 and 15 minutes, fit in."""
    assert LAST_CALLBACK >= 600 + 60 + 300 + 900
