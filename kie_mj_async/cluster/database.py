"""Connections to the fleet's database, and how they fail.

Every connection of ours carries its owner's name, gives up on a dead network soon, and is ended by the
server when its owner freezes inside a transaction: a frozen worker must not hold locks that others
wait for.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

from ..errors import ConfigError, LedgerError

log = logging.getLogger(__name__)

SCHEMA: Final = "kie_mj"
"""Where our own tables are."""

IDLE_IN_TRANSACTION: Final = 5.0
"""Seconds after which the server ends a session that holds a transaction open and does nothing."""

STATEMENT: Final = 10.0
"""Seconds after which the server gives up a statement of ours."""

NETWORK: Final[dict[str, str]] = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "8000",
}
"""How long a silent network is believed in (libpq's parameters)."""


Connection = psycopg.AsyncConnection[tuple[object, ...]]
"""A connection whose statements commit by themselves."""

Link = psycopg.Connection[dict[str, Any]]
"""The same, for a thread."""


def where(url: str) -> str:
    """A database's address, fit to be shown: no password."""
    parts = conninfo.conninfo_to_dict(url)
    host, port, name = (str(parts.get(key) or "") for key in ("host", "port", "dbname"))
    return f"postgresql://{host or 'localhost'}{':' + port if port else ''}/{name}"


def checked(url: str) -> str:
    """The URL of a PostgreSQL database.

    Raises:
        ConfigError: It is none.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError("a database URL looks like postgresql://user:password@host:5432/name")
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # its message would quote the URL
        raise ConfigError("the database URL cannot be read; check it for odd characters") from None
    if not parts.get("dbname"):
        raise ConfigError(f"{where(url)}: the database URL names no database")
    return url


async def connect(url: str, name: str) -> Connection:
    """A connection that commits every statement by itself.

    Args:
        url: The database.
        name: Whose it is; the operators see it in ``pg_stat_activity``.

    Raises:
        LedgerError: There is none to be had.
    """
    try:
        return await psycopg.AsyncConnection.connect(_limited(url, name), autocommit=True)
    except psycopg.Error as error:
        raise lost(url, error) from None


def connect_blocking(url: str, name: str) -> Link:
    """The same for a thread, which waits; rows are told by the names of their columns.

    Raises:
        psycopg.Error: There is none to be had.
    """
    return psycopg.Connection.connect(_limited(url, name), autocommit=True, row_factory=dict_row)


def _limited(url: str, name: str) -> str:
    limits = (
        f"-c statement_timeout={STATEMENT * 1000:.0f} "
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION * 1000:.0f}"
    )
    given = conninfo.conninfo_to_dict(url)
    ours = {**NETWORK, **given, "application_name": name}
    ours["options"] = f"{given.get('options') or ''} {limits}".strip()
    return conninfo.make_conninfo("", **ours)


def lost(url: str, error: Exception) -> LedgerError:
    """The database cannot be used, told to people."""
    cause = getattr(error, "orig", None) or error  # the driver's, without SQLAlchemy's frame
    lines = str(cause).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return LedgerError(f"{where(url)}: {reason}", path=where(url))
