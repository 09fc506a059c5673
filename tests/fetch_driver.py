"""Fetches one file in this process, which kills itself at a chosen moment.

``python tests/fetch_driver.py URL FOLDER [POINT NTH]`` dies by SIGKILL when a failure point is reached
for the n-th time; without one it fetches the file to its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from crash_driver import die_at

from kie_mj_async.archive.directory import Directory
from kie_mj_async.archive.downloader import Downloader
from kie_mj_async.archive.parts import Parts
from kie_mj_async.archive.store import Place


async def main(url: str, folder: Path) -> None:
    place = Place(Directory(folder), Parts(folder / "parts"))
    await place.prepare()
    place.parts.sweep()
    async with Downloader(api_url=url, first_wait=0.0) as made:
        await made.fetch(url, 0, place, lambda ending, _: f"file{ending}", part="fox-0")


if __name__ == "__main__":
    if sys.argv[3:]:
        die_at(sys.argv[3], int(sys.argv[4]))  # type: ignore[arg-type]
    anyio.run(main, sys.argv[1], Path(sys.argv[2]))
