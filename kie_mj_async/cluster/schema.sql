-- A fleet's books, schema 1. Times are seconds since 1970 UTC, or timestamptz where only operators read
-- them. No foreign keys: a row is only ever written with the one that it belongs to, in one transaction.

CREATE TABLE kie_mj.batch (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      text COLLATE "C" NOT NULL UNIQUE,  -- what its user calls it
    host    text,                              -- the API host that its tasks live at
    out     text,                              -- where its results go; both known once a worker has it
    run     integer NOT NULL DEFAULT 0,        -- the last list's
    jobs    bigint NOT NULL DEFAULT 0,         -- the last job's seq
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE kie_mj.job (
    batch        bigint NOT NULL,
    seq          bigint NOT NULL,
    key          text COLLATE "C" NOT NULL,
    run          integer NOT NULL,            -- the last run whose list held it
    request      text NOT NULL,               -- JSON, as Request.to_dict()
    state        text COLLATE "C" NOT NULL,
    task_id      text COLLATE "C",
    attempts     integer NOT NULL DEFAULT 0,
    price        float8 NOT NULL DEFAULT 0,   -- of its present task
    credits      float8 NOT NULL DEFAULT 0,   -- of all its tasks
    submitted_at float8,
    created_at   float8,
    completed_at float8,
    expires_at   float8,
    urls         text NOT NULL DEFAULT '[]',  -- JSON
    files        text NOT NULL DEFAULT '[]',  -- JSON
    trouble      text,                        -- JSON
    urgency      float8 NOT NULL,             -- when its results are gone, or far in the future
    file_count   integer NOT NULL DEFAULT 0,
    file_bytes   bigint NOT NULL DEFAULT 0,
    parent       text COLLATE "C",            -- the key of the job it follows in a chain
    owner        text COLLATE "C",            -- the worker whose create is under way
    queued       boolean NOT NULL DEFAULT false,
    turn         integer NOT NULL DEFAULT 1,  -- how often it was put into the queue, or will have been
    rest_until   float8,                      -- not before then again: it could not be brought to its end
    told         xid8,                        -- the transaction in which it came to its outcome, of late
    PRIMARY KEY (batch, seq),
    UNIQUE (batch, key)
) WITH (
    -- A job is written about eight times in an hour, and then never again: room for its next version
    -- beside it, and the old ones taken away long before they are a fifth of a large table.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02
);

-- A batch that was made after the table was last counted would be thought empty, and a list that is taken
-- into it be compared with all of it, job by job. Without counts any batch is thought a part of the table.
ALTER TABLE kie_mj.job ALTER COLUMN batch SET STATISTICS 0;

CREATE INDEX job_by_state ON kie_mj.job (batch, state, urgency, seq);
CREATE INDEX job_by_task ON kie_mj.job (batch, task_id) WHERE task_id IS NOT NULL;
CREATE INDEX job_by_parent ON kie_mj.job (batch, parent, seq) WHERE parent IS NOT NULL;
CREATE INDEX job_by_owner ON kie_mj.job (owner) WHERE owner IS NOT NULL;
CREATE INDEX job_running ON kie_mj.job (batch) WHERE state = 'running';
CREATE INDEX job_lost ON kie_mj.job (submitted_at) WHERE state = 'unresolved';
CREATE INDEX job_told ON kie_mj.job (told, batch, seq) WHERE told IS NOT NULL;
CREATE INDEX job_open ON kie_mj.job (batch, seq)
    WHERE state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned');
CREATE INDEX job_to_queue ON kie_mj.job (batch, seq) WHERE NOT queued AND parent IS NULL
    AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned');
CREATE INDEX job_to_queue_behind ON kie_mj.job (batch, seq) WHERE NOT queued AND parent IS NOT NULL
    AND state NOT IN ('saved', 'failed', 'expired', 'unresolved', 'abandoned');

CREATE TABLE kie_mj.event (
    batch  bigint NOT NULL,
    seq    bigint NOT NULL,
    id     bigint GENERATED ALWAYS AS IDENTITY,
    at     float8 NOT NULL,
    event  text NOT NULL,
    state  text NOT NULL,                     -- the state it led to
    detail text,                              -- JSON
    PRIMARY KEY (batch, seq, id)
);

CREATE TABLE kie_mj.reading (
    batch   bigint NOT NULL,
    id      bigint GENERATED ALWAYS AS IDENTITY,
    at      float8 NOT NULL,
    balance float8 NOT NULL,                  -- of the account, as the service said
    spent   float8 NOT NULL,                  -- by the jobs of this batch
    at_risk float8 NOT NULL,                  -- by its unresolved jobs
    PRIMARY KEY (batch, id)
);

CREATE TABLE kie_mj.attempt (
    token   text COLLATE "C" PRIMARY KEY,     -- what its callback's address carries
    batch   bigint NOT NULL,
    seq     bigint NOT NULL,
    number  integer NOT NULL,                 -- which attempt of the job, from 1
    at      float8 NOT NULL,
    price   float8 NOT NULL,
    task_id text COLLATE "C",                 -- what it led to
    hint    text COLLATE "C"                  -- the task that a callback named
) WITH (fillfactor = 80);

CREATE INDEX attempt_by_job ON kie_mj.attempt (batch, seq, number);
CREATE INDEX attempt_hinted ON kie_mj.attempt (batch, at) WHERE hint IS NOT NULL AND task_id IS NULL;

CREATE TABLE kie_mj.upload (
    batch bigint NOT NULL,
    name  text COLLATE "C" NOT NULL,          -- of a local image, by its content
    url   text NOT NULL,
    at    float8 NOT NULL,
    PRIMARY KEY (batch, name)
);

-- What the service answered to a create. Written by whoever got the answer, also when its lease was taken
-- away meanwhile, and never changed.
CREATE TABLE kie_mj.receipt (
    batch   bigint NOT NULL,
    seq     bigint NOT NULL,
    attempt integer NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    worker  text NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (batch, seq, attempt)
);

-- Lists on their way in. A crash of the server empties both, and the list is not taken in.
CREATE UNLOGGED TABLE kie_mj.staging (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch    bigint NOT NULL,
    run      integer NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE UNLOGGED TABLE kie_mj.staged (
    staging bigint NOT NULL,
    place   bigint NOT NULL,
    key     text COLLATE "C" NOT NULL,
    digest  text COLLATE "C",                 -- of what is counted; not of a chain's steps
    request text,                             -- none: the list has a job that is there
    parent  text COLLATE "C",
    PRIMARY KEY (staging, place)
);

CREATE INDEX staged_by_digest ON kie_mj.staged (digest) WHERE digest IS NOT NULL;
