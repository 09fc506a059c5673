"""The account's window of creates, shared by every process of the account on this machine.

The rule is ``rules/pacing.py``; this keeps its slots in a small SQLite file in the user's state
directory, named after a hash of host and key. Where no directory can be written the slots live in
memory, with one warning. Losing the file to a power cut is harmless (a restart takes longer than the
window), so it is not synced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import anyio
import anyio.to_thread
import attrs

from .errors import LedgerError
from .rules.pacing import Granted, Rate, Slot, Wait, grant, settle

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Update = Callable[[list[Slot]], tuple[list[Slot], _T]]

_INCARNATION: Final = secrets.token_hex(4)
"""Tells this process from an earlier one with the same id (common in containers)."""

_SLOW_TAKER: Final = 30.0
"""Seconds beyond a request's time-out before its slot counts as given up: the intent is written in
between, and may be slow."""


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


class SlotStore(Protocol):
    """Where slots are kept."""

    def update(self, change: _Update[_T]) -> _T:
        """Replace the slots by what ``change`` makes of them, in one transaction."""


class MemorySlots:
    """Slots of this process alone."""

    def __init__(self) -> None:
        self._slots: list[Slot] = []

    def update(self, change: _Update[_T]) -> _T:
        """Replace the slots."""
        self._slots, result = change(self._slots)
        return result


class FileSlots:
    """Slots in a SQLite file, shared by processes.

    Raises:
        sqlite3.Error: The file cannot be used.
        OSError: Its folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS slot (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, "
            "taken_at REAL NOT NULL, ended_at REAL, gives_up_at REAL NOT NULL)"
        )

    def update(self, change: _Update[_T]) -> _T:
        """Replace the slots, in one transaction."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            before = [Slot(*row) for row in db.execute("SELECT * FROM slot")]
            after, result = change(before)
            known = {slot.id: slot for slot in before}
            for slot in after:
                if known.pop(slot.id, None) != slot:
                    row = attrs.astuple(slot)
                    db.execute("INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?)", row)
            for slot_id in known:
                db.execute("DELETE FROM slot WHERE id = ?", (slot_id,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have ended it
                db.execute("ROLLBACK")
            raise
        return result

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


@attrs.frozen
class Taken:
    """A slot of the window that is ours.

    Attributes:
        slot: Its name.
        alone: Whether the window was empty but for it.
    """

    slot: int
    alone: bool


class Window:
    """The account's rolling window.

    Args:
        store: Where its slots are kept.
        rate: How many creates it takes.
        gives_up_after: Seconds after which a create has surely ended or timed out.
        monotonic: A clock that all processes of the machine share.
    """

    def __init__(
        self,
        store: SlotStore,
        rate: Rate,
        *,
        gives_up_after: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self._store = store
        self._gives_up_after = gives_up_after + _SLOW_TAKER
        self._monotonic = monotonic
        self._thread = anyio.CapacityLimiter(1)

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
        rate = attrs.evolve(self.rate, creates=1) if only_if_empty else self.rate
        return await self._update(partial(self._take, rate))

    async def end(self, taken: Taken) -> None:
        """The create's reply, or its failure, was observed: the slot is free one window from now."""
        await self._give_back(partial(self._end, taken.slot))

    async def free(self, taken: Taken) -> None:
        """The create was never sent: the slot is free at once."""

        def drop(slots: Sequence[Slot]) -> tuple[list[Slot], None]:
            return [slot for slot in slots if slot.id != taken.slot], None

        await self._give_back(drop)

    def close(self) -> None:
        """Let go of the store."""
        if isinstance(self._store, FileSlots):
            self._store.close()

    def _take(self, rate: Rate, slots: Sequence[Slot]) -> tuple[list[Slot], Taken | Wait]:
        now = self._monotonic()
        kept = settle(slots, now, self.rate, _gone({slot.owner for slot in slots}))
        answer = grant(kept, now, rate)
        if not isinstance(answer, Granted):
            return kept, answer
        mine = Slot(secrets.randbits(62), owner(), now, None, now + self._gives_up_after)
        return [*kept, mine], Taken(mine.id, alone=answer.others == 0)

    def _end(self, slot_id: int, slots: Sequence[Slot]) -> tuple[list[Slot], None]:
        now = self._monotonic()
        return [
            attrs.evolve(slot, ended_at=now) if slot.id == slot_id else slot for slot in slots
        ], None

    async def _give_back(self, change: _Update[None]) -> None:
        try:
            await self._update(change)
        except LedgerError as error:
            # It stays taken until its create has surely timed out: slower, and safe.
            log.warning("a slot could not be given back: %s", error)

    async def _update(self, change: _Update[_T]) -> _T:
        if isinstance(self._store, MemorySlots):
            return self._store.update(change)
        change_file = partial(self._store.update, change)
        result: _T
        # Shielded: a slot that was taken in the thread must reach whoever has to give it back.
        with anyio.CancelScope(shield=True):
            try:
                result = await anyio.to_thread.run_sync(change_file, limiter=self._thread)
            except sqlite3.Error as error:
                path = getattr(self._store, "path", None)
                message = (
                    f"{path}: the account's window cannot be kept: {error}; free some disk space "
                    "or set KIE_STATE_DIR to another folder, and resume"
                )
                raise LedgerError(message, path=str(path)) from None
        return result


def owner() -> str:
    """This process, by a name that no later process has."""
    return f"{os.getpid()}:{_INCARNATION}"


def _gone(owners: set[str]) -> set[str]:
    return {one for one in owners if not _exists(one)}


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
