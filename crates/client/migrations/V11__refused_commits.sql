-- The epoch at which the server last delivered a Commit that the group cannot have made. While the group is at it, nothing that
-- the server says makes this device lose track of the group.
ALTER TABLE groups ADD COLUMN refused_epoch INTEGER;
