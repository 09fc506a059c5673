"""A process's way into the fleet's books: one connection, one transaction for all that wait.

Whoever wants something puts a function of the connection into the queue. It may be run again, from the
beginning, after it was undone: when the database went away in the middle, when two workers wanted each
other's rows, when another function in the same transaction failed. So what it does, it does to the
database alone.

A commit whose answer was lost is looked up by the mark that its transaction made before anything is done
again: nothing is applied twice.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

import anyio
import attrs
import psycopg

from ..errors import LedgerError
from ..ledger.group import Group, Result
from ..ledger.sql import NOTHING, Values
from ..logs import logger
from ..waiting import in_thread
from .database import LIMITS, STATEMENT, Link, checked, connect_blocking, is_pooled, lost, where
from .lease import GUARD
from .statements import READS, SQL

log = logger(__name__)

_T = TypeVar("_T")

PATIENCE: Final = 60.0
"""Seconds for which a database that went away is waited for."""

TOGETHER: Final = 64
"""What shares a transaction at most: rows are locked until its end."""

_FIRST, _CEILING = 0.05, 2.0
_SILENCE: Final = STATEMENT + 5.0
_GUARD: Final = GUARD.encode()
_INERROR: Final = psycopg.pq.TransactionStatus.INERROR


class LeaseLost(LedgerError):
    """This worker was taken for dead: its lease is another's to give, and its writes are refused."""


class Hand:
    """Runs statements inside the open transaction."""

    def __init__(self, link: Link, asked: Callable[[], None] = lambda: None) -> None:
        self.link = link
        self.wrote = False
        self._asked = asked

    def ask(self, query: str, values: Values = NOTHING) -> list[dict[str, Any]]:
        """The rows of a named statement."""
        self._asked()
        self.wrote = self.wrote or query not in READS
        return self.link.execute(SQL[query], values).fetchall()

    def tell(self, query: str, values: Values = NOTHING) -> None:
        """Run a named statement; what it says is not waited for."""
        self._asked()
        self.wrote = self.wrote or query not in READS
        self.link.execute(SQL[query], values)


@attrs.frozen
class BatchDb:
    """One batch's part of the tables."""

    hand: Hand
    always: Mapping[str, Any]

    def ask(self, query: str, values: Values = NOTHING) -> list[dict[str, Any]]:
        """The rows of a named query."""
        return self.hand.ask(query, {**values, **self.always})

    def tell(self, query: str, values: Values = NOTHING) -> None:
        """Run a named query that has no rows."""
        self.hand.tell(query, {**values, **self.always})


@attrs.frozen
class Op:
    """Something to be done.

    Attributes:
        act: Does it.
        writes: Whether it changes anything.
        guarded: Whether only the holder of the lease may.
        otherwise: Done in its place when it may not be done, or failed; what ``act`` failed with is
            told all the same.
    """

    act: Callable[[Hand], Any]
    writes: bool = False
    guarded: bool = False
    otherwise: Callable[[Hand], Any] | None = None


@attrs.define
class _Mark:
    """How far a connection has come, by the row that its writing transactions leave in the books.

    A transaction's own number would not do: a server that crashed, and a standby that took over, give
    those again of which nothing had come to the disk, or across.

    Attributes:
        connection: Its name, which no other connection ever has.
        begun: The number of the last transaction.
        committed: The number of the last one that is known to be committed.
    """

    connection: str = attrs.field(factory=partial(secrets.token_hex, 8))
    begun: int = 0
    committed: int = 0

    def next(self) -> dict[str, Any]:
        """What one more transaction leaves."""
        self.begun += 1
        return {"connection": self.connection, "number": self.begun}


class _Spoiled(Exception):
    """One of several has failed after it had written something."""


@attrs.define
class _Undone(Exception):
    """The only one has failed after it had written something."""

    reason: Exception


@attrs.define
class _Unsure(Exception):
    """The commit was sent, and no answer came."""

    mark: _Mark
    results: Sequence[Result]
    reason: Exception


class Books:
    """The fleet's books, for one process.

    Args:
        url: The database.
        name: Whose connection it is.
        worker: The worker under whose lease jobs are moved; ``None`` for those that hold none.
        patience: Seconds for which a database that went away is waited for.

    Attributes:
        worker: That worker.
        commits: Transactions so far.

    Raises:
        ConfigError: That is no database's URL.
    """

    def __init__(
        self, url: str, name: str, *, worker: str | None = None, patience: float = PATIENCE
    ) -> None:
        self.worker = worker
        self.commits = 0
        self._url = checked(url)
        self._name = name
        self._patience = patience
        self._link: Link | None = None
        self._mark = _Mark()
        self._asked_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._group: Group[Op] = Group(self._together)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kie-mj books")
        self._closed = False

    @property
    def where(self) -> str:
        """The database, as people are told."""
        return where(self._url)

    async def open(self) -> None:
        """Connect.

        Raises:
            LedgerError: The database cannot be used.
        """
        try:
            await in_thread(self._connected, pool=self._thread)
        except psycopg.Error as error:
            raise lost(self._url, error) from None

    async def read(self, act: Callable[[Hand], _T]) -> _T:
        """Have something looked up."""
        return cast("_T", await self.put(Op(act)))

    async def write(self, act: Callable[[Hand], _T]) -> _T:
        """Have something changed, lease or not."""
        return cast("_T", await self.put(Op(act, writes=True)))

    def put(self, op: Op) -> asyncio.Future[Any]:
        """Have something done, behind what waits.

        Raises:
            LedgerError: The books are closed; what else goes wrong is in the future.
        """
        if self._closed:
            raise LedgerError(f"{self.where}: is closed already", path=self.where)
        return self._group.put(op)

    async def aclose(self) -> None:
        """Finish what is queued, and let go of the connection."""
        try:
            await self._group.drained()
        finally:
            if not self._closed:
                self._closed = True
                with anyio.CancelScope(shield=True):
                    await in_thread(self._drop, pool=self._thread)
                self._thread.shutdown(wait=False)

    async def _together(self, ops: Sequence[Op]) -> Sequence[Result]:
        self._look()
        try:
            return await in_thread(self._run, ops, pool=self._thread)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look(self) -> None:
        """See to it that the thread is not kept waiting by a server that says nothing at all."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > _SILENCE:
            self._cut()
        self._timer = asyncio.get_running_loop().call_later(1, self._look)

    def _cut(self) -> None:
        """End a connection under the thread that waits for it."""
        link = self._link
        with suppress(OSError, psycopg.Error):
            if link is not None:
                with socket.socket(fileno=os.dup(link.pgconn.socket)) as held:
                    held.shutdown(socket.SHUT_RDWR)

    # What follows runs in the thread.

    def _run(self, ops: Sequence[Op]) -> list[Result]:
        # One for all: however many wait, a database that is away is not waited for again and again.
        deadline = time.monotonic() + self._patience
        results: list[Result] = []
        for at in range(0, len(ops), TOGETHER):
            results += self._some(ops[at : at + TOGETHER], deadline)
        return results

    def _some(self, ops: Sequence[Op], deadline: float) -> Sequence[Result]:
        if len(ops) > 1:
            with suppress(_Spoiled):
                return self._patiently(ops, deadline)
        return [self._alone(op, deadline) for op in ops]

    def _alone(self, op: Op, deadline: float) -> Result:
        try:
            return self._patiently([op], deadline)[0]
        except _Undone as undone:
            failed = None
            if op.otherwise is not None:
                _, failed = self._alone(Op(op.otherwise, writes=True), deadline)
            return None, failed or undone.reason

    def _patiently(self, ops: Sequence[Op], deadline: float) -> Sequence[Result]:
        """All of them done once, or an error for each."""
        pause = _FIRST
        unsure: _Unsure | None = None
        while True:
            try:
                link = self._connected()
                if unsure is not None and self._is_committed(link, unsure.mark):
                    return unsure.results
                unsure = None
                return self._transact(link, ops)
            except _Unsure as error:
                unsure, reason = error, error.reason
            except psycopg.Error as error:
                reason = error
                # Nothing is done again, or otherwise, before it is known what became of it.
                if unsure is None and not self._may_pass(error):
                    if len(ops) > 1:
                        raise _Spoiled from None
                    return [(None, lost(self._url, error))]
                if unsure is None and len(ops) > 1 and _is_quarrel(error):
                    raise _Spoiled from None
            if time.monotonic() + pause > deadline:
                return [(None, self._given_up(reason, sure=unsure is None)) for _ in ops]
            log.warning("%s: %s; again soon", self.where, _line(reason))
            time.sleep(pause)
            pause = min(2 * pause, _CEILING)

    def _transact(self, link: Link, ops: Sequence[Op]) -> Sequence[Result]:
        hand = Hand(link, self._ask)
        results: list[Result] = []
        guarded = self.worker is not None and any(op.guarded for op in ops)
        writes = any(op.writes for op in ops)
        mark = self._mark
        committing = False
        self._ask()
        try:
            with link.pipeline():
                link.execute(b"BEGIN")
                if is_pooled(link):
                    link.execute(LIMITS)
                marked = link.execute(SQL["mark"], mark.next()) if writes else None
                held = link.execute(_GUARD, (self.worker,)) if guarded else None
                if marked is not None:
                    marked.fetchone()  # it is there before the commit is sent
                fenced = held is not None and held.fetchone() is None
                for op in ops:
                    self._ask()
                    results.append(self._do(hand, op, fenced, alone=len(ops) == 1))
                committing = True
                link.execute(b"COMMIT")
        except Exception as error:
            # The server's word that a statement was wrong proves that it did not come to the commit. Its
            # word that it ends the connection does not: that may come behind the commit's answer.
            if not self._undone(link) and committing and writes:
                raise _Unsure(mark, results, error) from None
            raise
        finally:
            self._asked_at = None
        if writes:
            mark.committed = mark.begun
        self.commits += 1
        return results

    def _do(self, hand: Hand, op: Op, fenced: bool, *, alone: bool) -> Result:
        failed: Exception | None = None
        act: Callable[[Hand], Any] | None = op.act
        if fenced and op.guarded:
            failed, act = self._lease_lost(), op.otherwise
        hand.wrote = False
        try:
            value = act(hand) if act is not None else None
        except psycopg.Error:
            raise
        except Exception as error:
            if hand.wrote and not alone:
                raise _Spoiled from None
            if hand.wrote:
                raise _Undone(error) from None
            return None, failed or error
        return (value, None) if failed is None else (None, failed)

    def _ask(self) -> None:
        """The server is asked something, and has so much time for it."""
        self._asked_at = time.monotonic()

    def _undone(self, link: Link) -> bool:
        """Undo the open transaction; whether it is certain that it had failed before its end."""
        try:
            failed = link.info.transaction_status == _INERROR
            link.execute(b"ROLLBACK")
        except psycopg.Error:
            self._drop()
            return False
        return failed

    def _is_committed(self, link: Link, mark: _Mark) -> bool:
        """What became of a connection's last transaction; one that is under way is waited for.

        Raises:
            psycopg.Error: It cannot be known, for now.
        """
        self._ask()
        try:
            row = link.execute(SQL["last_mark"], {"connection": mark.connection}).fetchone()
        finally:
            self._asked_at = None
        last = (row or {})["number"]
        if last not in (mark.committed, mark.begun):  # swept, after a sleep of weeks
            raise psycopg.OperationalError("the mark of a commit whose answer was lost is gone")
        mark.committed = last
        return bool(last == mark.begun)

    def _connected(self) -> Link:
        if self._link is not None and not self._link.closed:
            return self._link
        self._link, self._mark = connect_blocking(self._url, self._name), _Mark()
        return self._link

    def _drop(self) -> None:
        if self._link is not None:
            with suppress(psycopg.Error):
                self._link.close()
            self._link = None

    def _may_pass(self, error: psycopg.Error) -> bool:
        """Whether the same may go well soon."""
        return self._link is None or self._link.closed or _is_quarrel(error)

    def _lease_lost(self) -> LeaseLost:
        message = (
            f"{self.where}: worker {self.worker} was taken for dead and its lease is gone; "
            "its jobs go on elsewhere. This was not written"
        )
        return LeaseLost(message, path=self.where)

    def _given_up(self, reason: Exception, *, sure: bool) -> LedgerError:
        known = (
            "nothing was changed" if sure else "whether the last change was written is not known"
        )
        message = (
            f"{self.where}: could not be used for {self._patience:g} s ({_line(reason)}); {known}. "
            "See that it runs and can be reached; the work goes on from where it stands"
        )
        return LedgerError(message, path=self.where)


def _is_quarrel(error: psycopg.Error) -> bool:
    """Whether others were in the way: a deadlock, a lock not had in time."""
    state = error.sqlstate or ""
    return state.startswith("40") or state in ("55P03", "57014")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
