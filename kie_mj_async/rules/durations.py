"""What is known of how long tasks take: per class, from the newest durations and a wide guess.

Three sources make a distribution, each spread over bins of about one in a hundred:

- the durations of the class itself, weighed by how surely they are from the service as it is now
  (``drift.py``), each spread by a kernel, since a few samples are not the distribution;
- those of the nearest wider class that has any, *relative to what was expected of each*: where texts
  take a tenth of what was recorded (a simulator, another host), so may references;
- a guess with heavy tails around the class's middle, or around the recordings' duration where nothing
  else is known. It is what a schedule rests on for tasks that take longer than any before.

Tasks that are still running count too: many that are older than their class ever took say that the
service has slowed down before the first of them has ended.

Nothing here knows prompts, hosts or files. What was learned belongs to one API host; who keeps it
between runs (:meth:`Durations.to_dict`) keeps one for each.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from .drift import LIMIT, History, width_of
from .kinds import Kind
from .spread import BIN, Spread, guess, pour, spread_of

CLASSES: Final = 64
"""Classes that are kept; the ones unheard of for longest give way."""

VERSION: Final = 1
"""Of the stored form."""

NIGHT: Final = 0.2
"""The chance that the service has changed between two runs."""

_NEWS_KEPT: Final = 4096
"""Durations to remember for whoever keeps them between runs; he comes every minute or so."""

_NAME: Final = 40
"""Characters that a class's type, speed, version and flags have at most each."""

_SHORTEST, _LONGEST = 1e-3, 1e6
"""Seconds that a duration may have; anything else is a clock's mistake."""

_BORROWED: Final = 1.0
"""Durations that those of the wider classes count as before the class has any itself."""

_BORROW_FROM: Final = 20
"""The newest durations that a class lends."""

_BORROW_WIDTH: Final = 0.1
"""The least width of a borrowed duration's kernel, in natural logarithms."""

_TOLD_BY: Final = 5.0
"""So many durations tell what a class takes without a guess."""

_UNSURE: Final = 0.35
"""How wide the guess is without them: four of five within a factor of 1.8 of its middle."""

_UNSURE_LENT: Final = 0.2
"""How wide it is where other classes have told how fast this host is."""

_LATEST: Final = 3.0
"""The variance of where the last of some dozens of tasks ends, in variances of one of them and per
duration known."""

_NEXT: Final = 1.0
"""What the next duration counts, which may be outside of what was seen."""

_NEWS: Final = 0.9
"""That a task runs at an age which more than this share of its class outlives says nothing."""


@attrs.frozen
class Summary:
    """A class's durations, for people, in seconds.

    Attributes:
        kind: The class.
        count: Durations kept.
        recent: Durations that count: those since the service last changed.
        median: The middle of those.
        p10: A tenth took less.
        p90: A tenth took more.
    """

    kind: Kind
    count: int
    recent: float
    median: float
    p10: float
    p90: float


@attrs.frozen
class Law:
    """How long tasks of a class likely take.

    Attributes:
        spread: The distribution.
        known: Whether it is more than a guess.
        doubt: By how much all of it may be off, in natural logarithms (the standard deviation).
    """

    spread: Spread
    known: bool
    doubt: float


class Durations:
    """Recent durations of every class.

    Args:
        scale: How long a recorded second takes here, as far as is known (a time-scaled simulator).
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        # From the class unheard of for longest to the newest.
        self._histories: dict[Kind, History] = {}
        self._stored: dict[Kind, list[float]] = {}
        self._news: deque[tuple[Kind, float]] = deque(maxlen=_NEWS_KEPT)
        self.total = 0

    def observe(self, kind: Kind, seconds: float, *, held_back: bool = False) -> None:
        """A task of this class took so long. Nonsense (a clock that was set) is left out.

        Args:
            kind: The class.
            seconds: What the task took.
            held_back: Whether it says nothing yet of a change of the service, until :meth:`settle`.
        """
        if not _SHORTEST <= seconds <= _LONGEST:
            return
        history = self._history(kind) or History()
        self._histories.pop(kind, None)
        self._histories[kind] = history
        (history.take if held_back else history.add)(math.log(seconds))
        self._news.append((kind, seconds))
        self.total += 1
        if len(self._histories) + len(self._stored) > CLASSES:
            self._forget()

    def settle(self, kind: Kind, seconds: float) -> None:
        """A duration that was held back says from now on what it says of changes."""
        history = self._history(kind)
        if history is not None and seconds > 0.0:
            history.settle(math.log(seconds))

    def take_news(self) -> list[tuple[Kind, float]]:
        """What was observed since this was last called, the oldest first."""
        news = list(self._news)
        self._news.clear()
        return news

    def known(self, kind: Kind) -> float:
        """How many durations of this very class count."""
        return sum(self._samples(kind)[1])

    def known_nearby(self, kind: Kind) -> float:
        """How many durations count of this class and of those that differ in their version only."""
        near = kind.coarser()[0]
        return sum(self.known(one) for one in self.kinds() if one.coarser()[0] == near)

    def kinds(self) -> list[Kind]:
        """The classes with durations, the one unheard of for longest first."""
        return [*self._stored, *self._histories]

    def usual(self, kind: Kind) -> float:
        """Seconds that a task of this class takes, before any has ended: a guess."""
        return kind.usual * self._scale

    def spread(self, kind: Kind, running: Sequence[tuple[float, float]] = ()) -> Spread:
        """How long a task of this class takes.

        Args:
            kind: The class.
            running: Ages at which tasks of this class were seen running (> 0), in seconds, and how many.
        """
        bins: dict[int, float] = {}
        logs, weights = self._samples(kind)
        known = sum(weights)
        faith = 1.0 / math.sqrt(known + 1.0)
        middle = math.log(self.usual(kind))
        _pour(bins, logs, weights)
        lent, lent_weights = self._borrow(kind)
        if lent:
            share = _BORROWED * faith / sum(lent_weights)
            parts = [share * one for one in lent_weights]
            pour(bins, lent, parts, max(_BORROW_WIDTH, width_of(lent)))
            middle = _middle(lent, lent_weights)
        if known > 0.5:
            middle = _middle(logs, weights)
        guess(bins, middle, faith, tried=known >= 1.0)
        if running:
            _outlived(bins, running)
        return spread_of(bins, known)

    def law(self, kind: Kind, running: Sequence[tuple[float, float]] = ()) -> Law:
        """How long tasks of this class likely take.

        With tails that fit the class: looks must be ready for whatever was never seen (:meth:`spread`),
        but what a user is told of the time left should not.

        Args:
            kind: The class.
            running: As for :meth:`spread`. While many run, those that have ended are the quick ones.
        """
        bins: dict[int, float] = {}
        logs, weights = self._samples(kind)
        known = sum(weights)
        middle = math.log(self.usual(kind))
        _pour(bins, logs, weights)
        if known > 0.5:
            middle = _middle(logs, weights)
        doubt = 0.0
        if known < _TOLD_BY:
            lent, lent_weights = ([], []) if known > 0.5 else self._borrow(kind)
            if lent:
                middle = _middle(lent, lent_weights)
            scale = _UNSURE_LENT if lent else _UNSURE
            guess(bins, middle, 1.0, tried=True, scale=scale, below=1.0)
        else:
            deviation = _deviation(logs, weights)
            wide = math.hypot(deviation, _UNSURE / math.sqrt(known))
            guess(bins, middle, _NEXT, tried=True, scale=wide, below=1.0)
            doubt = deviation * math.sqrt(_LATEST / known)
        if running:
            _outlived(bins, running)
        return Law(spread_of(bins, known), known >= _TOLD_BY, doubt)

    def summary(self, kind: Kind) -> Summary | None:
        """A class's durations; ``None`` where there are none."""
        logs, weights = self._samples(kind)
        if not logs:
            return None
        p10, median, p90 = (_middle(logs, weights, part) for part in (0.1, 0.5, 0.9))
        recent = sum(weights)
        return Summary(kind, len(weights), recent, math.exp(median), math.exp(p10), math.exp(p90))

    def seconds(self, kind: Kind) -> list[float]:
        """The durations kept of a class, the oldest first."""
        return [math.exp(log) for log in self._samples(kind)[0]]

    def to_dict(self) -> dict[str, Any]:
        """A plain form that :meth:`from_dict` reads back: classes and seconds, no prompts."""
        classes = [
            {**attrs.asdict(kind), "seconds": [_short(one) for one in self._seconds(kind)]}
            for kind in self.kinds()
        ]
        return {"version": VERSION, "classes": classes}

    @classmethod
    def from_dict(cls, data: object, scale: float = 1.0) -> Durations:
        """What was kept. Parts that cannot be read are dropped: they can be learned again."""
        durations = cls(scale)
        if not isinstance(data, Mapping) or data.get("version") != VERSION:
            return durations
        classes = data.get("classes")
        for one in classes[-CLASSES:] if isinstance(classes, list) else ():
            if isinstance(one, Mapping) and (kind := _kind(one)) is not None:
                seconds = _numbers(one.get("seconds"))
                if seconds:
                    durations._stored.pop(kind, None)
                    durations._stored[kind] = seconds
                    durations.total += len(seconds)
        return durations

    def _seconds(self, kind: Kind) -> list[float]:
        # Without weighing what nobody has asked for.
        if kind in self._stored:
            return self._stored[kind]
        return [math.exp(log) for log in self._histories[kind].all()[0]]

    def _samples(self, kind: Kind) -> tuple[list[float], list[float]]:
        """The logarithms of a class's durations, the oldest first, and what each counts."""
        history = self._history(kind)
        return history.all() if history else ([], [])

    def _history(self, kind: Kind) -> History | None:
        if kind in self._stored:
            history = History(math.log(one) for one in self._stored.pop(kind))
            history.doubt(NIGHT)
            self._histories = {kind: history, **self._histories}
        return self._histories.get(kind)

    def _forget(self) -> None:
        oldest = self._stored if self._stored else self._histories
        del oldest[next(iter(oldest))]

    def _borrow(self, kind: Kind) -> tuple[list[float], list[float]]:
        """Durations of the nearest wider class that has any, as if they were this one's."""
        own = math.log(kind.usual)
        logs: list[float] = []
        weights: list[float] = []
        for wider in kind.coarser():
            for other in self.kinds():
                if other == kind or wider not in other.coarser():
                    continue
                lent, lent_weights = self._samples(other)
                shift = own - math.log(other.usual)
                logs.extend(log + shift for log in lent[-_BORROW_FROM:])
                weights.extend(lent_weights[-_BORROW_FROM:])
            if sum(weights) > 0.5:
                return logs, weights
        return [], []


def is_newer(data: object) -> bool:
    """Whether a stored form is that of a later version of this program."""
    version = data.get("version") if isinstance(data, Mapping) else None
    return isinstance(version, int) and version > VERSION


def merged(data: object, news: Iterable[tuple[Kind, float]]) -> dict[str, Any]:
    """A stored form (or whatever stands there instead) with more durations."""
    durations = Durations.from_dict(data)
    stored = durations._stored
    for kind, seconds in news:
        if _kind(attrs.asdict(kind)) is not None:
            stored[kind] = [*stored.pop(kind, []), seconds][-LIMIT:]
    for kind in list(stored)[:-CLASSES]:
        del stored[kind]
    return durations.to_dict()


def histogram(seconds: Sequence[float], *, width: int = 40, rows: int = 12) -> list[str]:
    """Durations as rows of text, for people: an age, a bar, a count.

    Args:
        seconds: The durations.
        width: Characters of the longest bar.
        rows: Rows at the most.
    """
    if not seconds:
        return []
    low, high = min(seconds), max(seconds)
    step = _round_step(max(high - low, 0.01 * high) / max(1, rows - 2))
    first = math.floor(low / step)
    counts = [0] * (math.floor(high / step) - first + 1)
    for one in seconds:
        counts[math.floor(one / step) - first] += 1
    longest = max(counts)
    labels = [f"{round((first + place) * step, 6):g}" for place in range(len(counts))]
    wide = max(map(len, labels))
    bars = ["█" * math.ceil(width * count / longest) for count in counts]
    return [
        f"{label:>{wide}} s {bar} {count}" if count else f"{label:>{wide}} s"
        for label, bar, count in zip(labels, bars, counts, strict=True)
    ]


def _round_step(least: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= least * (1 - 1e-9))


def _outlived(bins: dict[int, float], running: Iterable[tuple[float, float]]) -> None:
    """Give the weight of tasks that still run to the durations above their age (Kaplan and Meier)."""
    places = sorted(bins)
    above = total = sum(bins.values())
    position = 0
    for age, tasks in sorted(running):
        reached = math.log(age) / BIN
        while position < len(places) and places[position] <= reached:
            above -= bins[places[position]]
            position += 1
        if above > 1e-9 * total and above < _NEWS * total:
            factor = 1.0 + tasks / above
            for place in places[position:]:
                bins[place] *= factor
            above *= factor
            total += tasks


def _pour(bins: dict[int, float], logs: Sequence[float], weights: Sequence[float]) -> None:
    if sum(weights) > 0.0:
        counting = [log for log, weight in zip(logs, weights, strict=True) if weight > 0.5]
        pour(bins, logs, weights, width_of(counting or logs[-1:]))


def _deviation(logs: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    mean = sum(log * weight for log, weight in zip(logs, weights, strict=True)) / total
    square = sum(weight * (log - mean) ** 2 for log, weight in zip(logs, weights, strict=True))
    return math.sqrt(square / total)


def _middle(logs: Sequence[float], weights: Sequence[float], part: float = 0.5) -> float:
    """The value that this part of the weight lies below."""
    ordered = sorted(zip(logs, weights, strict=True))
    left = part * sum(weights)
    for log, weight in ordered:
        left -= weight
        if left <= 0.0:
            return log
    return ordered[-1][0]


def _kind(data: Mapping[Any, Any]) -> Kind | None:
    given = [data.get(one.name) for one in attrs.fields(Kind)]
    words = [word for word in given if isinstance(word, str) and len(word) <= _NAME]
    return Kind(*words) if len(words) == len(given) else None


def _numbers(data: object) -> list[float]:
    if not isinstance(data, list):
        return []
    return [
        float(one)
        for one in data[-LIMIT:]
        if isinstance(one, int | float)
        and not isinstance(one, bool)
        and _SHORTEST <= one <= _LONGEST
    ]


def _short(seconds: float) -> float:
    return float(f"{seconds:.5g}")
