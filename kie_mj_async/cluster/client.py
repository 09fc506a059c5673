"""What a web replica or a script holds of a fleet: it puts jobs in, and hears what becomes of them.

Nothing here talks to the service or needs the API key; the work is done by ``kie-mj worker``.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio
import attrs

from ..batch import Item
from ..engine import resolving
from ..engine.resolving import Decision
from ..errors import Billed, InvalidRequest, LedgerError, TaskTimedOut
from ..jobs import Generation, Job, SavedFile, State, error_of, outcome_of, reason_of
from ..ledger.base import each_job
from ..ledger.rows import job_from_row
from ..logs import logger
from ..requests import PromptRequest, Request
from ..rules import naming
from ..rules.lifecycle import SETTLED
from ..rules.making import Wishes, single
from ..settings import JOB_TIMEOUT, checked_prices, one_of, positive
from . import copies, schema
from .books import Books, Hand
from .enqueuing import THERE, enqueue
from .ledger import PostgresLedger
from .listing import (
    LAST_SECONDS,
    LOOK_AGAIN,
    FleetBatch,
    as_root,
    check_images,
    fit_to_travel,
)
from .news import News
from .overview import FleetStatus, anybody_works, overview

log = logger(__name__)

BATCH: Final = "default"
"""The batch of whoever names none."""


class Cluster:
    """A fleet of workers that share one account. Use it with ``async with``.

    It holds one connection to the database. Jobs are in the database's books and in its queue when
    ``submit`` and ``render`` say so, and ``kie-mj worker`` processes work on them, wherever they run.
    Cancelling whoever waits, and the end of this process, stop no job.

    Args:
        database_url: The fleet's PostgreSQL database: ``postgresql://user:password@host:5432/name``.
        prices: A TOML file of what tasks cost by type and speed, for the plans of lists; 25 credits each
            without one.

    Raises:
        ConfigError: That is no database's URL, or no table of prices.
    """

    def __init__(self, database_url: str, *, prices: str | os.PathLike[str] | None = None) -> None:
        self._prices = checked_prices(prices)
        self._books = Books(database_url, f"kie-mj client {socket.gethostname()}-{os.getpid()}")
        self._news = News(self._books)
        self._checked = False

    def __repr__(self) -> str:
        return f"Cluster({self._books.where!r})"

    async def __aenter__(self) -> Cluster:
        try:
            await self._ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection. Whoever waits here is told; the fleet goes on with the work."""
        await self._news.aclose()
        await self._books.aclose()

    async def submit(
        self,
        prompt: str | Request,
        *,
        key: str | None = None,
        batch: str = BATCH,
        **fields: Any,
    ) -> QueuedJob:
        """Give the fleet one job. It is durable, and in the queue, when this returns.

        Args:
            prompt: A prompt (of a :class:`TextToImage`), or a request.
            key: A name of yours for this job: where the batch knows it, this attaches to the job that
                is there instead of paying for another, whatever became of it.
            batch: The batch that it belongs to; made if it does not exist.
            **fields: The request's fields, when ``prompt`` is a text.

        Raises:
            InvalidRequest: A field is out of range, or the key is another job's; nothing was written.
            LedgerError: The database cannot be used.
        """
        request = single(prompt, fields)
        check_images(request)
        once = f"once-{uuid.uuid4().hex}"
        name = naming.chosen_key(key) if key is not None else once
        await self._ready()
        ledger = await PostgresLedger.open(self._books, batch, enqueue=enqueue)
        job = await ledger.submit(name, request)
        if naming.digest(job.request) != naming.digest(request):
            message = f"key: {key!r} is the name of a job with another request"
            raise InvalidRequest(message, field="key", value=key)
        return QueuedJob(self, once if key is None else key, batch)

    async def generate(
        self,
        prompt: str | Request,
        *,
        timeout: float = JOB_TIMEOUT,
        key: str | None = None,
        batch: str = BATCH,
        **fields: Any,
    ) -> Generation:
        """Have one thing made and wait for it.

        Args:
            prompt: As for :meth:`submit`.
            timeout: Seconds to wait, from now on.
            key: As for :meth:`submit`.
            batch: As for :meth:`submit`.
            **fields: As for :meth:`submit`.

        Raises:
            InvalidRequest: A field is out of range; nothing was written.
            KieError: As :meth:`QueuedJob.wait`.
        """
        seconds = positive("timeout", timeout)
        began = anyio.current_time()
        job = await self.submit(prompt, key=key, batch=batch, **fields)
        return await job._wait(seconds, began + seconds)

    def job(self, key: str, *, batch: str = BATCH) -> QueuedJob:
        """A job again, of any day and from any replica. Asks nobody yet.

        Args:
            key: The name that you gave it, ``QueuedJob.key``, or the key that an outcome's job has.
            batch: The batch that it belongs to.
        """
        return QueuedJob(self, key, batch)

    def render(
        self,
        prompts: Iterable[Item] | AsyncIterable[Item],
        *,
        batch: str = BATCH,
        deadline: float | None = None,
        kind: type[PromptRequest] | None = None,
        **fields: Any,
    ) -> FleetBatch:
        """Give the fleet a list, each job paid for once, however often and from wherever it is rendered.

        Nothing happens until it is iterated (or its ``plan`` is awaited). The whole list is checked, and
        taken in at once or not at all. The same list again attaches to what is there; of an edited
        one only what is new is paid for. Leaving the loop stops no job.

        Args:
            prompts: Prompts or requests; any iterable or async iterable. Images are given by their URL.
            batch: The batch that they belong to: letters, digits and ``._-``, a hundred at most.
            deadline: Seconds to read outcomes for, from the first iteration on; then it stops with
                ``BatchTimedOut``, and the fleet goes on.
            kind: What prompts become; by default ``ImageToImage`` with an image, else ``TextToImage``.
            **fields: Fields that every prompt is given; requests are taken as they are.

        Returns:
            A batch; iterate it for an outcome of each job. A job whose end has to wait (its results
            cannot be saved at present, say) is handed out as ``Pending``, and again should it come to
            its end while the rest is still under way.
        """
        return FleetBatch(
            self._books,
            self._news,
            batch,
            fit_to_travel(prompts, Wishes(fields, kind)),
            self._prices,
            None if deadline is None else positive("deadline", deadline),
            ready=self._ready,
        )

    async def resolve(self, decision: Decision, *jobs: str, batch: str = BATCH) -> int:
        """Decide about jobs whose fate is unknown.

        Args:
            decision: ``"retry"`` puts them into the queue again, at the risk of paying twice;
                ``"abandon"`` gives them up.
            *jobs: Keys, names of yours, or starts of keys; all unresolved jobs of the batch when none is
                given. A failed or expired job that is named can be retried too.
            batch: The batch that they belong to.

        Returns:
            How many jobs were decided about.

        Raises:
            InvalidRequest: A name fits no job, or one that this cannot be decided about.
            LedgerError: There is no such batch, or the database cannot be used.
        """
        one_of("decision", decision, ("retry", "abandon"))
        ledger = await self._known(batch)
        found = [await self._named(name, batch) for name in jobs]
        names = [row["key"] if row else name for name, row in zip(jobs, found, strict=True)]
        number = await resolving.decide(ledger, names, decision, datetime.now(UTC))
        await ledger.enqueue()
        return number

    async def status(self, batch: str | None = None) -> FleetStatus:
        """How the fleet stands, at this moment.

        Args:
            batch: Count only this batch's jobs; by default those of all batches.

        Raises:
            LedgerError: There is no such batch, or the database cannot be used.
        """
        number = None if batch is None else (await self._known(batch)).number
        await self._ready()
        return await self._books.read(lambda hand: overview(hand, batch, number))

    async def files(self, batch: str = BATCH) -> AsyncIterator[tuple[Job, SavedFile]]:
        """Every file of a batch that is saved, in the order of its jobs, from the books.

        Raises:
            LedgerError: There is no such batch, or the database cannot be used.
        """
        ledger = await self._known(batch)
        async for job in each_job(ledger, with_files=True):
            for file in job.files:
                yield job, file

    async def _ready(self) -> None:
        """See that the database is ready for a fleet.

        Raises:
            LedgerError: It is not; or it cannot be used.
        """
        if self._checked:
            return
        place = self._books.where

        def look(hand: Hand) -> bool:
            schema.check(hand.link, place)
            return bool((hand.link.execute(THERE).fetchone() or {})["there"])

        if not await self._books.read(look):
            message = f"{place}: there is no queue in it yet; run: kie-mj cluster migrate"
            raise LedgerError(message, path=place)
        self._checked = True

    async def _known(self, batch: str) -> PostgresLedger:
        await self._ready()
        ledger = await PostgresLedger.known(self._books, batch, enqueue=enqueue)
        if ledger is None:
            message = f"{self._books.where}: there is no batch {batch!r} in it"
            raise LedgerError(message, path=self._books.where)
        return ledger

    async def _named(self, name: str, batch: str) -> dict[str, Any] | None:
        """The job that a user means: by the name that he gave it, or else by its key."""
        await self._ready()
        values = {"id": batch, "key": name, "chosen": naming.chosen_key(name)}
        rows = await self._books.read(lambda hand: hand.ask("job_by_name", values))
        return rows[0] if rows else None


@attrs.frozen
class _Sight:
    """A job as it was seen."""

    job: Job
    root: str | None
    number: int
    rests: bool


class QueuedJob:
    """A job of a fleet, by its name; it holds nothing, and may be made again anywhere.

    Attributes:
        key: Its name: yours, or one that was made up. ``Cluster.job`` takes it.
        batch: The batch that it belongs to.
    """

    def __init__(self, cluster: Cluster, key: str, batch: str) -> None:
        self._cluster = cluster
        self.key = key
        self.batch = batch

    def __repr__(self) -> str:
        return f"QueuedJob({self.key!r}, batch={self.batch!r})"

    async def look(self) -> Job:
        """The job as it stands now.

        Raises:
            InvalidRequest: There is no such job.
            LedgerError: The database cannot be used.
        """
        return (await self._see()).job

    async def wait(self, timeout: float = JOB_TIMEOUT) -> Generation:
        """Wait until the fleet has made it and saved its results.

        A database that goes away meanwhile is waited for, too.

        Args:
            timeout: Seconds to wait, from now on; at least one look is taken.

        Returns:
            The results: ``.locations`` is where the fleet has them, ``.save(directory)`` copies them
            from there.

        Raises:
            TaskTimedOut: It has not come to its end by then; the fleet goes on with it.
            TaskFailed: The service could not make it; it is not charged.
            ResultExpired: The result was gone before it was saved.
            ReplyLost: Its create was sent and its fate is unknown (``billed="unknown"``).
            InvalidRequest: The batch has no such job.
            KieError: Anything else that has ended it.
        """
        seconds = positive("timeout", timeout)
        return await self._wait(seconds, anyio.current_time() + seconds)

    async def _wait(self, seconds: float, until: float) -> Generation:
        seen = [await self._see()]
        with anyio.CancelScope(deadline=until):
            await self._follow(seen)
        job = seen[-1].job
        if job.state not in SETTLED:
            raise self._timed_out(seen[-1], seconds, hint=await self._hint())
        if job.state is not State.SAVED:
            raise error_of(job)
        return self._generation(job, seen[-1].root or "")

    async def _follow(self, seen: list[_Sight]) -> None:
        """Look at it, whenever there may be news of it, until it has come to its outcome."""
        news = self._cluster._news
        sight = seen[-1]
        if sight.job.state in SETTLED:
            return
        with news.of_job(sight.number, sight.job.seq) as ear:
            while seen[-1].job.state not in SETTLED:
                await news.ready()
                try:
                    seen[:] = [await self._see()]
                except LedgerError as error:
                    if news.closed:
                        raise
                    log.warning("job %s: %s", self.key, error)
                if news.closed:
                    raise LedgerError(f"{self._cluster._books.where}: is closed already")
                if seen[-1].job.state not in SETTLED:
                    await ear.wait(LOOK_AGAIN)

    async def _see(self) -> _Sight:
        row = await self._cluster._named(self.key, self.batch)
        if row is None:
            message = f"job: batch {self.batch} has no job {self.key!r}"
            raise InvalidRequest(message, field="job", value=self.key)
        rests = row["rest_until"] is not None
        return _Sight(job_from_row(row), row["root"], row["batch"], rests)

    async def _hint(self) -> str:
        """What to say where it is no wonder that nothing happens."""
        with anyio.move_on_after(LAST_SECONDS), suppress(LedgerError):
            if not await anybody_works(self._cluster._books):
                return "; no worker is alive: start one with kie-mj worker"
        return ""

    def _timed_out(self, sight: _Sight, seconds: float, hint: str) -> TaskTimedOut:
        job = sight.job
        why = f" ({reason_of(job)})" if sight.rests else ""
        named = "" if self.batch == BATCH else f", batch={self.batch!r}"
        message = (
            f"job {self.key} of batch {self.batch}: not finished within {seconds:g} s{why}; the fleet "
            f"goes on with it: cluster.job({self.key!r}{named}).wait() comes back to it{hint}"
        )
        billed: Billed = "yes" if job.task_id else "no"
        if job.state is State.SUBMITTING:
            billed = "unknown"
        return TaskTimedOut(message, task_id=job.task_id, billed=billed)

    @staticmethod
    def _generation(job: Job, root: str) -> Generation:
        async def save(directory: Path) -> list[Path]:
            return await copies.copy(job, root, directory)

        made = Generation(
            job.task_id or "", job.urls, job.created_at, job.completed_at, job.expires_at,
            locations=getattr(outcome_of(job, as_root(root)), "locations", ()),
        )  # fmt: skip
        return attrs.evolve(made, save=save)
