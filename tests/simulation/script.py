"""What goes wrong in a world, drawn from its seed before anything begins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, Literal

import attrs

from kie_mj_async.rules.billing import OnUnknown

SPEEDS: Final[Mapping[str, tuple[float, float]]] = {
    "turbo": (15.0, 40.0),
    "fast": (45.0, 75.0),
    "relaxed": (150.0, 300.0),
}
"""Seconds that tasks take, by speed: from and to."""

DAY: Final = 86_400.0

ODDS: Final[Mapping[str, float]] = {
    # Of a create:
    "not sent": 0.006,
    "lost on the way": 0.003,
    "reply lost": 0.004,
    "html": 0.002,
    "code 500": 0.002,
    "no id": 0.001,
    "bad request": 0.003,
    "slow": 0.02,
    # Of a task:
    "task fails": 0.03,
    "unknown at first": 0.1,
    "links come late": 0.02,
    # Of a poll:
    "poll 500": 0.01,
    "poll html": 0.004,
    "poll times out": 0.003,
    "poll 429": 0.003,
    "odd flag": 0.002,
    # Of a file:
    "dead link": 0.02,
    "download fails": 0.01,
    "no fresh link": 0.02,
    # Of the ledger:
    "slow write": 0.01,
    # Of a callback:
    "no callback": 0.05,
    "callback before the reply": 0.05,
    "callback twice": 0.05,
}
"""How likely each mishap is in a world of middling roughness."""

EPISODES: Final = (
    "window storm",
    "running storm",
    "maintenance",
    "outage",
    "no credits",
    "key refused",
    "disk full",
    "ledger full",
    "rough",
)
"""What can last for a while."""

How = Literal["crash after a time", "crash at a step", "interrupt", "none"]


@attrs.frozen
class Episode:
    """Something that lasts for a while of the world's active time."""

    kind: str
    begins: float
    ends: float
    size: int


@attrs.frozen
class Life:
    """How one life of the program ends, and what comes until the next one.

    Attributes:
        how: What ends it, unless it ends by itself before.
        after: Seconds, or steps.
        gap: Seconds until the next life.
        reboot: Whether the machine starts anew meanwhile, and its monotonic clock with it.
        wall: Seconds that the wall clock jumps in the gap.
        same_list: Whether the next life renders the same list again instead of resuming.
    """

    how: How
    after: float
    gap: float
    reboot: bool
    wall: float
    same_list: bool


@attrs.frozen
class Jump:
    """A jump of the wall clock while the program runs."""

    at: float
    seconds: float


@attrs.frozen
class Script:
    """All that a seed decides about its world beforehand."""

    seed: int
    jobs: int
    in_flight: int
    running_limit: int
    max_credits: float | None
    on_unknown: OnUnknown
    roughness: float
    files: int
    speeds: tuple[str, ...]
    records_vanish: bool
    lives: tuple[Life, ...]
    episodes: tuple[Episode, ...]
    jumps: tuple[Jump, ...]
    ends: float
    chains: bool
    callbacks: bool

    def lines(self) -> list[str]:
        """The script for people."""
        shown = [
            f"seed {self.seed}, {self.jobs} jobs ({', '.join(sorted(set(self.speeds)))}), "
            f"{self.files} files each{', some with chains' if self.chains else ''}"
            f"{', with callbacks' if self.callbacks else ''}",
            f"in flight {self.in_flight} (the service allows {self.running_limit}), cap "
            f"{self.max_credits}, on unknown {self.on_unknown}, roughness {self.roughness:g}, "
            f"old records {'vanish' if self.records_vanish else 'stay'}; calm from {self.ends:.0f} s",
        ]
        shown += [
            f"life {number}: {one.how} {one.after:.1f}, then {one.gap:.0f} s"
            f"{', a reboot' if one.reboot else ''}"
            f"{f', wall clock {one.wall:+.0f} s' if one.wall else ''}"
            f"{', the same list again' if one.same_list else ''}"
            for number, one in enumerate(self.lives, 1)
        ]
        shown += [f"{e.begins:.0f} to {e.ends:.0f} s: {e.kind} ({e.size})" for e in self.episodes]
        shown += [
            f"{one.at:.0f} s: the wall clock jumps {one.seconds:+.0f} s" for one in self.jumps
        ]
        return shown


def write(seed: int, jobs: int) -> Script:
    """The script of a seed."""
    draw = random.Random(f"script {seed} {jobs}")
    in_flight = draw.choice((5, 20, 50, 100, 100)) if jobs <= 1000 else draw.choice((50, 100, 100))
    speeds = tuple(draw.choices(tuple(SPEEDS), weights=(2, 5, 1), k=draw.choice((1, 2, 3))))
    takes = sum(sum(SPEEDS[speed]) / 2 for speed in speeds) / len(speeds)
    length = 300 + jobs * max(0.7, takes / in_flight)
    number = 4 + jobs // 500 + draw.randrange(5)
    longest_gaps = draw.randrange(3)
    lives = tuple(_life(draw, length, jobs, days=n < longest_gaps) for n in range(number))
    price = 25 * jobs
    # A draw of its own, so that seeds keep the worlds they had.
    more = random.Random(f"more {seed} {jobs}")
    return Script(
        seed=seed,
        jobs=jobs,
        in_flight=in_flight,
        running_limit=draw.choice((max(3, in_flight // 2), in_flight, in_flight + 20)),
        max_credits=draw.choice((None, None, draw.uniform(0.2, 0.9) * price)),
        on_unknown="repeat" if draw.random() < 0.15 else "park",
        roughness=draw.choice((0.3, 1.0, 1.0, 3.0)),
        files=draw.choice((1, 2, 2, 4)) if jobs <= 1000 else draw.choice((1, 2)),
        speeds=speeds,
        records_vanish=draw.random() < 0.5,
        lives=tuple(draw.sample(lives, len(lives))),
        episodes=_episodes(draw, length, 3 + jobs // 400),
        jumps=tuple(_jump(draw, length) for _ in range(draw.randrange(4))),
        ends=length,
        chains=more.random() < 0.4,
        callbacks=more.random() < 0.4,
    )


def _life(draw: random.Random, length: float, jobs: int, *, days: bool) -> Life:
    how: How = draw.choices(
        ("crash after a time", "crash at a step", "interrupt", "none"), weights=(4, 5, 2, 1)
    )[0]
    if how == "crash at a step":
        after = float(int(2 ** draw.uniform(0, (jobs * 6).bit_length())) + 1)
    else:
        after = draw.uniform(1, length / 3)
    if days:
        gap = draw.uniform(0.5, 20) * DAY
    else:
        gap = draw.choice((draw.uniform(1, 5), draw.uniform(1, 30), draw.uniform(30, 1500)))
    wall = draw.choice((0.0, 0.0, 0.0, draw.uniform(-7200, 7200), draw.uniform(-90, 90)))
    reboot = gap > 60 and draw.random() < 0.5
    return Life(how, after, gap, reboot, wall, same_list=draw.random() < 0.5)


def _episodes(draw: random.Random, length: float, number: int) -> tuple[Episode, ...]:
    made = []
    for _ in range(number):
        kind = draw.choices(EPISODES, weights=(4, 4, 3, 3, 1, 0.5, 0.5, 0.5, 2))[0]
        begins = draw.uniform(0, length)
        lasts = draw.choice((draw.uniform(5, 60), draw.uniform(60, 600)))
        size = draw.randrange(1, 20) if kind == "window storm" else draw.randrange(1, 120)
        made.append(Episode(kind, begins, min(length, begins + lasts), size))
    return tuple(sorted(made, key=lambda one: one.begins))


def _jump(draw: random.Random, length: float) -> Jump:
    span = draw.choice((30, 3600, DAY / 2))
    return Jump(draw.uniform(0, length), draw.uniform(-span, span))
