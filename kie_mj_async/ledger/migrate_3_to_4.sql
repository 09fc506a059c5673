-- Schema 3 knew no chains, no tokens of callbacks, and no uploads of local images.

ALTER TABLE job ADD COLUMN parent TEXT;
CREATE INDEX job_by_parent ON job (parent) WHERE parent IS NOT NULL;

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
