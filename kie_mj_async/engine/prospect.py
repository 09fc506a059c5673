"""What is left of a run, kept up to date as its jobs go on, for the time that it will still take."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from ..jobs import Job, State
from ..progress import Left
from ..requests import ChainStep, ExistingTask, Request
from ..rules.eta import Ahead, Running, time_left
from ..rules.forecast import Forecast
from ..rules.kinds import Kind, kind_of
from .admission import Admission
from .clock import Clock

_SURE: Final = 1000
"""Jobs, or groups of jobs that are alike, whose class is looked at one by one ..."""

_SAMPLE: Final = 16
"""... and of the rest one in so many: a class takes longer to tell than a job to take in."""

_GROUPS: Final = 60
"""Running tasks are told in so many groups of about one age at most."""

_NEWEST: Final = 0.1
"""What the newest save counts in the mean of how long saving takes."""

_SAVE_TIME: Final = 2.0
"""Seconds from a task's end until its files are saved, before any was: noticed, fetched, synced."""


class Prospect:
    """What is left of a run.

    Args:
        forecast: How long tasks take.
        admission: How fast they are sent.
        clock: Where the time comes from.
        scale: How long a second of the service takes here.
    """

    def __init__(
        self, forecast: Forecast, admission: Admission, clock: Clock, scale: float = 1.0
    ) -> None:
        self._forecast = forecast
        self._admission = admission
        self._clock = clock
        self._unsent: Counter[Kind] = Counter()
        self._steps: Counter[Kind] = Counter()
        self._planned = {False: 0, True: 0}
        self._seen = 0
        self._running: dict[str, tuple[Kind, float]] = {}
        self._saving: dict[str, float] = {}
        self._save_time = _SAVE_TIME * scale
        self._creates: deque[float] = deque(maxlen=admission.rate.creates)
        self._existing = self._found = 0
        self._began: float | None = None

    def plan(self, request: Request, number: int = 1) -> None:
        """So many jobs are planned that ask for the same, but for words."""
        if isinstance(request, ExistingTask):
            self._existing += number
            return
        step = isinstance(request, ChainStep)
        self._planned[step] += number
        self._seen += 1
        if self._seen <= _SURE or self._seen % _SAMPLE == 0:
            weight = number if self._seen <= _SURE else number * _SAMPLE
            (self._steps if step else self._unsent)[kind_of(request)] += weight

    def begin(self) -> None:
        """The run begins to work."""
        self._began = self._clock.monotonic()

    def sent(self, job: Job) -> None:
        """A job has gone through its create, or runs since an earlier run."""
        if isinstance(job.request, ExistingTask):
            return
        if job.state is State.RUNNING:
            born = self._birth(job.created_at)
            self._creates.append(born)
            self._running[job.key] = kind_of(job.request), born

    def unplan(self, job: Job) -> None:
        """A job that was planned is no longer: it was sent, or never will be."""
        step = isinstance(job.request, ChainStep)
        if not isinstance(job.request, ExistingTask):
            self._planned[step] = max(0, self._planned[step] - 1)

    def made(self, job: Job) -> None:
        """A job's task has results."""
        self._running.pop(job.key, None)
        self._saving[job.key] = self._clock.monotonic()

    def done(self, job: Job) -> None:
        """The run is done with a job."""
        self._running.pop(job.key, None)
        since = self._saving.pop(job.key, None)
        if since is not None and job.state is State.SAVED:
            took = self._clock.monotonic() - since
            self._save_time += _NEWEST * (took - self._save_time)
        if isinstance(job.request, ExistingTask):
            self._found += 1
            self._existing = max(0, self._existing - 1)

    def left(self) -> Left | None:
        """Seconds that the run still takes; ``None`` while nobody can tell."""
        if self._began is None:
            return None
        now = self._clock.monotonic()
        gate = self._admission
        ahead = Ahead(
            unsent=_shared(self._unsent, self._planned[False]),
            steps=_shared(self._steps, self._planned[True]),
            running=self._groups(now),
            saving=len(self._saving),
            rate=gate.rate,
            round_trip=gate.round_trip,
            # Creates under way are of jobs that are not sent yet; other tasks take places away.
            places=max(1, gate.places - max(0, gate.running - gate.sending - len(self._running))),
            hold=gate.hold,
            frees=self._frees(now),
            save_time=self._save_time,
        )
        left = time_left(ahead, self._forecast.durations, self._forecast.look_ages)
        if not self._existing:
            return left
        if not self._found:
            return None
        # Tasks made elsewhere are mostly done: their number is what takes time.
        pace = self._existing * (now - self._began) / self._found
        return Left(max(left.low, 0.8 * pace), max(left.middle, pace), max(left.high, 1.5 * pace))

    def _frees(self, now: float) -> list[float]:
        """In how many seconds each create of this run that is in the window leaves it."""
        seconds = self._admission.rate.seconds
        return [ended + seconds - now for ended in self._creates if ended + seconds > now]

    def _groups(self, now: float) -> list[Running]:
        tasks = list(self._running.values())
        if len(tasks) <= _GROUPS:
            return [Running(kind, max(0.0, now - born)) for kind, born in tasks]
        groups: dict[tuple[Kind, int], tuple[float, int]] = {}
        for kind, born in tasks:
            age = max(0.0, now - born)
            name = kind, round(12 * math.log1p(age))
            _, count = groups.get(name, (0.0, 0))
            groups[name] = age, count + 1
        return [Running(kind, age, count) for (kind, _), (age, count) in groups.items()]

    def _birth(self, born: datetime | None) -> float:
        now = self._clock.monotonic()
        if born is None:
            return now
        return now - max(0.0, (self._clock.now() - born).total_seconds())


def _shared(kinds: Mapping[Kind, int], number: int) -> dict[Kind, float]:
    """A number of jobs, shared out among classes as those that were planned."""
    total = sum(kinds.values())
    if not number or not total:
        return {}
    return {kind: number * count / total for kind, count in kinds.items()}
