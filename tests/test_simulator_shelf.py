"""The bytes of uploads, on disk."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kie_mj_async.simulator.shelf import Shelf, TooLarge

pytestmark = pytest.mark.anyio


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for one in content:
        yield one


async def test_files_lie_under_their_hash(tmp_path: Path) -> None:
    """A file is there in full once it was taken, with its size and first bytes told."""
    shelf = Shelf(tmp_path / "deep" / "shelf", 100)
    content = await shelf.take(pieces(b"hello ", b"world"))
    assert (content.size, content.head) == (11, b"hello world")
    assert content.sha256 == hashlib.sha256(b"hello world").hexdigest()
    path = shelf.path(content.sha256)
    assert path is not None
    assert path.read_bytes() == b"hello world"
    assert (await shelf.take(pieces(b"x" * 99))).head == b"x" * 32
    assert len(list(path.parent.iterdir())) == 2
    await shelf.aclose()
    assert path.exists()


async def test_what_does_not_arrive_leaves_nothing(tmp_path: Path) -> None:
    """Neither a file that is too large nor one that is given up stays."""
    shelf = Shelf(tmp_path, 10)
    with pytest.raises(TooLarge):
        await shelf.take(pieces(b"x" * 6, b"x" * 6))
    assert await shelf.take(pieces(b"x" * 10))

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    with anyio.move_on_after(0.05):
        await shelf.take(endless())
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_temporary_directory_goes() -> None:
    """Without a directory of its own the shelf makes one when needed, and removes it."""
    shelf = Shelf(None, 10)
    assert shelf.path("ab") is None
    await shelf.aclose()
    content = await shelf.take(pieces(b"x"))
    path = shelf.path(content.sha256)
    assert path is not None
    assert path.is_file()
    await shelf.aclose()
    await shelf.aclose()
    assert not path.parent.exists()


async def test_leftovers_are_removed(tmp_path: Path) -> None:
    """What a killed simulator left half written, and what nobody can ask for, goes at the start."""
    for name in ("keep", "old", "3.part"):
        (tmp_path / name).write_bytes(b"x")
    await Shelf(tmp_path, 10).open({"keep"})
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    await Shelf(tmp_path / "none", 10).open(set())
    await Shelf(None, 10).open(set())
