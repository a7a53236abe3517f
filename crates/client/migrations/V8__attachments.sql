-- What came with a message, or goes with one. A message of kind 0 with a row here is a file.
CREATE TABLE attachments (
    row INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    key BLOB NOT NULL,
    nonce BLOB NOT NULL,
    -- NULL until an own file is stored at the server.
    blob_id BLOB,
    expires_at INTEGER
) STRICT;

-- Files on their way to the server, encrypted with the keys above.
CREATE TABLE uploads (
    row INTEGER PRIMARY KEY,
    idempotency_key TEXT NOT NULL,
    ciphertext BLOB NOT NULL
) STRICT;

CREATE TRIGGER attachments_go_with_their_message AFTER DELETE ON messages BEGIN
    DELETE FROM attachments WHERE row = old.row;
    DELETE FROM uploads WHERE row = old.row;
END;
