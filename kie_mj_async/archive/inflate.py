"""Unpacks what a host has packed although it was asked not to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

_PIECE: Final = 1 << 20
_MOUTHFUL: Final = 16 << 10
"""Bytes to unpack at a time: each small member in them makes a copy of all that is behind it."""

_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_MAGIC: Final = b"\x1f\x8b"


class Inflate:
    """Unpacks ``gzip`` and ``deflate``, in pieces of bounded size, whatever they unpack to.

    Attributes:
        ended: Whether the packed data came to its own end.
        taken: Bytes that were fed. They may unpack to none, for ever: whoever feeds sets them a limit.
    """

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self.ended = False
        self.taken = 0

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """What more data unpacks to.

        Raises:
            zlib.error: It is not packed, or damaged.
        """
        self.taken += len(data)
        whole = memoryview(data)
        for start in range(0, len(whole), _MOUTHFUL):
            yield from self._feed(bytes(whole[start : start + _MOUTHFUL]))

    def _feed(self, left: bytes) -> Iterator[bytes]:
        while left:
            if self._stream.eof:
                if not _MAGIC.startswith(left[:2]):  # padding
                    return
                self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)  # another member
            yield self._stream.decompress(left, _PIECE)
            left = self._stream.unconsumed_tail or self._stream.unused_data
            self.ended = self._stream.eof
        while not self._stream.eof and (rest := self._stream.decompress(b"", _PIECE)):
            yield rest
            self.ended = self._stream.eof
