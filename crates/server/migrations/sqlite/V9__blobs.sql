-- Files that members of a group send each other, encrypted by them.

-- name: random; whoever knows it may fetch the blob. size: as announced; stored: what has come of it. sha256: NULL until all
-- has. idempotency_key: NULL once the blob is over. expires_at: 0 once the blob is over and its parts are being removed.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES users (id),
    device_id INTEGER NOT NULL REFERENCES devices (id),
    idempotency_key TEXT,
    size INTEGER NOT NULL CHECK (size > 0),
    stored INTEGER NOT NULL DEFAULT 0 CHECK (stored BETWEEN 0 AND size),
    sha256 BLOB,
    expires_at INTEGER NOT NULL,
    CHECK (sha256 IS NULL OR stored = size)
);
CREATE UNIQUE INDEX blobs_once ON blobs (device_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX blobs_by_user ON blobs (user_id);
CREATE INDEX blobs_by_age ON blobs (expires_at);

-- In parts, so that none of them is large in anybody's memory.
CREATE TABLE blob_parts (
    blob_id INTEGER NOT NULL REFERENCES blobs (id),
    number INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (blob_id, number)
);

-- How often a user stored one, like pair_rates.
CREATE TABLE blob_rates (
    user_id INTEGER PRIMARY KEY REFERENCES users (id),
    forgotten_at INTEGER NOT NULL
);
CREATE INDEX blob_rates_to_forget ON blob_rates (forgotten_at);
