"""Where results go: a store of finished files, and the local folder that they are written in first.

A result is always streamed, hashed and checked in a local part file; only a complete and verified one
is handed to a store. So every store gets the same verification, and a broken transfer goes on from
the same part file whatever the store is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread
import attrs

from .parts import PartFile, Parts

MAX_NAMES: Final = 1000
"""Names to try for one file before giving up."""

NameOf = Callable[[str, int], str]
"""A file name from an extension and the number of the attempt, from 1."""


class Store(Protocol):
    """Takes verified files under names of their own; never overwrites one."""

    @property
    def root(self) -> Path | str:
        """Where its files are: a local directory, or a URL such as ``s3://bucket/prefix``."""

    async def prepare(self) -> None:
        """See that it can be written.

        Raises:
            WriteFailed: It cannot.
        """

    async def keep(self, part: PartFile, extension: str, name_of: NameOf) -> str:
        """Bring a finished part under a name, whole and durably, and discard the part file.

        A file of the same content that has the name already (a crash came between the name and the
        ledger) is taken as it is; any other is left alone, and the next name is tried. A part file
        that is not discarded, since an error was raised, is kept for another run to go on with.

        Returns:
            Its path below the root, with forward slashes.

        Raises:
            WriteFailed: The store refused.
        """

    async def publish(self, name: str, path: Path) -> None:
        """Put a local file that is made from the ledger, such as the manifest, beside the results.

        Raises:
            WriteFailed: The store refused.
        """


@attrs.frozen
class Place:
    """Where results go, and what they pass through.

    Attributes:
        store: Where they end.
        parts: Where they are written first.
    """

    store: Store
    parts: Parts

    async def prepare(self) -> None:
        """Make what is missing, and see that both can be written.

        Raises:
            WriteFailed: One cannot.
        """
        await self.store.prepare()
        await anyio.to_thread.run_sync(self.parts.prepare)
