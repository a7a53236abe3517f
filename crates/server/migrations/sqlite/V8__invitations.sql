-- Invitations to register that are not used, by the SHA-256 of what their codes hold.
CREATE TABLE invitations (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at >= created_at)
) WITHOUT ROWID;
CREATE INDEX invitations_to_expire ON invitations (expires_at);
