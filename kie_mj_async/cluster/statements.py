"""The ledger's statements as PostgreSQL takes them, each confined to one batch.

Most are those of one machine's ledger (``ledger/queries.sql``), translated once, when this is imported:
every table they name is the part of it that belongs to the batch. What differs is in ``queries.sql``
beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from ..jobs import State
from ..ledger.sql import SQL as SHARED
from ..ledger.sql import named, text_of
from ..rules import chains
from ..rules.lifecycle import SETTLED
from .database import SCHEMA

_UNUSED: Final = frozenset(
    {"read_meta", "write_meta", "make_tally", "drop_tally", "count_occurrence", "stage_job"}
)
"""What is done otherwise here."""


def _among(states: Collection[State]) -> str:
    return "(" + ", ".join(f"'{state.value}'" for state in State if state in states) + ")"


SETTLED_STATES: Final = _among(SETTLED)
"""States that nothing leads out of by itself, as SQL lists them: in the order of ``schema.sql``."""

_ENDED: Final = _among(chains.READY | chains.HOPELESS)

_ON_A_MOVE: Final = f"""
    owner = CASE WHEN :state = 'submitting' THEN :owner END,
    queued = queued AND (state NOT IN {SETTLED_STATES} OR :state IN {SETTLED_STATES}),
    turn = turn + (state IN {SETTLED_STATES} AND :state NOT IN {SETTLED_STATES})::integer,
    rest_until = NULL,
    told = CASE WHEN :state IN {SETTLED_STATES} THEN pg_current_xact_id() ELSE told END,
    """
"""What a fleet keeps of a move besides: who holds the create, that a job sets out again, and that it has
come to an outcome."""


def of_batch(statement: str) -> str:
    """A statement of one machine's ledger as one of a batch."""
    part = rf"(SELECT * FROM {SCHEMA}.\2 WHERE batch = :batch) AS \2"  # noqa: S608
    if statement.startswith("INSERT"):
        statement = re.sub(r"INTO (\w+) \(", rf"INTO {SCHEMA}.\1 (batch, ", statement)
        statement = re.sub(r"(VALUES|CONFLICT) \(", _first_of_all, statement)
    elif statement.startswith("UPDATE"):
        statement = re.sub(r"^UPDATE (\w+)", rf"UPDATE {SCHEMA}.\1", statement)
        statement = statement.replace("WHERE ", "WHERE batch = :batch AND ", 1)
    else:
        statement = re.sub(r"\b(FROM|JOIN) (\w+)", rf"\1 {part}", statement)
    # Whether something is given is asked before anything says what it is.
    for name, kind in (("run", "integer"), ("task_id", "text")):
        statement = statement.replace(f":{name} IS NULL", f":{name}::{kind} IS NULL")
    return statement


def _first_of_all(found: re.Match[str]) -> str:
    return f"{found[0]}{':batch' if found[1] == 'VALUES' else 'batch'}, "


def _as_taken(statement: str) -> bytes:
    """With psycopg's placeholders."""
    return (
        re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", statement.replace("%", "%%")).strip(" ;\n").encode()
    )


def _all() -> dict[str, str]:
    shared = {name: of_batch(text) for name, text in SHARED.items() if name not in _UNUSED}
    shared["update_job"] = shared["update_job"].replace("SET\n", f"SET{_ON_A_MOVE}", 1)
    ours = text_of(__package__, "queries.sql")
    return shared | named(ours.replace(":settled", SETTLED_STATES).replace(":ended", _ENDED))


SQL: Final = {name: _as_taken(text) for name, text in _all().items()}
"""Every statement, as psycopg takes it."""

READS: Final = frozenset(
    name
    for name, text in SQL.items()
    if text.startswith(b"SELECT") and b"pg_current_xact_id" not in text
)
"""Those that change nothing."""
