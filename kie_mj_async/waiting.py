"""Waiting that a cancellation does not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio


async def outlast(done: Callable[[], bool], wait: Callable[[], Awaitable[object]]) -> None:
    """Wait until something is done, also when cancelled meanwhile; that is passed on afterwards.

    A task's own ``cancel()`` passes through anyio's shields, so it is held here.

    Args:
        done: Whether it is.
        wait: Waits for it; may be called again.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not done():
            try:
                await wait()
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
