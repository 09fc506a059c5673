"""Statements by their names, and what runs them: the seam between a ledger and its database.

``queries.sql`` is written for SQLite, and so that another database can take most of it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from ..errors import LedgerError

Values = Mapping[str, Any]

NOTHING: Final[Values] = {}


class Row(Protocol):
    """A row, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """The names."""


class Db(Protocol):
    """A database with the tables of one ledger in it, inside somebody's open transaction."""

    def ask(self, query: str, values: Values = NOTHING) -> Sequence[Row]:
        """The rows of a named query."""

    def tell(self, query: str, values: Values = NOTHING) -> None:
        """Run a named query that has no rows, or whose rows nobody wants."""


def named(text: str) -> dict[str, str]:
    """Statements by their names."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def text_of(package: str, name: str) -> str:
    """A file of statements."""
    return (files(package) / name).read_text(encoding="utf-8")


SQL: Final = named(text_of(__package__, "queries.sql"))
"""Every statement, as SQLite takes it."""


def first(db: Db, query: str, values: Values = NOTHING) -> Row | None:
    """The first row of a named query."""
    rows = db.ask(query, values)
    return rows[0] if rows else None


def one(db: Db, query: str, values: Values = NOTHING) -> Row:
    """The first row of a named query that always has one.

    Raises:
        LedgerError: It has none.
    """
    rows = db.ask(query, values)
    if not rows:
        raise LedgerError("a row is missing: the ledger is damaged; restore it from a backup")
    return rows[0]
