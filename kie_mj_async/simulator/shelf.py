"""The bytes of uploads, on disk under their sha256.

A thin shell around one directory. With a journal it lies beside it and is found again by the next
simulator; without one it is a temporary directory that goes when the simulator ends. Either is made
by the first upload. What is kept, and for how long, is decided in ``uploads.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import IO, Final

import anyio
import attrs
from anyio import to_thread

_HEAD: Final = 32
_PART: Final = ".part"


class TooLarge(Exception):
    """More bytes than the shelf takes."""


@attrs.frozen
class Content:
    """What was put on the shelf.

    Args:
        size: Bytes.
        sha256: Of them.
        head: The first of them.
    """

    size: int
    sha256: str
    head: bytes


class Shelf:
    """A directory of files.

    Args:
        folder: Where; ``None`` for a temporary directory.
        limit: Bytes of the largest file.
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        self.limit = limit
        self._folder = folder
        self._temporary = folder is None
        self._parts = 0

    async def open(self, wanted: Collection[str]) -> None:
        """Remove what an earlier simulator left and nobody can ask for any more.

        Args:
            wanted: The sha256 of every file to keep.
        """
        if self._folder is not None:
            await to_thread.run_sync(self._sweep, self._folder, frozenset(wanted))

    @staticmethod
    def _sweep(folder: Path, wanted: frozenset[str]) -> None:
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name not in wanted:
                    path.unlink()

    def path(self, sha256: str) -> Path | None:
        """Where a file lies, or would lie; ``None`` while there is no directory."""
        return None if self._folder is None else self._folder / sha256

    async def take(self, pieces: AsyncIterator[bytes]) -> Content:
        """Put a file on the shelf as it comes in.

        Raises:
            TooLarge: It is larger than the limit; nothing of it stays.
        """
        part, file = await to_thread.run_sync(self._begin)
        try:
            content = await self._fill(file, pieces)
            await to_thread.run_sync(self._finish, part, file, content.sha256)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._drop, part, file)
            raise
        return content

    async def _fill(self, file: IO[bytes], pieces: AsyncIterator[bytes]) -> Content:
        digest, size, head = hashlib.sha256(), 0, b""

        def write(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        async for piece in pieces:
            size += len(piece)
            if size > self.limit:
                raise TooLarge
            head += piece[: _HEAD - len(head)]
            await to_thread.run_sync(write, piece)
        return Content(size, digest.hexdigest(), head)

    def _begin(self) -> tuple[Path, IO[bytes]]:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kie-mj-uploads-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._parts += 1
        part = self._folder / f"{self._parts}{_PART}"
        return part, part.open("wb")

    def _finish(self, part: Path, file: IO[bytes], sha256: str) -> None:
        file.close()
        part.replace(part.with_name(sha256))

    @staticmethod
    def _drop(part: Path, file: IO[bytes]) -> None:
        file.close()
        part.unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Remove the directory if it is a temporary one. May be called again."""
        if self._temporary and self._folder is not None:
            folder, self._folder = self._folder, None
            with anyio.CancelScope(shield=True), contextlib.suppress(FileNotFoundError):
                await to_thread.run_sync(shutil.rmtree, folder)
