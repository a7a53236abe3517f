-- The marks of requests that changed something on the server, or may have: the last one known to have been carried out, and
-- those after it. A mark is in here before its request leaves.
CREATE TABLE state_marks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mark BLOB NOT NULL UNIQUE
) STRICT;

-- 0 the state is this device's last one; 1 it is an older copy, and nothing is sent; 2 the server has been told, and what
-- follows is under way.
ALTER TABLE profile ADD COLUMN restoring INTEGER NOT NULL DEFAULT 0 CHECK (restoring BETWEEN 0 AND 2);
-- When a copy was last brought up to date.
ALTER TABLE profile ADD COLUMN restored_at INTEGER;
