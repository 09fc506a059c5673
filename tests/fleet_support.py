"""A fleet for tests of its client: the books and the queue are real, the workers are played."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from cluster_support import ask

from kie_mj_async.cluster import Cluster
from kie_mj_async.cluster.books import Books
from kie_mj_async.cluster.ledger import PostgresLedger
from kie_mj_async.errors import NotSent, ReplyLost, ResultExpired, TaskFailed, WriteFailed
from kie_mj_async.jobs import Job, SavedFile
from kie_mj_async.rules import lifecycle
from kie_mj_async.rules.lifecycle import Move

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOST = "https://api.example"
CONTENT = b"\xff\xd8\xff a picture"


def queued(url: str) -> list[str]:
    """What is in the queue, by name."""
    rows = ask(url, "SELECT workflow_uuid FROM kie_mj_dbos.workflow_status ORDER BY priority, 1")
    return [row[0] for row in rows]


@asynccontextmanager
async def cluster_on(url: str, every: float = 0.05) -> AsyncIterator[Cluster]:
    """A client of the fleet that looks more often than a real one."""
    async with Cluster(url) as cluster:
        cluster._news._every = every
        yield cluster


class Player:
    """Moves jobs of a batch as a worker does."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self.ledger = ledger

    async def play(self, job: Job, *moves: Move) -> Job:
        for move in moves:
            job = await self.ledger.record(job, move)
        return job

    async def start(self, job: Job) -> Job:
        accepted = lifecycle.accepted(f"task-{job.key}", AT)
        return await self.play(job, lifecycle.intent(AT, 25), accepted)

    async def save(self, job: Job, *contents: bytes) -> Job:
        """Bring it all the way; its files are said to have these contents."""
        files = [
            SavedFile(
                index=index,
                path=f"{job.seq}_{index}.jpeg",
                url="https://files.example/x",
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                media_type="image/jpeg",
                width=1,
                height=1,
                saved_at=AT,
            )
            for index, content in enumerate(contents or (CONTENT,))
        ]
        job = await self.start(job)
        links = tuple(file.url for file in files)
        done = lifecycle.succeeded(
            links, created_at=AT, completed_at=AT, expires_at=AT + timedelta(days=14)
        )
        return await self.play(job, done, *map(lifecycle.file_saved, files), lifecycle.saved())

    async def fail(self, job: Job) -> Job:
        failed = lifecycle.failed(TaskFailed("no such fox", task_id="t"))
        return await self.play(await self.start(job), failed)

    async def expire(self, job: Job) -> Job:
        expired = lifecycle.expired(ResultExpired("gone", task_id="t"))
        return await self.play(await self.start(job), expired)

    async def lose(self, job: Job) -> Job:
        lost = lifecycle.lost(ReplyLost("the reply was lost"))
        return await self.play(job, lifecycle.intent(AT, 25), lost)

    async def rest(self, job: Job, seconds: float = 60) -> Job:
        """Let it rest in the middle, for its files cannot be saved."""
        held = lifecycle.held_up(WriteFailed("the disk is full"))
        job = await self.play(await self.start(job), held)
        assert await self.ledger.rest(job.key, await self._turn(job), seconds)
        return job

    async def hold_back(self, job: Job, seconds: float = 60) -> None:
        """Let it rest before it has begun."""
        unsent = lifecycle.not_sent(NotSent("no network"))
        await self.play(job, lifecycle.intent(AT, 25), unsent)
        assert await self.ledger.rest(job.key, await self._turn(job), seconds)

    async def _turn(self, job: Job) -> int:
        return int((await self.ledger.rows("jobs_of_keys", {"keys": [job.key]}))[0]["turn"])

    async def jobs(self, limit: int = 1000) -> list[Job]:
        return await self.ledger.scan(0, limit)


@asynccontextmanager
async def player_on(
    url: str, batch: str = "default", out: str = "/renders"
) -> AsyncIterator[Player]:
    """A worker of this batch, played."""
    books = Books(url, "player", patience=15)
    try:
        ledger = await PostgresLedger.open(books, batch)
        await ledger.bind(HOST, out)
        yield Player(ledger)
    finally:
        await books.aclose()


async def until(question: Callable[[], Any], within: float = 10.0) -> None:
    with anyio.fail_after(within):
        while not question():  # noqa: ASYNC110 - it is asked of a database
            await anyio.sleep(0.02)


def folder_with(folder: Path, job: Job, content: bytes = CONTENT) -> Path:
    """The shared directory, with a job's files in it."""
    folder.mkdir(exist_ok=True)
    for file in job.files:
        (folder / file.path).write_bytes(content)
    return folder
