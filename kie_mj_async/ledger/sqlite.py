"""The ledger on disk: stdlib sqlite3, one thread at a time, one commit for all that wait.

Whoever wants something puts a function of the connection into the queue. A drain takes all that is
there, runs it in one transaction (WAL, synchronous FULL: what is answered is on disk) and then
answers. One producer pays one commit a row; a hundred producers share one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import LedgerError, refusal
from ..jobs import Counts, Job, Reading, State
from ..requests import Request
from ..rules.lifecycle import AT_RISK, Move
from ..rules.uploads import Upload
from ..waiting import in_thread, outlast
from .base import Alike, Attempt, Cursor, PastEvent, Staged
from .changes import apply, insert, stage
from .database import (
    SQL,
    SQLITE_ERRORS,
    as_ledger_errors,
    check_host,
    check_not_empty,
    check_schema,
    connect,
    ledger_error,
    make,
    one,
    version,
    with_path,
)
from .lock import ProcessLock, holder_of
from .rows import alike, as_damage, attempt_from_row, job_from_row, upload_from_row

_T = TypeVar("_T")
_Op = Callable[[sqlite3.Connection], Any]


def lock_path(path: Path) -> Path:
    """The lock of a ledger file."""
    return path.with_name(path.name + ".lock")


class SqliteLedger:
    """A ledger file. Make one with :meth:`open` or :meth:`read`."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: ProcessLock | None
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._queue: list[tuple[_Op, asyncio.Future[Any]]] = []
        self._drain_task: asyncio.Task[None] | None = None
        # An open staging transaction and a drain exclude each other.
        self._turn = anyio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kie-mj ledger")
        self._closed = False

    @classmethod
    async def open(cls, path: Path, host: str) -> SqliteLedger:
        """Open for work, alone; made if it does not exist.

        Args:
            path: The file.
            host: The API host that its tasks live at.

        Raises:
            LedgerBusy: Another process works on it.
            LedgerTooNew: A newer version of this package wrote it.
            WrongHost: Its tasks live at another host.
            LedgerError: It is not a ledger, damaged, or cannot be written.
        """
        return await anyio.to_thread.run_sync(cls._open, path, host)

    @classmethod
    async def read(cls, path: Path) -> SqliteLedger:
        """Open to look at, beside whoever works on it.

        Raises:
            LedgerTooNew: A newer version of this package wrote it.
            LedgerError: There is none, or it is not a ledger, or damaged.
        """
        return await anyio.to_thread.run_sync(cls._open_to_read, path)

    @classmethod
    def _open(cls, path: Path, host: str) -> SqliteLedger:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{path.parent}: cannot be made: {refusal(error)}"
            raise LedgerError(message, path=str(path)) from None
        lock = ProcessLock(lock_path(path), path)
        try:
            with as_ledger_errors(path):
                if not path.exists():
                    make(path, host)
                check_not_empty(path)
                connection = connect(str(path))
                try:
                    connection.execute("PRAGMA synchronous = FULL")
                    # Before WAL, which would be written into a file that is not ours.
                    check_schema(connection, path, make=True)
                    connection.execute("PRAGMA journal_mode = WAL")
                    check_host(connection, path, host)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            lock.release()
            raise
        return cls(path, connection, lock)

    @classmethod
    def _open_to_read(cls, path: Path) -> SqliteLedger:
        if not path.is_file():
            raise LedgerError(
                f"{path}: there is no such ledger; is this a batch directory?", path=str(path)
            )
        check_not_empty(path)
        with as_ledger_errors(path):
            # Not mode=ro: reading a WAL database wants its shared memory file beside it.
            connection = connect(str(path))
            try:
                connection.execute("PRAGMA query_only = ON")
                check_schema(connection, path, make=False)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, None)

    async def worker(self) -> int | None:
        """The process that works on it now, if any."""
        return await anyio.to_thread.run_sync(holder_of, lock_path(self.path))

    async def host(self) -> str:
        """The API host that its tasks live at."""
        return await self._do(lambda db: str(one(db, "read_meta", name="host")[0]))

    async def store(self) -> str | None:
        """The address of the object store that its results go to; ``None`` for its own directory."""
        return await self._do(_store)

    async def bind(self, store: str | None) -> None:
        """See that its results go there, now and later.

        Raises:
            LedgerError: It has jobs whose results go elsewhere.
        """

        def op(db: sqlite3.Connection) -> None:
            found = _store(db)
            if found == store:
                return
            if db.execute(SQL["scan"], {"seq": 0, "limit": 1}).fetchone() is not None:
                message = (
                    f"{self.path}: its results go to {found or 'its own directory'}, and this run "
                    f"would put them into {store or 'its own directory'}; use the one it began with"
                )
                raise LedgerError(message, path=str(self.path))
            db.execute(SQL["write_meta"], {"name": "store", "value": store or ""})

        await self._do(op)

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[SqliteStaging]:
        """Take in a list in one transaction."""
        async with self._turn:
            try:
                run = await self._hop(self._begin_staging)
                yield SqliteStaging(self, run)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._hop(self._end_staging, "ROLLBACK")
                raise
            with anyio.CancelScope(shield=True):
                await self._hop(self._end_staging, "COMMIT")

    async def add(self, key: str, request: Request, move: Move | None = None) -> Job:
        """One job under a key of its own."""

        def op(db: sqlite3.Connection) -> Job:
            known = db.execute(SQL["job_by_key"], {"key": key}).fetchone()
            if known is not None:
                return job_from_row(known)
            # A run of its own, which no list has.
            insert(db, key, request)
            return apply(db, key, move) if move else job_from_row(one(db, "job_by_key", key=key))

        return await self._do(op)

    async def record(self, job: Job, move: Move) -> Job:
        """Apply a move, durably."""
        return await self._do(lambda db: apply(db, job.key, move))

    async def get(self, key: str) -> Job | None:
        """One job."""
        found = await self._jobs("job_by_key", key=key)
        return found[0] if found else None

    async def find(self, prefix: str) -> list[Job]:
        """Jobs whose key starts like this."""
        return await self._jobs("jobs_by_key_prefix", prefix=prefix, limit=10)

    async def by_task(self, task_id: str) -> Job | None:
        """The job that a task belongs to."""
        found = await self._jobs("job_by_task", task_id=task_id)
        return found[0] if found else None

    async def children(self, key: str, run: int | None = None) -> list[Job]:
        """The jobs that follow a job in a chain."""
        return await self._jobs("children", key=key, run=run)

    async def has_chains(self) -> bool:
        """Whether any job follows another."""
        return await self._do(lambda db: bool(one(db, "has_chains")[0]))

    async def by_token(self, token: str) -> Attempt | None:
        """The attempt whose callback carries this token."""
        return await self._attempt("attempt_by_token", token=token)

    async def last_attempt(self, key: str) -> Attempt | None:
        """A job's last attempt, if its callback carries a token."""
        return await self._attempt("last_attempt", key=key)

    async def note_hint(self, token: str, task_id: str | None) -> None:
        """Keep which task a callback with this token named."""
        values = {"token": token, "task_id": task_id}
        await self._do(lambda db: db.execute(SQL["note_hint"], values) and None)

    async def open_hints(self) -> list[Attempt]:
        """Attempts whose task a callback named, and that are not known to have led to any."""
        return await self._do(
            lambda db: [attempt_from_row(row) for row in db.execute(SQL["open_hints"])]
        )

    async def upload_of(self, name: str) -> Upload | None:
        """The last upload of a local image."""

        def op(db: sqlite3.Connection) -> Upload | None:
            row = db.execute(SQL["upload"], {"name": name}).fetchone()
            return None if row is None else upload_from_row(row)

        return await self._do(op)

    async def note_upload(self, upload: Upload) -> None:
        """Keep where a local image was uploaded to."""
        values = {"name": upload.name, "url": upload.url, "at": upload.at.timestamp()}
        await self._do(lambda db: db.execute(SQL["note_upload"], values) and None)

    async def _attempt(self, query: str, **values: Any) -> Attempt | None:
        def op(db: sqlite3.Connection) -> Attempt | None:
            row = db.execute(SQL[query], values).fetchone()
            return None if row is None else attempt_from_row(row)

        return await self._do(op)

    async def page(
        self, state: State, after: Cursor, limit: int, run: int | None = None
    ) -> list[Job]:
        """Jobs in a state."""
        return await self._jobs(
            "page", state=state.value, urgency=after.urgency, seq=after.seq, limit=limit, run=run
        )

    async def planned(self, after: Cursor, limit: int) -> tuple[list[Alike], Cursor]:
        """The next planned jobs, those that are alike told together."""
        values = {"urgency": after.urgency, "seq": after.seq, "limit": limit}

        def op(db: sqlite3.Connection) -> tuple[list[Alike], Cursor]:
            rows = db.execute(SQL["planned"], values).fetchall()
            behind = Cursor(rows[-1]["urgency"], rows[-1]["seq"]) if rows else after
            return alike(rows), behind

        return await self._do(op)

    async def scan(self, after_seq: int, limit: int, *, with_files: bool = False) -> list[Job]:
        """All jobs in their order, or those that have files."""
        query = "scan_with_files" if with_files else "scan"
        return await self._jobs(query, seq=after_seq, limit=limit)

    async def history(self, job: Job) -> list[PastEvent]:
        """All that happened to a job."""

        def op(db: sqlite3.Connection) -> list[PastEvent]:
            return [PastEvent(*row) for row in db.execute(SQL["events_of"], {"seq": job.seq})]

        return await self._do(op)

    async def counts(self) -> Counts:
        """How many jobs stand where."""
        return await self._do(_counts)

    async def due(self, before: datetime) -> int:
        """Jobs whose results are gone before then."""
        return await self._do(lambda db: int(one(db, "due", before=before.timestamp())[0]))

    async def note_balance(self, at: datetime, balance: float) -> None:
        """Keep the account's balance beside what the ledger knows now."""

        def op(db: sqlite3.Connection) -> None:
            counts = _counts(db)
            row = {
                "at": at.timestamp(),
                "balance": balance,
                "spent": counts.credits,
                "at_risk": counts.at_risk,
            }
            db.execute(SQL["insert_reading"], row)

        await self._do(op)

    async def readings(self, last: int) -> list[Reading]:
        """The last readings of the balance."""

        def op(db: sqlite3.Connection) -> list[Reading]:
            if version(db) < 2:  # opened to look at, so not brought up to date
                return []
            rows = [tuple(row) for row in db.execute(SQL["last_readings"], {"last": last})]
            with as_damage():
                return [Reading(datetime.fromtimestamp(at, UTC), *rest) for at, *rest in rows][::-1]

        return await self._do(op)

    async def aclose(self) -> None:
        """Finish what is queued and let go of the file."""
        try:
            await outlast(lambda: self._drain_task is None, self._drained)
        finally:
            if not self._closed:
                self._closed = True
                try:
                    with anyio.CancelScope(shield=True):
                        await in_thread(self._connection.close, pool=self._thread)
                finally:
                    self._thread.shutdown(wait=False)
                    if self._lock is not None:
                        self._lock.release()

    async def _drained(self) -> None:
        if self._drain_task is not None:
            await asyncio.wait([self._drain_task])

    async def _jobs(self, query: str, **values: Any) -> list[Job]:
        def op(db: sqlite3.Connection) -> list[Job]:
            return [job_from_row(row) for row in db.execute(SQL[query], values)]

        return await self._do(op)

    async def _do(self, op: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._queue.append((op, future))
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain(), name="kie-mj ledger")
        return await future

    async def _drain(self) -> None:
        try:
            while self._queue:
                async with self._turn:
                    queue, self._queue = self._queue, []
                    results = await self._hop(self._commit, [op for op, _ in queue])
                for (_, future), (value, error) in zip(queue, results, strict=True):
                    if future.done():  # its caller was cancelled meanwhile; what it did stands
                        continue
                    if error is not None:
                        future.set_exception(error)
                    else:
                        future.set_result(value)
        finally:
            self._drain_task = None

    async def _hop(self, step: Callable[..., _T], *args: Any) -> _T:
        self._check_open()
        return await in_thread(step, *args, pool=self._thread)

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self.path}: is closed already", path=str(self.path))

    def _commit(self, ops: Sequence[_Op]) -> list[tuple[Any, Exception | None]]:
        db = self._connection
        results: list[tuple[Any, Exception | None]] = []
        try:
            db.execute("BEGIN" if self._lock is None else "BEGIN IMMEDIATE")
            for op in ops:
                db.execute("SAVEPOINT op")
                try:
                    results.append((op(db), None))
                except SQLITE_ERRORS:
                    raise
                except Exception as error:
                    db.execute("ROLLBACK TO op")
                    results.append((None, with_path(self.path, error)))
                db.execute("RELEASE op")
            db.execute("COMMIT")
        except SQLITE_ERRORS as error:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            return [(None, ledger_error(self.path, error)) for _ in ops]
        return results

    def _begin_staging(self) -> int:
        with as_ledger_errors(self.path):
            db = self._connection
            db.execute(SQL["drop_tally"])
            db.execute("BEGIN IMMEDIATE")
            db.execute(SQL["make_tally"])
            row = db.execute(SQL["read_meta"], {"name": "run"}).fetchone()
            run = int(row[0]) + 1 if row else 1
            db.execute(SQL["write_meta"], {"name": "run", "value": str(run)})
            return run

    def _stage(self, run: int, requests: Sequence[Request]) -> list[Staged]:
        with as_ledger_errors(self.path):
            return stage(self._connection, run, requests)

    def _end_staging(self, verb: str) -> None:
        with as_ledger_errors(self.path):
            if self._connection.in_transaction:
                self._connection.execute(verb)


class SqliteStaging:
    """A list on its way into a :class:`SqliteLedger`."""

    def __init__(self, ledger: SqliteLedger, run: int) -> None:
        self._ledger = ledger
        self.run = run

    async def add(self, requests: Sequence[Request]) -> list[Staged]:
        """Take in the next part of the list."""
        return await self._ledger._hop(self._ledger._stage, self.run, requests)


def _store(db: sqlite3.Connection) -> str | None:
    row = db.execute(SQL["read_meta"], {"name": "store"}).fetchone()
    return str(row[0]) or None if row is not None else None


def _counts(db: sqlite3.Connection) -> Counts:
    rows = [tuple(row) for row in db.execute(SQL["counts"])]
    with as_damage():
        return Counts(
            {State(row[0]): row[1] for row in rows},
            files=sum(row[2] for row in rows),
            bytes=sum(row[3] for row in rows),
            credits=sum(row[4] for row in rows),
            at_risk=sum(row[5] for row in rows if State(row[0]) in AT_RISK),
        )
