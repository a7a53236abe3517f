-- Who linked a device, and that device's signature; NULL for the first device of a user. Each device was linked by one
-- with a smaller id.
ALTER TABLE devices ADD COLUMN authorized_by INTEGER REFERENCES devices (id);
ALTER TABLE devices ADD COLUMN link_signature BLOB;
-- A removed device stays, without anything that it could use: its names are not given to another, and what it authorized
-- can still be verified.
ALTER TABLE devices ADD COLUMN removed_at INTEGER;

CREATE INDEX sessions_by_device ON sessions (device_id);
