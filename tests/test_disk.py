"""What makes a file outlast a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kie_mj_async.disk import sync_folder


def test_a_folder_is_synced_and_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder itself is synced, and its handle closed."""
    synced: list[tuple[int, int]] = []
    handles: list[int] = []
    plain = os.fsync

    def fsync(handle: int) -> None:
        handles.append(handle)
        found = os.fstat(handle)
        synced.append((found.st_dev, found.st_ino))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    found = tmp_path.stat()
    assert synced == [(found.st_dev, found.st_ino)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handles[0])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is said, not passed over."""
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")
