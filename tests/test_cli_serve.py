"""``kie-mj simulate``: the simulator as a server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from urllib.request import urlopen

import pytest
from cli_support import Shell, complaint


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ("create.429", "create.429"),
        ("create.nonsense=5%", "nonsense"),
        ("lunch.late=5%", "lunch"),
        ("create.429=200%", "200%"),
    ],
)
def test_a_fault_that_does_not_exist(shell: Shell, faults: str, words: str) -> None:
    """A fault script that cannot be read is one line that names the place."""
    line = complaint(shell("simulate", "--port", "0", "--faults", faults))
    assert line.startswith("--faults: ")
    assert words in line


def test_a_port_that_is_taken(shell: Shell) -> None:
    """A port that another program has is one line that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = complaint(shell("simulate", "--port", str(port)))
    assert line.startswith(f"--port: cannot listen at 127.0.0.1:{port}: ")


def test_a_blank_webhook_key(shell: Shell) -> None:
    """A key that cannot sign is one line that names the option."""
    line = complaint(shell("simulate", "--port", "0", "--webhook-key", " "))
    assert line.startswith("--webhook-key: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted(shell: Shell, number: signal.Signals) -> None:
    """It says where it listens and how to use it, serves its books, and ends cleanly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    books: list[bytes] = []

    def visit() -> None:
        deadline = time.monotonic() + 10
        while not books and time.monotonic() < deadline:
            try:
                with urlopen(f"{url}/simulator/books") as answer:
                    books.append(answer.read())
            except OSError:
                time.sleep(0.01)
        os.kill(os.getpid(), number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    arguments = (
        "--credits",
        "50",
        "--time-scale",
        "0.01",
        "--seed",
        "7",
        "--faults",
        "task.fail=#1",
        "--webhook-key",
        "sesame",
    )
    result = shell("simulate", "--port", str(port), *arguments)
    visitor.join()
    assert (result.code, result.out) == (0, "")
    assert f"listens at {url} (books: {url}/simulator/books)" in result.err
    assert f"KIE_BASE_URL={url} KIE_API_KEY=any kie-mj render" in result.err
    assert f"KIE_UPLOAD_URL={url} " in result.err
    assert "sesame" not in result.err
    told = json.loads(books[0])
    assert (told["credits"], told["time_scale"]) == (50, 0.01)
