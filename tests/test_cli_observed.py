"""OpenTelemetry on the command line: told where somebody has set it up, and not looked for elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kie_mj_async.cli.observed import telemetry
from kie_mj_async.telemetry import Telemetry

SITE = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
out = open({path!r}, "a")
exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


def test_where_no_sdk_was_loaded_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor imported: it costs nothing."""
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk", raising=False)
    assert telemetry() is None


def test_where_one_was_loaded_it_is_told() -> None:
    import opentelemetry.sdk.trace  # noqa: F401

    assert isinstance(telemetry(), Telemetry)


@pytest.mark.slow
def test_an_agent_that_is_there_before_us_gets_the_spans(tmp_path: Path) -> None:
    """As ``opentelemetry-instrument kie-mj ...`` does it: set up before the command begins."""
    spans = tmp_path / "spans.jsonl"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(path=str(spans)))
    (tmp_path / "list.txt").write_text("a fox\nan owl\n")
    command = [sys.executable, "-m", "kie_mj_async.cli", "render", "list.txt"]
    subprocess.run(
        [*command, "--simulate", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        timeout=50,
    )
    names = [json.loads(line)["name"] for line in spans.read_text().splitlines()]
    assert names.count("generate_content midjourney") == 2
    assert names.count("save file") == 8
    assert names.count("POST /api/v1/mj/generate") == 2
