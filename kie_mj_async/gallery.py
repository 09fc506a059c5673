"""The page of a batch directory: the ledger's jobs, their pictures made small, and ``index.html``.

The page under its name is always a whole one. Its data lie in a folder of this build's own, which is
complete before the page that refers to it takes the old one's place; then the old folders go.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import attrs

from .archive import page
from .archive.page import Sight, Tally
from .archive.thumbnails import Look, Thumbnails
from .batch import SIMULATED_HOST, WORK_FOLDER, check_batch, folder_of, ledger_path
from .errors import WriteFailed, refusal
from .jobs import Job
from .ledger import SqliteLedger
from .ledger.base import scanned
from .ledger.lock import ProcessLock
from .waiting import in_thread

_T = TypeVar("_T")

_DATA_FOLDER: Final = "gallery"
_THUMBNAILS_FOLDER: Final = "thumbnails"
_LOCK: Final = "gallery.lock"


@attrs.frozen
class Gallery:
    """A page and what it holds.

    Attributes:
        path: Where it is.
        jobs: Jobs it lists.
        pictures: Images that jobs have.
        videos: Videos that jobs have.
        thumbnails: Thumbnails that this build made.
        host: The API host of its tasks.
        worker: The process that worked on the directory meanwhile, or ``None``.
    """

    path: Path
    jobs: int
    pictures: int
    videos: int
    thumbnails: int
    host: str
    worker: int | None


async def build_gallery(out: str | os.PathLike[str]) -> Path:
    """Make the page of a batch directory, also while a run works in it.

    The page, ``index.html``, is opened straight from disk. It holds every job that the ledger knows at
    this moment. Thumbnails need Pillow (the extra ``cli``); without it the page shows the originals.

    Args:
        out: The batch directory, or the address of the object store that its results are in; they
            are listed then, and not shown.

    Returns:
        The page's path.

    Raises:
        InvalidRequest: The directory holds no batch.
        LedgerError: Its ledger cannot be read.
        LedgerBusy: Another process is making the page now.
        WriteFailed: The disk refused.
    """
    return (await build(out)).path


async def build(out: str | os.PathLike[str]) -> Gallery:
    """Make the page of a batch directory, and tell what it holds.

    Args:
        out: The batch directory, or the address of the object store that its results are in; they
            are listed then, and not shown.

    Raises:
        InvalidRequest: The directory holds no batch.
        LedgerError: Its ledger cannot be read.
        LedgerBusy: Another process is making the page now.
        WriteFailed: The disk refused.
    """
    root = folder_of(out)
    await anyio.to_thread.run_sync(check_batch, os.fspath(out))
    ledger = await SqliteLedger.read(ledger_path(root))
    try:
        data = root / WORK_FOLDER / _DATA_FOLDER
        await _disk(root, lambda: data.mkdir(exist_ok=True))
        lock = await anyio.to_thread.run_sync(
            ProcessLock, root / WORK_FOLDER / _LOCK, root / page.NAME
        )
        try:
            return await _Build(root, data, ledger).run()
        finally:
            lock.release()
    finally:
        await ledger.aclose()


class _Build:
    """One making of the page."""

    def __init__(self, root: Path, data: Path, ledger: SqliteLedger) -> None:
        self._root = root
        self._data = data
        self._ledger = ledger
        self._name = secrets.token_hex(6)
        self._thumbnails = Thumbnails(root, root / WORK_FOLDER / _THUMBNAILS_FOLDER)
        self._tally = Tally()
        self._made = 0

    async def run(self) -> Gallery:
        worker, host = await self._ledger.worker(), await self._ledger.host()
        store = await self._ledger.store()
        folder = self._data / self._name
        await _disk(self._root, folder.mkdir)
        first: list[page.Entry] = []
        chunks = 0
        async with aclosing(scanned(self._ledger, page.JOBS_PER_CHUNK)) as pages:
            async for jobs in pages:
                entries = await self._entries(jobs, at_work=worker is not None)
                chunks += 1
                if chunks == 1:
                    first = entries
                else:
                    text = page.chunk(self._name, chunks, entries)
                    path = folder / page.chunk_name(chunks)
                    await _disk(self._root, _writing(path, text))
        title = store if store else await anyio.to_thread.run_sync(_title, self._root)
        head = page.head(
            title,
            self._tally,
            build=self._name,
            chunks=chunks,
            at=datetime.now(UTC),
            simulated=host == SIMULATED_HOST,
            at_work=worker is not None,
            store=store,
        )
        path = self._root / page.NAME
        await _disk(self._root, lambda: _replace(path, page.index(head, first)))
        await _disk(self._root, self._remove_others)
        tally = self._tally
        return Gallery(path, tally.jobs, tally.pictures, tally.videos, self._made, host, worker)

    async def _entries(self, jobs: list[Job], *, at_work: bool) -> list[page.Entry]:
        looks = await self._thumbnails.of(file for job in jobs for file in job.files)
        self._made += sum(look.made for look in looks.values())
        sights = {path: self._sight(look) for path, look in looks.items()}
        entries = []
        for job in jobs:
            entry = page.entry(job, sights, at_work=at_work)
            self._tally.add(job, entry)
            entries.append(entry)
        return entries

    def _sight(self, look: Look) -> Sight:
        thumbnail = look.thumbnail
        return Sight(
            look.there, None if thumbnail is None else thumbnail.relative_to(self._root).as_posix()
        )

    def _remove_others(self) -> None:
        for other in self._data.iterdir():
            if other.name != self._name:
                shutil.rmtree(other, ignore_errors=True)


async def _disk(root: Path, step: Callable[[], _T]) -> _T:
    """Do something with the disk, off the event loop.

    Raises:
        WriteFailed: The disk refused.
    """
    try:
        return await in_thread(step)
    except OSError as error:
        message = f"{root / page.NAME}: cannot be written: {refusal(error)}"
        raise WriteFailed(message) from None


def _title(root: Path) -> str:
    return root.resolve().name or str(root)


def _writing(path: Path, text: str) -> Callable[[], object]:
    return lambda: path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # a link would be written to wherever it leads
    try:
        _writing(beside, text)()
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
