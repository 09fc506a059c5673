"""OpenTelemetry: what a program's SDK gets to see."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import KEY, sim_client, simulated

from kie_mj_async import Client, KieError
from kie_mj_async.events import Event, JobStarted
from kie_mj_async.jobs import Job
from kie_mj_async.requests import ImageToVideo, TextToImage
from kie_mj_async.telemetry import Telemetry

pytestmark = pytest.mark.anyio

JOB_SPAN = "generate_content midjourney"


class Collector:
    """Spans and metrics in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.telemetry = Telemetry(self.tracers, self.meters)

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def named(self, start: str) -> list[ReadableSpan]:
        return [one for one in self.spans if one.name.startswith(start)]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: object) -> float:
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return sum(
            float(point.value)
            for point in self.points(name)
            if wanted.items() <= dict(point.attributes).items()
        )

    def count(self, name: str) -> int:
        return sum(point.count for point in self.points(name))


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def below(span: ReadableSpan, other: ReadableSpan) -> bool:
    return (
        span.parent is not None
        and other.context is not None
        and span.parent.span_id == other.context.span_id
    )


async def render(collector: Collector, out: Path, faults: str = "", prompts: int = 2) -> None:
    async with simulated(faults) as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        async for _ in client.render([f"a fox no. {n}" for n in range(prompts)], out):
            pass


async def test_a_job_is_a_span_with_its_calls_and_files_below(
    collector: Collector, tmp_path: Path
) -> None:
    """One span for the job; a child for its create, for each look, and for each file."""
    await render(collector, tmp_path, prompts=2)
    jobs = collector.named(JOB_SPAN)
    assert len(jobs) == 2
    for job in jobs:
        facts = of(job)
        assert job.kind is SpanKind.CLIENT
        assert facts["kie.job.outcome"] == "saved"
        assert facts["gen_ai.response.id"] == facts["kie.task.id"]
        assert facts["kie.batch"] == str(tmp_path)
        assert (facts["gen_ai.operation.name"], facts["gen_ai.output.type"]) == (
            "generate_content",
            "image",
        )
        assert [event.name for event in job.events] == ["accepted", "made"]
        children = Counter(one.name for one in collector.spans if below(one, job))
        assert children["POST /api/v1/mj/generate"] == 1
        assert children["GET /api/v1/mj/record-info"] == facts["kie.job.polls"] >= 1
        assert children["save file"] == 4
        for child in collector.spans:
            if below(child, job):
                assert job.start_time is not None
                assert child.start_time is not None
                assert child.end_time is not None
                assert job.start_time <= child.start_time + 5_000_000 <= child.end_time + 5_000_000
    create = collector.named("POST /api/v1/mj/generate")[0]
    assert create.kind is SpanKind.CLIENT
    assert of(create)["http.request.method"] == "POST"
    assert of(create)["http.response.status_code"] == 200
    assert of(create)["server.address"] == "127.0.0.1"
    assert of(create)["kie.code"] == 200


async def test_the_span_in_which_a_job_was_asked_for_is_its_parent(
    collector: Collector, tmp_path: Path
) -> None:
    """A program's own span leads to what it made the service do, for one job and for a list."""
    tracer = collector.tracers.get_tracer("app")
    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        with tracer.start_as_current_span("request one"):
            await client.generate("a fox")
        with tracer.start_as_current_span("request many"):
            async for _ in client.render(["an owl", "a newt"], tmp_path):
                pass
        await client.generate("a hare")
    one, many = collector.named("request one")[0], collector.named("request many")[0]
    jobs = collector.named(JOB_SPAN)
    assert [below(job, one) for job in jobs] == [True, False, False, False]
    assert [below(job, many) for job in jobs] == [False, True, True, False]
    assert jobs[3].parent is None


async def test_the_numbers_add_up(collector: Collector, tmp_path: Path) -> None:
    """Submissions, files, bytes and credits are those of the run; nothing is left on its way."""
    await render(collector, tmp_path, prompts=3)
    assert collector.total("kie.submissions", kie__task__type="mj_txt2img") == 3
    assert collector.total("kie.outcomes", kie__job__outcome="saved") == 3
    assert collector.total("kie.saved.files") == 12
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.jpeg"))
    assert collector.total("kie.saved.bytes") == on_disk
    assert collector.total("kie.credits.spent") == 75
    stages = {dict(p.attributes)["kie.job.stage"]: p.value for p in collector.points("kie.jobs")}
    assert stages == {"queued": 0, "running": 0, "saving": 0}
    assert collector.count("gen_ai.client.operation.duration") == 3
    assert collector.count("kie.detection.delay") == 3
    assert collector.count("kie.job.polls") == 3
    calls = Counter(
        dict(point.attributes)["kie.call"]
        for point in collector.points("http.client.request.duration")
    )
    assert set(calls) == {"create", "record-info", "credits"}


async def test_trouble_is_seen(collector: Collector, tmp_path: Path) -> None:
    """Refusals, repetitions, failed tasks and lost replies: counted, and on the job's span."""
    faults = "create.429=#1,create.drop-reply=#3,poll.500=#1,download.503=#1,task.fail=#1"
    await render(collector, tmp_path, faults, prompts=4)
    assert collector.total("kie.rate_limited", kie__call="create") == 1
    assert collector.total("kie.creates.paused") > 0
    assert collector.total("kie.retries", kie__retry__of="look") >= 1
    assert collector.total("kie.retries", kie__retry__of="file") >= 1
    assert collector.total("kie.outcomes", kie__job__outcome="failed") == 1
    assert collector.total("kie.outcomes", kie__job__outcome="unresolved") == 1
    assert collector.total("kie.credits.returned") == 25
    outcomes = {of(one)["kie.job.outcome"]: one for one in collector.named(JOB_SPAN)}
    assert set(outcomes) == {"saved", "failed", "unresolved"}
    for word, kind in (("failed", "TaskFailed"), ("unresolved", "ReplyLost")):
        assert outcomes[word].status.status_code is StatusCode.ERROR
        assert of(outcomes[word])["error.type"] == kind
    noted = {event.name for job in collector.named(JOB_SPAN) for event in job.events}
    assert noted >= {"rate limited", "look is tried again", "file is tried again"}
    errors = {of(one).get("error.type") for one in collector.named("POST ")}
    assert errors >= {"429", "no answer"}


async def test_a_job_that_is_left_ends_its_span(collector: Collector, tmp_path: Path) -> None:
    """Stopping a batch, or closing a client, leaves no span open and no job counted."""
    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        batch = client.render(["a fox", "an owl"], tmp_path)
        await batch.plan()
        reader = anyio.CancelScope()
        with client.subscribe(lambda event: stop_at_first(event, batch.stop)), reader:
            async for _ in batch:
                pass
        assert collector.named(JOB_SPAN)
        await client.submit("a newt")
    ends = [of(one)["kie.job.outcome"] for one in collector.named(JOB_SPAN)]
    assert ends.count("left") >= 2
    assert len(ends) == 3
    assert sum(point.value for point in collector.points("kie.jobs")) == 0


def stop_at_first(event: Event, stop: Any) -> None:
    if type(event).__name__ == "JobSubmitted":
        stop()


async def test_nothing_secret_is_in_spans_and_metrics(collector: Collector, tmp_path: Path) -> None:
    """Neither the key nor a prompt, whatever the service answers."""
    faults = "create.401=#2,create.drop-reply=#1,poll.html=#1"
    with pytest.raises(KieError):
        await render(collector, tmp_path, faults, prompts=3)
    told = repr([(one.name, of(one), one.status, one.events) for one in collector.spans])
    told += repr(collector.points("http.client.request.duration"))
    told += repr(collector.points("kie.outcomes"))
    assert KEY not in told
    assert "a fox" not in told


async def test_without_an_sdk_nothing_happens(tmp_path: Path) -> None:
    """The API alone takes everything in and does nothing with it."""
    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(Telemetry())
        async for _ in client.render(["a fox"], tmp_path):
            pass
    assert len(list(tmp_path.glob("*.jpeg"))) == 4


async def test_what_never_ends_is_bounded(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single jobs that nobody waits for are given up, the oldest first."""
    monkeypatch.setattr("kie_mj_async.telemetry.MAX_OPEN", 20)
    for number in range(25):
        collector.telemetry(JobStarted(Job(key=f"j{number}", request=TextToImage("a fox"))))
    ended = collector.named(JOB_SPAN)
    assert [of(one)["kie.job.key"] for one in ended] == [f"j{n}" for n in range(5)]


async def test_videos_and_versions_are_told_apart(collector: Collector) -> None:
    """The model is what was asked for, the output what comes."""
    tell = collector.telemetry
    tell(JobStarted(Job(key="a", request=TextToImage("a fox", version="7"))))
    tell(JobStarted(Job(key="b", request=ImageToVideo("a fox", image="https://x.example/a.png"))))
    async with sim_closed(tell):
        pass
    model, video = (of(one) for one in collector.spans)
    assert model["gen_ai.request.model"] == "midjourney-7"
    assert video["gen_ai.output.type"] == "video"


class sim_closed:
    """A client that is opened and closed, so that a listener hears the last event."""

    def __init__(self, tell: Telemetry) -> None:
        self._tell = tell

    async def __aenter__(self) -> None:
        async with Client(KEY, base_url="http://127.0.0.1:9") as client:
            client.subscribe(self._tell)

    async def __aexit__(self, *_: object) -> None:
        return


async def test_a_telemetry_that_fails_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a program's SDK does."""

    def fail(*_: object) -> None:
        raise RuntimeError("the exporter is broken")

    telemetry = Telemetry()
    monkeypatch.setattr(telemetry, "_start", fail)
    with caplog.at_level(logging.ERROR):
        async with simulated() as sim, sim_client(sim) as client:
            client.subscribe(telemetry)
            async for _ in client.render(["a fox"], tmp_path):
                pass
    assert len(list(tmp_path.glob("*.jpeg"))) == 4
    assert "listener failed at JobStarted" in caplog.text
