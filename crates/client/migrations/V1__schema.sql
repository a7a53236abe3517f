-- The account of this profile: one row. Public keys only; the private ones are in OpenMLS's table.
CREATE TABLE profile (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    server TEXT NOT NULL,
    server_name TEXT NOT NULL,
    -- Whether HTTP without TLS will do for the server, although it is not on this machine.
    insecure_http INTEGER NOT NULL DEFAULT 0,
    auth_public_key BLOB NOT NULL,
    mls_public_key BLOB NOT NULL,
    -- 0 from the first attempt until the server has confirmed the account.
    registered INTEGER NOT NULL CHECK (registered IN (0, 1)),
    -- Whether this device has shown a link code: then another one may have let it in, and it is not taken for its user's first.
    linking INTEGER NOT NULL DEFAULT 0 CHECK (linking IN (0, 1)),
    -- What the link code hides that this device shows; NULL once the device was let in.
    link_secret BLOB CHECK (length(link_secret) = 16),
    -- Whether the server is still to forget what the device that let this one in had to say to it.
    introduced INTEGER NOT NULL DEFAULT 0 CHECK (introduced IN (0, 1)),
    -- Notices that concern no group are read up to this row of the history.
    read_up_to INTEGER NOT NULL DEFAULT 0,
    -- Stands for the directory's inventory that the pool was last reconciled with.
    inventory_digest TEXT,
    -- When the server was last asked for its ciphersuites, in Unix seconds.
    suites_checked_at INTEGER NOT NULL DEFAULT 0,
    -- 0 the state is this device's last one; 1 the server says that it is an older copy, and nothing is sent; 2 the server knows
    -- that it was one, and what follows is under way; 3 it is a copy, whatever the server says, and nothing is sent.
    restoring INTEGER NOT NULL DEFAULT 0 CHECK (restoring BETWEEN 0 AND 3),
    -- When a copy was last brought up to date.
    restored_at INTEGER,
    -- The incarnation of the server that this device knows; another one was restored from a backup.
    server_incarnation TEXT,
    -- Whether it is another one, and this device has not yet followed it: nothing is sent.
    server_was_restored INTEGER NOT NULL DEFAULT 0 CHECK (server_was_restored IN (0, 1)),
    -- When this device last learned that the server was restored.
    server_restored_at INTEGER,
    -- The server's time less this computer's, in seconds, as it was measured last; and what the person was told of it: 0
    -- nothing, 1 that this computer's clock is off, 2 that it is off too far to go on.
    clock_offset_seconds INTEGER,
    clock_told INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Certificates (DER) of authorities that may vouch for the server, beside those that the system trusts.
CREATE TABLE authorities (
    certificate BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- The ciphersuites (RFC 9420 §17.1) that the server accepts. The ranks are the deployment's order of those that it is run
-- with: each of them has a pool, and a new group has the first that this program supports. Until the server is asked, what
-- every server accepts.
CREATE TABLE suites (
    suite INTEGER PRIMARY KEY,
    rank INTEGER UNIQUE CHECK (rank >= 0)
) STRICT;

INSERT INTO suites (suite, rank) VALUES (1, 0), (3, NULL);

-- The marks of requests that changed something on the server, or may have. A mark is in here before its request leaves. Requests
-- name those that are `claimed`: the last one known to have been carried out, a few before it, and those after it. By the others
-- a device knows that a server's store went back, and not its own.
CREATE TABLE state_marks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL UNIQUE,
    claimed INTEGER NOT NULL DEFAULT 1 CHECK (claimed IN (0, 1))
) STRICT;

CREATE INDEX state_marks_claimed ON state_marks (id) WHERE claimed = 1;

-- How far the audit of this device's KeyPackages was verified, in which incarnation of the server, and when. From its registration
-- on a device knows that there was nothing before.
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    hash BLOB NOT NULL,
    verified_at INTEGER NOT NULL
) STRICT;

CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,
    name TEXT,
    -- The id of the payload that named the group: of two, the one with the greater id holds.
    name_id TEXT,
    -- 0 creating, 1 active, 2 left, 3 needs-rejoin
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    -- The epoch that this device joined at: what is older was not meant for it.
    joined_epoch INTEGER NOT NULL,
    -- 1 until this device has joined the group that the server lists: another device of its user is a member, or this one is said
    -- to be. It stays 1 of one that was declined.
    following INTEGER NOT NULL DEFAULT 0 CHECK (following IN (0, 1)),
    -- The epoch at which the server last delivered a Commit that the group cannot have made. While the group is at it, nothing
    -- that the server says makes this device lose track of the group.
    refused_epoch INTEGER,
    -- The epoch at which the person was last told that what the server delivers of the group does not fit it.
    doubted_epoch INTEGER,
    -- Whether it is to be asked if the server, which was restored, has the group as it is here.
    branch_doubted INTEGER NOT NULL DEFAULT 0 CHECK (branch_doubted IN (0, 1)),
    -- Messages of others up to this row of the history are read; 0 none.
    read_up_to INTEGER NOT NULL DEFAULT 0,
    muted INTEGER NOT NULL DEFAULT 0 CHECK (muted IN (0, 1)),
    -- Whether the server says that this device is not in the group. That ends nothing.
    denied INTEGER NOT NULL DEFAULT 0 CHECK (denied IN (0, 1)),
    -- Counts the groups that this device has left, in their order.
    left_as INTEGER,
    -- Whether this device has left and the server is still to be asked for its leaf there, to be told so: it is not known here.
    leaf_to_ask INTEGER NOT NULL DEFAULT 0 CHECK (leaf_to_ask IN (0, 1)),
    -- Whether the group may be at an earlier epoch than it was here: the server was restored from a backup.
    may_go_back INTEGER NOT NULL DEFAULT 0 CHECK (may_go_back IN (0, 1)),
    -- When a Commit last made this device's leaf, by the server's clock; NULL while it is that of a KeyPackage. What was drawn for
    -- how old it gets, and whether something was encrypted under it.
    leaf_at INTEGER,
    leaf_draw INTEGER CHECK (leaf_draw BETWEEN 0 AND 65535),
    sent_since_leaf INTEGER NOT NULL DEFAULT 0 CHECK (sent_since_leaf IN (0, 1)),
    -- What the user has to accept before anything is sent to the group, or to answer after the group is over, by its form: 0 who has invited the user; 1 the server alone
    -- says that the user is in the group, with these users, between spaces; 2 the same, and with whom is not known.
    request TEXT,
    request_form INTEGER NOT NULL DEFAULT 0 CHECK (request_form BETWEEN 0 AND 2),
    -- Of a group whose state is given up: the users of another one that the server offers in its place, between spaces, where
    -- nothing links the two.
    offered TEXT,
    -- Of a group that the server alone lists, or that is offered, once it is accepted and until it is joined: the users with whom
    -- it was.
    accepted_with TEXT,
    -- Of a group with a `request`: the last row of the history before it came, and the group's name then. What came after it
    -- goes when the person declines, or when the server does not list the group any more that it alone said the user is in; and
    -- nothing else does.
    request_after INTEGER NOT NULL DEFAULT 0,
    name_before TEXT,
    name_id_before TEXT,
    CHECK ((leaf_at IS NULL) = (leaf_draw IS NULL))
) STRICT, WITHOUT ROWID;

-- Groups that the server lists, that nothing explains, and that the person was not asked about yet: the server is to tell who is in
-- them first. Or it is to tell that again of groups that the person was asked about without knowing it.
CREATE TABLE listed (
    group_id BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- How far each group's rows have taken effect here, and how far the server knows. A group that has none begins anywhere.
CREATE TABLE positions (
    group_id BLOB PRIMARY KEY,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    acknowledged INTEGER NOT NULL CHECK (acknowledged >= 0),
    -- The highest `seq` that there ever was: the server may have been told that its rows up to there are stored, so it need not
    -- deliver them once more.
    highest INTEGER NOT NULL,
    -- Rows up to this one may have been seen and are not in `rows_seen` any more.
    forgotten INTEGER NOT NULL DEFAULT 0,
    CHECK (highest >= seq)
) STRICT, WITHOUT ROWID;

-- The server names groups. Of those that this device does not know, it keeps the positions of so many.
CREATE TRIGGER positions_of_unknown_groups_are_bounded AFTER INSERT ON positions
WHEN NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = new.group_id)
BEGIN
    DELETE FROM positions WHERE group_id IN (
        SELECT p.group_id FROM positions p
        WHERE p.group_id <> new.group_id AND NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = p.group_id)
        ORDER BY p.seq > p.acknowledged DESC LIMIT -1 OFFSET 4095);
END;

-- The last rows of each group that carried something, in the order in which they came: what is delivered once more is known by
-- its hash, whatever its number.
CREATE TABLE rows_seen (
    id INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    seq INTEGER NOT NULL CHECK (seq >= 0),
    -- Whether it took effect: otherwise it may yet, under another number.
    effect INTEGER NOT NULL CHECK (effect IN (0, 1)),
    UNIQUE (group_id, sha256)
) STRICT;

CREATE INDEX rows_seen_in_order ON rows_seen (group_id, id);

CREATE TRIGGER rows_of_unknown_groups_go_with_their_position AFTER DELETE ON positions
WHEN NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = old.group_id)
BEGIN
    DELETE FROM rows_seen WHERE group_id = old.group_id;
END;

-- The public state of groups whose MLS state this device has given up, as it was then. Who comes back holds what the server
-- says of the group against it.
CREATE TABLE last_known (
    group_id BLOB PRIMARY KEY,
    state BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The groups that the device which let this one in has vouched for, until they are joined: the GroupInfo (RFC 9420 §12.4.3) of the
-- epoch that each was in then. The signatures are verified.
CREATE TABLE vouchers (
    group_id BLOB PRIMARY KEY,
    epoch INTEGER NOT NULL,
    group_info BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The groups that this device has vouched for to others that it has let in. Those come by themselves.
CREATE TABLE vouched (
    device_id TEXT NOT NULL,
    group_id BLOB NOT NULL,
    PRIMARY KEY (device_id, group_id)
) STRICT, WITHOUT ROWID;

-- Users whom this device has blocked, and those whom it has unblocked, until the server knows.
CREATE TABLE blocks (
    user TEXT PRIMARY KEY,
    blocked INTEGER NOT NULL CHECK (blocked IN (0, 1)),
    told INTEGER NOT NULL CHECK (told IN (0, 1)),
    CHECK (blocked OR NOT told)
) STRICT, WITHOUT ROWID;

-- Why nothing is sent to a group: who is in it, or not in it any more, since this device last knew, without a Commit that shows
-- why. 0 the user, or a device, is new; 1 a device is missing.
CREATE TABLE holds (
    group_id BLOB NOT NULL,
    user TEXT NOT NULL,
    difference INTEGER NOT NULL CHECK (difference IN (0, 1)),
    PRIMARY KEY (group_id, user)
) STRICT, WITHOUT ROWID;

-- The epochs that this device has been in: SHA-256 of each one's GroupContext and confirmation tag (RFC 9420 §8.1, §6.1), and the
-- tag, by which the Commit is known that led there.
CREATE TABLE epochs (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    confirmation_tag BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch)
) STRICT, WITHOUT ROWID;

-- The leaves that this device has seen removed from a group and not come again.
CREATE TABLE removed_leaves (
    group_id BLOB NOT NULL,
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    PRIMARY KEY (group_id, user, device_id, signature_key)
) STRICT, WITHOUT ROWID;

-- The words by which devices of others leave, and whose leaves are still there: as they were signed.
CREATE TABLE departures (
    group_id BLOB NOT NULL,
    departure BLOB NOT NULL,
    PRIMARY KEY (group_id, departure)
) STRICT, WITHOUT ROWID;

-- The requests by which this device has left groups: they go out again where the server has forgotten them.
CREATE TABLE own_departures (
    group_id BLOB NOT NULL,
    request BLOB NOT NULL,
    PRIMARY KEY (group_id, request)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER departures_go_with_their_group AFTER DELETE ON groups BEGIN
    DELETE FROM own_departures WHERE group_id = old.group_id;
END;

-- Who was removed from a group by a Commit that the server has lost: they are to be removed again once this device has
-- rejoined, before anything is said there.
CREATE TABLE lost_removals (
    group_id BLOB NOT NULL,
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    PRIMARY KEY (group_id, user, device_id, signature_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB,
    -- user/device_id from the MLS credential
    sender TEXT,
    message_id TEXT,
    -- 0 text, 1 joined, 2 added, 3 removed, 4 left, 5 notice
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 5),
    text TEXT NOT NULL,
    sent_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    mine INTEGER NOT NULL CHECK (mine IN (0, 1)),
    -- 0 sent, 1 pending, 2 failed, 3 sent, and lost by the server
    status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 3),
    -- The number of this device's own in its group's sequence, once the server has it.
    server_seq INTEGER,
    -- The epoch that this device's own was last encrypted in.
    epoch INTEGER,
    -- A message that arrives twice is stored once.
    UNIQUE (group_id, sender, message_id)
) STRICT;

-- In the order of arrival, because the rowid ends every index.
CREATE INDEX messages_of_group ON messages (group_id);
CREATE INDEX messages_unsent ON messages (status) WHERE status <> 0;
CREATE INDEX messages_by_number ON messages (group_id, server_seq) WHERE server_seq IS NOT NULL;

CREATE TRIGGER history_belongs_to_the_person BEFORE DELETE ON messages
WHEN NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = old.group_id AND g.request IS NOT NULL AND old.row > g.request_after)
BEGIN
    SELECT RAISE(ABORT, 'history belongs to the person');
END;

CREATE TRIGGER a_group_with_a_history_stays BEFORE DELETE ON groups
WHEN EXISTS (SELECT 1 FROM messages m WHERE m.group_id = old.group_id)
BEGIN
    SELECT RAISE(ABORT, 'history belongs to the person');
END;

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

-- What is to be sent, as the exact bytes, in order. The intent says how to make it again at another epoch.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    path TEXT NOT NULL,
    -- Whether it deletes what is there: this device has left. Everything else is posted.
    departs INTEGER NOT NULL CHECK (departs IN (0, 1)),
    idempotency_key TEXT,
    -- Of a message the MLSMessage, which goes with others in one request; of anything else the whole request.
    body BLOB NOT NULL,
    intent BLOB NOT NULL,
    -- Whether it is a Commit, a departure or a new group, rather than a message.
    handshake INTEGER NOT NULL CHECK (handshake IN (0, 1)),
    -- 0 ready to be sent, 1 to be made again at the group's present epoch
    state INTEGER NOT NULL CHECK (state IN (0, 1)),
    attempts INTEGER NOT NULL DEFAULT 0,
    -- The epoch that the server named when it refused the last attempt.
    server_epoch INTEGER,
    -- Whether the server is at odds with this device about the group, so that nothing of it is sent before the next sync.
    set_aside INTEGER NOT NULL DEFAULT 0 CHECK (set_aside IN (0, 1))
) STRICT;

-- Reserve requests without an answer: asked again, they get what was reserved the first time.
CREATE TABLE reserve_attempts (
    group_id BLOB NOT NULL,
    users TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, users)
) STRICT, WITHOUT ROWID;

-- Devices of users, with their signature keys as first seen.
CREATE TABLE peers (
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    first_seen INTEGER NOT NULL,
    -- 0 it was seen in a group, 1 it is one of its user's devices, by the list that the server gives and the signatures in it, 2
    -- it was, and one of its user's devices has removed it, 3 it is in no such list, or without a good signature, 4 it is, and the
    -- server says that it was removed, without a signature that counts.
    standing INTEGER NOT NULL DEFAULT 0 CHECK (standing BETWEEN 0 AND 4),
    -- Whether it is the user's first device, from which the signatures are verified.
    root INTEGER NOT NULL DEFAULT 0 CHECK (root IN (0, 1)),
    -- Which device of the user has let it in, and which ones have removed it, separated by spaces: by signatures
    -- that were verified with the keys in here. From this follows which groups it is taken out of.
    let_in_by TEXT,
    removed_by TEXT,
    PRIMARY KEY (user, device_id),
    CHECK ((standing = 2) = (removed_by IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_root_of_a_user ON peers (user) WHERE root = 1;

CREATE TRIGGER a_root_stays BEFORE UPDATE OF root ON peers WHEN old.root = 1 AND new.root = 0
BEGIN
    SELECT RAISE(ABORT, 'a root stays');
END;

CREATE TRIGGER what_was_verified_stays BEFORE UPDATE OF standing ON peers
    WHEN old.standing IN (1, 2, 4) AND new.standing IN (0, 3)
BEGIN
    SELECT RAISE(ABORT, 'what was verified stays');
END;

-- Of two devices that have removed one another one stays: it comes back once the other one is known to be
-- removed.
CREATE TRIGGER removed_is_for_good BEFORE UPDATE OF standing ON peers WHEN old.standing = 2 AND new.standing <> 2
    AND NOT EXISTS (SELECT 1 FROM peers r WHERE r.user = old.user AND r.standing = 2
        AND r.device_id <> old.device_id AND instr(' ' || old.removed_by || ' ', ' ' || r.device_id || ' ') > 0)
BEGIN
    SELECT RAISE(ABORT, 'removed is for good');
END;

CREATE TRIGGER who_let_it_in_stays BEFORE UPDATE OF let_in_by ON peers
    WHEN old.let_in_by IS NOT NULL AND new.let_in_by IS NOT old.let_in_by
BEGIN
    SELECT RAISE(ABORT, 'who let it in stays');
END;

-- The user of whom the person gives up all that is known, for another list of devices. There is a row only within that
-- transaction.
CREATE TABLE given_up (
    user TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TRIGGER a_peer_stays BEFORE DELETE ON peers WHEN (old.root = 1 OR old.standing = 2)
    AND NOT EXISTS (SELECT 1 FROM given_up g WHERE g.user = old.user)
BEGIN
    SELECT RAISE(ABORT, 'who is known stays known');
END;

-- The users whose lists of devices are to be fetched.
CREATE TABLE device_checks (
    user TEXT PRIMARY KEY,
    -- Whether the last one was not believed. These are fetched after the others.
    distrusted INTEGER NOT NULL DEFAULT 0 CHECK (distrusted IN (0, 1))
) STRICT, WITHOUT ROWID;

-- The devices and keys that a person has compared with those of another user. There is a row for each that the user had then; a
-- user without any is not verified.
CREATE TABLE verified_keys (
    user TEXT NOT NULL,
    device_id TEXT NOT NULL,
    signature_key BLOB NOT NULL,
    verified_at INTEGER NOT NULL,
    PRIMARY KEY (user, device_id)
) STRICT, WITHOUT ROWID;
