"""``manifest.jsonl``: one line per file on disk, for whatever comes after.

The ledger is the truth and the manifest is made from it: written whole (beside, then renamed) when a
run begins, and lengthened as files are saved. A line torn by a crash is gone with the next run.
"""

from __future__ import annotations

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

from ..errors import WriteFailed, refusal
from ..jobs import Job, SavedFile
from ..waiting import uncut

NAME: Final = "manifest.jsonl"


def params_of(job: Job) -> dict[str, Any]:
    """What was asked for besides the prompt; how to be told is not part of it."""
    return {
        name: value
        for name, value in job.request.to_dict().items()
        if name not in ("prompt", "callback_url")
    }


def line(job: Job, file: SavedFile) -> str:
    """The line of one file, with its line break."""
    entry: dict[str, Any] = {
        "job": job.key,
        "prompt": job.prompt,
        "params": params_of(job),
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
                await uncut(self._append(line(job, file)))
        except OSError as error:
            raise WriteFailed(f"{self.path}: cannot be written: {refusal(error)}") from None

    async def _append(self, text: str) -> None:
        async with aiofiles.open(self.path, "a", encoding="utf-8", newline="\n") as out:
            await out.write(text)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
