-- Times are Unix seconds. No table holds key material: that is in OpenMLS's own.

-- What KeyPackages were minted for. Another signature key, credential or set of capabilities is another generation.
-- The hashes are SHA-256. They are all NULL for the tombstones of an older kind of pool, until a pool of their ciphersuite is
-- used.
CREATE TABLE keypackage_pool_generations (
    generation          INTEGER NOT NULL PRIMARY KEY,
    suite               INTEGER NOT NULL,
    signature_key_hash  BLOB,
    credential_hash     BLOB,
    capabilities_hash   BLOB,
    owed                INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0),               -- lost, and not replaced yet
    last_resorts_owed   INTEGER NOT NULL DEFAULT 0 CHECK (last_resorts_owed >= 0),  -- those among the last resorts
    replaced_at         INTEGER,                                                    -- the last time that some were
    UNIQUE (suite, signature_key_hash, credential_hash, capabilities_hash),
    CHECK ((signature_key_hash IS NULL) = (credential_hash IS NULL)),
    CHECK ((signature_key_hash IS NULL) = (capabilities_hash IS NULL))
) STRICT;

-- What surrounds the private keys of a KeyPackage. Rows are few (the hard cap, and the tombstones of a month), so nearly
-- every query scans them.
--
-- kind: 0 single-use, 1 last resort.
-- status: 1 created, 2 available, 3 reserved, 4 retiring, 5 lost are live: the private keys are kept. 6 spent, 7 lapsed,
-- 8 expired, 9 revoked, 10 gone are terminal: they are erased.
CREATE TABLE keypackage_pool_metadata (
    key_package_ref         BLOB    NOT NULL PRIMARY KEY,  -- as TLS bytes, length included
    kind                    INTEGER NOT NULL CHECK (kind IN (0, 1)),
    status                  INTEGER NOT NULL CHECK (status BETWEEN 1 AND 10),
    generation              INTEGER NOT NULL REFERENCES keypackage_pool_generations (generation),
    created_at              INTEGER NOT NULL,
    not_before              INTEGER NOT NULL,
    not_after               INTEGER NOT NULL,
    uploaded_at             INTEGER,                       -- the last attempt
    reservation_expires_at  INTEGER,                       -- a hint of the directory
    sequence                INTEGER,                       -- orders the last resorts: a newer one replaces the older ones
    used_at                 INTEGER,                       -- the first use of a last resort that is known here
    retires_at              INTEGER,                       -- when the private keys of a replaced last resort are erased
    ended_at                INTEGER,
    spent_group_id          BLOB,
    CHECK ((status = 4) = (retires_at IS NOT NULL)),
    CHECK ((status >= 6) = (ended_at IS NOT NULL)),
    CHECK ((status = 6) = (spent_group_id IS NOT NULL)),
    -- A single-use KeyPackage is not replaced by another; a last resort is never one invitation's alone.
    CHECK (kind = 1 OR status NOT IN (4, 10)),
    CHECK (kind = 0 OR status NOT IN (3, 6)),
    CHECK ((kind = 1) = (sequence IS NOT NULL)),
    CHECK (kind = 1 OR used_at IS NULL),
    CHECK (kind = 0 OR reservation_expires_at IS NULL)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX keypackage_pool_metadata_sequence ON keypackage_pool_metadata (sequence)
WHERE sequence IS NOT NULL;

CREATE TRIGGER keypackage_pool_metadata_terminal_is_terminal
BEFORE UPDATE OF status ON keypackage_pool_metadata
WHEN OLD.status >= 6 AND NEW.status <> OLD.status
BEGIN
    SELECT RAISE(ABORT, 'a terminal KeyPackage stays terminal');
END;

CREATE TRIGGER keypackage_pool_metadata_kind_stays
BEFORE UPDATE OF kind ON keypackage_pool_metadata
WHEN NEW.kind <> OLD.kind
BEGIN
    SELECT RAISE(ABORT, 'the mark of a last resort is in the KeyPackage');
END;

CREATE TRIGGER keypackage_pool_metadata_live_rows_stay
BEFORE DELETE ON keypackage_pool_metadata
WHEN OLD.status <= 5
BEGIN
    SELECT RAISE(ABORT, 'the private keys of a live KeyPackage would be orphaned');
END;

-- The groups that were joined with a last resort whose private keys are still kept, with the latest epoch of such a
-- Welcome: an older Welcome is a replay.
CREATE TABLE keypackage_pool_last_resort_joins (
    key_package_ref  BLOB    NOT NULL REFERENCES keypackage_pool_metadata (key_package_ref),
    group_id         BLOB    NOT NULL,
    epoch            INTEGER NOT NULL,
    joined_at        INTEGER NOT NULL,
    PRIMARY KEY (key_package_ref, group_id)
) STRICT, WITHOUT ROWID;

-- Welcomes that could not be joined. Rows are few: the pool drops the oldest beyond a fixed number.
CREATE TABLE keypackage_pool_quarantine (
    welcome_hash     BLOB    NOT NULL PRIMARY KEY,         -- SHA-256 of the MLSMessage
    key_package_ref  BLOB,                                 -- the one of ours that it names, as TLS bytes
    reason           INTEGER NOT NULL CHECK (reason >= 1),
    attempts         INTEGER NOT NULL CHECK (attempts >= 1),  -- in a row, for this reason
    first_at         INTEGER NOT NULL,
    last_at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Whether private keys that were erased may still be in the write-ahead log. Set in the transaction that erases them,
-- cleared once the log was emptied.
CREATE TABLE keypackage_pool_purge (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    owed  INTEGER NOT NULL CHECK (owed IN (0, 1))
) STRICT;

-- OpenMLS may have erased some in this file before it had this table.
INSERT INTO keypackage_pool_purge (id, owed) VALUES (1, 1);
