"""Sends callbacks: one background task that sleeps until the next one is due.

The task begins with the first create that asks for a callback.

A thin shell. What is due when, what it says and how it is signed is decided in ``callbacks.py``;
here are the clock, the sockets and the journal.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import anyio

from . import callbacks
from .callbacks import Delivery
from .shell import Service

PATIENCE: Final = 1.0
"""Seconds that a receiver always has, since a busy machine is not scaled."""

NAP: Final = 0.002
"""The shortest sleep in seconds: clocks that disagree a little must not spin."""


class Courier:
    """Sends the callbacks of a service while it runs.

    Args:
        service: The service.
        url: Where it listens, for the links of results.
        key: The account's webhook key, or ``None``.
    """

    def __init__(self, service: Service, url: str, key: str | None) -> None:
        self._service = service
        self._url = url
        self._key = key
        self._wake = anyio.Event()
        self._settled: dict[str, anyio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take up the work; what an earlier simulator left goes on."""
        self._loop = asyncio.get_running_loop()
        self.stir()

    async def aclose(self) -> None:
        """End it, and what it is sending: that counts as not sent. May be called again."""
        self._loop = None
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    def stir(self) -> None:
        """Something happened: look again at what is due."""
        if self._loop is not None and self._service.world.callbacks.busy:
            self._wake.set()
            if self._task is None:
                self._task = self._loop.create_task(self._run(), name="courier")

    async def first_attempt(self, task_id: str) -> None:
        """Wait until the callback of a task was sent once, or the service ends."""
        if not self._service.world.callbacks.untried(task_id):
            return
        sent = self._settled.setdefault(task_id, anyio.Event())
        self._wake.set()
        async with anyio.create_task_group() as group:

            async def give_up() -> None:
                await self._service.closing.wait()
                group.cancel_scope.cancel()

            group.start_soon(give_up)
            await sent.wait()
            group.cancel_scope.cancel()

    async def _run(self) -> None:
        world = self._service.world
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            anyio.create_task_group() as group,
        ):
            # An older anyio takes a cancellation that comes with the deadline for the deadline's.
            while not self._service.closing.is_set():
                self._wake = anyio.Event()
                now = self._service.clock()
                world.advance(now)
                for delivery in world.callbacks.take(now):
                    group.start_soon(self._deliver, session, delivery)
                due = world.next_callback()
                if due is None:
                    await self._wake.wait()
                else:
                    with anyio.move_on_after(max(NAP, due - self._service.clock())):
                        await self._wake.wait()
            group.cancel_scope.cancel()

    async def _deliver(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        status, error = None, None
        if delivery.withheld is None:
            # What the callback tells must survive before anyone can have heard of it.
            await self._service.commit()
            status, error = await self._post(session, delivery)
        self._service.world.delivered(delivery, self._service.clock(), status=status, error=error)
        await self._service.commit()
        if (waits := self._settled.pop(delivery.task_id, None)) is not None:
            waits.set()

    async def _post(
        self, session: aiohttp.ClientSession, delivery: Delivery
    ) -> tuple[int | None, str | None]:
        world = self._service.world
        task = world.tasks[delivery.task_id]
        links = [f"{self._url}/m/{name}" for name in task.files(world.picture_suffix)]
        seconds = max(PATIENCE, callbacks.TIMEOUT * world.time_scale)
        try:
            async with session.post(
                delivery.url,
                json=callbacks.content(task, links, delivery.fault),
                headers=callbacks.headers(
                    task.id, delivery.fault, self._key, self._service.clock()
                ),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                return answer.status, None
        except TimeoutError:
            return None, f"no answer within {seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return None, f"{type(error).__name__}: {error}"
