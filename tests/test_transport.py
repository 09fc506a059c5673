"""What the end of a call tells, over raw sockets; and that the key is told to nobody."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import anyio
import pytest
from crash_report import crash_report
from support import (
    KEY,
    answering,
    http,
    read_request,
    server_certificate,
    serving,
    simulated,
    until,
)
from transport_support import kept_image, reset, speaking_to

from kie_mj_async import transport
from kie_mj_async.errors import (
    AuthenticationError,
    KieError,
    MalformedReply,
    NotFound,
    NotSent,
    ReplyLost,
    ServerError,
)
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import uploads
from kie_mj_async.rules.billing import Accepted, Lost, Refused, Silence, Unsent, judge
from kie_mj_async.rules.wire import Reply, Status
from kie_mj_async.secret import Secret

pytestmark = pytest.mark.anyio
FOX = TextToImage("a fox")


async def create(url: str, **options: object) -> Reply | Silence:
    async with speaking_to(url, **options) as api:
        return await api.create(FOX)


# --- What a create's end tells (findings.md, the table) ------------------------------------------


async def test_refused_is_not_sent() -> None:
    """A port where nobody listens: not sent."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        end = await create(f"http://127.0.0.1:{port}")
    assert isinstance(end, Silence)
    assert not end.sent
    assert "cannot connect to 127.0.0.1" in end.reason
    assert isinstance(judge(end), Unsent)


async def test_an_unknown_host_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve: not sent."""

    async def resolve(*_args: object, **_options: object) -> object:
        raise OSError(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", resolve)
    end = await create("http://no-such-host.invalid")
    assert end == Silence(sent=False, reason="the host no-such-host.invalid is unknown (DNS)")


async def test_an_untrusted_certificate_is_not_sent(tmp_path: Path) -> None:
    """A self-signed certificate: not sent, and nothing of the request is seen."""
    seen = b""

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += await reader.read()

    with server_certificate(tmp_path) as context:
        async with serving(handle, ssl=context) as raw:
            end = await create(f"https://127.0.0.1:{raw.port}")
    assert isinstance(end, Silence)
    assert not end.sent
    assert "certificate" in end.reason
    assert seen == b""


@pytest.mark.parametrize("rst", [False, True])
async def test_a_handshake_cut_off_is_not_sent(rst: bool) -> None:
    """A connection that ends inside the TLS handshake: not sent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(50)
        if rst:
            reset(writer)

    async with serving(handle) as raw:
        end = await create(f"https://127.0.0.1:{raw.port}")
    assert isinstance(end, Silence)
    assert not end.sent


async def test_no_connection_in_time_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that hangs is given up at the connect time-out: not sent."""
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT", 0.1)
    hold = asyncio.Event()

    async def handle(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await hold.wait()

    async with serving(handle) as raw:
        end = await create(f"https://127.0.0.1:{raw.port}")
        hold.set()
    assert end == Silence(sent=False, reason="no connection within 0.1 s")


async def test_the_total_timeout_while_connecting_is_not_sent() -> None:
    """The request's time-out before the first byte: not sent, though the error is a bare one."""
    hold = asyncio.Event()

    async def handle(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await hold.wait()

    async with serving(handle) as raw:
        end = await create(f"https://127.0.0.1:{raw.port}", request_timeout=0.2)
        hold.set()
    assert end == Silence(sent=False, reason="timed out")


async def test_the_total_timeout_while_reading_is_sent() -> None:
    """The request's time-out after the write: it may have been accepted."""
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await hold.wait()

    async with serving(handle) as raw:
        end = await create(raw.url, request_timeout=0.2)
        hold.set()
    assert end == Silence(sent=True, reason="timed out")
    assert isinstance(judge(end), Lost)


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("rst", [False, True])
async def test_a_connection_that_ends_without_a_reply_is_sent(read: bool, rst: bool) -> None:
    """FIN or RST, whether or not the server read the request: it may have been accepted."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if read:
            await read_request(reader)
        else:
            await reader.readexactly(1)
        if rst:
            reset(writer)

    async with serving(handle) as raw:
        end = await create(raw.url)
    assert isinstance(end, Silence)
    assert end.sent
    assert isinstance(judge(end), Lost)


CUT = b'{"code":200,"msg":"success","data":{"tas'


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + CUT,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n28\r\n" + CUT + b"\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + CUT,
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"",
    ],
    ids=["length", "chunked", "no length", "headers", "no HTTP", "nothing"],
)
async def test_a_cut_off_reply_is_unknown(answer: bytes) -> None:
    """However a reply is cut off, the create may have been accepted."""
    async with answering(answer) as raw:
        verdict = judge(await create(raw.url))
    assert isinstance(verdict, Lost)
    assert verdict.error.billed == "unknown"


async def test_an_accepted_create() -> None:
    """The request is the contract's, with the key in its header; the id comes back."""
    async with answering(http(b'{"code":200,"data":{"taskId":"t1"}}')) as raw:
        end = await create(raw.url)
    assert judge(end) == Accepted("t1")
    [request] = raw.seen
    assert request.startswith(b"POST /api/v1/mj/generate HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".encode() in request
    assert b"User-Agent: kie-mj-async/" in request
    assert request.endswith(b'{"taskType": "mj_txt2img", "prompt": "a fox"}')


async def test_a_create_never_reuses_a_connection() -> None:
    """Each create has a connection of its own, also with a lent session that keeps some alive."""
    answer = b'{"code":200,"data":{"taskId":"t"}}'
    kept = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(kept)

    async with serving(handle) as raw, aiohttp.ClientSession() as lent:
        for session in (None, lent):
            async with speaking_to(raw.url, session=session) as api:
                before = raw.connections
                for _ in range(3):
                    await api.create(FOX)
                assert raw.connections == before + 3
                # Polls, on the other hand, share one.
                for _ in range(3):
                    with pytest.raises(KieError):
                        await api.record("x")
                assert raw.connections == before + 4
        assert not lent.closed


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_no_redirect_is_followed(status: str) -> None:
    """A redirect never carries the create, or the key, elsewhere; its fate is unknown."""
    async with answering(b"") as elsewhere:
        moved = http(b"", f"Location: {elsewhere.url}/x", status=status)
        async with answering(moved) as raw, speaking_to(raw.url) as api:
            verdict = judge(await api.create(FOX))
            assert isinstance(verdict, Lost)
            for call in (
                api.credits,
                lambda: api.record("t"),
                lambda: api.fresh_link("http://x.y"),
            ):
                with pytest.raises(KieError):
                    await call()
            assert len(raw.seen) == 4
        assert elsewhere.seen == []


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_create_that_may_no_longer_be_sent_sends_no_byte(asked: int) -> None:
    """It is asked for with the connection made, twice; after a no the server has read nothing."""
    seen: list[bytes] = []
    answers: list[bool] = []

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read())

    def may_send() -> bool:
        answers.append(len(answers) + 1 < asked)
        return answers[-1]

    async with serving(handle) as raw, speaking_to(raw.url) as api:
        end = await api.create(FOX, may_send=may_send)
        assert raw.connections == 1
        await until(lambda: seen)
    assert seen == [b""]
    assert answers == [True] * (asked - 1) + [False]
    assert end == Silence(sent=False, reason="it had become too late for it", held=True)
    verdict = judge(end)
    assert isinstance(verdict, Unsent)
    assert verdict.held


async def test_cancelling_a_create_passes_through() -> None:
    """Cancellation is nobody's silence: it is raised."""
    hold = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await hold.wait()

    async with serving(handle) as raw, speaking_to(raw.url) as api:
        with anyio.move_on_after(0.1) as scope:
            await api.create(FOX)
        assert scope.cancelled_caught
        hold.set()


# --- Other calls ---------------------------------------------------------------------------------


async def test_the_calls() -> None:
    """Records, the balance and fresh links, as the service answers them."""
    async with simulated() as sim, speaking_to(sim.url) as api:
        end = await api.create(FOX)
        verdict = judge(end)
        assert isinstance(verdict, Accepted)
        record = await api.record(verdict.task_id)
        assert record.status is Status.GENERATING
        sim.world.finish(verdict.task_id)
        record = await api.record(verdict.task_id)
        assert record.status is Status.SUCCEEDED
        assert await api.credits() == 99_975
        fresh = await api.fresh_link(record.urls[0])
        assert fresh != record.urls[0]
        with pytest.raises(NotFound):
            await api.record("0" * 32)


async def test_silence_of_other_calls_is_an_error() -> None:
    """Without an answer a poll raises ``ReplyLost``, or ``NotSent`` where nothing was written."""
    async with answering(b"") as raw, speaking_to(raw.url) as api:
        with pytest.raises(ReplyLost) as caught:
            await api.record("t1")
        assert caught.value.task_id == "t1"
    async with speaking_to(raw.url) as api:
        with pytest.raises(NotSent):
            await api.credits()


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer larger than any of the service's is not read to its end."""
    monkeypatch.setattr(transport, "_MAX_BODY", 100_000)
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with serving(handle) as raw, speaking_to(raw.url) as api:
        with anyio.fail_after(10), pytest.raises(MalformedReply):
            await api.credits()
    assert sent < 50_000_000


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("soon", None, None),
        (None, None, None),
        ("date", 20, 30),
        ("999999", 3600, 3600),
    ],
)
async def test_retry_after(header: str | None, low: float | None, high: float | None) -> None:
    """A ``Retry-After`` is read in seconds or as a date, and is bounded."""
    if header == "date":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    extra = () if header is None else (f"Retry-After: {header}",)
    async with answering(http(b'{"code":429,"msg":"slow"}', *extra)) as raw:
        end = await create(raw.url)
    assert isinstance(end, Reply)
    assert isinstance(judge(end), Refused)
    if low is None or high is None:
        assert end.retry_after is None
    else:
        assert end.retry_after is not None
        assert low <= end.retry_after <= high


async def test_cookies_are_not_kept() -> None:
    """What the service sets as a cookie never comes back to it."""
    first = http(b'{"code":200,"data":1}', "Set-Cookie: session=1; Path=/")
    async with answering(first) as raw, speaking_to(raw.url) as api:
        await api.credits()
        await api.credits()
    assert not any(b"cookie" in request.lower() for request in raw.seen)


# --- The key -------------------------------------------------------------------------------------


async def test_the_key_is_in_no_error(tmp_path: Path) -> None:
    """No error, nor anything it drags along, holds the key; errors survive pickling."""
    fox = kept_image(tmp_path)
    errors: list[KieError] = []

    async def provoke(url: str) -> None:
        async with speaking_to(url) as api:
            for call in (api.credits(), api.record("t")):
                with pytest.raises(KieError) as caught:
                    await call
                errors.append(caught.value)
            assert KEY not in repr(judge(await api.create(FOX)))
            end = uploads.judge(await api.upload(fox, fox.name), "fox")
            assert isinstance(end, uploads.Failure)
            errors.append(end.error)

    answers = [b"", b"garbage\r\n\r\n", http(b"<html>"), http(CUT)]
    answers += [http(b'{"code":401,"msg":"no"}'), http(b'{"code":500,"msg":"boom"}')]
    for answer in answers:
        async with answering(answer) as raw:
            await provoke(raw.url)
    await provoke("http://127.0.0.1:1")
    assert {type(error) for error in errors} >= {
        AuthenticationError,
        NotSent,
        ReplyLost,
        ServerError,
    }
    for error in errors:
        assert KEY not in crash_report(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n"])
async def test_a_host_that_says_the_key_back(answer: bytes) -> None:
    """What is no HTTP is not repeated: it may hold what was sent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        told = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization"))
        writer.write(answer + told.replace(b": ", b"\x00: ") + b"\r\n\r\n")

    async with serving(handle) as raw:
        end = await create(raw.url)
    assert isinstance(end, Silence)
    assert end.sent
    assert "HTTP" in end.reason
    assert KEY not in end.reason
    assert "\n" not in end.reason


async def test_an_answer_with_the_key_in_it() -> None:
    """Some services say which key they refuse: the error does not."""
    body = json.dumps({"code": 401, "msg": f"no such key: {KEY}"}).encode()
    async with answering(http(body)) as raw, speaking_to(raw.url) as api:
        with pytest.raises(AuthenticationError, match=r"no such key: \*\*\*") as caught:
            await api.credits()
    assert KEY not in crash_report(caught.value)


async def test_the_key_is_in_no_repr() -> None:
    """Neither a secret nor what holds one shows it."""
    secret = Secret(KEY)
    async with speaking_to("http://127.0.0.1:1") as api:
        for shown in (secret, api, vars(api), [secret], {"key": secret}):
            assert KEY not in repr(shown)
            assert KEY not in str(shown)
            assert KEY not in f"{shown}"
        assert secret.reveal() == KEY
        assert KEY not in repr(api._calls.headers)
