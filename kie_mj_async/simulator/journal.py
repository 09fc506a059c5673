"""The journal: a file of events, one JSON object a line, from which a world comes back.

A thin shell around one file. An event counts once :meth:`Journal.flush` has returned; what a
process that is killed had not flushed never happened. Writing to the operating system is enough
for that, so nothing is synced to the disk. What events mean is the world's affair.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any

import anyio
from anyio import to_thread

from .books import Event


class Journal:
    """A file of events.

    Args:
        path: The file; it and its directories are made when missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._lines: deque[bytes] = deque()
        self._lock = anyio.Lock()
        self._writing = threading.Lock()

    async def open(self) -> list[dict[str, Any]]:
        """Open the file for appending.

        Returns:
            The events it holds. A last line that was cut off is removed.

        Raises:
            ValueError: A line that is not the last cannot be read.
        """
        return await to_thread.run_sync(self._open)

    def _open(self) -> list[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        events = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                events.append(json.loads(line))
            except ValueError:
                self._file.close()
                raise ValueError(f"{self.path}, line {number}: no event of a journal") from None
        return events

    def append(self, event: Event) -> None:
        """Take an event, to be written by the next :meth:`flush`."""
        self._lines.append(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    async def flush(self) -> None:
        """Write what was taken. Calls that wait for one another share a write."""
        async with self._lock:
            # What a thread left behind has taken but not written is not kept yet either.
            if self._lines or self._writing.locked():
                await to_thread.run_sync(self._write)

    def _write(self) -> None:
        # A flush that is cancelled leaves its thread behind: the next one must not write into its
        # lines. They are taken here, so that cancelling loses none.
        with self._writing:
            if self._file is None:
                return
            view = memoryview(b"".join([self._lines.popleft() for _ in range(len(self._lines))]))
            while view:
                view = view[self._file.write(view) :]

    async def aclose(self) -> None:
        """Write what is left, and close the file."""
        with anyio.CancelScope(shield=True):
            await self.flush()
            if self._file is not None:
                await to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._writing:
            if self._file is not None:
                self._file.close()
                self._file = None
