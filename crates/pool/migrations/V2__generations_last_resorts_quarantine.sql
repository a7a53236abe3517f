-- What a KeyPackage was minted for. Another signature key, credential or set of capabilities is another generation.
-- The hashes are SHA-256. They are all NULL for what was minted before generations were recorded; the pool finds them
-- out from OpenMLS's bundles at its first use.
CREATE TABLE keypackage_pool_generations (
    generation          INTEGER NOT NULL PRIMARY KEY,
    suite               INTEGER NOT NULL,
    signature_key_hash  BLOB,
    credential_hash     BLOB,
    capabilities_hash   BLOB,
    UNIQUE (suite, signature_key_hash, credential_hash, capabilities_hash),
    CHECK ((signature_key_hash IS NULL) = (credential_hash IS NULL)),
    CHECK ((signature_key_hash IS NULL) = (capabilities_hash IS NULL))
) STRICT;

INSERT INTO keypackage_pool_generations (suite)
SELECT DISTINCT suite FROM keypackage_pool_metadata ORDER BY suite;

-- The same table as before, with the generation in place of the suite.
CREATE TABLE keypackage_pool_metadata_with_generation (
    key_package_ref         BLOB    NOT NULL PRIMARY KEY,  -- as TLS bytes, length included
    status                  INTEGER NOT NULL CHECK (status BETWEEN 1 AND 7),
    generation              INTEGER NOT NULL REFERENCES keypackage_pool_generations (generation),
    created_at              INTEGER NOT NULL,
    not_after               INTEGER NOT NULL,
    uploaded_at             INTEGER,                       -- the last attempt
    reservation_expires_at  INTEGER,                       -- a hint of the directory
    ended_at                INTEGER,
    spent_group_id          BLOB,
    CHECK ((status >= 4) = (ended_at IS NOT NULL)),
    CHECK ((status = 4) = (spent_group_id IS NOT NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO keypackage_pool_metadata_with_generation
SELECT m.key_package_ref, m.status, g.generation, m.created_at, m.not_after, m.uploaded_at,
       m.reservation_expires_at, m.ended_at, m.spent_group_id
FROM keypackage_pool_metadata AS m JOIN keypackage_pool_generations AS g ON g.suite = m.suite;

DROP TABLE keypackage_pool_metadata;
ALTER TABLE keypackage_pool_metadata_with_generation RENAME TO keypackage_pool_metadata;

-- 1 created, 2 available, 3 reserved are live; 4 spent, 5 lapsed, 6 expired, 7 revoked are terminal.
CREATE TRIGGER keypackage_pool_metadata_terminal_is_terminal
BEFORE UPDATE OF status ON keypackage_pool_metadata
WHEN OLD.status >= 4 AND NEW.status <> OLD.status
BEGIN
    SELECT RAISE(ABORT, 'a terminal KeyPackage stays terminal');
END;

CREATE TRIGGER keypackage_pool_metadata_live_rows_stay
BEFORE DELETE ON keypackage_pool_metadata
WHEN OLD.status <= 3
BEGIN
    SELECT RAISE(ABORT, 'the private keys of a live KeyPackage would be orphaned');
END;

-- Last resorts have states of their own. The sequence orders them: a newer one replaces the older ones of its suite.
CREATE TABLE keypackage_pool_last_resorts (
    sequence         INTEGER NOT NULL PRIMARY KEY,
    key_package_ref  BLOB    NOT NULL UNIQUE,              -- as TLS bytes, length included
    status           INTEGER NOT NULL CHECK (status BETWEEN 8 AND 11),
    generation       INTEGER NOT NULL REFERENCES keypackage_pool_generations (generation),
    created_at       INTEGER NOT NULL,
    not_after        INTEGER NOT NULL,
    uploaded_at      INTEGER,                              -- the last attempt
    used_at          INTEGER,                              -- the first use that is known here
    retires_at       INTEGER,                              -- when the private keys of a replaced one are erased
    ended_at         INTEGER,
    CHECK ((status = 10) = (retires_at IS NOT NULL)),
    CHECK ((status = 11) = (ended_at IS NOT NULL))
) STRICT;

-- 8 created, 9 active, 10 retiring are live; 11 erased is terminal. No integer is a status of both tables.
CREATE TRIGGER keypackage_pool_last_resorts_terminal_is_terminal
BEFORE UPDATE OF status ON keypackage_pool_last_resorts
WHEN OLD.status >= 11 AND NEW.status <> OLD.status
BEGIN
    SELECT RAISE(ABORT, 'an erased last resort stays erased');
END;

CREATE TRIGGER keypackage_pool_last_resorts_live_rows_stay
BEFORE DELETE ON keypackage_pool_last_resorts
WHEN OLD.status <= 10
BEGIN
    SELECT RAISE(ABORT, 'the private keys of a live last resort would be orphaned');
END;

-- Welcomes that could not be joined. Rows are few: the pool drops the oldest beyond a fixed number.
CREATE TABLE keypackage_pool_quarantine (
    welcome_hash     BLOB    NOT NULL PRIMARY KEY,         -- SHA-256 of the MLSMessage
    key_package_ref  BLOB,                                 -- the one of ours that it names, as TLS bytes
    reason           INTEGER NOT NULL CHECK (reason >= 1),
    attempts         INTEGER NOT NULL CHECK (attempts >= 1),  -- in a row, for this reason
    first_at         INTEGER NOT NULL,
    last_at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
