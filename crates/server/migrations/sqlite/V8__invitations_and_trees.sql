-- Invitations to register that are not used, by the SHA-256 of what their codes hold.
CREATE TABLE invitations (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at >= created_at)
) WITHOUT ROWID;
CREATE INDEX invitations_to_expire ON invitations (expires_at);

-- Welcomes that are not in an inbox any more, whose ratchet tree nobody may need. In the order of their numbers each is
-- looked at once, after the transaction that took the Welcome away.
CREATE TABLE welcomes_gone (
    id INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL
);
CREATE TRIGGER inbox_welcomes_are_gone AFTER DELETE ON inbox
WHEN OLD.kind = 0 AND OLD.group_id IS NOT NULL AND OLD.epoch IS NOT NULL
BEGIN
    INSERT INTO welcomes_gone (group_id, epoch) VALUES (OLD.group_id, OLD.epoch);
END;
INSERT INTO welcomes_gone (group_id, epoch) SELECT group_id, epoch FROM ratchet_trees;
