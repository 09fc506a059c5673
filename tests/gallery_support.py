"""What the tests of the gallery share: batch directories filled by hand, pictures and a clip."""

from __future__ import annotations

import hashlib
import io
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import anyio
import attrs
from PIL import Image, ImageDraw

from kie_mj_async.batch import ledger_path
from kie_mj_async.jobs import Job, SavedFile, State, Trouble
from kie_mj_async.ledger import SqliteLedger
from kie_mj_async.ledger.rows import job_changes, request_text
from kie_mj_async.ledger.sql import SQL
from kie_mj_async.requests import Request, TextToImage

_T = TypeVar("_T")

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOST = "https://api.example"


def apart(function: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """Run a coroutine function in a thread of its own, whatever loop this one has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, function, *arguments).result()


@cache
def jpeg(seed: int = 0, width: int = 640, height: int = 640) -> bytes:
    """A picture of its own for each seed."""
    chance = random.Random(seed)

    def colour() -> tuple[int, int, int]:
        return (chance.randrange(256), chance.randrange(256), chance.randrange(256))

    picture = Image.new("RGB", (width, height), colour())
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        x, y = chance.randrange(width), chance.randrange(height)
        side = chance.randrange(20, max(24, width // 3))
        draw.ellipse((x - side, y - side, x + side, y + side), fill=colour())
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


@cache
def clip() -> bytes:
    """A short video."""
    folder = resources.files("kie_mj_async.simulator")
    found = [one for one in _all(folder) if one.name.endswith((".mp4", ".webm"))]
    return bytes(found[0].read_bytes())


def _all(folder: Any) -> Iterable[Any]:
    for one in folder.iterdir():
        if one.is_dir():
            yield from _all(one)
        else:
            yield one


def put(
    out: Path, name: str, content: bytes, index: int = 0, *,
    media_type: str = "image/jpeg", width: int | None = 640, height: int | None = 640,
) -> SavedFile:  # fmt: skip
    """A file on disk, and what a ledger knows of it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    url = f"http://files.test/{index}"
    return SavedFile(index, name, url, digest, len(content), media_type, width, height, AT)


def pictures(
    out: Path, stem: str, number: int = 4, seed: int = 0, size: tuple[int, int] = (640, 640)
) -> tuple[SavedFile, ...]:
    """Some pictures of one job."""
    return tuple(
        put(out, f"{stem}_{n}.jpeg", jpeg(seed * 10 + n, *size), n, width=size[0], height=size[1])
        for n in range(number)
    )


def saved(key: str, request: Request | str, files: Iterable[SavedFile]) -> Job:
    """A job with all its files."""
    wish = TextToImage(request) if isinstance(request, str) else request
    return Job(
        key=key, request=wish, state=State.SAVED, task_id=f"t-{key}", credits=25, price=25,
        created_at=AT, completed_at=AT, files=tuple(files),
    )  # fmt: skip


def stuck(
    key: str, request: Request | str, state: State, message: str | None, task_id: str | None = None
) -> Job:
    """A job that is not saved, and why."""
    wish = TextToImage(request) if isinstance(request, str) else request
    trouble = None if message is None else Trouble("TaskFailed", message)
    return Job(
        key=key, request=wish, state=state, task_id=task_id, trouble=trouble, submitted_at=AT
    )


def fill(out: Path, jobs: Iterable[Job], host: str = HOST) -> None:
    """A batch directory whose ledger holds these jobs."""

    async def make() -> None:
        await (await SqliteLedger.open(ledger_path(out), host)).aclose()

    apart(make)
    write(out, jobs)


def write(out: Path, jobs: Iterable[Job]) -> None:
    """Put jobs into the ledger of a directory, in one transaction."""
    with closing(sqlite3.connect(ledger_path(out))) as db, db:
        for job in jobs:
            row = {"key": job.key, "run": 0, "request": request_text(job.request), "parent": None}
            db.execute(SQL["insert_job"], row).fetchall()
            seq = db.execute("SELECT seq FROM job WHERE key = ?", [job.key]).fetchone()[0]
            db.execute(SQL["update_job"], job_changes(attrs.evolve(job, seq=seq)))
