-- Inbox rows up to this one were dropped although the device had not acknowledged them: they had waited for too long, or
-- were too many.
ALTER TABLE devices ADD COLUMN inbox_dropped INTEGER NOT NULL DEFAULT 0;
