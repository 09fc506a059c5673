"""The callback receiver: an aiohttp.web handler that stands alone, or in an application of yours.

It checks who sent a callback, answers at once, and hands it on. What a callback is good for is not
decided here: whoever it is handed to should ask record-info (``rules/callbacks.py`` says why).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import attrs
from aiohttp import ClientError, web

from .errors import BadSignature, ConfigError, StaleTimestamp, WebhookError
from .logs import logger
from .rules.callbacks import SIGNATURE, TIMESTAMP, WINDOW, Callback, parse, tokens_of, verify
from .secret import Secret

log = logger(__name__)

MAX_BODY: Final = 64 * 1024
"""Bytes a callback may have; they have about two thousand."""

MAX_TOKENS: Final = 2
"""Tokens of an address that count: a receiver's own, and the one of the create."""

MAX_WAITING: Final = 1024
"""Callbacks that may wait for a slow consumer."""

READ_TIMEOUT: Final = 10.0
"""Seconds that a body may take to come; the service itself gives up after 15 (kie-api.md)."""

GRACE: Final = 5.0
"""Seconds that what is waiting may take to be handed on when the receiver closes."""


@attrs.frozen
class Notice:
    """A callback that was believed.

    Attributes:
        callback: What it says: a hint.
        signed: Whether the account's webhook key vouches for the task's id; else the token does.
        token: The token in the address it came to, if any.
    """

    callback: Callback
    signed: bool
    token: str | None = attrs.field(default=None, repr=False)


@attrs.define
class CallbackCounts:
    """What a receiver was sent so far.

    Attributes:
        received: Believed, and queued for the consumer.
        forged: Not signed, or not with the account's key (401).
        stale: Signed too long ago, or in the future (401).
        unknown: Without a token that is known, where there is no key (401).
        malformed: No callback at all (400, 408 and 415).
        too_large: More bytes than allowed (413).
        full: Sent back to come again, for too many were waiting (503).
    """

    received: int = 0
    forged: int = 0
    stale: int = 0
    unknown: int = 0
    malformed: int = 0
    too_large: int = 0
    full: int = 0

    @property
    def refused(self) -> int:
        """All that were not believed."""
        return self.forged + self.stale + self.unknown + self.malformed + self.too_large


class _Refused(Exception):
    """A callback that is not taken.

    Attributes:
        status: The HTTP status to answer with.
        kind: Where it is counted.
    """

    def __init__(self, status: int, kind: str, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.kind = kind


def _is_path(text: str) -> bool:
    return text.startswith("/") and text.isprintable() and not set(text) & set(" ?#{}")


Deliver = Callable[[Notice], Awaitable[object] | object]
"""Takes one callback; a plain function, or one that returns something to await."""


class Receiver:
    """Receives the service's callbacks.

    They are believed if the account's webhook key has signed them. Without a key, the random token in
    the address they are sent to has to be a known one.

    An application of yours mounts it with :meth:`mount` (or adds its :attr:`routes`); :meth:`app` and
    :meth:`listening` are for a receiver on its own. A server that logs the addresses it is asked for
    logs the tokens in them: give it ``access_log=None``, as :meth:`listening` does.

    Args:
        deliver: Who gets the callbacks, one by one, in their order. The service does not wait for it.
        key: The account's webhook key; ``None`` where it has none.
        path: Where callbacks come to; starts with a slash. ``None`` is any path, for a receiver on its
            own behind a proxy that may change it.
        max_body: Bytes a callback may have.
        window: Seconds that a signature's timestamp may differ from the present, to either side.
        known_token: Whether a token is one that the service was given; may return something to await.
        max_waiting: Callbacks that may wait for ``deliver``; more are sent back to come again.
        read_timeout: Seconds that a body may take to come.
        clock: Seconds since 1970.

    Raises:
        ConfigError: Neither a key nor ``known_token`` is there to tell true from forged, or another
            setting cannot work.
    """

    def __init__(
        self,
        deliver: Deliver,
        *,
        key: str | bytes | None = None,
        path: str | None = "/",
        max_body: int = MAX_BODY,
        window: float = WINDOW,
        known_token: Callable[[str], bool | Awaitable[bool]] | None = None,
        max_waiting: int = MAX_WAITING,
        read_timeout: float = READ_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        secret = None if key is None else Secret.of(key)
        del key  # or a traceback with locals would show it
        if secret is not None and not secret:
            raise ConfigError("the webhook key is empty; set KIE_WEBHOOK_KEY to the account's")
        if secret is None and known_token is None:
            raise ConfigError(
                "anybody could send callbacks: set KIE_WEBHOOK_KEY to the account's webhook key, or "
                "pass known_token"
            )
        if path is not None and not _is_path(path):
            raise ConfigError(f"path: {path!r} is not allowed; use a path such as /callbacks")
        self.path = path
        self.counts = CallbackCounts()
        self._deliver = deliver
        self._key = secret
        self._max_body = max_body
        self._window = window
        self._known_token = known_token
        self._max_waiting = max_waiting
        self._read_timeout = read_timeout
        self._clock = clock
        self._waiting: deque[Notice] = deque()
        self._consumer: asyncio.Task[None] | None = None

    @property
    def routes(self) -> list[web.RouteDef]:
        """The receiver's routes, for an application of yours; :meth:`mount` tidies up as well."""
        return [web.post("/{any:.*}" if self.path is None else self.path, self.handle)]

    def mount(self, app: web.Application) -> None:
        """Make the receiver part of an application of yours, before that starts."""

        async def close(_app: web.Application) -> None:
            await self.aclose()

        app.add_routes(self.routes)
        app.on_cleanup.append(close)

    def app(self) -> web.Application:
        """An application that consists of the receiver."""
        app = web.Application()
        self.mount(app)
        return app

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Listen; gives the address to send callbacks to, as this machine sees it.

        Args:
            host: Where to listen; ``0.0.0.0`` for every interface.
            port: Where to listen; 0 takes a free one.

        Raises:
            ConfigError: The port cannot be had.
        """
        runner = web.AppRunner(
            self.app(),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=75.0,
            lingering_time=0.5,
            shutdown_timeout=GRACE,
        )
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                message = f"cannot listen at {host}:{port}: {error.strerror or error}"
                raise ConfigError(message) from None
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{runner.addresses[0][1]}{self.path or '/'}"
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    async def aclose(self) -> None:
        """Hand on what is waiting, within a grace, and stop."""
        consumer = self._consumer
        if consumer is None or consumer.done():
            return
        with anyio.CancelScope(shield=True):
            await asyncio.wait([consumer], timeout=GRACE)
            consumer.cancel()
            await asyncio.wait([consumer], timeout=GRACE)
        if self._waiting:
            log.warning("%d callbacks were not handed on in time", len(self._waiting))

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one callback."""
        try:
            self._queue(await self._believed(request))
        except _Refused as refused:
            setattr(self.counts, refused.kind, getattr(self.counts, refused.kind) + 1)
            log.info("a callback was refused: %s", refused)
            answer = web.Response(status=refused.status, text=f"{refused.status}\n")
            # Whoever sends what is not wanted does not get to keep the connection.
            answer.force_close()
            return answer
        return web.Response(text="ok\n")

    async def _believed(self, request: web.Request) -> Notice:
        """The callback, if it can be believed. What can be refused without its body is not read.

        Raises:
            _Refused: It cannot.
        """
        tokens = tokens_of(request.rel_url.raw_query_string)[-MAX_TOKENS:]
        token = tokens[-1] if tokens else None
        if self._key is None:
            if not any([await self._knows(one) for one in tokens]):
                raise _Refused(401, "unknown", "it has no token that is known")
        elif not all(name in request.headers for name in (TIMESTAMP, SIGNATURE)):
            raise _Refused(401, "forged", "it is not signed")
        body = await self._read(request)
        try:
            if self._key is None:
                return Notice(parse(body), signed=False, token=token)
            now = self._clock()
            callback = verify(body, request.headers, self._key.reveal(), now, self._window)
            return Notice(callback, signed=True, token=token)
        except BadSignature as error:
            raise _Refused(401, "forged", str(error)) from None
        except StaleTimestamp as error:
            raise _Refused(401, "stale", str(error)) from None
        except WebhookError as error:
            raise _Refused(400, "malformed", str(error)) from None

    async def _knows(self, token: str) -> bool:
        if self._known_token is None:
            return False
        answer = self._known_token(token)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def _read(self, request: web.Request) -> bytes:
        """The body, if it is not too long and comes in time.

        Raises:
            _Refused: It is, or does not.
        """
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            # Unpacked, a small body could be of any size.
            raise _Refused(415, "malformed", "its body is compressed")
        if (request.content_length or 0) > self._max_body:
            raise _Refused(413, "too_large", f"it has more than {self._max_body} bytes")
        body = bytearray()
        try:
            async with asyncio.timeout(self._read_timeout):
                async for part in request.content.iter_any():
                    body += part
                    if len(body) > self._max_body:
                        raise _Refused(413, "too_large", f"it has more than {self._max_body} bytes")
        except TimeoutError:
            raise _Refused(408, "malformed", "its body did not come in time") from None
        except (ConnectionError, ClientError, web.RequestPayloadError):
            raise _Refused(400, "malformed", "its body was cut off") from None
        return bytes(body)

    def _queue(self, notice: Notice) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise _Refused(503, "full", "too many callbacks are waiting; come again")
        self.counts.received += 1
        self._waiting.append(notice)
        if self._consumer is None or self._consumer.done():
            self._consumer = asyncio.create_task(self._hand_on(), name="kie-mj callbacks")

    async def _hand_on(self) -> None:
        """Give what is waiting to the consumer. Lives only as long as something waits."""
        while self._waiting:
            notice = self._waiting.popleft()
            try:
                result = self._deliver(notice)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("task %s: its callback's consumer failed", notice.callback.task_id)
