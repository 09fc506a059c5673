"""How far a run is: events, folded into numbers. Pure; whoever shows them decides how."""

from __future__ import annotations

from typing import Any

import attrs

from .events import (
    CreatesPaused,
    CreditsReturned,
    Event,
    FileSaved,
    JobAdded,
    JobEnded,
    JobStarted,
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
        total: Jobs of the run, those of earlier runs that it has to do with included. At the end of a
            run that was not cut short each of them has ended.
        earlier: Jobs that had ended before this run.
        submitted: Jobs that the service has accepted, in this run or before.
        succeeded: Jobs whose task has had results, in this run or before.
        saved: Jobs whose files are all on disk.
        failed: Jobs that failed or expired.
        unresolved: Jobs that need a decision.
        pending: Jobs left for a later run.
        abandoned: Jobs that the user gave up.
        lost: Jobs whose task ended without results, in this run or before.
        files: Files saved in this run.
        bytes: Their total size.
        credits: Credits spent in this run, less those that came back; below 0 where a task failed that
            an earlier run had paid.
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
        changes: dict[str, Any] = {}
        match event:
            case Planned():
                changes["total"] = event.new + event.known + event.others
                changes["submitted"] = event.accepted
                changes["succeeded"] = event.made
                changes["lost"] = event.accepted - event.made - event.generating
            case JobStarted(again="unresolved"):
                changes["unresolved"] = self.unresolved - 1
            case JobStarted(again="pending"):
                changes["pending"] = self.pending - 1
            case JobSubmitted(job):
                changes["submitted"] = self.submitted + 1
                changes["credits"] = self.credits + job.price
            case JobSucceeded():
                changes["succeeded"] = self.succeeded + 1
            case FileSaved(_, file):
                changes["files"] = self.files + 1
                changes["bytes"] = self.bytes + file.bytes
            case JobEnded(outcome, earlier):
                changes = self._ended(outcome, earlier=earlier)
            case CreditsReturned(_, credits):
                changes["credits"] = self.credits - credits
            case JobAdded():
                changes["total"] = self.total + 1
            case CreatesPaused(reason, seconds):
                changes["paused_until"] = now + seconds
                changes["pause_reason"] = reason
        return attrs.evolve(self, at=now, **changes)

    def _ended(self, outcome: Outcome, *, earlier: bool) -> dict[str, Any]:
        changes: dict[str, Any] = {"earlier": self.earlier + earlier}
        match outcome:
            case Saved():
                changes["saved"] = self.saved + 1
            case Failed(job) | Expired(job):
                changes["failed"] = self.failed + 1
                without = job.task_id is not None and not job.urls
                changes["lost"] = self.lost + (without and not earlier)
            case Unresolved():
                changes["unresolved"] = self.unresolved + 1
            case Pending():
                changes["pending"] = self.pending + 1
            case Abandoned():
                changes["abandoned"] = self.abandoned + 1
        return changes
