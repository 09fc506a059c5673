"""What a run begins with: a list that becomes planned jobs, all or nothing, and what jobs come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Final, TypedDict, TypeVar

import attrs

from ..events import Planned
from ..jobs import Job, State
from ..ledger import Ledger
from ..ledger.base import NO_LIST, each_alike, jobs_in
from ..requests import ChainStep, ExistingTask, Request
from ..rules.billing import Prices

_T = TypeVar("_T")

CHUNK: Final = 500
"""Requests to stage at a time."""

_GOES_ON: Final = (State.RUNNING, State.SUCCEEDED, State.SUBMITTING, State.UNRESOLVED)
"""States of the jobs that a resume has to do with, besides the planned ones."""
_MADE: Final = (State.SUCCEEDED, State.SAVED)
_ACCEPTED: Final = (*_MADE, State.RUNNING, State.FAILED, State.EXPIRED)


class _Far(TypedDict):
    accepted: int
    made: int


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
    new, steps, cost = 0, 0, 0.0
    states: Counter[State] = Counter()
    async with ledger.staging() as staging:
        async for chunk in _chunks(requests):
            for job in await staging.add(chunk):
                if job.again:
                    continue
                if job.state is State.PLANNED:
                    new += 1
                    steps += isinstance(job.request, ChainStep)
                    cost += prices.of(job.request)
                    plan(job.request)
                else:
                    states[job.state] += 1
        run = staging.run
    return run, Planned(
        new, states.total(), states[State.RUNNING], cost, steps=steps, **_far(states)
    )


def _far(states: Mapping[State, int]) -> _Far:
    """How far jobs in these states have come."""
    return {
        "accepted": sum(states.get(state, 0) for state in _ACCEPTED),
        "made": sum(states.get(state, 0) for state in _MADE),
    }


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
    begun = {state: counts[state] for state in _GOES_ON}
    return Planned(
        counts[State.PLANNED],
        sum(begun.values()),
        generating=counts[State.RUNNING],
        cost=cost,
        **_far(begun),
    )


async def others(ledger: Ledger, run: int, planned: Planned) -> Planned:
    """What a list comes to, with the jobs of earlier lists that a run over it sees to as well.

    Args:
        ledger: Where they are.
        run: The list's run.
        planned: What the list itself comes to.
    """
    counts = await ledger.counts()
    saving = await _number(jobs_in(ledger, State.SUCCEEDED, run))
    generating = counts[State.RUNNING] - planned.generating
    made = counts[State.SUCCEEDED] - saving
    # Tasks that were paid besides a job's own, and that nobody has waited for yet.
    extra = await _number(jobs_in(ledger, State.PLANNED, NO_LIST), ExistingTask)
    return attrs.evolve(
        planned,
        others=generating + made + extra,
        generating=counts[State.RUNNING],
        accepted=planned.accepted + generating + made,
        made=planned.made + made,
    )


async def _number(jobs: AsyncIterator[Job], kind: type[Request] = Request) -> int:
    return len([None async for job in jobs if isinstance(job.request, kind)])


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
