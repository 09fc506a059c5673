"""What comes instead of a file: too short, too long, packed, a page, without an end, hardly at all."""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from file_host import (
    Answer,
    Asked,
    a_place,
    fetch,
    head,
    hosting,
    left,
    padded,
    saved,
)
from support import serving

from kie_mj_async.archive import fetching, parts
from kie_mj_async.archive.store import Place
from kie_mj_async.errors import DownloadError, IntegrityError, TooLarge

pytestmark = pytest.mark.anyio
FILE = padded(3000)
Bend = Callable[[int, Asked, Answer], Answer | None]


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return await a_place(tmp_path)


# --- What is no whole picture ---------------------------------------------------------------------


async def test_bytes_behind_the_end_are_not_believed_at_once(place: Place) -> None:
    """A file that is longer than it should be, length and all, is fetched again."""
    longer = FILE + bytes(512)
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: a if n else attrs.evolve(a, body=longer)
        await fetch(host.url, place)
    assert saved(place) == FILE


async def test_an_odd_end_is_believed_when_it_comes_again_and_again(place: Place) -> None:
    """Nothing paid is lost: a file that comes the same way each time is what the host has."""
    odd = FILE + bytes(512)
    async with hosting(odd) as host:
        await fetch(host.url, place)
    assert host.ranges == [None] * fetching.OFTEN
    assert saved(place) == odd


async def test_an_odd_end_that_is_another_each_time(place: Place) -> None:
    """Files that end in the wrong place, each in another one, are none."""
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: attrs.evolve(a, body=FILE[: 1000 + n])
        with pytest.raises(IntegrityError, match="not at its end"):
            await fetch(host.url, place)
    assert left(place) == []


async def test_more_bytes_than_announced(place: Place) -> None:
    """What comes behind the announced length is none of the file."""
    content = padded(1 << 20)
    async with hosting(content) as host:
        host.bend = lambda _n, _, a: attrs.evolve(a, body=content + b"x" * 99, length=len(content))
        await fetch(host.url, place)
    assert saved(place) == content


async def test_more_bytes_than_announced_in_one_piece(place: Place) -> None:
    """A whole answer with more behind it, all at once, is no HTTP: it is not believed."""
    async with hosting(FILE) as host:
        host.bend = lambda n, _, a: a if n else attrs.evolve(a, body=FILE + b"x" * 99, length=3000)
        await fetch(host.url, place)
    assert saved(place) == FILE
    assert left(place) == []


class Endless:
    """A host whose body has no length and no end."""

    def __init__(self, start: bytes) -> None:
        self.start = start
        self.written = 0

    async def handle(self, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + self.start)
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            self.written += 1 << 16


async def test_a_page_is_not_read_to_its_end(place: Place) -> None:
    """What does not begin as a picture is left at its beginning, however long it is."""
    page = Endless(b"<!DOCTYPE html><html>")
    async with serving(page.handle) as raw:
        with pytest.raises(IntegrityError, match="no picture"):
            await fetch(raw.url, place, attempts=1)
    assert page.written < 32 << 20
    assert left(place) == []


async def test_an_endless_body_is_cut_at_the_cap(place: Place) -> None:
    """A body without an end costs no more than the largest file."""
    endless = Endless(FILE)
    async with serving(endless.handle) as raw:
        with pytest.raises(TooLarge):
            await fetch(raw.url, place, max_bytes=3 << 20)
    assert endless.written < 32 << 20
    assert left(place) == []


async def test_an_announced_length_above_the_cap(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is announced as too large is refused before a byte of it is written."""
    monkeypatch.setattr(parts.PartFile, "write", lambda *_: pytest.fail("it was written"))
    async with hosting(FILE) as host:
        with pytest.raises(TooLarge):
            await fetch(host.url, place, max_bytes=2999)
    assert len(host.asked) == 1


async def test_a_rest_above_the_cap(place: Place) -> None:
    """A file whose length is known only with its range is refused then."""
    chunk = f"{1000:x}\r\n".encode() + FILE[:1000] + b"\r\n"

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        chunked = attrs.evolve(head(answer, Transfer_Encoding="chunked"), body=chunk, length=-1)
        return answer if number else chunked

    async with hosting(FILE, bend=bend) as host:
        with pytest.raises(TooLarge):
            await fetch(host.url, place, max_bytes=2999)
    assert host.ranges == [None, "bytes=1000-"]


# --- Packed ---------------------------------------------------------------------------------------


def packed(body: bytes, encoding: str = "gzip", **changes: Any) -> Bend:
    return lambda _n, _a, answer: attrs.evolve(
        head(answer, Content_Encoding=encoding), body=body, **changes
    )


@pytest.mark.parametrize("length", [None, -1])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
async def test_a_packed_file_is_unpacked(
    place: Place, encoding: str, pack: Callable[[bytes], bytes], length: int | None
) -> None:
    """A host that packs although it was asked not to is understood."""
    async with hosting(FILE, bend=packed(pack(FILE), encoding, length=length)) as host:
        file = await fetch(host.url, place, attempts=1)
    assert host.asked[0].headers["accept-encoding"] == "identity"
    assert saved(place) == FILE
    assert file.bytes == len(FILE)


async def test_a_packed_file_is_never_gone_on_with(place: Place) -> None:
    """A packed answer that breaks off starts over."""
    body = gzip.compress(os.urandom(5000))

    def bend(number: int, asked: Asked, answer: Answer) -> Answer | None:
        return packed(body, cut=3000)(number, asked, answer) if number == 0 else None

    async with hosting(FILE, bend=bend) as host:
        await fetch(host.url, place)
    assert host.ranges == [None, None]
    assert saved(place) == FILE


@pytest.mark.parametrize("cut", [1, 8, 9, 20, 40])
async def test_a_packed_file_that_is_cut_silently(place: Place, cut: int) -> None:
    """Without a length, the end of the packing tells that the file is not whole."""
    body = gzip.compress(FILE)[:-cut]
    async with hosting(FILE, bend=packed(body, length=-1)) as host:
        with pytest.raises(IntegrityError):
            await fetch(host.url, place, attempts=2)
    assert left(place) == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, br"])
async def test_what_cannot_be_unpacked(place: Place, encoding: str) -> None:
    """Garbage in a packing, or a packing nobody asked for, is an integrity error."""
    async with hosting(FILE, bend=packed(b"\x1f\x8bgarbage" * 9, encoding)) as host:
        with pytest.raises(IntegrityError, match="packed"):
            await fetch(host.url, place, attempts=2)
    assert len(host.asked) == 2


async def test_a_packed_file_that_is_too_large(place: Place) -> None:
    """A small body that unpacks to a large file ends at the cap."""
    bomb = gzip.compress(FILE[:-12] + bytes(64 << 20))
    async with hosting(FILE, bend=packed(bomb)) as host:
        with pytest.raises(TooLarge):
            await fetch(host.url, place, max_bytes=2 << 20)
    assert left(place) == []


async def test_a_packed_body_that_unpacks_to_nothing_ends(place: Place) -> None:
    """A host that sends empty gzip members without an end is left at the cap."""
    async with hosting(FILE, bend=packed(gzip.compress(b"") * 40_000)) as host:
        with pytest.raises(TooLarge):
            await fetch(host.url, place, max_bytes=100 << 10)
    assert left(place) == []


# --- Stalls ---------------------------------------------------------------------------------------


async def test_a_drip_is_a_stall(place: Place) -> None:
    """A byte now and then, forever, is no transfer; what has come is still gone on with."""

    def bend(number: int, _asked: Asked, answer: Answer) -> Answer:
        return answer if number else attrs.evolve(answer, pause=0.03)

    with anyio.fail_after(5):
        async with hosting(FILE, bend=bend) as host:
            await fetch(host.url, place, stall_timeout=0.2)
    assert host.ranges[0] is None
    assert (host.ranges[1] or "").startswith("bytes=")
    assert saved(place) == FILE


async def test_a_drip_of_headers_is_a_stall(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come to its body ends too."""
    monkeypatch.setattr("kie_mj_async.archive.links.CONNECT_TIMEOUT", 0.1)

    async def handle(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await anyio.sleep(0.02)

    with anyio.fail_after(5):
        async with serving(handle) as raw:
            with pytest.raises(DownloadError, match="stalled"):
                await fetch(raw.url, place, attempts=2, stall_timeout=0.1)


async def test_a_slow_disk_is_no_stall(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that take longer than the host may be silent do not count against the host."""
    real = parts.PartFile.write

    def write(self: parts.PartFile, data: bytes) -> int:
        time.sleep(0.25)
        return real(self, data)

    monkeypatch.setattr(parts.PartFile, "write", write)
    content = padded(1 << 20)
    async with hosting(content) as host:
        await fetch(host.url, place, stall_timeout=0.2)
    assert len(host.asked) == 1
    assert saved(place) == content
