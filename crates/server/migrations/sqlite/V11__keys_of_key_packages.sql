-- From when on a KeyPackage is valid, and its second public key: that of its leaf.

ALTER TABLE key_packages ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key_packages ADD COLUMN encryption_key_hash BLOB;
ALTER TABLE last_resorts ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE last_resorts ADD COLUMN encryption_key_hash BLOB;

DROP INDEX key_packages_available;
CREATE INDEX key_packages_available ON key_packages (device_id, suite, not_after, not_before) WHERE status = 0;

-- A public key is that of one KeyPackage, whichever kind it is, as its init key or as its leaf's encryption key, tombstones
-- included: a Commit that adds two leaves with one key is refused, and so is one that adds a key which the tree has.
-- Triggers keep the rows, and let no KeyPackage be stored without both.
CREATE TABLE key_package_keys (
    hash BLOB PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO key_package_keys SELECT init_key_hash FROM key_packages UNION SELECT init_key_hash FROM last_resorts;

CREATE TRIGGER key_packages_have_keys_of_their_own AFTER INSERT ON key_packages
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
END;

CREATE TRIGGER last_resorts_have_keys_of_their_own AFTER INSERT ON last_resorts
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
END;

CREATE TRIGGER keys_are_forgotten_with_a_key_package AFTER DELETE ON key_packages
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
END;

CREATE TRIGGER keys_are_forgotten_with_a_last_resort AFTER DELETE ON last_resorts
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
END;
