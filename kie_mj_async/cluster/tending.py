"""What somebody has to see to in a fleet, and the eldest worker does: nothing is left lying.

Each of it would also come right without a crash; this is for what a crash, or a full queue, left
between two steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from ..errors import LedgerError
from .books import Books, Hand
from .enqueuing import Load, enqueue_part, share_out
from .ledger import PostgresLedger, batches_to_queue, creates_of_the_dead

log = logging.getLogger(__name__)

EVERY: Final = 5.0
"""Seconds between two looks for jobs that set out again."""

STEPS_EVERY: Final = 60.0
"""Seconds between two looks for steps of chains whose turn has come: each goes through all that wait."""


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
    books: Books,
    is_mine: Callable[[], bool],
    patience: float,
    load: Callable[[], Load] | None = None,
) -> None:
    """Look after the fleet's books until cancelled.

    Args:
        books: The books.
        is_mine: Whether this worker is the one to do it, at present.
        patience: Seconds for which the answer of a create may still come from a worker that was
            taken for dead.
        load: What the fleet and each worker may have under way, at present.
    """
    looked_for_steps = -STEPS_EVERY
    while True:
        await anyio.sleep(EVERY)
        if not is_mine():
            continue
        steps = anyio.current_time() - looked_for_steps >= STEPS_EVERY
        try:
            if load is not None:
                await books.write(partial(_share_out, load()))
            await put_in(books, steps=steps)
            if steps:
                await settle_cut_off(books, 2 * patience)
        except LedgerError as error:
            log.warning("the books could not be looked after: %s", error)
        else:
            if steps:
                looked_for_steps = anyio.current_time()


def _share_out(load: Load, hand: Hand) -> None:
    share_out(hand.link, load)


async def put_in(books: Books, *, steps: bool) -> int:
    """Put what is not in the queue, and could go on, into it; how many jobs that were."""
    number = 0
    for batch in await batches_to_queue(books, steps=steps):
        ledger = await PostgresLedger.known(books, batch, enqueue=enqueue_part)
        while ledger is not None and (put := await ledger.enqueue(steps=steps)):
            number += put
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
