"""Single jobs: what ``submit`` and ``generate`` make, on the same road as a batch's."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from ..archive.directory import Directory
from ..archive.parts import Parts
from ..archive.store import Place
from ..errors import InvalidRequest, LedgerError, ResultExpired
from ..events import (
    CreditsReturned,
    FileSaved,
    JobEnded,
    JobHeldBack,
    JobStarted,
    JobSucceeded,
)
from ..jobs import Expired, Failed, Generation, Job, SavedFile, State, error_of, outcome_of
from ..ledger import MemoryLedger
from ..logs import about
from ..progress import Left
from ..requests import ExistingTask, Request
from ..rules import lifecycle, naming, wire
from ..rules.kinds import kind_of
from ..rules.lifecycle import advance
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
        return await self._house.call(self._submit, request, key, patience)

    async def _submit(self, request: Request, key: str | None, patience: float) -> Job:
        request = await take_in(request, self._house.inputs)
        name = naming.chosen_key(key) if key is not None else f"once-{uuid.uuid4().hex}"
        async with self._one_at_a_time(name):
            job = await self._house.ledger.add(name, request)
            if naming.digest(job.request) != naming.digest(request):
                message = f"key: {key!r} is the name of a job with another request"
                raise InvalidRequest(message, field="key", value=key)
            begins = job.state is State.PLANNED
            if begins:
                self._house.tell(JobStarted(job))
            try:
                job = await self._house.pipeline.submit(job)
                if job.state is State.UNRESOLVED:
                    job = await self._house.hints.wait(job, patience)
            except BaseException as error:
                if begins:
                    await self._tell_what_is_left(name)
                if isinstance(error, Halt):
                    raise error.error from None
                raise
            finally:
                if isinstance(self._house.ledger, MemoryLedger) and key is None:
                    # The task carries all there is to know; a client may live for years.
                    self._house.ledger.drop(name)
        if job.state in (State.FAILED, State.UNRESOLVED, State.EXPIRED, State.ABANDONED):
            self._house.tell(JobEnded(outcome_of(job, Path()), earlier=not begins))
            raise error_of(job)
        if job.state is State.RUNNING:
            self._house.admission.linger(job.task_id or "")
        return job

    async def _tell_what_is_left(self, name: str) -> None:
        """Tell of a job that its caller has given up, or that could not be sent."""
        with anyio.CancelScope(shield=True), suppress(LedgerError):
            job = await self._house.ledger.get(name)
            if job is not None and job.state is State.PLANNED:
                self._house.tell(JobHeldBack(job))
            elif job is not None and job.state in lifecycle.AT_RISK:
                self._house.tell(JobEnded(outcome_of(job, Path())))

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
        return await self._house.call(self._wait, task_id, job, timeout)

    def left(self, job: Job) -> Left | None:
        """Seconds until a job's task ends, from its class and its age, where that is known."""
        if job.created_at is None:
            return None
        age = (self._house.clock.now() - job.created_at).total_seconds()
        return self._house.forecast.left(kind_of(job.request), max(0.0, age))

    async def _wait(self, task_id: str, job: Job | None, timeout: float) -> Generation:
        stored = await self._house.ledger.get(job.key) if job is not None else None
        if stored is None:
            stored = await self._watched(job or _existing(task_id), timeout)
        elif stored.state is State.RUNNING:
            stored = await self._house.pipeline.follow(stored, timeout)
        if stored.state is not State.SUCCEEDED:
            self._house.tell_once(task_id, JobEnded(outcome_of(stored, Path())))
            raise error_of(stored)
        return self._generation(stored)

    async def _watched(self, job: Job, timeout: float) -> Job:
        """A job that no ledger keeps, once its task has ended."""
        house, task_id = self._house, job.task_id or ""
        with about(job=job.key, task_id=task_id):
            try:
                record = await house.poller.watch(
                    task_id,
                    kind_of(job.request),
                    born=job.created_at,
                    timeout=timeout,
                    relaxed=house.promised(job),
                )
            except ResultExpired as gone:
                house.admission.finish(task_id)
                outcome = Expired(advance(job, lifecycle.expired(gone)), gone)
                house.tell_once(task_id, JobEnded(outcome))
                raise
            failed = record.status is wire.Status.FAILED
            house.admission.finish(task_id, charged=not failed)
            if failed:
                error = failure_of(record, task_id)
                ended = JobEnded(Failed(advance(job, lifecycle.failed(error)), error))
                house.tell_once(task_id, CreditsReturned(job, job.price))
                house.tell_once(task_id, ended)
                raise error
            move = lifecycle.succeeded(
                record.urls,
                created_at=record.created_at,
                completed_at=record.completed_at,
                expires_at=wire.expiry(record.created_at, record.completed_at, house.clock.now()),
            )
            job = advance(job, move)
            house.tell_once(task_id, JobSucceeded(job))
        return job

    def _generation(self, job: Job) -> Generation:
        async def save(directory: Path) -> list[Path]:
            return await self._house.call(self._save, job, directory)

        return Generation(
            job.task_id or "",
            job.urls,
            job.created_at,
            job.completed_at,
            job.expires_at,
            save=save,
        )

    async def _save(self, job: Job, root: Path) -> list[Path]:
        with about(job=job.key, task_id=job.task_id):
            return await self._save_all(job, job.task_id or "", root)

    async def _save_all(self, job: Job, task_id: str, root: Path) -> list[Path]:
        place = Place(Directory(root), Parts(root))
        await place.prepare()
        found: dict[int, Path] = {}
        began = self._house.clock.monotonic()

        async def keep(file: SavedFile) -> None:
            found[file.index] = root / file.path
            self._house.tell(FileSaved(job, file, self._house.clock.monotonic() - began))

        async def relinked(_urls: tuple[str, ...]) -> None:
            return None

        await self._house.saver.save(
            task_id,
            job.urls,
            range(len(job.urls)),
            place,
            name=lambda index: (
                lambda extension, attempt: naming.file_name(
                    task_id, task_id, index, extension, attempt
                )
            ),
            keep=keep,
            relinked=relinked,
        )
        return [found[index] for index in sorted(found)]


def _existing(task_id: str) -> Job:
    """The job of a task that is known by its id alone."""
    request = ExistingTask(task_id)
    return advance(Job(key=naming.digest(request), request=request), lifecycle.adopted(task_id))
