"""Progress: events folded into numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce

import pytest

from kie_mj_async.errors import KieError
from kie_mj_async.events import (
    CreatesPaused,
    CreditsReturned,
    Event,
    FileSaved,
    JobEnded,
    JobSubmitted,
    JobSucceeded,
    Planned,
)
from kie_mj_async.jobs import (
    Abandoned,
    Expired,
    Failed,
    Job,
    Outcome,
    Pending,
    Saved,
    SavedFile,
    State,
    Unresolved,
)
from kie_mj_async.progress import Progress
from kie_mj_async.requests import TextToImage

JOB = Job(key="1-a", request=TextToImage("a fox"), price=25, credits=25)
FILE = SavedFile(0, "a.png", "http://x/a", "00", 1000, "image/png", 8, 8, datetime.now(UTC))
SAVED = Saved(JOB, ())


def after(*events: Event, now: float = 100.0) -> Progress:
    return reduce(lambda progress, event: progress.after(event, now), events, Progress(100.0))


def test_a_plan_says_how_much_there_is() -> None:
    """Known jobs count as submitted, and as generated where their task has ended."""
    progress = after(Planned(new=5, known=3, generating=1, cost=125))
    assert (progress.total, progress.submitted, progress.succeeded) == (8, 3, 2)
    assert (progress.ended, progress.saved, progress.credits) == (0, 0, 0)


def test_a_job_goes_through_the_three_lanes() -> None:
    """Submitted, generated and saved are counted one after another, files and bytes on the way."""
    steps = (
        Planned(1, 0, 0, 25), JobSubmitted(JOB), JobSucceeded(JOB), FileSaved(JOB, FILE),
        FileSaved(JOB, FILE), JobEnded(SAVED),
    )  # fmt: skip
    progress = after(*steps)
    assert (progress.submitted, progress.succeeded, progress.saved) == (1, 1, 1)
    assert (progress.files, progress.bytes, progress.credits) == (2, 2000, 25)


@pytest.mark.parametrize(
    ("kind", "counter"),
    [
        (Failed, "failed"), (Expired, "failed"), (Unresolved, "unresolved"), (Pending, "pending"),
        (Abandoned, "abandoned"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("earlier", [False, True])
def test_every_outcome_ends_a_job(
    kind: type[Failed | Expired | Unresolved | Pending | Abandoned], counter: str, earlier: bool
) -> None:
    """Whatever an outcome is, the job is done with and nothing is left to wait for."""
    outcome: Outcome = kind(JOB, KieError("no"))
    progress = after(Planned(1, 0, 0, 25), JobEnded(outcome, earlier=earlier), now=200)
    assert getattr(progress, counter) == progress.ended == 1
    assert progress.earlier == earlier


def test_what_a_failed_task_cost_comes_back() -> None:
    """A failed task is not charged, so its credits do not count as spent."""
    assert after(JobSubmitted(JOB), JobSubmitted(JOB), CreditsReturned(JOB, 25)).credits == 25


def test_only_this_run_is_counted_as_spent() -> None:
    """A job that was paid before and is made again counts with the price of this time."""
    again = Job(key="1-a", request=TextToImage("a fox"), state=State.RUNNING, price=25, credits=50)
    assert after(JobSubmitted(again)).credits == 25


def test_a_pause_lasts_until_its_end() -> None:
    """A pause is known with its reason and the time at which it is over."""
    progress = after(CreatesPaused("too fast", 10), now=130)
    assert (progress.paused_until, progress.pause_reason) == (140, "too fast")
