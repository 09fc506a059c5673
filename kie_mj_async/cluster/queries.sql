-- Statements of a fleet's books, by name: those that one machine's ledger has not, or has otherwise
-- (ledger/queries.sql). Nothing is added to these.

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

-- name: batch_of_token
SELECT batch.number, batch.id, batch.host, batch.out
FROM kie_mj.attempt JOIN kie_mj.batch ON batch.number = attempt.batch
WHERE attempt.token = :token;

-- name: begin_staging
WITH mine AS (SELECT number, run FROM kie_mj.batch WHERE number = :batch FOR NO KEY UPDATE)
INSERT INTO kie_mj.staging (batch, run)
SELECT :batch, greatest(mine.run, (SELECT max(run) FROM kie_mj.staging WHERE batch = :batch)) + 1
FROM mine RETURNING number, run;

-- name: sweep_staged
DELETE FROM kie_mj.staged WHERE staging IN (
    SELECT number FROM kie_mj.staging WHERE began_at < clock_timestamp() - interval '1 day'
);

-- name: sweep_staging
DELETE FROM kie_mj.staging WHERE began_at < clock_timestamp() - interval '1 day';

-- name: tasks_known
SELECT DISTINCT ON (task_id) task_id, key, state FROM kie_mj.job
WHERE batch = :batch AND task_id = ANY(:ids) ORDER BY task_id, seq;

-- name: count_digests
SELECT digest, count(*) AS n FROM kie_mj.staged
WHERE staging = :staging AND digest = ANY(:digests) GROUP BY digest;

-- name: put_staged
INSERT INTO kie_mj.staged (staging, place, key, digest, request, parent)
SELECT :staging, :place + one.place, one.key, one.digest, one.request, one.parent
FROM unnest(:keys::text[], :digests::text[], :requests::text[], :parents::text[])
    WITH ORDINALITY AS one (key, digest, request, parent, place);

-- name: jobs_known
SELECT key, state, request FROM kie_mj.job WHERE batch = :batch AND key = ANY(:keys);

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
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: steps_to_queue
UPDATE kie_mj.job SET queued = true, rest_until = NULL WHERE batch = :batch AND seq IN (
    SELECT seq FROM kie_mj.job AS one
    WHERE batch = :batch AND NOT queued AND parent IS NOT NULL
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
        AND EXISTS (
            SELECT FROM kie_mj.job AS before WHERE before.batch = :batch AND before.key = one.parent
                AND before.state IN ('succeeded', 'saved', 'failed', 'expired', 'abandoned')
        )
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: to_queue_behind
UPDATE kie_mj.job SET queued = true, rest_until = NULL WHERE batch = :batch AND seq IN (
    SELECT seq FROM kie_mj.job
    WHERE batch = :batch AND parent = :parent AND NOT queued
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
    ORDER BY seq LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
) RETURNING seq, key, turn;

-- name: batches_to_queue
SELECT id FROM kie_mj.batch WHERE EXISTS (
    SELECT FROM kie_mj.job WHERE job.batch = batch.number AND NOT queued AND parent IS NULL
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND (rest_until IS NULL OR rest_until <= extract(epoch FROM clock_timestamp()))
) OR (:steps AND EXISTS (
    SELECT FROM kie_mj.job WHERE job.batch = batch.number AND NOT queued AND parent IS NOT NULL
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
)) ORDER BY number;

-- name: rest_job
UPDATE kie_mj.job SET queued = false, turn = turn + 1, told = pg_current_xact_id(),
    rest_until = extract(epoch FROM clock_timestamp()) + :seconds
WHERE batch = :batch AND key = :key AND turn = :turn
    AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
RETURNING turn;

-- name: bind_batch
UPDATE kie_mj.batch SET host = coalesce(host, :host), out = coalesce(out, :out)
WHERE number = :batch RETURNING host, out;

-- name: horizon
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS since;

-- name: news
SELECT batch, key, seq, told::text AS told FROM kie_mj.job
WHERE (told, batch, seq) > (:told::xid8, :batch_seen, :seq) ORDER BY told, batch, seq LIMIT :limit;

-- name: news_of_run
SELECT *, told::text AS told_in FROM kie_mj.job
WHERE batch = :batch AND run = :run AND (told, seq) > (:told::xid8, :seq)
ORDER BY told, seq LIMIT :limit;

-- name: settled_before
SELECT * FROM kie_mj.job
WHERE batch = :batch AND run = :run AND seq > :seq AND told < :since::xid8
    AND state IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
ORDER BY seq LIMIT :limit;

-- name: any_active
SELECT EXISTS (
    SELECT FROM kie_mj.job WHERE batch = :batch AND run = :run AND rest_until IS NULL
        AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND (parent IS NULL OR queued)
) OR EXISTS (
    SELECT FROM kie_mj.job AS one JOIN kie_mj.job AS before
        ON before.batch = one.batch AND before.key = one.parent
    WHERE one.batch = :batch AND one.run = :run AND NOT one.queued AND one.rest_until IS NULL
        AND one.state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned')
        AND before.state IN ('succeeded', 'saved', 'failed', 'expired', 'abandoned')
) AS active;

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
    SELECT FROM kie_mj.worker WHERE worker.name = under_way.owner AND worker.ended_at IS NULL
) LIMIT :limit;

-- name: now
SELECT pg_current_xact_id()::text AS xid;
