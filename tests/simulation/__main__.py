"""Play many seeds: ``python -m tests.simulation --seeds 200 --jobs 10000``.

Prints what happened in numbers, also when interrupted. Exit 1 if a law was broken; the seeds that
broke it are told, and ``--seed N`` plays one again, event by event.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from .play import Played, be_quick, play

_SHOWN = (
    "jobs", "events", "creates", "polls", "callbacks", "429s", "crashes", "interrupts",
    "clock jumps",
)  # fmt: skip
_LAWS = ("unresolved", "adopted", "paid besides", "paid twice", "lost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the seeds asked for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one, and show its script and its end")
    parser.add_argument("--jobs", type=int, default=300, help="jobs in each list")
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args(arguments)
    be_quick()
    begun = time.perf_counter()
    played: list[Played] = []
    code = 0
    if chosen.seed is not None:
        played.append(play(chosen.seed, chosen.jobs))
        _say(played[0].report())
    else:
        seeds = range(chosen.first, chosen.first + chosen.seeds)
        try:
            for one in _played(seeds, chosen.jobs, chosen.processes):
                played.append(one)
                if one.broken:
                    _say(one.report())
                elif sys.stderr.isatty():
                    sys.stderr.write(f"\r{len(played)} of {len(seeds)} ")
        except KeyboardInterrupt:
            _say("stopped early; so far:")
            code = 130
    _say(figures(played, time.perf_counter() - begun))
    return 1 if any(one.broken for one in played) else code


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def figures(played: Sequence[Played], seconds: float) -> str:
    """What happened, in numbers."""
    total: Counter[str] = Counter()
    for one in played:
        total.update(one.figures)
    lines = [("seeds", f"{len(played):,}")]
    lines += [(name, f"{total[name]:,}") for name in _SHOWN]
    lines += [(name, f"{total[name]:,}") for name in _LAWS]
    lines += [
        ("virtual hours", f"{sum(one.virtual for one in played) / 3600:,.0f}"),
        ("wall seconds", f"{seconds:,.0f}"),
        ("ms a job", f"{1000 * sum(one.wall for one in played) / max(1, total['jobs']):.2f}"),
        ("laws broken in", f"{sum(bool(one.broken) for one in played):,} seeds"),
    ]
    return "\n".join(f"{name:>15}  {value}" for name, value in lines)


def _played(seeds: Sequence[int], jobs: int, processes: int) -> Iterator[Played]:
    if processes == 1:
        yield from (play(seed, jobs) for seed in seeds)
        return
    with ProcessPoolExecutor(processes, initializer=be_quick) as pool:
        try:
            for done in as_completed([pool.submit(play, seed, jobs) for seed in seeds]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
