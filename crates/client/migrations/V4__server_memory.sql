-- The incarnation of the server that the pool was last reconciled with; another one was restored from a backup.
ALTER TABLE profile ADD COLUMN server_incarnation TEXT;
-- When this device last learned that the server was restored.
ALTER TABLE profile ADD COLUMN server_restored_at INTEGER;

-- How far the audit of this device's KeyPackages was verified, and in which incarnation of the server.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    hash BLOB NOT NULL
) STRICT;

-- Who was removed from a group by a Commit that the server has lost: they are to be removed again once this device has
-- rejoined, before anything is said there.
CREATE TABLE lost_removals (
    group_id BLOB NOT NULL,
    user TEXT NOT NULL,
    PRIMARY KEY (group_id, user)
) STRICT, WITHOUT ROWID;
