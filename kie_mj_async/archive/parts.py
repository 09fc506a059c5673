"""Files being written: counted, hashed and looked at as the bytes go through, and taken up again.

A part file that has a name outlives the process. Its bytes count only as far as a record beside it
says (``sidecar.py``): they were synced before the record was written, and are hashed again before
anything is added to them.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from ..disk import for_us_only, private_folder
from ..errors import WriteFailed, refusal
from ..failpoints import reach
from ..logs import logger
from ..rules.media import ENOUGH, HEAD, TAIL, Media, inspect
from ..rules.transfer import Checkpoint, Source
from . import sidecar

log = logger(__name__)

CHECKPOINT: Final = 8 << 20
"""Bytes after which what was written is recorded, so that another run can go on behind it."""

WORTH: Final = 64 << 10
"""Bytes worth recording when a transfer ends early; fewer are quicker fetched again."""

MAX_AGE: Final = 15 * 86400.0
"""Seconds after which a part file is of no use: results are stored for 14 days."""

SUFFIX: Final = ".part"

_BLOCK: Final = 1 << 20

_in_use: set[Path] = set()
_turn = threading.Lock()


class PartFile(io.FileIO):
    """A file being written; counts and hashes what goes through it, in the writing thread.

    One thread at a time may use it; :meth:`close` waits for the others.

    Args:
        path: Where it is; nothing may be there yet, unless it is taken up.
        record: Where to record how far it has come; ``None`` for a file that nobody goes on with.
        taken_up: What it holds already.

    Attributes:
        size: Bytes written.
        source: What they are the beginning of; ``None`` before anybody said.
        gone: Whether it was let go of: nothing is left to do about it.
    """

    def __init__(
        self, path: Path, record: Path | None = None, *, taken_up: Checkpoint | None = None
    ) -> None:
        super().__init__(path, "xb" if taken_up is None else "rb+", opener=for_us_only)
        self.path = path
        self.size = 0
        self.source: Source | None = None
        self.gone = False
        self._record = record
        self._recorded = 0
        self._lock = threading.RLock()
        self._clear()
        if taken_up is not None:
            self._recorded = taken_up.size
            self.source = taken_up.source

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Write all of it."""
        with self._lock:
            left = view = memoryview(data)
            while left:
                left = left[super().write(left) :]
            self._count(data)
            return len(view)

    def close(self) -> None:
        """Close it, when whoever uses it has done so."""
        with self._lock:
            super().close()

    @property
    def sha256(self) -> str:
        """The digest of all that was written, in hex."""
        return self._digest.hexdigest()

    @property
    def complete(self) -> bool:
        """Whether it holds all that its source has."""
        return self.source is not None and 0 < self.size == self.source.total

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What to ask the rest of; ``None`` where there is nothing to go on with."""
        if self.source is None or not self.size or not self.resumable:
            return None
        return self.source.at(self.size, self.sha256)

    @property
    def resumable(self) -> bool:
        """Whether its host may be asked for the rest of it."""
        return self.source is not None and self.source.resumable

    @property
    def is_media(self) -> bool:
        """Whether it begins as a picture or video does."""
        return inspect(b"".join(self._head)[:ENOUGH], b"", self.size) is not None

    def media(self) -> Media | None:
        """What the content is."""
        return inspect(b"".join(self._head), self._tail, self.size)

    def start(self, source: Source | None) -> None:
        """Forget what was written: what comes now is the beginning of this."""
        with self._lock:
            if self.size:
                self._forget_record()
                self.truncate(0)
                self.seek(0)
            self._clear()
            self.source = source

    def record(self) -> None:
        """Make what was written outlast this process: synced first, and recorded then."""
        with self._lock:
            if self._record is None or self.source is None or not self.size:
                return
            if not self.closed:  # a store that has closed it has synced it
                os.fsync(self.fileno())
            sidecar.write(self._record, self.source.at(self.size, self.sha256))
            self._recorded = self.size
        reach("checkpoint stored")

    @property
    def is_due(self) -> bool:
        """Whether enough was written since the last record to make another."""
        if self._record is None or not self.resumable:
            return False
        return self.size - self._recorded >= CHECKPOINT

    def commit(self) -> None:
        """It is about to get its name: from now on nobody may go on with it.

        Its name may be a second one of the same file, which must never be written to again.
        """
        with self._lock:
            self._forget_record()

    def discard(self) -> None:
        """Close and delete it."""
        with self._lock:
            self.close()
            self._forget_record()
            _delete(self.path)
        self._let_go()

    def leave(self) -> None:
        """Close it; where another run can go on with it, see that it will."""
        kept = False
        with self._lock, suppress(OSError):
            if self._record is not None and self._is_worth_it() and self.path.exists():
                if self._recorded != self.size:
                    self.record()
                kept = True
        if not kept:
            self.discard()
            return
        self.close()
        self._let_go()

    def _let_go(self) -> None:
        self.gone = True
        if self._record is not None:
            _release(self.path)

    def _is_worth_it(self) -> bool:
        return self.size >= WORTH and (self.complete or self.resumable)

    def _forget_record(self) -> None:
        if self._record is not None and self._recorded:
            _delete(self._record)
            self._recorded = 0

    def _clear(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._head: list[bytes] = []
        self._headed = 0
        self._tail = b""

    def _count(self, data: bytes | bytearray | memoryview) -> None:
        self._digest.update(data)
        if self._headed < HEAD:
            self._head.append(data if isinstance(data, bytes) else bytes(data[:HEAD]))
            self._headed += len(data)
        self._tail = (self._tail + bytes(data[-TAIL:]))[-TAIL:]
        self.size += len(data)

    def read_up_to(self, size: int) -> None:
        """Count and hash what is there, and cut off what is more."""
        self.truncate(size)
        block = memoryview(bytearray(_BLOCK))
        while self.size < size and (got := self.readinto(block)):
            self._count(block[:got])


@attrs.frozen
class Parts:
    """A folder of part files, which one process uses at a time.

    Attributes:
        folder: Where they are; for a local store, on the same file system as its root.
    """

    folder: Path

    def prepare(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            WriteFailed: It cannot.
        """
        try:
            private_folder(self.folder)
            probe = self.folder / f"{secrets.token_hex(8)}{SUFFIX}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise WriteFailed(f"{self.folder}: cannot be written: {refusal(error)}") from None

    def sweep(self) -> None:
        """Delete what nobody can go on with; call it only while no other run can be."""
        now = time.time()
        for part in self.folder.glob(f"*{SUFFIX}"):
            record = part.with_suffix(sidecar.SUFFIX)
            young = now - part.lstat().st_mtime < MAX_AGE
            if part not in _in_use and not (young and sidecar.read(record) is not None):
                _delete(part)
                _delete(record)
        for stray in self.folder.glob(f"*{sidecar.BESIDE}"):
            _delete(stray)
        for record in self.folder.glob(f"*{sidecar.SUFFIX}"):
            if not record.with_suffix(SUFFIX).exists():
                _delete(record)

    def new(self) -> PartFile:
        """A fresh file to write to, which is nobody's when this process has ended.

        Raises:
            WriteFailed: The disk refused.
        """
        try:
            return PartFile(self.folder / f"{secrets.token_hex(8)}{SUFFIX}")
        except OSError as error:
            raise WriteFailed(f"{self.folder}: cannot be written: {refusal(error)}") from None

    def take_up(self, name: str) -> PartFile:
        """The file of this name, with what an earlier run has safely written to it.

        Whatever is wrong with that, it is a fresh file. So it is, under a name of its own, while the
        one of this name is in use.

        Args:
            name: Without a suffix.

        Raises:
            WriteFailed: The disk refused.
            ValueError: It is no name within the folder.
        """
        if not name or name != Path(name).name:
            raise ValueError(f"{name!r} is no name for a part file")
        path = self.folder / f"{name}{SUFFIX}"
        with _turn:
            if path in _in_use:
                log.info("%s is in use: what comes now cannot be resumed", path)
                return self.new()
            _in_use.add(path)
        try:
            record = path.with_suffix(sidecar.SUFFIX)
            try:
                part = PartFile(path, record)
                _delete(record)  # of a part that somebody removed
            except FileExistsError:
                part = _resumed(path, record) or _anew(path, record)
        except OSError as error:
            _release(path)
            raise WriteFailed(f"{self.folder}: cannot be written: {refusal(error)}") from None
        return part


def _resumed(path: Path, record: Path) -> PartFile | None:
    """The file with what its record says, if it has that."""
    checkpoint = sidecar.read(record)
    if checkpoint is None:
        log.info("%s: no record beside it that can be read; starting over", path)
        return None
    try:
        found = path.lstat()
        # A second name is a finished file's: it must not be touched.
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_nlink != 1
            or found.st_size < checkpoint.size
        ):
            log.info("%s: it is not what its record says; starting over", path)
            return None
        part = PartFile(path, record, taken_up=checkpoint)
    except OSError as error:
        log.info("%s: it cannot be read (%s); starting over", path, refusal(error))
        return None
    try:
        part.read_up_to(checkpoint.size)
    except OSError as error:
        log.info("%s: it cannot be read (%s); starting over", path, refusal(error))
    else:
        if (part.size, part.sha256) == (checkpoint.size, checkpoint.sha256):
            log.info("%s: going on behind %s bytes", path, f"{part.size:,}")
            return part
        log.info("%s: its content is not what was recorded; starting over", path)
    part.close()
    return None


def _anew(path: Path, record: Path) -> PartFile:
    record.unlink(missing_ok=True)
    path.unlink()
    return PartFile(path, record)


def _release(path: Path) -> None:
    with _turn:
        _in_use.discard(path)


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
