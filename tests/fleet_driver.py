"""A worker of a fleet that renders, as a process of its own, against a simulated service.

``python fleet_driver.py DATABASE SERVICE OUT --scale S [...]``. It says ``joined NAME`` each time it has
joined, and ``left`` at its end. ``--stop-at POINT --nth N`` kills it (``--freeze``: stops it) when it
reaches a failure point for the n-th time.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
from worker_process import run

from kie_mj_async import failpoints
from kie_mj_async.cluster.engine import Engine
from kie_mj_async.cluster.serving import Work, serve
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings


def stop_at(point: str, nth: int, number: int) -> None:
    """Send this process a signal when it reaches a point for the n-th time."""
    turn = threading.Lock()
    left = nth

    def count(reached: str) -> None:
        nonlocal left
        with turn:
            left -= reached == point
            now = reached == point and left == 0
        if now:
            print("stops", flush=True)  # noqa: T201
            os.kill(os.getpid(), number)

    failpoints.install(count)


def work_of(options: argparse.Namespace) -> Work:
    """What the options ask for."""
    scale = options.scale
    settings = Settings(
        key=Secret(options.key),
        base_url=options.service,
        host="sim",
        rate=Rate(20, 10 * options.window),
        in_flight=options.in_flight,
        request_timeout=options.request_timeout,
        time_scale=scale,
        polls_per_second=options.polls,
    )
    return Work(
        options.database,
        settings,
        options.out,
        Path(options.work_dir),
        per_worker=options.per_worker,
        job_timeout=options.job_timeout,
        grace=options.grace,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("service")
    parser.add_argument("out")
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--key", default="k")
    parser.add_argument("--scale", type=float, default=0.01)
    parser.add_argument("--window", type=float, default=0.01)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--per-worker", type=int)
    parser.add_argument("--request-timeout", type=float, default=10.0)
    parser.add_argument("--job-timeout", type=float, default=120.0)
    parser.add_argument("--polls", type=float, default=5.0)
    parser.add_argument("--grace", type=float, default=5.0)
    parser.add_argument("--stop-at")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--freeze", action="store_true")
    return parser.parse_args()


async def main(stop: anyio.Event, joined: Callable[[Engine], None]) -> None:
    options = arguments()
    if options.stop_at is not None:
        number = signal.SIGSTOP if options.freeze else signal.SIGKILL
        stop_at(options.stop_at, options.nth, number)
    await serve(work_of(options), stop=stop, joined=joined)


if __name__ == "__main__":
    run(main)
