"""``kie-mj status --forecast``: what was learned of how long tasks take, for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from .. import durations_file
from ..account import state_directory
from ..batch import WORK_FOLDER, check_batch, folder_of, ledger_path
from ..ledger import SqliteLedger
from ..rules.durations import Durations, Summary, histogram
from ..rules.forecast import Forecast
from ..settings import checked_base_url
from ..waiting import in_thread
from . import setup
from .view import count_of

_LOOKS: Final = 6


@attrs.frozen
class Learned:
    """What is known of a host.

    Attributes:
        host: The API host, as ledgers know it.
        path: Where it is kept.
        durations: What was learned.
        scale: How long a recorded second takes there.
    """

    host: str
    path: Path
    durations: Durations
    scale: float = 1.0

    def classes(self) -> list[tuple[Summary, list[float]]]:
        """What each class takes, and the ages at which a new task would be looked at; newest first."""
        forecast = Forecast(self.durations, scale=self.scale)
        kinds = reversed(self.durations.kinds())
        return [
            (summary, forecast.next_looks(kind, _LOOKS))
            for kind in kinds
            if (summary := self.durations.summary(kind)) is not None
        ]


async def read(out: str | None) -> Learned:
    """What is known of the host of a directory, or of the one that the environment names.

    Raises:
        InvalidRequest: The directory holds no batch.
        LedgerError: Its ledger cannot be read.
        ConfigError: The environment names no host that can be.
    """
    state_dir, scale = state_directory(), 1.0
    if out is None:
        host = checked_base_url(None)
    else:
        host = await _host_of(out)
        if host == setup.SIMULATED_HOST:
            state_dir, scale = folder_of(out) / WORK_FOLDER, setup.SIMULATED_SCALE
    path = durations_file.path_of(state_dir, host)
    return Learned(host, path, await in_thread(durations_file.load, path, scale), scale)


def tell(learned: Learned, say: Callable[[str], None]) -> None:
    """Say it."""
    classes = learned.classes()
    if not classes:
        say(f"{learned.host}: nothing is known yet of how long tasks take there")
        return
    tasks = count_of(sum(summary.count for summary, _ in classes), "task")
    say(f"{learned.host}: how long tasks took there, from the last {tasks} ({learned.path})")
    for summary, looks in classes:
        say("")
        say(f"{summary.kind.name}")
        say(
            f"  n {summary.count} · median {_short(summary.median)} s · "
            f"p10 {_short(summary.p10)} s · p90 {_short(summary.p90)} s"
        )
        if summary.recent < 0.5 * summary.count:
            say(f"  the service has changed: of these the newest {summary.recent:.0f} or so count")
        say(f"  a new one is looked at after {', '.join(map(_short, looks))} s")
        for row in histogram(learned.durations.seconds(summary.kind)):
            say(f"    {row}")


def plain(learned: Learned) -> dict[str, Any]:
    """The same for ``--json``: ages and durations in seconds."""
    return {
        "host": learned.host,
        "classes": [
            {
                **attrs.asdict(summary.kind),
                "n": summary.count,
                "recent": round(summary.recent, 1),
                "median": summary.median,
                "p10": summary.p10,
                "p90": summary.p90,
                "next_checks": looks,
            }
            for summary, looks in learned.classes()
        ],
    }


async def _host_of(out: str) -> str:
    check_batch(out)
    ledger = await SqliteLedger.read(ledger_path(out))
    try:
        return await ledger.host()
    finally:
        await ledger.aclose()


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"
