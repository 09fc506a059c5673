"""``kie-mj simulate``: the simulator as a server, until it is interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys

from ..errors import ConfigError
from ..simulator import Faults, Simulator
from .view import say


async def serve(
    host: str,
    port: int,
    time_scale: float,
    seed: int,
    faults: str,
    credits: float,
    webhook_key: str | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigError: The fault script cannot be read, or the port cannot be had.
    """
    try:
        script = Faults.parse(faults)
    except ValueError as error:
        raise ConfigError(f"--faults: {error}") from None
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
    try:
        simulator = Simulator(
            host=host,
            port=port,
            time_scale=time_scale,
            seed=seed,
            faults=script,
            credits=credits,
            webhook_key=webhook_key,
        )
    except ValueError as error:
        raise ConfigError(f"--{str(error).replace('_', '-', 1)}") from None
    try:
        await simulator.start()
    except OSError as error:
        raise ConfigError(f"--port: cannot listen at {host}:{port}: {error.strerror}") from None
    try:
        say(
            f"A simulated KIE.ai listens at {simulator.url} (books: {simulator.url}/simulator/books)"
        )
        say(
            f"Use it with: KIE_UPLOAD_URL={simulator.url} KIE_BASE_URL={simulator.url}"
            " KIE_API_KEY=any kie-mj render ..."
        )
        await ended.wait()
    finally:
        await simulator.aclose()
