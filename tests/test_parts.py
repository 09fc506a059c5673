"""Part files: what is written is counted, hashed and recognised; what is left over is swept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support import picture

from kie_mj_async.archive.parts import Parts


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    made = Parts(tmp_path / "parts")
    made.prepare()
    return made


def test_content_is_recognised_while_it_is_written(parts: Parts) -> None:
    """However the bytes come in, a part knows its digest, its kind, its size and its end."""
    content = picture(size=40)
    part = parts.new()
    for at in range(0, len(content), 7):
        assert part.write(memoryview(content)[at : at + 7]) == len(content[at : at + 7])
    media = part.media()
    part.close()
    assert media is not None
    assert (media.media_type, media.width, media.height, media.ends_well) == (
        "image/png", 40, 40, True,
    )  # fmt: skip
    assert part.sha256 == hashlib.sha256(content).hexdigest()


def test_leftovers_are_swept(parts: Parts) -> None:
    """What a killed run left half written is deleted; other files stay."""
    left = parts.new()
    left.write(b"half")
    left.close()
    (parts.folder / "notes.txt").write_text("mine")
    parts.sweep()
    assert [path.name for path in parts.folder.iterdir()] == ["notes.txt"]
