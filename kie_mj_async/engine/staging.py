"""What a run begins with: a list that becomes planned jobs, all or nothing, and what jobs come to."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

from ..events import Planned
from ..jobs import State
from ..ledger import Ledger
from ..ledger.base import each_alike
from ..requests import ChainStep, Request
from ..rules.billing import Prices

_T = TypeVar("_T")

CHUNK: Final = 500
"""Requests to stage at a time."""


def nobody(_one: object, _number: int = 1) -> None:
    """Nobody is told."""


async def stage(
    ledger: Ledger,
    requests: Iterable[Request] | AsyncIterable[Request],
    prices: Prices,
    plan: Callable[[Request], None] = nobody,
) -> tuple[int, Planned]:
    """Take a list in, whole or not at all.

    Args:
        ledger: Where its jobs are kept.
        requests: The list.
        prices: What tasks cost.
        plan: Called with what each new job asks for.

    Returns:
        The number of the run that the list belongs to, and what it comes to.

    Raises:
        InvalidRequest: An entry of the list is bad; nothing was taken in.
        LedgerError: The ledger cannot be written.
    """
    new, known, generating, steps, cost = 0, 0, 0, 0, 0.0
    async with ledger.staging() as staging:
        async for chunk in _chunks(requests):
            for job in await staging.add(chunk):
                if job.state is State.PLANNED:
                    new += 1
                    steps += isinstance(job.request, ChainStep)
                    cost += prices.of(job.request)
                    plan(job.request)
                else:
                    known += 1
                    generating += job.state is State.RUNNING
        run = staging.run
    return run, Planned(new, known, generating, cost, steps=steps)


async def survey(
    ledger: Ledger, prices: Prices, plan: Callable[[Request, int], None] = nobody
) -> Planned:
    """What a ledger's unfinished jobs come to, without looking at each.

    Args:
        ledger: Where they are kept.
        prices: What tasks cost.
        plan: Called with what planned jobs ask for, and with how many of them are alike.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    counts = await ledger.counts()
    cost = 0.0
    async for alike in each_alike(ledger):
        cost += alike.number * prices.of(alike.request)
        plan(alike.request, alike.number)
    running = counts[State.RUNNING]
    known = running + counts[State.SUCCEEDED]
    return Planned(counts[State.PLANNED], known, generating=running, cost=cost)


async def _chunks(
    requests: Iterable[Request] | AsyncIterable[Request],
) -> AsyncIterator[list[Request]]:
    chunk: list[Request] = []
    async for request in each(requests):
        chunk.append(request)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def each(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncIterator[_T]:
    """The items of any iterable, one by one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
