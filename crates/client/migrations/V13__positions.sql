-- How far each group's rows have taken effect here, and how far the server knows. A group that has none begins anywhere.
CREATE TABLE positions (
    group_id BLOB PRIMARY KEY,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    acknowledged INTEGER NOT NULL CHECK (acknowledged >= 0)
) STRICT, WITHOUT ROWID;

ALTER TABLE profile DROP COLUMN inbox_cursor;
