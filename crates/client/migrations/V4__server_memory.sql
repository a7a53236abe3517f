-- The incarnation of the server that this device knows; another one was restored from a backup.
ALTER TABLE profile ADD COLUMN server_incarnation TEXT;
-- Whether it is another one, and this device has not yet followed it: nothing is sent.
ALTER TABLE profile ADD COLUMN server_was_restored INTEGER NOT NULL DEFAULT 0 CHECK (server_was_restored IN (0, 1));
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
