"""One process at a time: a lock that dies with its holder and tells who that is.

It is a SQLite file of its own, held with an open write transaction. The operating system lets go of
it when the process ends, however it ends, on every platform that SQLite runs on; what the holder
committed before (its process id) stays readable meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ..disk import private_file
from ..errors import LedgerBusy, LedgerError, refusal
from .database import remedy_for


class ProcessLock:
    """Held from its making until :meth:`release`.

    Args:
        path: The lock's own file; made if it does not exist.
        subject: What is locked, for the message.

    Raises:
        LedgerBusy: Another process holds it.
        LedgerError: The file cannot be written.
    """

    def __init__(self, path: Path, subject: Path) -> None:
        try:
            private_file(path)
        except PermissionError:
            pass  # SQLite says what that means
        except OSError as error:
            message = f"{path}: cannot be opened: {refusal(error)}"
            raise LedgerError(message, path=str(path)) from None
        try:
            self._connection = sqlite3.connect(
                path, timeout=0.2, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            message = f"{path}: cannot be opened: {error}; {remedy_for(error)}"
            raise LedgerError(message, path=str(path)) from None
        try:
            self._take()
        except sqlite3.OperationalError as error:
            holder = _holder(self._connection)
            self._connection.close()
            if "locked" not in str(error):
                message = f"{path}: cannot be written: {error}; {remedy_for(error)}"
                raise LedgerError(message, path=str(path)) from None
            who = f"process {holder}" if holder else "another process"
            message = f"{subject}: {who} is working on it; wait for it to end, or stop it first"
            raise LedgerBusy(message, pid=holder, path=str(subject)) from None
        except sqlite3.DatabaseError as error:
            self._connection.close()
            message = f"{path}: cannot be read ({error}); it holds nothing of value: delete it"
            raise LedgerError(message, path=str(path)) from None

    def _take(self) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        run("CREATE TABLE IF NOT EXISTS holder (pid INTEGER NOT NULL)")
        run("DELETE FROM holder")
        run("INSERT INTO holder VALUES (?)", (os.getpid(),))
        run("COMMIT")
        run("BEGIN IMMEDIATE")

    def release(self) -> None:
        """Let the next one in."""
        self._connection.close()


def holder_of(path: Path) -> int | None:
    """The process that holds a lock now, or ``None``: nobody, or nobody knows who.

    Args:
        path: The lock's own file.
    """
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return _holder(connection)
    except sqlite3.Error:
        pass
    return None


def _holder(connection: sqlite3.Connection) -> int | None:
    try:
        row = connection.execute("SELECT pid FROM holder").fetchone()
    except sqlite3.Error:
        return None
    return int(row[0]) if row else None
