"""The road of a job: planned, submitted, waited for, saved. One road, walked from wherever it stands.

Each step reads the job's state, acts, and records what happened before anything depends on it. What
an event means is decided in ``rules/``; when a create may go is decided in ``admission.py``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel
import attrs

from ..archive.manifest import Manifest
from ..archive.store import Place
from ..errors import (
    AuthenticationError,
    DownloadError,
    InvalidRequest,
    KieError,
    LedgerError,
    NotSent,
    ResultExpired,
    TaskFailed,
    TaskTimedOut,
    WriteFailed,
)
from ..events import CreditsReturned, Event, FileSaved, JobSubmitted, JobSucceeded
from ..failpoints import reach
from ..jobs import Job, Outcome, SavedFile, State, outcome_of
from ..ledger import Ledger
from ..ledger.base import urgency
from ..logs import about, logger
from ..requests import ExistingTask, Request
from ..rules import billing, bodies, lifecycle, naming, wire
from ..rules.billing import Accepted, Lost, OnUnknown, Prices, Refused, Unsent, Verdict
from ..rules.callbacks import TOKEN_BYTES, new_token, with_token
from ..rules.kinds import kind_of
from ..rules.lifecycle import IllegalMove, Move
from .admission import Admission, Ticket, unnamed
from .clock import Clock
from .poll_scheduler import PollScheduler
from .preparing import Preparer
from .saving import Linker, Saver

log = logger(__name__)

MAX_REPEATS: Final = 5
"""Creates of one job at most where the user accepts the risk of paying twice; then it is parked."""


FRESH: Final = 300.0
"""Seconds after which what was made ready is made ready again: a minted link lives for 20 minutes."""


class Service(Linker, Protocol):
    """The service's calls that a job needs."""

    async def create(
        self, request: Request, *, may_send: Callable[[], bool]
    ) -> wire.Reply | billing.Silence:
        """Send a create, once, unless it may no longer be sent when its first byte would go out."""


class Halt(Exception):
    """No job of this ledger can be submitted any more in this run.

    Attributes:
        error: Why.
        unwritten: What became of a create, where that could not be written down.
        attempt: Which create of its job that was, from 1.
    """

    def __init__(self, error: KieError, unwritten: Move | None = None, attempt: int = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.unwritten = unwritten
        self.attempt = attempt


@attrs.frozen
class Destination:
    """Where a batch's results go.

    Attributes:
        place: The files.
        manifest: Their list; ``None`` for a fleet, whose books are the list.
    """

    place: Place
    manifest: Manifest | None

    @property
    def root(self) -> Path | str:
        """Where the files are: a local directory, or the URL of an object store."""
        return self.place.store.root


class Pipeline:
    """Takes the jobs of one ledger down the road.

    Args:
        ledger: Where they are kept.
        service: The service's calls.
        admission: The account's gate for creates.
        poller: The poll loop.
        saver: Who saves results.
        clock: Where the time comes from.
        prices: What tasks cost.
        preparer: Who makes requests ready; by default one that uploads nothing.
        on_unknown: What to do about a create whose fate is unknown.
        promised: Whether a callback will tell of a job's end.
        tell: Who hears of events.
        chance: Random bytes that nobody can guess, so many.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        service: Service,
        admission: Admission,
        poller: PollScheduler,
        saver: Saver,
        clock: Clock,
        prices: Prices,
        preparer: Preparer | None = None,
        on_unknown: OnUnknown = "park",
        promised: Callable[[Job], bool] = lambda _: False,
        tell: Callable[[Event], None] = lambda _: None,
        chance: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.ledger = ledger
        self.prices = prices
        self.on_unknown: OnUnknown = on_unknown
        self._service = service
        self._admission = admission
        self._poller = poller
        self._saver = saver
        self._clock = clock
        self.preparer = preparer or Preparer(ledger, service, clock)
        self._promised = promised
        self._tell = tell
        self._chance = chance
        self._saves: set[anyio.CancelScope] = set()
        self._creates: dict[str, anyio.Event] = {}

    async def create_ended(self, key: str) -> None:
        """Wait until no create of a job is under way: its end is durable, unless the disk refused.

        Args:
            key: The job's key.
        """
        if (ended := self._creates.get(key)) is not None:
            await ended.wait()

    @contextmanager
    def _under_way(self, key: str) -> Iterator[None]:
        ended = self._creates[key] = anyio.Event()
        try:
            yield
        finally:
            self._creates.pop(key, None)
            ended.set()

    async def submit(self, job: Job) -> Job:
        """Take a planned job to wherever its create leads; a task that exists needs none.

        Raises:
            Halt: It was not submitted, and no other job would be.
        """
        with about(job=job.key):
            return await self._submit(job)

    async def _submit(self, job: Job) -> Job:
        if isinstance(job.request, ExistingTask):
            job = await self.ledger.record(job, lifecycle.adopted(job.request.task_id))
            self._tell(JobSubmitted(job))
        cost = self.prices.of(job.request)
        while job.state is State.PLANNED:
            try:
                request, ticket = await self._admitted(job, cost)
            except (InvalidRequest, TaskFailed) as error:
                return await self._conclude(job, lifecycle.rejected(error))
            except KieError as error:
                raise Halt(error) from None
            # From here to the durable end of the create nothing may cut in, but a time-out.
            with anyio.CancelScope(shield=True), self._under_way(job.key):
                job = await self._create(job, request, ticket)
            if job.state is State.UNRESOLVED and self.on_unknown == "repeat":
                if job.attempts >= MAX_REPEATS:
                    break
                job = await self._conclude(job, lifecycle.retried())
        return job

    async def _admitted(self, job: Job, cost: float) -> tuple[Request, Ticket]:
        """What the job sends, and the right to send it now."""
        request = await self.preparer.ready(job)
        since = self._clock.monotonic()
        ticket = await self._admission.enter(cost)
        if self._clock.monotonic() - since < FRESH:
            return request, ticket
        try:
            return await self.preparer.ready(job), ticket
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._admission.leave(ticket, None, unnamed(job.key, job.attempts))
            raise

    async def follow(self, job: Job, timeout: float) -> Job:
        """Wait for a running job's task to end.

        Raises:
            TaskTimedOut: It has not ended by then.
            AuthenticationError: The key was refused.
            NotSent: The host could not be reached for too long.
        """
        task_id = job.task_id or ""
        with about(job=job.key, task_id=task_id):
            return await self._follow(job, task_id, timeout)

    async def _follow(self, job: Job, task_id: str, timeout: float) -> Job:
        self._admission.watched(task_id)
        try:
            record = await self._poller.watch(
                task_id,
                kind_of(job.request),
                born=job.created_at,
                timeout=timeout,
                relaxed=self._promised(job),
            )
        except ResultExpired as error:
            self._admission.finish(task_id)
            return await self._conclude(job, lifecycle.expired(error))
        except BaseException:
            self._admission.linger(task_id)
            raise
        asked = job.request
        told = bodies.described(asked, record) if isinstance(asked, ExistingTask) else None
        if record.status is wire.Status.FAILED:
            self._admission.finish(task_id, charged=False)
            move = lifecycle.failed(failure_of(record, task_id), request=told)
            return await self._conclude(job, move, CreditsReturned(job, job.price))
        self._admission.finish(task_id)
        expires_at = wire.expiry(record.created_at, record.completed_at, self._clock.now())
        move = lifecycle.succeeded(
            record.urls,
            created_at=record.created_at,
            completed_at=record.completed_at,
            expires_at=expires_at,
            request=told,
        )
        job = await self._conclude(job, move, JobSucceeded)
        reach("result stored")
        return job

    async def _conclude(
        self, job: Job, move: Move, event: Event | Callable[[Job], Event] | None = None
    ) -> Job:
        """Record what became of a job, and tell it, unless somebody else has moved it on meanwhile.

        Another waiter may have seen its task end, or a callback found the task of a lost reply.
        """
        try:
            job = await self.ledger.record(job, move)
        except IllegalMove:
            return await self.ledger.get(job.key) or job
        if event is not None:
            self._tell(event(job) if callable(event) else event)
        return job

    async def save(self, job: Job, to: Destination) -> Job:
        """Save a succeeded job's results.

        Raises:
            DownloadError: Some could not be saved, this time.
        """
        with about(job=job.key, task_id=job.task_id):
            return await self._save(job, to)

    async def _save(self, job: Job, to: Destination) -> Job:
        current = job
        began = self._clock.monotonic()

        async def keep(file: SavedFile) -> None:
            nonlocal current
            current = await self.ledger.record(current, lifecycle.file_saved(file))
            reach("file's row stored")
            if to.manifest is not None:
                await to.manifest.append(current, file)
            self._tell(FileSaved(current, file, self._clock.monotonic() - began))

        async def relinked(urls: tuple[str, ...]) -> None:
            nonlocal current
            current = await self.ledger.record(current, lifecycle.relinked(urls))

        done = {file.index for file in job.files}
        try:
            await self._saver.save(
                job.task_id or "",
                job.urls,
                [index for index in range(len(job.urls)) if index not in done],
                to.place,
                name=lambda index: (
                    lambda extension, attempt: naming.file_name(
                        job.prompt, job.key, index, extension, attempt
                    )
                ),
                keep=keep,
                relinked=relinked,
                part=partial(naming.part_name, job.key),
                urgency=urgency(job),
            )
        except ResultExpired as error:
            return await self.ledger.record(current, lifecycle.expired(error))
        except WriteFailed:
            raise
        except DownloadError as error:
            if job.expires_at is None or self._clock.now() < job.expires_at:
                raise
            message = f"task {job.task_id}: stored until {job.expires_at:%Y-%m-%d %H:%M} UTC"
            gone = ResultExpired(f"{message}; {error}", task_id=job.task_id, billed="yes")
            return await self.ledger.record(current, lifecycle.expired(gone))
        current = await self.ledger.record(current, lifecycle.saved())
        reach("job saved")
        return current

    async def travel(
        self,
        job: Job,
        to: Destination,
        timeout: float,
        made: Callable[[Job], None] = lambda _: None,
    ) -> Outcome:
        """Take a job that is past its create as far down the road as it goes in this run.

        Args:
            job: The job.
            to: Where its results go.
            timeout: Seconds to wait for its task.
            made: Called once there are results, before they are saved.

        Raises:
            Halt: It could not be looked at or saved, and no other job could.
        """
        error: KieError | None = None
        try:
            if job.state is State.RUNNING:
                job = await self.follow(job, timeout)
            if job.state is State.SUCCEEDED:
                made(job)
                job = await self._save_whatever_stops(job, to)
        except (TaskTimedOut, AuthenticationError, NotSent, DownloadError) as trouble:
            error = trouble
            job = await self.ledger.get(job.key) or job
            job = await self.ledger.record(job, lifecycle.held_up(trouble))
        if isinstance(error, AuthenticationError | NotSent | WriteFailed):
            raise Halt(error)
        return outcome_of(job, to.root)

    def hurry(self, grace: float) -> None:
        """Saves under way have so many seconds left."""
        # A signal's callback runs in no task, and where sniffio is installed anyio then knows no loop.
        deadline = asyncio.get_running_loop().time() + grace
        for scope in self._saves:
            scope.deadline = min(scope.deadline, deadline)

    async def _save_whatever_stops(self, job: Job, to: Destination) -> Job:
        """Save, and go on with it for a while when the run is stopped (see :meth:`hurry`)."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True) as scope:
            self._saves.add(scope)
            try:
                return await self.save(job, to)
            finally:
                self._saves.discard(scope)
        message = f"task {job.task_id}: the run ended before its results were saved"
        raise DownloadError(message, task_id=job.task_id)

    async def _create(self, job: Job, request: Request, ticket: Ticket) -> Job:
        """One create, from its durable intent to its durable end."""
        verdict: Verdict | None = None
        stop: KieError | None = None
        try:
            reach("before the intent")
            token = new_token(self._chance(TOKEN_BYTES)) if request.callback_url else None
            move = lifecycle.intent(self._clock.now(), ticket.cost, token)
            try:
                job = await self.ledger.record(job, move)
            except IllegalMove:  # a callback has found the task of its last attempt meanwhile
                return await self.ledger.get(job.key) or job
            reach("intent stored")
            may_send = partial(self._admission.may_send, ticket)
            answer = await self._service.create(_with_token(request, token), may_send=may_send)
            reach("reply read")
            verdict = billing.judge(answer)
            job = await self._record_end(job, verdict)
            reach("id stored")
        except LedgerError as error:
            if verdict is None:  # whether the intent was written may not be known
                held = NotSent(f"the create was not sent: {error}")
                raise Halt(error, lifecycle.not_sent(held), job.attempts + 1) from None
            raise Halt(error, _move_of(verdict, self._clock), job.attempts) from None
        finally:
            stop = await self._admission.leave(ticket, verdict, unnamed(job.key, job.attempts))
        if isinstance(verdict, Accepted):
            log.info("task %s accepted for job %s", verdict.task_id, job.key)
            self._tell(JobSubmitted(job))
        if isinstance(verdict, Refused) and verdict.then == "halt":
            stop = verdict.error
        if stop is not None:
            raise Halt(stop)
        return job

    async def _record_end(self, job: Job, verdict: Verdict) -> Job:
        try:
            return await self.ledger.record(job, _move_of(verdict, self._clock))
        except LedgerError as error:
            if isinstance(verdict, Accepted):
                message = (
                    f"task {verdict.task_id} was accepted and paid, and its id could not be "
                    f"written down: keep it. {error}"
                )
                # Of several such errors at once a run can raise only one.
                log.critical("%s", message)
                raise LedgerError(
                    message, path=error.path, task_id=verdict.task_id, billed="yes"
                ) from None
            raise


def _with_token(request: Request, token: str | None) -> Request:
    """The request with a token in its callback's address; the job keeps the address as it was."""
    if token is None or request.callback_url is None:
        return request
    address: Any = {"callback_url": with_token(request.callback_url, token)}
    return attrs.evolve(request, **address)


def failure_of(record: wire.Record, task_id: str) -> TaskFailed:
    """The error that a failed record stands for."""
    words = record.error_message or "no reason given"
    code = f" (code {record.error_code})" if record.error_code else ""
    message = f"task {task_id}: the service could not make it: {words}{code}"
    return TaskFailed(message, error_code=record.error_code, task_id=task_id)


def _move_of(verdict: Verdict, clock: Clock) -> Move:
    match verdict:
        case Accepted(task_id):
            return lifecycle.accepted(task_id, clock.now())
        case Refused(error, "fail"):
            return lifecycle.rejected(error)
        case Refused(error, _):
            return lifecycle.refused(error)
        case Unsent(error):
            return lifecycle.not_sent(error)
        case Lost(error):
            return lifecycle.lost(error)
