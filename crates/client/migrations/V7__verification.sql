-- The devices and keys that a person has compared with those of another user. There is a row for each that the user had then; a
-- user without any is not verified.
CREATE TABLE verified_keys (
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    verified_at INTEGER NOT NULL,
    PRIMARY KEY (user, device_id)
) STRICT, WITHOUT ROWID;
