"""Files being written: counted, hashed and looked at as the bytes go through."""

from __future__ import annotations

import hashlib
import io
import secrets
from pathlib import Path

import attrs

from ..errors import WriteFailed, refusal
from ..rules import transfer


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
class Parts:
    """A folder of part files.

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
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f"{secrets.token_hex(8)}.part"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise WriteFailed(f"{self.folder}: cannot be written: {refusal(error)}") from None

    def sweep(self) -> None:
        """Delete what a killed run left half written; call it only while no other run can be."""
        for leftover in self.folder.glob("*.part"):
            leftover.unlink(missing_ok=True)

    def new(self) -> PartFile:
        """A fresh file to write to.

        Raises:
            WriteFailed: The disk refused.
        """
        try:
            return PartFile(self.folder / f"{secrets.token_hex(8)}.part")
        except OSError as error:
            raise WriteFailed(f"{self.folder}: cannot be written: {refusal(error)}") from None
