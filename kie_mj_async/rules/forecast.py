"""How long a task takes, and when to look at it next.

What the poll loop asks is :meth:`Forecast.next_look`. For now the answer is a geometric back-off over
the task's age, which bounds the delay of noticing an end to a fixed share of its duration.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from ..requests import Request
from .bodies import lenient


@attrs.frozen
class TaskClass:
    """Tasks that take about the same time (durations are tight within a class: kie-api.md).

    Attributes:
        task_type: The service's name of the type; empty where it is not known.
        speed: The speed asked for; empty where none was.
    """

    task_type: str = ""
    speed: str = ""


def classify(request: Request | None) -> TaskClass:
    """The class of a request; of ``None``, that of a task known only by its id."""
    if request is None:
        return TaskClass()
    sent = lenient(request)
    return TaskClass(sent.task_type, sent.speed or "")


class Forecast(Protocol):
    """What the poll loop wants to know."""

    def next_look(self, kind: TaskClass, age: float) -> float:
        """Seconds from now until a task of this class and age is worth a look."""


@attrs.frozen
class Backoff:
    """Looks at ages that grow geometrically.

    Attributes:
        first: The shortest wait, in seconds.
        share: The wait as a share of the task's age.
        ceiling: The longest wait, in seconds.
    """

    first: float = 2.0
    share: float = 0.25
    ceiling: float = 10.0

    def next_look(self, kind: TaskClass, age: float) -> float:
        """Seconds until the next look."""
        return min(self.ceiling, max(self.first, age * self.share))


@attrs.frozen
class SafetyNet:
    """Looks at tasks whose end a callback tells of, in case that it never comes.

    The first look comes well after the usual end of the slowest class; from then on they grow apart
    with the task's age. So a callback that comes saves all of these looks, and one that is lost costs
    a bounded delay.

    Attributes:
        first: The age of the first look, in seconds. About 60 s are usual, and 248 s for the slowest
            class (kie-api.md, "Real durations").
        share: The wait from then on as a share of the task's age.
        ceiling: The longest wait from then on, in seconds.
    """

    first: float = 300.0
    share: float = 0.5
    ceiling: float = 600.0

    def next_look(self, kind: TaskClass, age: float) -> float:
        """Seconds until the next look."""
        if age < self.first:
            return self.first - max(0.0, age)
        return min(self.ceiling, age * self.share)
