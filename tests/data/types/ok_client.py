"""A program that makes single pictures and a list of them, and looks at how each ended."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_never, assert_type

import kie_mj_async as mj


async def single() -> list[Path]:
    async with mj.Client() as client:
        assert_type(client, mj.Client)
        made = await client.generate("a fox in the snow", aspect_ratio="16:9", timeout=900)
        assert_type(made, mj.Generation)
        assert_type(made.urls, tuple[str, ...])
        task = await client.submit(mj.TextToImage("a lighthouse", version="niji6"))
        assert_type(task, mj.Task)
        assert_type(task.eta, mj.Left | None)
        bigger = await client.upscale(made.task_id, index=0)
        assert_type(await bigger.wait(), mj.Generation)
        assert_type(await client.credits(), float)
        return await made.save("fox/")


def described(outcome: mj.Outcome) -> str:
    match outcome:
        case mj.Saved(job, paths):
            assert_type(paths, tuple[Path, ...])
            return f"{job.prompt}: {len(paths)}"
        case mj.Failed(job, error) | mj.Expired(job, error) | mj.Unresolved(job, error):
            assert_type(error, mj.KieError)
            return f"{job.prompt}: {error}"
        case mj.Pending(job) | mj.Abandoned(job):
            assert_type(job.state, mj.State)
            return job.prompt
        case _:
            assert_never(outcome)


async def prompts() -> AsyncIterator[str | mj.Request]:
    yield "a fox"
    yield mj.ImageToVideo("it runs", image=Path("fox.png"))


async def many(client: mj.Client, out: Path) -> int:
    async with client.render(prompts(), out=out, speed="fast", deadline=3600) as batch:
        assert_type(batch, mj.Batch)
        async for outcome in batch:
            assert_type(outcome.job, mj.Job)
            print(described(outcome))
        counts = batch.summary()
        assert_type(counts, mj.Counts)
    async for outcome in client.archive(["9f47c52047dda21bb3df0488736cce57"], "archive/"):
        print(described(outcome))
    async for outcome in client.render(mj.read_prompts("prompts.txt"), "renders/"):
        print(described(outcome))
    return counts[mj.State.SAVED]


def billed(error: mj.KieError) -> bool:
    match error:
        case mj.TaskTimedOut() | mj.ReplyLost():
            return True
        case mj.ApiError():
            assert_type(error.message, str)
        case _:
            pass
    return error.billed == "yes"
