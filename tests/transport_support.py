"""What tests of the API calls share: a transport, and what is sent with it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support import KEY, picture

from kie_mj_async.secret import Secret
from kie_mj_async.transport import Transport


@asynccontextmanager
async def speaking_to(url: str, **options: object) -> AsyncIterator[Transport]:
    """The calls of an API host."""
    async with Transport(url, Secret(KEY), **options) as made:  # type: ignore[arg-type]
        yield made


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def kept_image(folder: Path) -> Path:
    """A kept image."""
    path = folder / f"{'0a' * 32}.png"
    path.write_bytes(picture())
    return path
