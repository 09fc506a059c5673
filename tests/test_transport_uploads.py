"""Uploads over raw sockets: a form with a length, read as it is sent, and what its end tells."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import (
    KEY,
    answering,
    http,
    picture,
    read_request,
    serving,
)
from transport_support import kept_image, reset, speaking_to

from kie_mj_async import transport
from kie_mj_async.rules import uploads
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.wire import Reply

pytestmark = pytest.mark.anyio
STORED = http(b'{"success":true,"code":200,"data":{"downloadUrl":"http://up.test/x"}}')


@pytest.fixture
def fox(tmp_path: Path) -> Path:
    return kept_image(tmp_path)


def grown(path: Path, size: int) -> Path:
    """The file with so many bytes; it takes no disk."""
    with path.open("r+b") as file:
        file.truncate(size)
    return path


async def upload(url: str, path: Path, **options: object) -> Reply | Silence:
    async with speaking_to("http://127.0.0.1:1", upload_url=url, **options) as api:
        return await api.upload(path, path.name)


async def test_an_upload_is_a_form_with_a_length(fox: Path) -> None:
    """To the upload host: folder, name and the file's bytes, with the key in the header alone."""
    async with answering(STORED) as raw:
        end = await upload(raw.url, fox)
    assert isinstance(end, Reply)
    assert uploads.judge(end, "fox") == "http://up.test/x"
    [request] = raw.seen
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/file-stream-upload HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Transfer-Encoding" not in head
    assert f"Authorization: Bearer {KEY}".encode() in head
    boundary = head.partition(b"boundary=")[2].partition(b"\r\n")[0].decode()
    before, after = uploads.form(fox.name, boundary)
    assert body == before + picture() + after
    assert KEY.encode() not in body


async def test_without_an_upload_host_it_is_the_api_host(fox: Path) -> None:
    """One host for both, as a simulator is."""
    async with answering(STORED) as raw, speaking_to(raw.url) as api:
        assert isinstance(await api.upload(fox, fox.name), Reply)
    assert len(raw.seen) == 1


async def test_an_upload_follows_no_redirect(fox: Path) -> None:
    """Neither the key nor the image goes elsewhere."""
    async with answering(STORED) as elsewhere:
        moved = http(b"", f"Location: {elsewhere.url}/x", status="307 Temporary")
        async with answering(moved) as raw:
            end = await upload(raw.url, fox)
    assert isinstance(end, Reply)
    assert end.status == 307
    assert elsewhere.seen == []


async def test_an_upload_is_read_as_it_is_sent(fox: Path) -> None:
    """However large it is, little of it is in memory at a time."""
    size = 60 << 20
    received = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while received < length:
            received += len(await reader.read(1 << 16))
        writer.write(STORED)

    async with serving(handle) as raw:
        tracemalloc.start()
        try:
            end = await upload(raw.url, grown(fox, size))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert isinstance(end, Reply)
    assert received > size
    assert most < 8 << 20


async def test_a_slow_upload_has_its_time(fox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that takes longer than a call may, but moves, is no silence."""
    monkeypatch.setattr(uploads, "SLOWEST", 8 << 20)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        left = int(request.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        for _ in range(13):
            left -= len(await reader.readexactly(2 << 20))
            await asyncio.sleep(0.1)
        # At once, so that the answer follows what is written last.
        await reader.readexactly(left)
        writer.write(STORED)

    async with serving(handle) as raw:
        path = grown(fox, 48 << 20)
        end = await upload(raw.url, path, request_timeout=0.5, stall_timeout=5.0)
    assert isinstance(end, Reply)


async def test_an_upload_that_is_stuck_is_given_up(fox: Path) -> None:
    """A host that reads no more ends it after the stall time-out, not after the file's."""
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await hold.wait()

    async with serving(handle) as raw:
        with anyio.fail_after(10):
            end = await upload(raw.url, grown(fox, 60 << 20), stall_timeout=0.3)
        hold.set()
    assert end == Silence(sent=True, reason="stuck: nothing moved for 0.3 s")


async def test_an_answer_that_does_not_come_is_given_up(
    fox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all is written, the answer has little more than a call's time."""
    monkeypatch.setattr(uploads, "SLOWEST", 8 << 20)
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await hold.wait()

    async with serving(handle) as raw:
        with anyio.fail_after(10):
            began = asyncio.get_running_loop().time()
            path = grown(fox, 90 << 20)
            end = await upload(raw.url, path, request_timeout=0.3, stall_timeout=5.0)
            lasted = asyncio.get_running_loop().time() - began
        hold.set()
    assert end == Silence(sent=True, reason="timed out")
    assert lasted < 5  # and not the eleven seconds that its size would allow


@pytest.mark.parametrize("reads", [False, True])
async def test_an_early_answer_ends_an_upload(fox: Path, reads: bool) -> None:
    """A refusal that comes before the file was read is heard, and nothing waits for the rest."""
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b"<html>too large", status="413 Content Too Large"))
        await writer.drain()
        while reads and await reader.read(1 << 16):
            pass
        await hold.wait()

    async with serving(handle) as raw:
        with anyio.fail_after(5):
            end = await upload(raw.url, grown(fox, 60 << 20))
        hold.set()
    assert isinstance(end, Reply)
    assert end.status == 413


async def test_a_host_that_hangs_up_on_an_upload(fox: Path) -> None:
    """A connection that is cut is silence, wherever it happens; where there is none, nothing went."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        reset(writer)

    async with serving(handle) as raw:
        cut = await upload(raw.url, grown(fox, 8 << 20))
    assert isinstance(cut, Silence)
    assert cut.sent
    gone = await upload(raw.url, fox)
    assert isinstance(gone, Silence)
    assert not gone.sent
    assert "cannot connect to 127.0.0.1" in gone.reason


async def test_a_file_that_cannot_be_read_is_not_sent(fox: Path) -> None:
    """A missing file is said so, before any connection is made."""
    fox.unlink()
    async with answering(STORED) as raw:
        end = await upload(raw.url, fox)
        assert raw.connections == 0
    reason = f"{fox} cannot be read: No such file or directory"
    assert end == Silence(sent=False, reason=reason)


async def test_a_file_that_becomes_shorter_is_never_whole_there(fox: Path) -> None:
    """The host never sees the end of the form, so it keeps nothing."""
    received = b""

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received += await reader.readuntil(b"\r\n\r\n")
        grown(fox, 1 << 20)
        received += await reader.read()

    async with serving(handle) as raw:
        end = await upload(raw.url, grown(fox, 60 << 20))
    assert end == Silence(sent=True, reason=f"{fox} cannot be read: it has become shorter")
    assert not received.endswith(b"--\r\n")


async def test_a_disk_that_fails_under_an_upload(
    fox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is told as such, not as one of the connection."""
    real = transport._Form.open

    class Broken:
        def read(self, _size: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def close(self) -> None:
            """Nothing to close."""

    def opened(form: Any) -> None:
        real(form)
        form._file.close()
        form._file = Broken()

    monkeypatch.setattr(transport._Form, "open", opened)

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(handle) as raw:
        end = await upload(raw.url, fox)
    assert end == Silence(sent=True, reason=f"{fox} cannot be read: Input/output error")


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_cancelling_an_upload_closes_its_file(fox: Path, how: str) -> None:
    """Cancellation is raised at once, and nothing stays open (warnings are errors)."""
    hold = asyncio.Event()
    begun = asyncio.Event()
    scope = anyio.CancelScope()

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(300_000)
        begun.set()
        await hold.wait()

    async with serving(handle) as raw, speaking_to(raw.url) as api:
        path = grown(fox, 60 << 20)

        async def work() -> None:
            with scope:
                await api.upload(path, path.name)

        task = asyncio.create_task(work())
        await begun.wait()
        (scope.cancel if how == "scope" else task.cancel)()
        await asyncio.wait([task], timeout=5)
        hold.set()
    assert task.cancelled() is (how == "task")
    assert scope.cancelled_caught is (how == "scope")
    gc.collect()
