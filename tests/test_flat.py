"""Memory of a whole process does not grow with the number of files that it saves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.from_thread
import pytest
from aiohttp import web
from support import picture

from kie_mj_async.batch import ledger_path
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.requests import TextToImage
from kie_mj_async.rules import lifecycle

FILES_PER_JOB = 4

PROGRAM = """
import asyncio, sys
from pathlib import Path
from kie_mj_async.client import Client
from kie_mj_async.settings import Settings
from kie_mj_async.secret import Secret

async def main(out):
    settings = Settings(key=Secret("none"), base_url="http://127.0.0.1:9", host="flat", state_dir=out)
    async with Client.from_settings(settings) as client:
        async for _ in client.resume(out):
            pass

asyncio.run(main(Path(sys.argv[1])))
# Not ru_maxrss: a child is born with its parent's.
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(int(peak) / 1024)
"""


async def succeeded(out: Path, url: str, jobs: int) -> None:
    """A batch whose tasks have all succeeded, and of which no file is saved yet."""
    now = datetime.now(UTC)
    ledger = await SqliteLedger.open(ledger_path(out), "flat")
    async with ledger.staging() as staging:
        await staging.add([TextToImage(f"prompt {number}") for number in range(jobs)])

    async def play(number: int) -> None:
        job = (await ledger.scan(number, 1))[0]
        urls = tuple(f"{url}/{number}/{index}.png" for index in range(FILES_PER_JOB))
        for move in (
            lifecycle.intent(now, 25),
            lifecycle.accepted(f"t{number}", now),
            lifecycle.succeeded(
                urls, created_at=now, completed_at=now, expires_at=now + timedelta(days=14)
            ),
        ):
            job = await ledger.record(job, move)

    await asyncio.gather(*map(play, range(jobs)))
    await ledger.aclose()


def peak(out: Path, url: str, jobs: int) -> float:
    """MiB that a process needs at most to save these, once they are all on disk."""
    asyncio.run(succeeded(out, url, jobs))
    command = [sys.executable, "-c", PROGRAM, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert len({json.loads(line)["path"] for line in lines}) == jobs * FILES_PER_JOB
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_from_a_hundred_to_ten_thousand_files(tmp_path: Path) -> None:
    """Saving a hundred times as many files takes hardly more memory."""
    content = picture(size=16)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=content, headers={"ETag": '"fox"'})

    async def start() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_get("/{number}/{name}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    with anyio.from_thread.start_blocking_portal() as portal:
        runner, url = portal.call(start)
        try:
            few = peak(tmp_path / "few", url, 25)
            many = peak(tmp_path / "many", url, 2500)
        finally:
            portal.call(runner.cleanup)
    print(f"100 files: {few:.1f} MiB, 10,000 files: {many:.1f} MiB")  # noqa: T201
    # A hundred files do not fill the road, on which some six hundred are at a time.
    assert many < few + 16
