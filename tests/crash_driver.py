"""Runs the command line in this process, which kills itself at a chosen moment.

``python tests/crash_driver.py [MOMENT] [--scale S] [--checkpoint BYTES] -- ARGS`` runs
``kie-mj ARGS`` and dies by SIGKILL: when a failure point is reached for the n-th time (``--at POINT
--nth N``), before the n-th statement to SQLite (``--statement N``), when so many seconds have passed
(``--after SECONDS``), or at a moment that a seed decides (``--seed N``).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from kie_mj_async import failpoints
from kie_mj_async.archive import fetching, parts
from kie_mj_async.cli import setup, work
from kie_mj_async.cli.app import run
from kie_mj_async.failpoints import HINT_POINTS, POINTS, Point
from kie_mj_async.settings import Settings

assert work  # imported here, so that a time counts from when the work begins


def die() -> None:
    """End this process as a power cut would, without any clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def countdown(number: int) -> Callable[[], None]:
    """What ends this process when it is called for the n-th time, from whichever thread."""
    turn = threading.Lock()
    left = number

    def count() -> None:
        nonlocal left
        with turn:
            left -= 1
            if left == 0:
                die()

    return count


def die_at(point: Point, nth: int) -> None:
    """End this process when it reaches a point for the n-th time."""
    count = countdown(nth)
    failpoints.install(lambda reached: count() if reached == point else None)


def die_before_statement(number: int) -> None:
    """End this process before it tells SQLite something for the n-th time."""
    count = countdown(number)

    real = sqlite3.connect

    def connect(*arguments: Any, factory: Any = sqlite3.Connection, **options: Any) -> Any:
        class Counted(factory):  # type: ignore[misc]
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                count()
                cursor: sqlite3.Cursor = super().execute(*arguments)
                return cursor

            def executescript(self, script: str) -> sqlite3.Cursor:
                count()
                cursor: sqlite3.Cursor = super().executescript(script)
                return cursor

        return real(*arguments, factory=Counted, **options)

    sqlite3.connect = connect


def die_after(seconds: float) -> None:
    """End this process in so many seconds."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def arm(options: argparse.Namespace) -> None:
    """Prepare the end that was asked for."""
    if options.at is not None:
        die_at(options.at, options.nth)
    elif options.statement is not None:
        die_before_statement(options.statement)
    elif options.after is not None:
        die_after(options.after)
    elif options.seed is not None:
        chance = random.Random(options.seed)
        if chance.random() < 0.5:
            die_at(chance.choice(POINTS), chance.randint(1, 10))
        else:
            die_after(chance.uniform(0.0, 0.7))


def main(arguments: list[str]) -> int:
    cut = arguments.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", choices=(*POINTS, *HINT_POINTS))
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--statement", type=int)
    parser.add_argument("--after", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--checkpoint", type=int, default=1)
    options = parser.parse_args(arguments[:cut])
    # The service is a simulator that is quick; and every piece of a file is a chunk.
    vars(setup)["Settings"] = partial(Settings, time_scale=options.scale)
    vars(fetching)["GATHER"] = 1
    vars(parts)["CHECKPOINT"] = options.checkpoint
    vars(parts)["WORTH"] = 1
    arm(options)
    return run(arguments[cut + 1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
