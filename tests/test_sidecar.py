"""The record beside a part file: whole and synced, or not read at all."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from kie_mj_async.archive import sidecar
from kie_mj_async.rules.transfer import Checkpoint, Validator

HAVE = Checkpoint("https://files.test/a.png", Validator('"one"'), 3000, 1000, "ab" * 32)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Also when it takes the place of one before; nothing is left beside it."""
    path = tmp_path / "fox-0.json"
    sidecar.write(path, HAVE)
    later = attrs.evolve(HAVE, size=2000)
    sidecar.write(path, later)
    assert sidecar.read(path) == later
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is synced beside its place first: a crash leaves the one before."""
    path = tmp_path / "fox-0.json"
    sidecar.write(path, HAVE)

    def fsync(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input"):
        sidecar.write(path, attrs.evolve(HAVE, size=2000))
    assert sidecar.read(path) == HAVE


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b" " * 200_000, b"["])
def test_garbage_is_no_record(tmp_path: Path, content: bytes) -> None:
    """What cannot be read, or is no record, is none."""
    path = tmp_path / "fox-0.json"
    assert sidecar.read(path) is None
    path.write_bytes(content)
    assert sidecar.read(path) is None
    assert sidecar.read(tmp_path) is None
