-- Every statement of a ledger, by name, as SQLite takes it. A fleet's PostgreSQL takes most of them too
-- (cluster/statements.py): one table after each FROM and JOIN, one row after each VALUES.

-- name: read_meta
SELECT value FROM meta WHERE name = :name;

-- name: write_meta
INSERT INTO meta (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: make_tally
CREATE TEMP TABLE tally (digest TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;

-- name: drop_tally
DROP TABLE IF EXISTS temp.tally;

-- name: count_occurrence
INSERT INTO temp.tally (digest, n) VALUES (:digest, 1)
ON CONFLICT (digest) DO UPDATE SET n = n + 1
RETURNING n;

-- name: stage_job
INSERT INTO job (key, run, request, state, urgency, parent)
VALUES (:key, :run, :request, 'planned', 1e18, :parent)
ON CONFLICT (key) DO UPDATE SET run = excluded.run
RETURNING state, request;

-- name: touch_job
UPDATE job SET run = :run WHERE key = :key;

-- name: insert_job
INSERT INTO job (key, run, request, state, urgency, parent)
VALUES (:key, :run, :request, 'planned', 1e18, :parent)
ON CONFLICT (key) DO NOTHING RETURNING seq;

-- name: job_by_key
SELECT * FROM job WHERE key = :key;

-- name: job_to_move
SELECT * FROM job WHERE key = :key;

-- name: job_by_task
SELECT * FROM job WHERE task_id = :task_id;

-- name: jobs_by_key_prefix
SELECT * FROM job WHERE substr(key, 1, length(:prefix)) = :prefix ORDER BY seq LIMIT :limit;

-- name: update_job
UPDATE job SET
    request = coalesce(:request, request), state = :state, task_id = :task_id,
    attempts = :attempts, price = :price, credits = :credits,
    submitted_at = :submitted_at, created_at = :created_at, completed_at = :completed_at,
    expires_at = :expires_at, urls = coalesce(:urls, urls), files = coalesce(:files, files),
    trouble = :trouble, urgency = :urgency, file_count = :file_count, file_bytes = :file_bytes
WHERE seq = :seq;

-- name: insert_event
INSERT INTO event (seq, at, event, state, detail) VALUES (:seq, :at, :event, :state, :detail);

-- name: events_of
SELECT at, event, state, detail FROM event WHERE seq = :seq ORDER BY id;

-- name: page
SELECT * FROM job
WHERE state = :state AND (urgency, seq) > (:urgency, :seq) AND (:run IS NULL OR run = :run)
ORDER BY urgency, seq LIMIT :limit;

-- name: planned
SELECT urgency, seq, request FROM job
WHERE state = 'planned' AND (urgency, seq) > (:urgency, :seq) ORDER BY urgency, seq LIMIT :limit;

-- name: scan
SELECT * FROM job WHERE seq > :seq ORDER BY seq LIMIT :limit;

-- name: scan_with_files
SELECT * FROM job WHERE seq > :seq AND file_count > 0 ORDER BY seq LIMIT :limit;

-- name: counts
SELECT state, count(*) AS number, sum(file_count) AS files, sum(file_bytes) AS bytes,
    sum(credits) AS credits, sum(price) AS price
FROM job GROUP BY state;

-- name: due
SELECT count(*) AS number FROM job WHERE state IN ('succeeded', 'running') AND urgency < :before;

-- name: insert_reading
INSERT INTO reading (at, balance, spent, at_risk) VALUES (:at, :balance, :spent, :at_risk);

-- name: last_readings
SELECT at, balance, spent, at_risk FROM reading ORDER BY id DESC LIMIT :last;

-- name: children
SELECT * FROM job WHERE parent = :key AND (:run IS NULL OR run = :run) ORDER BY seq;

-- name: has_chains
SELECT EXISTS (SELECT 1 FROM job WHERE parent IS NOT NULL) AS found;

-- name: insert_attempt
INSERT INTO attempt (token, seq, number, at, price) VALUES (:token, :seq, :number, :at, :price);

-- name: end_attempt
UPDATE attempt SET task_id = :task_id WHERE seq = :seq AND number = :number;

-- name: end_attempt_of_token
UPDATE attempt SET task_id = :task_id WHERE token = :token;

-- name: attempt_by_token
SELECT attempt.*, job.key FROM attempt JOIN job USING (seq) WHERE token = :token;

-- name: last_attempt
SELECT attempt.*, job.key FROM attempt JOIN job USING (seq)
WHERE job.key = :key AND attempt.number = job.attempts;

-- name: note_hint
UPDATE attempt SET hint = :task_id WHERE token = :token AND (hint IS NULL OR :task_id IS NULL);

-- name: open_hints
SELECT attempt.*, job.key FROM attempt JOIN job USING (seq)
WHERE hint IS NOT NULL AND attempt.task_id IS NULL ORDER BY at, token;

-- name: upload
SELECT name, url, at FROM upload WHERE name = :name;

-- name: note_upload
INSERT INTO upload (name, url, at) VALUES (:name, :url, :at)
ON CONFLICT (name) DO UPDATE SET url = excluded.url, at = excluded.at;
