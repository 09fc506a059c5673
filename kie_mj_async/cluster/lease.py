"""A worker's lease: one row that it renews every two seconds, and that others watch.

Who is dead is decided in ``rules/leases.py``; this reads and writes the rows. A lease is taken from a
worker by ending its row, once and for all: the worker finds that out at its next heartbeat and starts
over under another name. What a worker may write under its lease is guarded by :data:`GUARD`.

A lease and not a session's lock: a frozen process keeps its sessions, and with them its locks, for as
long as it is frozen.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import anyio
import psycopg

from ..errors import ConfigError, LedgerError
from ..logs import logger
from ..rules import leases
from ..rules.leases import Lease, Watch
from .database import (
    IDLE_IN_TRANSACTION,
    LIMITS,
    SCHEMA,
    Connection,
    answer_within,
    connect,
    is_pooled,
    lost,
    where,
)

log = logger(__name__)

TABLE: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.worker (
    name     text PRIMARY KEY,
    epoch    bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    host     text NOT NULL,
    pid      integer NOT NULL,
    account  text COLLATE "C" NOT NULL DEFAULT '',  -- a hash: no key, and nothing that leads to one
    trouble  text,                                  -- why it begins no job at present
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beats    bigint NOT NULL DEFAULT 0,
    beat_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    ended_by text
) WITH (fillfactor = 50);
"""
"""What has to be in the database; may be run again."""

GUARD: Final = f"SELECT 1 FROM {SCHEMA}.worker WHERE name = %s AND ended_at IS NULL FOR KEY SHARE"  # noqa: S608
"""In the transaction of a write that only the holder of a lease may do: no row, no write.

Whoever takes the lease away waits for such transactions, and none begins after that.
"""

_HANG_UP: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE starts_with(application_name, %s) AND datname = current_database() AND pid <> pg_backend_pid()
    AND xact_start < clock_timestamp() - make_interval(secs => %s)
"""
"""Ends the transactions of a dead worker that have lasted too long: where it froze while the server
waited for more of the same message, no limit of the server's does."""

FORGOTTEN_AFTER: Final = 86400.0
"""Seconds for which ended leases are kept, for the operators."""

ANSWER: Final = 3.0
"""Seconds to wait for the database's answer to a heartbeat."""

SOONEST: Final = 0.25
"""Seconds between two looks at least."""

ORPHANS_EVERY: Final = 5.0
"""Seconds between two looks for work that belongs to nobody."""

_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"


class Heirs(Protocol):
    """Who gets the work of the dead."""

    async def at_work(self) -> Collection[str]:
        """The names of workers that have work, alive or not."""

    async def recover(self, workers: Sequence[str]) -> int:
        """Give the work of these workers back to everybody, and return how much it was."""


def new_name() -> str:
    """A name for a worker that no other worker has, or ever had."""
    host = "".join(one for one in socket.gethostname() if one.isalnum() or one in "-_.")[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def steady() -> float:
    """Seconds by a clock that nobody sets, and that goes on while a machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class WorkerLease:
    """The lease of this worker.

    Args:
        url: The database.
        name: The worker's name, which no other worker ever had.
        account: The account that it works for (``account.account_name``).
        clock: A steady clock, in seconds.

    Attributes:
        name: The worker's name.
        trouble: Why it begins no job at present, for the operators; told with each heartbeat.
        epoch: Its number; later leases have higher ones.
        eldest: Whether it is the eldest of the fleet, as far as it knows: who sees to what is
            everybody's.
        fleet: How many workers live, as far as it knows.
        lost: Set once the lease was taken away.
    """

    def __init__(
        self, url: str, name: str, account: str = "", *, clock: Callable[[], float] = steady
    ) -> None:
        self.name = name
        self.trouble: str | None = None
        self.epoch = 0
        self.lost = anyio.Event()
        self._url = url
        self._account = account
        self._clock = clock
        self._link: Connection | None = None
        self._trusted_until = -1.0
        self._watch: Watch | None = None
        self._looked_for_orphans = -ORPHANS_EVERY
        self.eldest = False
        self.fleet = 1

    def holds(self) -> bool:
        """Whether it can be trusted now; asked for just before what cannot be taken back."""
        return not self.lost.is_set() and self._clock() < self._trusted_until

    async def join(self) -> None:
        """Take it.

        Raises:
            ConfigError: The fleet works for another account.
            LedgerError: The database cannot be used.
        """
        asked = self._clock()
        statement = (
            f"INSERT INTO {SCHEMA}.worker (name, host, pid, account) "  # noqa: S608
            f"SELECT %s, %s, %s, %s WHERE NOT EXISTS (SELECT FROM {SCHEMA}.worker "
            "WHERE ended_at IS NULL AND account <> %s) RETURNING epoch"
        )
        mine = (self.name, socket.gethostname(), os.getpid(), self._account, self._account)
        rows = await self._ask(statement, mine)
        if not rows:
            raise ConfigError(
                f"{where(self._url)}: the workers of this fleet use another key or another API host. "
                "A fleet has one account: give every account a database of its own. Where the key was "
                "replaced, stop all workers before the first one starts with the new key"
            )
        self.epoch = int(rows[0][0])
        self._trusted_until = leases.trusted_until(asked)
        log.info("worker %s has joined (epoch %d)", self.name, self.epoch)

    async def keep(self, heirs: Heirs) -> None:
        """Renew it, and look after the others, until it is lost or this is cancelled."""
        pause = leases.EVERY
        while True:
            await anyio.sleep(pause)
            try:
                seen = await self._renew()
                if seen is None:
                    return
                pause = await self._look_after(*seen, heirs)
            except (LedgerError, psycopg.Error) as error:
                # What was seen before says nothing after the break.
                self._watch = None
                pause = leases.EVERY / 2
                log.warning("worker %s: no heartbeat: %s", self.name, error)

    async def leave(self) -> None:
        """Give it back: what is left of this worker's work is everybody's at once."""
        self._trusted_until = -1.0
        end = (
            f"UPDATE {SCHEMA}.worker SET ended_at = clock_timestamp(), ended_by = name "  # noqa: S608
            "WHERE name = %s AND ended_at IS NULL"
        )
        try:
            await self._ask(end, (self.name,))
        except LedgerError as error:
            log.warning("worker %s could not say goodbye: %s", self.name, error)
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; the lease runs out."""
        if self._link is not None:
            with suppress(psycopg.Error):
                await self._link.close()
            self._link = None

    async def _renew(self) -> tuple[list[Lease], Watch] | None:
        """All leases after a heartbeat, and how far they can be believed; ``None`` if it is lost."""
        asked = self._clock()
        beat = (
            f"UPDATE {SCHEMA}.worker SET beats = beats + 1, beat_at = clock_timestamp(), "  # noqa: S608
            f"trouble = %s WHERE name = %s AND ended_at IS NULL RETURNING {_NOW}"
        )
        now = await self._ask(beat, (self.trouble, self.name))
        if not now:
            log.error("worker %s was taken for dead: its lease is gone", self.name)
            self._trusted_until = -1.0
            self.lost.set()
            return None
        self._trusted_until = leases.trusted_until(asked)
        told = float(now[0][0])
        watch = self._watch.after(told, asked) if self._watch else Watch.begun(told, asked)
        self._watch = watch
        rows = await self._ask(
            f"SELECT name, epoch, beats, extract(epoch FROM beat_at)::float8 "  # noqa: S608
            f"FROM {SCHEMA}.worker WHERE ended_at IS NULL"
        )
        seen = [Lease(str(row[0]), int(row[1]), int(row[2]), float(row[3])) for row in rows]
        return seen, watch

    async def _look_after(self, seen: list[Lease], watch: Watch, heirs: Heirs) -> float:
        """Take over from the dead; seconds until the next look."""
        others = [one for one in seen if one.worker != self.name]
        dead = leases.dead(others, watch)
        self.fleet = 1 + len(others) - len(dead)
        for one in dead:
            if await self._end(one):
                log.warning("worker %s is dead; %s takes over", one.worker, self.name)
                await self._recover(heirs, [one.worker])
        now = self._clock()
        self.eldest = leases.keeper(seen, watch) == self.name
        if self.eldest and now - self._looked_for_orphans >= ORPHANS_EVERY:
            self._looked_for_orphans = now
            with anyio.move_on_after(ANSWER):
                if lone := leases.orphaned(await heirs.at_work(), seen, watch):
                    await self._recover(heirs, lone)
            await self._forget()
        # A death between two heartbeats is seen when it happens.
        soon = max(leases.next_death(others, watch), SOONEST)
        return min(leases.EVERY, soon)

    async def _recover(self, heirs: Heirs, workers: Sequence[str]) -> None:
        """Give work of the dead to everybody. What is not done in time is found as orphaned."""
        with anyio.move_on_after(ANSWER) as scope:
            count = await heirs.recover(workers)
            log.warning("%d jobs of %s go on elsewhere", count, ", ".join(workers))
        if scope.cancelled_caught:
            log.warning("the jobs of %s could not be given back in time", ", ".join(workers))

    async def _end(self, lease: Lease) -> bool:
        """Take a lease away, unless it was renewed or taken meanwhile."""
        link = await self._connected()
        # A stronger lock than the update's own: no write under the lease may be under way. One that
        # is, of a worker that froze in it, is ended by the server soon; then comes the next look.
        lock = (
            f"SELECT 1 FROM {SCHEMA}.worker "  # noqa: S608
            "WHERE name = %s AND beats = %s AND ended_at IS NULL FOR UPDATE NOWAIT"
        )
        end = (
            f"UPDATE {SCHEMA}.worker SET ended_at = clock_timestamp(), ended_by = %s "  # noqa: S608
            "WHERE name = %s"
        )
        try:
            async with link.transaction():
                if is_pooled(link):
                    await link.execute(LIMITS)
                cursor = await link.execute(lock.encode(), (lease.worker, lease.beats))
                if await cursor.fetchone() is None:
                    return False
                await link.execute(end.encode(), (self.name, lease.worker))
        except psycopg.errors.LockNotAvailable:
            await link.execute(_HANG_UP.encode(), (lease.worker, IDLE_IN_TRANSACTION))
            return False
        return True

    async def _forget(self) -> None:
        await self._ask(
            f"DELETE FROM {SCHEMA}.worker "  # noqa: S608
            "WHERE ended_at < clock_timestamp() - make_interval(secs => %s)",
            (FORGOTTEN_AFTER,),
        )

    async def _connected(self) -> Connection:
        if self._link is None or self._link.closed:
            self._link = await connect(self._url, f"{self.name} lease")
        return self._link

    async def _ask(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """A statement's rows, soon, or an error.

        Raises:
            LedgerError: The database did not answer.
        """
        try:
            with anyio.fail_after(answer_within(self._url, ANSWER)):
                link = await self._connected()
                cursor = await link.execute(statement.encode(), values)
                return await cursor.fetchall() if cursor.description is not None else []
        except (psycopg.Error, TimeoutError) as error:
            await self.aclose()
            raise lost(self._url, error) from None
