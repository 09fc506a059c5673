"""Downloads: files from a local nginx, ours beside aria2c, curl and plain aiohttp, in one run.

    python -m benchmarks.download [--rounds 3] [--large 4] [--small 400] [--folder DIR]

Needs nginx, aria2c and curl (Debian: apt-get install nginx-light aria2 curl). It starts nginx itself on
a free port of 127.0.0.1 and ends it again. Every contestant gets the same files, 16 at a time, in a
process of its own; rounds are played in turn, and the median of each figure is printed, with ratios to
plain aiohttp that hashes too. See README.md beside this file for what the figures mean.

CPU seconds of a Python program are counted from after its imports, of others from their start; those of
nginx are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

AT_A_TIME = 16
CHUNK = 1 << 20
SMALL = 1_572_864
LARGE = 256 << 20
FILES_PER_JOB = 4

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@attrs.frozen
class Load:
    """Files to fetch.

    Attributes:
        name: What to call it.
        urls: Where they are.
        digests: Their SHA-256, by file name.
        bytes: Their total size.
    """

    name: str
    urls: list[str]
    digests: dict[str, str]
    bytes: int


@attrs.frozen
class Figures:
    """What one contestant took for one load."""

    seconds: float
    cpu: float
    peak: float


# --- The server and its files ---------------------------------------------------------------------


def fill(root: Path, small: int, large: int) -> None:
    """Files that are pictures and videos by their beginning and their end, else noise."""
    noise = os.urandom(SMALL)
    for number in range(small):
        head = b"\xff\xd8\xff\xe0" + number.to_bytes(8, "big")
        (root / f"small-{number}.jpeg").write_bytes(head + noise[len(head) : -2] + b"\xff\xd9")
    for number in range(large):
        ftyp = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"
        with (root / f"large-{number}.mp4").open("wb") as file:
            file.write(ftyp)
            file.write((LARGE - len(ftyp)).to_bytes(4, "big") + b"mdat")
            left = LARGE - len(ftyp) - 8
            while left:
                piece = number.to_bytes(8, "big") + noise[: min(left, SMALL) - 8]
                piece = piece[:left]
                file.write(piece)
                left -= len(piece)


def load_of(kind: str, root: Path, port: int) -> Load:
    paths = sorted(root.glob(f"{kind}-*"))
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    urls = [f"http://127.0.0.1:{port}/{path.name}" for path in paths]
    return Load(kind, urls, digests, sum(path.stat().st_size for path in paths))


@contextmanager
def nginx(folder: Path, root: Path) -> Iterator[int]:
    """A server of these files; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, root=root, port=port))
    child = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError("nginx did not start; see " + str(folder / "error.log"))
        yield port
    finally:
        child.terminate()
        child.wait(10)


# --- Contestants written in Python; each runs in a child: python -m benchmarks.download --child ... ---


async def plain(load: Load, out: Path, *, hashing: bool, syncing: bool = False) -> None:
    """aiohttp as most programs use it: chunks of a MiB, written in the event loop."""
    import aiohttp

    names = iter(load.urls)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def worker() -> None:
            for url in names:
                name = url.rsplit("/", 1)[1]
                digest = hashlib.sha256()
                async with session.get(url) as response:
                    with (out / name).open("wb", buffering=0) as file:
                        async for chunk in response.content.iter_chunked(CHUNK):
                            if hashing:
                                digest.update(chunk)
                            file.write(chunk)
                        if syncing:
                            os.fsync(file.fileno())
                if hashing and digest.hexdigest() != load.digests[name]:
                    raise RuntimeError(f"{name}: damaged")

        await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))


async def with_aiofiles(load: Load, out: Path, *, hashing: bool) -> None:
    """The same with aiofiles: a thread for each write."""
    import aiofiles
    import aiohttp

    names = iter(load.urls)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def worker() -> None:
            for url in names:
                name = url.rsplit("/", 1)[1]
                digest = hashlib.sha256()
                async with session.get(url) as response, aiofiles.open(out / name, "wb") as file:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        if hashing:
                            digest.update(chunk)
                        await file.write(chunk)
                if hashing and digest.hexdigest() != load.digests[name]:
                    raise RuntimeError(f"{name}: damaged")

        await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))


async def prepare_ours(load: Load, out: Path) -> None:
    """A batch whose tasks have all succeeded, and of which no file is saved yet."""
    from kie_mj_async.batch import ledger_path
    from kie_mj_async.ledger import SqliteLedger
    from kie_mj_async.requests import TextToImage
    from kie_mj_async.rules import lifecycle

    now = datetime.now(UTC)
    per_job = FILES_PER_JOB if load.name == "small" else 1
    ledger = await SqliteLedger.open(ledger_path(out), "benchmark")
    async with ledger.staging() as staging:
        await staging.add([TextToImage(f"{n}") for n in range(len(load.urls) // per_job)])
    for number, planned in enumerate(await ledger.scan(0, len(load.urls))):
        job = planned
        urls = tuple(load.urls[number * per_job : (number + 1) * per_job])
        for move in (
            lifecycle.intent(now, 25),
            lifecycle.accepted(f"task-{number}", now),
            lifecycle.succeeded(
                urls, created_at=now, completed_at=now, expires_at=now + timedelta(days=14)
            ),
        ):
            job = await ledger.record(job, move)
    await ledger.aclose()


async def ours(load: Load, out: Path) -> None:
    """The whole of saving: hashed, recognised, synced, named, in the ledger and the manifest."""
    from kie_mj_async.client import Client
    from kie_mj_async.secret import Secret
    from kie_mj_async.settings import Settings

    settings = Settings(
        key=Secret("none"), base_url="http://127.0.0.1:9", host="benchmark", state_dir=out / "state"
    )
    async with Client.from_settings(settings) as client:
        async for _ in client.resume(out):
            pass
    lines = (out / "manifest.jsonl").read_text().splitlines()
    found = {json.loads(line)["sha256"] for line in lines}
    if found != set(load.digests.values()):
        raise RuntimeError("ours: not every file is there")


IN_PYTHON: dict[str, Callable[[Load, Path], Awaitable[None]]] = {
    "aiohttp": lambda load, out: plain(load, out, hashing=False),
    "aiohttp, hash": lambda load, out: plain(load, out, hashing=True),
    "aiohttp, hash, fsync": lambda load, out: plain(load, out, hashing=True, syncing=True),
    "aiohttp + aiofiles": lambda load, out: with_aiofiles(load, out, hashing=False),
    "aiohttp + aiofiles, hash": lambda load, out: with_aiofiles(load, out, hashing=True),
    "ours (hash, fsync, ledger)": ours,
}


def child(name: str, described: Path, out: Path) -> None:
    """Run one contestant and print its figures."""
    load = Load(**json.loads(described.read_text()))
    # What is imported is not what is measured.
    import aiofiles
    import aiohttp

    import kie_mj_async.client  # noqa: F401

    del aiofiles, aiohttp
    if IN_PYTHON[name] is ours:
        asyncio.run(prepare_ours(load, out))
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()

    async def run() -> None:
        await IN_PYTHON[name](load, out)

    asyncio.run(run())
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([seconds, cpu, peak_of("self")]))


# --- Contestants that are programs ----------------------------------------------------------------


def curl(load: Load, folder: Path, out: Path) -> list[str]:
    config = folder / f"curl-{load.name}"
    lines = [f'url = "{url}"\noutput = "{out / url.rsplit("/", 1)[1]}"' for url in load.urls]
    config.write_text("\n".join(lines) + "\n")
    return ["curl", "-s", "--parallel", "--parallel-max", str(AT_A_TIME), "-K", str(config)]


def aria2c(load: Load, folder: Path, out: Path, *, hashing: bool) -> list[str]:
    listed = folder / f"aria2c-{load.name}-{hashing}"
    lines = []
    for url in load.urls:
        name = url.rsplit("/", 1)[1]
        lines += [url, f"  dir={out}", f"  out={name}"]
        if hashing:
            lines.append(f"  checksum=sha-256={load.digests[name]}")
    listed.write_text("\n".join(lines) + "\n")
    return [
        *("aria2c", "-q", f"-j{AT_A_TIME}", "-x1", "-s1", "--file-allocation=none"),
        *("--no-conf", "-i", str(listed)),
    ]


def sha256sum(load: Load, out: Path) -> list[str]:
    return ["sha256sum", *(str(out / name) for name in load.digests)]


def measured(commands: list[list[str]]) -> Figures:
    """Run programs one after another; their time, CPU and peak memory."""
    began, cpu, peak = time.perf_counter(), 0.0, 0.0
    for command in commands:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while True:
            peak = max(peak, peak_of(running.pid))
            pid, status, usage = os.wait4(running.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.01)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise RuntimeError(f"{command[0]} ended with {running.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
    return Figures(time.perf_counter() - began, cpu, peak)


def peak_of(pid: int | str) -> float:
    """MiB that a process has needed so far. ru_maxrss will not do: a child is born with its parent's."""
    found = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else 0.0


def in_python(name: str, described: Path, out: Path) -> Figures:
    command = [sys.executable, "-m", "benchmarks.download", "--child", name]
    ended = subprocess.run(
        [*command, str(described), str(out)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{name}:\n{ended.stderr}")
    return Figures(*json.loads(ended.stdout))


def contestants(load: Load, folder: Path, out: Path) -> dict[str, Callable[[], Figures]]:
    described = folder / f"{load.name}.json"
    described.write_text(json.dumps(attrs.asdict(load)))
    programs: dict[str, list[list[str]]] = {
        "curl --parallel": [curl(load, folder, out)],
        "curl --parallel, sha256sum": [curl(load, folder, out), sha256sum(load, out)],
        "aria2c": [aria2c(load, folder, out, hashing=False)],
        "aria2c, its checksum": [aria2c(load, folder, out, hashing=True)],
    }
    runs: dict[str, Callable[[], Figures]] = {}
    for name in IN_PYTHON:
        runs[name] = lambda name=name: in_python(name, described, out)  # type: ignore[misc]
    for name, commands in programs.items():
        runs[name] = lambda commands=commands: measured(commands)  # type: ignore[misc]
    return runs


# --- The run --------------------------------------------------------------------------------------


def play(load: Load, folder: Path, rounds: int) -> dict[str, Figures]:
    """Every contestant in every round, in turn; the medians."""
    out = folder / "out"
    runs = contestants(load, folder, out)
    took: dict[str, list[Figures]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            subprocess.run(
                ["sync"], check=True
            )  # what the last one left to write is not this one's
            took[name].append(run())
            print(f"  round {number + 1}: {name}", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    middle: dict[str, Figures] = {}
    for name, figures in took.items():
        rows = zip(*(attrs.astuple(one) for one in figures), strict=True)
        middle[name] = Figures(*(statistics.median(row) for row in rows))
    return middle


def table(load: Load, took: dict[str, Figures]) -> None:
    base = took["aiohttp, hash"]
    size = load.bytes
    print(f"\n{len(load.urls)} files of {size / len(load.urls) / 2**20:g} MiB\n")
    print("| client | MB/s | CPU s per GiB | peak MiB | time | CPU |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, one in took.items():
        speed, cpu = size / 1e6 / one.seconds, one.cpu / (size / 2**30)
        ratios = f"{one.seconds / base.seconds:.2f} | {one.cpu / base.cpu:.2f}"
        print(f"| {name} | {speed:,.0f} | {cpu:.2f} | {one.peak:.0f} | {ratios} |")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=400)
    parser.add_argument("--large", type=int, default=4)
    parser.add_argument(
        "--folder", help="where to put everything (2.5 GB); a temporary one without"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        name, described, out = options.child
        child(name, Path(described), Path(out))
        return
    missing = [one for one in ("nginx", "aria2c", "curl") if shutil.which(one) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (apt-get install nginx-light aria2 curl)")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker is another user where root starts it
        root = folder / "files"
        root.mkdir()
        fill(root, options.small, options.large)
        with nginx(folder, root) as port:
            loads: list[Any] = [load_of("small", root, port), load_of("large", root, port)]
            results = [(load, play(load, folder, options.rounds)) for load in loads if load.urls]
    print("time and CPU: ratios to aiohttp with hashing, in this run")
    for load, took in results:
        table(load, took)


if __name__ == "__main__":
    main(sys.argv[1:])
