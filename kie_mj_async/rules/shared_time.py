"""The time of an account that machines share: it never runs faster than time itself.

Its source is the database's clock, which may be set, or be another machine's after a fail-over. A step
ahead would free twenty slots of the window at once. So whoever looks holds the database's clock against
its own steady one, and what it cannot believe has not passed: the account's time stands still instead.
A window can only last longer by that. What stays unseen is a clock that is set there and back between
two looks of the same observer.

The account's time is written down with the database's clock at each change of its slots, and read on
from there. Who has just come has nothing to compare with, and believes only what was written down.
"""

from __future__ import annotations

from typing import Final

import attrs

TOLERANCE: Final = 0.05
"""Seconds by which the two clocks may differ between two looks, beside what the network explains."""


@attrs.frozen
class Kept:
    """The account's time as it was written down.

    Attributes:
        version: Which write that was.
        told: What the database's clock said then.
        now: What the account's time was.
    """

    version: int
    told: float
    now: float


@attrs.frozen
class Look:
    """One look at the database's clock.

    Attributes:
        told: What it said.
        asked: The observer's own clock before it.
        answered: The same clock after it.
    """

    told: float
    asked: float
    answered: float


@attrs.frozen
class Sight:
    """The account's time at a look.

    Attributes:
        look: That look.
        version: The latest write that it found.
        now: The account's time.
    """

    look: Look
    version: int
    now: float

    def at(self, own: float) -> float:
        """The account's time a little later, at the most, by the observer's own clock."""
        return self.now + own - self.look.asked


def read(kept: Kept, look: Look, before: Sight | None) -> Sight:
    """The account's time now.

    Args:
        kept: What is written down.
        look: The look that found it.
        before: What the same observer saw at its last look, if it has looked before.
    """
    if before is None:
        return Sight(look, kept.version, kept.now)
    told = look.told - before.look.told
    least = look.asked - before.look.answered
    most = look.answered - before.look.asked
    steady = least - TOLERANCE <= told <= most + TOLERANCE
    if kept.version == before.version:
        return Sight(look, kept.version, before.now + max(0.0, told if steady else least))
    passed = max(0.0, look.told - kept.told)
    believed = passed if steady and passed <= most + TOLERANCE else 0.0
    return Sight(look, kept.version, kept.now + believed)
