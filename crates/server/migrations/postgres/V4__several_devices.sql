-- Who linked a device, and that device's signature; NULL for the first device of a user. Each device was linked by one
-- with a smaller id.
ALTER TABLE devices ADD COLUMN authorized_by BIGINT REFERENCES devices (id);
ALTER TABLE devices ADD COLUMN link_signature BYTEA;
-- A removed device stays, without anything that it could use: its names are not given to another, and what it authorized
-- can still be verified.
ALTER TABLE devices ADD COLUMN removed_at BIGINT;

CREATE INDEX sessions_by_device ON sessions (device_id);
