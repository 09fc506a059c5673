"""A worker: joins the fleet, works, and leaves in order; starts over when it was taken for dead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio

from ..errors import LedgerError
from ..logs import logger
from .engine import Engine, Road
from .enqueuing import Load
from .lease import WorkerLease, new_name

log = logger(__name__)

AGAIN: Final = 2.0
"""Seconds between two attempts to start over."""


async def work(
    url: str,
    road_of: Callable[[WorkerLease], AbstractAsyncContextManager[Road]],
    *,
    stop: anyio.Event,
    account: str = "",
    load: Load | None = None,
    grace: float = 30.0,
    joined: Callable[[Engine], None] = lambda _: None,
) -> None:
    """Work until told to stop.

    Args:
        url: The database.
        road_of: What is done with jobs under a lease, open as long as that is kept. A worker that was
            taken for dead starts over with a new one.
        stop: Set to leave: jobs under way get the grace, the rest goes to others.
        account: The account that the fleet works for (``account.account_name``).
        load: What the fleet may do at once.
        grace: Seconds for jobs under way when told to stop.
        joined: Called when jobs are taken, each time.

    Raises:
        ConfigError: The fleet works for another account.
        LedgerError: The database cannot be used at the start.
    """
    began = False

    def has_joined(engine: Engine) -> None:
        nonlocal began
        began = True
        joined(engine)

    while not stop.is_set():
        lease = WorkerLease(url, new_name(), account)
        try:
            async with road_of(lease) as road:
                engine = Engine(url, road, worker=lease.name, load=load)
                await _live(engine, lease, stop, grace, has_joined)
        except LedgerError as error:
            if not began:
                raise
            log.warning("worker %s cannot go on: %s", lease.name, error)
            with anyio.move_on_after(AGAIN):
                await stop.wait()


async def _live(
    engine: Engine,
    lease: WorkerLease,
    stop: anyio.Event,
    grace: float,
    joined: Callable[[Engine], None],
) -> None:
    """From joining to leaving."""
    try:
        await lease.join()
        await engine.open()
        joined(engine)
        await _serve(engine, lease, stop, grace)
    finally:
        with anyio.CancelScope(shield=True):
            await lease.leave()


async def _serve(engine: Engine, lease: WorkerLease, stop: anyio.Event, grace: float) -> None:
    async with anyio.create_task_group() as tasks:

        async def fenced() -> None:
            await lease.lost.wait()
            engine.cut()
            ending.cancel()

        tasks.start_soon(lease.keep, engine)
        try:
            with anyio.CancelScope() as ending:
                tasks.start_soon(fenced)
                await stop.wait()
        finally:
            # Where this is cancelled the grace is over before it begins.
            left = await engine.aclose(0.0 if lease.lost.is_set() else grace)
        if left:
            log.warning("worker %s leaves %d jobs to others", lease.name, left)
        tasks.cancel_scope.cancel()
