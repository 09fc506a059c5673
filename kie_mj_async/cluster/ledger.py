"""One batch of a fleet's books, as a ledger: the state machine of one machine, over PostgreSQL.

What a fleet adds: moves are made under a worker's lease, receipts of creates are kept lease or not, who
holds a create is known by name, and jobs are put into the queue in the transaction that makes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import anyio
import attrs

from ..errors import ConfigError, LedgerError, ReplyLost, WrongHost
from ..jobs import Job, State
from ..ledger.base import Staged
from ..ledger.changes import Entry, add, apply, stage
from ..ledger.rows import job_from_row
from ..ledger.sql import Db, Values, one
from ..ledger.tables import TableLedger
from ..requests import ExistingTask, Request
from ..rules import hints, lifecycle, naming
from ..rules.hints import Course
from ..rules.lifecycle import Event, IllegalMove, Move
from ..rules.stretches import Stretches
from . import schema
from .books import BatchDb, Books, Hand, Op
from .database import Link

_T = TypeVar("_T")

AT_ONCE: Final = 5000
"""Jobs of a list that are taken in by one statement."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Enqueue = Callable[[Link, Sequence[str], int], None]
"""Puts jobs into the queue by their names, in the connection's transaction; the number is the place
of the first one."""


@attrs.frozen
class Receipt:
    """What the service answered to a create.

    Attributes:
        key: The job's key.
        attempt: Which create of the job it was, from 1.
        task_id: The task.
        worker: Who got the answer.
    """

    key: str
    attempt: int
    task_id: str
    worker: str


def name_of(batch: str, key: str, turn: int = 1) -> str:
    """A job's name in the queue, which knows each name once: who sets out again has another."""
    return f"{batch}:{key}" if turn == 1 else f"{batch}~{turn}:{key}"


def parts_of(name: str) -> tuple[str, str, int]:
    """The batch, the key and the turn of a job, by its name in the queue."""
    place, _, key = name.partition(":")
    batch, _, turn = place.partition("~")
    return batch, key, int(turn or 1)


async def creates_of_the_dead(
    books: Books, for_seconds: float = 0.0, limit: int = 200
) -> list[tuple[str, str]]:
    """Creates (batch and key) that were under way at workers whose lease has ended.

    Args:
        books: Where they are.
        for_seconds: How long ago it has ended at least.
        limit: How many at most.
    """
    values = {"seconds": for_seconds, "limit": limit}
    rows = await books.read(lambda hand: hand.ask("creates_of_the_dead", values))
    return [(row["id"], row["key"]) for row in rows]


async def batches_to_queue(books: Books, *, steps: bool = True) -> list[str]:
    """Batches with jobs that are to be put into the queue: :meth:`PostgresLedger.enqueue`.

    Args:
        books: Where they are.
        steps: Also those with steps of chains that wait, whether their turn has come or not.
    """
    values = {"steps": steps}
    return [
        row["id"] for row in await books.read(lambda hand: hand.ask("batches_to_queue", values))
    ]


class PostgresLedger(TableLedger):
    """One batch. Make one with :meth:`open` or :meth:`known`; the books are shared, and stay open.

    Attributes:
        id: What its user calls it.
        number: What the books call it.
        host: The API host that its tasks live at, as far as it was known when this was made.
        out: Where its results go, likewise.
        stretches: The jobs, by their seq, of the last list that was taken in by this.
    """

    def __init__(self, books: Books, row: dict[str, Any], enqueue: Enqueue | None = None) -> None:
        self.id: str = row["id"]
        self.host: str | None = row["host"]
        self.out: str | None = row["out"]
        self._books = books
        self._enqueue = enqueue
        self.number: int = row["number"]
        self.stretches = Stretches()
        self._always = {"batch": self.number, "owner": books.worker}

    @classmethod
    async def open(
        cls,
        books: Books,
        batch: str,
        *,
        enqueue: Enqueue | None = None,
    ) -> PostgresLedger:
        """A batch, made if it does not exist.

        Args:
            books: Where it is.
            batch: What its user calls it: letters, digits and ``._-``, a hundred at most.
            enqueue: Puts new jobs into the queue.

        Raises:
            ConfigError: It cannot be called so.
            LedgerTooNew: A newer version of this package made the tables.
            LedgerError: The database cannot be used.
        """
        if not _ID.fullmatch(batch):
            raise ConfigError(f"batch: {batch!r}: use letters, digits and ._-, a hundred at most")

        def find(hand: Hand) -> list[dict[str, Any]]:
            schema.check(hand.link, books.where)
            return hand.ask("find_batch", {"id": batch})

        def make(hand: Hand) -> list[dict[str, Any]]:
            hand.tell("make_batch", {"id": batch})
            return hand.ask("find_batch", {"id": batch})

        rows = await books.read(find) or await books.write(make)
        return cls(books, rows[0], enqueue)

    @classmethod
    async def known(
        cls, books: Books, batch: str, *, enqueue: Enqueue | None = None
    ) -> PostgresLedger | None:
        """A batch that is there.

        Raises:
            LedgerError: The database cannot be used.
        """
        rows = await books.read(lambda hand: hand.ask("find_batch", {"id": batch}))
        return cls(books, rows[0], enqueue) if rows else None

    async def bind(self, host: str, out: str) -> None:
        """Say where its tasks live and where its results go, unless that is settled already.

        Args:
            host: The API host.
            out: The directory or the object store; where the batch has one already, that stays.

        Raises:
            WrongHost: Its tasks live at another host.
        """
        if self.host is None or self.out is None:
            values = {"host": host, "out": out}
            row = await self._unguarded(lambda db: one(db, "bind_batch", values))
            self.host, self.out = row["host"], row["out"]
        if self.host != host:
            message = (
                f"{self._books.where}, batch {self.id}: its tasks live at {self.host}, and this worker "
                f"uses {host}; set KIE_BASE_URL to that host, or use another batch"
            )
            raise WrongHost(message, path=self._books.where)

    # --- Moves ------------------------------------------------------------------------------------

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move, durably; under the lease, if this process works under one.

        A create's task id is kept as a receipt besides, also when the lease is gone. If the job was
        taken for unresolved meanwhile, that settles it; if it was sent again meanwhile, the task it was
        paid for besides gets a job of its own.

        Raises:
            LeaseLost: This worker's lease is gone; but for the receipt, nothing was written.
            IllegalMove: The stored job's state does not know this event.
            LedgerError: It could not be written.
        """
        if move.event is not Event.ACCEPTED:
            return await super().record(job, move)
        task_id = str(move.changes["task_id"])

        def accept(db: Db) -> Job:
            self._put_receipt(db, job, task_id)
            return apply(db, job.key, move)

        def keep(db: Db) -> None:
            self._put_receipt(db, job, task_id)
            self._take_late(db, job, task_id)

        op = Op(self._bound(accept), writes=True, guarded=True, otherwise=self._bound(keep))
        moved: Job = await self._books.put(op)
        return moved

    async def catch_up(self, job: Job, attempt: int, move: Move) -> None:
        """Write down late what became of a create of this worker, unless its job has moved on since.

        Args:
            job: The job, as it was then.
            attempt: Which create of the job it was, from 1.
            move: What became of it.

        Raises:
            LeaseLost: This worker's lease is gone; but for a receipt, nothing was written.
            LedgerError: It could not be written.
        """
        if move.event is Event.ACCEPTED:
            with suppress(IllegalMove):  # the receipt was kept all the same
                await self.record(attrs.evolve(job, attempts=attempt), move)
            return

        def op(db: Db) -> None:
            stored = job_from_row(one(db, "job_to_move", {"key": job.key}))
            ours = one(db, "owner_of", {"key": job.key})["owner"] == self._books.worker
            if ours and stored.state is State.SUBMITTING and stored.attempts == attempt:
                apply(db, job.key, move)

        await self._write(op)

    async def receipts(self, key: str) -> list[Receipt]:
        """What the service answered to a job's creates, in their order."""
        rows = await self._read(lambda db: db.ask("receipts", {"key": key}))
        return [Receipt(**row) for row in rows]

    async def settle(self, key: str, *, mine: bool = False) -> Job:
        """Find out about a create that was under way when its worker died; the job as it is then.

        A receipt makes it accepted, or else its fate is unknown. A create whose worker lives is left
        alone, and so is a job that is in no create.

        Args:
            key: The job.
            mine: Whether this worker's own counts as one that nobody waits for any more.
        """

        def op(db: Db) -> Job:
            job = job_from_row(one(db, "job_to_move", {"key": key}))
            if job.state is not State.SUBMITTING or job.submitted_at is None:
                return job
            holder = one(db, "owner_of", {"key": key})
            ours = mine and holder["owner"] == self._books.worker
            if holder["alive"] and not ours:
                return job
            if (task_id := self._receipt(db, job)) is not None:
                return apply(db, key, lifecycle.accepted(task_id, job.submitted_at))
            return apply(db, key, lifecycle.lost(ReplyLost(_CUT_OFF)))

        return await self._write(op)

    async def of_turn(self, key: str, turn: int) -> Job | None:
        """A job, unless it has set out again since: a name in the queue with its turn is done with."""
        found = await self._jobs("job_of_turn", key=key, turn=turn)
        return found[0] if found else None

    async def rest(self, key: str, turn: int, seconds: float) -> bool:
        """Let a job rest that could not be brought to its end; it is put into the queue again after.

        Args:
            key: The job.
            turn: The turn that has ended so.
            seconds: For how long.

        Returns:
            Whether it rests: not if it came to its end, or set out again, meanwhile.
        """
        values = {"key": key, "turn": turn, "seconds": seconds}
        return bool(await self._write(lambda db: db.ask("rest_job", values)))

    def _put_receipt(self, db: Db, job: Job, task_id: str) -> None:
        values = {"seq": job.seq, "attempt": job.attempts, "task_id": task_id}
        db.tell("put_receipt", values | {"worker": self._books.worker or ""})

    @staticmethod
    def _receipt(db: Db, job: Job) -> str | None:
        """The task that the job's last create is known to have led to."""
        found = db.ask("receipts", {"key": job.key})
        return next((str(it["task_id"]) for it in found if it["attempt"] == job.attempts), None)

    @staticmethod
    def _take_late(db: Db, sent: Job, task_id: str) -> None:
        """Take a task whose id came after its job was taken away from whoever had sent it."""
        job = job_from_row(one(db, "job_to_move", {"key": sent.key}))
        if db.ask("job_by_task", {"task_id": task_id}):
            return
        course = hints.course(job.state, attempts=job.attempts, number=sent.attempts, task_id=None)
        move = lifecycle.adopted(task_id, sent.price)
        if course is Course.ADOPT:
            apply(db, job.key, move)
        elif course is Course.EXTRA:
            add(db, naming.extra_key(job.key, sent.attempts), ExistingTask(task_id), move)

    # --- Lists ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[PostgresStaging]:
        """Take in a list: it is put aside part by part, and taken in by one transaction at the end.

        So nobody waits for a list that comes slowly, and two at once disturb each other no more than
        one after the other.
        """

        def begin(db: Db) -> dict[str, Any]:
            db.tell("sweep_staged")
            db.tell("sweep_staging")
            db.ask("lock_batch")
            return dict(one(db, "begin_staging"))

        def drop(db: Db) -> None:
            db.tell("drop_staged", {"staging": staging.number})
            db.tell("drop_staging", {"staging": staging.number})

        begun = await self._unguarded(begin)
        staging = PostgresStaging(self, begun["number"], begun["run"])
        try:
            yield staging
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(LedgerError):
                await self._unguarded(drop)
            raise
        with anyio.CancelScope(shield=True):
            taken = await self._books.write(lambda hand: self._take_in(hand, staging))
        self.stretches = taken

    async def submit(self, key: str, request: Request) -> Job:
        """One job under a key of its own, in the queue; the job that is there if the key is known.

        It goes in front of lists, and one that rests goes on.

        Args:
            key: The key.
            request: What it asks for.
        """

        def op(hand: Hand) -> Job:
            db = BatchDb(hand, self._always)
            job = add(db, key, request)
            if self._enqueue is not None:
                for row in db.ask("one_to_queue", {"key": job.key}):
                    self._enqueue(hand.link, [name_of(self.id, row["key"], row["turn"])], 1)
            return job

        return await self._books.write(op)

    async def enqueue(
        self, page: int = 1000, *, behind: str | None = None, steps: bool = True
    ) -> int:
        """Put all jobs into the queue that are not in it and could go on; how many there were.

        Those are jobs that set out again, on their user's word or after a rest, and steps of chains
        whose turn it is.

        Args:
            page: How many of each at a time, in a transaction of their own.
            behind: Only the steps that follow this job, which has ended.
            steps: Look for steps at all: that goes through every one of the batch that waits.
        """
        queries = ["to_queue", "steps_to_queue"] if steps else ["to_queue"]
        if behind is not None:
            queries = ["to_queue_behind"]
        values = {"limit": page, "parent": behind}

        def op(hand: Hand) -> int:
            db = BatchDb(hand, self._always)
            rows = [row for query in queries for row in db.ask(query, values)]
            rows.sort(key=lambda row: row["seq"])
            if rows and self._enqueue is not None:
                names = [name_of(self.id, row["key"], row["turn"]) for row in rows]
                self._enqueue(hand.link, names, rows[0]["seq"])
            return len(rows)

        number, put = 0, page if self._enqueue is not None else 0
        while put >= page:
            put = await self._books.write(op)
            number += put
        return number

    def _take_in(self, hand: Hand, staging: PostgresStaging) -> Stretches:
        db = BatchDb(hand, self._always)
        place = {"staging": staging.number}
        found = db.ask("lock_staging", place)
        if not found:
            message = (
                f"{self._books.where}, batch {self.id}: the database went down while the list was "
                "taken in; nothing of it is there: take it in again"
            )
            raise LedgerError(message, path=self._books.where)
        run, jobs = found[0]["run"], found[0]["jobs"]
        for after in range(0, staging.place, AT_ONCE):
            part = place | {"run": run, "after": after, "until": after + AT_ONCE}
            db.tell("take_known", part)
            queue = {"jobs": jobs, "queue": self._enqueue is not None}
            made = db.ask("take_new", part | queue)[0]
            if self._enqueue is not None and made["keys"]:
                names = [name_of(self.id, key) for key in made["keys"]]
                self._enqueue(hand.link, names, jobs + 1)
            jobs += made["number"]
        db.tell("end_staging", {"run": run, "jobs": jobs})
        stretches = [(row["first"], row["last"]) for row in db.ask("stretches_of", place)]
        db.tell("drop_staged", place)
        db.tell("drop_staging", place)
        return Stretches(stretches)

    # --- The books --------------------------------------------------------------------------------

    async def rows(self, query: str, values: Values) -> list[dict[str, Any]]:
        """The rows of a named query of the batch that changes nothing."""
        return await self._books.read(lambda hand: BatchDb(hand, self._always).ask(query, values))

    async def aclose(self) -> None:
        """Nothing of its own to let go of: the books are shared."""

    async def _read(self, op: Callable[[Db], _T]) -> _T:
        return await self._books.read(self._bound(op))

    async def _write(self, op: Callable[[Db], _T]) -> _T:
        done: _T = await self._books.put(Op(self._bound(op), writes=True, guarded=True))
        return done

    async def _unguarded(self, op: Callable[[Db], _T]) -> _T:
        return await self._books.write(self._bound(op))

    def _bound(self, op: Callable[[Db], _T]) -> Callable[[Hand], _T]:
        return lambda hand: op(BatchDb(hand, self._always))


_CUT_OFF: Final = "its worker died before an answer came: it may have been accepted and paid"


class PostgresStaging:
    """A list on its way into a :class:`PostgresLedger`.

    Attributes:
        number: Its number among all that are on their way.
        run: The run it will be.
        place: How many entries have been put aside.
    """

    def __init__(self, ledger: PostgresLedger, number: int, run: int) -> None:
        self.number = number
        self.run = run
        self.place = 0
        self._ledger = ledger

    async def add(self, requests: Sequence[Request]) -> list[Staged]:
        """Take in the next part of the list."""

        def op(db: Db) -> tuple[list[Staged], int]:
            shelf = _Shelf(db, self.number, self.place)
            return stage(shelf, requests), shelf.place

        jobs, self.place = await self._ledger._unguarded(op)
        return jobs


@attrs.define
class _Shelf:
    """A part of a list."""

    db: Db
    staging: int
    place: int

    def tasks(self, ids: Collection[str]) -> dict[str, Any]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        return {row["task_id"]: row for row in self.db.ask("tasks_known", {"ids": list(ids)})}

    def count(self, digests: Sequence[str]) -> list[int]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        values = {"staging": self.staging, "digests": list(set(digests))}
        self.db.ask("by_index_only")
        seen = Counter({row["digest"]: row["n"] for row in self.db.ask("count_digests", values)})
        numbers = []
        for digest in digests:
            seen[digest] += 1
            numbers.append(seen[digest])
        return numbers

    def touch(self, keys: Collection[str]) -> None:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        self._put([(key, None, None, None) for key in keys])

    def put(self, entries: Sequence[Entry]) -> list[Any]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        self._put([(it.key, it.digest, it.text, it.parent) for it in entries])
        keys = list({it.key for it in entries})
        known = {row["key"]: row for row in self.db.ask("jobs_known", {"keys": keys})}
        new = State.PLANNED.value
        return [known.get(it.key) or {"state": new, "request": it.text} for it in entries]

    def _put(self, rows: Sequence[tuple[str, str | None, str | None, str | None]]) -> None:
        if not rows:
            return
        keys, digests, requests, parents = map(list, zip(*rows, strict=True))
        values = {"staging": self.staging, "place": self.place, "keys": keys, "digests": digests}
        self.db.tell("put_staged", values | {"requests": requests, "parents": parents})
        self.place += len(rows)
