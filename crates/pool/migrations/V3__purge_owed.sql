-- Whether private keys that were erased may still be in the write-ahead log. Set in the transaction that erases them,
-- cleared once the log was emptied.
CREATE TABLE keypackage_pool_purge (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    owed  INTEGER NOT NULL CHECK (owed IN (0, 1))
) STRICT;

-- What was erased before this table existed may still be there.
INSERT INTO keypackage_pool_purge (id, owed) VALUES (1, 1);
