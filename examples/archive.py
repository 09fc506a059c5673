"""Save the results of tasks that were made elsewhere (a web app, a colleague), before they expire.

KIE_API_KEY=... python examples/archive.py task-ids.txt archive

The file holds a task id a line. It costs no credits; run it again, by cron say, and only what is new is
fetched. The exit code is 1 if something was not saved.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import anyio

import kie_mj_async as mj


async def ids(path: str) -> AsyncIterator[str]:
    """The ids of a file; any iterable will do, such as rows of a database."""
    async with await anyio.open_file(path) as lines:
        async for line in lines:
            if task_id := line.strip():
                yield task_id


async def main(path: str, out: str) -> int:
    missed = 0
    async with mj.Client() as client:
        async for outcome in client.archive(ids(path), out=out):
            match outcome:
                case mj.Saved(job, paths):
                    print("saved", job.task_id, *paths)
                case mj.Expired(job):
                    print("too late:", job.task_id)
                    missed += 1
                case _:
                    print("not saved, will be tried again:", outcome.job.task_id, outcome.error)
                    missed += 1
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
