-- Messages of others up to this row are read; 0 none. For what concerns no group, the profile's `read_up_to` says so.
ALTER TABLE groups ADD COLUMN read_up_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE groups ADD COLUMN muted INTEGER NOT NULL DEFAULT 0 CHECK (muted IN (0, 1));
-- The id of the payload that named the group: of two, the one with the greater id holds.
ALTER TABLE groups ADD COLUMN name_id TEXT;
-- Who invited this user to the group, until the user has accepted.
ALTER TABLE groups ADD COLUMN request TEXT;

-- In the order of arrival, because the rowid ends every index.
CREATE INDEX messages_of_group ON messages (group_id);
CREATE INDEX messages_unsent ON messages (status) WHERE status <> 0;

UPDATE groups SET read_up_to = coalesce(
    (SELECT max(m.row) FROM messages m, profile p WHERE m.group_id = groups.group_id AND m.row <= p.read_up_to), 0);
