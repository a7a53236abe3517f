-- The server's time less this computer's, in seconds, as it was measured last; and what the person was told of it: 0 nothing,
-- 1 that this computer's clock is off, 2 that it is off too far to go on.
ALTER TABLE profile ADD COLUMN clock_offset_seconds INTEGER;
ALTER TABLE profile ADD COLUMN clock_told INTEGER NOT NULL DEFAULT 0;
