"""The account's window for a fleet: its slots, and what its refusals have taught, in PostgreSQL.

A change is made in two statements: one reads everything, one writes, and does nothing if anybody else
has written meanwhile. Between them the rule decides, with nothing locked: a worker that freezes there
holds up nobody. Whoever is told to wait has written nothing.

A slot of a worker that died counts until its create has timed out, not just until its lease has ended:
its create may have gone out just before. No later one does, for a worker asks its own lease before the
first byte (``WorkerLease.holds``), and its slot's age.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio
import attrs
import psycopg

from ..account import Change, Present, difference
from ..engine.throttling import Lesson
from ..errors import LedgerError
from ..logs import logger
from ..rules import shared_time
from ..rules.pacing import Rate, Slot, Throttle
from ..rules.shared_time import Kept, Look, Sight
from .database import SCHEMA, Connection, answer_within, connect, lost, where
from .lease import steady

log = logger(__name__)

_T = TypeVar("_T")

TABLES: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.account (
    name         text COLLATE "C" PRIMARY KEY,      -- a hash: no key, and nothing that leads to one
    version      bigint NOT NULL DEFAULT 0,         -- goes up with each change of this row or its slots
    told         float8 NOT NULL,                   -- what the database's clock said at the last one
    now          float8 NOT NULL,                   -- what the account's time was then
    cap          integer,                           -- tasks at once, where refusals have lowered it
    paused_until float8 NOT NULL DEFAULT '-Infinity',
    proving      boolean NOT NULL DEFAULT false,
    completions  integer NOT NULL DEFAULT 0,
    creates      integer,                           -- the rate, for the operators
    seconds      float8
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS {SCHEMA}.slot (
    account     text COLLATE "C" NOT NULL,
    id          bigint NOT NULL,
    owner       text COLLATE "C" NOT NULL,          -- the worker
    taken_at    float8 NOT NULL,                    -- these are the account's time
    ended_at    float8,
    gives_up_at float8 NOT NULL,
    PRIMARY KEY (account, id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
"""
"""What has to be in the database; may be run again."""

ANSWER: Final = 3.0
"""Seconds to wait for one answer of the database."""

PATIENCE: Final = 10.0
"""Seconds to try a change for, with a database that is away or others that are always first."""

_FIRST, _CEILING = 0.02, 0.5

_BEGIN: Final = f"""
INSERT INTO {SCHEMA}.account (name, told, now)
SELECT %s, at, at FROM (SELECT extract(epoch FROM statement_timestamp())::float8 AS at) AS clock
ON CONFLICT DO NOTHING
"""  # noqa: S608

_LOOK: Final = """
SELECT extract(epoch FROM statement_timestamp())::float8, ({running})::bigint,
    a.version, a.told, a.now, a.cap, a.paused_until, a.proving, a.completions,
    s.id, s.owner, s.taken_at, s.ended_at, s.gives_up_at
FROM {schema}.account AS a LEFT JOIN {schema}.slot AS s ON s.account = a.name WHERE a.name = %s
"""

_WRITE: Final = f"""
WITH turn AS (
    UPDATE {SCHEMA}.account SET version = version + 1, told = %(told)s, now = %(now)s,
        cap = %(cap)s, paused_until = %(paused_until)s, proving = %(proving)s,
        completions = %(completions)s, creates = coalesce(%(creates)s, creates),
        seconds = coalesce(%(seconds)s, seconds)
    WHERE name = %(name)s AND version = %(version)s RETURNING name
), dropped AS (
    DELETE FROM {SCHEMA}.slot USING turn
    WHERE slot.account = turn.name AND slot.id = ANY(%(dropped)s::bigint[])
), put AS (
    INSERT INTO {SCHEMA}.slot SELECT turn.name, one.* FROM turn, unnest(
        %(ids)s::bigint[], %(owners)s::text[],
        %(taken)s::float8[], %(ended)s::float8[], %(gives_up)s::float8[]
    ) AS one
    ON CONFLICT (account, id) DO UPDATE SET ended_at = excluded.ended_at
)
SELECT count(*) FROM turn
"""  # noqa: S608


@attrs.frozen
class _Books:
    """What one look has found."""

    sight: Sight
    slots: Sequence[Slot]
    throttle: Throttle
    running: int


class AccountSlots:
    """The slots of an account, shared by a fleet; and its throttle, for its gate.

    Args:
        url: The database.
        account: The account's name (``account.account_name``).
        owner: The worker's name, which no other worker ever has.
        in_flight: Tasks that may run at once at most.
        running: An SQL expression for the number of the account's tasks that may be running,
            without creates under way.
        rate: The account's rate, which is written down for the operators.
        clock: A steady clock of this machine, in seconds, that goes on while it sleeps.
        patience: Seconds to try a change for.

    Attributes:
        owner: The worker's name.
    """

    look_again = 0.5
    crowded = True

    def __init__(
        self,
        url: str,
        account: str,
        *,
        owner: str,
        in_flight: int,
        running: str,
        rate: Rate | None = None,
        clock: Callable[[], float] = steady,
        patience: float = PATIENCE,
    ) -> None:
        self.owner = owner
        self.clock = clock
        self._url = url
        self._account = account
        self._in_flight = in_flight
        self._look = _LOOK.format(running=running, schema=SCHEMA).encode()
        self._patience = patience
        self._rate = rate
        self._turn = anyio.Lock()
        self._link: Connection | None = None
        self._sight: Sight | None = None
        self._paused_until = -math.inf
        self._shared = Throttle(ceiling=in_flight, cap=in_flight)
        self._lessons: list[Lesson] = []

    async def update(self, change: Change[_T]) -> _T:
        """Replace the slots, unless they need not change; what was learnt is written with them.

        Raises:
            LedgerError: The database cannot be used, or others were always first.
        """
        until = self.clock() + self._patience
        pause = _FIRST
        with anyio.CancelScope() as scope:
            async with self._turn:
                reason: Exception | None = None
                # Also whoever had to wait for its turn, behind others who found no database.
                while self.clock() < until and _passes(reason):
                    try:
                        books = await self._read()
                        lessons = list(self._lessons)
                        after, result = change(self._present(books))
                        if not lessons and list(after) == list(books.slots):
                            return result
                        # From here on a slot may be ours without our knowing it.
                        scope.shield = True
                        if await self._write(books, after, lessons):
                            return result
                        scope.shield = False
                        reason, pause = None, _FIRST
                    except (psycopg.Error, TimeoutError, LedgerError) as error:
                        reason = error
                        await self._hang_up()
                    await anyio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - to part ways
                    pause = min(_CEILING, 2 * pause)
        raise self._trouble(reason)

    async def aclose(self) -> None:
        """Let go of the connection."""
        async with self._turn:
            await self._hang_up()

    # --- The throttle ----------------------------------------------------------------------------

    def known(self, now: float) -> Throttle:
        """What refusals have taught the fleet; and this worker's own pauses."""
        shared = self._shared
        here = self._sight.at(self.clock()) if self._sight is not None else 0.0
        for lesson in self._lessons:
            shared = lesson(shared, here, 0)
        # Not that this worker has to prove itself: the window may never be empty for its sake.
        paused_until = max(self._paused_until, now + shared.paused_until - here)
        return attrs.evolve(shared, paused_until=paused_until)

    def learn(self, lesson: Lesson, now: float, *, alone: bool = False) -> None:
        """Learn something, for this worker at once and for the others with the next change.

        Args:
            lesson: What to learn.
            now: The time, by the clock of :meth:`known`.
            alone: Whether it is about this worker's network, and not about the account.
        """
        if alone:
            own = Throttle(ceiling=self._in_flight, cap=self._in_flight)
            self._paused_until = lesson(own, now, 0).paused_until
        else:
            self._lessons.append(lesson)

    async def share(self) -> None:
        """Write down what was learnt. Where that fails it goes with the next change."""
        if not self._lessons:
            return
        try:
            await self.update(lambda present: (present.slots, None))
        except LedgerError as error:
            log.warning("what a refusal has taught is not known to other workers yet: %s", error)

    # --- Reading and writing ---------------------------------------------------------------------

    def _present(self, books: _Books) -> Present:
        return Present(
            books.slots,
            books.sight.now,
            throttle=books.throttle,
            running=books.running,
        )

    async def _read(self) -> _Books:
        rows: list[tuple[Any, ...]] = []
        asked = answered = 0.0
        while not rows:
            asked = self.clock()
            rows = await self._ask(self._look, (self._account,))
            answered = self.clock()
            if not rows:
                await self._ask(_BEGIN.encode(), (self._account,))
        told, running, version, told_then, now_then, cap, paused_until, proving, completions = rows[
            0
        ][:9]
        sight = shared_time.read(
            Kept(version, told_then, now_then), Look(told, asked, answered), self._sight
        )
        ceiling = self._in_flight
        throttle = Throttle(
            ceiling=ceiling,
            cap=ceiling if cap is None else min(cap, ceiling),
            paused_until=paused_until,
            proving=proving,
            completions=completions,
        )
        self._sight, self._shared = sight, throttle
        slots = [Slot(*row[9:]) for row in rows if row[9] is not None]
        return _Books(sight, slots, throttle, running)

    async def _write(self, books: _Books, after: Sequence[Slot], lessons: list[Lesson]) -> bool:
        """Write, if nobody else has since; whether that was so."""
        sight, throttle = books.sight, books.throttle
        for lesson in lessons:
            throttle = lesson(throttle, sight.now, books.running)
        put, dropped = difference(books.slots, after)
        values = {
            "name": self._account,
            "version": sight.version,
            "told": sight.look.told,
            "now": sight.now,
            "cap": throttle.cap if throttle.cap < throttle.ceiling else None,
            "paused_until": throttle.paused_until,
            "proving": throttle.proving,
            "completions": throttle.completions,
            "creates": self._rate.creates if self._rate is not None else None,
            "seconds": self._rate.seconds if self._rate is not None else None,
            "dropped": dropped,
            "ids": [slot.id for slot in put],
            "owners": [slot.owner for slot in put],
            "taken": [slot.taken_at for slot in put],
            "ended": [slot.ended_at for slot in put],
            "gives_up": [slot.gives_up_at for slot in put],
        }
        rows = await self._ask(_WRITE.encode(), values)
        if rows[0][0] == 0:
            return False
        self._shared = throttle
        del self._lessons[: len(lessons)]
        return True

    async def _ask(self, statement: bytes, values: Any) -> list[tuple[Any, ...]]:
        with anyio.fail_after(answer_within(self._url, ANSWER)):
            if self._link is None or self._link.closed:
                self._link = await connect(self._url, f"{self.owner} slots")
            cursor = await self._link.execute(statement, values)
            return await cursor.fetchall() if cursor.description is not None else []

    async def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(psycopg.Error):
                await link.close()

    def _trouble(self, reason: Exception | None) -> LedgerError:
        if isinstance(reason, LedgerError):
            return reason
        if isinstance(reason, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            place = where(self._url)
            message = f"{place}: not made ready for a fleet; run: kie-mj cluster migrate"
            return LedgerError(message, path=place)
        if reason is None:
            reason = TimeoutError("others were always first at the account's slots")
        return lost(self._url, reason)


def _passes(reason: Exception | None) -> bool:
    """Whether it may be otherwise soon: not where a table is missing, or a right."""
    return not isinstance(reason, psycopg.Error) or isinstance(
        reason, psycopg.OperationalError | psycopg.InterfaceError
    )
