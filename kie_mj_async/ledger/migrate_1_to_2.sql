-- Schema 1 knew no readings of the balance.

CREATE TABLE reading (
    id      INTEGER PRIMARY KEY,
    at      REAL NOT NULL,
    balance REAL NOT NULL,
    spent   REAL NOT NULL,
    at_risk REAL NOT NULL
) STRICT;
