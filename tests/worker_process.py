"""A worker as a process of its own: what its parent holds, and what its program begins with."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
from postgres_support import die_with_the_parent

from kie_mj_async.cluster.engine import Engine


class WorkerProcess:
    """A worker's process, as its parent sees it.

    Args:
        command: Starts it.
        log: Where its stderr goes.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=die_with_the_parent,  # noqa: PLW1509 - it calls nothing that locks
            )

    def says(self, within: float = 30.0) -> str:
        """Its next line on stdout; empty at its end."""
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], within)
            assert ready, f"it says nothing:\n{self.log.read_text()[-3000:]}"
            piece = os.read(self.process.stdout.fileno(), 1)
            if not piece:
                break
            line += piece
        return line.decode().strip()

    def joined(self) -> str:
        """The name under which it has joined."""
        word, _, name = self.says().partition(" ")
        assert word == "joined", f"it said {word!r}:\n{self.log.read_text()[-3000:]}"
        return name

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def ended(self, within: float = 30.0) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(within)

    def left(self, within: float = 20.0) -> float:
        """Wait until it has ended in order; how long that took."""
        began = time.monotonic()
        assert self.ended(within) == 0, self.log.read_text()[-3000:]
        return time.monotonic() - began

    def end(self) -> None:
        """End it, in whatever state it is."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def run(work: Callable[[anyio.Event, Callable[[Engine], None]], Awaitable[None]]) -> None:
    """The program of a worker: it works until SIGTERM, and says when it has joined and left.

    Args:
        work: Works until the event is set, and calls the function each time it has joined.
    """
    level = os.environ.get("DRIVER_LOG", "INFO")
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    anyio.run(_until_told, work)


async def _until_told(
    work: Callable[[anyio.Event, Callable[[Engine], None]], Awaitable[None]],
) -> None:
    stop = anyio.Event()

    async def obey() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                stop.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(obey)
        await work(stop, lambda engine: print("joined", engine.worker, flush=True))  # noqa: T201
        tasks.cancel_scope.cancel()
    print("left", flush=True)  # noqa: T201
