"""What a run looks like while it goes on: a live view on a terminal, plain lines elsewhere.

Both go to stderr; stdout is for ``--json``.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..events import CallbackAwaited, CreatesPaused, Event, JobEnded
from ..jobs import Failed, Job, Outcome, Saved
from ..progress import Left, Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_EVERY: Final = 10.0
"""Seconds between summary lines where there is no terminal."""
_NARROW: Final = 0.3
"""A time left is told as one number while its spread is at most this part of it."""
_TROUBLES: Final = 8
"""Troubles that the live view keeps in sight."""


class View(ABC):
    """Shows a run."""

    def __init__(self) -> None:
        self._progress = Progress(began_at=0.0)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what was shown standing."""
        return

    def show(self, progress: Progress) -> None:
        """Take in how far the run is."""
        self._progress = progress

    def hear(self, event: Event) -> None:
        """Take in an event, after the numbers with it in them."""
        match event:
            case JobEnded(outcome, earlier=False):
                self.ended(outcome)
            case CreatesPaused(reason, seconds):
                self.paused(reason, seconds)
            case CallbackAwaited(job, seconds):
                self.say(
                    f"{_name(job)}: its create was not answered; its callback may tell more "
                    f"within {_duration(seconds)}"
                )

    @abstractmethod
    def say(self, text: str) -> None:
        """A line that stays."""

    @abstractmethod
    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""

    @abstractmethod
    def paused(self, reason: str, seconds: float) -> None:
        """No creates for a while."""


class PlainView(View):
    """Plain lines, no control codes."""

    def __init__(self) -> None:
        super().__init__()
        self._last_summary = 0.0

    def say(self, text: str) -> None:
        """A line."""
        _write(text)

    def ended(self, outcome: Outcome) -> None:
        """A line per job, and a summary now and then."""
        p = self._progress
        self.say(f"[{p.ended}/{p.total}] {_verb(outcome)}")
        if p.elapsed - self._last_summary >= _EVERY:
            self._last_summary = p.elapsed
            left = f", {told}" if (told := time_left(p.eta)) else ""
            self.say(
                f"submitted {p.submitted}, generated {p.succeeded}, saved {p.saved} of {p.total}"
                f"; {p.credits:g} credits{left}"
            )

    def paused(self, reason: str, seconds: float) -> None:
        """A line."""
        self.say(f"nothing is submitted for {seconds:.0f} s: {reason}")


class LiveView(View):
    """Three lanes, the money, and the latest troubles, drawn anew a few times a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        self._console: Console = Console(stderr=True, highlight=False)
        self._troubles: deque[str] = deque(maxlen=_TROUBLES)
        self._live = Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> View:
        self._live.start()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """A line above the lanes."""
        from rich.text import Text

        self._console.print(Text(printable(text)))

    def ended(self, outcome: Outcome) -> None:
        """Keep what went wrong in sight."""
        if not isinstance(outcome, Saved):
            self._troubles.append(_verb(outcome))

    def paused(self, reason: str, seconds: float) -> None:
        """Shown by the lanes while it lasts."""

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        p = self._progress
        lanes = Table.grid(padding=(0, 2))
        lanes.add_column(width=10)
        lanes.add_column(width=40)
        lanes.add_column(justify="right")
        for name, done, colour, note in (
            ("submitted", p.submitted, "cyan", ""),
            ("generated", p.succeeded, "magenta", f"{p.running} generating"),
            ("saved", p.saved, "green", f"{p.files} files, {p.bytes / 1e6:.1f} MB"),
        ):
            bar = ProgressBar(total=max(1, p.total), completed=done, complete_style=colour)
            lanes.add_row(name, bar, f"{done}/{p.total}", Text(note, style="dim"))
        parts: list[RenderableType] = [lanes, Text(_foot(p), style="bold")]
        if p.paused:
            text = f"nothing is submitted for {p.paused:.0f} s: {p.pause_reason}"
            parts.append(Text(printable(text), style="yellow"))
        # A copy: another thread draws than the one that hears.
        parts += [Text(printable(trouble), style="red") for trouble in tuple(self._troubles)]
        return Group(*parts)


def _foot(p: Progress) -> str:
    parts = [
        f"{p.credits:g} credits",
        f"{60 * p.rate:.1f} jobs/min" if p.elapsed > 1 and p.rate else "",
        f"{_duration(p.elapsed)} gone",
        time_left(p.eta),
        f"{p.failed} failed" if p.failed else "",
        f"{p.unresolved} unresolved" if p.unresolved else "",
    ]
    return " · ".join(part for part in parts if part)


def time_left(left: Left | None) -> str:
    """How long a run will still take; nothing where nobody knows, or where it may end any moment."""
    if left is None or left.middle < 1.0:
        return ""
    least, most = _roughly(left.low), _roughly(left.high)
    if left.high - left.low <= max(10.0, _NARROW * left.middle) or least == most:
        return f"about {_roughly(left.middle)} left"
    return f"{least} to {most} left"


_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text that cannot do anything to a terminal: prompts and errors are other people's words."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def choose_view() -> View:
    """The live view on a terminal, plain lines elsewhere."""
    return LiveView() if sys.stderr.isatty() else PlainView()


def say(text: str) -> None:
    """A line for people, outside of a run."""
    _write(text)


def count_of(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def new_jobs(number: int, steps: int) -> str:
    """How many jobs are new, and how many of them are steps of chains."""
    told = count_of(number, "new job")
    if steps:
        told += f", {steps:,} of them {'a step of a chain' if steps == 1 else 'steps of chains'}"
    return told


def _write(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def _verb(outcome: Outcome) -> str:
    job = outcome.job
    if isinstance(outcome, Saved):
        files = "1 file" if len(outcome.locations) == 1 else f"{len(outcome.locations)} files"
        return f"saved {files}: {_name(job)}"
    what = "failed" if isinstance(outcome, Failed) else type(outcome).__name__.lower()
    return f"{what}: {_name(job)}: {outcome.error}"


def short(prompt: str, most: int = 60) -> str:
    """A prompt in a line of so many characters at most."""
    text = " ".join(prompt.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def _name(job: Job) -> str:
    return short(job.title, 50)


def _roughly(seconds: float) -> str:
    """A duration as exactly as a forecast can be."""
    if seconds < 99.0:
        step = 1 if seconds < 10 else 5
        return f"{step * round(seconds / step)} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
