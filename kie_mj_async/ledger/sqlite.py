"""The ledger on disk: stdlib sqlite3, one thread at a time, one commit for all that wait.

Whoever wants something puts a function of the connection into the queue. A drain takes all that is
there, runs it in one transaction (WAL, synchronous FULL: what is answered is on disk) and then
answers. One producer pays one commit a row; a hundred producers share one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import attrs

from ..disk import private_folder
from ..errors import LedgerError, refusal
from ..jobs import Reading
from ..requests import Request
from ..waiting import in_thread
from .base import Staged
from .changes import Entry, stage
from .database import (
    SQLITE_ERRORS,
    File,
    as_ledger_errors,
    check_host,
    check_not_empty,
    check_schema,
    connect,
    ledger_error,
    make,
    version,
    with_path,
)
from .group import Group, Result
from .lock import ProcessLock, holder_of
from .sql import Db, Row, first, one
from .tables import TableLedger

_T = TypeVar("_T")
_Op = Callable[[File], Any]


def lock_path(path: Path) -> Path:
    """The lock of a ledger file."""
    return path.with_name(path.name + ".lock")


class SqliteLedger(TableLedger):
    """A ledger file. Make one with :meth:`open` or :meth:`read`."""

    def __init__(self, path: Path, connection: File, lock: ProcessLock | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._group: Group[_Op] = Group(self._together)
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
            private_folder(path.parent)
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
        return await self._do(lambda db: str(one(db, "read_meta", {"name": "host"})["value"]))

    async def store(self) -> str | None:
        """The address of the object store that its results go to; ``None`` for its own directory."""
        return await self._do(_store)

    async def bind(self, store: str | None) -> None:
        """See that its results go there, now and later.

        Raises:
            LedgerError: It has jobs whose results go elsewhere.
        """

        def op(db: File) -> None:
            found = _store(db)
            if found == store:
                return
            if db.ask("scan", {"seq": 0, "limit": 1}):
                message = (
                    f"{self.path}: its results go to {found or 'its own directory'}, and this run "
                    f"would put them into {store or 'its own directory'}; use the one it began with"
                )
                raise LedgerError(message, path=str(self.path))
            db.tell("write_meta", {"name": "store", "value": store or ""})

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

    async def readings(self, last: int) -> list[Reading]:
        """The last readings of the balance."""
        if await self._do(version) < 2:  # opened to look at, so not brought up to date
            return []
        return await super().readings(last)

    async def aclose(self) -> None:
        """Finish what is queued and let go of the file."""
        try:
            await self._group.drained()
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

    async def _read(self, op: Callable[[Db], _T]) -> _T:
        return await self._do(op)

    async def _write(self, op: Callable[[Db], _T]) -> _T:
        return await self._do(op)

    async def _do(self, op: Callable[[File], _T]) -> _T:
        self._check_open()
        return cast("_T", await self._group.do(op))

    async def _together(self, ops: Sequence[_Op]) -> list[Result]:
        async with self._turn:
            return await self._hop(self._commit, ops)

    async def _hop(self, step: Callable[..., _T], *args: Any) -> _T:
        self._check_open()
        return await in_thread(step, *args, pool=self._thread)

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"{self.path}: is closed already", path=str(self.path))

    def _commit(self, ops: Sequence[_Op]) -> list[Result]:
        db = self._connection
        results: list[Result] = []
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
            db.tell("drop_tally")
            db.execute("BEGIN IMMEDIATE")
            db.tell("make_tally")
            row = first(db, "read_meta", {"name": "run"})
            run = int(row["value"]) + 1 if row else 1
            db.tell("write_meta", {"name": "run", "value": str(run)})
            return run

    def _stage(self, run: int, requests: Sequence[Request]) -> list[Staged]:
        with as_ledger_errors(self.path):
            return stage(_Shelf(self._connection, run), requests)

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


@attrs.frozen
class _Shelf:
    """A list in its open transaction."""

    db: File
    run: int

    def tasks(self, ids: Collection[str]) -> dict[str, Row]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        found = {one: first(self.db, "job_by_task", {"task_id": one}) for one in ids}
        return {name: row for name, row in found.items() if row is not None}

    def count(self, digests: Sequence[str]) -> list[int]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        return [one(self.db, "count_occurrence", {"digest": it})["n"] for it in digests]

    def touch(self, keys: Collection[str]) -> None:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        for key in keys:
            self.db.tell("touch_job", {"run": self.run, "key": key})

    def put(self, entries: Sequence[Entry]) -> list[Row]:
        """See :class:`~kie_mj_async.ledger.changes.Shelf`."""
        return [
            one(
                self.db,
                "stage_job",
                {"key": it.key, "run": self.run, "request": it.text, "parent": it.parent},
            )
            for it in entries
        ]


def _store(db: File) -> str | None:
    row = first(db, "read_meta", {"name": "store"})
    return str(row["value"]) or None if row is not None else None
