"""A local directory that takes verified files under names of their own.

A file comes under its final name complete, or not at all: it is written beside, synced, and then
linked to the name in one step that fails if the name is taken.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from ..errors import WriteFailed, refusal
from ..failpoints import reach
from ..rules import transfer

MAX_NAMES: Final = 1000
"""Names to try for one file before giving up."""

NameOf = Callable[[str, int], str]
"""A file name from an extension and the number of the attempt, from 1."""


class PartFile(io.FileIO):
    """A file being written; counts and hashes what goes through it, in the writing thread.

    Attributes:
        size: Bytes written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "xb")
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self._tail = b""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Write all of it."""
        view = memoryview(data)
        self._digest.update(view)
        if len(self._head) < transfer.HEAD:
            self._head += view[: transfer.HEAD - len(self._head)]
        self._tail = (self._tail + bytes(view[-transfer.TAIL :]))[-transfer.TAIL :]
        left = view
        while left:
            left = left[super().write(left) :]
        self.size += len(view)
        return len(view)

    @property
    def sha256(self) -> str:
        """The digest of all that was written, in hex."""
        return self._digest.hexdigest()

    def media(self) -> transfer.Media | None:
        """What the content is."""
        return transfer.inspect(bytes(self._head), self._tail, self.size)


@attrs.frozen
class Directory:
    """Where results go.

    Attributes:
        root: Where the files come under their names.
        parts: Where they are written first; on the same file system.
    """

    root: Path
    parts: Path

    def prepare(self) -> None:
        """Make the folders, and see that they can be written.

        Raises:
            WriteFailed: They cannot.
        """
        try:
            for folder in (self.root, self.parts):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.parts / f"{secrets.token_hex(8)}.part"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise WriteFailed(f"{self.root}: cannot be written: {refusal(error)}") from None

    def sweep(self) -> None:
        """Delete what a killed run left half written; call it only while no other run can be."""
        for leftover in self.parts.glob("*.part"):
            leftover.unlink(missing_ok=True)

    def new_part(self) -> PartFile:
        """A fresh file to write to.

        Raises:
            WriteFailed: The disk refused.
        """
        try:
            return PartFile(self.parts / f"{secrets.token_hex(8)}.part")
        except OSError as error:
            raise WriteFailed(f"{self.parts}: cannot be written: {refusal(error)}") from None

    def keep(self, part: PartFile, extension: str, name_of: NameOf) -> Path:
        """Bring a finished part under its final name, durably, and return the path.

        A file of the same content that has the name already (a crash came between the name and the
        ledger) is taken as it is; any other is left alone, and the next name is tried.

        Raises:
            WriteFailed: The disk refused.
        """
        try:
            os.fsync(part.fileno())
            reach("file synced")
            part.close()
            for attempt in range(1, MAX_NAMES):
                final = self.root / name_of(extension, attempt)
                if _link(part.path, final) or _same(part, final):
                    reach("file named")
                    part.path.unlink(missing_ok=True)
                    _sync_folder(self.root)
                    return final
        except OSError as error:
            raise WriteFailed(f"{part.path}: cannot be written: {refusal(error)}") from None
        raise WriteFailed(f"{final}: this name and {MAX_NAMES} like it are taken")


def _link(part: Path, final: Path) -> bool:
    """Give the part its name unless that is taken, in one step."""
    if sys.platform == "win32":
        try:
            part.rename(final)  # fails there if the name is taken
        except FileExistsError:
            return False
        return True
    try:
        os.link(part, final)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links (exFAT, some network shares).
        if os.path.lexists(final):
            return False
        part.rename(final)
    return True


def _same(part: PartFile, final: Path) -> bool:
    try:
        if final.is_symlink() or final.stat().st_size != part.size:
            return False
        with final.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
