"""Runs that are killed and go on: what a crash test does, and what must hold afterwards.

``python -m tests.crash_runs --runs 50`` (``--seed N`` to begin with another seed) kills runs at
random moments while the service misbehaves, goes on with each to its end, compares the directory
with the simulator's books, and prints the figures. It exits with 1 if a law was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio.from_thread
import attrs

from kie_mj_async.archive import manifest, page
from kie_mj_async.batch import WORK_FOLDER, ledger_path
from kie_mj_async.cli.report import Exit
from kie_mj_async.errors import LedgerError
from kie_mj_async.jobs import Job, State
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.requests import ChainStep
from kie_mj_async.rules import naming
from kie_mj_async.simulator import Faults, Simulator

DRIVER: Final = Path(__file__).with_name("crash_driver.py")
SCALE: Final = 0.01
QUICK: Final = 0.004
"""The scale of runs that are killed at a point, not after a time."""
KILLED: Final = -signal.SIGKILL
ROUGH: Final = (
    "create.429=5%,poll.500=5%,poll.drop=5%,download.503=5%,download.truncate=5%,download.slow=5%"
)
BAD_LINKS: Final = "download.dead-link=15%,download.truncate=10%,download.html=7%,download.503=8%"
PATIENCE: Final = 50.0
"""Seconds that one process may take: far more than it needs."""


class Service:
    """A simulator in a thread with an event loop of its own, so that it outlives what is killed."""

    def __init__(
        self, portal: anyio.from_thread.BlockingPortal, sim: Simulator, scale: float
    ) -> None:
        self._portal = portal
        self._sim = sim
        self.url = sim.url
        self.scale = scale

    @property
    def books(self) -> dict[str, Any]:
        return self._portal.call(self._sim.books)

    def files(self, task_id: str) -> list[str]:
        """The digests of a task's results, as the service has them."""
        self._portal.call(setattr, self._sim.world, "faults", Faults())
        world = self._sim.world
        names = world.tasks[task_id].files(world.picture_suffix)
        return [_digest(_fetch(f"{self.url}/m/{name}")) for name in names]


@contextmanager
def serving(faults: str = "", *, seed: int = 0, scale: float = SCALE) -> Iterator[Service]:
    """A quick simulator."""
    # It would tell at length of each client that is killed in the middle of an answer.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    with anyio.from_thread.start_blocking_portal() as portal:
        sim = Simulator(time_scale=scale, picture_side=32, faults=faults, seed=seed)
        portal.call(sim.start)
        try:
            yield Service(portal, sim, scale)
        finally:
            portal.call(sim.aclose)


@attrs.frozen
class Tally:
    """What was found at the end of one run, or of many.

    Attributes:
        unresolved: Jobs that are told as of unknown fate.
        charged_twice: Jobs that were paid more than once.
        lost: Jobs that were paid, and do not know their task, without being unresolved.
        most_in_window: Creates in any window of the account.
        wrong: Anything else that must not be, in words.
    """

    runs: int = 0
    kills: int = 0
    jobs: int = 0
    saved: int = 0
    unresolved: int = 0
    charged_twice: int = 0
    lost: int = 0
    most_in_window: int = 0
    wrong: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether every law was kept."""
        return not (self.charged_twice or self.lost or self.wrong)

    def __add__(self, other: Tally) -> Tally:
        both = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        total = Tally(*(one + another for one, another in both))
        most = max(self.most_in_window, other.most_in_window)
        return attrs.evolve(total, most_in_window=most)


class Scene:
    """A prompt list, a batch directory, and the processes that work on them, one after the other.

    Args:
        folder: Where all of it is.
        service: Who is paid.
        jobs: How many prompts the list has.
        upscaled: Whether the first image of each is to be upscaled.
        listening: Whether rendering asks for callbacks, and listens to them.
    """

    def __init__(
        self,
        folder: Path,
        service: Service,
        jobs: int,
        *,
        upscaled: bool = False,
        listening: bool = False,
    ) -> None:
        self.service = service
        self.out = folder / "out"
        self.kills = 0
        self.log = folder / "log.txt"
        self._jobs = jobs * (1 + upscaled)
        self._more = ["--then", "upscale:0"] if upscaled else []
        if listening:
            place = f"127.0.0.1:{free_port()}"
            self._more += ["--callback-url", f"http://{place}/", "--listen", place]
            self._more += ["--timeout", "5"]
        self._list = folder / "prompts.txt"
        self._list.write_text("".join(f"a fox, number {n}\n" for n in range(jobs)))
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._environment = {
            **os.environ,
            "KIE_BASE_URL": service.url,
            "KIE_API_KEY": "sk-crash-0123456789abcdef",
            "KIE_STATE_DIR": str(folder / "state"),
            "PYTHONWARNINGS": "error",
        }

    def _command(self, *options: str, verb: str, in_flight: int) -> list[str]:
        what = ["resume"]
        if verb == "render":
            what = ["render", str(self._list), *self._more, "--out"]
        scale = self.service.scale
        window = f"20/{10 * scale:g}"
        return [
            *(sys.executable, str(DRIVER), "--scale", f"{scale:g}", *options, "--", *what),
            *(str(self.out), "--yes", "--rate", window, "--in-flight", str(in_flight)),
        ]

    def run(
        self,
        *options: str,
        verb: str = "render",
        in_flight: int = 100,
        under: Sequence[str] = (),
    ) -> int:
        """Run a process to its end, whichever that is; look at what it leaves.

        Args:
            *options: The driver's, such as when to die.
            verb: ``render`` or ``resume``.
            in_flight: Tasks that may run at once.
            under: A program, with its options, that runs the process.
        """
        command = [*under, *self._command(*options, verb=verb, in_flight=in_flight)]
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            code = subprocess.run(
                command, env=self._environment, stdout=log, stderr=log, timeout=PATIENCE
            ).returncode
        self.kills += code == KILLED
        for name, digest in self.visible().items():
            self._seen[name].add(digest)
        return code

    @property
    def staged(self) -> bool:
        """Whether the list is in the ledger."""
        try:
            return bool(self.read())
        except LedgerError:
            return False

    def read(self) -> list[Job]:
        """The jobs, as the ledger has them."""

        async def scan() -> list[Job]:
            ledger = await SqliteLedger.read(ledger_path(self.out))
            try:
                return await ledger.scan(0, 10 * self._jobs)
            finally:
                await ledger.aclose()

        return asyncio.run(scan())

    def visible(self) -> dict[str, str]:
        """What stands under a final name, and its digest."""
        kept = {WORK_FOLDER}
        for name in (manifest.NAME, page.NAME):
            kept |= {name, f".{name}.new"}
        files = self.out.iterdir() if self.out.exists() else ()
        return {path.name: _digest(path.read_bytes()) for path in files if path.name not in kept}

    def judge(self, code: int) -> Tally:
        """Compare the directory with the books, once the last process has ended with this code."""
        books = self.service.books
        jobs = self.read()
        names = _names(books)
        paid = defaultdict(list)
        for create, name in zip(books["creates"], names, strict=True):
            if create["charged"]:
                paid[name].append(create["task_id"])
        states = Counter(job.state for job in jobs)
        lost = [job for job in jobs if not _accounted(job, paid[_name(job)])]
        wrong = [
            *self._wrong_jobs(jobs, books),
            *self._wrong_files(jobs),
            *_wrong_code(code, states),
        ]
        return Tally(
            runs=1,
            kills=self.kills,
            jobs=len(jobs),
            saved=states[State.SAVED],
            unresolved=states[State.UNRESOLVED],
            charged_twice=sum(len(tasks) > 1 for tasks in paid.values()),
            lost=len(lost),
            most_in_window=books["most_requests_in_window"],
            wrong=tuple(wrong),
        )

    def _wrong_jobs(self, jobs: Sequence[Job], books: dict[str, Any]) -> Iterator[str]:
        if len(jobs) != self._jobs:
            yield f"{len(jobs)} jobs of a list of {self._jobs}"
        sent = Counter(_names(books))
        unresolved = {job.key for job in jobs if job.state is State.UNRESOLVED}
        for job in jobs:
            waits = job.state is State.PLANNED and _parent(job) in unresolved
            if job.state not in (State.SAVED, State.UNRESOLVED) and not waits:
                yield f"job {job.key} was left {job.state}: {job.trouble}"
            if sent[_name(job)] > job.attempts:
                yield f"job {job.key}: {sent[_name(job)]} creates, {job.attempts} intents"
            if job.state is State.UNRESOLVED and job.task_id is not None:
                yield f"job {job.key} is unresolved although its task is known"
        if books["most_requests_in_window"] > 20:
            yield f"{books['most_requests_in_window']} creates in a window"

    def _wrong_files(self, jobs: Sequence[Job]) -> Iterator[str]:
        truth = {
            naming.file_name(job.prompt, job.key, index, ".jpeg"): digest
            for job in jobs
            if job.task_id is not None
            for index, digest in enumerate(self.service.files(job.task_id))
        }
        now = self.visible()
        for name, digests in self._seen.items():
            if digests != {truth.get(name)}:
                yield f"{name} was not, at all times, what the service has"
            if name not in now:
                yield f"{name} is gone"
        recorded = {file.path: file.sha256 for job in jobs for file in job.files}
        if recorded != now:
            yield f"on disk, or in the ledger, but not both: {recorded.items() ^ now.items()}"
        lines = (self.out / manifest.NAME).read_text().splitlines()
        listed = [manifest_entry(line) for line in lines]
        if Counter(listed) != Counter(now.items()):
            yield f"on disk, or in the manifest, but not both: {set(listed) ^ set(now.items())}"
        leftovers = [*(self.out / WORK_FOLDER / "parts").iterdir(), *self.out.glob(".*.new")]
        if leftovers:
            yield f"leftovers: {leftovers}"


def manifest_entry(line: str) -> tuple[str, str]:
    """The path and the digest of a line of a manifest."""
    entry = json.loads(line)
    return entry["path"], entry["sha256"]


def random_run(
    seed: int,
    folder: Path,
    *,
    jobs: int = 30,
    kills: int = 3,
    faults: str = ROUGH,
    upscaled: bool = False,
    listening: bool = False,
) -> Tally:
    """A run that is killed at random moments, and then goes on to its end."""
    chance = random.Random(seed)
    with serving(faults, seed=seed) as service:
        scene = Scene(folder, service, jobs, upscaled=upscaled, listening=listening)
        for _ in range(2 * kills):
            scene.run("--seed", str(chance.randrange(10**6)), verb=_verb(scene, chance))
            if scene.kills == kills:
                break
        code: int = Exit.WORK_LEFT
        for _ in range(3):  # what the service made impossible is left for another time
            code = scene.run(verb=_verb(scene, chance))
            if code != Exit.WORK_LEFT:
                break
        return scene.judge(code)


def _verb(scene: Scene, chance: random.Random) -> str:
    return "resume" if chance.random() < 0.5 and scene.staged else "render"


def _name(job: Job) -> str:
    """What tells a job from the others of its list, as :func:`_names` does its creates."""
    step = isinstance(job.request, ChainStep)
    return f"{job.prompt}, upscaled" if step else job.prompt


def _names(books: dict[str, Any]) -> list[str]:
    """Which jobs the creates were for."""
    prompts: dict[str, str] = {one["task_id"]: one["prompt"] for one in books["creates"]}
    return [
        one["prompt"] or f"{prompts[one['body']['taskId']]}, upscaled" for one in books["creates"]
    ]


def _parent(job: Job) -> str | None:
    return job.request.parent if isinstance(job.request, ChainStep) else None


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def _accounted(job: Job, tasks: Sequence[str]) -> bool:
    """Whether every task that was accepted for a job is its own, or its fate is told as unknown."""
    return job.state is State.UNRESOLVED or [*tasks] == ([job.task_id] if job.task_id else [])


def _wrong_code(code: int, states: Counter[State]) -> Iterator[str]:
    expected = Exit.UNRESOLVED if states[State.UNRESOLVED] else Exit.DONE
    if code != expected:
        yield f"exit code {code} instead of {expected}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        content: bytes = answer.read()
    return content


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="the first run's")
    parser.add_argument("--jobs", type=int, default=30, help="of each run")
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--faults", default=ROUGH, help="what the service does meanwhile")
    options = parser.parse_args()
    began = time.monotonic()
    total = Tally()

    def one(seed: int) -> tuple[int, Tally, str]:
        with tempfile.TemporaryDirectory() as folder:
            tally = random_run(
                seed,
                Path(folder),
                jobs=options.jobs,
                kills=options.kills,
                faults=options.faults,
            )
            log = "" if tally.sound else (Path(folder) / "log.txt").read_text()
            return seed, tally, log

    seeds = range(options.seed, options.seed + options.runs)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as workers:
        for seed, tally, log in workers.map(one, seeds):
            verdict = "sound" if tally.sound else "BROKEN"
            say(
                f"seed {seed}: {tally.kills} kills, {tally.jobs} jobs, {tally.saved} saved, "
                f"{tally.unresolved} unresolved, {verdict}"
            )
            for line in tally.wrong:
                say(f"  {line}")
            if log:
                say(log)
            total += tally
    say("")
    say(f"runs {total.runs}, kills {total.kills}, jobs {total.jobs}, saved {total.saved}")
    say(
        f"charged twice {total.charged_twice}, lost {total.lost}, "
        f"unresolved {total.unresolved}, other violations {len(total.wrong)}"
    )
    say(f"most creates in a window {total.most_in_window}, {time.monotonic() - began:.0f} s")
    return 0 if total.sound else 1


if __name__ == "__main__":
    sys.exit(main())
