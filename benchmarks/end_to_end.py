"""End to end: a list of prompts to files, ours beside plain aiohttp and three vendors' SDKs, in one run.

    python -m benchmarks.end_to_end [--quick] [--folder DIR] [--only PART]

Needs tenacity, and replicate, fal-client and runwayml where they are to take part (pip install tenacity
replicate fal-client runwayml); uvloop makes the stub faster. Every client does the same jobs, in a
process of its own, on a stub service in another process that speaks its dialect. See README.md
beside this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import attrs

from benchmarks.peer_clients import CLIENTS, NEEDS, Figures, Work
from benchmarks.peer_world import World

REFERENCE = "aiohttp, exact window"
OURS = "**ours**"


@attrs.frozen
class Part:
    """One race.

    Attributes:
        name: What to call it on the command line.
        jobs: How many.
        scale: Factor on every duration.
        dropped: Share of creates whose reply is lost.
        clients: Who takes part.
    """

    name: str
    jobs: int
    scale: float
    dropped: float = 0.0
    clients: tuple[str, ...] = (REFERENCE, "aiohttp", "replicate", "fal-client", "runwayml", "ours")

    @property
    def title(self) -> str:
        """What to call it in print."""
        time = "real time" if self.scale == 1 else f"time x{self.scale:g}"
        lost = f", {self.dropped:.0%} of replies to creates lost" if self.dropped else ""
        return f"{self.jobs} jobs, {time}{lost}"


LOSING = (
    *(REFERENCE, "aiohttp, repeats on any error", "replicate", "fal-client", "runwayml", "ours"),
)
PARTS = (
    Part("thousand", 1000, 0.1),
    Part("hundred", 100, 0.1, clients=(*Part("", 1, 1).clients, "ours, again")),
    Part("real", 100, 1.0, clients=(*Part("", 1, 1).clients, "ours, again")),
    Part("lossy", 300, 0.1, 0.02, LOSING),
)
LONG = (Part("long", 1000, 1.0, clients=(REFERENCE, "ours")),)
"""Twenty minutes, so only where it is asked for."""
QUICK = (
    Part("hundred", 60, 0.1, clients=(*Part("", 1, 1).clients, "ours, again")),
    Part("lossy", 100, 0.1, 0.05, LOSING),
)


@attrs.frozen
class Result:
    """What a client did, in its own words and in the service's."""

    figures: Figures
    books: dict[str, Any]


@contextmanager
def stub(world: World, folder: Path) -> Iterator[str]:
    """The service in a process of its own; where it is."""
    described = folder / "world.json"
    described.write_text(json.dumps(attrs.asdict(world)))
    command = [sys.executable, "-m", "benchmarks.peer_stub", str(described)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = child.stdout.readline() if child.stdout is not None else ""
        yield f"http://127.0.0.1:{int(line)}"
    finally:
        child.terminate()
        child.wait(10)


def race(part: Part, folder: Path, name: str) -> Result:
    """One client, with a service of its own."""
    out, state = folder / "out", folder / "state"
    shutil.rmtree(out, ignore_errors=True)
    if name != "ours, again":
        shutil.rmtree(state, ignore_errors=True)
    os.sync()  # what the last one left to write is not this one's
    world = World(scale=part.scale, dropped=part.dropped)
    with stub(world, folder) as base:
        described = folder / "work.json"
        work = Work(base, part.jobs, part.scale, str(out), str(state))
        described.write_text(json.dumps(attrs.asdict(work)))
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.peer_clients", name, str(described)],
            capture_output=True,
            text=True,
            check=False,
            timeout=20 * world.bound(part.jobs) * part.scale + 120,
        )
        if ended.returncode:
            raise RuntimeError(f"{name}:\n{ended.stderr}")
        with urlopen(f"{base}/books") as reply:
            books = json.load(reply)
    shutil.rmtree(out, ignore_errors=True)
    return Result(Figures(**json.loads(ended.stdout.splitlines()[-1])), books)


def p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def table(part: Part, results: dict[str, Result]) -> None:
    """Speed, polls, delays and costs."""
    bound = World(scale=part.scale).bound(part.jobs)
    base = results.get(REFERENCE)
    print(f"\n{part.title} (bound {bound:.1f} s)\n")
    print(
        "| client | wall / bound | polls a job | delay mean / p95, s | 429s | CPU ms a job "
        "| CPU ratio | peak MiB | delivered |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, one in results.items():
        figures, books = one.figures, one.books
        delays = books["delays"]
        ratio = f"{figures.cpu / base.figures.cpu:.2f}" if base else "-"
        print(
            f"| {_shown(name)} | {figures.seconds / bound:.3f} | {books['polls'] / part.jobs:.1f} "
            f"| {statistics.fmean(delays):.2f} / {p95(delays):.2f} | {books['refused']} "
            f"| {figures.cpu / part.jobs * 1000:.1f} | {ratio} | {figures.peak:.0f} "
            f"| {figures.delivered} |"
        )
    for name, one in results.items():
        if one.figures.promise is not None:
            least, middle, most, took = one.figures.promise
            print(
                f"\n{_shown(name)}, half way: said {middle:.0f} s left ({least:.0f} to {most:.0f}), "
                f"took {took:.0f} s: {(middle - took) / took:+.1%}"
            )


def losses(part: Part, results: dict[str, Result]) -> None:
    """Who pays twice, and who loses what was paid."""
    print(f"\n{part.title}\n")
    print(
        "| client | replies lost | tasks paid | jobs paid twice | paid, not delivered | delivered "
        "| what it says of the rest |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, one in results.items():
        paid = one.books["paid"]
        twice = sum(count > 1 for count in paid.values())
        ends = ", ".join(f"{count} {end}" for end, count in one.figures.ends.items()) or "-"
        print(
            f"| {_shown(name)} | {one.books['dropped']} | {sum(paid.values())} | {twice} "
            f"| {len(paid) - one.figures.delivered} | {one.figures.delivered} | {ends} |"
        )


def _shown(name: str) -> str:
    return name.replace("ours", OURS)


def main(arguments: list[str]) -> None:
    """Run every part, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small, about two minutes")
    parser.add_argument(
        "--only",
        action="append",
        help="a part: thousand, hundred, real, lossy; or long, 1000 in real time",
    )
    parser.add_argument("--client", action="append", help="a client, such as ours")
    parser.add_argument("--folder", help="where to put everything (7 GB); a temporary one without")
    options = parser.parse_args(arguments)
    there = [name for name in CLIENTS if _is_there(name)]
    for name in CLIENTS.keys() - set(there):
        print(f"left out, for it is not installed: {name}", file=sys.stderr)
    parts = QUICK if options.quick else PARTS
    for part in parts if not options.only else (*parts, *LONG):
        if options.only and part.name not in options.only:
            continue
        results: dict[str, Result] = {}
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for name in part.clients:
                if name in there and (not options.client or name in options.client):
                    load = os.getloadavg()[0]
                    results[name] = race(part, Path(folder), name)
                    print(f"  {part.title}: {name} (load {load:.1f})", file=sys.stderr, flush=True)
        (losses if part.dropped else table)(part, results)
        sys.stdout.flush()


def _is_there(name: str) -> bool:
    return all(
        importlib.util.find_spec(module) is not None
        for module in ([NEEDS[name]] if name in NEEDS else [])
    )


if __name__ == "__main__":
    main(sys.argv[1:])
