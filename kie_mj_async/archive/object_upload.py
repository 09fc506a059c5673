"""Local files on their way into an object store: in one request, or in parts.

What is sent is hashed again as it is read, so that it is what was downloaded and verified.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from ..errors import WriteFailed
from ..waiting import in_thread
from .parts import PartFile

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

WHOLE: Final = 16 << 20
"""Files up to so many bytes go in one request; they are read into memory for it."""

CHUNK: Final = 8 << 20
"""Bytes of one part of a larger file."""

CHUNKS_AT_A_TIME: Final = 2
"""Requests of one large file at a time."""

LAST_SECONDS: Final = 5.0
"""Seconds that a cancelled upload has to take back what it has sent."""


class _Stopped(Exception):
    """The upload was cancelled."""


@attrs.frozen
class Upload:
    """A local file that is sent.

    Attributes:
        path: Where it is.
        size: Bytes of it to send, from its start.
        media_type: What it is.
        sha256: What they must be, in hex; ``None`` for whatever they are.
    """

    path: Path
    size: int
    media_type: str
    sha256: str | None = None

    @classmethod
    def of(cls, part: PartFile) -> Upload:
        """The upload of a finished part."""
        media = part.media()
        media_type = "application/octet-stream" if media is None else media.media_type
        return cls(part.path, part.size, media_type, part.sha256)

    @property
    def large(self) -> bool:
        """Whether it is too large for one request from memory."""
        return self.size > WHOLE

    @property
    def attributes(self) -> dict[str, str]:
        """What the object is labelled with."""
        told = {"Content-Type": self.media_type}
        return told if self.sha256 is None else {**told, "sha256": self.sha256}

    async def put(self, bucket: Bucket, name: str, *, create: bool) -> None:
        """Send it in one request. A large file is mapped rather than read into memory.

        Args:
            bucket: Where to.
            name: The object's name.
            create: Only if the name is free.

        Raises:
            AlreadyExistsError: obstore's; the name is taken.
            WriteFailed: The file is not what it should be.
            OSError: It cannot be read.
        """
        import obstore

        data: Any = await in_thread(self._read)
        await obstore.put_async(
            bucket,
            name,
            data,
            attributes=self.attributes,
            mode="create" if create else "overwrite",
            use_multipart=False,
        )

    async def stream(self, bucket: Bucket, name: str) -> None:
        """Send it in parts, in place of what has the name. When cancelled, the parts are taken back.

        Raises:
            WriteFailed: The file is not what it should be.
            OSError: It cannot be read.
        """
        import obstore

        stopped = False

        async def chunks() -> AsyncIterator[bytes]:
            digest = hashlib.sha256()
            for offset in range(0, self.size, CHUNK):
                if stopped:
                    raise _Stopped
                yield await in_thread(self._read_chunk, offset, digest)
            self._check(digest.hexdigest())

        put = asyncio.ensure_future(
            obstore.put_async(
                bucket,
                name,
                chunks(),
                attributes=self.attributes,
                use_multipart=True,
                chunk_size=CHUNK,
                max_concurrency=CHUNKS_AT_A_TIME,
            )
        )
        try:
            await asyncio.wait([put])
        except asyncio.CancelledError:
            # obstore takes the parts back when its source fails, but not when it is cancelled.
            stopped = True
            with anyio.move_on_after(LAST_SECONDS, shield=True):
                await asyncio.wait([put])
            raise
        finally:
            if not put.cancel() and not put.cancelled():
                put.exception()  # looked at, so that nobody complains
        put.result()

    def _read(self) -> bytes | mmap.mmap:
        data: bytes | mmap.mmap
        with self.path.open("rb") as file:
            if self.large:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                data = file.read(self.size)
        if len(data) != self.size:
            raise self._changed()
        self._check(hashlib.sha256(data).hexdigest())
        return data

    def _read_chunk(self, offset: int, digest: Any) -> bytes:
        wanted = min(CHUNK, self.size - offset)
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(wanted)
        if len(data) != wanted:
            raise self._changed()
        digest.update(data)
        return data

    def _check(self, sha256: str) -> None:
        if self.sha256 not in (None, sha256):
            raise self._changed()

    def _changed(self) -> WriteFailed:
        return WriteFailed(
            f"{self.path}: is not what was written to it; check the disk, and resume"
        )
