"""Putting jobs into the queue, with plain SQL: no import of dbos, and one transaction with our rows.

dbos keeps a function in its schema for that, and promises not to break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import psycopg

from ..errors import ConfigError
from .database import Connection, Link, lost
from .statements import SETTLED_STATES

SCHEMA: Final = "kie_mj_dbos"
"""Where dbos keeps its tables: apart from ours, and from another application's."""

APPLICATION: Final = "kie-mj-async"
QUEUE: Final = "kie-mj-jobs"
BODY: Final = "kie-mj-job"

SHAPE: Final = "kie-mj-1"
"""What dbos calls the application's version. Recovery and dequeuing see only their own; it changes
only when the steps of a job do, so that workers of several releases share one queue."""

_ENQUEUE: Final = f"""
SELECT count({SCHEMA}.enqueue_workflow(
    workflow_name => '{BODY}', queue_name => '{QUEUE}', workflow_id => one.name,
    positional_args => ARRAY[to_json(one.name)], priority => (one.place + %s)::int,
    app_version => '{SHAPE}', application_name => '{APPLICATION}'
)) FROM unnest(%s::text[]) WITH ORDINALITY AS one (name, place)
""".encode()  # noqa: S608 - names of ours; values are parameters
"""Puts in jobs by their names, all or none; one that was put in before stays as it is.

Lower places go first, whenever they came: a short list is not held up by a long one before it.
"""

UNDER_WAY: Final = f"""
SELECT executor_id AS worker, count(*) AS number FROM {SCHEMA}.workflow_status
WHERE status = 'PENDING' AND queue_name = '{QUEUE}' GROUP BY 1
""".encode()  # noqa: S608 - names of ours; values are parameters
"""Jobs under way, by worker."""

_SHARE: Final = f"""
UPDATE {SCHEMA}.queues SET concurrency = %s, worker_concurrency = %s WHERE name = '{QUEUE}'
    AND (concurrency, worker_concurrency) IS DISTINCT FROM (%s::integer, %s::integer)
""".encode()  # noqa: S608 - names of ours; values are parameters

THERE: Final = f"""
SELECT EXISTS (
    SELECT FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = '{SCHEMA}' AND proname = 'enqueue_workflow'
) AND EXISTS (
    SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = '{SCHEMA}' AND relname = 'workflow_status'
) AS there
""".encode()  # noqa: S608 - names of ours; values are parameters
"""Whether there is a queue in the database at all."""

_OPEN: Final = f"state NOT IN {SETTLED_STATES}"

TAKE_BACK: Final = f"""
WITH queued AS MATERIALIZED (
    SELECT job.batch, job.seq, job.turn, (
        batch.id || CASE job.turn WHEN 1 THEN '' ELSE '~' || job.turn END || ':' || job.key
    ) COLLATE "default" AS name
    FROM kie_mj.job JOIN kie_mj.batch ON batch.number = job.batch WHERE job.queued AND {_OPEN}
), astray AS MATERIALIZED (
    SELECT * FROM queued WHERE NOT EXISTS (
        SELECT FROM {SCHEMA}.workflow_status AS one
        WHERE one.workflow_uuid = queued.name AND one.status IN ('ENQUEUED', 'PENDING', 'DELAYED')
    ) LIMIT %s
)
UPDATE kie_mj.job SET queued = false, turn = job.turn + 1 FROM astray
WHERE job.batch = astray.batch AND job.seq = astray.seq AND job.turn = astray.turn
    AND job.queued AND {_OPEN}
RETURNING astray.name
""".encode()  # noqa: S608 - names of ours; values are parameters
"""Marks jobs as not queued which the queue does not have, though our rows say so, or has as ended: they
set out again under their next turn. It goes through all that is open. What is put in comes with its mark
in one transaction, so one that is on its way is never taken for lost."""

KEPT: Final = 86400.0
"""Seconds for which the queue keeps what came to its end, for the operators."""

PORTION: Final = 1000
"""What is forgotten by one statement at most: some forty milliseconds, in a table of a million."""

_FORGET: Final = f"""
WITH old AS (
    SELECT workflow_uuid AS name FROM {SCHEMA}.workflow_status
    WHERE completed_at < (extract(epoch FROM now()) * 1000)::bigint - %s::bigint
        AND status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
        AND name = '{BODY}' AND application_name = '{APPLICATION}'
    ORDER BY completed_at LIMIT %s FOR UPDATE SKIP LOCKED
), steps AS (
    DELETE FROM {SCHEMA}.operation_outputs WHERE workflow_uuid = ANY(ARRAY(SELECT name FROM old))
), given AS (
    DELETE FROM {SCHEMA}.workflow_input WHERE workflow_uuid = ANY(ARRAY(SELECT name FROM old))
), told AS (
    DELETE FROM {SCHEMA}.workflow_output WHERE workflow_uuid = ANY(ARRAY(SELECT name FROM old))
), gone AS (
    DELETE FROM {SCHEMA}.workflow_status WHERE workflow_uuid = ANY(ARRAY(SELECT name FROM old))
    RETURNING 1
)
SELECT count(*) FROM gone
""".encode()  # noqa: S608 - names of ours; values are parameters


@attrs.frozen
class Load:
    """What a fleet may have under way at once.

    Attributes:
        in_flight: Jobs, over all workers.
        per_worker: Jobs in one worker. dbos keeps it with the queue, so that it is one number for the
            whole fleet.
    """

    in_flight: int = 100
    per_worker: int = 40

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.per_worker <= self.in_flight:
            raise ConfigError("per_worker is at least 1, and at most in_flight")


def enqueue(link: Link, names: Sequence[str], first: int) -> None:
    """Put jobs in, within the connection's transaction; what goes wrong is psycopg's to say.

    Args:
        link: The connection.
        names: Their names.
        first: The place of the first one.
    """
    link.execute(_ENQUEUE, (first - 1, list(names)))


def share_out(link: Link, load: Load) -> None:
    """Set what the fleet and each of its workers may have under way; they see it at their next look.

    Args:
        link: The connection.
        load: That.

    Raises:
        psycopg.Error: The database refused.
    """
    numbers = (load.in_flight, load.per_worker)
    link.execute(_SHARE, numbers + numbers)


async def forget(link: Connection, *, after: float = KEPT, limit: int = PORTION) -> int:
    """Forget jobs that came to their end long ago: dbos keeps five rows of each for ever.

    A name that was forgotten would run if it were put in again, and nobody does that. A name is put in
    by the transaction that marks the job's row as ``queued``, and only where it was not; the mark goes
    away only together with the turn that the name carries. Should it happen all the same, the worker
    finds in the job's row that it is done with.

    Call it again, with a pause, as long as it returns ``limit``. Several may do so at once.

    Args:
        link: The connection.
        after: Seconds since their end. Those that have not ended are never forgotten.
        limit: How many at most.

    Returns:
        How many were forgotten.

    Raises:
        LedgerError: The database refused; nothing was forgotten.
    """
    try:
        rows = await (await link.execute(_FORGET, (round(after * 1000), limit))).fetchall()
    except psycopg.Error as error:
        raise lost(link.info.dsn, error) from None
    return int(str(rows[0][0]))
