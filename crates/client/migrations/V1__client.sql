-- The account of this profile: one row. Public keys only; the private ones are in OpenMLS's table.
CREATE TABLE profile (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    server TEXT NOT NULL,
    server_name TEXT NOT NULL,
    auth_public_key BLOB NOT NULL,
    mls_public_key BLOB NOT NULL,
    -- 0 from the first attempt until the server has confirmed the account.
    registered INTEGER NOT NULL CHECK (registered IN (0, 1)),
    -- The last inbox row whose effects are in this database.
    inbox_cursor INTEGER NOT NULL DEFAULT 0,
    -- Messages up to this row are read.
    read_up_to INTEGER NOT NULL DEFAULT 0,
    -- Stands for the directory's inventory that the pool was last reconciled with.
    inventory_digest TEXT
) STRICT;

CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,
    name TEXT,
    -- 0 creating, 1 active, 2 leaving, 3 left, 4 needs-rejoin
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
    -- The epoch that this device joined at: what is older was not meant for it.
    joined_epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB,
    -- user/device_id from the MLS credential
    sender TEXT,
    message_id TEXT,
    -- 0 text, 1 joined, 2 added, 3 removed, 4 left, 5 notice
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 5),
    text TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    mine INTEGER NOT NULL CHECK (mine IN (0, 1)),
    -- 0 sent, 1 pending, 2 failed
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 2),
    -- A message that arrives twice is stored once.
    UNIQUE (group_id, sender, message_id)
) STRICT;

-- What is to be sent, as the exact bytes, in order. The intent says how to make it again at another epoch.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    path TEXT NOT NULL,
    idempotency_key TEXT,
    body BLOB NOT NULL,
    intent BLOB NOT NULL,
    -- Whether it is a Commit, a proposal or a new group, rather than a message.
    handshake INTEGER NOT NULL CHECK (handshake IN (0, 1)),
    -- 0 ready to be sent, 1 to be made again at the group's present epoch
    state INTEGER NOT NULL CHECK (state IN (0, 1)),
    attempts INTEGER NOT NULL DEFAULT 0,
    -- The epoch that the server named when it refused the last attempt.
    server_epoch INTEGER
) STRICT;

-- Signature keys as first seen.
CREATE TABLE peers (
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    first_seen INTEGER NOT NULL,
    PRIMARY KEY (user, device_id)
) STRICT, WITHOUT ROWID;

-- Reserve requests without an answer: asked again, they get what was reserved the first time.
CREATE TABLE reserve_attempts (
    group_id BLOB NOT NULL,
    users TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, users)
) STRICT, WITHOUT ROWID;
