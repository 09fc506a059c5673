"""A forward proxy over a real socket: it opens tunnels, and can be told to refuse, hang or die."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from support import serving

from kie_mj_async.rules.proxies import Proxy, read_proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@attrs.define
class RealProxy:
    """A proxy, what it was asked, and how it misbehaves.

    Attributes:
        leads: Where names lead to: ports of this machine.
        login: The ``user:password`` that it wants.
        answer: What it says instead of opening a tunnel; empty to hang up.
        most: Bytes from the client that a tunnel carries before the proxy dies; ``None`` for all.
        hangs: Whether it is silent when it is asked.
        asked: The heads of all requests.
        carried: Bytes that came from clients into tunnels, encrypted.
    """

    leads: dict[str, int] = attrs.field(factory=dict)
    login: str | None = None
    answer: bytes | None = None
    most: int | None = None
    hangs: bool = False
    asked: list[bytes] = attrs.field(factory=list)
    carried: int = 0
    port: int = 0
    _ends: list[Callable[[], None]] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.at}"

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def value(self) -> Proxy:
        """What a client is given to use it."""
        user = f"{self.login}@" if self.login else ""
        return read_proxy(f"http://{user}{self.at}", "proxy")

    @property
    def targets(self) -> list[str]:
        """What it was asked for: ``CONNECT host:port``, or ``GET http://...``."""
        return [head.split(b" HTTP/")[0].decode() for head in self.asked]

    def die(self) -> None:
        """End all that is open, at once."""
        for end in self._ends:
            end()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if self.hangs:
            await reader.read()
            return
        if self.answer is not None:
            writer.write(self.answer)
            await writer.drain()
            return
        if self.login is not None and basic(self.login) not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        tunnel = method == "CONNECT"
        authority = target if tunnel else target.partition("://")[2].partition("/")[0]
        host, _, port = authority.partition(":")
        try:
            there = await asyncio.open_connection(
                "127.0.0.1", self.leads.get(host) or int(port or 80)
            )
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        if tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            there[1].write(head)
        self._ends += [writer.transport.abort, there[1].transport.abort]
        await self._join((reader, writer), there)

    async def _join(self, here: Streams, there: Streams) -> None:
        async def up() -> None:
            while block := await here[0].read(65536 if self.most is None else 1):
                self.carried += len(block)
                there[1].write(block)
                if self.most is not None and self.carried >= self.most:
                    break

        async def down() -> None:
            while block := await there[0].read(65536):
                here[1].write(block)

        await _first(up(), down())
        for end in (here[1], there[1]):
            end.close() if self.most is None else end.transport.abort()


async def _first(*ways: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def basic(login: str) -> bytes:
    """A login as a header has it."""
    return b"Proxy-Authorization: Basic " + base64.b64encode(login.encode())


@asynccontextmanager
async def proxying(**options: Any) -> AsyncIterator[RealProxy]:
    """A proxy."""
    made = RealProxy(**options)
    async with serving(made.handle) as raw:
        made.port = raw.port
        try:
            yield made
        finally:
            made.die()
