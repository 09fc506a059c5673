"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import Opened, make_batch, opening, running
from cli_support import Shell


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _state_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test sees or touches the user's state directory."""
    monkeypatch.setenv("KIE_STATE_DIR", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's chromium. Its driver keeps an event loop in this thread as long as it runs."""
    with running() as chromium:
        yield chromium


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Opens pages of the gallery."""
    with opening(browser) as go:
        yield go


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a batch with something of everything; not to be changed."""
    return make_batch(tmp_path_factory.mktemp("batches") / "my foxes")


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """The command line, run in this process, away from the real home and the real service."""
    return Shell(tmp_path, monkeypatch, capfd)
