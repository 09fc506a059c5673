"""What a run tells while it goes on, as values; nothing depends on anybody listening."""

from __future__ import annotations

from typing import Literal

import attrs

from .errors import KieError
from .jobs import Job, Outcome, SavedFile
from .logs import Ids


@attrs.frozen
class Planned:
    """The list is taken in and checked; nothing has been sent.

    Attributes:
        new: Jobs of the list that have not been sent yet.
        known: Jobs of the list that an earlier run has dealt with or begun; of a resume, those that
            are on their way, or wait for a decision.
        generating: Those of the known, and of the others, whose task has not ended yet, as far as
            was seen.
        cost: Credits that the new ones will cost.
        balance: Credits the account has, where the service said so.
        steps: Those of the new ones that are steps of chains.
        batch: Their directory, or the address of their store.
        others: Jobs of earlier lists that are on their way, and are seen to as well.
        accepted: Those of the known, and of the others, that the service has accepted.
        made: Those of these whose task has results.
    """

    new: int
    known: int
    generating: int
    cost: float
    balance: float | None = None
    steps: int = 0
    batch: str | None = None
    others: int = 0
    accepted: int = attrs.field(
        default=attrs.Factory(lambda self: self.known + self.others, takes_self=True)
    )
    made: int = attrs.field(
        default=attrs.Factory(lambda self: self.accepted - self.generating, takes_self=True)
    )


@attrs.frozen
class JobStarted:
    """A job has set out, from wherever an earlier run left it; told in the context of who asked for it.

    In a batch one :class:`JobEnded` or :class:`JobHeldBack` follows, before it sets out again. Where a
    run is cut short (it is stopped, its deadline passes, its ledger cannot be used)
    :class:`BatchEnded` stands for all that are still on their way: they can be resumed.

    Attributes:
        job: The job.
        batch: Its batch; ``None`` for a job of ``submit`` and ``generate``: there :class:`JobSucceeded`
            is the last, where it has results, and nothing is told where nobody waits for them.
        again: As what this run had told its end before, which does not hold any more: a callback has
            found the task of an unresolved job, or of the one that a pending step waited for.
    """

    job: Job
    batch: str | None = None
    again: Literal["unresolved", "pending"] | None = None


@attrs.frozen
class JobSubmitted:
    """The service has accepted the job; its task id is durable."""

    job: Job


@attrs.frozen
class JobSucceeded:
    """The task has results. Told once by a client, however often the task is waited for."""

    job: Job


@attrs.frozen
class FileSaved:
    """One result is on disk, verified.

    Attributes:
        job: The job.
        file: What was saved.
        seconds: How long that took, from the wish to the name; waiting for its turn included.
    """

    job: Job
    file: SavedFile
    seconds: float = 0.0


@attrs.frozen
class JobEnded:
    """The job went as far as it goes in this run; a step of a chain maybe without having set out.

    Attributes:
        outcome: How it ended.
        earlier: Whether it had ended before this run already.
    """

    outcome: Outcome
    earlier: bool = False


@attrs.frozen
class JobHeldBack:
    """The job had set out, and was not sent, for nothing more is in this run; it is still planned."""

    job: Job


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


Call = Literal["create", "record-info", "credits", "download-url", "upload"]
"""The API's calls, by what they are for."""


@attrs.frozen
class CallEnded:
    """A call to the API has ended, one way or another.

    Attributes:
        call: What it was for.
        about: What it was made for.
        seconds: How long it took, from the wish for a connection to the last byte.
        method: The HTTP method.
        url: Where it went, without a query.
        status: The HTTP status; ``None`` where no answer came.
        code: The code in the answer's envelope, where it has one; 200 is success.
        error: What was wrong, in words without a secret; ``None`` where nothing was.
    """

    call: Call
    about: Ids
    seconds: float
    method: str
    url: str
    status: int | None = None
    code: int | None = None
    error: str | None = None


@attrs.frozen
class RateLimited:
    """The service answered that there were too many requests (429).

    Attributes:
        call: Which call it refused. Creates pause for all (:class:`CreatesPaused`); looks become rarer.
        about: What that was made for.
        seconds: How long it asked to wait, where it did.
    """

    call: Call
    about: Ids
    seconds: float | None = None


@attrs.frozen
class Retrying:
    """Something that costs nothing has failed, and is tried again after a while.

    Attributes:
        what: What is tried again: a file's transfer, a look at a task, an upload.
        about: What it is for; of an upload that several jobs wait for, the first of them.
        error: Why it failed.
        seconds: How long that waits.
        failures: How often it has failed in a row.
    """

    what: Literal["file", "look", "upload"]
    about: Ids
    error: KieError
    seconds: float
    failures: int


@attrs.frozen
class BatchEnded:
    """A run over a batch has ended; what is unfinished can be resumed. Its numbers are final.

    Attributes:
        batch: Its directory, or the address of its store.
        error: What stopped it, if something did.
    """

    batch: str
    error: BaseException | None = None


@attrs.frozen
class ClientClosed:
    """The client is closed: this is the last event."""


Event = (
    Planned
    | JobStarted
    | JobSubmitted
    | JobSucceeded
    | FileSaved
    | JobEnded
    | JobHeldBack
    | CreditsReturned
    | CreatesPaused
    | JobAdded
    | CallbackAwaited
    | CallEnded
    | RateLimited
    | Retrying
    | BatchEnded
    | ClientClosed
)
"""Whatever is told."""
