"""Polling: when to look at tasks, ours beside what clients do and beside the optimum, in virtual time.

    python -m benchmarks.polling [--seeds 40] [--svg benchmarks/polling.svg [--only-svg]]

No sockets and no clock: durations are drawn, looks are counted, delays are exact. A look costs no time.
The optimum is the schedule that knows the true distribution. Cost is seconds of delay plus a price a
look. See README.md beside this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.chart import Line, Panel, svg
from benchmarks.polling_model import (
    FAST,
    RECORDED,
    TRUTHS,
    After,
    Job,
    Plain,
    Policy,
    Truth,
    backing_off,
    cost,
    every,
    exact,
    learned_schedule,
    optimum,
    play,
)
from kie_mj_async.rules.crowd import Pending
from kie_mj_async.rules.durations import Durations
from kie_mj_async.rules.forecast import PRICE, Forecast
from kie_mj_async.rules.kinds import Kind
from kie_mj_async.rules.schedule import Schedule

PRICES = (0.05, 0.1, 0.15, 0.3, 0.5, 1.0, 2.0, 4.0)
FIXED = (0.5, 2.0, 5.0, 30.0)

# --- The tables -----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row) + " |")
    print()


def taught(truth: Truth, kind: Kind, count: int, seed: int) -> Durations:
    chance = random.Random(f"{seed} {truth}")
    durations = Durations()
    for _ in range(count):
        durations.observe(kind, truth.draw(chance))
    return durations


def out_of_sample(
    truth: Truth, kind: Kind, count: int, price: float, seeds: int
) -> tuple[float, float]:
    """Looks and mean delay of a schedule learned from so many durations, the mean over seeds."""
    figures = [
        exact(truth, learned_schedule(taught(truth, kind, count, seed), kind, price))
        for seed in range(seeds)
    ]
    return statistics.mean(a for a, _ in figures), statistics.mean(b for _, b in figures)


Figures = tuple[float, float]
"""Looks a job and mean delay."""

Way = Callable[[Kind, Truth], Figures]
"""How one looks at tasks of a class, in figures."""


def mixed(figures: Way) -> Figures:
    """Looks and delay on the recordings' mix, whose classes are known apart."""
    parts = [(share, figures(kind, truth)) for share, kind, truth in RECORDED]
    return sum(s * f[0] for s, f in parts), sum(s * f[1] for s, f in parts)


def at_best(price: float) -> Way:
    return lambda _kind, truth: optimum(truth, price)


def learned(count: int, price: float, seeds: int) -> Way:
    return lambda kind, truth: out_of_sample(truth, kind, count, price, seeds)


def blindly(after: After) -> Way:
    return lambda _kind, truth: exact(truth, after)


Curve = list[Figures]


def curves(seeds: int) -> dict[str, dict[str, Curve]]:
    """Looks against delay on each distribution, for each way to look."""
    found: dict[str, dict[str, Curve]] = {}

    def add(name: str, figures: Callable[[Way], Figures]) -> None:
        found[name] = {
            "optimum": [figures(at_best(price)) for price in PRICES],
            "ours, after 200": [figures(learned(200, price, seeds)) for price in PRICES],
            "ours, after 30": [figures(learned(30, price, seeds)) for price in PRICES],
            "fixed": [figures(blindly(every(seconds))) for seconds in FIXED],
            "back-off 1, 2, 4 .. 30 s": [figures(blindly(backing_off))],
        }

    add("the recordings' mix", mixed)
    for name, truth in TRUTHS.items():
        if name != "normal(61, 3.5)":
            add(name, partial(told_of, truth))
    return found


def told_of(truth: Truth, way: Way) -> Figures:
    return way(FAST, truth)


def at_delay(curve: Curve, delay: float) -> float:
    """Looks where a curve passes a mean delay, interpolated."""
    for (more, sooner), (fewer, later) in itertools.pairwise(curve):
        if sooner <= delay <= later:
            part = math.log(delay / sooner) / math.log(later / sooner)
            return float(more * (fewer / more) ** part)
    return math.nan


def show_curves(found: dict[str, dict[str, Curve]]) -> None:
    print("### Looks a job and mean delay, s\n")
    rows: list[list[object]] = []
    for name, lines in found.items():
        fixed = lines["fixed"]
        for i, seconds in enumerate(FIXED):
            rows.append([name, f"fixed {seconds:g} s", *fixed[i]])
        rows.append([name, "back-off", *lines["back-off 1, 2, 4 .. 30 s"][0]])
        for price in (PRICE, 0.3, 1.0):
            place = PRICES.index(price)
            for way in ("ours, after 30", "ours, after 200", "optimum"):
                label = f"{way}, {price:g} s a look"
                rows.append(
                    [
                        name,
                        f"**{label}**" if price == PRICE and "30" in way else label,
                        *lines[way][place],
                    ]
                )
    table(["durations", "who", "looks", "delay"], rows)
    print("### At the mean delay of a fixed 2 s poller: looks, as a share of its looks\n")
    rows = []
    for name, lines in found.items():
        looks, delay = lines["fixed"][1]
        shares = [
            at_delay(lines[w], delay) / looks
            for w in ("ours, after 30", "ours, after 200", "optimum")
        ]
        rows.append([name, looks, delay, *shares])
    table(
        ["durations", "its looks", "its delay", "ours, after 30", "ours, after 200", "optimum"],
        rows,
    )


def show_learning(seeds: int) -> None:
    print("### Cost over the optimum's, out of sample, after so many completions\n")
    rows: list[list[object]] = []
    for name, truth in TRUTHS.items():
        for price in (PRICE, 0.3, 1.0):
            best = cost(optimum(truth, price), price)
            ratios = [
                cost(out_of_sample(truth, FAST, n, price, seeds), price) / best
                for n in (3, 10, 30, 100, 200)
            ]
            rows.append([name, price, *ratios])
    table(["durations", "price", "3", "10", "30", "100", "200"], rows)


def cold_in_turn(truth: Truth, price: float, wrong: float, seed: int) -> float:
    chance = random.Random(f"{seed} {truth}")
    durations = Durations(truth.mean / FAST.usual * wrong)
    total = 0.0
    for _ in range(20):
        total += cost(exact(truth, learned_schedule(durations, FAST, price)), price)
        durations.observe(FAST, truth.draw(chance))
    return total / 20 / cost(optimum(truth, price), price)


def cold_at_once(truth: Truth, price: float, wrong: float, seed: int, count: int = 20) -> float:
    chance = random.Random(f"{seed} {truth}")
    forecast = Forecast(Durations(truth.mean / FAST.usual * wrong), polls=1000, scale=price / PRICE)
    jobs = [Job(0.0, FAST, truth.draw(chance)) for _ in range(count)]
    return play(forecast, jobs).cost(price) / cost(optimum(truth, price), price)


def show_cold(seeds: int) -> None:
    print(
        "### Cold: cost of the first twenty over the optimum's, by how wrong the guess before was\n"
    )
    rows: list[list[object]] = []
    for name, truth in TRUTHS.items():
        for price in (PRICE, 0.3, 1.0):
            for way, figure in (("in turn", cold_in_turn), ("at once", cold_at_once)):
                rows.append(
                    [
                        name,
                        price,
                        way,
                        *(
                            statistics.mean(
                                figure(truth, price, wrong, seed) for seed in range(seeds)
                            )
                            for wrong in (1, 5, 0.2)
                        ),
                    ]
                )
    table(["durations", "price", "tasks", "right", "5x long", "5x short"], rows)


def contestants() -> list[tuple[str, Callable[[], Policy]]]:
    return [
        ("**ours**", lambda: Forecast(polls=5.0)),
        *((f"fixed {seconds:g} s", partial(Plain, every(seconds))) for seconds in FIXED),
        ("back-off", partial(Plain, backing_off)),
    ]


def show_played(
    title: str, make: Callable[[random.Random], list[Job]], seeds: int, polls: float = math.inf
) -> None:
    print(f"### {title}\n")
    rows: list[list[object]] = []
    for name, policy in contestants():
        runs = [play(policy(), make(random.Random(seed)), polls) for seed in range(seeds)]
        costs = statistics.mean(run.cost(PRICE) for run in runs)
        delay = statistics.mean(statistics.mean(run.delays) for run in runs)
        rows.append(
            [
                name,
                statistics.mean(run.per_job for run in runs),
                delay,
                statistics.mean(run.p95 for run in runs),
                costs,
            ]
        )
    for row in rows:
        row.append(float(row[4]) / float(rows[0][4]))  # type: ignore[arg-type]
    table(["who", "looks a job", "mean delay", "p95", "cost", "over ours"], rows)


def drifting(truth: Truth) -> Callable[[random.Random], list[Job]]:
    """Three hundred jobs, one every 4 s; 1.5x slower from the 100th on, 1.5x faster than at first from
    the 200th."""

    def make(chance: random.Random) -> list[Job]:
        jobs = []
        for number in range(300):
            factor = (1.0, 1.5, 0.67)[number // 100]
            jobs.append(Job(number * 4.0, FAST, truth.slower(factor).draw(chance)))
        return jobs

    return make


def cold_batch(chance: random.Random) -> list[Job]:
    """Thirty jobs as the account's window lets them go."""
    return [
        Job(10.0 * (n // 20) + 0.05 * (n % 20), FAST, TRUTHS["normal(61, 3.5)"].draw(chance))
        for n in range(30)
    ]


def full_window(count: int) -> Callable[[random.Random], list[Job]]:
    """Jobs of the recordings' mix at two a second, so that 5 polls a second are 2.5 a job."""

    def make(chance: random.Random) -> list[Job]:
        weights = [share for share, _, _ in RECORDED]
        jobs = []
        for n in range(count):
            _, kind, truth = chance.choices(RECORDED, weights)[0]
            jobs.append(Job(10.0 * (n // 20) + 0.05 * (n % 20), kind, truth.draw(chance)))
        return jobs

    return make


def show_costs() -> None:
    print("### What it costs (this machine, busy or not)\n")
    durations = taught(TRUTHS["log-normal(20, 0.35)"], FAST, 200, 1)
    rows: list[list[object]] = []

    def timed(what: str, rounds: int, body: Callable[[int], object]) -> None:
        began = time.perf_counter()
        for i in range(rounds):
            body(i)
        rows.append([what, f"{(time.perf_counter() - began) / rounds * 1e6:,.1f}"])

    spread = durations.spread(FAST)
    schedule = Schedule(spread.ages, spread.weights, spread.sums, PRICE)
    timed(
        f"a distribution from 200 durations ({len(spread.ages)} bins)",
        100,
        lambda _: durations.spread(FAST),
    )
    timed(
        "a schedule solved for",
        100,
        lambda _: Schedule(spread.ages, spread.weights, spread.sums, PRICE),
    )
    timed("the next look", 20_000, lambda i: schedule.after(i * 0.01))
    timed("a duration taken in", 200, lambda i: durations.observe(FAST, 15.0 + i % 10))
    forecast = Forecast(durations)
    tracemalloc.start()
    tasks = [Pending(FAST, i * 0.5) for i in range(100_000)]
    for task in tasks:
        forecast.started(task, 50_000.0)
    size = tracemalloc.get_traced_memory()[0] / len(tasks)
    tracemalloc.stop()
    forecast.wait(tasks[0], 50_000.0)
    timed("asked about one of 100,000 tasks", 20_000, lambda i: forecast.wait(tasks[i], 50_000.0))
    timed("... and the price chosen anew", 20, lambda i: forecast.wait(tasks[i], 50_010.0 + 10 * i))
    timed("a task ended, of 100,000", 5_000, lambda i: forecast.ended(tasks[i], 50_300.0, None))
    table(["what", "microseconds"], rows)
    print(
        f"{size:.0f} bytes a pending task; price with 100,000 pending: {forecast.price:,.0f} s a look.\n"
    )


COLOURS = {
    "optimum": "#000000",
    "ours, after 200": "#0a7d32",
    "ours, after 30": "#6cc04a",
    "fixed": "#c0392b",
    "back-off 1, 2, 4 .. 30 s": "#2c6fbb",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--svg", type=Path, help="draw the curves into this file")
    parser.add_argument("--only-svg", action="store_true", help="and do nothing else")
    given = parser.parse_args()
    found = curves(given.seeds)
    if given.svg:
        panels = [
            Panel(
                name,
                [
                    Line(
                        way,
                        COLOURS[way],
                        points,
                        dashed=way == "optimum",
                        labels=[f"{one:g} s" for one in FIXED] if way == "fixed" else (),
                    )
                    for way, points in lines.items()
                ],
            )
            for name, lines in found.items()
        ]
        given.svg.write_text(svg(panels, "looks a job", "mean delay, s"))
        if given.only_svg:
            return
    show_curves(found)
    show_learning(given.seeds)
    show_cold(given.seeds)
    few = max(1, given.seeds // 4)
    show_played(
        "A drifting service: 300 jobs of normal(61, 3.5), then 1.5x slower, then 1.5x faster",
        drifting(TRUTHS["normal(61, 3.5)"]),
        few,
    )
    show_played("The same with log-normal(20, 0.35)", drifting(TRUTHS["log-normal(20, 0.35)"]), few)
    show_played("A cold start of 30 jobs of normal(61, 3.5)", cold_batch, given.seeds)
    show_played(
        "600 jobs of the recordings' mix at 2 a second, all within 5 polls a second",
        full_window(600),
        few,
        polls=5.0,
    )
    show_costs()


if __name__ == "__main__":
    main()
