"""What somebody has to see to in a fleet, and the eldest worker does: nothing is left lying.

Each of it would also come right without a crash; this is for what a crash, or a full queue, left
between two steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
import psycopg

from ..errors import LedgerError
from ..logs import logger
from .books import Books, Hand
from .database import connect
from .enqueuing import PORTION, TAKE_BACK, Load, enqueue, forget, share_out
from .ledger import PostgresLedger, batches_to_queue, creates_of_the_dead

log = logger(__name__)

EVERY: Final = 5.0
"""Seconds between two looks for jobs that set out again."""

STEPS_EVERY: Final = 60.0
"""Seconds between two looks for steps of chains whose turn has come: each goes through all that wait."""

QUEUE_EVERY: Final = 600.0
"""Seconds between two comparisons of the books with the queue: each goes through all that is open."""

MARKS_KEPT: Final = 30 * 86400.0
"""Seconds for which the marks of connections are kept: longer than any of them asks after its last."""

AT_ONCE: Final = 1000
"""Jobs that are taken back by one statement at most."""

_BREATH: Final = 1.0
"""Seconds between two portions of what is forgotten."""


def share_of(jobs: int, workers: int, most: int | None = None) -> Load:
    """What each worker of a fleet may have under way, so that all together may have so many.

    Args:
        jobs: Jobs under way over all workers.
        workers: How many workers live.
        most: Jobs in one worker at most, if there is such a bound.
    """
    even = -(-jobs // max(1, workers))
    return Load(jobs, min(even, most or even))


async def tend(
    url: str,
    books: Books,
    is_mine: Callable[[], bool],
    patience: float,
    load: Callable[[], Load] | None = None,
) -> None:
    """Look after the fleet's books until cancelled.

    Args:
        url: The database.
        books: The books.
        is_mine: Whether this worker is the one to do it, at present.
        patience: Seconds for which the answer of a create may still come from a worker that was
            taken for dead.
        load: What the fleet and each worker may have under way, at present.
    """
    looked_for_steps = looked_at_queue = -math.inf
    while True:
        await anyio.sleep(EVERY)
        if not is_mine():
            continue
        now = anyio.current_time()
        steps = now - looked_for_steps >= STEPS_EVERY
        try:
            if now - looked_at_queue >= QUEUE_EVERY:
                looked_at_queue = now
                await take_back(books)
                await books.write(_sweep_marks)
                await forget_old(url, is_mine)
            if load is not None:
                await books.write(partial(_share_out, load()))
            await put_in(books, steps=steps)
            if steps:
                await settle_cut_off(books, 2 * patience)
        except LedgerError as error:
            log.warning("the books could not be looked after: %s", error)
        else:
            if steps:
                looked_for_steps = now


def _share_out(load: Load, hand: Hand) -> None:
    share_out(hand.link, load)


async def put_in(books: Books, *, steps: bool) -> int:
    """Put what is not in the queue, and could go on, into it; how many jobs that were."""
    number = 0
    for batch in await batches_to_queue(books, steps=steps):
        ledger = await PostgresLedger.known(books, batch, enqueue=enqueue)
        if ledger is not None:
            number += await ledger.enqueue(steps=steps)
    return number


async def take_back(books: Books) -> int:
    """Find jobs that are said to be in the queue, and are not; they set out again. How many there were.

    So it is after a restore of the database from before they were put in, or when somebody has emptied
    the queue by hand.
    """
    number = 0
    while lost := await books.write(_lost):
        number += len(lost)
        log.warning("%d jobs were not in the queue any more, such as %s", len(lost), lost[0])
    return number


def _sweep_marks(hand: Hand) -> None:
    hand.tell("sweep_marks", {"seconds": MARKS_KEPT})


def _lost(hand: Hand) -> list[str]:
    return [row["name"] for row in hand.link.execute(TAKE_BACK, (AT_ONCE,)).fetchall()]


async def forget_old(url: str, is_mine: Callable[[], bool] = lambda: True) -> int:
    """Let the queue forget what came to its end long ago; how much that was.

    Args:
        url: The database.
        is_mine: Whether to go on.
    """
    number = 0
    link = await connect(url, "kie-mj tending")
    try:
        while is_mine():
            gone = await forget(link)
            number += gone
            if gone < PORTION:
                break
            await anyio.sleep(_BREATH)
    finally:
        with anyio.CancelScope(shield=True), suppress(psycopg.Error):
            await link.close()
    return number


async def settle_cut_off(books: Books, patience: float) -> int:
    """Find out about creates of workers that have long been dead; how many there were.

    Whoever takes such a job over sees to it; these are of jobs that nobody has taken over.
    """
    number = 0
    for batch, key in await creates_of_the_dead(books, patience):
        ledger = await PostgresLedger.known(books, batch)
        if ledger is not None:
            await ledger.settle(key)
            number += 1
    return number
