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
    authorized_by INTEGER REFERENCES devices (id),
    link_signature BLOB,
    -- A removed device stays, without anything that it could use: its names are not given to another, and what it authorized
    -- can still be verified.
    removed_at INTEGER,
    -- Which device of the user has removed it, and that device's signature; NULL where the operator has, or where the account was
    -- ended whole.
    removed_by INTEGER REFERENCES devices (id),
    removal_signature BLOB,
    CHECK ((removed_by IS NULL) = (removal_signature IS NULL)),
    CHECK (removed_by IS NULL OR removed_at IS NOT NULL)
);
CREATE INDEX devices_by_user ON devices (user_id, id);

CREATE TABLE sessions (
    hash BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    -- The SHA-256 of the challenge that it was opened with: each opens one.
    challenge_hash BLOB NOT NULL UNIQUE,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_device ON sessions (device_id);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Answers to requests with an Idempotency-Key, kept a day for retries. Those to reserve requests hold the references of the
-- KeyPackages that they disclosed.
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
    encryption_key_hash BLOB NOT NULL,
    not_before INTEGER NOT NULL,
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
CREATE INDEX key_packages_available ON key_packages (device_id, suite, not_after, not_before) WHERE status = 0;
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

-- The last row of a chain that was removed because of its age, and a time that none of those removed is later than.
CREATE TABLE audit_checkpoints (
    device_id INTEGER PRIMARY KEY REFERENCES devices (id),
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    time INTEGER NOT NULL
);
CREATE INDEX devices_by_oldest_audit ON devices (audit_oldest) WHERE audit_oldest IS NOT NULL;


-- Last resorts: KeyPackages that are not single-use (RFC 9420 §16.8). They have a table of their own because they have
-- a life of their own: handing one out neither takes it nor ends it.

-- status: 0 active, 1 retiring, 2 gone.
CREATE TABLE last_resorts (
    ref BLOB PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices (id),
    suite INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 2),
    used INTEGER NOT NULL CHECK (used IN (0, 1)),
    init_key_hash BLOB NOT NULL UNIQUE,
    encryption_key_hash BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    uploaded_at INTEGER NOT NULL,
    retiring_until INTEGER,
    CHECK (status <> 0 OR retiring_until IS NULL),
    CHECK (status <> 1 OR retiring_until IS NOT NULL)
) WITHOUT ROWID;
CREATE INDEX last_resorts_by_device ON last_resorts (device_id, uploaded_at);
CREATE INDEX last_resorts_live ON last_resorts (device_id, suite) WHERE status < 2;
CREATE UNIQUE INDEX last_resorts_one_active ON last_resorts (device_id, suite) WHERE status = 0;
CREATE INDEX last_resorts_to_retire ON last_resorts (retiring_until) WHERE status = 1;
CREATE INDEX last_resorts_to_end ON last_resorts (not_after) WHERE status < 2;
CREATE INDEX last_resorts_to_forget ON last_resorts (not_after) WHERE status = 2;

CREATE TABLE last_resort_bytes (
    ref BLOB PRIMARY KEY REFERENCES last_resorts (ref),
    bytes BLOB NOT NULL
);

-- Who may add a last resort to which group: any number of devices at once. A row goes with the Commit that it allows,
-- when its holder gives it up, or at the sweep after its deadline.
CREATE TABLE last_resort_reservations (
    reservation_id TEXT NOT NULL,
    ref BLOB NOT NULL REFERENCES last_resorts (ref),
    holder INTEGER NOT NULL REFERENCES devices (id),
    group_id BLOB NOT NULL,
    reserved_until INTEGER NOT NULL,
    PRIMARY KEY (reservation_id, ref)
) WITHOUT ROWID;
CREATE INDEX last_resort_reservations_by_holder
    ON last_resort_reservations (ref, holder, group_id, reserved_until);
CREATE INDEX last_resort_reservations_to_lapse ON last_resort_reservations (reserved_until);

CREATE TRIGGER last_resorts_start_active BEFORE INSERT ON last_resorts
WHEN NEW.status <> 0 OR NEW.used <> 0
BEGIN
    SELECT RAISE(ABORT, 'a last resort starts active and unused');
END;

CREATE TRIGGER last_resorts_change_as_allowed BEFORE UPDATE OF status ON last_resorts
WHEN NOT ((OLD.status = 0 AND NEW.status IN (1, 2)) OR (OLD.status = 1 AND NEW.status = 2))
BEGIN
    SELECT RAISE(ABORT, 'not a transition of a last resort');
END;

CREATE TRIGGER last_resorts_are_used_while_active BEFORE UPDATE OF used ON last_resorts
WHEN NOT (OLD.status = 0 AND NEW.status = 0 AND OLD.used = 0 AND NEW.used = 1)
BEGIN
    SELECT RAISE(ABORT, 'a last resort is handed out while it is active');
END;

CREATE TRIGGER last_resorts_retire_once BEFORE UPDATE OF retiring_until ON last_resorts
WHEN OLD.retiring_until IS NOT NULL AND NEW.retiring_until IS NOT OLD.retiring_until
BEGIN
    SELECT RAISE(ABORT, 'a last resort retires once');
END;

CREATE TRIGGER last_resort_reservations_need_an_active_one BEFORE INSERT ON last_resort_reservations
WHEN NOT EXISTS (SELECT 1 FROM last_resorts WHERE ref = NEW.ref AND status = 0 AND used = 1)
BEGIN
    SELECT RAISE(ABORT, 'a last resort is reserved while it is active');
END;

CREATE TRIGGER last_resort_reservations_never_change BEFORE UPDATE ON last_resort_reservations
BEGIN
    SELECT RAISE(ABORT, 'a reservation never changes');
END;

-- A reference and an init key name one KeyPackage, whichever kind it is, tombstones included.
CREATE TRIGGER last_resorts_are_no_other_key_package BEFORE INSERT ON last_resorts
WHEN EXISTS (SELECT 1 FROM key_packages WHERE ref = NEW.ref)
    OR EXISTS (SELECT 1 FROM key_packages WHERE init_key_hash = NEW.init_key_hash)
BEGIN
    SELECT RAISE(ABORT, 'another KeyPackage has this name');
END;

CREATE TRIGGER key_packages_are_no_last_resort BEFORE INSERT ON key_packages
WHEN EXISTS (SELECT 1 FROM last_resorts WHERE ref = NEW.ref)
    OR EXISTS (SELECT 1 FROM last_resorts WHERE init_key_hash = NEW.init_key_hash)
BEGIN
    SELECT RAISE(ABORT, 'a last resort has this name');
END;

-- A public key is that of one KeyPackage, whichever kind it is, as its init key or as its leaf's encryption key, tombstones
-- included: a Commit that adds two leaves with one key is refused, and so is one that adds a key which the tree has.
-- Triggers keep the rows, and let no KeyPackage be stored without both.
CREATE TABLE key_package_keys (
    hash BLOB PRIMARY KEY
) WITHOUT ROWID;

CREATE TRIGGER key_packages_have_keys_of_their_own AFTER INSERT ON key_packages
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
END;

CREATE TRIGGER last_resorts_have_keys_of_their_own AFTER INSERT ON last_resorts
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
END;

CREATE TRIGGER keys_are_forgotten_with_a_key_package AFTER DELETE ON key_packages
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
END;

CREATE TRIGGER keys_are_forgotten_with_a_last_resort AFTER DELETE ON last_resorts
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
END;

-- Limits --------------------------------------------------------------------------------------------------------------

-- Who asked for how much of whom, and who does not want to be asked.

-- How often a user was handed KeyPackages of a device: when all that happened so far is forgotten. A row whose time has come says nothing any more.
CREATE TABLE pair_rates (
    user_id INTEGER NOT NULL REFERENCES users (id),
    device_id INTEGER NOT NULL REFERENCES devices (id),
    forgotten_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
CREATE INDEX pair_rates_to_forget ON pair_rates (forgotten_at);

-- By name: one that nobody has yet can be blocked like any other.
CREATE TABLE blocks (
    user_id INTEGER NOT NULL REFERENCES users (id),
    blocked TEXT NOT NULL,
    PRIMARY KEY (user_id, blocked)
) WITHOUT ROWID;

-- What a user holds, or held until not long ago without using it.
CREATE INDEX key_packages_held ON key_packages (holder, reserved_until) WHERE status IN (1, 3);
CREATE INDEX last_resort_reservations_held ON last_resort_reservations (holder, reserved_until);

-- Invitations to register that are not used, by the SHA-256 of what their codes hold.
CREATE TABLE invitations (
    hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at >= created_at)
) WITHOUT ROWID;
CREATE INDEX invitations_to_expire ON invitations (expires_at);

-- Delivery ------------------------------------------------------------------------------------------------------------

-- Each table here but `mail` can be distributed by the group: it comes first in every key, and nothing refers to a table that is
-- distributed by something else.

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
CREATE INDEX members_by_device ON members (device_id);

-- What the device that let another one in has to say to it, until the latter has what it needs.
CREATE TABLE introductions (
    device_id INTEGER PRIMARY KEY REFERENCES devices (id),
    by_name TEXT NOT NULL,
    by_key BLOB NOT NULL,
    root TEXT NOT NULL,
    root_key BLOB NOT NULL,
    proof BLOB NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX introductions_to_forget ON introductions (created_at);

-- The groups that it vouches for, each at an epoch. tree: the ratchet tree of that epoch, compressed; NULL while it can be made
-- of what is stored of the group.
CREATE TABLE vouchers (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    group_info BLOB NOT NULL,
    signature BLOB NOT NULL,
    tree BLOB,
    PRIMARY KEY (device_id, group_id)
) WITHOUT ROWID;
CREATE INDEX vouchers_without_tree ON vouchers (group_id, epoch) WHERE tree IS NULL;

-- What concerns one device alone and no group. kind: 0 key-packages-low, 1 device-change. At most one of a kind waits.
CREATE TABLE mail (
    device_id INTEGER NOT NULL REFERENCES devices (id),
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    seq INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (device_id, kind)
) WITHOUT ROWID;

-- Blobs ---------------------------------------------------------------------------------------------------------------

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
