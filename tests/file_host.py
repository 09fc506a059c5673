"""A host of one file over a real socket, which answers as RFC 9110 says until it is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import attrs
from support import picture, read_request, serving

from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.downloader import Downloader
from kie_mj_async.archive.parts import Parts
from kie_mj_async.archive.store import Place
from kie_mj_async.jobs import SavedFile
from kie_mj_async.simulator import ranges

LONG_AGO = formatdate(1_700_000_000, usegmt=True)
"""A date that is a strong validator by now."""


def padded(size: int, shade: int = 0) -> bytes:
    """A PNG of so many bytes, of which each place has another value."""
    whole = picture(shade)
    filler = (bytes([shade]) + bytes(range(256)) * (size // 256 + 1))[: size - len(whole)]
    return whole[:-12] + filler + whole[-12:]


@attrs.define
class Asked:
    """A request.

    Attributes:
        path: Of its URL.
        headers: By lower-case name.
        raw: All of it.
    """

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@attrs.define
class Answer:
    """What the host is about to say.

    Attributes:
        status: The status line's end.
        headers: Without a length: that is made.
        body: What follows.
        cut: Bytes of the body after which the connection ends; ``None`` for none.
        length: The Content-Length; ``None`` for the body's own, ``-1`` for none at all.
        hang: Whether to be silent, instead of ending the connection, at the cut.
        pause: Seconds between single bytes of the body.
    """

    status: str
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    length: int | None = None
    hang: bool = False
    pause: float = 0.0

    def head(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"Content-Length: {length}"] if length >= 0 else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


@attrs.define
class Host:
    """The host: what it has, what it was asked, and how it is told to misbehave.

    Attributes:
        content: The file.
        etag: Its entity tag.
        modified: Its Last-Modified.
        bend: Changes an answer before it is sent; gets its number, from 0, and the request.
        asked: All requests.
        sent: Bytes of bodies.
    """

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    bend: Callable[[int, Asked, Answer], Answer | None] = lambda _n, _asked, _answer: None
    asked: list[Asked] = attrs.field(factory=list)
    sent: int = 0
    url: str = ""

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [one.range for one in self.asked]

    def answer(self, asked: Asked) -> Answer:
        headers = {"Date": formatdate(usegmt=True), "Accept-Ranges": "bytes"}
        if self.etag is not None:
            headers["ETag"] = self.etag
        if self.modified is not None:
            headers["Last-Modified"] = self.modified
        length = len(self.content)
        condition = asked.headers.get("if-range")
        etag, modified = self.etag or "none", self.modified or "none"
        try:
            part = ranges.part(asked.range, condition, etag, modified, length)
        except ranges.Unsatisfiable:
            return Answer("416 No", {"Content-Range": f"bytes */{length}"}, b"")
        if part is None:
            return Answer("200 OK", headers, self.content)
        headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{length}"
        return Answer("206 Partial Content", headers, self.content[part[0] : part[1]])

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = await read_request(reader)
        lines = raw.decode().split("\r\n")
        pairs = [line.partition(":") for line in lines[1:]]
        headers = {name.lower(): value.strip() for name, _, value in pairs if name}
        asked = Asked(lines[0].split(" ")[1], headers, raw)
        answer = self.answer(asked)
        answer = self.bend(len(self.asked), asked, answer) or answer
        self.asked.append(asked)
        body = answer.body if answer.cut is None else answer.body[: answer.cut]
        writer.write(answer.head())
        if answer.pause:
            for at in range(len(body)):
                await asyncio.sleep(answer.pause)
                writer.write(body[at : at + 1])
                await writer.drain()
        writer.write(body)
        self.sent += len(body)
        await writer.drain()
        if answer.hang:
            await reader.read()


@asynccontextmanager
async def hosting(content: bytes, **options: Any) -> AsyncIterator[Host]:
    """A host of a file."""
    host = Host(content, **options)
    async with serving(host.handle) as raw:
        host.url = f"{raw.url}/file"
        yield host


def cut_at(*cuts: int) -> Callable[[int, Asked, Answer], Answer]:
    """Break off the first answers after so many bytes, one after the other; then no more."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        return attrs.evolve(answer, cut=cuts[number] if number < len(cuts) else None)

    return bend


# --- What is fetched from it ---------------------------------------------------------------------


async def a_place(folder: Path) -> Place:
    made = Place(Directory(folder / "out"), Parts(folder / "parts"))
    await made.prepare()
    return made


@asynccontextmanager
async def downloading(**options: Any) -> AsyncIterator[Downloader]:
    given = {"first_wait": 0.0, "stall_timeout": 0.3, "api_url": "http://127.0.0.1", **options}
    async with Downloader(**given) as made:
        yield made


async def fetch(url: str, place: Place, part: str | None = None, **options: Any) -> SavedFile:
    async with downloading(**options) as made:
        return await made.fetch(url, 0, place, name, part=part)


def name(extension: str, attempt: int) -> str:
    return f"file{attempt}{extension}"


def saved(place: Place) -> bytes:
    return (Path(place.store.root) / "file1.png").read_bytes()


def left(place: Place) -> list[str]:
    return sorted(path.name for path in place.parts.folder.iterdir())


def again(number: int, answer: Answer, then: Answer) -> Answer:
    """Cut the first answer, and say something else instead of the second."""
    return attrs.evolve(answer, cut=1000) if number == 0 else then if number == 1 else answer


def head(answer: Answer, **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return attrs.evolve(answer, headers={**answer.headers, **fields})
