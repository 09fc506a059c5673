"""Render, upscale, animate: chains of steps, each paid for once, each going on with results before it.

KIE_API_KEY=... python examples/chain.py renders "a fox in the snow" "a lighthouse at dusk"
"""

from __future__ import annotations

import asyncio
import sys

import kie_mj_async as mj

STEPS = [
    "upscale:0",  # the first of four images
    "video:0 it turns its head --motion low",  # what was upscaled
]


async def main(out: str, *prompts: str) -> None:
    async with mj.Client(max_credits=1000) as client:
        # 75 credits a prompt: three jobs. A step is sent as soon as the job before it has results.
        async for outcome in client.render(prompts, out=out, then=STEPS):
            title = outcome.job.title  # says which step it is
            if isinstance(outcome, mj.Saved):
                print("saved:", title, *outcome.paths, sep="\n  ")
            else:
                print(f"{type(outcome).__name__.lower()}: {title}: {outcome.error}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
