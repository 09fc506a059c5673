"""Shared by all tests: asyncio as anyio's backend."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _state_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test sees or touches the user's state directory."""
    monkeypatch.setenv("KIE_STATE_DIR", str(tmp_path_factory.mktemp("state")))
