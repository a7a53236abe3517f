-- Invitations to register that are not used, by the SHA-256 of what their codes hold.
CREATE TABLE invitations (
    hash BYTEA PRIMARY KEY CHECK (length(hash) = 32),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL CHECK (expires_at >= created_at)
);
CREATE INDEX invitations_to_expire ON invitations (expires_at);
