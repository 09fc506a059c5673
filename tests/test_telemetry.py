"""OpenTelemetry: what a program's SDK gets to see."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from road_support import Yard, hasten
from support import KEY
from told_support import Witness, sim_client, simulated, without_waiting

from kie_mj_async import Client, KieError
from kie_mj_async.events import (
    CallEnded,
    Event,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)
from kie_mj_async.jobs import Job, Pending, State
from kie_mj_async.logs import Ids, about
from kie_mj_async.requests import ImageToVideo, TextToImage
from kie_mj_async.telemetry import Telemetry

pytestmark = pytest.mark.anyio

JOB_SPAN = "generate_content midjourney"
FOX = TextToImage("a fox")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


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

    @property
    def on_their_way(self) -> float:
        """Jobs that are said to be somewhere; each stage for itself, so that none hides another."""
        return sum(abs(float(point.value)) for point in self.points("kie.jobs"))


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


async def test_a_step_is_linked_to_the_job_before_it(collector: Collector, tmp_path: Path) -> None:
    """Its parent is who asked for the list; what it was made from is a link."""
    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        async for _ in client.render([TextToImage("a fox", then="upscale:0")], tmp_path):
            pass
    first, step = collector.named(JOB_SPAN)
    assert of(step)["kie.task.type"] == "mj_upscale"
    assert (first.links, [one.context for one in step.links]) == ((), [first.context])
    assert step.parent is None


async def test_a_job_whose_reply_was_lost_is_one_span(collector: Collector, tmp_path: Path) -> None:
    """Made again at the user's risk: two creates below one span, and an end."""
    async with (
        simulated("create.drop-reply=#1") as sim,
        sim_client(sim, on_unknown="repeat") as client,
    ):
        client.subscribe(collector.telemetry)
        async for _ in client.render(["a fox"], tmp_path):
            pass
    (job,) = collector.named(JOB_SPAN)
    assert sum(below(one, job) for one in collector.named("POST /api/v1/mj/generate")) == 2
    assert of(job)["kie.job.outcome"] == "saved"
    assert collector.on_their_way == 0


async def test_what_ended_before_anybody_looked_was_not_detected_late(
    collector: Collector, tmp_path: Path
) -> None:
    """Results of last week, archived now, tell nothing of how soon we know."""
    async with simulated() as sim, sim_client(sim) as client:
        task_id = (await client.generate("a fox")).task_id
        client.subscribe(collector.telemetry)
        async for _ in client.archive([task_id], tmp_path):
            pass
    (job,) = collector.named(JOB_SPAN)
    assert of(job)["kie.job.outcome"] == "saved"
    assert collector.count("kie.detection.delay") == 0
    assert collector.on_their_way == 0


async def test_a_resumed_job_is_a_span_of_its_run(collector: Collector, tmp_path: Path) -> None:
    """From where it stood; the first run's ends where that was left."""
    async with simulated() as sim:
        for _ in range(2):
            async with sim_client(sim) as client:
                client.subscribe(collector.telemetry)
                batch = client.render(["a fox"], tmp_path)
                with client.subscribe(lambda event, stop=batch.stop: stop_at_first(event, stop)):
                    async for _ in batch:
                        pass
    assert [of(one)["kie.job.outcome"] for one in collector.named(JOB_SPAN)] == ["left", "saved"]
    assert len({of(one)["kie.task.id"] for one in collector.named(JOB_SPAN)}) == 1
    assert collector.total("kie.submissions") == 1
    assert collector.on_their_way == 0


async def test_a_single_job_ends_whoever_waits_for_its_task(collector: Collector) -> None:
    """By its id too, where the job has another name; and a second wait makes no second span."""
    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        task = await client.submit("a fox")
        await client.task(task.task_id).wait()
        (job,) = collector.named(JOB_SPAN)
        assert of(job)["kie.job.outcome"] == "succeeded"
        await task.wait()
        assert collector.on_their_way == 0
    assert len(collector.named(JOB_SPAN)) == 1
    assert collector.count("gen_ai.client.operation.duration") == 1


async def test_a_listener_that_asks_for_more_has_spans_of_its_own(
    collector: Collector, tmp_path: Path
) -> None:
    """Started in the middle of a batch's job, it is no part of that."""

    def ask(event: Event) -> None:
        if isinstance(event, JobSubmitted) and event.job.prompt == "a fox":
            tasks.start_soon(client.generate, "an owl")

    async with simulated() as sim, sim_client(sim) as client:
        client.subscribe(collector.telemetry)
        client.subscribe(ask)
        async with anyio.create_task_group() as tasks:
            async for _ in client.render(["a fox"], tmp_path):
                pass
        jobs = {of(one).get("kie.batch"): one for one in collector.named(JOB_SPAN)}
        assert jobs.keys() == {str(tmp_path), None}
        assert collector.on_their_way == 0
    for job in jobs.values():
        assert sum(below(one, job) for one in collector.named("POST /api/v1/mj/generate")) == 1


async def test_a_single_job_that_nobody_waits_for_is_given_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an hour; jobs of a batch, which tells of their end, stay."""
    now = [0.0]
    monkeypatch.setattr("kie_mj_async.telemetry.time.monotonic", lambda: now[0])
    tell = collector.telemetry
    tell(JobStarted(Job(key="of a batch", request=FOX), "b"))
    for number in range(4):
        now[0] = 1800.0 * number
        tell(JobStarted(Job(key=f"j{number}", request=FOX)))
    ended = {of(one)["kie.job.key"]: of(one)["kie.job.outcome"] for one in collector.spans}
    assert ended == {"j0": "out of sight"}


async def test_a_job_is_timed_once(collector: Collector) -> None:
    """It had its results; that its files could not be saved comes on top."""
    tell = collector.telemetry
    made = Job(key="a", request=FOX, state=State.SUCCEEDED, task_id="t", urls=("http://x/a",))
    with about("b"):
        tell(JobStarted(made, "b"))
        tell(JobSucceeded(made))
        tell(JobEnded(Pending(made, KieError("the disk is full"))))
    assert collector.count("gen_ai.client.operation.duration") == 1
    assert collector.on_their_way == 0


async def test_a_delay_is_from_the_tasks_end(collector: Collector) -> None:
    tell = collector.telemetry
    ended = datetime.now(UTC)
    for key, before in (("a", timedelta()), ("b", timedelta(hours=1))):
        job = Job(key=key, request=FOX, task_id=key, completed_at=ended - before)
        tell(JobStarted(job))
        await anyio.sleep(0.002)
        tell(JobSucceeded(attrs.evolve(job, completed_at=datetime.now(UTC) - before)))
    assert collector.count("kie.detection.delay") == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (None, None, "no answer"), (200, None, "malformed answer"), (200, 422, "422"),
        (503, None, "503"), (401, 401, "401"),
    ],
)  # fmt: skip
async def test_an_error_has_one_of_a_few_names(
    collector: Collector, status: int | None, code: int | None, kind: str
) -> None:
    """Status and code are numbers of their own; the words are the span's alone."""
    call = CallEnded("credits", Ids(), 0.1, "GET", "https://x.test/c", status, code, "words")
    collector.telemetry(call)
    (span,) = collector.spans
    facts = of(span)
    assert facts["error.type"] == kind
    assert facts.get("http.response.status_code") == status
    assert (facts["server.address"], facts["server.port"]) == ("x.test", 443)
    (point,) = collector.points("http.client.request.duration")
    assert "words" not in repr(point.attributes)
    assert point.explicit_bounds[0] == 0.005


async def test_a_long_batch_holds_no_more_than_what_is_on_its_way(collector: Collector) -> None:
    """Whatever its length."""
    telemetry = Telemetry()
    with about("b"):
        for number in range(5000):
            job = Job(key=f"j{number}", request=FOX, task_id=f"t{number}")
            telemetry(JobStarted(job, "b"))
            telemetry(JobHeldBack(job))
            collector.telemetry(JobStarted(job, "b"))
            collector.telemetry(JobHeldBack(job))
    for one in (telemetry, collector.telemetry):
        assert (one._open, one._by_task, one._singles) == ({}, {}, {})
        assert len(one._ended) <= 1000


# --- Of a fleet -----------------------------------------------------------------------------------


async def test_a_fleets_job_is_one_span_over_both_its_steps(
    collector: Collector, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its calls and files below it, whatever goes wrong on the way."""
    hasten(monkeypatch)
    yard.break_with("create.429=#1,poll.500=#1,download.503=#1,task.fail=#3")
    chain = TextToImage("a fox", then="upscale:0")
    names = await yard.put_in(chain, TextToImage("an owl"))
    witness = Witness()
    async with yard.worker(tell=collector.telemetry) as one:
        for name in names:
            await one.go(name)
            assert await one.road.collect(name) in ("saved", "failed")
        assert collector.on_their_way == 0
    for event in one.told:
        if isinstance(event, JobStarted | JobEnded | JobHeldBack | JobSubmitted | JobSucceeded):
            witness.hear(event)
    assert witness.out == set()
    jobs = collector.named(JOB_SPAN)
    assert sorted(of(one)["kie.job.outcome"] for one in jobs) == ["failed", "saved", "saved"]
    assert {of(one)["kie.batch"] for one in jobs} == {"b"}
    for job in jobs:
        children = Counter(one.name for one in collector.spans if below(one, job))
        assert children["POST /api/v1/mj/generate"] >= 1 or of(job)["kie.task.type"] != "mj_txt2img"
        assert children["GET /api/v1/mj/record-info"] == of(job)["kie.job.polls"] >= 1
    assert collector.total("kie.outcomes") == 3
    assert [len(one.links) for one in jobs].count(1) == 1


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
