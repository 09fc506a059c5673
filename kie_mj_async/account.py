"""The account's window of creates, shared by every process of the account on this machine.

The rule is ``rules/pacing.py``; a store keeps its slots, and knows the time and who is gone. Here that
is a small SQLite file in the user's state directory, named after a hash of host and key; where no
directory can be written, the memory, with one warning. Losing the file to a power cut is harmless (a
restart takes longer than the window), so it is not synced. A fleet's store is ``cluster/slots.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import secrets
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import attrs

from .disk import private_file, private_folder
from .errors import LedgerError
from .logs import logger
from .rules.pacing import Granted, Rate, Slot, Throttle, Wait, grant, settle, spread
from .waiting import uncut

log = logger(__name__)

_T = TypeVar("_T")

_INCARNATION: Final = secrets.token_hex(4)
"""Tells this process from an earlier one with the same id (common in containers)."""

STALE_AFTER: Final = 30.0
"""Seconds from a slot to its create's first byte at most; the intent is written in between, and may be
slow. What is older is not sent: see :class:`Window`."""

_ABANDONED: Final = 32
"""Slots to remember that a store may take after all, though it has failed."""


def state_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where state that outlives a run belongs.

    ``chosen``, else ``KIE_STATE_DIR``, else the platform's place for such state.
    """
    if chosen is not None:
        return Path(chosen)
    if named := os.environ.get("KIE_STATE_DIR"):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "kie-mj-async"


def account_name(host: str, key: str) -> str:
    """A name for the account that tells nothing of its key."""
    return hashlib.sha256(f"{host}\0{key}".encode()).hexdigest()[:24]


@attrs.frozen
class Present:
    """The account's slots as their store has them now.

    Attributes:
        slots: Those that were kept.
        now: The time, by the clock of their stamps.
        gone: Owners of these slots that can send nothing any more, and have nothing under way.
        throttle: What refusals have taught all who share these slots, where that is kept with them.
        running: Tasks that may be running for all of them, without creates under way.
    """

    slots: Sequence[Slot]
    now: float
    gone: Collection[str] = ()
    throttle: Throttle | None = None
    running: int = 0


Change = Callable[[Present], tuple[Sequence[Slot], _T]]
"""What to make of the slots: those to keep from now on, and a result. It may be called again."""


class SlotStore(Protocol):
    """Where slots are kept.

    Attributes:
        owner: This process, by a name that no other one ever has.
        look_again: Seconds between two looks while every slot's create is under way.
        crowded: Whether so many may wait that they should not all ask at the same moment.
    """

    owner: str
    look_again: float
    crowded: bool

    def clock(self) -> float:
        """Seconds by a clock of this process that never runs slower than the stamps' clock."""

    async def update(self, change: Change[_T]) -> _T:
        """Replace the slots by what ``change`` makes of them, in one transaction.

        Cancelling never loses a result of a change that was made.

        Raises:
            LedgerError: The slots cannot be kept.
        """

    async def aclose(self) -> None:
        """Let go of them."""


class MemorySlots:
    """Slots of this process alone.

    Args:
        clock: A monotonic clock.

    Attributes:
        slots: The slots.
    """

    look_again = 0.1
    crowded = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots: Sequence[Slot] = []
        self.owner = owner()
        self.clock = clock

    async def update(self, change: Change[_T]) -> _T:
        """Replace the slots."""
        self.slots, result = change(Present(self.slots, self.clock(), gone(self.slots)))
        return result

    async def aclose(self) -> None:
        """There is nothing to let go of."""


class FileSlots:
    """Slots in a SQLite file, shared by processes.

    Args:
        path: The file.
        clock: A monotonic clock that all processes of the machine share.

    Raises:
        sqlite3.Error: The file cannot be used.
        OSError: Its folder cannot be made.
    """

    look_again = 0.1
    crowded = False

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.owner = owner()
        self.clock = clock
        private_folder(path.parent.parent)
        private_folder(path.parent)
        private_file(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kie-mj window")
        self._closed = False
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS slot (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, "
                "taken_at REAL NOT NULL, ended_at REAL, gives_up_at REAL NOT NULL)"
            )
        except sqlite3.Error:
            self._db.close()
            raise

    async def update(self, change: Change[_T]) -> _T:
        """Replace the slots, in one transaction.

        Raises:
            LedgerError: The file can no longer be used.
        """
        if self._closed:
            raise LedgerError(f"{self.path}: is closed already", path=str(self.path))
        loop = asyncio.get_running_loop()
        try:
            # Not cut: a slot that was taken in the thread must reach whoever has to give it back.
            return await uncut(loop.run_in_executor(self._thread, self._update, change))
        except sqlite3.Error as error:
            message = (
                f"{self.path}: the account's window cannot be kept: {error}; free some disk "
                "space or set KIE_STATE_DIR to another folder, and resume"
            )
            raise LedgerError(message, path=str(self.path)) from None

    async def aclose(self) -> None:
        """Let go of the file."""
        self._closed = True
        self._db.close()
        self._thread.shutdown(wait=False)

    def _update(self, change: Change[_T]) -> _T:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            before = [Slot(*row) for row in db.execute("SELECT * FROM slot")]
            after, result = change(Present(before, self.clock(), gone(before)))
            put, dropped = difference(before, after)
            for slot in put:
                row = attrs.astuple(slot)
                db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)", row)
            for slot_id in dropped:
                db.execute("DELETE FROM slot WHERE id = ?", (slot_id,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have ended it
                db.execute("ROLLBACK")
            raise
        return result


def difference(before: Sequence[Slot], after: Sequence[Slot]) -> tuple[list[Slot], list[int]]:
    """What leads from one set of slots to the other: those to put, and the names of those to drop."""
    known = {slot.id: slot for slot in before}
    put = [slot for slot in after if known.pop(slot.id, None) != slot]
    return put, list(known)


@attrs.frozen
class Taken:
    """A slot of the window that is ours.

    Attributes:
        slot: Its name.
        alone: Whether the window was empty but for it.
        fresh_until: When its create may begin at the latest, by its store's clock.
    """

    slot: int
    alone: bool
    fresh_until: float = math.inf


class Window:
    """The account's rolling window.

    A slot whose end nobody observes counts until its create has surely been counted by the service,
    and a window more. That is ``stale_after + gives_up_after`` seconds after it was taken: its first
    byte goes out within the first part or never (:meth:`fresh`), and its request is given up within
    the second. A process that froze in between, for however long, thus sends nothing.

    Args:
        store: Where its slots are kept.
        rate: How many creates it takes.
        gives_up_after: Seconds after which a create that was begun has surely ended or timed out.
        stale_after: Seconds after which one may no longer begin.
        chance: Random numbers in [0, 1).
    """

    def __init__(
        self,
        store: SlotStore,
        rate: Rate,
        *,
        gives_up_after: float,
        stale_after: float = STALE_AFTER,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.rate = rate
        self.look_again = store.look_again
        self._store = store
        self._gives_up_after = gives_up_after + stale_after
        self._stale_after = stale_after
        self._chance = chance
        self._abandoned: deque[int] = deque(maxlen=_ABANDONED)

    @classmethod
    def of_account(
        cls, directory: Path, host: str, key: str, rate: Rate, *, gives_up_after: float
    ) -> Window:
        """The window of an account, kept in a directory (in memory where that cannot be)."""
        path = directory / "accounts" / f"{account_name(host, key)}.sqlite3"
        store: SlotStore
        try:
            store = FileSlots(path)
        except (OSError, sqlite3.Error) as error:
            log.warning(
                "the account's window cannot be kept in %s (%s): other processes of this account "
                "are not counted; set KIE_STATE_DIR to a folder that can be written",
                path,
                error,
            )
            store = MemorySlots()
        return cls(store, rate, gives_up_after=gives_up_after)

    async def take(self, *, only_if_empty: bool = False) -> Taken | Wait:
        """Take a slot if one is free, just before a create is sent.

        Args:
            only_if_empty: Take it only if no other create counts.

        Raises:
            LedgerError: The slots can no longer be kept; nothing may be sent without one.
        """
        # Both are settled before the store is asked: it may have to ask twice whether it was heard.
        name, fresh_until = secrets.randbits(62), self._store.clock() + self._stale_after
        try:
            return await self._store.update(partial(self._take, only_if_empty, name, fresh_until))
        except BaseException:
            self._abandoned.append(name)
            raise

    def fresh(self, taken: Taken) -> bool:
        """Whether the slot's create may begin now: asked for just before its first byte."""
        return self._store.clock() < taken.fresh_until

    async def end(self, taken: Taken) -> None:
        """The create's reply, or its failure, was observed: the slot is free one window from now."""
        await self._give_back(partial(self._end, taken.slot))

    async def free(self, taken: Taken) -> None:
        """The create was never sent: the slot is free at once."""

        def drop(present: Present) -> tuple[Sequence[Slot], None]:
            return [slot for slot in present.slots if slot.id != taken.slot], None

        await self._give_back(drop)

    async def aclose(self) -> None:
        """Let go of the store."""
        await self._store.aclose()

    def _take(
        self, only_if_empty: bool, name: int, fresh_until: float, present: Present
    ) -> tuple[Sequence[Slot], Taken | Wait]:
        now = present.now
        # Nobody uses a slot that was taken after its taker had given up.
        slots = [slot for slot in present.slots if slot.id not in self._abandoned]
        kept = settle(slots, now, self.rate, present.gone)
        others = [slot for slot in kept if slot.id != name]
        if len(others) < len(kept):  # it was heard, and its answer lost
            return kept, Taken(name, not others, fresh_until)
        answer = self._answer(kept, only_if_empty, present)
        if not isinstance(answer, Granted):
            if self._store.crowded:
                answer = spread(
                    answer,
                    look_again=self.look_again,
                    workers=len({slot.owner for slot in kept}),
                    chance=self._chance(),
                )
            # What ran out meanwhile is dropped by whoever takes a slot: to wait costs no write.
            learnt = not set(kept) <= set(present.slots)
            return kept if learnt else present.slots, answer
        mine = Slot(name, self._store.owner, now, None, now + self._gives_up_after)
        return [*kept, mine], Taken(name, answer.others == 0, fresh_until)

    def _answer(self, kept: list[Slot], only_if_empty: bool, present: Present) -> Granted | Wait:
        throttle = present.throttle
        if throttle is not None:
            only_if_empty = only_if_empty or throttle.proving
            sending = sum(slot.ended_at is None for slot in kept)
            running = present.running + sending
            hold = throttle.wait(present.now, running=running, sending=sending)
            if hold != 0:
                return Wait(hold)
        rate = attrs.evolve(self.rate, creates=1) if only_if_empty else self.rate
        return grant(kept, present.now, rate)

    @staticmethod
    def _end(slot_id: int, present: Present) -> tuple[Sequence[Slot], None]:
        return [
            attrs.evolve(slot, ended_at=present.now) if slot.id == slot_id else slot
            for slot in present.slots
        ], None

    async def _give_back(self, change: Change[None]) -> None:
        try:
            await self._store.update(change)
        except LedgerError as error:
            # It stays taken until its create has surely timed out: slower, and safe.
            log.warning("a slot could not be given back: %s", error)


def owner() -> str:
    """This process, by a name that no later process has."""
    return f"{os.getpid()}:{_INCARNATION}"


def gone(slots: Sequence[Slot]) -> set[str]:
    """Owners of slots whose process exists no more."""
    return {one for one in {slot.owner for slot in slots} if not _exists(one)}


def _exists(name: str) -> bool:
    pid, _, incarnation = name.partition(":")
    if not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return incarnation == _INCARNATION
    if sys.platform == "win32":  # os.kill would end it there; the slot's own time-out frees it
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
