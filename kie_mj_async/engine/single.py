"""Single jobs: what ``submit`` and ``generate`` make, on the same road as a batch's."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import attrs

from ..archive.directory import Directory
from ..archive.parts import Parts
from ..archive.store import Place
from ..errors import InvalidRequest
from ..jobs import Generation, Job, SavedFile, State, error_of
from ..ledger import MemoryLedger
from ..requests import Request
from ..rules import naming, wire
from ..rules.kinds import kind_of
from .house import House
from .pipeline import Halt, failure_of
from .preparing import take_in


class Singles:
    """The jobs of a client that belong to no batch.

    Args:
        house: What the client's work shares.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._names: dict[str, tuple[anyio.Lock, int]] = {}

    async def submit(self, request: Request, key: str | None, patience: float) -> Job:
        """Send a job, and return it as soon as the service has accepted it.

        Args:
            request: What it asks for.
            key: The user's name for it, if there is one.
            patience: Seconds in which a callback may tell of a lost reply, where callbacks come.

        Raises:
            InvalidRequest: It cannot be sent, or the key is another job's.
            KieError: It was not accepted, or nobody knows whether it was.
        """
        request = await take_in(request, self._house.inputs)
        name = naming.chosen_key(key) if key is not None else f"once-{uuid.uuid4().hex}"
        async with self._one_at_a_time(name):
            job = await self._house.ledger.add(name, request)
            if naming.digest(job.request) != naming.digest(request):
                message = f"key: {key!r} is the name of a job with another request"
                raise InvalidRequest(message, field="key", value=key)
            try:
                job = await self._house.pipeline.submit(job)
                if job.state is State.UNRESOLVED:
                    job = await self._house.hints.wait(job, patience)
            except Halt as halt:
                raise halt.error from None
            finally:
                if isinstance(self._house.ledger, MemoryLedger) and key is None:
                    # The task carries all there is to know; a client may live for years.
                    self._house.ledger.drop(name)
        if job.state in (State.FAILED, State.UNRESOLVED, State.EXPIRED, State.ABANDONED):
            raise error_of(job)
        if job.state is State.RUNNING:
            self._house.admission.linger(job.task_id or "")
        return job

    @asynccontextmanager
    async def _one_at_a_time(self, name: str) -> AsyncIterator[None]:
        """Calls with the same name wait for each other, so that the first one pays for all."""
        lock, waiting = self._names.get(name, (anyio.Lock(), 0))
        self._names[name] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._names[name]
            self._names[name] = (lock, waiting - 1)
            if waiting == 1:
                del self._names[name]

    async def wait(self, task_id: str, job: Job | None, timeout: float) -> Generation:
        """Wait until a task has ended.

        Args:
            task_id: The task.
            job: Its job, where this client made it.
            timeout: Seconds to wait.

        Raises:
            KieError: It has no results, or not yet.
        """
        stored = await self._house.ledger.get(job.key) if job is not None else None
        if stored is not None and stored.state is State.RUNNING:
            stored = await self._house.pipeline.follow(stored, timeout)
        if stored is not None:
            if stored.state is not State.SUCCEEDED:
                raise error_of(stored)
            return self._generation(
                task_id,
                Generation(
                    task_id,
                    stored.urls,
                    stored.created_at,
                    stored.completed_at,
                    stored.expires_at,
                ),
            )
        record = await self._house.poller.watch(
            task_id,
            kind_of(job.request if job is not None else None),
            born=job.created_at if job is not None else None,
            timeout=timeout,
            relaxed=job is not None and self._house.promised(job),
        )
        failed = record.status is wire.Status.FAILED
        self._house.admission.finish(task_id, charged=not failed)
        if failed:
            raise failure_of(record, task_id)
        expires_at = wire.expiry(record.created_at, record.completed_at, self._house.clock.now())
        return self._generation(
            task_id,
            Generation(task_id, record.urls, record.created_at, record.completed_at, expires_at),
        )

    def _generation(self, task_id: str, generation: Generation) -> Generation:
        async def save(directory: Path) -> list[Path]:
            return await self._house.call(self._save, generation, directory)

        return attrs.evolve(generation, save=save)

    async def _save(self, generation: Generation, root: Path) -> list[Path]:
        place = Place(Directory(root), Parts(root))
        await place.prepare()
        found: dict[int, Path] = {}

        async def keep(file: SavedFile) -> None:
            found[file.index] = root / file.path

        async def relinked(_urls: tuple[str, ...]) -> None:
            return None

        await self._house.saver.save(
            generation.task_id,
            generation.urls,
            range(len(generation.urls)),
            place,
            name=lambda index: (
                lambda extension, attempt: naming.file_name(
                    generation.task_id, generation.task_id, index, extension, attempt
                )
            ),
            keep=keep,
            relinked=relinked,
        )
        return [found[index] for index in sorted(found)]
