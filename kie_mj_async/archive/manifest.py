"""``manifest.jsonl``: one line per file on disk, for whatever comes after.

The ledger is the truth and the manifest is made from it: written whole (beside, then renamed) when a
run begins, and lengthened by one write a file as files are saved, so a process that is killed leaves
whole lines only. What a power cut leaves is put right by the next run, or by ``kie-mj gallery``.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiofiles
import aiofiles.os
import anyio
import anyio.to_thread

from ..errors import WriteFailed, refusal
from ..jobs import Job, SavedFile
from ..waiting import uncut

NAME: Final = "manifest.jsonl"


def line(job: Job, file: SavedFile) -> str:
    """The line of one file, with its line break."""
    entry: dict[str, Any] = {
        "job": job.key,
        "prompt": job.prompt,
        "params": job.request.params(),
        "task_id": job.task_id,
        "index": file.index,
        "path": file.path,
        "url": file.url,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "media_type": file.media_type,
        "width": file.width,
        "height": file.height,
        "created_at": _iso(job.created_at),
        "completed_at": _iso(job.completed_at),
        "saved_at": _iso(file.saved_at),
    }
    return json.dumps(entry, ensure_ascii=False) + "\n"


class Manifest:
    """The manifest of a batch directory.

    Args:
        root: The batch directory.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / NAME
        self._turn = anyio.Lock()

    async def rebuild(self, jobs: AsyncIterable[Job]) -> None:
        """Write it whole, from the ledger's jobs.

        Raises:
            WriteFailed: The disk refused.
        """
        beside = self.path.with_name(f".{NAME}.new")
        try:
            await self._rebuild(beside, jobs)
        except BaseException as error:
            with suppress(OSError):
                await uncut(aiofiles.os.remove(beside))
            if isinstance(error, OSError):
                message = f"{self.path}: cannot be written: {refusal(error)}"
                raise WriteFailed(message) from None
            raise

    async def _rebuild(self, beside: Path, jobs: AsyncIterable[Job]) -> None:
        out = await uncut(aiofiles.open(beside, "w", encoding="utf-8", newline="\n"))
        try:
            async for job in jobs:
                if job.files:
                    await uncut(out.write("".join(line(job, file) for file in job.files)))
            await uncut(out.flush())
            await uncut(aiofiles.os.wrap(os.fsync)(out.fileno()))
        finally:
            await uncut(out.close())
        await uncut(aiofiles.os.replace(beside, self.path))

    async def append(self, job: Job, file: SavedFile) -> None:
        """Add one file.

        Raises:
            WriteFailed: The disk refused.
        """
        try:
            async with self._turn:
                await anyio.to_thread.run_sync(_append, self.path, line(job, file).encode())
        except OSError as error:
            raise WriteFailed(f"{self.path}: cannot be written: {refusal(error)}") from None


def _append(path: Path, text: bytes) -> None:
    """In one write, or not at all."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        written = os.write(out, text)
        if written < len(text):  # the disk is full
            os.ftruncate(out, os.fstat(out).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(out)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
