"""Putting jobs into the queue, with plain SQL: no import of dbos, and one transaction with our rows.

dbos keeps a function in its schema for that, and promises not to break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from .database import Connection, Link, lost

SCHEMA: Final = "kie_mj_dbos"
"""Where dbos keeps its tables: apart from ours, and from another application's."""

APPLICATION: Final = "kie-mj-async"
QUEUE: Final = "kie-mj-jobs"
BODY: Final = "kie-mj-job"

SHAPE: Final = "kie-mj-1"
"""What dbos calls the application's version. Recovery and dequeuing see only their own; it changes
only when the steps of a job do, so that workers of several releases share one queue."""

ENQUEUE: Final = f"""
SELECT count({SCHEMA}.enqueue_workflow(
    workflow_name => '{BODY}', queue_name => '{QUEUE}', workflow_id => one.name,
    positional_args => ARRAY[to_json(one.name)], priority => one.place::int,
    app_version => '{SHAPE}', application_name => '{APPLICATION}'
)) FROM unnest(%s::text[]) WITH ORDINALITY AS one (name, place)
"""  # noqa: S608
"""Puts in jobs by their names, all or none; one that was put in before stays as it is.

Lower places go first, whenever they came: a short list is not held up by a long one before it.
"""

ENQUEUE_FROM: Final = ENQUEUE.replace("one.place::int", "(one.place + %s)::int").encode()
"""The same for a part of a list, given the places before it."""


async def enqueue(link: Connection, names: Sequence[str]) -> None:
    """Put jobs in, within the connection's transaction if there is one.

    Raises:
        LedgerError: The database refused; nothing was put in.
    """
    try:
        await link.execute(ENQUEUE.encode(), (list(names),))
    except psycopg.Error as error:
        raise lost(
            f"postgresql://{link.info.host}:{link.info.port}/{link.info.dbname}", error
        ) from None


def enqueue_part(link: Link, names: Sequence[str], first: int) -> None:
    """Put jobs in, within the connection's transaction; what goes wrong is psycopg's to say.

    Args:
        link: The connection.
        names: Their names.
        first: The place of the first one.
    """
    link.execute(ENQUEUE_FROM, (first - 1, list(names)))
