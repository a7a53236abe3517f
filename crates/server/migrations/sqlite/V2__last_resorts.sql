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
