"""Covers for a book shop: a picture for each book, ordered once, however often this runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import kie_mj_async as mj
from kie_mj_async.events import Event, FileSaved
from kie_mj_async.telemetry import Telemetry


@dataclass
class Covers:
    """What became of the books."""

    files: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    in_doubt: list[str] = field(default_factory=list[str])
    bytes: int = 0

    def hear(self, event: Event) -> None:
        """Count what is saved, as it is saved."""
        if isinstance(event, FileSaved):
            self.bytes += event.file.bytes

    def note(self, outcome: mj.Outcome) -> None:
        """Keep how a book's picture ended."""
        match outcome:
            case mj.Saved(job, paths):
                self.files[job.prompt] = list(paths)
            case mj.Unresolved(job):
                self.in_doubt.append(job.prompt)
            case _:
                self.missing[outcome.job.prompt] = str(outcome.error)


async def order(titles: Iterable[str], shelf: Path) -> Covers:
    """A cover for each title, in a directory."""
    covers = Covers()
    wanted = [mj.TextToImage(title, aspect_ratio="2:3", speed="fast") for title in titles]
    async with mj.Client(max_credits=500) as client:
        with client.subscribe(covers.hear), client.subscribe(Telemetry()):
            async for outcome in client.render(wanted, out=shelf):
                covers.note(outcome)
    return covers


if __name__ == "__main__":
    print(asyncio.run(order(sys.argv[2:], Path(sys.argv[1]))))
