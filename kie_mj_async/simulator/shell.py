"""What the handlers share: the service's parts, and the ugly ways in which an answer can end.

A thin layer over aiohttp. It decides nothing; see ``world.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import attrs
from aiohttp import web

from . import answers, chance
from .journal import Journal
from .media import Media
from .shelf import Shelf
from .uploads import LIMIT
from .world import World

STALL: Final = 600.0
"""Seconds of wall time after which even a stalled connection is closed."""

SLOW: Final = 3.0
"""Unscaled seconds that a slow answer takes longer."""

ELSEWHERE: Final = "/elsewhere"
"""Where redirects lead: the same paths again, under this prefix."""


async def _nobody(_task_id: str) -> None:
    """No one sends callbacks."""


@attrs.define
class Service:
    """What a running simulator consists of.

    Args:
        world: The account and its tasks.
        media: The results' bytes.
        journal: Where events are kept, or ``None``.
        api_key: The one key that works; ``None`` for any that is not empty.
        create_latency: Unscaled seconds that a create takes to answer.
        clock: Seconds since the epoch.
        closing: Set when the simulator ends.
        shelf: Where the bytes of uploads lie.
        reported: Waits until the callback of a task was sent once.
    """

    world: World
    media: Media
    journal: Journal | None = None
    api_key: str | None = None
    create_latency: float = 0.0
    clock: Callable[[], float] = time.time
    closing: anyio.Event = attrs.field(factory=anyio.Event)
    shelf: Shelf = attrs.field(factory=lambda: Shelf(None, LIMIT))
    reported: Callable[[str], Awaitable[None]] = attrs.field(default=_nobody)

    def has_key(self, request: web.Request) -> bool:
        """Whether a request carries a key that works."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return False
        return self.api_key is None or key.strip() == self.api_key

    async def commit(self) -> None:
        """Have every event so far survive the end of the process; goes before any answer."""
        if self.journal is not None:
            await self.journal.flush()

    async def create_delay(self, number: int) -> None:
        """Take the time that answering a create takes."""
        jitter = 0.75 + 0.5 * chance.unit(self.world.seed, "latency", number)
        if self.create_latency > 0:
            await self.pause(self.create_latency * jitter)

    async def pause(self, seconds: float) -> None:
        """Wait for unscaled seconds, or until the simulator ends."""
        with anyio.move_on_after(seconds * self.world.time_scale):
            await self.closing.wait()

    async def stall(self, request: web.Request) -> web.Response:
        """Never answer; the client goes away first, and then the handler is cancelled."""
        with anyio.move_on_after(STALL):
            await self.closing.wait()
        return hang_up(request)


async def body_of(request: web.Request, limit: int = 2**20) -> Any:
    """The parsed JSON, or the text where it is none.

    Args:
        request: The request.
        limit: Bytes of the largest body.

    Raises:
        web.HTTPRequestEntityTooLarge: It is larger.
    """
    raw = bytearray()
    async for piece in request.content.iter_any():
        raw += piece
        if len(raw) > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(raw))
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode(errors="replace")


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer.

    Returns:
        A response for aiohttp, which can no longer send it.
    """
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def as_json(
    body: object, *, status: int = 200, retry_after: float | None = None, cut: bool = False
) -> web.Response:
    """A JSON answer.

    Args:
        body: What to write.
        status: The HTTP status.
        retry_after: Seconds for a Retry-After header, or ``None``.
        cut: Send only the first two thirds of the text.
    """
    text = json.dumps(body, separators=(",", ":"))
    if cut:
        text = text[: len(text) * 2 // 3]
    response = web.Response(text=text, status=status, content_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = f"{retry_after:g}"
    return response


def as_envelope(code: int, message: str, data: Any = None, **options: Any) -> web.Response:
    """An envelope, with the HTTP status that goes with its code."""
    # The service puts most verdicts into a 200, so a client that trusts the status fails here.
    status = code if code in {401, 429} else 200
    return as_json(answers.envelope(code, message, data), status=status, **options)


def as_html(status: int, reason: str) -> web.Response:
    """A gateway's page."""
    page = answers.HTML.format(status=status, reason=reason)
    return web.Response(text=page, status=status, content_type="text/html")
