"""How far a run is: events, folded into numbers. Pure; whoever shows them decides how."""

from __future__ import annotations

import attrs

from .events import (
    CallbackAwaited,
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
class Progress:
    """The numbers of a run.

    Attributes:
        total: Jobs of the run, those of earlier runs included.
        earlier: Jobs that had ended before this run.
        submitted: Jobs that the service has accepted, in this run or before.
        succeeded: Jobs whose task has results.
        saved: Jobs whose files are all on disk.
        failed: Jobs that failed or expired.
        unresolved: Jobs that need a decision.
        pending: Jobs left for a later run.
        abandoned: Jobs that the user gave up.
        files: Files saved in this run.
        bytes: Their total size.
        credits: Credits spent in this run.
        began_at: When the run began, on a monotonic clock.
        paused_until: Until when no create is sent, on that clock.
        pause_reason: Why.
    """

    began_at: float
    total: int = 0
    earlier: int = 0
    submitted: int = 0
    succeeded: int = 0
    saved: int = 0
    failed: int = 0
    unresolved: int = 0
    pending: int = 0
    abandoned: int = 0
    files: int = 0
    bytes: int = 0
    credits: float = 0
    paused_until: float = 0
    pause_reason: str = ""

    @property
    def ended(self) -> int:
        """Jobs that this run is done with."""
        return self.saved + self.failed + self.unresolved + self.pending + self.abandoned

    def after(self, event: Event, now: float) -> Progress:
        """The numbers after one more event."""
        match event:
            case Planned(new, known, generating):
                return attrs.evolve(
                    self, total=new + known, submitted=known, succeeded=known - generating
                )
            case JobSubmitted(job):
                return attrs.evolve(
                    self, submitted=self.submitted + 1, credits=self.credits + job.price
                )
            case JobSucceeded():
                return attrs.evolve(self, succeeded=self.succeeded + 1)
            case FileSaved(_, file):
                return attrs.evolve(self, files=self.files + 1, bytes=self.bytes + file.bytes)
            case JobEnded(outcome, earlier):
                return self._ended(outcome, earlier=earlier)
            case CreditsReturned(_, credits):
                return attrs.evolve(self, credits=self.credits - credits)
            case JobAdded():
                return attrs.evolve(self, total=self.total + 1)
            case CallbackAwaited():
                return self
            case CreatesPaused(reason, seconds):
                return attrs.evolve(self, paused_until=now + seconds, pause_reason=reason)

    def _ended(self, outcome: Outcome, *, earlier: bool) -> Progress:
        counted = attrs.evolve(self, earlier=self.earlier + earlier)
        match outcome:
            case Saved():
                return attrs.evolve(counted, saved=self.saved + 1)
            case Failed() | Expired():
                return attrs.evolve(counted, failed=self.failed + 1)
            case Unresolved():
                return attrs.evolve(counted, unresolved=self.unresolved + 1)
            case Pending():
                return attrs.evolve(counted, pending=self.pending + 1)
            case Abandoned():
                return attrs.evolve(counted, abandoned=self.abandoned + 1)
