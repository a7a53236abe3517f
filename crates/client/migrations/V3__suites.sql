-- The ciphersuites (RFC 9420 §17.1) that the server accepts. The ranks are the deployment's order of those that it is run
-- with: each of them has a pool, and a new group has the first that this program supports. Until the server is asked, what
-- every server accepts.
CREATE TABLE suites (
    suite INTEGER PRIMARY KEY,
    rank INTEGER UNIQUE CHECK (rank >= 0)
) STRICT;

INSERT INTO suites (suite, rank) VALUES (1, 0), (3, NULL);

-- When the server was last asked, in Unix seconds.
ALTER TABLE profile ADD COLUMN suites_checked_at INTEGER NOT NULL DEFAULT 0;
