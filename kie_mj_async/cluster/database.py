"""Connections to the fleet's database, and how they fail.

Every connection of ours carries its owner's name, gives up on a dead network soon, and is ended by the
server when its owner freezes inside a transaction: a frozen worker must not hold locks that others
wait for.

A pooler between us and the server (pgbouncer) gives each transaction another of its connections to the
server. There nothing may be left behind in a connection: no prepared statement, no limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

from ..errors import ConfigError, LedgerError
from ..logs import logger

log = logger(__name__)

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


TRANSACTION: Final = 120.0
"""Seconds after which a server that can (PostgreSQL 17) ends any transaction of ours.

It is for whoever freezes at a moment at which the server waits for more of the same message.
"""

SILENT_HOST: Final = 2
"""Seconds for which one of several hosts is believed in, before the next one is asked."""

LIMITS: Final = (
    f"SELECT set_config('statement_timeout', '{STATEMENT * 1000:.0f}', true), "
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION * 1000:.0f}', true), "
    "CASE WHEN current_setting('server_version_num')::integer >= 170000 "
    f"THEN set_config('transaction_timeout', '{TRANSACTION * 1000:.0f}', true) END"
).encode()
"""The limits of one transaction, told at its beginning: they are not kept where :func:`is_pooled`."""

_ADVICE: Final = {
    "25006": "this server can only be read (a standby?): name the primary, or all hosts and "
    "?target_session_attrs=read-write",
    "42501": "the role has too few rights: see the page on fleets",
    "42P01": "run: kie-mj cluster migrate",
    "42703": "run: kie-mj cluster migrate",
    "42883": "run: kie-mj cluster migrate",
    "3F000": "run: kie-mj cluster migrate",
}
"""What to do, by the server's code."""

_PID: Final = (
    "SELECT pg_backend_pid() AS pid, CASE WHEN pg_backend_pid() = %s "
    "AND current_setting('server_version_num')::integer >= 170000 "
    f"THEN set_config('transaction_timeout', '{TRANSACTION * 1000:.0f}', false) END"
).encode()

Connection = psycopg.AsyncConnection[tuple[object, ...]]
"""A connection whose statements commit by themselves."""


class Link(psycopg.Connection[dict[str, Any]]):
    """The same, for a thread.

    In a pipeline, a result that is waited for is the end of a message to the server. Otherwise the
    server would take whoever freezes behind it for one that goes on sending, and none of its limits
    would end the transaction.
    """

    _pipeline_open: psycopg.Pipeline | None = None

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Send what has no result to wait for without waiting."""
        with super().pipeline() as pipeline:
            outer, self._pipeline_open = self._pipeline_open, pipeline
            try:
                yield pipeline
            finally:
                self._pipeline_open = outer

    def settle(self) -> None:
        """Wait for all that was sent."""
        if self._pipeline_open is not None:
            self._pipeline_open.sync()


class _Cursor(psycopg.Cursor[dict[str, Any]]):
    def fetchone(self) -> dict[str, Any] | None:
        self._settle()
        return super().fetchone()

    def fetchall(self) -> list[dict[str, Any]]:
        self._settle()
        return super().fetchall()

    def _settle(self) -> None:
        if self.pgresult is None and isinstance(self.connection, Link):
            self.connection.settle()


def where(url: str) -> str:
    """A database's address, fit to be shown: no password."""
    parts = conninfo.conninfo_to_dict(url)
    host, port, name = (str(parts.get(key) or "") for key in ("host", "port", "dbname"))
    hosts, ports = host.split(","), port.split(",")
    if host.startswith(("/", "@")):
        return f"postgresql:///{name}?host={host}{'&port=' + port if port else ''}"
    if len(ports) == 1:
        ports *= len(hosts)
    places = (one or "localhost" for one in hosts)
    shown = (
        f"{place}:{port}" if port else place for place, port in zip(places, ports, strict=False)
    )
    return f"postgresql://{','.join(shown)}/{name}"


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
    ports = str(parts.get("port") or "").split(",")
    if len(ports) not in (1, _hosts(parts)):
        raise ConfigError(f"{where(url)}: give a port for each host, one for all, or none")
    return url


def parameters(url: str, name: str) -> dict[str, Any]:
    """What a connection is made with, by libpq's names: what the URL says goes before what we say.

    Args:
        url: The database.
        name: Whose it is.
    """
    given = conninfo.conninfo_to_dict(checked(url))
    network = dict(NETWORK)
    if _hosts(given) > 1:
        network["connect_timeout"] = str(SILENT_HOST)
    return {**network, **given, "application_name": name}


def answer_within(url: str, seconds: float) -> float:
    """Seconds for an answer, where a host that is silent may have to be passed over first.

    Raises:
        ConfigError: That is no database's URL.
    """
    return seconds + SILENT_HOST * (_hosts(conninfo.conninfo_to_dict(checked(url))) - 1)


def is_pooled(link: Connection | Link) -> bool:
    """Whether a connection of ours ends at a pooler, and not at the server."""
    return link.prepare_threshold is None


async def connect(url: str, name: str) -> Connection:
    """A connection that commits every statement by itself.

    Args:
        url: The database.
        name: Whose it is; the operators see it in ``pg_stat_activity``.

    Raises:
        ConfigError: That is no database's URL.
        LedgerError: There is none to be had.
    """
    try:
        try:
            link = await psycopg.AsyncConnection.connect(_limited(url, name), autocommit=True)
        except psycopg.OperationalError as error:
            if not _is_pooler_speaking(error):
                raise
            link = await psycopg.AsyncConnection.connect(_unlimited(url, name), autocommit=True)
        try:
            row = await (await link.execute(_PID, (link.info.backend_pid,))).fetchone()
        except BaseException:
            await link.close()
            raise
    except psycopg.Error as error:
        raise lost(url, error) from None
    if row is None or row[0] != link.info.backend_pid:
        link.prepare_threshold = None
    return link


def connect_blocking(url: str, name: str) -> Link:
    """The same for a thread, which waits; rows are told by the names of their columns.

    Raises:
        ConfigError: That is no database's URL.
        psycopg.Error: There is none to be had.
    """
    connect = partial(Link.connect, autocommit=True, row_factory=dict_row, cursor_factory=_Cursor)
    try:
        link = connect(_limited(url, name))
    except psycopg.OperationalError as error:
        if not _is_pooler_speaking(error):
            raise
        link = connect(_unlimited(url, name))
    try:
        row = link.execute(_PID, (link.info.backend_pid,)).fetchone()
    except BaseException:
        link.close()
        raise
    if row is None or row["pid"] != link.info.backend_pid:
        link.prepare_threshold = None
    return link


def _limited(url: str, name: str) -> str:
    limits = (
        f"-c statement_timeout={STATEMENT * 1000:.0f} "
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION * 1000:.0f}"
    )
    ours = parameters(url, name)
    ours["options"] = f"{ours.get('options') or ''} {limits}".strip()
    return conninfo.make_conninfo("", **ours)


def _unlimited(url: str, name: str) -> str:
    return conninfo.make_conninfo("", **parameters(url, name))


def _hosts(parts: Mapping[str, Any]) -> int:
    return str(parts.get("host") or parts.get("hostaddr") or "").count(",") + 1


def _is_pooler_speaking(error: psycopg.Error) -> bool:
    """Whether a pooler does not know how to pass the limits on."""
    return "unsupported startup parameter" in str(error)


def lost(url: str, error: Exception) -> LedgerError:
    """The database cannot be used, told to people."""
    cause = getattr(error, "orig", None) or error  # the driver's, without SQLAlchemy's frame
    lines = [line.strip() for line in str(cause).strip().splitlines()]
    # Of several hosts, what each of them said: libpq's first line is about the last.
    told = [line[2:] for line in lines if line.startswith("- host")] or lines[:1]
    reason = "; ".join(told) or type(error).__name__
    advice = _ADVICE.get(getattr(cause, "sqlstate", None) or "")
    message = f"{where(url)}: {reason}" + (f"; {advice}" if advice else "")
    return LedgerError(message, path=where(url))
