"""From links to verified files: byte-exact, or not under their name at all."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import math
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
from support import (
    answering,
    http,
    picture,
    read_request,
    serving,
    sim_client,
    simulated,
    until,
)

from kie_mj_async.archive import fetching as module
from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.downloader import Downloader, LinkRefused
from kie_mj_async.archive.links import MAX_REDIRECTS
from kie_mj_async.archive.parts import PartFile, Parts
from kie_mj_async.archive.store import Place
from kie_mj_async.engine.house import House
from kie_mj_async.errors import DownloadError, IntegrityError, TooLarge, WriteFailed
from kie_mj_async.jobs import SavedFile
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings

pytestmark = pytest.mark.anyio
FOX = picture(size=50)


def name(extension: str, attempt: int) -> str:
    return f"fox{'' if attempt == 1 else f'-{attempt}'}{extension}"


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    made = Place(Directory(tmp_path / "out"), Parts(tmp_path / "out" / ".parts"))
    await made.prepare()
    return made


def root(place: Place) -> Path:
    return Path(place.store.root)


def names(place: Place) -> list[str]:
    """What lies in the directory and beside it."""
    return sorted(path.name for path in [*root(place).iterdir(), *place.parts.folder.iterdir()])


@asynccontextmanager
async def downloading(**options: Any) -> AsyncIterator[Downloader]:
    settings = {"first_wait": 0.001, "stall_timeout": 0.3, "api_url": "http://[::1]", **options}
    async with Downloader(**settings) as made:
        yield made


async def fetch(url: str, place: Place, **options: Any) -> SavedFile:
    async with downloading(**options) as made:
        return await made.fetch(url, 3, place, name)


def chunked(body: bytes, *, whole: bool = True) -> bytes:
    end = b"0\r\n\r\n" if whole else b""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n" + end


def unannounced(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


def redirect(url: str) -> bytes:
    return http(b"", f"Location: {url}", status="302 Found")


@pytest.mark.parametrize(
    "answer",
    [http(FOX), chunked(FOX), unannounced(FOX), http(gzip.compress(FOX), "Content-Encoding: gzip")],
    ids=["length", "chunked", "no length", "gzip"],
)
async def test_a_file_is_saved_byte_by_byte(place: Place, answer: bytes) -> None:
    """However a whole file is sent, it lies under its name with the facts of its content."""
    async with answering(answer) as raw:
        file = await fetch(raw.url + "/fox?sign=1", place)
    assert (root(place) / "fox.png").read_bytes() == FOX
    assert file.path == "fox.png"
    assert file.url == raw.url + "/fox?sign=1"
    assert file.sha256 == hashlib.sha256(FOX).hexdigest()
    assert (file.index, file.bytes, file.media_type) == (3, len(FOX), "image/png")
    assert (file.width, file.height) == (50, 50)
    assert names(place) == [".parts", "fox.png"]


async def test_a_large_file_comes_in_pieces(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than what is gathered in memory is written piece by piece, in order."""
    monkeypatch.setattr(module, "GATHER", 4096)
    body = FOX[:-12] + os.urandom(300_000) + FOX[-12:]
    async with answering(http(body)) as raw:
        file = await fetch(raw.url, place)
    assert (root(place) / "fox.png").read_bytes() == body
    assert file.bytes == len(body)


HALF = FOX[: len(FOX) // 2]
BAD = {
    "cut, with a length": http(FOX).replace(FOX, HALF),
    "cut, chunked": chunked(HALF, whole=False),
    "cut, without a length": unannounced(HALF),
    "cut, properly ended": chunked(HALF),
    "html": http(b"<html>Welcome</html>"),
    "empty": http(b""),
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "503": http(b"busy", status="503 Busy"),
    "429": http(b"slow", status="429 Slow"),
    "500": http(b"boom", status="500 Boom"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_answer_is_tried_again(place: Place, bad: bytes) -> None:
    """What is cut off, empty or no picture never gets the name; the next attempt does."""
    async with answering(bad, bad, http(FOX)) as raw:
        await fetch(raw.url, place)
        assert len(raw.seen) == 3
    assert (root(place) / "fox.png").read_bytes() == FOX
    assert names(place) == [".parts", "fox.png"]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_attempts_are_bounded(place: Place, bad: bytes) -> None:
    """An answer that stays bad is an error after so many attempts, and nothing is left of it."""
    async with answering(bad) as raw:
        with pytest.raises(DownloadError) as caught:
            await fetch(raw.url, place, attempts=3)
        # aiohttp itself repeats a GET once when the connection closes without a word.
        assert len(raw.seen) == 3 * (1 if bad else 2)
    assert not isinstance(caught.value, LinkRefused)
    assert caught.value.url == raw.url
    assert names(place) == [".parts"]


@pytest.mark.parametrize("answer", [unannounced(HALF), chunked(HALF), http(b"<html>"), http(b"")])
async def test_what_is_not_the_file_is_an_integrity_error(place: Place, answer: bytes) -> None:
    """Half a file and no file at all are told apart from a host that does not deliver."""
    async with answering(answer) as raw:
        with pytest.raises(IntegrityError):
            await fetch(raw.url, place, attempts=1)


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "410 Gone", "401 No"])
async def test_a_refused_link(place: Place, status: str) -> None:
    """A link that is refused is not tried again: a fresh one may work."""
    async with answering(http(b"", status=status)) as raw:
        with pytest.raises(LinkRefused):
            await fetch(raw.url, place)
        assert len(raw.seen) == 1
    assert names(place) == [".parts"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "ftp://127.0.0.1/x", "http://"])
async def test_a_host_that_is_gone(place: Place, url: str) -> None:
    """A link to where nobody answers asks for a fresh link."""
    with pytest.raises(LinkRefused):
        await fetch(url, place)


async def test_redirects_are_followed(place: Place) -> None:
    """A link may lead elsewhere."""
    async with answering(http(FOX)) as there, answering(redirect(there.url)) as here:
        await fetch(here.url, place)
    assert (root(place) / "fox.png").read_bytes() == FOX


async def test_redirects_are_bounded(place: Place) -> None:
    """A link that leads round and round is refused after a few steps."""
    async with answering(redirect("/again")) as raw:
        with pytest.raises(LinkRefused, match="redirects"):
            await fetch(raw.url, place)
        assert len(raw.seen) <= MAX_REDIRECTS + 1


async def test_a_stall_is_given_up(place: Place) -> None:
    """A transfer without a byte for the stall time-out counts as failed."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(FOX)[:-100])
        await reader.read()

    async with serving(handle) as raw:
        with anyio.fail_after(5), pytest.raises(DownloadError, match="stalled"):
            await fetch(raw.url, place, attempts=2, stall_timeout=0.1)
        assert raw.connections == 2
    assert names(place) == [".parts"]


@pytest.mark.parametrize("answer", [http(FOX), chunked(FOX)])
async def test_a_file_that_is_too_large(place: Place, answer: bytes) -> None:
    """A file beyond the limit is refused at once, announced or not."""
    async with answering(answer) as raw:
        with pytest.raises(TooLarge):
            await fetch(raw.url, place, max_bytes=len(FOX) - 1)
        assert len(raw.seen) == 1
        await fetch(raw.url, place, max_bytes=len(FOX))
    assert names(place) == [".parts", "fox.png"]


async def test_a_users_file_stays(place: Place) -> None:
    """A file under the name is not overwritten, and the same content is not saved twice."""
    (root(place) / "fox.png").write_bytes(b"mine")
    async with answering(http(FOX)) as raw:
        assert (await fetch(raw.url, place)).path == "fox-2.png"
        assert (await fetch(raw.url, place)).path == "fox-2.png"
    assert (root(place) / "fox.png").read_bytes() == b"mine"
    assert names(place) == [".parts", "fox-2.png", "fox.png"]


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Where nothing can be written the error says so, and nothing is asked for."""
    (tmp_path / "file").write_text("")
    blocked = Place(Directory(tmp_path / "file"), Parts(tmp_path / "file"))
    async with answering(http(FOX)) as raw:
        with pytest.raises(WriteFailed, match="Not a directory"):
            await fetch(raw.url, blocked)
        assert raw.seen == []


async def test_a_disk_that_is_full(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up half way is a ``WriteFailed``, and leaves nothing behind."""

    def write(_self: PartFile, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartFile, "write", write)
    async with answering(http(FOX)) as raw:
        with pytest.raises(WriteFailed, match="No space left") as caught:
            await fetch(raw.url, place)
        assert len(raw.seen) == 1
    assert caught.value.url == raw.url
    assert names(place) == [".parts"]


async def drop_by_drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the fox, a little at a time, so that anything may happen in between."""
    await read_request(reader)
    answer = http(FOX)
    for at in range(0, len(answer), 40):
        writer.write(answer[at : at + 40])
        await asyncio.sleep(0.001)


async def test_cancelled_anywhere_no_half_file_stays(place: Place) -> None:
    """Cancelled at any moment, there is the whole file or none, and nothing beside it."""
    finished = 0
    async with serving(drop_by_drop) as raw, downloading() as made:
        for step in range(40):
            with anyio.move_on_after(step * 0.001):
                await made.fetch(raw.url, 0, place, name)
            found = names(place)
            assert found in ([".parts"], [".parts", "fox.png"])
            if len(found) == 2:
                finished += 1
                assert (root(place) / "fox.png").read_bytes() == FOX
                (root(place) / "fox.png").unlink()
    assert finished < 40


async def test_cancelled_while_writing_the_file_is_closed_last(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled download does not close its file under a write that is still going on."""
    real = PartFile.write
    inside, release, ends = threading.Event(), threading.Event(), []

    def write(self: PartFile, data: Any) -> int:
        inside.set()
        release.wait(5)
        ends.append(self.closed)
        return real(self, data)

    monkeypatch.setattr(PartFile, "write", write)
    async with (
        answering(http(FOX)) as raw,
        downloading() as made,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(made.fetch, raw.url, 0, place, name)
        await anyio.to_thread.run_sync(inside.wait, 5)
        tasks.cancel_scope.cancel()
        threading.Timer(0.1, release.set).start()
    assert ends == [False]
    assert names(place) == [".parts"]


async def test_so_many_at_a_time(place: Place) -> None:
    """No more files than allowed are fetched at once."""
    most, now = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        await read_request(reader)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        writer.write(http(FOX))

    async with (
        serving(handle) as raw,
        downloading(concurrency=3) as made,
        anyio.create_task_group() as tasks,
    ):
        for number in range(12):

            def named(extension: str, _attempt: int, number: int = number) -> str:
                return f"{number}{extension}"

            tasks.start_soon(made.fetch, raw.url, number, place, named)
    assert most == 3
    assert len(names(place)) == 13


async def test_a_place_is_not_held_while_waiting(place: Place) -> None:
    """A file that waits for its next attempt lets another one go on."""
    answers = {"/bad": http(b"", status="503 Busy"), "/good": http(FOX)}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        writer.write(answers[request.split(b" ")[1].decode()])

    async with (
        serving(handle) as raw,
        downloading(concurrency=1, first_wait=30.0) as made,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(made.fetch, f"{raw.url}/bad", 0, place, name)
        await until(lambda: raw.connections)
        with anyio.fail_after(5):
            await made.fetch(f"{raw.url}/good", 0, place, name)
        tasks.cancel_scope.cancel()
    assert names(place) == [".parts", "fox.png"]


async def test_the_soonest_expiry_goes_first(place: Place) -> None:
    """Of the files that wait for a place, the one that is gone first is fetched first."""
    asked: list[str] = []
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        asked.append(request.split(b" ")[1].decode()[1:])
        await release.wait()
        writer.write(http(FOX))

    expiries = {"a": math.inf, "b": 300.0, "c": 100.0, "d": math.inf, "e": 200.0}
    async with (
        serving(handle) as raw,
        downloading(concurrency=1, stall_timeout=5.0) as made,
        anyio.create_task_group() as tasks,
    ):

        async def get(path: str, expiry: float) -> None:
            await made.fetch(f"{raw.url}/{path}", 0, place, name, urgency=expiry)

        for path, expiry in expiries.items():
            tasks.start_soon(get, path, expiry)
            await until(lambda: asked)
        release.set()
    assert asked == ["a", "c", "e", "b", "d"]


@pytest.mark.parametrize("lent", [False, True])
async def test_links_into_private_networks(place: Place, lent: bool) -> None:
    """Refused where the API host is on the internet, whoever's connector is used."""
    async with answering(http(FOX)) as raw, aiohttp.ClientSession() as session:
        options = {"session": session if lent else None}
        with pytest.raises(LinkRefused, match="private network"):
            await fetch(raw.url, place, api_url=None, **options)
        assert raw.connections == 0
        await fetch(raw.url, place, **options)
    assert names(place) == [".parts", "fox.png"]


async def test_a_client_tells_where_its_api_host_is() -> None:
    """Whether links into private networks are refused depends on the client's own API host."""
    settings = Settings(key=Secret("sk-secret"), base_url="https://api.test", host="api.test")
    assert House(settings)._downloader._api_url == "https://api.test"


async def test_cancelled_by_its_task_nothing_stays_open(place: Place) -> None:
    """Cancelled natively, at any moment, there is the whole file or none, and no file left open."""
    async with serving(drop_by_drop) as raw, downloading() as made:
        for step in range(20):
            task = asyncio.create_task(made.fetch(raw.url, 0, place, name, part="fox-0"))
            await asyncio.sleep(step * 0.001)
            task.cancel()
            await asyncio.wait([task])
            assert names(place) in ([".parts"], [".parts", "fox.png"])
            (root(place) / "fox.png").unlink(missing_ok=True)


async def test_the_result_host_learns_nothing(place: Place) -> None:
    """A download carries no key, no cookie and no header of a lent session."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as lent:
        async with answering(http(FOX)) as raw:
            await fetch(raw.url, place, session=lent)
            await fetch(raw.url, place)
        assert not lent.closed
    for request in raw.seen:
        assert b"authorization" not in request.lower()
        assert b"cookie" not in request.lower()


async def test_the_simulators_books_know_of_no_key_with_a_download(tmp_path: Path) -> None:
    """Over a whole client, only the API's own paths were sent the key."""
    async with simulated("download.redirect=50%") as sim, sim_client(sim) as client:
        await (await client.generate("a fox")).save(tmp_path)
        keys = sim.books()["keys"]
    with_key = {key["prefix"] for key in keys if key["authorization"]}
    assert with_key
    assert all(prefix.startswith("/api/") for prefix in with_key)
    assert {"/m", "/elsewhere"} <= {key["prefix"] for key in keys}
