-- The server's state. No private key, token, plaintext or group name is ever stored: sessions as
-- SHA-256, MLS objects as they travelled. Times are Unix seconds.

CREATE TABLE server (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT NOT NULL,
    -- Authenticates the challenges that devices sign to open sessions.
    challenge_key BLOB NOT NULL,
    -- Counts what has ended sessions before their time.
    ended_sessions INTEGER NOT NULL DEFAULT 0
);

-- Accounts ------------------------------------------------------------------------------------------------------------

-- Each table of this part and the next two can be distributed by the user, who comes first in every key, and refers to none that
-- is distributed by something else. The registries are apart: each is distributed by what it registers.

-- What is unique over all users, and whose it is. A name stays taken for good.
CREATE TABLE user_names (
    name TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE device_names (
    name TEXT PRIMARY KEY,
    device_id INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE signature_keys (
    key BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL
) WITHOUT ROWID;

-- id: in the order of registration, so that those who came together lie together: the second, and behind it, in 24 bits, a
-- random step beyond the last one. Below 2^55.
CREATE TABLE users (
    id INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 36028797018963967),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

-- id: of the user's devices in their order, 0 to 255, behind the user's id. So whoever knows a device knows its user.
CREATE TABLE devices (
    user_id INTEGER NOT NULL REFERENCES users (id),
    id INTEGER NOT NULL CHECK (id >> 8 = user_id),
    name TEXT NOT NULL,
    auth_key BLOB NOT NULL,
    signature_key BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    -- KeyPackages
    generation INTEGER NOT NULL DEFAULT 0,
    last_upload INTEGER,
    -- No single-use KeyPackage of the device is available and has a `not_after` before this; NULL if none is available.
    stock_ends INTEGER,
    audit_seq INTEGER NOT NULL DEFAULT 0,
    audit_hash BLOB NOT NULL DEFAULT (zeroblob(32)),
    -- When the oldest row of the device's audit happened that is still there; NULL without one.
    audit_oldest INTEGER,
    -- The number of the last thing that was put into the device's mail.
    mail_last INTEGER NOT NULL DEFAULT 0,
    -- When it is forgotten how often anybody was handed a KeyPackage of the device. A time that has come says nothing any more.
    asked_until INTEGER,
    -- The mark of the device's last request that was carried out. A device that does not know it was restored from an older
    -- copy. NULL until a device uses marks.
    state_mark BLOB,
    -- Who linked the device, and that device's signature; NULL for the first device of a user. Each device was linked by one
    -- with a smaller id.
    authorized_by INTEGER,
    link_signature BLOB,
    -- A removed device stays, without anything that it could use: its names are not given to another, and what it authorized
    -- can still be verified.
    removed_at INTEGER,
    -- Which device of the user has removed it, and that device's signature; NULL where the operator has, or where the account was
    -- ended whole.
    removed_by INTEGER,
    removal_signature BLOB,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, authorized_by) REFERENCES devices (user_id, id),
    FOREIGN KEY (user_id, removed_by) REFERENCES devices (user_id, id),
    CHECK ((removed_by IS NULL) = (removal_signature IS NULL)),
    CHECK (removed_by IS NULL OR removed_at IS NOT NULL)
) WITHOUT ROWID;

CREATE TABLE sessions (
    user_id INTEGER NOT NULL,
    hash BLOB NOT NULL,
    device_id INTEGER NOT NULL,
    -- The SHA-256 of the challenge that it was opened with: each opens one, of one device.
    challenge_hash BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, hash),
    UNIQUE (user_id, challenge_hash),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Answers to requests with an Idempotency-Key, kept a day for retries. Those to reserve requests hold the references of the
-- KeyPackages that they disclosed.
CREATE TABLE idempotent_answers (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    answer BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, idempotency_key),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;
CREATE INDEX idempotent_answers_by_age ON idempotent_answers (created_at);

-- Directory -----------------------------------------------------------------------------------------------------------

-- kind: 0 single-use, 1 last resort (RFC 9420 §16.8). status: 0 available, 1 taken, 2 retiring, and over: 3 spent, 4 lapsed,
-- 5 expired, 6 revoked, 7 gone. used: whether it was ever handed out.
CREATE TABLE key_packages (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    ref BLOB NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    suite INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 7),
    used INTEGER NOT NULL CHECK (used BETWEEN 0 AND 1),
    init_key_hash BLOB NOT NULL,
    encryption_key_hash BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    uploaded_at INTEGER NOT NULL,
    retiring_until INTEGER,
    PRIMARY KEY (user_id, device_id, ref),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id),
    CHECK (kind = 1 OR status NOT IN (2, 7)),
    CHECK (kind = 0 OR status NOT IN (1, 3, 4)),
    CHECK (status NOT IN (1, 3, 4) OR used = 1),
    CHECK (status <> 0 OR kind = 1 OR used = 0),
    CHECK (status NOT IN (2, 7) OR retiring_until IS NOT NULL),
    CHECK (retiring_until IS NULL OR (kind = 1 AND status <> 0))
) WITHOUT ROWID;
CREATE INDEX key_packages_available ON key_packages (user_id, device_id, suite, not_after, not_before)
    WHERE kind = 0 AND status = 0;
CREATE UNIQUE INDEX key_packages_one_last_resort ON key_packages (user_id, device_id, suite) WHERE kind = 1 AND status = 0;
CREATE INDEX key_packages_last_resorts ON key_packages (user_id, device_id, suite) WHERE kind = 1 AND status < 3;
CREATE INDEX devices_by_end_of_stock ON devices (stock_ends) WHERE stock_ends IS NOT NULL;
CREATE INDEX key_packages_to_end ON key_packages (not_after) WHERE kind = 1 AND status < 3;
CREATE INDEX key_packages_to_retire ON key_packages (retiring_until) WHERE status = 2;
CREATE INDEX key_packages_to_forget ON key_packages (not_after) WHERE status > 2;

-- The bytes live apart from the state that changes; those of one that is over are gone.
CREATE TABLE key_package_bytes (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    ref BLOB NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id, ref),
    FOREIGN KEY (user_id, device_id, ref) REFERENCES key_packages (user_id, device_id, ref)
) WITHOUT ROWID;

-- Who may add which KeyPackage to which group. user_id, device_id: whose KeyPackage it is; kind: of which kind. holder: the device
-- that may, of holder_user. id: of all that one request reserved. state: 0 open, 1 committed, 2 lapsed, 3 revoked. One that is
-- single-use has one reservation in its life, and the row stays as long as its tombstone; a last resort can have many at once.
-- The rows lie in the order of time; what is unique is held by two indexes, one for each kind.
CREATE TABLE reservations (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    ref BLOB NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    id BLOB NOT NULL CHECK (length(id) = 16),
    holder INTEGER NOT NULL,
    holder_user INTEGER NOT NULL CHECK (holder >> 8 = holder_user),
    group_id BLOB NOT NULL,
    reserved_until INTEGER NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    CHECK (kind = 0 OR state <> 3)
);
CREATE UNIQUE INDEX reservations_exclusive ON reservations (user_id, device_id, ref) WHERE kind = 0;
CREATE UNIQUE INDEX reservations_on_last_resorts ON reservations (user_id, device_id, ref, id) WHERE kind = 1;
CREATE INDEX reservations_by_id ON reservations (id);
CREATE INDEX reservations_to_lapse ON reservations (reserved_until) WHERE state = 0;
CREATE INDEX reservations_to_forget ON reservations (reserved_until) WHERE kind = 1 AND state > 0;

CREATE TRIGGER key_packages_start_available BEFORE INSERT ON key_packages
WHEN NEW.status <> 0 OR NEW.used <> 0
BEGIN
    SELECT RAISE(ABORT, 'a KeyPackage starts available and unused');
END;

CREATE TRIGGER key_packages_change_as_allowed BEFORE UPDATE OF status ON key_packages
WHEN NOT (
    (OLD.status = 0 AND NEW.status IN (0, 1, 2, 5, 6)) OR (OLD.status = 1 AND NEW.status IN (3, 4, 6))
    OR (OLD.status = 2 AND NEW.status IN (5, 6, 7))
)
BEGIN
    SELECT RAISE(ABORT, 'not a transition of a KeyPackage');
END;

CREATE TRIGGER key_packages_are_used_when_handed_out BEFORE UPDATE OF used ON key_packages
WHEN NEW.used <> OLD.used AND NOT (OLD.status = 0 AND NEW.status = 1 - NEW.kind AND NEW.used = 1)
BEGIN
    SELECT RAISE(ABORT, 'a KeyPackage is handed out while it is available');
END;

CREATE TRIGGER key_packages_retire_once BEFORE UPDATE OF retiring_until ON key_packages
WHEN OLD.retiring_until IS NOT NULL AND NEW.retiring_until IS NOT OLD.retiring_until
BEGIN
    SELECT RAISE(ABORT, 'a last resort retires once');
END;

CREATE TRIGGER reservations_are_of_what_is_handed_out BEFORE INSERT ON reservations
WHEN NEW.state <> 0 OR NOT EXISTS (
    SELECT 1 FROM key_packages
    WHERE user_id = NEW.user_id AND device_id = NEW.device_id AND ref = NEW.ref AND kind = NEW.kind AND used = 1 AND status = 1 - kind
)
BEGIN
    SELECT RAISE(ABORT, 'what is reserved was just handed out');
END;

CREATE TRIGGER reservations_end_once BEFORE UPDATE OF state ON reservations
WHEN NEW.state <> OLD.state AND OLD.state <> 0
BEGIN
    SELECT RAISE(ABORT, 'not a transition of a reservation');
END;

CREATE TRIGGER reservations_stay_whose_they_are
BEFORE UPDATE OF user_id, device_id, ref, id, kind, holder, holder_user, group_id ON reservations
BEGIN
    SELECT RAISE(ABORT, 'a KeyPackage is disclosed once');
END;

CREATE TRIGGER reservations_go_with_the_key_package AFTER DELETE ON key_packages
BEGIN
    DELETE FROM reservations WHERE user_id = OLD.user_id AND device_id = OLD.device_id AND ref = OLD.ref AND kind = 0;
    DELETE FROM reservations WHERE user_id = OLD.user_id AND device_id = OLD.device_id AND ref = OLD.ref AND kind = 1;
END;

-- A public key is that of one KeyPackage, as its init key or as its leaf's encryption key, tombstones included: a Commit that
-- adds two leaves with one key is refused, and so is one that adds a key which the tree has. A registry, because those two
-- leaves can be of two users. Triggers keep the rows, and let no KeyPackage be stored without both.
CREATE TABLE key_package_keys (
    hash BLOB PRIMARY KEY
) WITHOUT ROWID;

CREATE TRIGGER key_packages_have_keys_of_their_own AFTER INSERT ON key_packages
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
END;

CREATE TRIGGER keys_are_forgotten_with_a_key_package AFTER DELETE ON key_packages
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
END;

-- One hash chain per owning device: hash = SHA-256(previous hash, this row).
CREATE TABLE audit (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    ref BLOB NOT NULL,
    transition TEXT NOT NULL,
    actor TEXT,
    group_id BLOB,
    hash BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id, seq),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;

-- The last row of a chain that was removed because of its age, and a time that none of those removed is later than.
CREATE TABLE audit_checkpoints (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;
CREATE INDEX devices_by_oldest_audit ON devices (audit_oldest) WHERE audit_oldest IS NOT NULL;

-- Limits --------------------------------------------------------------------------------------------------------------

-- Who asked for how much of whom, and who does not want to be asked.

-- How often a user, asked_by, was handed KeyPackages of a device: when all that happened so far is forgotten. A row whose time has
-- come says nothing any more.
CREATE TABLE pair_rates (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    asked_by INTEGER NOT NULL,
    forgotten_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, asked_by),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;
CREATE INDEX pair_rates_to_forget ON pair_rates (forgotten_at);

-- By name: one that nobody has yet can be blocked like any other.
CREATE TABLE blocks (
    user_id INTEGER NOT NULL REFERENCES users (id),
    blocked TEXT NOT NULL,
    PRIMARY KEY (user_id, blocked)
) WITHOUT ROWID;

-- What a user holds, or held until not long ago without using it.
CREATE INDEX reservations_held ON reservations (holder_user, reserved_until) WHERE state IN (0, 2);

-- Invitations to register that are not used, by the SHA-256 of what their codes hold.
CREATE TABLE invitations (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at >= created_at)
) WITHOUT ROWID;
CREATE INDEX invitations_to_expire ON invitations (expires_at);

-- Delivery ------------------------------------------------------------------------------------------------------------

-- Each table here can be distributed by the group, which comes first in every key, and refers to none that is distributed by
-- something else; but `introductions` and `mail`, which are a user's.

-- next_seq: of the next row of the log. state_seq: the last row that changed the public state, a Commit or a proposal; 0 at
-- first. snapshot_seq: the row that the stored state is the one after. first_seq: no message before this row has a body.
-- waiting_bytes: of the bodies of messages. handshake_bytes: of those of Commits and proposals. roster_version changes with who is entitled to what comes. empty_since: NULL while anybody is.
CREATE TABLE groups (
    id BLOB PRIMARY KEY,
    suite INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    next_seq INTEGER NOT NULL DEFAULT 1,
    state_seq INTEGER NOT NULL DEFAULT 0,
    snapshot_seq INTEGER NOT NULL DEFAULT 0,
    first_seq INTEGER NOT NULL DEFAULT 1,
    roster_version INTEGER NOT NULL DEFAULT 0,
    waiting_bytes INTEGER NOT NULL DEFAULT 0 CHECK (waiting_bytes >= 0),
    handshake_bytes INTEGER NOT NULL DEFAULT 0 CHECK (handshake_bytes >= 0),
    created_at INTEGER NOT NULL,
    empty_since INTEGER,
    CHECK (state_seq < next_seq)
) WITHOUT ROWID;
CREATE INDEX groups_behind ON groups (id) WHERE state_seq > snapshot_seq;
CREATE INDEX groups_waiting ON groups (id) WHERE waiting_bytes > 0;
CREATE INDEX groups_empty ON groups (empty_since) WHERE empty_since IS NOT NULL;

-- The public state after the Commit at this row, which has all Commits and proposals after it to lead on to the present one.
CREATE TABLE group_states (
    group_id BLOB PRIMARY KEY REFERENCES groups (id),
    seq INTEGER NOT NULL,
    snapshot BLOB NOT NULL
);

-- Of the present epoch.
CREATE TABLE group_infos (
    group_id BLOB PRIMARY KEY REFERENCES groups (id),
    group_info BLOB NOT NULL
);

-- What a group accepted, in order, and what its members are told by the server. kind: 0 commit, 1 proposal, 2 message,
-- 3 device-change, 4 departure. epoch: the one that it was made in. sender and sha256: NULL of what the server tells. transcript_hash: the
-- confirmed one after a Commit. size: of its body. gone: why there is no body any more: 0 quota, 1 age, 2 nobody needs it.
CREATE TABLE log (
    group_id BLOB NOT NULL REFERENCES groups (id),
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 4),
    epoch INTEGER NOT NULL,
    sender INTEGER,
    sha256 BLOB,
    transcript_hash BLOB,
    size INTEGER NOT NULL,
    gone INTEGER CHECK (gone BETWEEN 0 AND 2),
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, seq),
    CHECK ((kind >= 3) = (sha256 IS NULL)),
    CHECK ((kind >= 3) = (sender IS NULL)),
    CHECK ((kind = 0) = (transcript_hash IS NOT NULL))
) WITHOUT ROWID;
CREATE UNIQUE INDEX log_once ON log (group_id, sha256);
CREATE UNIQUE INDEX log_one_commit_per_epoch ON log (group_id, epoch) WHERE kind = 0;
CREATE INDEX log_handshakes_by_age ON log (accepted_at) WHERE kind <= 1 AND gone IS NULL;

-- part: 0 what everybody gets, 1 the Welcome of a Commit, 2 the ratchet tree that the Welcome needs, compressed.
CREATE TABLE bodies (
    group_id BLOB NOT NULL REFERENCES groups (id),
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL CHECK (part BETWEEN 0 AND 2),
    body BLOB NOT NULL,
    PRIMARY KEY (group_id, seq, part)
) WITHOUT ROWID;
CREATE INDEX bodies_of_welcomes ON bodies (group_id, seq) WHERE part = 1;

-- Numbers that no row has: the store was restored from a backup, and the rows that had them are lost.
CREATE TABLE gaps (
    group_id BLOB NOT NULL REFERENCES groups (id),
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (group_id, first_seq),
    CHECK (last_seq >= first_seq)
) WITHOUT ROWID;

-- What a device is entitled to: the rows from from_seq on, until until_seq, while that is not NULL; messages of from_epoch and
-- later. by_welcome: the first of them is the Welcome of that Commit. A device that was removed and comes back has another one. An interval that ended and was read is deleted.
-- waiting_bytes: of the bodies of messages that the device has sent. waiting_from: none of them is before this row.
CREATE TABLE members (
    group_id BLOB NOT NULL REFERENCES groups (id),
    device_id INTEGER NOT NULL,
    from_seq INTEGER NOT NULL,
    from_epoch INTEGER NOT NULL,
    by_welcome INTEGER NOT NULL CHECK (by_welcome IN (0, 1)),
    until_seq INTEGER,
    acknowledged_seq INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL DEFAULT 0 CHECK (waiting_bytes >= 0),
    waiting_from INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, device_id, from_seq),
    CHECK (acknowledged_seq >= from_seq - 1)
) WITHOUT ROWID;
CREATE UNIQUE INDEX members_open ON members (group_id, device_id) WHERE until_seq IS NULL;
-- By the user, whose id the device's begins with.
CREATE INDEX members_by_user ON members ((device_id >> 8), device_id);

-- What the device that let another one in has to say to it, until the latter has what it needs.
CREATE TABLE introductions (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    by_name TEXT NOT NULL,
    by_key BLOB NOT NULL,
    root TEXT NOT NULL,
    root_key BLOB NOT NULL,
    proof BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;
CREATE INDEX introductions_to_forget ON introductions (created_at);

-- The groups that it vouches for to a device, each at an epoch. tree: the ratchet tree of that epoch, compressed; NULL while it can be made
-- of what is stored of the group.
CREATE TABLE vouchers (
    group_id BLOB NOT NULL,
    device_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    group_info BLOB NOT NULL,
    signature BLOB NOT NULL,
    tree BLOB,
    PRIMARY KEY (group_id, device_id)
) WITHOUT ROWID;
CREATE INDEX vouchers_by_device ON vouchers (device_id);
CREATE INDEX vouchers_without_tree ON vouchers (group_id, epoch) WHERE tree IS NULL;

-- What concerns one device alone and no group. kind: 0 key-packages-low, 1 device-change. At most one of a kind waits.
CREATE TABLE mail (
    user_id INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    seq INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, kind),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id)
) WITHOUT ROWID;

-- Blobs ---------------------------------------------------------------------------------------------------------------

-- Files that members of a group send each other, encrypted by them. Like the directory, by the user who stored them.

-- name: random; whoever knows it may fetch the blob.
CREATE TABLE blob_names (
    name BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL,
    blob_id INTEGER NOT NULL
) WITHOUT ROWID;

-- id: random. size: as announced; stored: what has come of it. sha256: NULL until all
-- has. idempotency_key: NULL once the blob is over. expires_at: 0 once the blob is over and its parts are being removed.
CREATE TABLE blobs (
    user_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    name BLOB NOT NULL,
    device_id INTEGER NOT NULL,
    idempotency_key TEXT,
    size INTEGER NOT NULL CHECK (size > 0),
    stored INTEGER NOT NULL DEFAULT 0 CHECK (stored BETWEEN 0 AND size),
    sha256 BLOB,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, id),
    CHECK (sha256 IS NULL OR stored = size)
) WITHOUT ROWID;
CREATE UNIQUE INDEX blobs_once ON blobs (user_id, device_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX blobs_by_age ON blobs (expires_at);

-- In parts, so that none of them is large in anybody's memory.
CREATE TABLE blob_parts (
    user_id INTEGER NOT NULL,
    blob_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (user_id, blob_id, number),
    FOREIGN KEY (user_id, blob_id) REFERENCES blobs (user_id, id)
);

-- How often a user stored one, like pair_rates.
CREATE TABLE blob_rates (
    user_id INTEGER PRIMARY KEY REFERENCES users (id),
    forgotten_at INTEGER NOT NULL
);
CREATE INDEX blob_rates_to_forget ON blob_rates (forgotten_at);

-- Totals --------------------------------------------------------------------------------------------------------------

-- What all users have together, one row: the sizes of all blobs, as announced, until the sweeper has removed them, which triggers
-- keep; and the accounts that were created since a time, which begins anew after an hour. Nothing is locked after it.
CREATE TABLE totals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    blob_bytes INTEGER NOT NULL DEFAULT 0 CHECK (blob_bytes >= 0),
    accounts_since INTEGER NOT NULL DEFAULT 0,
    accounts INTEGER NOT NULL DEFAULT 0
);
INSERT INTO totals (id) VALUES (1);

CREATE TRIGGER blobs_count AFTER INSERT ON blobs
BEGIN
    UPDATE totals SET blob_bytes = blob_bytes + NEW.size WHERE id = 1;
END;

CREATE TRIGGER removed_blobs_do_not_count AFTER DELETE ON blobs
BEGIN
    UPDATE totals SET blob_bytes = blob_bytes - OLD.size WHERE id = 1;
END;

-- Time ----------------------------------------------------------------------------------------------------------------

-- When the store was last swept, and by which node; how often an operator has accepted a clock, and what it said the last
-- time. Nothing is swept by age that a clock would end which does not fit.
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_sweep INTEGER,
    swept_by TEXT,
    acceptances INTEGER NOT NULL DEFAULT 0,
    accepted_at INTEGER,
    CHECK ((acceptances > 0) = (accepted_at IS NOT NULL))
);
INSERT INTO clock (id) VALUES (1);
