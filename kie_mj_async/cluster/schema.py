"""The tables of a fleet's books: made, brought up to date, and refused where they are newer."""

from __future__ import annotations

from typing import Final

import psycopg

from ..errors import LedgerError, LedgerTooNew
from ..ledger.sql import text_of
from . import lease, slots
from .database import SCHEMA, Link, checked, connect_blocking, lost, where

VERSION: Final = 2
"""The schema that this version writes."""

OLDEST: Final = 130000
"""The oldest PostgreSQL that has what is asked of it, as it numbers itself."""

_LOCK: Final = 0x6B69656D6A
"""Whoever migrates holds this, so that two at once are one after the other."""

_META: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.meta (name text PRIMARY KEY, value text NOT NULL);
"""


def migrate(url: str) -> int:
    """Make the tables, or bring those of an older version up to date; it blocks.

    It is one transaction, needs a role that may make tables, and may be run by several at once.

    Returns:
        The version that was there before; 0 for none.

    Raises:
        LedgerTooNew: A newer version of this package made them.
        LedgerError: The database cannot be used.
    """
    try:
        with connect_blocking(checked(url), "kie-mj migrate") as link:
            if link.info.server_version < OLDEST:
                message = f"{where(url)}: PostgreSQL {OLDEST // 10000} or later is needed"
                raise LedgerError(message, path=where(url))
            with link.transaction():
                link.execute(b"SET LOCAL statement_timeout = 0")
                if link.info.server_version >= 170000:
                    link.execute(b"SET LOCAL transaction_timeout = 0")
                link.execute(b"SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                return _migrate(link, url)
    except psycopg.Error as error:
        raise lost(url, error) from None


def _migrate(link: Link, url: str) -> int:
    link.execute(_META.encode())
    link.execute(lease.TABLE.encode())
    link.execute(slots.TABLES.encode())
    found = _version(link)
    _check(found, url)
    for step in range(found, VERSION):
        name = f"migrate_{step}_to_{step + 1}.sql" if step else "schema.sql"
        link.execute(text_of(__package__, name).encode())
    # Brought over from another server, whose transactions had higher numbers: they are long past.
    link.execute(
        f"UPDATE {SCHEMA}.job SET told = NULL "  # noqa: S608
        "WHERE told >= pg_snapshot_xmax(pg_current_snapshot())".encode()
    )
    link.execute(
        f"INSERT INTO {SCHEMA}.meta VALUES ('version', %s) "  # noqa: S608
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value".encode(),
        (str(VERSION),),
    )
    return found


def check(link: Link, url: str) -> None:
    """See that the tables are there, and are this version's.

    Raises:
        LedgerTooNew: A newer version of this package made them.
        LedgerError: They are older, or there are none.
        psycopg.Error: The database cannot be used.
    """
    row = link.execute(f"SELECT to_regclass('{SCHEMA}.meta') IS NOT NULL AS there".encode())
    found = _version(link) if (row.fetchone() or {})["there"] else 0
    _check(found, url)
    if found < VERSION:
        what = f"schema {found}, this version needs {VERSION}" if found else "no tables of ours yet"
        message = f"{where(url)}: {what}; run: kie-mj cluster migrate"
        raise LedgerError(message, path=where(url))


def _version(link: Link) -> int:
    statement = f"SELECT value FROM {SCHEMA}.meta WHERE name = 'version'"  # noqa: S608
    row = link.execute(statement.encode()).fetchone()
    return int(row["value"]) if row else 0


def _check(found: int, url: str) -> None:
    if found > VERSION:
        message = (
            f"{where(url)}: made by a newer version of kie-mj-async (schema {found}, this one knows "
            f"{VERSION}); upgrade the package. The database is untouched."
        )
        raise LedgerTooNew(message, path=where(url))
