"""Local images: checked, and kept by content in a folder, before anything is spent on them.

A request refers to what is kept (``rules/uploads.py``), so a job stays the same, and can be resumed,
when the user's file is changed, moved or gone. Nothing here knows of the service.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from .disk import for_us_only, private_folder, sync_folder
from .errors import InvalidRequest, KieError, WriteFailed, refusal
from .fields import ImageSource
from .rules import uploads
from .rules.media import HEAD, TAIL
from .waiting import in_thread

_BLOCK: Final = 1 << 20
_AT_ONCE: Final = 4
"""Images that are taken in at a time; each has a file or two open, and a block in memory."""

_REMEMBERED: Final = 1024
"""Images that are known again without being read; lists often have the same one in each row."""

_PART: Final = ".part"
_STALE: Final = 86400.0
"""Seconds after which a part is nobody's: its process has ended."""


class Inputs:
    """A folder of images, each under the name of its content.

    Several processes may use one folder. A file under its final name is whole and verified.

    Args:
        folder: Where; made by the first image, for its user only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._known: OrderedDict[Hashable, str] = OrderedDict()
        self._swept = False

    async def take(self, source: ImageSource, *, field: str = "image") -> str:
        """Check an image and keep it. Taken in again, it is the same one; a damaged one is mended.

        Args:
            source: A file's path, or its bytes.
            field: What the request calls it.

        Returns:
            How the request refers to it.

        Raises:
            InvalidRequest: It cannot be used; the message names the field and the file, and says what
                to do.
            WriteFailed: The disk refused.
        """
        async with self._turns:
            if not self._swept:
                self._swept = True
                await in_thread(self._sweep)
            taking = _Taking(self.folder, source, field)
            try:
                mark = await in_thread(taking.open)
                name = self._known.pop(mark, None)
                if name is None:
                    while await in_thread(taking.step):
                        pass
                    name = await in_thread(taking.finish)
            finally:
                await in_thread(taking.close)
            self._known[mark] = name
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return uploads.reference(name)

    def path(self, reference: str) -> Path:
        """Where the image is kept that a request refers to.

        Raises:
            ValueError: It refers to none.
        """
        name = uploads.name_of(reference)
        if name is None:
            raise ValueError(f"{reference!r} refers to no kept image")
        return self.folder / name

    async def check(self, reference: str) -> Path:
        """Where the image is kept, once it is seen to be there unharmed.

        Raises:
            KieError: It is not; the message names the file.
            ValueError: The reference refers to no kept image.
        """
        path = self.path(reference)
        harm = await in_thread(_harm, path)
        if harm is not None:
            message = (
                f"{path}: this image was taken in and {harm}; "
                "run the batch's list again with the original, or copy that to this name"
            )
            raise KieError(message)
        return path

    def _sweep(self) -> None:
        """Delete what killed processes left."""
        for part in self.folder.glob(f"*{_PART}"):
            with suppress(OSError):
                if time.time() - part.lstat().st_mtime > _STALE:
                    part.unlink()


class _Taking:
    """One image on its way into the folder; each method is for a thread, one at a time.

    Args:
        folder: Where it goes.
        source: A file's path, or its bytes.
        field: What the request calls it.
    """

    def __init__(self, folder: Path, source: ImageSource, field: str) -> None:
        self._folder = folder
        self._source = source
        self._field = field
        self._path = "" if isinstance(source, bytes) else os.fspath(source)
        self._from: BinaryIO | None = None
        self._part: Path | None = None
        self._to: BinaryIO | None = None
        self._mark: Hashable = None
        self._digest = hashlib.sha256()
        self._head = self._tail = b""
        self._size = 0

    def open(self) -> Hashable:
        """Open it; the same answer again means the same content."""
        if isinstance(self._source, bytes):
            self._check_size(len(self._source))
            self._mark = hashlib.sha256(self._source).digest()
            self._from = io.BytesIO(self._source)
            return self._mark
        try:
            # Before it is opened: opening a device may do something, and a pipe may wait for ever.
            self._check(os.stat(self._path))  # noqa: PTH116  (Path("") would be the folder we are in)
            self._from = open(self._path, "rb", opener=_without_waiting)  # noqa: SIM115
            self._mark = self._check(os.fstat(self._from.fileno()))
        except FileNotFoundError:
            raise self._wrong("does not exist; check the path") from None
        except OSError as error:
            raise self._unreadable(error) from None
        except InvalidRequest:
            raise
        except ValueError:
            raise self._wrong("is no path that a file can have") from None
        return self._mark

    def step(self) -> bool:
        """Take in a block of it; whether there may be more."""
        assert self._from is not None  # noqa: S101 - open() comes first
        try:
            block = self._from.read(_BLOCK)
        except OSError as error:
            raise self._unreadable(error) from None
        if not block:
            return False
        self._size += len(block)
        self._check_size(self._size)
        self._digest.update(block)
        self._head += block[: HEAD - len(self._head)]
        self._tail = (self._tail + block[-TAIL:])[-TAIL:]
        try:
            if self._to is None:
                self._to = self._new_part()
            self._to.write(block)
        except OSError as error:
            raise self._unwritable(error) from None
        return True

    def finish(self) -> str:
        """Bring it under its name, unless the same is there already."""
        if not isinstance(self._source, bytes):
            assert self._from is not None  # noqa: S101 - open() comes first
            if self._check(os.fstat(self._from.fileno())) != self._mark:
                raise self._wrong("changed while it was read; try again when it is finished")
        media = uploads.picture(self._head, self._tail, self._size)
        if isinstance(media, str):
            raise self._wrong(media)
        name = self._digest.hexdigest() + media.extension
        final = self._folder / name
        if _harm(final) is None:
            return name
        assert self._part is not None  # noqa: S101 - no picture is empty
        assert self._to is not None  # noqa: S101
        try:
            self._to.flush()
            os.fsync(self._to.fileno())
            self._to.close()
            self._part.replace(final)
            sync_folder(self._folder)
        except OSError as error:
            raise self._unwritable(error) from None
        self._part = None
        return name

    def close(self) -> None:
        """Let go of it; what was not brought under its name is deleted."""
        if self._from is not None:
            self._from.close()
        with suppress(OSError):
            if self._to is not None:
                self._to.close()
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink()

    def _new_part(self) -> BinaryIO:
        private_folder(self._folder)
        part = self._folder / f"{secrets.token_hex(8)}{_PART}"
        file = open(part, "xb", opener=for_us_only)  # noqa: SIM115
        self._part = part
        return file

    def _check(self, found: os.stat_result) -> Hashable:
        """That this is a file of a size we take; what tells it from a changed one."""
        if stat.S_ISDIR(found.st_mode):
            raise self._wrong("is a folder; name one picture")
        if not stat.S_ISREG(found.st_mode):
            raise self._wrong("is a pipe or a device; use a file, or its bytes")
        self._check_size(found.st_size)
        change = (found.st_mtime_ns, found.st_ctime_ns)
        return (found.st_dev, found.st_ino, found.st_size, *change)

    def _check_size(self, size: int) -> None:
        if size > uploads.MAX_BYTES:
            raise self._wrong(uploads.too_large(size))

    def _wrong(self, words: str) -> InvalidRequest:
        if isinstance(self._source, bytes):
            verb, _, rest = words.partition(" ")
            plural = {"is": "are", "has": "have"}.get(verb, verb)
            shown = f"these bytes {plural} {rest}"
        else:
            # A name that is no Unicode could be written to no log.
            path = os.fsdecode(self._path).encode(errors="replace").decode()
            shown = f"{path}: {words}"
        return InvalidRequest(f"{self._field}: {shown}", field=self._field)

    def _unreadable(self, error: OSError) -> InvalidRequest:
        why = error.strerror or type(error).__name__
        hint = "; check its permissions" if isinstance(error, PermissionError) else ""
        return self._wrong(f"cannot be read: {why}{hint}")

    def _unwritable(self, error: OSError) -> WriteFailed:
        message = f"{self._folder}: cannot be written: {refusal(error)}"
        return WriteFailed(message, billed="no")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _harm(path: Path) -> str | None:
    """What became of a kept image; ``None`` where it is as it was."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is no file any more"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}"
    return None if found == path.stem else "has changed since"
