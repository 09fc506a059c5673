"""Group commit: whoever waits shares a transaction with all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from ..waiting import outlast

_Op = TypeVar("_Op")

Result = tuple[Any, Exception | None]
"""What became of one: its value, or its error."""


class Group(Generic[_Op]):
    """A queue of what is to be done, and one drain that does all that is there at once.

    Args:
        commit: Does them in one transaction, and tells what became of each. It does not raise because
            of one of them; if it does raise, all of them are told.
    """

    def __init__(self, commit: Callable[[Sequence[_Op]], Awaitable[Sequence[Result]]]) -> None:
        self._commit = commit
        self._queue: list[tuple[_Op, asyncio.Future[Any]]] = []
        self._draining: asyncio.Task[None] | None = None

    async def do(self, op: _Op) -> Any:
        """Have one done, and return its value. Cancelling does not undo it."""
        return await self.put(op)

    def put(self, op: _Op) -> asyncio.Future[Any]:
        """Have one done behind those that wait; put in a row, they are in one transaction."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((op, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="kie-mj ledger")
        return future

    async def drained(self) -> None:
        """Wait until nothing is left, also when cancelled meanwhile."""
        await outlast(lambda: self._draining is None, self._drained)

    async def _drained(self) -> None:
        if self._draining is not None:
            await asyncio.wait([self._draining])

    async def _drain(self) -> None:
        try:
            while self._queue:
                queue, self._queue = self._queue, []
                try:
                    results = await self._commit([op for op, _ in queue])
                except Exception as error:
                    results = [(None, error) for _ in queue]
                for (_, future), (value, failure) in zip(queue, results, strict=True):
                    if future.done():  # its caller was cancelled meanwhile; what it did stands
                        continue
                    if failure is not None:
                        future.set_exception(failure)
                    else:
                        future.set_result(value)
        finally:
            self._draining = None
