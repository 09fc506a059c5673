"""The folders of one worker for what is under way.

No other worker uses them: two that save the same result, for one was taken for dead, must not write
into one file. A worker that leaves takes them away; what the dead have left is swept by the others.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

import anyio

from ..archive.store import Place
from ..batch import WORK_FOLDER, place_of
from ..errors import LedgerError
from ..logs import logger
from ..rules import objects
from ..waiting import in_thread
from .books import Books

log = logger(__name__)

WORKERS: Final = "workers"

ABANDONED: Final = 3600.0
"""Seconds since anything was written in it, after which a folder of no living worker is swept.

Another fleet's workers may share the directory, and its books are not ours to ask.
"""

SWEEP_EVERY: Final = 1800.0
"""Seconds between two sweeps."""


class Desk:
    """The folders of one worker.

    Args:
        work_dir: A local folder.
        out: Where results of new batches go: a directory, or the URL of an object store.
        worker: The worker's name, which no other worker ever had.
    """

    def __init__(self, work_dir: Path, out: str, worker: str) -> None:
        self._out = out
        self._worker = worker
        self._local = work_dir / WORKERS
        self._made = {self._local / worker}

    @property
    def inputs(self) -> Path:
        """Where local images are kept."""
        return self._local / self._worker / "inputs"

    async def prepare(self) -> None:
        """See that results and what is under way can be written.

        Raises:
            ConfigError: The object store's address or settings cannot be used.
            WriteFailed: They cannot.
        """
        await place_of(self._out, self._folder(self._out) / "parts").prepare()

    def place(self, out: str) -> Place:
        """The place of a batch: its folder or prefix, which lies in one that all batches share.

        Raises:
            ConfigError: The object store's address or settings cannot be used.
        """
        batch = PurePosixPath(out).name
        above = out if objects.is_store_url(out) else str(Path(out).parent)
        return place_of(out, self._folder(above) / "parts" / batch)

    def _folder(self, out: str) -> Path:
        """This worker's folder for what goes there: on the same file system as a directory."""
        folder = self._home(out) / self._worker
        self._made.add(folder)
        return folder

    def _home(self, out: str) -> Path:
        return self._local if objects.is_store_url(out) else Path(out) / WORK_FOLDER / WORKERS

    def clear(self) -> None:
        """Take it all away; not what is above, where another worker may be about to make its own."""
        for folder in self._made:
            shutil.rmtree(folder, ignore_errors=True)

    async def keep_tidy(self, books: Books) -> None:
        """Sweep after workers that have died, until cancelled."""
        homes = {self._local, self._home(self._out)}
        while True:
            try:
                rows = await books.read(lambda hand: hand.ask("standing_workers"))
            except LedgerError as error:
                log.warning("nothing is swept: %s", error)
            else:
                living = {row["name"] for row in rows}
                for home in homes:
                    await in_thread(sweep, home, living, time.time())
            await anyio.sleep(SWEEP_EVERY)


def sweep(home: Path, living: Collection[str], now: float) -> int:
    """Remove folders of workers that are gone; how many there were.

    Args:
        home: Where each worker has one.
        living: Names of workers whose folders stay.
        now: The time, in seconds since 1970.
    """
    swept = 0
    with suppress(OSError):
        for folder in home.iterdir():
            if folder.name not in living and now - _last_use(folder) > ABANDONED:
                log.warning("%s: swept; its worker is gone", folder)
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    return swept


def _last_use(folder: Path) -> float:
    newest = folder.lstat().st_mtime
    for path in folder.rglob("*"):
        with suppress(OSError):  # its worker is at it
            newest = max(newest, path.lstat().st_mtime)
    return newest
