"""The callback receiver, over real sockets: whom it believes, and what it bears."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from aiohttp import ClientSession, web
from support import until

from kie_mj_async.errors import ConfigError
from kie_mj_async.receiver import CallbackCounts, Notice, Receiver
from kie_mj_async.rules.callbacks import (
    SIGNATURE,
    TIMESTAMP,
    Callback,
    new_token,
    signature,
    with_token,
)

pytestmark = pytest.mark.anyio

KEY = "webhook-key-0123456789"
NOW = 1_760_000_000.0
TOKEN = new_token(bytes(16))
OTHER_TOKEN = new_token(bytes(range(16)))


def told(task_id: str = "t1") -> bytes:
    data = {"taskId": task_id, "resultUrls": ["https://cdn.test/1.jpeg"]}
    return json.dumps({"code": 200, "msg": "success", "data": data}).encode()


def signed(task_id: str = "t1", at: float = NOW, key: str = KEY) -> dict[str, str]:
    timestamp = str(int(at))
    return {TIMESTAMP: timestamp, SIGNATURE: signature(key, task_id, timestamp)}


class Desk:
    """Who gets the callbacks."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)

    @property
    def tasks(self) -> list[str]:
        return [notice.callback.task_id for notice in self.notices]


class Post:
    """Sends callbacks to a receiver."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def __call__(
        self,
        body: bytes,
        headers: Mapping[str, str] = {},
        *,
        token: str | None = None,
        method: str = "POST",
    ) -> int:
        url = self.url if token is None else with_token(self.url, token)
        async with self._session.request(method, url, data=body, headers=headers) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def receiving(deliver: Any, **options: Any) -> AsyncIterator[tuple[Receiver, Post]]:
    """A receiver that listens, at a time of its own."""
    if "known_token" not in options:
        options.setdefault("key", KEY)
    receiver = Receiver(deliver, clock=lambda: NOW, **options)
    async with receiver.listening() as url, ClientSession() as session:
        yield receiver, Post(session, url)


async def raw(url: str, head: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """An exchange byte by byte; the answer up to the end of the connection."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode())
        for part in parts:
            writer.write(part)
            await writer.drain()
            await anyio.sleep(pause)
        return await reader.read()
    finally:
        writer.close()


def head_of(length: int, *lines: str) -> str:
    headers = [f"{name}: {value}" for name, value in signed().items()]
    lines = ("POST / HTTP/1.1", "Host: me", f"Content-Length: {length}", *headers, *lines)
    return "\n".join(lines) + "\n\n"


async def test_a_signed_callback_is_handed_on() -> None:
    """It is answered with 200, and the consumer gets what it says and who vouches for it."""
    desk = Desk()
    async with receiving(desk) as (receiver, post):
        assert await post(told(), signed()) == 200
        assert await post(told("t2"), signed("t2"), token=TOKEN) == 200
        await until(lambda: len(desk.notices) == 2)
    urls = ("https://cdn.test/1.jpeg",)
    assert desk.notices == [
        Notice(Callback("t1", 200, True, urls), signed=True),
        Notice(Callback("t2", 200, True, urls), signed=True, token=TOKEN),
    ]
    assert receiver.counts == CallbackCounts(received=2)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, "forged"),
        (signed(key="another"), "forged"),
        (signed("another"), "forged"),
        ({**signed(), SIGNATURE: "x"}, "forged"),
        ({TIMESTAMP: signed()[TIMESTAMP]}, "forged"),
        (signed(at=NOW - 301), "stale"),
        (signed(at=NOW + 301), "stale"),
    ],
)
async def test_what_the_service_did_not_sign(headers: dict[str, str], kind: str) -> None:
    """Forged and stale ones are answered with 401, counted, and reach nobody; tokens do not help."""
    desk = Desk()
    async with receiving(desk) as (receiver, post):
        assert await post(told(), headers) == 401
        assert await post(told(), headers, token=TOKEN) == 401
    assert receiver.counts == CallbackCounts(**{kind: 2})
    assert receiver.counts.refused == 2
    assert desk.notices == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_without_a_key_the_token_counts(asynchronous: bool) -> None:
    """Only an address with a known token is believed; the look-up may take a moment."""
    desk = Desk()

    def known(token: str) -> bool:
        return token == TOKEN

    async def known_later(token: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return token == TOKEN

    which = known_later if asynchronous else known
    async with receiving(desk, known_token=which) as (receiver, post):
        assert await post(told(), token=TOKEN) == 200
        assert await post(told(), token=OTHER_TOKEN) == 401
        assert await post(told(), signed()) == 401
        assert await post(b"no JSON", token=OTHER_TOKEN) == 401
        await until(lambda: desk.notices)
    assert [(one.signed, one.token) for one in desk.notices] == [(False, TOKEN)]
    assert receiver.counts == CallbackCounts(received=1, unknown=3)


async def test_duplicates_and_disorder_are_handed_on_as_they_come() -> None:
    """Nothing is remembered about tasks: whoever is told twice looks once (the poll loop)."""
    desk = Desk()
    order = ["t2", "t1", "t2", "t2", "t1"]
    async with receiving(desk) as (_, post):
        for task in order:
            assert await post(told(task), signed(task)) == 200
        await until(lambda: len(desk.notices) == len(order))
    assert desk.tasks == order


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 50_000, b"<html>"])
async def test_what_is_no_callback(body: bytes) -> None:
    """It is answered with 400 and counted."""
    async with receiving(Desk()) as (receiver, post):
        assert await post(body, signed()) == 400
    assert receiver.counts == CallbackCounts(malformed=1)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_other_methods(method: str) -> None:
    """Callbacks are POSTs."""
    async with receiving(Desk()) as (receiver, post):
        assert await post(b"", method=method) == 405
    assert receiver.counts == CallbackCounts()


async def test_other_paths() -> None:
    """Only the one path is the receiver's."""
    desk = Desk()
    async with receiving(desk, path="/hooks/kie") as (receiver, post):
        assert urlsplit(post.url).path == "/hooks/kie"
        assert await post(told(), signed()) == 200
        post.url = post.url.removesuffix("/kie")
        assert await post(told(), signed()) == 404
    assert desk.tasks == ["t1"]
    assert receiver.counts == CallbackCounts(received=1)


async def test_a_body_that_is_too_large_by_its_own_account() -> None:
    """It is answered with 413 before any of it has come."""
    async with receiving(Desk(), max_body=1000) as (receiver, post):
        answer = await raw(post.url, head_of(1001, "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        padded = told() + b" " * (1000 - len(told()))
        assert await post(padded, signed()) == 200
    assert receiver.counts == CallbackCounts(received=1, too_large=1)


async def test_a_body_that_turns_out_too_large() -> None:
    """One without a length is read up to the cap and not beyond."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 8192
            await anyio.lowlevel.checkpoint()

    async with receiving(Desk()) as (receiver, post):
        tracemalloc.start()
        try:
            with anyio.fail_after(20):
                status = 0
                try:
                    status = await post(endless(), signed())  # type: ignore[arg-type]
                except (
                    OSError
                ):  # the answer may be lost when the connection is closed on the sender
                    status = 413
            assert status == 413
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
    assert receiver.counts == CallbackCounts(too_large=1)


async def test_a_compressed_body_is_not_unpacked() -> None:
    """Some kB could become any number of MB; the service does not compress."""
    bomb = zlib.compress(b" " * 20_000_000)
    async with receiving(Desk()) as (receiver, post):
        assert await post(bomb, {**signed(), "Content-Encoding": "deflate"}) == 415
    assert receiver.counts == CallbackCounts(malformed=1)


async def test_a_body_that_does_not_come() -> None:
    """A sender that stalls is given up, and does not keep its connection."""
    async with receiving(Desk(), read_timeout=0.05) as (receiver, post):
        with anyio.fail_after(10):
            answer = await raw(post.url, head_of(100), b"{")
        assert answer.startswith(b"HTTP/1.1 408 ")
    assert receiver.counts == CallbackCounts(malformed=1)


async def test_a_sender_that_goes_away(caplog: pytest.LogCaptureFixture) -> None:
    """Half a body is no callback, and no error of ours."""
    begun: list[str] = []

    def known(token: str) -> bool:
        begun.append(token)
        return True

    async with receiving(Desk(), known_token=known) as (receiver, post):
        address = urlsplit(post.url)
        with caplog.at_level(logging.WARNING):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            head = head_of(100).replace("POST /", f"POST /?kmj={TOKEN}").replace("\n", "\r\n")
            writer.write(head.encode() + b"{")
            await writer.drain()
            await until(lambda: begun)
            writer.transport.abort()
            await until(lambda: receiver.counts.malformed)
    assert caplog.records == []
    assert receiver.counts == CallbackCounts(malformed=1)


async def test_a_slow_consumer_keeps_nobody_waiting() -> None:
    """Answers come at once; what does not fit is sent back, and the service comes again."""
    begun: list[str] = []
    go = anyio.Event()

    async def slowly(notice: Notice) -> None:
        begun.append(notice.callback.task_id)
        await go.wait()

    async with receiving(slowly, max_waiting=3) as (receiver, post):
        with anyio.fail_after(5):
            assert await post(told("t0"), signed("t0")) == 200
            await until(lambda: begun)
            answers = [await post(told(f"t{n}"), signed(f"t{n}")) for n in range(1, 6)]
        assert answers == [200, 200, 200, 503, 503]
        assert receiver.counts == CallbackCounts(received=4, full=2)
        assert receiver.counts.refused == 0
        go.set()
        await until(lambda: begun == ["t0", "t1", "t2", "t3"])
        assert await post(told("t4"), signed("t4")) == 200
    assert begun[-1] == "t4", "what was waiting is handed on before the receiver has closed"


async def test_a_consumer_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the consumer is logged, and the next callback is handed on."""
    desk = Desk()

    def fail_first(notice: Notice) -> None:
        desk(notice)
        if len(desk.notices) == 1:
            raise RuntimeError("disk full")

    async with receiving(fail_first) as (_, post):
        assert await post(told("t1"), signed("t1")) == 200
        assert await post(told("t2"), signed("t2")) == 200
        await until(lambda: len(desk.notices) == 2)
    assert "task t1: its callback's consumer failed" in caplog.text
    assert "disk full" in caplog.text


async def test_a_consumer_that_hangs_does_not_keep_it_open(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for a grace; what was not handed on is logged as a number."""
    monkeypatch.setattr("kie_mj_async.receiver.GRACE", 0.05)

    async def hang(_notice: Notice) -> None:
        await anyio.sleep_forever()

    async with receiving(hang) as (_, post):
        for task in ("t1", "t2", "t3"):
            assert await post(told(task), signed(task)) == 200
    assert "2 callbacks were not handed on in time" in caplog.text


async def test_a_hundred_at_once() -> None:
    """Concurrent callbacks are all answered and all handed on."""
    desk = Desk()
    answers: list[int] = []

    async with receiving(desk) as (_, post):

        async def send(task: str) -> None:
            answers.append(await post(told(task), signed(task)))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(send, f"t{number}")
        await until(lambda: len(desk.notices) == 100)
    assert answers == [200] * 100
    assert set(desk.tasks) == {f"t{number}" for number in range(100)}


async def test_in_an_application_of_yours() -> None:
    """Mounted beside other routes, it works as on its own and tidies up with the application."""
    handed: list[str] = []

    async def slowly(notice: Notice) -> None:
        await anyio.sleep(0.05)
        handed.append(notice.callback.task_id)

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    Receiver(slowly, key=KEY, path="/kie", clock=lambda: NOW).mount(app)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ClientSession() as session:
            assert await Post(session, url)(b"", method="GET") == 200
            assert await Post(session, f"{url}/kie")(told(), signed()) == 200
            assert await Post(session, f"{url}/kie")(told()) == 401
    finally:
        await runner.cleanup()
    assert handed == ["t1"]


async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither key nor token nor body reaches a log, whatever is refused, or a repr."""
    secret = b'{"code":200,"data":{"taskId":"t1","promptJson":"my secret prompt"}}'

    def fail(_notice: Notice) -> None:
        raise RuntimeError("oh")

    with caplog.at_level(logging.DEBUG):
        async with receiving(fail, max_body=100) as (receiver, post):
            for body in (secret, secret[:-9], secret * 2):
                for headers in (signed(), signed(at=0), signed(key="another"), {}):
                    await post(body, headers, token=TOKEN)
        async with receiving(fail, known_token=lambda one: one == TOKEN) as (_, post):
            for token in (TOKEN, OTHER_TOKEN):
                await post(secret, token=token)
                await post(secret[:-9], token=token)
    said = caplog.text + repr(receiver) + repr(Notice(Callback("t1"), signed=True, token=TOKEN))
    assert "a callback was refused" in said
    for word in (KEY, TOKEN, OTHER_TOKEN, "secret prompt", signed()[SIGNATURE]):
        assert word not in said


@pytest.mark.parametrize("key", [None, "", b""])
def test_nobody_is_believed_without_a_reason(key: str | None) -> None:
    """Without a key and without tokens anybody could send callbacks: that is refused at once."""
    with pytest.raises(ConfigError, match="KIE_WEBHOOK_KEY"):
        Receiver(Desk(), key=key)


@pytest.mark.parametrize("path", ["", "callbacks", "/a b", "/a?b", "/a#b", "/{a}", "/a\n"])
def test_a_path_that_cannot_work(path: str) -> None:
    """A path starts with a slash, and is one path."""
    with pytest.raises(ConfigError, match="path: "):
        Receiver(Desk(), key=KEY, path=path)


async def test_a_port_that_is_taken() -> None:
    """A port that another program has is an error that names it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}: "):
            async with Receiver(Desk(), key=KEY).listening("127.0.0.1", port):
                raise AssertionError
