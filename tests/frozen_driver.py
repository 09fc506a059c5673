"""A worker that writes without end, as a process of its own: ``URL WORKER SECONDS WHAT``.

The seconds are those after which the server ends it when it freezes inside a transaction. It says on
stdout what it was told to be written; and ``lost`` once its lease is gone. What it does is to ``count``
(in a pair of rows that others want too), or to ``move`` one job after the other.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from kie_mj_async.cluster import database
from kie_mj_async.cluster.books import Books, Hand, LeaseLost, Op
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.rules import lifecycle

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def count(worker: str, number: int) -> Callable[[Hand], None]:
    """One more in both rows of the pair, and a line of its own between."""

    def act(hand: Hand) -> None:
        hand.wrote = True
        raised = b"UPDATE pair SET n = n + 1 WHERE side = %s RETURNING n"
        hand.link.execute(raised, ("a",)).fetchall()
        hand.link.execute(b"INSERT INTO done (worker, number) VALUES (%s, %s)", (worker, number))
        hand.link.execute(raised, ("b",)).fetchall()

    return act


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def main(url: str, worker: str, seconds: float, what: str) -> None:
    database.IDLE_IN_TRANSACTION = seconds  # type: ignore[misc]
    books = Books(url, worker, worker=worker)
    try:
        if what == "count":
            for number in itertools.count():
                await books.put(Op(count(worker, number), writes=True, guarded=True))
                say(number)
        ledger = await PostgresLedger.open(books, "b")
        for job in await ledger.scan(0, 100_000):
            moved = await ledger.record(job, lifecycle.intent(AT, 25))
            say(f"{job.key} {moved.state.value}")
            await ledger.record(moved, lifecycle.accepted(f"task-{job.key}", AT))
            say(f"{job.key} running")
    except LeaseLost:
        say("lost")
    finally:
        await books.aclose()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
