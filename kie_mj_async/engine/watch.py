"""A task that somebody waits for, as the poll loop sees it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

import attrs

from ..errors import KieError, TaskTimedOut
from ..logs import Ids
from ..rules.crowd import Pending
from ..rules.wire import Record

NOWHERE: Final = -math.inf
"""When a watch is due that has no place in the heap."""


class At(Enum):
    """Where a watch stands."""

    ASKING = auto()
    """In the heap: the forecast is asked when it is due, or calls it before."""
    DUE = auto()
    """In the heap: looked at when it is due."""
    QUEUED = auto()
    """To be looked at as soon as the budget allows."""
    LOOKING = auto()
    """Being looked at."""
    LOOKING_TWICE = auto()
    """Likewise, and to be looked at once more after that."""


@attrs.define(eq=False, weakref_slot=False)
class Watch(Pending):
    """A task that somebody waits for. Small: a hundred thousand may wait.

    Attributes:
        task_id: The task.
        timeout: Seconds to wait.
        deadline: When they end.
        done: Its end, or the error that ends the wait.
        relaxed: Whether a callback is expected to tell of its end.
        about: What it is waited for.
        born_known: Whether ``born`` is more than the beginning of the wait.
        at: Where it stands.
        due: Which of its entries in the heap counts.
        trouble: How many looks have failed on end, and how the last of them did.
        other: Another one of the same task.
    """

    task_id: str
    timeout: float
    deadline: float
    done: asyncio.Future[Record]
    relaxed: bool
    born_known: bool
    about: Ids
    at: At = attrs.field(default=At.ASKING, init=False)
    due: float = attrs.field(default=NOWHERE, init=False)
    trouble: tuple[int, KieError] | None = attrs.field(default=None, init=False)
    other: Watch | None = attrs.field(default=None, init=False)

    def all(self) -> Iterator[Watch]:
        """It, and the others behind it."""
        watch: Watch | None = self
        while watch is not None:
            yield watch
            watch = watch.other

    @property
    def looking(self) -> bool:
        """Whether it is being looked at."""
        return self.at in (At.LOOKING, At.LOOKING_TWICE)


def timed_out(watch: Watch) -> TaskTimedOut:
    """What to tell who has waited as long as he wanted to."""
    why = f"; the last look failed: {watch.trouble[1]}" if watch.trouble else ""
    message = (
        f"task {watch.task_id}: not finished after waiting {watch.timeout:g} s{why}. "
        "It goes on at the service: wait again, or resume the batch"
    )
    return TaskTimedOut(message, task_id=watch.task_id, billed="yes")
