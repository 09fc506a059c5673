"""A worker: joins the fleet, works, and leaves in order; starts over when it was taken for dead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio

from ..errors import LedgerError
from .engine import Engine, Load, Road
from .lease import WorkerLease, new_name

log = logging.getLogger(__name__)

AGAIN: Final = 2.0
"""Seconds between two attempts to start over."""


async def work(
    url: str,
    road_of: Callable[[WorkerLease], Road],
    *,
    stop: anyio.Event,
    load: Load | None = None,
    grace: float = 30.0,
    joined: Callable[[Engine], None] = lambda _: None,
) -> None:
    """Work until told to stop.

    Args:
        url: The database.
        road_of: What is done with jobs under a lease. A worker that was taken for dead starts over
            with a new one.
        stop: Set to leave: jobs under way get the grace, the rest goes to others.
        load: What the fleet may do at once.
        grace: Seconds for jobs under way when told to stop.
        joined: Called when jobs are taken, each time.

    Raises:
        LedgerError: The database cannot be used at the start.
    """
    began = False
    while not stop.is_set():
        lease = WorkerLease(url, new_name())
        engine = Engine(url, road_of(lease), worker=lease.name, load=load)
        try:
            await lease.join()
            await engine.open()
        except LedgerError as error:
            await lease.leave()
            if not began:
                raise
            log.warning("worker %s cannot start over yet: %s", lease.name, error)
            with anyio.move_on_after(AGAIN):
                await stop.wait()
            continue
        began = True
        try:
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
        with anyio.CancelScope() as ending:
            tasks.start_soon(fenced)
            await stop.wait()
        left = await engine.aclose(0.0 if lease.lost.is_set() else grace)
        if left:
            log.warning("worker %s leaves %d jobs to others", lease.name, left)
        tasks.cancel_scope.cancel()
