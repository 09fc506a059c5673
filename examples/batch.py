"""Render a prompt list from a program, and say what became of each prompt.

KIE_API_KEY=... python examples/batch.py examples/prompts.txt renders
"""

from __future__ import annotations

import asyncio
import sys

import kie_mj_async as mj


async def main(prompts: str, out: str) -> None:
    async with mj.Client(max_credits=1000) as client:
        async with client.render(mj.read_prompts(prompts), out=out, speed="fast") as batch:
            async for outcome in batch:
                match outcome:
                    case mj.Saved(job, paths):
                        print("saved", job.prompt, *paths)
                    case mj.Unresolved(job, error):
                        print("may have been paid:", job.prompt, error)
                    case _:
                        print(type(outcome).__name__.lower(), outcome.job.prompt, outcome.error)
        counts = batch.summary()
        print(f"{counts[mj.State.SAVED]} of {counts.total} saved, {counts.credits:g} credits")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
