"""``manifest.jsonl``: one line per file on disk, for whatever comes after.

The ledger is the truth and the manifest is made from it: when a run begins it is written whole (beside,
then renamed) unless it fits, and it is lengthened by one write a file as files are saved, so a process
that is killed leaves whole lines; all but the last, where it is killed within that very write and the
line crosses a page. What that or a power cut leaves is put right by the next run.

Whether it fits is told at a glance, for it may have a million lines: it has as many as the ledger has
files, each of them whole, and a few are what the ledger would write. So a manifest that lost or gained
lines, was torn, is another directory's or an older version's is made anew. One that was edited in
place, in a line that was not looked at, is left so; ``kie-mj gallery`` makes it anew in any case.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import aiofiles
import aiofiles.os
import anyio

from ..disk import NO_LINK
from ..errors import WriteFailed, refusal
from ..jobs import Job, SavedFile
from ..waiting import held, in_thread, uncut

NAME: Final = "manifest.jsonl"

_LOOKED_AT: Final = 8
"""Lines that are compared with the ledger, from the first to the last."""

_BLOCK: Final = 1 << 20
_AT_ONCE: Final = 500
"""Bytes to read, and lines to write, at a time."""

_encode: Final = json.JSONEncoder(ensure_ascii=False).encode


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
    return _encode(entry) + "\n"


class Manifest:
    """The manifest of a batch directory.

    Args:
        root: The batch directory.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / NAME
        self._turn = anyio.Lock()
        self._lines: list[bytes] = []
        self._work: asyncio.Task[None] | None = None

    async def fits(self, files: int, job_of: Callable[[str], Awaitable[Job | None]]) -> bool:
        """Whether it is what :meth:`rebuild` would make of it, as far as a glance tells.

        Args:
            files: How many files the ledger has.
            job_of: The ledger's job under a key.
        """
        lines = await in_thread(_glance, self.path, files)
        if lines is None:
            return False
        for text in lines:
            try:
                told = json.loads(text)
                job = await job_of(str(told["job"]))
                mine = {file.index: file for file in job.files} if job is not None else {}
                if job is None or line(job, mine[told["index"]]).encode() != text:
                    return False
            except (LookupError, TypeError, ValueError):
                return False
        return True

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
        with suppress(FileNotFoundError):  # a killed run's, or a link that leads elsewhere
            await uncut(aiofiles.os.remove(beside))
        out = await uncut(aiofiles.open(beside, "x", encoding="utf-8", newline="\n"))
        try:
            lines: list[str] = []
            async for job in jobs:
                lines += [line(job, file) for file in job.files]
                if len(lines) >= _AT_ONCE:
                    await uncut(out.writelines(lines))
                    lines = []
            await uncut(out.writelines(lines))
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
        self._lines.append(line(job, file).encode())
        if self._work is None:
            self._work = asyncio.create_task(self._write(), name="kie-mj manifest")
        try:
            await held(self._work)
        except OSError as error:
            raise WriteFailed(f"{self.path}: cannot be written: {refusal(error)}") from None

    async def _write(self) -> None:
        """Add all the lines that wait, once those before them are there."""
        async with self._turn:
            lines, self._lines, self._work = self._lines, [], None
            await in_thread(_append, self.path, lines)


def _glance(path: Path, files: int) -> list[bytes] | None:
    """Some lines of a manifest; ``None`` if it is damaged or has not so many."""
    try:
        if path.is_symlink():  # it would be written to wherever that leads
            return None
        with path.open("rb") as manifest:
            found, last = 0, b"\n"
            while block := manifest.read(_BLOCK):
                if b"\0" in block:  # a power cut leaves such in place of what was not written
                    return None
                found += block.count(b"\n")
                last = block[-1:]
            return _some(manifest) if found == files and last == b"\n" else None
    except OSError:
        return None


def _some(manifest: BinaryIO) -> list[bytes]:
    """The first line, the last one, and some between them."""
    size = manifest.seek(0, os.SEEK_END)
    found = set()
    for part in range(_LOOKED_AT):
        manifest.seek(size * part // _LOOKED_AT)
        if part:
            manifest.readline()  # the rest of one that begins before
        found.add(manifest.readline())
    manifest.seek(max(0, size - _BLOCK))
    found.update(manifest.readlines()[-1:])
    return [text for text in found if text]


def _append(path: Path, lines: Sequence[bytes]) -> None:
    """Each in one write, or not at all."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK | getattr(os, "O_BINARY", 0)
    out = os.open(path, flags, 0o666)
    try:
        for text in lines:
            written = os.write(out, text)
            if written < len(text):  # the disk is full
                os.ftruncate(out, os.fstat(out).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(out)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
