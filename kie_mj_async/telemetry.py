"""OpenTelemetry: a client's events as spans and metrics.

It needs the extra ``otel``, which is the OpenTelemetry API alone; where spans and metrics go is for your
program's SDK to say. Whoever does not subscribe it pays nothing::

    client.subscribe(Telemetry())

A job is a span, from when it set out until it is saved (of ``submit`` and ``generate``: until it has
results, somebody has seen it fail, or nobody has for an hour); its parent is the span in which it was
asked for. Below it each call to the API has a span, and each file. A step of a chain is linked to the
job before it. Names follow OpenTelemetry's conventions for HTTP clients and generative models where they
have one; the rest begins with ``kie.``. The key is in none of them, and of prompts only the words that
are in the names of files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import attrs
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from ._version import __version__
from .errors import KieError
from .events import (
    BatchEnded,
    CallbackAwaited,
    CallEnded,
    ClientClosed,
    CreatesPaused,
    CreditsReturned,
    Event,
    FileSaved,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    RateLimited,
    Retrying,
)
from .jobs import Job, Outcome, Saved, State
from .logs import Ids, ids
from .requests import ChainStep

SCOPE: Final = "kie_mj_async"

MAX_OPEN: Final = 20_000
"""Jobs whose span is open at once at most: those beyond it are given up, the oldest first."""

FORGET: Final = 3600.0
"""Seconds for which a single job's span is open at most: nobody may ever wait for its task."""

_LINKED: Final = 1000
"""Ended jobs whose spans steps of chains can be linked to; a step sets out right behind them."""

# As OpenTelemetry's convention has them.
_CALLS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
# Not as the convention has them: nearly all tasks take from half a minute to half an hour.
_TASKS: Final = (15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
_DELAYS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 300.0)
_POLLS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0)

Stage = Literal["queued", "running", "saving"]
_Attributes = dict[str, str | int | float | bool]


@attrs.define(eq=False)
class _Open:
    """A job on its way.

    Attributes:
        key: Its batch, and its key.
        span: Its span.
        began: When it set out, in seconds of a monotonic clock.
        about: What describes it in every metric.
        single: Whether nothing is told of it after its results.
        stage: Where it is.
        task_id: Its task.
        polls: How often that was looked at.
        timed: Whether it is known how long it took.
    """

    key: tuple[str | None, str]
    span: Span
    began: float
    about: _Attributes
    single: bool
    stage: Stage
    task_id: str | None = None
    polls: int = 0
    timed: bool = False


class Telemetry:
    """Makes spans and metrics of a client's events; one for each client.

    Args:
        tracer_provider: Where spans go; by default the program's.
        meter_provider: Where metrics go; by default the program's.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        self._numbers = _Numbers(metrics.get_meter(SCOPE, __version__, meter_provider))
        self._open: dict[tuple[str | None, str], _Open] = {}
        self._by_task: dict[str, _Open] = {}
        self._singles: dict[tuple[str | None, str], _Open] = {}
        self._ended: dict[tuple[str | None, str], SpanContext] = {}

    def __call__(self, event: Event) -> None:
        """Take in an event, in the context in which it was told."""
        match event:
            case JobStarted(job, batch):
                self._start(job, batch)
            case JobSubmitted(job):
                self._submitted(job)
            case JobSucceeded(job):
                self._succeeded(job)
            case FileSaved():
                self._file(event)
            case JobEnded(outcome, earlier=False):
                self._outcome(outcome)
            case JobHeldBack(job):
                self._close(self._of_job(job), {"kie.job.outcome": "held back"})
            case BatchEnded(batch):
                self._close_all(batch)
            case ClientClosed():
                self._close_all(None)
            case _:
                self._hear_of_service(event)

    def _hear_of_service(self, event: Event) -> None:
        match event:
            case CreditsReturned(job, credits):
                self._numbers.returned.add(credits, _described(job))
            case CallEnded():
                self._call(event)
            case RateLimited(call, about, _):
                self._numbers.rate_limited.add(1, {"kie.call": call})
                self._note(about, "rate limited", {"kie.call": call})
            case Retrying(what, about, error, seconds, failures):
                self._numbers.retries.add(1, {"kie.retry.of": what, **_error(error)})
                facts = {"kie.retry.wait": seconds, "kie.retry.failures": failures}
                self._note(about, f"{what} is tried again", {**facts, **_error(error)})
            case CreatesPaused(_, seconds):
                self._numbers.paused.add(seconds)
            case CallbackAwaited(job, seconds):
                self._note(_of(job), "callback awaited", {"kie.callback.wait": seconds})

    def _start(self, job: Job, batch: str | None) -> None:
        key = batch, job.key
        if key in self._open:  # at another step of the same road
            return
        about = _described(job)
        facts = {"kie.job.key": job.key}
        if batch is not None:
            facts["kie.batch"] = batch
        span = self._tracer.start_span(
            f"generate_content {about['gen_ai.request.model']}",
            kind=SpanKind.CLIENT,
            attributes={**about, **facts},
            links=self._links(job, batch),
        )
        stage: Stage = "queued"
        if job.state in (State.RUNNING, State.SUCCEEDED):
            stage = "running" if job.state is State.RUNNING else "saving"
        now = time.monotonic()
        one = self._open[key] = _Open(key, span, now, about, batch is None, stage)
        self._numbers.jobs.add(1, {"kie.job.stage": stage})
        self._is_of(one, job.task_id)
        if one.single:
            self._singles[key] = one
        oldest = next(iter(self._singles.values()), one)
        if now - oldest.began > FORGET:
            self._close(oldest, {"kie.job.outcome": "out of sight"})
        if len(self._open) > MAX_OPEN:
            self._close(next(iter(self._open.values())), {"kie.job.outcome": "out of sight"})

    def _links(self, job: Job, batch: str | None) -> list[Link]:
        """To the job that this one is a step behind."""
        if not isinstance(job.request, ChainStep):
            return []
        before = self._ended.get((batch, job.request.parent))
        return [] if before is None else [Link(before)]

    def _is_of(self, one: _Open, task_id: str | None) -> None:
        if task_id is not None and one.task_id is None:
            one.task_id = task_id
            self._by_task[task_id] = one
            one.span.set_attributes({"kie.task.id": task_id, "gen_ai.response.id": task_id})

    def _submitted(self, job: Job) -> None:
        about = _described(job)
        self._numbers.submissions.add(1, about)
        self._numbers.spent.add(job.price, about)
        if (one := self._of_job(job)) is not None:
            self._is_of(one, job.task_id)
            self._move(one, "running")
            one.span.add_event("accepted", {"kie.credits": job.price})

    def _succeeded(self, job: Job) -> None:
        one = self._of_job(job)
        if one is None:
            return
        about, lasted = _described(job), time.monotonic() - one.began
        if job.completed_at is not None:
            delay = (datetime.now(UTC) - job.completed_at).total_seconds()
            if delay <= lasted:  # else it had ended before anybody looked
                self._numbers.detection.record(max(0.0, delay), about)
        self._took(one, about)
        self._move(one, "saving")
        one.span.add_event("made", {"kie.results": len(job.urls)})
        if one.single:
            self._close(one, {"kie.job.outcome": "succeeded"})

    def _file(self, event: FileSaved) -> None:
        now, file = time.time_ns(), event.file
        about = {**_described(event.job), "kie.file.media_type": file.media_type}
        self._numbers.files.add(1, about)
        self._numbers.bytes.add(file.bytes, about)
        span = self._tracer.start_span(
            "save file",
            self._below(_of(event.job)),
            attributes={
                "file.path": str(file.path),
                "file.size": file.bytes,
                "kie.file.index": file.index,
                "kie.file.media_type": file.media_type,
                "server.address": urlsplit(file.url).hostname or "",
            },
            start_time=now - round(1e9 * event.seconds),
        )
        span.end(now)

    def _took(self, one: _Open, about: _Attributes) -> None:
        """How long it took until it had results, or until it ended without."""
        if not one.timed:
            one.timed = True
            self._numbers.duration.record(time.monotonic() - one.began, about)

    def _outcome(self, outcome: Outcome) -> None:
        word = type(outcome).__name__.lower()
        error = None if isinstance(outcome, Saved) else outcome.error
        facts = {"kie.job.outcome": word, **_error(error)}
        self._numbers.outcomes.add(1, {**_described(outcome.job), **facts})
        one = self._of_job(outcome.job)
        if one is not None and error is not None:
            self._took(one, {**one.about, **_error(error)})
            one.span.set_status(Status(StatusCode.ERROR, str(error)))
        self._close(one, facts)

    def _call(self, event: CallEnded) -> None:
        now = time.time_ns()
        facts = _of_call(event)
        self._numbers.calls.record(event.seconds, {**facts, "kie.call": event.call})
        one = self._of(event.about)
        if one is not None and event.call == "record-info":
            one.polls += 1
        told: _Attributes = {**facts, "url.full": event.url, "kie.call": event.call}
        if event.code is not None:
            told["kie.code"] = event.code
        span = self._tracer.start_span(
            f"{event.method} {urlsplit(event.url).path}",
            self._below(event.about),
            kind=SpanKind.CLIENT,
            attributes=told,
            start_time=now - round(1e9 * event.seconds),
        )
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error))
        span.end(now)

    def _note(self, about: Ids, what: str, facts: Mapping[str, str | int | float | bool]) -> None:
        if (one := self._of(about)) is not None:
            one.span.add_event(what, facts)

    def _below(self, about: Ids) -> Context | None:
        one = self._of(about)
        return None if one is None else trace.set_span_in_context(one.span)

    def _of(self, about: Ids) -> _Open | None:
        found = self._open.get((about.batch, about.job)) if about.job is not None else None
        if found is None and about.task_id is not None:
            found = self._by_task.get(about.task_id)
        return found

    def _of_job(self, job: Job) -> _Open | None:
        return self._of(_of(job))

    def _move(self, one: _Open, stage: Stage) -> None:
        self._numbers.jobs.add(-1, {"kie.job.stage": one.stage})
        self._numbers.jobs.add(1, {"kie.job.stage": stage})
        one.stage = stage

    def _close(self, one: _Open | None, facts: Mapping[str, str]) -> None:
        if one is None:
            return
        del self._open[one.key]
        self._singles.pop(one.key, None)
        self._remember(one)
        self._numbers.jobs.add(-1, {"kie.job.stage": one.stage})
        if one.polls:
            self._numbers.polls.record(one.polls, one.about)
        if one.task_id is not None and self._by_task.get(one.task_id) is one:
            del self._by_task[one.task_id]
        one.span.set_attributes({**facts, "kie.job.polls": one.polls})
        one.span.end()

    def _remember(self, one: _Open) -> None:
        context = one.span.get_span_context()
        if context.is_valid and not one.single:
            self._ended[one.key] = context
            if len(self._ended) > _LINKED:
                del self._ended[next(iter(self._ended))]

    def _close_all(self, batch: str | None) -> None:
        """What is open of a batch, or of the client, went no further in this run."""
        for one in [one for one in self._open.values() if batch in (None, one.key[0])]:
            self._close(one, {"kie.job.outcome": "left"})


class _Numbers:
    """What is counted and measured."""

    def __init__(self, meter: metrics.Meter) -> None:
        self.calls = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of calls to the API",
            explicit_bucket_boundaries_advisory=_CALLS,
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "From a job's setting out to its results, or to the end without",
            explicit_bucket_boundaries_advisory=_TASKS,
        )
        self.detection = meter.create_histogram(
            "kie.detection.delay",
            "s",
            "From a task's end, by the service's clock, until we knew",
            explicit_bucket_boundaries_advisory=_DELAYS,
        )
        self.polls = meter.create_histogram(
            "kie.job.polls",
            "{poll}",
            "Looks at a job's task",
            explicit_bucket_boundaries_advisory=_POLLS,
        )
        self.jobs = meter.create_up_down_counter(
            "kie.jobs", "{job}", "Jobs on their way, by where they are"
        )
        self.submissions = meter.create_counter(
            "kie.submissions", "{job}", "Jobs that the service has accepted"
        )
        self.outcomes = meter.create_counter(
            "kie.outcomes", "{job}", "Jobs that have ended, by how"
        )
        self.rate_limited = meter.create_counter(
            "kie.rate_limited", "{response}", "Answers with 429"
        )
        self.paused = meter.create_counter(
            "kie.creates.paused", "s", "Time in which no create was to be sent"
        )
        self.retries = meter.create_counter(
            "kie.retries", "{retry}", "What was tried again, at no cost"
        )
        self.files = meter.create_counter("kie.saved.files", "{file}", "Files saved")
        self.bytes = meter.create_counter("kie.saved.bytes", "By", "Their size")
        self.spent = meter.create_counter("kie.credits.spent", "{credit}", "Credits spent")
        self.returned = meter.create_counter(
            "kie.credits.returned", "{credit}", "Credits of tasks that failed"
        )


def _of(job: Job) -> Ids:
    return Ids(ids().batch, job.key, job.task_id)


def _described(job: Job) -> _Attributes:
    """What describes a job in a metric: few values each."""
    version = getattr(job.request, "version", None)
    kind = job.request.task_type or "existing"
    return {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "kie",
        "gen_ai.request.model": f"midjourney-{version}" if version else "midjourney",
        "gen_ai.output.type": "video" if "video" in kind else "image",
        "kie.task.type": kind,
    }


def _of_call(event: CallEnded) -> _Attributes:
    where = urlsplit(event.url)
    facts: _Attributes = {
        "http.request.method": event.method,
        "server.address": where.hostname or "",
        "server.port": where.port or (443 if where.scheme == "https" else 80),
    }
    if event.status is not None:
        facts["http.response.status_code"] = event.status
    if event.error is not None:
        refused = event.status is not None and event.status >= 300
        code = event.status if refused else event.code
        if code is not None:
            facts["error.type"] = str(code)
        else:
            facts["error.type"] = "no answer" if event.status is None else "malformed answer"
    return facts


def _error(error: KieError | None) -> dict[str, str]:
    return {} if error is None else {"error.type": type(error).__name__}
