"""The examples of a fleet, as they stand: two replicas of a web application, and a worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crash_runs import free_port
from fleet_runs import renderers

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def ask(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """The status, and the lines of the answer as JSON."""
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, [json.loads(line) for line in answer.read().splitlines()]
    except urllib.error.HTTPError as error:
        return error.code, []


@contextmanager
def replicas(*commands: list[str], database: str, ports: list[int], log: Path) -> Iterator[None]:
    """Processes that answer at these ports."""
    environment = {**os.environ, "KIE_DATABASE_URL": database}
    with log.open("wb") as output:
        started = [
            subprocess.Popen(command, env=environment, cwd=EXAMPLES, stdout=output, stderr=output)
            for command in commands
        ]
    try:
        for port in ports:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                raise AssertionError(log.read_text())
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(10)


def test_a_fastapi_application_in_two_replicas(postgres: Any, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    one, two = (f"http://127.0.0.1:{port}" for port in ports)
    commands = [
        [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)] for port in ports
    ]
    with renderers(postgres, tmp_path, scale=0.02) as fleet:
        worker = fleet.worker()
        worker.joined()
        with replicas(*commands, database=fleet.url, ports=ports, log=tmp_path / "web.log"):
            order = f"/pictures/order-17?prompt={urllib.parse.quote('a fox in the snow')}"
            assert ask(one + order, b"") == (202, [{"key": "order-17"}])
            assert ask(two + order, b"") == (202, [{"key": "order-17"}])
            status, (told,) = ask(f"{two}/pictures/order-17?wait=30")
            assert (status, told["state"], len(told["files"])) == (200, "saved", 4)
            assert all(Path(file).is_file() for file in told["files"])
            assert ask(f"{one}/pictures/order-17") == (200, [{"state": "saved"}])
            assert ask(f"{one}/pictures/nobody")[0] == 404
            assert ask(f"{one}/pictures/bad?prompt=", b"")[0] == 422
            prompts = json.dumps(["an owl", "a crane"]).encode()
            kind = {"Content-Type": "application/json"}
            for url in (one, two):
                _, lines = ask(f"{url}/lists/birds", prompts, kind)
                assert {line["prompt"] for line in lines} == {"an owl", "a crane"}
                assert {line["outcome"] for line in lines} == {"Saved"}
        assert fleet.service.books["accepted"] == 3, "asked for twice, paid once"


def test_an_aiohttp_application_in_two_replicas(postgres: Any, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    one, two = (f"http://127.0.0.1:{port}" for port in ports)
    commands = [[sys.executable, "aiohttp_app.py", str(port)] for port in ports]
    with renderers(postgres, tmp_path, scale=0.02) as fleet:
        worker = fleet.worker()
        worker.joined()
        with replicas(*commands, database=fleet.url, ports=ports, log=tmp_path / "web.log"):
            for url in (one, two):
                assert ask(f"{url}/pictures/order-17", b"a fox") == (202, [{"key": "order-17"}])
            status, (told,) = ask(f"{two}/pictures/order-17?wait=30")
            assert (status, told["state"], len(told["files"])) == (200, "saved", 4)
            assert ask(f"{one}/pictures/nobody")[0] == 404
            assert ask(f"{one}/pictures/bad", b" ")[0] == 422
        assert fleet.service.books["accepted"] == 1
