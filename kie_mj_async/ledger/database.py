"""A ledger file as a database: opening, schema and migrations, named queries, errors in our words."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from ..disk import private_file
from ..errors import LedgerError, LedgerTooNew, WrongHost, refusal
from .sql import NOTHING, SQL, Values, text_of

SCHEMA: Final = 4
"""The schema that this version writes."""

_APPLICATION_ID: Final = 0x4B4D4A31


class File(sqlite3.Connection):
    """A connection to a ledger file that knows the named queries."""

    def ask(self, query: str, values: Values = NOTHING) -> list[sqlite3.Row]:
        """The rows of a named query."""
        return self.execute(SQL[query], values).fetchall()

    def tell(self, query: str, values: Values = NOTHING) -> None:
        """Run a named query that has no rows."""
        self.execute(SQL[query], values)


def connect(path: str) -> File:
    """Open a file; transactions are begun by hand."""
    connection = sqlite3.connect(
        path,
        timeout=5.0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
        factory=File,
    )
    connection.row_factory = sqlite3.Row
    return connection


def make(path: Path, host: str) -> None:
    """Make a new ledger. It comes under its name complete, or not at all.

    Raises:
        LedgerError: It cannot be made.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        private_file(beside)
        with closing(connect(str(beside))) as db:
            # What a crash leaves of it is thrown away, so it needs no journal beside it.
            db.execute("PRAGMA journal_mode = MEMORY")
            check_schema(db, path, make=True)
            check_host(db, path, host)
        # Durable before any job is: SQLite syncs the folder when it puts the WAL there.
        beside.replace(path)
    except OSError as error:
        message = f"{path}: cannot be made: {refusal(error)}"
        raise LedgerError(message, path=str(path)) from None


def check_not_empty(path: Path) -> None:
    """See that a file has not lost all it held, before SQLite takes it for a new one.

    A ledger comes under its name with its schema in it, and SQLite would delete the journal that may
    hold its last jobs.

    Raises:
        LedgerError: It has no bytes.
    """
    if path.is_file() and path.stat().st_size == 0:
        message = (
            f"{path}: is empty: what it held is lost. It is not a ledger any more; restore it from "
            "a backup, or delete it to begin anew and pay anew. It is untouched."
        )
        raise LedgerError(message, path=str(path))


def check_schema(db: sqlite3.Connection, path: Path, *, make: bool) -> None:
    """See that this is a ledger; to work on it, make it one or bring it up to date.

    A migration is one transaction, from one schema to the next: ``migrate_1_to_2.sql`` and so on.
    Whoever only looks reads older schemas as they are.

    Args:
        db: The file.
        path: Its path, for messages.
        make: Whether it is opened to work on.

    Raises:
        LedgerTooNew: A newer version of this package wrote it.
        LedgerError: It is something else.
    """
    found = version(db)
    ours = db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID
    if ours and found > SCHEMA:
        message = (
            f"{path}: written by a newer version of kie-mj-async (schema {found}, this one knows "
            f"{SCHEMA}); upgrade the package. The file is untouched."
        )
        raise LedgerTooNew(message, path=str(path))
    if not ours or found < 1:
        empty = not found and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty or not make:
            message = f"{path}: is not a ledger of kie-mj-async. The file is untouched."
            raise LedgerError(message, path=str(path))
        _apply(db, _text("schema.sql"), f"PRAGMA application_id = {_APPLICATION_ID}", SCHEMA)
    elif make:
        for step in range(found, SCHEMA):
            _apply(db, _text(f"migrate_{step}_to_{step + 1}.sql"), "", step + 1)


def _apply(db: sqlite3.Connection, statements: str, more: str, version: int) -> None:
    try:
        db.executescript(f"BEGIN; {statements}; {more}; PRAGMA user_version = {version}; COMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _text(name: str) -> str:
    return text_of(__package__, name)


def check_host(db: sqlite3.Connection, path: Path, host: str) -> None:
    """See that a ledger is of this host; a new one becomes so.

    Raises:
        WrongHost: Its tasks live elsewhere.
    """
    row = db.execute(SQL["read_meta"], {"name": "host"}).fetchone()
    if row is None:
        db.execute(SQL["write_meta"], {"name": "host", "value": host})
    elif row[0] != host:
        message = (
            f"{path}: its tasks live at {row[0]}, and this run would use {host}; "
            "set KIE_BASE_URL (or base_url=) to that host, or use another directory"
        )
        raise WrongHost(message, path=str(path))


SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises; the second where damaged bytes get into its own message."""


def ledger_error(path: Path, error: Exception) -> LedgerError:
    """An error of sqlite3 in our words."""
    return LedgerError(f"{path}: {error}; {remedy_for(error)}", path=str(path))


def remedy_for(error: Exception) -> str:
    """What to do about an error of sqlite3."""
    words = str(error)
    if any(sign in words for sign in ("malformed", "not a database", "decode")):
        return "the file is damaged or no ledger; restore it from a backup. It is untouched."
    if "full" in words:
        return "free some disk space and resume"
    if "disk I/O" in words:  # a quota or a limit says so too
        return "the disk refuses it; free some space or see to the disk, and resume"
    if "readonly" in words or "unable to open" in words:
        return "check the permissions of the file and its folder"
    return "nothing was changed"


def with_path(path: Path, error: Exception) -> Exception:
    """The error, with the path where it is about damage in a row."""
    if isinstance(error, LedgerError) and error.path is None:
        return LedgerError(f"{path}: {error}", path=str(path))
    return error


class as_ledger_errors:  # noqa: N801  (reads as a with-phrase)
    """Translate sqlite3's errors into ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, SQLITE_ERRORS):
            raise ledger_error(self._path, error) from None
        if isinstance(error, LedgerError) and error.path is None:
            raise with_path(self._path, error) from None


def version(db: sqlite3.Connection) -> int:
    """The schema of a file; 0 for none."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])
