"""Import and start: what it costs to have the client, and the command line's first line.

    python -m benchmarks.import_time [--runs N]

Fresh interpreters, one after the other in turn, so that whatever else the machine does hits all alike.
Ratios are of whole starts, and of what comes on top of a bare interpreter's.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import attrs

TARGET = 1.15
"""``from kie_mj_async import Client``, as a multiple of ``import aiohttp``."""

KIE_MJ = shutil.which("kie-mj", path=str(Path(sys.executable).parent)) or "kie-mj"
BARE, AIOHTTP, CLIENT = "python -c pass", "import aiohttp", "from kie_mj_async import Client"
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    AIOHTTP: [sys.executable, "-c", AIOHTTP],
    CLIENT: [sys.executable, "-c", CLIENT],
    "Client() made": [sys.executable, "-c", f"{CLIENT}; Client('no-key')"],
    "import kie_mj_async": [sys.executable, "-c", "import kie_mj_async"],
    "kie-mj --help": [KIE_MJ, "--help"],
    "kie-mj render --help": [KIE_MJ, "render", "--help"],
    "kie-mj config": [KIE_MJ, "config"],
    "kie-mj completion bash": [KIE_MJ, "completion", "bash"],
}


@attrs.define
class Figures:
    """What one command took, in milliseconds a run."""

    wall: list[float] = attrs.Factory(list)
    cpu: list[float] = attrs.Factory(list)

    def run(self, command: list[str]) -> None:
        """Run it once more."""
        began, used = time.perf_counter(), children()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.wall.append(1000 * (time.perf_counter() - began))
        self.cpu.append(1000 * (children() - used))


def children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, Figures]:
    """Every command, in turn, after one round that warms the caches."""
    figures = {name: Figures() for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            figures[name].run(command)
    for one in figures.values():
        del one.wall[0], one.cpu[0]
    return figures


def ratio(figures: dict[str, Figures], name: str, *, over_bare: bool = False) -> float:
    """A command's median wall time as a multiple of aiohttp's, also of what exceeds a bare start."""
    base = statistics.median(figures[BARE].wall) if over_bare else 0.0
    ours, theirs = (statistics.median(figures[one].wall) - base for one in (name, AIOHTTP))
    return ours / theirs


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="of each command (20)")
    figures = measure(parser.parse_args().runs)
    print("| start | wall ms | CPU ms | over aiohttp | without the interpreter |")
    print("| --- | --- | --- | --- | --- |")
    for name, one in figures.items():
        whole, top = ratio(figures, name), ratio(figures, name, over_bare=True)
        wall, cpu = statistics.median(one.wall), statistics.median(one.cpu)
        print(f"| `{name}` | {wall:.0f} | {cpu:.0f} | {whole:.2f} | {top:.2f} |")
    reached = ratio(figures, CLIENT)
    print(f"\n{CLIENT}: {reached:.2f} times {AIOHTTP} (target {TARGET})")
    sys.exit(reached > TARGET)


if __name__ == "__main__":
    main()
