"""How far a run is: events, folded into numbers. Pure; whoever shows them decides how."""

from __future__ import annotations

import attrs

from .events import (
    CreatesPaused,
    CreditsReturned,
    Event,
    FileSaved,
    JobAdded,
    JobEnded,
    JobSubmitted,
    JobSucceeded,
    Planned,
)
from .jobs import Abandoned, Expired, Failed, Outcome, Pending, Saved, Unresolved


@attrs.frozen
class Left:
    """How much longer a task, or a run, takes, in seconds.

    Attributes:
        low: It ends sooner with a chance of one in ten.
        middle: It is as likely to end sooner as later.
        high: It ends later with a chance of one in ten.
    """

    low: float
    middle: float
    high: float


@attrs.frozen
class Progress:
    """The numbers of a run, at a moment.

    Attributes:
        began_at: When the run began, on a monotonic clock (seconds).
        at: The moment, on that clock.
        total: Jobs of the run, those of earlier runs included.
        earlier: Jobs that had ended before this run.
        submitted: Jobs that the service has accepted, in this run or before.
        succeeded: Jobs whose task has results.
        saved: Jobs whose files are all on disk.
        failed: Jobs that failed or expired.
        unresolved: Jobs that need a decision.
        pending: Jobs left for a later run.
        abandoned: Jobs that the user gave up.
        lost: Jobs whose task ended without results, in this run.
        files: Files saved in this run.
        bytes: Their total size.
        credits: Credits spent in this run.
        paused_until: Until when no create is sent, on that clock.
        pause_reason: Why.
        eta: Seconds until the run is done; ``None`` where nobody can tell.
    """

    began_at: float
    at: float = attrs.field(default=attrs.Factory(lambda self: self.began_at, takes_self=True))
    total: int = 0
    earlier: int = 0
    submitted: int = 0
    succeeded: int = 0
    saved: int = 0
    failed: int = 0
    unresolved: int = 0
    pending: int = 0
    abandoned: int = 0
    lost: int = 0
    files: int = 0
    bytes: int = 0
    credits: float = 0
    paused_until: float = 0
    pause_reason: str = ""
    eta: Left | None = None

    @property
    def ended(self) -> int:
        """Jobs that this run is done with."""
        return self.saved + self.failed + self.unresolved + self.pending + self.abandoned

    @property
    def running(self) -> int:
        """Jobs whose task the service is working on, as far as is known."""
        return max(0, self.submitted - self.succeeded - self.lost)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return max(0.0, self.at - self.began_at)

    @property
    def rate(self) -> float:
        """Jobs a second that this run is done with, from its beginning on."""
        return (self.ended - self.earlier) / self.elapsed if self.elapsed else 0.0

    @property
    def paused(self) -> float:
        """Seconds for which no create will be sent, for the service asked for that."""
        return max(0.0, self.paused_until - self.at)

    def after(self, event: Event, now: float) -> Progress:
        """The numbers after one more event.

        Args:
            event: The event.
            now: The time, on the clock of ``began_at``.
        """
        told = attrs.evolve(self, at=now)
        match event:
            case Planned(new, known, generating):
                return attrs.evolve(
                    told, total=new + known, submitted=known, succeeded=known - generating
                )
            case JobSubmitted(job):
                return attrs.evolve(
                    told, submitted=self.submitted + 1, credits=self.credits + job.price
                )
            case JobSucceeded():
                return attrs.evolve(told, succeeded=self.succeeded + 1)
            case FileSaved(_, file):
                return attrs.evolve(told, files=self.files + 1, bytes=self.bytes + file.bytes)
            case JobEnded(outcome, earlier):
                return told._ended(outcome, earlier=earlier)
            case CreditsReturned(_, credits):
                return attrs.evolve(told, credits=self.credits - credits)
            case JobAdded():
                return attrs.evolve(told, total=self.total + 1)
            case CreatesPaused(reason, seconds):
                return attrs.evolve(told, paused_until=now + seconds, pause_reason=reason)
            case _:
                return told

    def _ended(self, outcome: Outcome, *, earlier: bool) -> Progress:
        counted = attrs.evolve(self, earlier=self.earlier + earlier)
        match outcome:
            case Saved():
                return attrs.evolve(counted, saved=self.saved + 1)
            case Failed(job) | Expired(job):
                lost = not earlier and job.task_id is not None and not job.urls
                return attrs.evolve(counted, failed=self.failed + 1, lost=self.lost + lost)
            case Unresolved():
                return attrs.evolve(counted, unresolved=self.unresolved + 1)
            case Pending():
                return attrs.evolve(counted, pending=self.pending + 1)
            case Abandoned():
                return attrs.evolve(counted, abandoned=self.abandoned + 1)
