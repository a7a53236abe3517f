-- The groups that were joined with a last resort whose private keys are still kept, with the latest epoch of such a
-- Welcome: an older Welcome is a replay.
CREATE TABLE keypackage_pool_last_resort_joins (
    sequence   INTEGER NOT NULL REFERENCES keypackage_pool_last_resorts (sequence),
    group_id   BLOB    NOT NULL,
    epoch      INTEGER NOT NULL,
    joined_at  INTEGER NOT NULL,
    PRIMARY KEY (sequence, group_id)
) STRICT, WITHOUT ROWID;
