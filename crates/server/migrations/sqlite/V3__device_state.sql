-- The mark of the device's last request that was carried out. A device that does not know it was restored from an older
-- copy. NULL until a device uses marks.
ALTER TABLE devices ADD COLUMN state_mark BLOB;
