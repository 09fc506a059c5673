-- Schema 1 took the server's word for a transaction's number, and a crash gives numbers again of which
-- nothing had come to the disk.

-- How far a connection has come, for a commit whose answer was lost.
CREATE TABLE kie_mj.mark (
    connection text COLLATE "C" PRIMARY KEY,  -- a name that no other connection ever has
    number     bigint NOT NULL,               -- of the last transaction that was committed through it
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
