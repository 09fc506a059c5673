"""Turns: so many at a time, and of those who wait the most urgent first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel


class Turns:
    """A limit on how many do something at once.

    Args:
        places: How many.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, anyio.Event]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def turn(self, urgency: float) -> AsyncIterator[None]:
        """A place, for as long as the context lasts.

        Args:
            urgency: The smallest number goes first; of equal ones, whoever came first.
        """
        await self._enter(urgency)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgency: float) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        # While anybody waits no place is free: it would have been handed over.
        if self._free:
            self._free -= 1
            return
        ticket = (urgency, next(self._arrivals), anyio.Event())
        heapq.heappush(self._waiting, ticket)
        try:
            await ticket[2].wait()
        except BaseException:
            if ticket[2].is_set():  # it was handed over while the wait was being cancelled
                self._leave()
            else:
                self._waiting.remove(ticket)
                heapq.heapify(self._waiting)
            raise

    def _leave(self) -> None:
        if self._waiting:
            heapq.heappop(self._waiting)[2].set()
        else:
            self._free += 1
