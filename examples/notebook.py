# %% [markdown]
"""Render a list in a notebook, cell by cell, and see how far it is.

Editors that know ``# %%`` run these cells in Jupyter. It is a program, too:

KIE_API_KEY=... python examples/notebook.py
"""

# %% What to render, and where to
from __future__ import annotations

import asyncio

import kie_mj_async as mj

OUT = "renders"
PROMPTS = ["a fox in the snow", "a lighthouse at dusk", "a {red, blue} kite over dunes --ar 16:9"]


# %% How far it is, in a line that is written over once a second
def line(now: mj.Progress) -> str:
    left = f", about {now.eta.middle:.0f} s left" if now.eta else ""
    return f"{now.ended} of {now.total} done, {now.files} files, {now.credits:g} credits{left}"


async def watch(batch: mj.Batch) -> None:
    while True:
        print(f"\r{line(batch.progress()):70}", end="", flush=True)
        await asyncio.sleep(1)


# %% The run. Interrupt it and run it again: it goes on where it stopped, and pays for nothing twice
async def render() -> list[mj.Outcome]:
    async with (
        mj.Client(max_credits=1000) as client,
        client.render(PROMPTS, out=OUT, speed="fast") as batch,
    ):
        watching = asyncio.create_task(watch(batch))
        try:
            outcomes = [outcome async for outcome in batch]
        finally:
            watching.cancel()
    print(f"\r{line(batch.progress()):70}")
    for outcome in outcomes:
        where = outcome.paths if isinstance(outcome, mj.Saved) else [outcome.error]
        print(type(outcome).__name__.lower(), outcome.job.prompt, *where, sep="  ")
    return outcomes


# %% Go. In a notebook it runs beside the cells below, and `await run` gives the outcomes
try:
    run = asyncio.get_running_loop().create_task(render())
except RuntimeError:  # a program, which has no loop yet
    asyncio.run(render())
