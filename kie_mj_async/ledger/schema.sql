-- The ledger, schema 4. One row a job (its present), one row an event (its past, append-only).
-- Times are seconds since 1970, UTC.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
    seq          INTEGER PRIMARY KEY,
    key          TEXT NOT NULL UNIQUE,
    run          INTEGER NOT NULL,            -- the last run whose list held it
    request      TEXT NOT NULL,               -- JSON, as Request.to_dict()
    state        TEXT NOT NULL,
    task_id      TEXT,
    attempts     INTEGER NOT NULL DEFAULT 0,
    price        REAL NOT NULL DEFAULT 0,     -- of its present task
    credits      REAL NOT NULL DEFAULT 0,     -- of all its tasks
    submitted_at REAL,
    created_at   REAL,
    completed_at REAL,
    expires_at   REAL,
    urls         TEXT NOT NULL DEFAULT '[]',  -- JSON
    files        TEXT NOT NULL DEFAULT '[]',  -- JSON
    trouble      TEXT,                        -- JSON
    urgency      REAL NOT NULL,               -- when its results are gone, or far in the future
    file_count   INTEGER NOT NULL DEFAULT 0,
    file_bytes   INTEGER NOT NULL DEFAULT 0,
    parent       TEXT                         -- the key of the job it follows in a chain
) STRICT;

CREATE INDEX job_by_state ON job (state, urgency, seq);
CREATE INDEX job_by_task ON job (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX job_by_parent ON job (parent) WHERE parent IS NOT NULL;

CREATE TABLE event (
    id     INTEGER PRIMARY KEY,
    seq    INTEGER NOT NULL REFERENCES job (seq),
    at     REAL NOT NULL,
    event  TEXT NOT NULL,
    state  TEXT NOT NULL,                     -- the state it led to
    detail TEXT                               -- JSON
) STRICT;

CREATE INDEX event_by_job ON event (seq, id);

CREATE TABLE reading (
    id      INTEGER PRIMARY KEY,
    at      REAL NOT NULL,
    balance REAL NOT NULL,                    -- of the account, as the service said
    spent   REAL NOT NULL,                    -- by the jobs of this ledger
    at_risk REAL NOT NULL                     -- by its unresolved jobs
) STRICT;

CREATE TABLE attempt (
    token   TEXT PRIMARY KEY,                 -- what its callback's address carries
    seq     INTEGER NOT NULL REFERENCES job (seq),
    number  INTEGER NOT NULL,                 -- which attempt of the job, from 1
    at      REAL NOT NULL,
    price   REAL NOT NULL,
    task_id TEXT,                             -- what it led to
    hint    TEXT                              -- the task that a callback named
) STRICT, WITHOUT ROWID;

CREATE INDEX attempt_by_job ON attempt (seq, number);
CREATE INDEX attempt_hinted ON attempt (at) WHERE hint IS NOT NULL AND task_id IS NULL;

CREATE TABLE upload (
    name TEXT PRIMARY KEY,                    -- of a local image, by its content
    url  TEXT NOT NULL,
    at   REAL NOT NULL
) STRICT, WITHOUT ROWID;
