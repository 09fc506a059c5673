"""A local directory that takes verified files under names of their own.

A file comes under its final name complete, or not at all: it is written beside, synced, and then
linked to the name in one step that fails if the name is taken.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import attrs

from ..disk import sync_folder, usual_mode
from ..errors import WriteFailed, refusal
from ..failpoints import reach
from ..waiting import in_thread
from .parts import PartFile
from .store import MAX_NAMES, NameOf


@attrs.frozen
class Directory:
    """A local directory: the store that needs nothing but a disk.

    Attributes:
        root: Where the files come under their names.
    """

    root: Path

    async def prepare(self) -> None:
        """Make it.

        Raises:
            WriteFailed: It cannot be made.
        """
        await in_thread(self._prepare)

    async def keep(self, part: PartFile, extension: str, name_of: NameOf) -> str:
        """Bring a finished part under its final name, durably (see ``Store.keep``).

        Raises:
            WriteFailed: The disk refused.
        """
        return await in_thread(self._keep, part, extension, name_of)

    async def publish(self, name: str, path: Path) -> None:
        """Nothing: what is made from the ledger is made in the directory."""

    def _prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteFailed(f"{self.root}: cannot be written: {refusal(error)}") from None

    def _keep(self, part: PartFile, extension: str, name_of: NameOf) -> str:
        try:
            if sys.platform != "win32":
                with suppress(PermissionError):  # a file system without modes
                    os.fchmod(part.fileno(), usual_mode(part.path.parent))
            os.fsync(part.fileno())
            reach("file synced")
            part.commit()
            part.close()
            for attempt in range(1, MAX_NAMES):
                final = self.root / name_of(extension, attempt)
                if _link(part.path, final) or _same(part, final):
                    reach("file named")
                    part.discard()
                    sync_folder(self.root)
                    return final.relative_to(self.root).as_posix()
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
