"""A worker of a fleet, as a process of its own; its jobs do nothing but leave a trace.

``python cluster_driver.py URL [IN_FLIGHT PER_WORKER GRACE]``. A job's name says how long its steps
take: ``batch:key@0.5,2`` submits for half a second and collects for two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext

import anyio
import psycopg
from worker_process import run

from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.enqueuing import Load
from kie_mj_async.cluster.lease import GUARD, WorkerLease
from kie_mj_async.cluster.worker import work

TRACE = """
CREATE TABLE IF NOT EXISTS trace (
    id serial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    job text NOT NULL, worker text NOT NULL, step text NOT NULL, what text NOT NULL)
"""


class Tracer:
    """Leaves a row before and after each step; the one after only while the lease holds."""

    def __init__(self, url: str, lease: WorkerLease) -> None:
        self._url = url
        self._lease = lease
        self._link: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._turn = anyio.Lock()

    async def submit(self, name: str) -> str:
        return await self._step(name, "submit", 0)

    async def collect(self, name: str) -> str:
        return await self._step(name, "collect", 1)

    def hurry(self, seconds: float) -> None:
        """Nothing of it goes on when it is cancelled."""

    async def _step(self, name: str, step: str, place: int) -> str:
        lasts = name.partition("@")[2].split(",") if "@" in name else []
        await self._note(name, step, "begin")
        if lasts:
            await anyio.sleep(float(lasts[place]))
        await self._note(name, step, "end")
        return f"{step} done"

    async def _note(self, name: str, step: str, what: str) -> None:
        async with self._turn:
            if self._link is None or self._link.closed:
                self._link = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
            try:
                async with self._link.transaction():
                    cursor = await self._link.execute(GUARD.encode(), (self._lease.name,))
                    if await cursor.fetchone() is None:
                        what = f"fenced at {what}"
                    await self._link.execute(
                        "INSERT INTO trace (job, worker, step, what) VALUES (%s, %s, %s, %s)",
                        (name, self._lease.name, step, what),
                    )
            except psycopg.Error:
                await self._link.close()
                raise


async def main(stop: anyio.Event, joined: Callable[[Engine], None]) -> None:
    url, *rest = sys.argv[1:]
    in_flight, per_worker, grace = [float(one) for one in rest] or [100, 40, 5]
    await work(
        url,
        lambda lease: nullcontext(Tracer(url, lease)),
        stop=stop,
        load=Load(int(in_flight), int(per_worker)),
        grace=grace,
        joined=joined,
    )


if __name__ == "__main__":
    run(main)
