-- Statements of a fleet's books, by name: those that one machine's ledger has not, or has otherwise
-- (ledger/queries.sql). Nothing is added to these but what :settled and :ended stand for: the states of
-- jobs that nothing leads out of by itself, and those in which the steps behind a job may go.

-- name: job_to_move
SELECT * FROM kie_mj.job WHERE batch = :batch AND key = :key FOR NO KEY UPDATE;

-- name: jobs_by_key_prefix
SELECT * FROM kie_mj.job WHERE batch = :batch AND key ^@ :prefix::text ORDER BY seq LIMIT :limit;

-- name: insert_job
WITH given AS (
    UPDATE kie_mj.batch SET jobs = jobs + 1 WHERE number = :batch RETURNING jobs
)
INSERT INTO kie_mj.job (batch, seq, key, run, request, state, urgency, parent)
SELECT :batch, given.jobs, :key, :run, :request, 'planned', 1e18, :parent FROM given
ON CONFLICT (batch, key) DO NOTHING RETURNING seq;

-- name: find_batch
SELECT number, id, host, out FROM kie_mj.batch WHERE id = :id;

-- name: make_batch
INSERT INTO kie_mj.batch (id) VALUES (:id) ON CONFLICT (id) DO NOTHING;

-- Of two at once the second sees the first one's run only in a statement that begins after it waited.
-- name: lock_batch
SELECT number FROM kie_mj.batch WHERE number = :batch FOR NO KEY UPDATE;

-- name: begin_staging
INSERT INTO kie_mj.staging (batch, run)
SELECT number, greatest(run, (SELECT max(run) FROM kie_mj.staging WHERE batch = :batch)) + 1
FROM kie_mj.batch WHERE number = :batch RETURNING number, run;

-- name: sweep_staged
DELETE FROM kie_mj.staged WHERE staging IN (
    SELECT number FROM kie_mj.staging WHERE began_at < clock_timestamp() - interval '1 day'
);

-- name: sweep_staging
DELETE FROM kie_mj.staging WHERE began_at < clock_timestamp() - interval '1 day';

-- name: tasks_known
SELECT DISTINCT ON (task_id) task_id, key, state FROM kie_mj.job
WHERE batch = :batch AND task_id = ANY(:ids) ORDER BY task_id, seq;

-- A list comes sooner than the statistics of it: nothing is left to them.
-- name: by_index_only
SELECT set_config('enable_seqscan', 'off', true);

-- name: count_digests
SELECT digest, count(*) AS n FROM kie_mj.staged
WHERE staging + 0 = :staging AND digest = ANY(:digests) GROUP BY digest;

-- name: put_staged
INSERT INTO kie_mj.staged (staging, place, key, digest, request, parent)
SELECT :staging, :place + one.place, one.key, one.digest, one.request, one.parent
FROM unnest(:keys::text[], :digests::text[], :requests::text[], :parents::text[])
    WITH ORDINALITY AS one (key, digest, request, parent, place);

-- name: jobs_known
SELECT job.key, job.state, job.request
FROM unnest(:keys::text[]) AS one (key) JOIN kie_mj.job ON job.batch = :batch AND job.key = one.key;

-- name: lock_staging
SELECT staging.run, batch.jobs FROM kie_mj.batch JOIN kie_mj.staging ON staging.batch = batch.number
WHERE batch.number = :batch AND staging.number = :staging FOR NO KEY UPDATE OF batch;

-- name: take_known
UPDATE kie_mj.job SET run = :run, rest_until = NULL FROM kie_mj.staged
WHERE staged.staging = :staging AND staged.place > :after AND staged.place <= :until
    AND job.batch = :batch AND job.key = staged.key AND job.run <> :run;

-- name: take_new
WITH made AS (
    INSERT INTO kie_mj.job (batch, seq, key, run, request, state, urgency, parent, queued)
    SELECT :batch, :jobs + row_number() OVER (ORDER BY place), key, :run, request, 'planned', 1e18,
        parent, :queue AND parent IS NULL
    FROM (
        SELECT DISTINCT ON (key) * FROM kie_mj.staged
        WHERE staging = :staging AND place > :after AND place <= :until AND request IS NOT NULL
        ORDER BY key, place
    ) AS fresh
    WHERE NOT EXISTS (SELECT FROM kie_mj.job WHERE job.batch = :batch AND job.key = fresh.key)
    RETURNING seq, key, queued
)
SELECT count(*) AS number, array_agg(key ORDER BY seq) FILTER (WHERE queued) AS keys FROM made;

-- name: end_staging
UPDATE kie_mj.batch SET jobs = :jobs, run = greatest(run, :run) WHERE number = :batch;

-- name: drop_staged
DELETE FROM kie_mj.staged WHERE staging = :staging;

-- name: drop_staging
DELETE FROM kie_mj.staging WHERE number = :staging;

-- name: to_queue
UPDATE kie_mj.job SET queued = true, rest_until = NULL WHERE batch = :batch AND seq IN (
    SELECT seq FROM kie_mj.job
    WHERE batch = :batch AND NOT queued AND parent IS NULL
        AND state NOT IN :settled
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: steps_to_queue
UPDATE kie_mj.job SET queued = true, rest_until = NULL WHERE batch = :batch AND seq IN (
    SELECT seq FROM kie_mj.job AS one
    WHERE batch = :batch AND NOT queued AND parent IS NOT NULL
        AND state NOT IN :settled
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
        AND EXISTS (
            SELECT FROM kie_mj.job AS before WHERE before.batch = :batch AND before.key = one.parent
                AND before.state IN :ended
        )
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: to_queue_behind
UPDATE kie_mj.job SET queued = true, rest_until = NULL WHERE batch = :batch AND seq IN (
    SELECT seq FROM kie_mj.job
    WHERE batch = :batch AND parent = :parent AND NOT queued
        AND state NOT IN :settled
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: batches_to_queue
SELECT id FROM kie_mj.batch WHERE EXISTS (
    SELECT FROM kie_mj.job WHERE job.batch = batch.number AND NOT queued AND parent IS NULL
        AND state NOT IN :settled
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
) OR (:steps AND EXISTS (
    SELECT FROM kie_mj.job WHERE job.batch = batch.number AND NOT queued AND parent IS NOT NULL
        AND state NOT IN :settled
)) ORDER BY number;

-- name: rest_job
UPDATE kie_mj.job SET queued = false, turn = turn + 1, told = pg_current_xact_id(),
    rest_until = extract(epoch FROM clock_timestamp()) + :seconds
WHERE batch = :batch AND key = :key AND turn = :turn
    AND state NOT IN :settled
RETURNING turn;

-- name: bind_batch
UPDATE kie_mj.batch SET host = coalesce(host, :host), out = coalesce(out, :out)
WHERE number = :batch RETURNING host, out;

-- What came to its outcome between two snapshots is told exactly once, in whatever order transactions
-- end: each is either in the sight of a snapshot or not. "+ 0" and "IS TRUE" keep indexes out that
-- would go through a whole list: new lists are not in the statistics yet.

-- name: snapshot
SELECT pg_current_snapshot()::text AS snapshot;

-- name: news
SELECT batch, key, seq, told::text AS told_in FROM kie_mj.job
WHERE told >= pg_snapshot_xmin(:since::pg_snapshot)
    AND NOT pg_visible_in_snapshot(told, :since::pg_snapshot)
    AND pg_visible_in_snapshot(told, :until::pg_snapshot)
    AND (told, batch, seq) > (:told::xid8, :in_batch, :seq)
ORDER BY told, batch, seq LIMIT :limit;

-- name: news_of_list
SELECT *, told::text AS told_in FROM kie_mj.job
WHERE told >= pg_snapshot_xmin(:since::pg_snapshot)
    AND NOT pg_visible_in_snapshot(told, :since::pg_snapshot)
    AND pg_visible_in_snapshot(told, :until::pg_snapshot)
    AND (told, batch, seq) > (:told::xid8, :batch, :seq)
    AND batch + 0 = :batch AND seq + 0 >= :first AND seq + 0 <= :last
    AND (state IN :settled OR rest_until IS NOT NULL)
ORDER BY told, batch, seq LIMIT :limit;

-- name: settled_in_list
SELECT job.* FROM unnest(:firsts::bigint[], :lasts::bigint[]) AS stretch (first, last)
JOIN kie_mj.job ON job.batch = :batch AND job.seq >= stretch.first AND job.seq <= stretch.last
WHERE (job.state IN :settled) IS TRUE
    AND (job.told IS NULL OR pg_visible_in_snapshot(job.told, :until::pg_snapshot))
ORDER BY job.seq;

-- name: ended_in_list
SELECT job.seq FROM unnest(:firsts::bigint[], :lasts::bigint[]) AS stretch (first, last)
JOIN kie_mj.job ON job.batch = :batch AND job.seq >= stretch.first AND job.seq <= stretch.last
WHERE (job.state IN :settled OR job.rest_until IS NOT NULL) IS TRUE
ORDER BY job.seq;

-- name: jobs_of_list
SELECT * FROM kie_mj.job WHERE batch = :batch AND seq = ANY(:seqs) ORDER BY seq;

-- name: any_active
SELECT EXISTS (
    SELECT FROM unnest(:firsts::bigint[], :lasts::bigint[]) AS stretch (first, last)
    CROSS JOIN LATERAL (
        SELECT FROM kie_mj.job
        WHERE batch = :batch AND seq >= stretch.first AND seq <= stretch.last
            AND state NOT IN :settled
            AND rest_until IS NULL AND (parent IS NULL OR queued) LIMIT 1
    ) AS under_way
) OR EXISTS (
    SELECT FROM unnest(:firsts::bigint[], :lasts::bigint[]) AS stretch (first, last)
    CROSS JOIN LATERAL (
        SELECT FROM kie_mj.job AS one JOIN kie_mj.job AS before
            ON before.batch = one.batch AND before.key = one.parent
        WHERE one.batch = :batch AND one.seq >= stretch.first AND one.seq <= stretch.last
            AND one.state NOT IN :settled
            AND one.rest_until IS NULL AND NOT one.queued
            AND before.state IN :ended LIMIT 1
    ) AS next
) AS active;

-- name: stuck_in_list
SELECT step.* FROM unnest(:firsts::bigint[], :lasts::bigint[]) AS stretch (first, last)
CROSS JOIN LATERAL (
    SELECT * FROM kie_mj.job
    WHERE batch = :batch AND seq >= stretch.first AND seq <= stretch.last AND seq > :seq
        AND state NOT IN :settled
        AND rest_until IS NULL AND parent IS NOT NULL AND NOT queued
    ORDER BY seq LIMIT :limit
) AS step ORDER BY step.seq LIMIT :limit;

-- name: jobs_of_keys
SELECT * FROM kie_mj.job WHERE batch = :batch AND key = ANY(:keys);

-- name: job_by_name
SELECT job.*, batch.out AS root FROM kie_mj.batch JOIN kie_mj.job ON job.batch = batch.number
WHERE batch.id = :id AND job.key IN (:chosen, :key) ORDER BY job.key <> :chosen LIMIT 1;

-- name: one_to_queue
UPDATE kie_mj.job SET queued = true, rest_until = NULL
WHERE batch = :batch AND key = :key AND NOT queued AND parent IS NULL
    AND state NOT IN :settled
RETURNING seq, key, turn;

-- name: stretches_of
SELECT min(seq) AS first, max(seq) AS last FROM (
    SELECT seq, seq - row_number() OVER (ORDER BY seq) AS stretch FROM (
        SELECT DISTINCT job.seq FROM kie_mj.staged
        JOIN kie_mj.job ON job.batch = :batch AND job.key = staged.key
        WHERE staged.staging = :staging
    ) AS listed
) AS numbered GROUP BY stretch ORDER BY first;

-- name: standing_jobs
SELECT state, rest_until IS NOT NULL AS rests, count(*) AS number, sum(file_count)::bigint AS files,
    sum(file_bytes)::bigint AS bytes, sum(credits) AS credits, sum(price) AS price
FROM kie_mj.job WHERE :batch::bigint IS NULL OR batch = :batch GROUP BY 1, 2;

-- name: standing_workers
SELECT name, host, pid, began_at, trouble,
    extract(epoch FROM clock_timestamp() - beat_at)::float8 AS silent
FROM kie_mj.worker WHERE ended_at IS NULL ORDER BY epoch;

-- name: standing_accounts
SELECT extract(epoch FROM statement_timestamp())::float8 AS clock, a.name, a.told, a.now, a.cap,
    a.paused_until, a.creates, a.seconds, s.id, s.owner, s.taken_at, s.ended_at, s.gives_up_at
FROM kie_mj.account AS a LEFT JOIN kie_mj.slot AS s ON s.account = a.name ORDER BY a.name, s.id;

-- name: put_receipt
INSERT INTO kie_mj.receipt (batch, seq, attempt, task_id, worker)
VALUES (:batch, :seq, :attempt, :task_id, :worker) ON CONFLICT DO NOTHING;

-- name: receipts
SELECT job.key, receipt.attempt, receipt.task_id, receipt.worker
FROM kie_mj.receipt JOIN kie_mj.job ON job.batch = receipt.batch AND job.seq = receipt.seq
WHERE job.batch = :batch AND job.key = :key ORDER BY receipt.attempt;

-- name: owner_of
SELECT job.owner, worker.name IS NOT NULL AS alive
FROM kie_mj.job LEFT JOIN kie_mj.worker ON worker.name = job.owner AND worker.ended_at IS NULL
WHERE job.batch = :batch AND job.key = :key;

-- name: job_of_turn
SELECT * FROM kie_mj.job WHERE batch = :batch AND key = :key AND turn = :turn;

-- name: creates_of_the_dead
WITH under_way AS MATERIALIZED (
    SELECT batch, key, owner FROM kie_mj.job WHERE owner IS NOT NULL
)
SELECT batch.id, under_way.key
FROM under_way JOIN kie_mj.batch ON batch.number = under_way.batch
WHERE NOT EXISTS (
    SELECT FROM kie_mj.worker WHERE worker.name = under_way.owner AND (
        worker.ended_at IS NULL
        OR worker.ended_at > clock_timestamp() - make_interval(secs => :seconds)
    )
) LIMIT :limit;

-- A transaction's mark is a row of its connection's own, which it locks until its end: who asks after it
-- waits for that, and no crash and no failover gives it to another, as it may a transaction's number.

-- name: mark
INSERT INTO kie_mj.mark (connection, number) VALUES (:connection, :number)
ON CONFLICT (connection) DO UPDATE SET number = excluded.number, at = excluded.at
RETURNING number;

-- name: last_mark
INSERT INTO kie_mj.mark AS mine (connection, number) VALUES (:connection, 0)
ON CONFLICT (connection) DO UPDATE SET number = mine.number
RETURNING number;

-- name: sweep_marks
DELETE FROM kie_mj.mark WHERE at < clock_timestamp() - make_interval(secs => :seconds);
