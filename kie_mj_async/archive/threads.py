"""Work on files, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ..waiting import outlast

_T = TypeVar("_T")


async def in_thread(step: Callable[..., _T], *args: object) -> _T:
    """Do a step in a thread. It cannot be stopped there, so cancelling waits until it has ended.

    Otherwise a file could be closed, and its number given to another, under a write that goes on.
    """
    work = asyncio.get_running_loop().run_in_executor(None, step, *args)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await outlast(work.done, lambda: asyncio.wait((work,)))
        work.exception()  # nobody else asks for it
        raise
