-- Who asked for how much of whom, and who does not want to be asked.

-- How often a user was handed KeyPackages of a device, and how often anybody was: when all that happened so far is
-- forgotten. A row whose time has come says nothing any more.
CREATE TABLE pair_rates (
    user_id INTEGER NOT NULL REFERENCES users (id),
    device_id INTEGER NOT NULL REFERENCES devices (id),
    forgotten_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
CREATE INDEX pair_rates_to_forget ON pair_rates (forgotten_at);

CREATE TABLE target_rates (
    device_id INTEGER PRIMARY KEY REFERENCES devices (id),
    forgotten_at INTEGER NOT NULL
);
CREATE INDEX target_rates_to_forget ON target_rates (forgotten_at);

-- By name: one that nobody has yet can be blocked like any other.
CREATE TABLE blocks (
    user_id INTEGER NOT NULL REFERENCES users (id),
    blocked TEXT NOT NULL,
    PRIMARY KEY (user_id, blocked)
) WITHOUT ROWID;

-- What a user holds, or held until not long ago without using it.
CREATE INDEX key_packages_held ON key_packages (holder, reserved_until) WHERE status IN (1, 3);
CREATE INDEX last_resort_reservations_held ON last_resort_reservations (holder, reserved_until);
