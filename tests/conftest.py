"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
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


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Shell:
    """The command line, run in this process, away from the real home and the real service."""
    return Shell(tmp_path, monkeypatch, capfd)
