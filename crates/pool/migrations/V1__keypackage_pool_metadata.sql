-- What surrounds the private keys of a KeyPackage; the keys themselves are in OpenMLS's own tables.
-- Times are Unix seconds. Rows are few (the hard cap, and the tombstones of a month), so every query scans them.
CREATE TABLE keypackage_pool_metadata (
    key_package_ref         BLOB    NOT NULL PRIMARY KEY,  -- as TLS bytes, length included
    status                  INTEGER NOT NULL CHECK (status BETWEEN 1 AND 7),
    suite                   INTEGER NOT NULL,
    created_at              INTEGER NOT NULL,
    not_after               INTEGER NOT NULL,
    uploaded_at             INTEGER,                       -- the last attempt
    reservation_expires_at  INTEGER,                       -- a hint of the directory
    ended_at                INTEGER,
    spent_group_id          BLOB,
    CHECK ((status >= 4) = (ended_at IS NOT NULL)),
    CHECK ((status = 4) = (spent_group_id IS NOT NULL))
) STRICT, WITHOUT ROWID;

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
