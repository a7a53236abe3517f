-- The server's state. No private key, token, plaintext or group name is ever stored: sessions and challenges as
-- SHA-256, MLS objects as they travelled. Times are Unix seconds.

CREATE TABLE server (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT NOT NULL
);

-- Accounts ------------------------------------------------------------------------------------------------------------

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
);

CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id),
    name TEXT NOT NULL UNIQUE,
    auth_key BLOB NOT NULL,
    signature_key BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    -- KeyPackages
    generation INTEGER NOT NULL DEFAULT 0,
    last_upload INTEGER,
    audit_seq INTEGER NOT NULL DEFAULT 0,
    audit_hash BLOB NOT NULL DEFAULT (zeroblob(32)),
    -- Inbox
    inbox_last INTEGER NOT NULL DEFAULT 0,
    inbox_acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX devices_by_user ON devices (user_id, id);

CREATE TABLE challenges (
    hash BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX challenges_by_device ON challenges (device_id, expires_at);
CREATE INDEX challenges_by_expiry ON challenges (expires_at);

CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Answers to requests with an Idempotency-Key, kept a day for retries. Those to reserve requests hold the KeyPackages
-- that they disclosed.
CREATE TABLE idempotent_answers (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    idempotency_key TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    answer BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (device_id, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX idempotent_answers_by_age ON idempotent_answers (created_at);

-- Directory -----------------------------------------------------------------------------------------------------------

-- status: 0 available, 1 reserved, 2 spent, 3 lapsed, 4 expired, 5 revoked.
CREATE TABLE key_packages (
    ref BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    suite INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 5),
    init_key_hash BLOB NOT NULL UNIQUE,
    not_after INTEGER NOT NULL,
    uploaded_at INTEGER NOT NULL,
    holder INTEGER REFERENCES devices (id),
    group_id BLOB,
    reserved_until INTEGER,
    reservation_id TEXT,
    CHECK (status NOT IN (0, 4) OR holder IS NULL),
    CHECK (status NOT IN (1, 2) OR (holder IS NOT NULL AND group_id IS NOT NULL AND reserved_until IS NOT NULL))
) WITHOUT ROWID;
CREATE INDEX key_packages_by_device ON key_packages (device_id, uploaded_at);
CREATE INDEX key_packages_available ON key_packages (device_id, suite, not_after) WHERE status = 0;
CREATE INDEX key_packages_to_expire ON key_packages (not_after) WHERE status = 0;
CREATE INDEX key_packages_to_lapse ON key_packages (reserved_until) WHERE status = 1;
CREATE INDEX key_packages_by_reservation ON key_packages (reservation_id) WHERE status = 1;
CREATE INDEX key_packages_to_forget ON key_packages (not_after) WHERE status > 1;

-- The bytes live apart from the state that changes; terminal KeyPackages have none.
CREATE TABLE key_package_bytes (
    ref BLOB PRIMARY KEY REFERENCES key_packages (ref),
    bytes BLOB NOT NULL
);

CREATE TRIGGER key_packages_start_available BEFORE INSERT ON key_packages
WHEN NEW.status <> 0
BEGIN
    SELECT RAISE(ABORT, 'a KeyPackage starts available');
END;

CREATE TRIGGER key_packages_change_as_allowed BEFORE UPDATE OF status ON key_packages
WHEN NOT ((OLD.status = 0 AND NEW.status IN (1, 4, 5)) OR (OLD.status = 1 AND NEW.status IN (2, 3, 5)))
BEGIN
    SELECT RAISE(ABORT, 'not a transition of a KeyPackage');
END;

CREATE TRIGGER key_packages_are_disclosed_once BEFORE UPDATE OF holder, group_id ON key_packages
WHEN OLD.holder IS NOT NULL AND (NEW.holder IS NOT OLD.holder OR NEW.group_id IS NOT OLD.group_id)
BEGIN
    SELECT RAISE(ABORT, 'a KeyPackage is disclosed once');
END;

-- One hash chain per owning device: hash = SHA-256(previous hash, this row).
CREATE TABLE audit (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    ref BLOB NOT NULL,
    transition TEXT NOT NULL,
    actor TEXT,
    group_id BLOB,
    hash BLOB NOT NULL,
    PRIMARY KEY (device_id, seq)
) WITHOUT ROWID;

-- Delivery ------------------------------------------------------------------------------------------------------------

CREATE TABLE groups (
    id BLOB PRIMARY KEY,
    suite INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    public_state BLOB NOT NULL,
    group_info BLOB NOT NULL,
    created_at INTEGER NOT NULL
);

-- since_epoch: the first epoch whose messages the device can read.
CREATE TABLE members (
    group_id BLOB NOT NULL REFERENCES groups (id),
    device_id INTEGER NOT NULL REFERENCES devices (id),
    since_epoch INTEGER NOT NULL,
    PRIMARY KEY (group_id, device_id)
) WITHOUT ROWID;
CREATE INDEX members_by_device ON members (device_id);

-- What a group accepted: kind 0 commit, 1 proposal, 2 message. epoch is the one that the message was sent in.
CREATE TABLE accepted (
    group_id BLOB NOT NULL REFERENCES groups (id),
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),
    epoch INTEGER NOT NULL,
    sender INTEGER NOT NULL REFERENCES devices (id),
    sha256 BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX accepted_once ON accepted (group_id, sha256);
CREATE UNIQUE INDEX accepted_one_commit_per_epoch ON accepted (group_id, epoch) WHERE kind = 0;
CREATE INDEX accepted_by_age ON accepted (accepted_at);

CREATE TABLE ratchet_trees (
    group_id BLOB NOT NULL REFERENCES groups (id),
    epoch INTEGER NOT NULL,
    tree BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch)
);

CREATE TABLE bodies (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);

-- kind: 0 welcome, 1 commit, 2 proposal, 3 message, 4 key-packages-low, 5 device-change.
CREATE TABLE inbox (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 5),
    group_id BLOB,
    epoch INTEGER,
    body_id INTEGER REFERENCES bodies (id),
    received_at INTEGER NOT NULL,
    PRIMARY KEY (device_id, seq)
) WITHOUT ROWID;
CREATE INDEX inbox_by_body ON inbox (body_id) WHERE body_id IS NOT NULL;
CREATE INDEX inbox_welcomes ON inbox (group_id, epoch, device_id) WHERE kind = 0;
CREATE INDEX inbox_by_age ON inbox (received_at);
CREATE INDEX inbox_low ON inbox (device_id) WHERE kind = 4;
