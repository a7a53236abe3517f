-- Of a group with a `request`: the last row of the history before the invitation came, and the group's name then. What came after
-- it goes with the invitation when that is declined or withdrawn, and nothing else does.
ALTER TABLE groups ADD COLUMN request_after INTEGER NOT NULL DEFAULT 0;
ALTER TABLE groups ADD COLUMN name_before TEXT;
ALTER TABLE groups ADD COLUMN name_id_before TEXT;

-- A request from before these columns began with the last row that says that the group was joined.
UPDATE groups SET request_after = coalesce(
    (SELECT max(m.row) - 1 FROM messages m WHERE m.group_id = groups.group_id AND m.kind = 1), 0)
    WHERE request IS NOT NULL;

CREATE TRIGGER history_belongs_to_the_person BEFORE DELETE ON messages
WHEN NOT EXISTS (SELECT 1 FROM groups g WHERE g.group_id = old.group_id AND g.request IS NOT NULL AND old.row > g.request_after)
BEGIN
    SELECT RAISE(ABORT, 'history belongs to the person');
END;

CREATE TRIGGER a_group_with_a_history_stays BEFORE DELETE ON groups
WHEN EXISTS (SELECT 1 FROM messages m WHERE m.group_id = old.group_id)
BEGIN
    SELECT RAISE(ABORT, 'history belongs to the person');
END;
