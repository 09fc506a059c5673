"""The API over aiohttp: the only place that sends the key, and that translates foreign errors.

The end of a create, or of an upload, is a value (``wire.Reply`` or ``billing.Silence``) for
``billing.judge`` or ``uploads.judge``; every other call gives its result or raises a
:class:`~kie_mj_async.errors.KieError`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import aiohttp
import attrs
from yarl import URL

from .errors import NotSent, ReplyLost, refusal
from .events import Call, CallEnded, Event, RateLimited
from .failpoints import reach
from .logs import about, ids
from .requests import Request
from .rules import uploads, wire
from .rules.billing import Silence
from .rules.bodies import call_of
from .secret import Secret
from .sessions import CONNECT_TIMEOUT, DIRECT, Way, open_session, why_not
from .waiting import in_thread, while_awake

_MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes an API answer may have; they have about a thousand."""

_NO_WORD: Final = 16
"""Bytes from which on a key is no word that occurs by chance."""

_BLOCK: Final = 256 * 1024
"""Bytes of a file that are read at once while it is sent."""

_HELD: Final = 4 << 20
"""Bytes that the system may hold in its buffers, handed over and not yet sent."""


class _HeldBack(Exception):
    """The request may no longer be sent."""


@attrs.define
class _Trace:
    """How far a request has come.

    Attributes:
        may_send: Asked just before its first byte.
        sent: Whether that may have been written.
        held: Whether it was held back.
    """

    may_send: Callable[[], bool] = lambda: True
    sent: bool = False
    held: bool = False
    _asked_last: bool = False

    def begin(self) -> None:
        """Its headers are about to be kept for its body, or written where it has none."""
        self.sent = self._allowed()

    def write(self) -> None:
        """A block of its body is about to be written."""
        if not self._asked_last:
            self._asked_last = True
            self.sent = self._allowed()

    def _allowed(self) -> bool:
        if not self.may_send():
            self.sent, self.held = False, True
            raise _HeldBack
        return True


async def _note_sent(_session: object, context: Any, _params: object) -> None:
    # Fires just before the first write (findings: "what a POST's end tells"). Never await here.
    if isinstance(context.trace_request_ctx, _Trace):
        context.trace_request_ctx.begin()


async def _ask_once_more(_session: object, context: Any, _params: object) -> None:
    # Headers wait for the body; another task writes both, and it may have to wait its turn.
    if isinstance(context.trace_request_ctx, _Trace):
        context.trace_request_ctx.write()


async def _note_written(_session: object, _context: object, _params: object) -> None:
    # Fires just before the body is written, and the writing does not yield: it comes before this.
    asyncio.get_running_loop().call_soon(reach, "POST written")


class _Form:
    """A multipart body whose file is read from disk as it is sent.

    Args:
        path: The file.
        name: What to call it at the service.
        patience: Seconds that one block of it may take.

    Attributes:
        size: The file's bytes; known once it is open.
        watch: Runs out where the sending has stopped.
        trouble: Why the file could not be read to its end.
    """

    def __init__(self, path: Path, name: str, patience: float) -> None:
        self.size = 0
        self.watch = asyncio.timeout(None)
        self.trouble: str | None = None
        self._path = path
        self._patience = patience
        self._boundary = secrets.token_hex(16)
        self._head, self._tail = uploads.form(name, self._boundary)
        self._file: BinaryIO | None = None
        self._left = 0

    def open(self) -> None:
        """Open the file."""
        # Buffered for its lock: closing waits for a read that goes on in another thread.
        self._file = self._path.open("rb")
        self._left = self.size = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close it, if it is open."""
        if self._file is not None:
            self._file.close()

    @property
    def headers(self) -> dict[str, str]:
        """What announces it."""
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(len(self._head) + self.size + len(self._tail)),
        }

    def __aiter__(self) -> _Form:
        return self

    async def __anext__(self) -> bytes:
        # Asked for a block, aiohttp has got rid of the one before. Once it has the last one, what is
        # left to wait for is the answer, which has a limit of its own.
        if not self.watch.expired():
            until = asyncio.get_running_loop().time() + self._patience
            self.watch.reschedule(until if self._tail else None)
        if self._head:
            block, self._head = self._head, b""
        elif self._left:
            block = await in_thread(self._read)
        elif self._tail:
            block, self._tail = self._tail, b""
        else:
            raise StopAsyncIteration
        return block

    def _read(self) -> bytes:
        try:
            block = self._file.read(min(_BLOCK, self._left)) if self._file is not None else b""
        except OSError as error:
            self.trouble = error.strerror or type(error).__name__
            raise
        if not block:
            self.trouble = "it has become shorter"
            raise OSError(self.trouble)
        self._left -= len(block)
        return block


class Transport:
    """The service's calls.

    Args:
        base_url: The API host, such as ``https://api.kie.ai``.
        key: The account's key.
        upload_url: The host that takes uploads; by default the API host.
        session: A session of the caller's whose connector (its pool, CA and limits) is used for all
            calls but creates; it stays the caller's.
        request_timeout: Seconds a call may take; an upload gets more for its size.
        stall_timeout: Seconds without progress after which an upload is given up.
        tell: Who hears of the calls.
        heard: Whether anybody does.
        way: The way that they take.
    """

    def __init__(
        self,
        base_url: str,
        key: Secret,
        *,
        upload_url: str | None = None,
        session: aiohttp.ClientSession | None = None,
        request_timeout: float = 60.0,
        stall_timeout: float = 30.0,
        tell: Callable[[Event], None] = lambda _: None,
        heard: Callable[[], bool] = lambda: True,
        way: Way = DIRECT,
    ) -> None:
        self._tell = tell
        self._heard = heard
        self._way = way
        self.base_url = base_url
        self.upload_url = upload_url or base_url
        self._key = key
        self._lent = session
        self._request_timeout = request_timeout
        self._stall_timeout = stall_timeout
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=CONNECT_TIMEOUT)
        self._calls: aiohttp.ClientSession
        self._creates: aiohttp.ClientSession

    async def __aenter__(self) -> Transport:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._calls = open_session(self._lent, trace_configs=[trace])
        # A create on a stale kept-alive connection has an unknown fate, so each has its own.
        written = aiohttp.TraceConfig()
        written.on_request_chunk_sent.append(_ask_once_more)
        written.on_request_chunk_sent.append(_note_written)
        self._creates = open_session(
            self._lent, fresh_connections=True, trace_configs=[trace, written]
        )
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._creates.close()
        await self._calls.close()

    async def create(
        self, request: Request, *, may_send: Callable[[], bool] = lambda: True
    ) -> wire.Reply | Silence:
        """Send a create, once, and say how it ended.

        Args:
            request: What to ask for.
            may_send: Asked at the last moment, with the connection made; if it says no, no byte of
                the create goes out. It must not wait for anything.
        """
        call = call_of(request)
        return await self._exchange(
            "create",
            "POST",
            call.path,
            session=self._creates,
            json=call.body,
            # A reply that came while this process was frozen says what was paid: it is read.
            within=while_awake(self._request_timeout),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            trace=_Trace(may_send),
        )

    async def record(self, task_id: str) -> wire.Record:
        """What the service knows of a task.

        Raises:
            NotFound: It knows no such task.
            ApiError: It answered with an error.
            TransportError: It did not answer.
        """
        with about(task_id=task_id):
            answer = await self._exchange(
                "record-info", "GET", wire.RECORD_INFO, params={"taskId": task_id}
            )
        return wire.read_record(_answered(answer, task_id), task_id)

    async def credits(self) -> float:
        """Credits left.

        Raises:
            ApiError: The service answered with an error.
            TransportError: It did not answer.
        """
        answer = await self._exchange("credits", "GET", wire.CREDITS)
        return wire.read_credits(_answered(answer))

    async def fresh_link(self, url: str) -> str:
        """A new link to a result, valid for 20 minutes.

        Raises:
            ApiError: The service answered with an error.
            TransportError: It did not answer.
        """
        answer = await self._exchange("download-url", "POST", wire.DOWNLOAD_URL, json={"url": url})
        return wire.read_download_url(_answered(answer))

    async def upload(self, path: Path, name: str) -> wire.Reply | Silence:
        """Send a kept image, once, and say how that ended. It takes the place of one of its name.

        Args:
            path: The file.
            name: The image's name, which the service is to call it by.
        """
        form = _Form(path, name, self._stall_timeout)
        try:
            await in_thread(form.open)
            answer = await self._exchange(
                "upload",
                "POST",
                uploads.UPLOAD,
                host=self.upload_url,
                data=form,
                headers=form.headers,
                # aiohttp limits each read, but a write only by the limit of all together.
                within=form.watch,
                timeout=aiohttp.ClientTimeout(
                    total=uploads.deadline(form.size, self._request_timeout),
                    sock_connect=CONNECT_TIMEOUT,
                    # From when the last of it is handed over, which is not yet sent by then.
                    sock_read=uploads.deadline(min(form.size, _HELD), self._request_timeout),
                ),
            )
        except OSError as error:
            return Silence(sent=False, reason=f"{path} cannot be read: {refusal(error)}")
        finally:
            await in_thread(form.close)
        if form.watch.expired():
            return Silence(sent=True, reason=f"stuck: nothing moved for {self._stall_timeout:g} s")
        if form.trouble is not None and isinstance(answer, Silence):
            return Silence(sent=True, reason=f"{path} cannot be read: {form.trouble}")
        return answer

    async def _exchange(
        self,
        call: Call,
        method: str,
        path: str,
        *,
        session: aiohttp.ClientSession | None = None,
        host: str | None = None,
        within: AbstractAsyncContextManager[object] | None = None,
        trace: _Trace | None = None,
        **request: Any,
    ) -> wire.Reply | Silence:
        """Make a call, and tell of its end.

        Args:
            call: What it is for.
            method: The HTTP method.
            path: The endpoint.
            session: What to ask with; by default what is for calls that may be repeated.
            host: The host, if it is not the API's.
            within: What limits its time besides.
            trace: Notes how far it has come.
            **request: More of aiohttp's ``request``.
        """
        trace = trace or _Trace()
        url = (host or self.base_url) + path
        answer: wire.Reply | Silence | None = None
        began = time.perf_counter()
        try:
            async with within or nullcontext():
                answer = await self._ask(session or self._calls, method, url, trace, request)
        except TimeoutError as error:
            answer = Silence(sent=trace.sent, reason=self._words(error, url))
        finally:
            if self._heard():
                self._tell_of(call, method, url, time.perf_counter() - began, answer)
        return answer

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        trace: _Trace,
        request: dict[str, Any],
    ) -> wire.Reply | Silence:
        headers = request.pop("headers", {})
        try:
            address = URL(url)
            async with session.request(
                method,
                address,
                # Never in a name of its own, which a traceback with locals would show.
                headers={"Authorization": f"Bearer {self._key.reveal()}", **headers},
                # A 307 would send the body, and the key, again and elsewhere.
                allow_redirects=False,
                trace_request_ctx=trace,
                **{"timeout": self._timeout, **self._way.options(address), **request},
            ) as response:
                body = _without(self._key, await _read(response))
                asked = response.headers.get("Retry-After")
                retry_after = wire.retry_after_seconds(asked, datetime.now(UTC))
                return wire.Reply(response.status, body, retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, _HeldBack) as error:
            if trace.held:
                return Silence(sent=False, reason="it had become too late for it", held=True)
            return Silence(sent=trace.sent, reason=self._words(error, url))

    def _words(self, error: BaseException, url: str) -> str:
        """What happened, and through which proxy, for people."""
        try:
            through = self._way.told(URL(url))
        except ValueError:
            through = ""
        return through + _words(error)

    def _tell_of(
        self,
        call: Call,
        method: str,
        url: str,
        seconds: float,
        answer: wire.Reply | Silence | None,
    ) -> None:
        if not isinstance(answer, wire.Reply):
            error = "it was given up" if answer is None else answer.reason
            self._tell(CallEnded(call, ids(), seconds, method, url, error=error))
            return
        status, code = answer.status, wire.envelope_code(answer)
        trouble = None
        if code is not None and code != 200:
            trouble = f"code {code}"
        elif status >= 300:
            trouble = f"HTTP {status}"
        elif code is None:
            trouble = "not the promised JSON"
        self._tell(CallEnded(call, ids(), seconds, method, url, status, code, trouble))
        if 429 in (status, code):
            self._tell(RateLimited(call, ids(), answer.retry_after))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MAX_BODY:
            response.close()
            break
    return b"".join(parts)


def _without(key: Secret, body: bytes) -> bytes:
    """An answer without the key, if it says the key back; a short one could be anybody's word."""
    plain = key.reveal().encode()
    return body.replace(plain, b"***") if len(plain) >= _NO_WORD else body


def _answered(answer: wire.Reply | Silence, task_id: str | None = None) -> wire.Reply:
    """The reply, or the error that silence means."""
    # Raised here, away from aiohttp's own error: that one's traceback holds the headers.
    if isinstance(answer, wire.Reply):
        return answer
    kind = ReplyLost if answer.sent else NotSent
    raise kind(answer.reason, task_id=task_id)


def _words(error: BaseException) -> str:
    """What happened, for people; never more than the host and the system's words."""
    if isinstance(error, aiohttp.ClientError) and (told := why_not(error)) is not None:
        return told
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case asyncio.TimeoutError():
            return "timed out"
        case aiohttp.ClientConnectorDNSError():
            return f"the host {error.host} is unknown (DNS)"
        case aiohttp.ClientConnectorError():
            why = error.os_error.strerror or "it was closed"
            return f"cannot connect to {error.host}:{error.port} ({why})"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer came"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.ClientResponseError():
            # The message may show what came, and that may hold what was sent.
            return "not an HTTP answer"
        case aiohttp.InvalidURL():
            return "not a usable address"
        case OSError():
            return f"the connection broke ({error.strerror or type(error).__name__})"
    return f"{type(error).__name__}"
