"""Clients that take a list of prompts to files, for ``end_to_end.py``: ours, plain aiohttp, three SDKs.

    python -m benchmarks.peer_clients NAME WORK.json        prints its figures as JSON

Each client but ours gets the same wrapper, for none can be given a rate: a hundred jobs at once, and
tenacity's exponential back-off with jitter after a 429. Their own intervals and waits are multiplied
by the work's ``scale``; nothing else about them is changed.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs

from benchmarks.peer_world import AT_ONCE, CREATES, FILE_BYTES, FILES, WINDOW, World

NAIVE_INTERVAL = 2.0
CHUNK = 1 << 20


@attrs.frozen
class Work:
    """What to do.

    Attributes:
        base: Where the service is.
        jobs: How many prompts.
        scale: Factor on every duration.
        out: Where files go.
        state: Where ours keeps what outlives a run.
    """

    base: str
    jobs: int
    scale: float
    out: str
    state: str

    def prompt(self, number: int) -> str:
        """The n-th prompt."""
        return f"a lighthouse in a storm, oil on canvas, number {number}"

    def path(self, number: int, index: int) -> Path:
        """Where a result goes."""
        return Path(self.out) / f"{number}-{index}.jpeg"


@attrs.frozen
class Figures:
    """What a client tells of itself.

    Attributes:
        seconds: From the first line of its work to the last, unscaled.
        cpu: CPU seconds, without those of its imports.
        peak: MiB of memory at the most.
        delivered: Jobs whose files are all there.
        ends: What became of the others, in the client's words.
        promise: Of ours, at half of the bound: the seconds left that it told of (least, middle, most),
            and those that it took, unscaled.
    """

    seconds: float
    cpu: float
    peak: float
    delivered: int
    ends: dict[str, int]
    promise: list[float] | None = None


Ends = Counter[str]
Job = Callable[[int], Awaitable[None]]


class TooMany(Exception):
    """A 429 of plain aiohttp's."""


def refused(error: BaseException) -> bool:
    """Whether an error of any client's is a 429."""
    codes = (getattr(error, name, None) for name in ("status", "status_code"))
    return isinstance(error, TooMany) or 429 in codes


def patient(
    work: Work, submit: Callable[[int], Awaitable[Any]], *, anything: bool = False
) -> Callable[[int], Awaitable[Any]]:
    """Again after a 429 (after anything that went wrong), with exponential back-off and jitter."""
    import tenacity

    again = tenacity.retry_if_exception(lambda error: anything or refused(error))
    wait = tenacity.wait_random_exponential(multiplier=work.scale, max=10 * work.scale)
    decorate = tenacity.retry(retry=again, wait=wait, stop=tenacity.stop_never, reraise=True)
    repeated: Callable[[int], Awaitable[Any]] = decorate(submit)
    return repeated


async def all_jobs(work: Work, job: Job) -> Ends:
    """Every job, a hundred at once; what became of those that failed."""
    ends: Ends = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            try:
                await job(number)
            except Exception as error:
                ends[type(error).__name__] += 1

    await asyncio.gather(*(one(number) for number in range(work.jobs)))
    return ends


async def written(path: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write what comes."""
    with path.open("wb", buffering=0) as file:
        async for chunk in chunks:
            file.write(chunk)


# --- Plain aiohttp --------------------------------------------------------------------------------


class Window:
    """Twenty places, each free again one window after its reply."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.free: asyncio.Queue[float] = asyncio.Queue()
        for _ in range(CREATES):
            self.free.put_nowait(0.0)

    async def __aenter__(self) -> None:
        await asyncio.sleep(await self.free.get() - time.monotonic())

    async def __aexit__(self, *_: object) -> None:
        self.free.put_nowait(time.monotonic() + self.seconds)


async def naive(work: Work, *, window: bool = False, anything: bool = False) -> Ends:
    """A look every two seconds."""
    import aiohttp

    places = Window(WINDOW * work.scale + 0.002) if window else None
    headers = {"Authorization": "Bearer none"}
    async with aiohttp.ClientSession(work.base, headers=headers) as session:

        async def post(number: int) -> str:
            body = {"taskType": "mj_txt2img", "speed": "fast", "prompt": work.prompt(number)}
            async with session.post("/api/v1/mj/generate", json=body) as reply:
                told = await reply.json()
            if told["code"] == 429:
                raise TooMany
            return str(told["data"]["taskId"])

        async def in_turn(number: int) -> str:
            if places is None:
                return await post(number)
            async with places:
                return await post(number)

        submit = patient(work, in_turn, anything=anything)

        async def job(number: int) -> None:
            task_id = await submit(number)
            while True:
                query = {"taskId": task_id}
                async with session.get("/api/v1/mj/record-info", params=query) as reply:
                    told = (await reply.json())["data"]
                if told["successFlag"] == 1:
                    break
                await asyncio.sleep(NAIVE_INTERVAL * work.scale)
            for index, link in enumerate(told["resultInfoJson"]["resultUrls"]):
                async with session.get(link["resultUrl"]) as reply:
                    chunks = reply.content.iter_chunked(CHUNK)
                    await written(work.path(number, index), aiter(chunks))

        return await all_jobs(work, job)


# --- SDKs -----------------------------------------------------------------------------------------


async def with_replicate(work: Work) -> Ends:
    """Replicate's client, with its own interval of half a second."""
    from replicate.client import Client
    from replicate.helpers import FileOutput

    os.environ["REPLICATE_POLL_INTERVAL"] = str(0.5 * work.scale)
    client = Client(api_token="none", base_url=work.base)

    async def create(number: int) -> Any:
        wish = {"prompt": work.prompt(number)}
        return await client.predictions.async_create(version="1", input=wish)

    submit = patient(work, create)

    async def job(number: int) -> None:
        prediction = await submit(number)
        await prediction.async_wait()
        for index, link in enumerate(prediction.output):
            await written(work.path(number, index), aiter(FileOutput(link, client)))

    return await all_jobs(work, job)


async def with_fal(work: Work) -> Ends:
    """fal's client, with its own interval of a tenth of a second."""
    import httpx
    from fal_client import AsyncClient
    from fal_client import client as module

    module.QUEUE_URL_FORMAT = f"{work.base}/fal/"
    own = module._get_retry_delay
    module._get_retry_delay = lambda *args, **options: own(*args, **options) * work.scale
    client = AsyncClient(key="none:none")

    async def create(number: int) -> Any:
        return await client.submit("midjourney/any", {"prompt": work.prompt(number)})

    submit = patient(work, create)
    async with httpx.AsyncClient(timeout=60) as files:

        async def job(number: int) -> None:
            told = await (await submit(number)).get(interval=0.1 * work.scale)
            for index, image in enumerate(told["images"]):
                async with files.stream("GET", image["url"]) as reply:
                    await written(work.path(number, index), reply.aiter_bytes(CHUNK))

        return await all_jobs(work, job)


async def with_runway(work: Work) -> Ends:
    """Runway's client, with its own interval of six seconds, give or take one and a half."""
    import httpx
    import runwayml
    from runwayml import _base_client
    from runwayml.lib import polling

    for module, name in (
        *((polling, name) for name in ("POLL_TIME", "POLL_JITTER")),
        *((_base_client, name) for name in ("INITIAL_RETRY_DELAY", "MAX_RETRY_DELAY")),
    ):
        setattr(module, name, getattr(module, name) * work.scale)
    client = runwayml.AsyncRunwayML(api_key="none", base_url=work.base)

    async def create(number: int) -> Any:
        wish = work.prompt(number)
        return await client.text_to_image.create(
            model="gen4_image", prompt_text=wish, ratio="1024:1024"
        )

    submit = patient(work, create)
    async with httpx.AsyncClient(timeout=60) as files:

        async def job(number: int) -> None:
            told = await (await submit(number)).wait_for_task_output()
            for index, link in enumerate(told.output):
                async with files.stream("GET", link) as reply:
                    await written(work.path(number, index), reply.aiter_bytes(CHUNK))

        return await all_jobs(work, job)


# --- Ours -----------------------------------------------------------------------------------------


async def ours(work: Work, promises: list[list[float]]) -> Ends:
    """The whole of a batch: ledger, window, hashes, syncs, manifest.

    Args:
        work: What to do.
        promises: Gets what :attr:`Figures.promise` tells.
    """
    from kie_mj_async.client import Client
    from kie_mj_async.jobs import Saved
    from kie_mj_async.rules.pacing import Rate
    from kie_mj_async.secret import Secret
    from kie_mj_async.settings import Settings

    settings = Settings(
        key=Secret("none"),
        base_url=work.base,
        host="benchmark",
        rate=Rate(CREATES, WINDOW * work.scale),
        in_flight=AT_ONCE,
        state_dir=Path(work.state),
        time_scale=work.scale,
    )
    ends: Ends = Counter()
    prompts = (work.prompt(number) for number in range(work.jobs))
    half = World(scale=work.scale).bound(work.jobs) / 2 * work.scale
    told: list[tuple[float, Any]] = []
    async with Client.from_settings(settings) as client:
        batch = client.render(prompts, work.out)
        clock = asyncio.get_running_loop()
        clock.call_later(half, lambda: told.append((clock.time(), batch.eta())))
        async for outcome in batch:
            if not isinstance(outcome, Saved):
                ends[type(outcome).__name__] += 1
        ended = clock.time()
    for at, left in told:
        if left is not None:
            seconds = [left.low, left.middle, left.high, ended - at]
            promises.append([one / work.scale for one in seconds])
    return ends


PROMISES: list[list[float]] = []
CLIENTS: dict[str, Callable[[Work], Awaitable[Ends]]] = {
    "aiohttp, exact window": lambda work: naive(work, window=True),
    "aiohttp": naive,
    "aiohttp, repeats on any error": lambda work: naive(work, window=True, anything=True),
    "replicate": with_replicate,
    "fal-client": with_fal,
    "runwayml": with_runway,
    "ours": lambda work: ours(work, PROMISES),
    "ours, again": lambda work: ours(work, PROMISES),
}
NEEDS = {"replicate": "replicate", "fal-client": "fal_client", "runwayml": "runwayml"}


def imported(name: str) -> None:
    """What is imported is not what is measured."""
    if name.startswith("ours"):
        import aiofiles
        import aiohttp

        import kie_mj_async.client  # noqa: F401

        del aiofiles, aiohttp
        return
    import tenacity

    del tenacity
    if name in NEEDS:
        import httpx

        module = __import__(NEEDS[name])
        if name == "runwayml":
            import runwayml.resources.text_to_image  # noqa: F401
        del httpx, module
    else:
        import aiohttp

        del aiohttp


def peak_of(pid: int | str) -> float:
    """MiB that a process has needed so far."""
    found = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else 0.0


def main(name: str, described: Path) -> None:
    """Do the work, and print the figures."""
    work = Work(**json.loads(described.read_text()))
    Path(work.out).mkdir(parents=True, exist_ok=True)
    imported(name)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()

    async def run() -> Ends:
        return await CLIENTS[name](work)

    ends = asyncio.run(run())
    seconds = (time.perf_counter() - began) / work.scale
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    whole = [path for path in Path(work.out).glob("*.jpeg") if path.stat().st_size == FILE_BYTES]
    promise = PROMISES[0] if PROMISES else None
    figures = Figures(seconds, cpu, peak_of("self"), len(whole) // FILES, dict(ends), promise)
    print(json.dumps(attrs.asdict(figures)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
