"""Named points around every durable step of a job, where a crash test may end the process.

The engine says where it is with :func:`reach`; nobody listens unless a test has installed a hook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

_OfAJob = Literal[
    "slot taken",
    "before the intent",
    "intent stored",
    "POST written",
    "reply read",
    "id stored",
    "poll read",
    "result stored",
    "chunk written",
    "checkpoint stored",
    "file synced",
    "file named",
    "file's row stored",
    "job saved",
]
_OfAHint = Literal["hint stored", "hint used"]
Point = _OfAJob | _OfAHint

POINTS: Final[tuple[Point, ...]] = get_args(_OfAJob)
"""The points that every job meets, in their order."""

HINT_POINTS: Final[tuple[Point, ...]] = get_args(_OfAHint)
"""The points of a lost reply that a callback finds again, in their order."""

_hook: Callable[[Point], None] | None = None


def reach(name: Point) -> None:
    """The process is at this point. Called from the event loop and from worker threads."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[Point], None] | None) -> None:
    """From now on, call this at every point; ``None`` for nobody."""
    global _hook  # noqa: PLW0603  (one for the process, as a crash is)
    _hook = hook
