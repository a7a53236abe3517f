-- Whether HTTP without TLS will do for the server, although it is not on this machine.
ALTER TABLE profile ADD COLUMN insecure_http INTEGER NOT NULL DEFAULT 0;

-- Certificates (DER) of authorities that may vouch for the server, beside those that the system trusts.
CREATE TABLE authorities (
    certificate BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
