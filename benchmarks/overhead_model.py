"""The world of ``overhead.py``: a service and files in memory, and a client that uses them."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from kie_mj_async.archive.manifest import Manifest
from kie_mj_async.batch import ledger_path
from kie_mj_async.client import Client
from kie_mj_async.jobs import SavedFile
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.base import each_job
from kie_mj_async.requests import Request, TextToImage
from kie_mj_async.rules import lifecycle, wire
from kie_mj_async.rules.billing import Silence
from kie_mj_async.rules.pacing import Rate
from kie_mj_async.secret import Secret
from kie_mj_async.settings import Settings

FILES = 4
HOST = "benchmark"
AT_ONCE = 100
NOW = datetime(2026, 11, 22, tzinfo=UTC)
LINKS = tuple(f"https://files.example/{index}.jpeg" for index in range(FILES))


class MemoryService:
    """A service that has every task done at once.

    Attributes:
        first: When it was first asked to make or to tell of a task.
    """

    def __init__(self) -> None:
        self.creates = 0
        self.reads = 0
        self.first: float | None = None

    async def __aenter__(self) -> MemoryService:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        return None

    async def create(
        self, _request: Request, *, may_send: Callable[[], bool]
    ) -> wire.Reply | Silence:
        """Accept."""
        self.first = self.first or time.perf_counter()
        self.creates += 1
        body = b'{"code": 200, "msg": "success", "data": {"taskId": "%032x"}}' % self.creates
        return wire.Reply(200, body)

    async def record(self, task_id: str) -> wire.Record:
        """It has succeeded."""
        self.first = self.first or time.perf_counter()
        self.reads += 1
        now = datetime.now(UTC)
        return wire.Record(task_id, wire.Status.SUCCEEDED, 1, LINKS, now, now)

    async def fresh_link(self, url: str) -> str:
        """The same."""
        return url

    async def credits(self) -> float:
        """Plenty."""
        return 1e12


class NeverDone(MemoryService):
    """A service whose tasks never end."""

    async def record(self, task_id: str) -> wire.Record:
        """It is generating."""
        self.reads += 1
        return wire.Record(task_id, wire.Status.GENERATING, 0)


class MemorySaver:
    """Keeps no files, and says that it has."""

    async def save(
        self,
        _task_id: str,
        urls: Sequence[str],
        wanted: Collection[int],
        _into: object,
        *,
        name: Callable[[int], Callable[[str, int], str]],
        keep: Callable[[SavedFile], Awaitable[None]],
        **_options: Any,
    ) -> None:
        """Every file is there at once."""
        for index in wanted:
            await keep(saved_file(index, name(index)("jpeg", 1), urls[index]))


def saved_file(index: int, path: str, url: str) -> SavedFile:
    """A file as it would be on disk."""
    return SavedFile(index, path, url, "0" * 64, 1_572_864, "image/jpeg", 1024, 1024, NOW)


def client(
    base_url: str = "http://127.0.0.1:9", service: MemoryService | None = None, **options: Any
) -> Client:
    """A client without limits, whose service may be in memory.

    Args:
        base_url: Where the service is, where it is not in memory.
        service: The service in memory.
        **options: More of ``Settings``.
    """
    settings = Settings(
        key=Secret("none"),
        base_url=base_url,
        host=HOST,
        # As good as none, and few slots in the window at any time.
        rate=Rate(1_000_000, 0.0001),
        in_flight=AT_ONCE,
        **({"polls_per_second": 1e6, "time_scale": 1e-6} | options),
    )
    made = Client.from_settings(settings)
    if service is not None:
        house: Any = made._house
        house.transport = house.poller._reader = service
        house.saver = MemorySaver()
    return made


def prompt(number: int) -> str:
    """A prompt of a usual length."""
    return f"a lighthouse in a storm, oil on canvas, heavy impasto, golden hour, number {number}"


async def make_ledger(out: Path, jobs: int, saved: int, running: int) -> None:
    """The ledger of a batch that was stopped midway: some saved, some generating, the rest planned."""
    path = ledger_path(out)
    ledger = await SqliteLedger.open(path, HOST)
    async with ledger.staging() as staging:
        for start in range(0, jobs, 500):
            numbers = range(start, min(jobs, start + 500))
            await staging.add([TextToImage(prompt(number)) for number in numbers])
    first, second = await ledger.scan(0, 2)
    now = datetime.now(UTC)
    expires_at = now + timedelta(days=14)
    ended = lifecycle.succeeded(LINKS, created_at=now, completed_at=now, expires_at=expires_at)
    files = [
        saved_file(index, f"a-lighthouse-{index}.jpeg", LINKS[index]) for index in range(FILES)
    ]
    moves = [
        *(lifecycle.intent(now, 25.0), lifecycle.accepted("0" * 32, now), ended),
        *(lifecycle.file_saved(file) for file in files),
        lifecycle.saved(),
    ]
    for move in moves:
        first = await ledger.record(first, move)
    for move in moves[:2]:
        second = await ledger.record(second, move)
    await ledger.aclose()
    _repeat(path, 1, range(3, saved + 2))
    _repeat(path, 2, range(saved + 2, saved + running + 1))
    ledger = await SqliteLedger.open(path, HOST)
    await Manifest(out).rebuild(each_job(ledger))
    await ledger.aclose()


def _repeat(path: Path, like: int, others: range) -> None:
    """Let these jobs have come as far as that one."""
    same = [
        *("state", "attempts", "price", "credits", "submitted_at", "created_at", "completed_at"),
        *("expires_at", "urls", "files", "trouble", "urgency", "file_count", "file_bytes"),
    ]
    changes = ", ".join(f"{name} = (SELECT {name} FROM job WHERE seq = {like})" for name in same)
    task = "task_id = printf('%032x', seq)"
    db = sqlite3.connect(path)
    with db:
        db.execute(
            f"UPDATE job SET {changes}, {task} WHERE seq BETWEEN ? AND ?",
            (others.start, others.stop - 1),
        )
    db.close()


def cpu() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(name: str = "VmRSS") -> float:
    """MiB of memory of this process now; with ``VmHWM`` at the most so far."""
    found = Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()
    return int(found[0]) / 1024 if found else 0.0
