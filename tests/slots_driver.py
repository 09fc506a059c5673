"""A worker of a fleet that does nothing but creates, as a process of its own.

``python slots_driver.py URL SERVER SECONDS CREATES PER``: takes slots as fast as it may for so many
seconds and tells the server of each create; every third takes a while. Says how many it made.
"""

from __future__ import annotations

import random
import sys
import time

import anyio

from kie_mj_async.account import Taken, Window
from kie_mj_async.cluster.lease import new_name
from kie_mj_async.cluster.slots import AccountSlots
from kie_mj_async.errors import LedgerError
from kie_mj_async.rules.pacing import Rate

GIVES_UP_AFTER, STALE_AFTER = 0.6, 0.4


async def main() -> None:
    url, server, seconds, creates, per = sys.argv[1:]
    host, _, port = server.partition(":")
    slots = AccountSlots(url, "account", owner=new_name(), in_flight=100, running="0")
    window = Window(
        slots,
        Rate(int(creates), float(per)),
        gives_up_after=GIVES_UP_AFTER,
        stale_after=STALE_AFTER,
    )
    end = time.monotonic() + float(seconds)
    print("ready", flush=True)  # noqa: T201

    async def one(number: int) -> None:
        while time.monotonic() < end:
            try:
                answer = await window.take()
            except LedgerError as error:
                print(error, file=sys.stderr, flush=True)  # noqa: T201
                continue
            if not isinstance(answer, Taken):
                await anyio.sleep(window.look_again if answer.seconds is None else answer.seconds)
                continue
            link = await anyio.connect_tcp(host, int(port))
            async with link:
                if not window.fresh(answer):
                    await window.free(answer)
                    continue
                await link.send(b"create")
                await anyio.sleep(random.uniform(0.0, 0.1) if number % 3 else 0.0)
                await link.receive()
            await window.end(answer)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(one, number)
    await slots.aclose()


if __name__ == "__main__":
    anyio.run(main)
