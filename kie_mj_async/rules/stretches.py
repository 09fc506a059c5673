"""Which jobs a list has, told in little room: by the stretches of their numbers that lie together.

A new list's jobs are one stretch, and so are those of the same list later. Only a list that picks here
and there from earlier ones has many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence


class Stretches:
    """Numbers, as stretches from the first to the last.

    Args:
        stretches: The first and the last of each; in order, and apart from each other.
    """

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        self._stretches: Sequence[tuple[int, int]] = tuple(stretches)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        at = bisect_right(self._stretches, number, key=lambda one: one[0])
        return at > 0 and number <= self._stretches[at - 1][1]

    def __bool__(self) -> bool:
        return bool(self._stretches)

    def __repr__(self) -> str:
        return f"Stretches({list(self._stretches)})"

    @property
    def first(self) -> int:
        """The lowest number; 1 where there is none."""
        return self._stretches[0][0] if self._stretches else 1

    @property
    def last(self) -> int:
        """The highest number; 0 where there is none."""
        return self._stretches[-1][1] if self._stretches else 0

    @property
    def firsts(self) -> list[int]:
        """The first of each."""
        return [one[0] for one in self._stretches]

    @property
    def lasts(self) -> list[int]:
        """The last of each."""
        return [one[1] for one in self._stretches]

    def parts(self, size: int) -> Iterator[Stretches]:
        """The same in parts of so many numbers, the last one of what is left."""
        part: list[tuple[int, int]] = []
        room = size
        for begin, last in self._stretches:
            first = begin
            while first <= last:
                until = min(last, first + room - 1)
                part.append((first, until))
                room -= until - first + 1
                first = until + 1
                if room == 0:
                    yield Stretches(part)
                    part, room = [], size
        if part:
            yield Stretches(part)


class Ticks:
    """Which numbers of some stretches are ticked off, a bit for each.

    Args:
        stretches: Where the numbers lie.
    """

    def __init__(self, stretches: Stretches) -> None:
        self._first = stretches.first
        self._bits = bytearray((stretches.last - stretches.first) // 8 + 1)

    def __contains__(self, number: int) -> bool:
        at, bit = divmod(number - self._first, 8)
        return bool(self._bits[at] & 1 << bit)

    def add(self, number: int) -> None:
        """Tick it off; again does nothing."""
        at, bit = divmod(number - self._first, 8)
        self._bits[at] |= 1 << bit
