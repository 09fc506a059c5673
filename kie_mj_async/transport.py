"""The API over aiohttp: the only place that sends the key, and that translates foreign errors.

A create's end is a value (``wire.Reply`` or ``billing.Silence``) for ``billing.judge``; every other
call gives its result or raises a :class:`~kie_mj_async.errors.KieError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import aiohttp
import attrs

from .errors import NotSent, ReplyLost
from .failpoints import reach
from .requests import Request
from .rules import wire
from .rules.billing import Silence
from .sessions import CONNECT_TIMEOUT, open_session

_MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes an API answer may have; they have about a thousand."""


class Secret:
    """A key that shows itself only when asked to."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


@attrs.define
class _Trace:
    """Whether the headers of a request were about to be written."""

    sent: bool = False


async def _note_sent(_session: object, context: Any, _params: object) -> None:
    # Fires just before the first write (findings: "what a POST's end tells"). Never await here.
    if isinstance(context.trace_request_ctx, _Trace):
        context.trace_request_ctx.sent = True


async def _note_written(_session: object, _context: object, _params: object) -> None:
    # Fires just before the body is written, and the writing does not yield: it comes before this.
    asyncio.get_running_loop().call_soon(reach, "POST written")


class Transport:
    """The service's calls.

    Args:
        base_url: The API host, such as ``https://api.kie.ai``.
        key: The account's key.
        session: A session of the caller's whose connector (its pool, CA and limits) is used for all
            calls but creates; it stays the caller's.
        request_timeout: Seconds a call may take.
    """

    def __init__(
        self,
        base_url: str,
        key: Secret,
        *,
        session: aiohttp.ClientSession | None = None,
        request_timeout: float = 60.0,
    ) -> None:
        self.base_url = base_url
        self._key = key
        self._lent = session
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=CONNECT_TIMEOUT)
        self._calls: aiohttp.ClientSession
        self._creates: aiohttp.ClientSession

    async def __aenter__(self) -> Transport:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._calls = open_session(self._lent, trace_configs=[trace])
        # A create on a stale kept-alive connection has an unknown fate, so each has its own.
        written = aiohttp.TraceConfig()
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

    async def create(self, request: Request) -> wire.Reply | Silence:
        """Send a create, once, and say how it ended."""
        body = wire.create_body(request)
        return await self._exchange(self._creates, "POST", wire.GENERATE, json=body)

    async def record(self, task_id: str) -> wire.Record:
        """What the service knows of a task.

        Raises:
            NotFound: It knows no such task.
            ApiError: It answered with an error.
            TransportError: It did not answer.
        """
        answer = await self._exchange(
            self._calls, "GET", wire.RECORD_INFO, params={"taskId": task_id}
        )
        return wire.read_record(_answered(answer, task_id), task_id)

    async def credits(self) -> float:
        """Credits left.

        Raises:
            ApiError: The service answered with an error.
            TransportError: It did not answer.
        """
        answer = await self._exchange(self._calls, "GET", wire.CREDITS)
        return wire.read_credits(_answered(answer))

    async def fresh_link(self, url: str) -> str:
        """A new link to a result, valid for 20 minutes.

        Raises:
            ApiError: The service answered with an error.
            TransportError: It did not answer.
        """
        answer = await self._exchange(self._calls, "POST", wire.DOWNLOAD_URL, json={"url": url})
        return wire.read_download_url(_answered(answer))

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> wire.Reply | Silence:
        trace = _Trace()
        try:
            async with session.request(
                method,
                self.base_url + path,
                json=json,
                params=params,
                headers={"Authorization": f"Bearer {self._key.reveal()}"},
                # A 307 would send the body, and the key, again and elsewhere.
                allow_redirects=False,
                timeout=self._timeout,
                trace_request_ctx=trace,
            ) as response:
                body = await _read(response)
                asked = response.headers.get("Retry-After")
                retry_after = wire.retry_after_seconds(asked, datetime.now(UTC))
                return wire.Reply(response.status, body, retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Silence(sent=trace.sent, reason=_words(error))


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


def _answered(answer: wire.Reply | Silence, task_id: str | None = None) -> wire.Reply:
    """The reply, or the error that silence means."""
    # Raised here, away from aiohttp's own error: that one's traceback holds the headers.
    if isinstance(answer, wire.Reply):
        return answer
    kind = ReplyLost if answer.sent else NotSent
    raise kind(answer.reason, task_id=task_id)


def _words(error: BaseException) -> str:
    """What happened, for people; never more than the host and the system's words."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {CONNECT_TIMEOUT:g} s"
        case asyncio.TimeoutError():
            return "timed out"
        case aiohttp.ClientConnectorDNSError():
            return f"the host {error.host} is unknown (DNS)"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {error.host} is not trusted"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror})"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer came"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.ClientResponseError():
            return f"not an HTTP answer ({error.message})"
        case aiohttp.InvalidURL():
            return "not a usable address"
        case OSError():
            return f"the connection broke ({error.strerror or type(error).__name__})"
    return f"{type(error).__name__}"
