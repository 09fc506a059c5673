"""What a run tells while it goes on, as values; nothing depends on anybody listening."""

from __future__ import annotations

import attrs

from .jobs import Job, Outcome, SavedFile


@attrs.frozen
class Planned:
    """The list is taken in and checked; nothing has been sent.

    Attributes:
        new: Jobs of the list that have not been sent yet.
        known: Jobs of the list that an earlier run has dealt with or begun; of a resume, those that
            are on their way.
        generating: Those of the known whose task has not ended yet, as far as was seen.
        cost: Credits that the new ones will cost.
        balance: Credits the account has, where the service said so.
        steps: Those of the new ones that are steps of chains.
    """

    new: int
    known: int
    generating: int
    cost: float
    balance: float | None = None
    steps: int = 0


@attrs.frozen
class JobSubmitted:
    """The service has accepted the job; its task id is durable."""

    job: Job


@attrs.frozen
class JobSucceeded:
    """The task has results."""

    job: Job


@attrs.frozen
class FileSaved:
    """One result is on disk, verified."""

    job: Job
    file: SavedFile


@attrs.frozen
class JobEnded:
    """The job went as far as it goes in this run.

    Attributes:
        outcome: How it ended.
        earlier: Whether it had ended before this run already.
    """

    outcome: Outcome
    earlier: bool = False


@attrs.frozen
class CreditsReturned:
    """The job's task failed, and failed tasks are not charged.

    Attributes:
        job: The job.
        credits: What it had counted for.
    """

    job: Job
    credits: float


@attrs.frozen
class CreatesPaused:
    """No create will be sent for a while.

    Attributes:
        reason: Why, for people.
        seconds: How long.
    """

    reason: str
    seconds: float


@attrs.frozen
class JobAdded:
    """A paid task turned out to be of no job of the list: it has a job of its own now."""

    job: Job


@attrs.frozen
class CallbackAwaited:
    """A create's reply was lost; for so many seconds a callback may tell what became of it."""

    job: Job
    seconds: float


Event = (
    Planned
    | JobSubmitted
    | JobSucceeded
    | FileSaved
    | JobEnded
    | CreditsReturned
    | CreatesPaused
    | JobAdded
    | CallbackAwaited
)
