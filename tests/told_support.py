"""What tests of events share: a witness, who sees that a run's events tell a story that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import pytest
import support

from kie_mj_async.archive import downloader
from kie_mj_async.events import (
    CreditsReturned,
    Event,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)
from kie_mj_async.jobs import Pending, State, Unresolved
from kie_mj_async.progress import Progress
from kie_mj_async.rules import pacing


class Witness:
    """Hears of the events of one run over a list.

    Attributes:
        progress: Its numbers.
        out: Jobs that have set out.
        ends: What was told last of the end of each job.
        wrong: What cannot be, in words.
    """

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.progress = Progress(began_at=clock())
        self.out: set[str] = set()
        self.ends: dict[str, JobEnded] = {}
        self.wrong: list[str] = []
        self._clock = clock
        self._submitted: set[str] = set()
        self._succeeded: set[str] = set()
        self._returned: set[str] = set()

    def hear(self, event: Event) -> None:
        """Take in an event."""
        self.progress = self.progress.after(event, self._clock())
        match event:
            case JobStarted(job, _, again):
                self._see(job.key not in self.out, f"{job.key} sets out twice")
                before = self.ends.pop(job.key, None)
                told = None if before is None else type(before.outcome).__name__.lower()
                self._see(again == told, f"{job.key} sets out again ({again}), after {told}")
                self.out.add(job.key)
            case JobHeldBack(job):
                self._see(job.key in self.out, f"{job.key} is held back and was not out")
                self._see(job.state is State.PLANNED, f"{job.key} is held back, {job.state}")
                self.out.discard(job.key)
            case JobEnded(outcome, earlier):
                key = outcome.job.key
                self._see(key not in self.ends, f"{key} ends twice")
                stuck = isinstance(outcome, Pending) and outcome.job.state is State.PLANNED
                self._see((key in self.out) is not (earlier or stuck), f"{key} ends out of nowhere")
                self.out.discard(key)
                self.ends[key] = event
            case JobSubmitted(job):
                self._once(self._submitted, job.task_id, "submitted")
            case JobSucceeded(job):
                self._once(self._succeeded, job.task_id, "succeeded")
            case CreditsReturned(job):
                self._once(self._returned, job.task_id, "paid back")
        self._add_up(event)

    def run_ended(self) -> None:
        """See that a run which was not cut short is complete."""
        told = self.progress
        self._see(not self.out, f"{self.out} have set out and not ended")
        self._see(told.ended == told.total, f"{told.ended} of {told.total} have ended")
        self._see(told.ended == len(self.ends), f"{told.ended} are counted, {len(self.ends)} told")
        waited = sum(
            isinstance(end.outcome, Pending) and end.outcome.job.state is State.RUNNING
            for end in self.ends.values()
        )
        self._see(told.running == waited, f"{told.running} running, {waited} still waited for")
        lost = sum(isinstance(end.outcome, Unresolved) for end in self.ends.values())
        self._see(told.unresolved == lost, f"{told.unresolved} unresolved, {lost} told")

    def _add_up(self, event: Event) -> None:
        told, name = self.progress, type(event).__name__
        counters = (told.saved, told.failed, told.unresolved, told.pending, told.abandoned)
        self._see(min(counters) >= 0, f"{name}: less than none: {counters}")
        self._see(told.submitted <= told.total, f"{name}: {told.submitted} of {told.total} sent")
        at_work = told.submitted - told.succeeded - told.lost
        self._see(at_work >= 0, f"{name}: {at_work} running")
        parts = told.ended + len(self.out)
        self._see(parts <= told.total, f"{name}: {parts} ended or out, of {told.total}")

    def _once(self, seen: set[str], task_id: str | None, what: str) -> None:
        self._see(task_id is not None and task_id not in seen, f"{task_id} {what} twice")
        seen.add(task_id or "")

    def _see(self, holds: bool, words: str) -> None:
        if not holds and len(self.wrong) < 5:
            self.wrong.append(words)


def heard(told: Iterable[Event]) -> Witness:
    """A witness of these events, of a run that was not cut short."""
    witness = Witness()
    for event in told:
        witness.hear(event)
    witness.run_ended()
    return witness


def without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Let what failed be tried again at once."""
    for module in (pacing, downloader):
        patch.setattr(module, "backoff", lambda *_args, **_options: 0.01)


QUICK: Final = 0.001
"""How long a second of the service takes, where nothing depends on how long anything takes."""

simulated = partial(support.simulated, scale=QUICK)
sim_client = partial(support.sim_client, scale=QUICK)
