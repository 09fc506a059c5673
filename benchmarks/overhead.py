"""Overhead: what ours itself costs, where the service costs nothing.

    python -m benchmarks.overhead [--quick] [--only PART] [--most JOBS] [--folder DIR]

Parts: ``requests`` (submit and wait over loopback, beside plain aiohttp), ``pending`` (tasks that are
waited for), ``batch`` (long lists, a service in memory, a ledger on disk), ``resume`` (the time to the
first request of a long batch). Each measurement has a process of its own. See README.md beside
this file for what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks import overhead_model as model
from benchmarks.overhead_model import cpu, memory

Figures = dict[str, float]


# --- Requests: submit and poll at zero latency ----------------------------------------------------


async def _posting(base: str, jobs: int, *, fresh: bool) -> Figures:
    """A hundred workers with aiohttp: a POST, a GET, two answers read."""
    import aiohttp

    numbers = iter(range(jobs))
    began, used = time.perf_counter(), cpu()
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(base, connector=connector))
        creates = session
        if fresh:
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            creates = await stack.enter_async_context(
                aiohttp.ClientSession(base, connector=connector)
            )

        async def worker() -> None:
            for number in numbers:
                body = {"taskType": "mj_txt2img", "prompt": model.prompt(number)}
                async with creates.post("/api/v1/mj/generate", json=body) as reply:
                    task_id = (await reply.json())["data"]["taskId"]
                query = {"taskId": task_id}
                async with session.get("/api/v1/mj/record-info", params=query) as reply:
                    if (await reply.json())["data"]["successFlag"] != 1:
                        raise RuntimeError("not done")

        await asyncio.gather(*(worker() for _ in range(model.AT_ONCE)))
    return {"seconds": time.perf_counter() - began, "cpu": cpu() - used}


async def plain(base: str, jobs: int, _folder: Path) -> Figures:
    """Plain aiohttp."""
    return await _posting(base, jobs, fresh=False)


async def plain_fresh(base: str, jobs: int, _folder: Path) -> Figures:
    """The same with a connection of its own for each POST, as ours."""
    return await _posting(base, jobs, fresh=True)


async def _through(client: Any, jobs: int) -> Figures:
    numbers = iter(range(jobs))
    async with client:
        began, used = time.perf_counter(), cpu()

        async def worker() -> None:
            for number in numbers:
                task = await client.submit(model.prompt(number))
                await task.wait()

        await asyncio.gather(*(worker() for _ in range(model.AT_ONCE)))
        return {"seconds": time.perf_counter() - began, "cpu": cpu() - used}


async def through_memory(base: str, jobs: int, _folder: Path) -> Figures:
    """``submit`` and ``wait``, remembered as long as the client lives."""
    return await _through(model.client(base), jobs)


async def through_ledger(base: str, jobs: int, folder: Path) -> Figures:
    """``submit`` and ``wait``, with a ledger on disk."""
    client = model.client(base)
    house: Any = client._house
    house._ledger_path = folder / "app.sqlite3"
    return await _through(client, jobs)


REQUESTS: dict[str, Callable[[str, int, Path], Awaitable[Figures]]] = {
    "aiohttp": plain,
    "aiohttp, a connection for each POST": plain_fresh,
    "ours, ledger in memory": through_memory,
    "ours, ledger on disk": through_ledger,
}


def requests(jobs: int, rounds: int, folder: Path) -> None:
    """Print the table."""
    from benchmarks.end_to_end import stub
    from benchmarks.peer_world import World

    best: dict[str, Figures] = {}
    with stub(World(scale=0.0), folder) as base:
        for _ in range(rounds):
            for name in REQUESTS:
                figures = measured("requests", name=name, base=base, jobs=jobs)
                if name not in best or figures["cpu"] < best[name]["cpu"]:
                    best[name] = figures
    print(f"\n{jobs:,} jobs over loopback, no latency, {model.AT_ONCE} at once\n")
    print("| client | jobs/s | CPU ms a job | CPU ratio |")
    print("| --- | --- | --- | --- |")
    for name, one in best.items():
        ratio = one["cpu"] / best["aiohttp"]["cpu"]
        speed, each = jobs / one["seconds"], one["cpu"] / jobs * 1000
        print(f"| {name} | {speed:,.0f} | {each:.2f} | {ratio:.2f} |")


# --- Pending: tasks that are waited for -----------------------------------------------------------


async def pending_child(tasks: int, looks: int) -> Figures:
    """Memory and CPU of so many pending tasks of a class that is known, in virtual time.

    They take longer than any before them, so that they are looked at for as long as it pleases.
    """
    from kie_mj_async.engine import house
    from kie_mj_async.requests import TextToImage
    from kie_mj_async.rules.kinds import kind_of
    from kie_mj_async.testing import virtual_clock

    house.Clock = virtual_clock  # type: ignore[attr-defined,assignment]
    service = model.NeverDone()
    client = model.client(service=service, polls_per_second=100.0, time_scale=1.0)
    poller = client._house.poller
    kind = kind_of(TextToImage("a fox", speed="fast"))
    chance = random.Random(7)
    async with client:
        for _ in range(50):
            client._house.forecast.observe(kind, chance.gauss(61.0, 3.5))

        async def bare() -> None:
            await asyncio.get_running_loop().create_future()

        async def wait(number: int) -> None:
            born = client._house.clock.now()
            await poller.watch(f"{number:032x}", kind, born=born, timeout=1e6)

        # asyncio's own set of all tasks grows in leaps, and would hide what a task costs.
        registry: Any = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(
            asyncio.tasks, "_all_tasks", None
        )

        def size_of(weak: Any) -> int:
            return sys.getsizeof(getattr(weak, "data", ()))

        async def standing(what: Callable[[int], Awaitable[None]]) -> tuple[float, list[Any]]:
            gc.collect()
            before = size_of(registry)
            tracemalloc.start()
            made = [asyncio.ensure_future(what(number)) for number in range(tasks)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            size = tracemalloc.get_traced_memory()[0] - (size_of(registry) - before)
            tracemalloc.stop()
            return size, made

        async def end(made: list[Any]) -> None:
            for one in made:
                one.cancel()
            await asyncio.gather(*made, return_exceptions=True)

        empty, made = await standing(lambda _: bare())
        await end(made)
        del made
        full, made = await standing(wait)
        await _until(lambda: service.reads >= looks // 10)
        first, used, began = service.reads, cpu(), time.perf_counter()
        await _until(lambda: service.reads - first >= looks)
        seconds, took, done = time.perf_counter() - began, cpu() - used, service.reads - first
        await end(made)
    return {
        "bytes": (full - empty) / tasks,
        "with_task": full / tasks,
        "step": took / done,
        "wall": seconds / done,
        "peak": memory("VmHWM"),
    }


async def _until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(1.0)


def pending(sizes: list[int], looks: int) -> None:
    """Print the table."""
    print(f"\nPending tasks of one class, virtual time, {looks:,} looks each\n")
    print("| pending | bytes each | with its asyncio task | CPU us a look | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    for tasks in sizes:
        one = measured("pending", tasks=tasks, looks=looks)
        print(
            f"| {tasks:,} | {one['bytes']:,.0f} | {one['with_task']:,.0f} "
            f"| {one['step'] * 1e6:.0f} | {one['peak']:.0f} |",
            flush=True,
        )


# --- Batch: long lists ----------------------------------------------------------------------------


async def batch_child(jobs: int, made: int, folder: Path) -> Figures:
    """A list from its first prompt to the last outcome, or to a number of them."""
    service = model.MemoryService()
    start = memory()
    figures: Figures = {}
    async with model.client(service=service) as client:
        used, began = cpu(), time.perf_counter()
        batch = client.render((model.prompt(number) for number in range(jobs)), folder)
        await batch.plan()
        figures |= {"planned": time.perf_counter() - began, "plan_cpu": cpu() - used}
        figures["plan_memory"] = memory("VmHWM")
        used, began = cpu(), time.perf_counter()
        count = 0
        async for _ in batch:
            if not count:
                figures["first"] = time.perf_counter() - began
                used, began = cpu(), time.perf_counter()
            count += 1
            if count >= made:
                break
        figures |= {"seconds": time.perf_counter() - began, "cpu": cpu() - used, "made": count}
    where = folder / ".kie-mj" / "ledger.sqlite3"
    return figures | {
        "start": start,
        "memory": memory(),
        "peak": memory("VmHWM"),
        "ledger": where.stat().st_size / 2**20,
    }


def batch(sizes: list[int], made: int) -> None:
    """Print the table."""
    print(
        f"\nBatches: a service and files in memory, a ledger on disk, {model.FILES} files a job\n"
    )
    print(
        "| prompts | made | plan us a job | plan peak MiB | first outcome s | CPU ms a job | jobs/s "
        "| peak MiB (start) | ledger MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for jobs in sizes:
        one = measured("batch", jobs=jobs, made=min(made, jobs))
        print(
            f"| {jobs:,} | {one['made']:,.0f} | {one['planned'] / jobs * 1e6:.0f} "
            f"| {one['plan_memory']:.0f} | {one['first']:.2f} "
            f"| {one['cpu'] / one['made'] * 1000:.2f} | {one['made'] / one['seconds']:,.0f} "
            f"| {one['peak']:.0f} ({one['start']:.0f}) | {one['ledger']:.0f} |",
            flush=True,
        )


# --- Resume: the time to the first useful request -------------------------------------------------


async def resume_child(jobs: int, saved: int, running: int, again: bool, folder: Path) -> Figures:
    """From opening a client to the first create, or the first look at a task."""
    service = model.MemoryService()
    used, began = cpu(), time.perf_counter()
    async with model.client(service=service) as client:
        if again:
            work = client.render((model.prompt(number) for number in range(jobs)), folder)
        else:
            work = client.resume(folder)
        await work.plan()
        planned = time.perf_counter() - began
        async for _ in work:
            if service.first is not None:
                break
    first = (service.first or time.perf_counter()) - began
    return {"planned": planned, "first": first, "cpu": cpu() - used, "peak": memory("VmHWM")}


def resume(jobs: int) -> None:
    """Print the table."""
    print(f"\nResume of a ledger with {jobs:,} jobs\n")
    print("| saved | generating | planned | by | plan s | first request s | CPU s | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for saved, running in ((2, 50), (jobs // 2, 50), (jobs - 1000, 50)):
        for again in (False, True):
            one = measured("resume", jobs=jobs, saved=saved, running=running, again=again)
            how = "render, the same list" if again else "resume"
            print(
                f"| {saved:,} | {running} | {jobs - saved - running:,} | {how} "
                f"| {one['planned']:.2f} | {one['first']:.2f} | {one['cpu']:.2f} "
                f"| {one['peak']:.0f} |",
                flush=True,
            )


# --- The run --------------------------------------------------------------------------------------


def measured(part: str, **wishes: Any) -> Figures:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--child", part]
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        if part == "resume":
            wanted = [wishes[name] for name in ("jobs", "saved", "running")]
            asyncio.run(model.make_ledger(Path(folder), *wanted))
        os.sync()
        ended = subprocess.run(
            [*command, json.dumps(wishes | {"folder": folder})],
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        raise RuntimeError(f"{part} {wishes}:\n{ended.stderr}")
    print(f"  {part} {wishes} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def child(part: str, wishes: dict[str, Any]) -> None:
    """One measurement; prints its figures."""
    folder = Path(wishes.pop("folder"))
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    work: Awaitable[Figures]
    if part == "requests":
        work = REQUESTS[wishes["name"]](wishes["base"], wishes["jobs"], folder)
    elif part == "pending":
        from kie_mj_async.testing import VirtualLoop

        work, loop = pending_child(**wishes), lambda: VirtualLoop(limit=1e6)
    else:
        work = (batch_child if part == "batch" else resume_child)(folder=folder, **wishes)

    async def run() -> Figures:
        return await work

    with asyncio.Runner(loop_factory=loop) as runner:
        print(json.dumps(runner.run(run())))


def main(arguments: list[str]) -> None:
    """Run the parts, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small, about a minute")
    parser.add_argument("--only", action="append", help="requests, pending, batch or resume")
    parser.add_argument("--most", type=int, help="the longest list, in prompts")
    parser.add_argument("--made", type=int, default=20_000, help="jobs of a list to make at most")
    parser.add_argument("--folder", help="where to put everything (2 GB); a temporary one without")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child[0], json.loads(options.child[1]))
        return
    if options.folder:
        os.environ["BENCHMARK_FOLDER"] = options.folder
    quick = options.quick
    most = options.most or (10_000 if quick else 1_000_000)
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= most]

    def over_loopback() -> None:
        with tempfile.TemporaryDirectory() as folder:
            requests(2_000 if quick else 5_000, 1 if quick else 3, Path(folder))

    parts: dict[str, Callable[[], None]] = {
        "requests": over_loopback,
        "pending": lambda: pending([100, 1_000, 10_000] + [100_000] * (not quick), 5_000),
        "batch": lambda: batch(sizes, 2_000 if quick else options.made),
        "resume": lambda: resume(10_000 if quick else 100_000),
    }
    for name, part in parts.items():
        if not options.only or name in options.only:
            with suppress(KeyboardInterrupt):
                part()


if __name__ == "__main__":
    main(sys.argv[1:])
