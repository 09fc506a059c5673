"""What the shop's operators see: its jobs as spans and metrics, in the program's own collector."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from covers import order
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kie_mj_async.testing import Simulated

BOOKS = ["The Fox", "The Lighthouse"]
KEY = "shop-key-0123456789"


@pytest.fixture(scope="session")
def spans() -> InMemorySpanExporter:
    """Collects the program's spans. A program sets its providers once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(scope="session")
def numbers() -> InMemoryMetricReader:
    """Collects the program's metrics."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    return reader


def called(spans: InMemorySpanExporter, start: str) -> list[ReadableSpan]:
    return [one for one in spans.get_finished_spans() if one.name.startswith(start)]


def ids(spans: list[ReadableSpan]) -> set[int | None]:
    return {one.context.span_id if one.context else None for one in spans}


def parents(spans: list[ReadableSpan]) -> set[int | None]:
    return {one.parent.span_id if one.parent else None for one in spans}


@pytest.mark.kie(time_scale=0.004, api_key=KEY)
def test_an_order_is_a_trace(
    spans: InMemorySpanExporter,
    numbers: InMemoryMetricReader,
    kie_simulator: Simulated,
    tmp_path: Path,
) -> None:
    """Below the shop's own span are its jobs, below each its calls and files; no key, no title."""
    with trace.get_tracer("shop").start_as_current_span("order") as own:
        covers = asyncio.run(order(BOOKS, tmp_path))
    assert sorted(covers.files) == sorted(BOOKS)
    jobs = called(spans, "generate_content")
    files = called(spans, "save file")
    creates = called(spans, "POST /api/v1/mj/generate")
    assert (len(jobs), len(files), len(creates)) == (2, 8, 2)
    assert parents(jobs) == {own.get_span_context().span_id}
    assert parents(files) == parents(creates) == ids(jobs)
    tasks = {create["task_id"] for create in kie_simulator.books()["creates"]}
    assert {str(job.attributes["kie.task.id"]) for job in jobs if job.attributes} == tasks
    data = numbers.get_metrics_data()
    assert data is not None
    told = "".join(one.to_json() for one in spans.get_finished_spans()) + data.to_json()
    assert '"kie.credits.spent"' in told
    for secret in (KEY, *BOOKS):
        assert secret not in told
