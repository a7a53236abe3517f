-- The beginning of a lifetime: what is not valid yet is not counted. Before this column existed it was an hour before the
-- KeyPackage was minted.
ALTER TABLE keypackage_pool_metadata ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
UPDATE keypackage_pool_metadata SET not_before = max(created_at - 3600, 0);
ALTER TABLE keypackage_pool_last_resorts ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
UPDATE keypackage_pool_last_resorts SET not_before = max(created_at - 3600, 0);

-- Whether the directory, which held it, does not name it any more. It has the status of what is kept for an invitation
-- that may be under way: reserved, or retiring to its end.
ALTER TABLE keypackage_pool_metadata ADD COLUMN lost INTEGER NOT NULL DEFAULT 0
    CHECK (lost = 0 OR (lost = 1 AND status = 3));
ALTER TABLE keypackage_pool_last_resorts ADD COLUMN lost INTEGER NOT NULL DEFAULT 0
    CHECK (lost = 0 OR (lost = 1 AND status = 10));

-- How many of a generation were lost and not replaced yet, and when some were replaced the last time.
ALTER TABLE keypackage_pool_generations ADD COLUMN owed INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0);
ALTER TABLE keypackage_pool_generations ADD COLUMN last_resorts_owed INTEGER NOT NULL DEFAULT 0
    CHECK (last_resorts_owed >= 0);
ALTER TABLE keypackage_pool_generations ADD COLUMN replaced_at INTEGER;
