-- From when on a KeyPackage is valid, and its second public key: that of its leaf.

ALTER TABLE key_packages ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
ALTER TABLE key_packages ADD COLUMN encryption_key_hash BYTEA;
ALTER TABLE last_resorts ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
ALTER TABLE last_resorts ADD COLUMN encryption_key_hash BYTEA;

DROP INDEX key_packages_available;
CREATE INDEX key_packages_available ON key_packages (device_id, suite, not_after, not_before) WHERE status = 0;

-- A public key is that of one KeyPackage, whichever kind it is, as its init key or as its leaf's encryption key, tombstones
-- included: a Commit that adds two leaves with one key is refused, and so is one that adds a key which the tree has.
-- Triggers keep the rows, and let no KeyPackage be stored without both.
CREATE TABLE key_package_keys (
    hash BYTEA PRIMARY KEY
);
INSERT INTO key_package_keys SELECT init_key_hash FROM key_packages UNION SELECT init_key_hash FROM last_resorts;

CREATE FUNCTION key_packages_have_keys_of_their_own() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO key_package_keys VALUES (NEW.init_key_hash), (NEW.encryption_key_hash);
    RETURN NULL;
END
$$;
CREATE TRIGGER key_packages_have_keys_of_their_own AFTER INSERT ON key_packages
    FOR EACH ROW EXECUTE FUNCTION key_packages_have_keys_of_their_own();
CREATE TRIGGER last_resorts_have_keys_of_their_own AFTER INSERT ON last_resorts
    FOR EACH ROW EXECUTE FUNCTION key_packages_have_keys_of_their_own();

CREATE FUNCTION keys_are_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM key_package_keys WHERE hash IN (OLD.init_key_hash, OLD.encryption_key_hash);
    RETURN NULL;
END
$$;
CREATE TRIGGER keys_are_forgotten_with_a_key_package AFTER DELETE ON key_packages
    FOR EACH ROW EXECUTE FUNCTION keys_are_forgotten();
CREATE TRIGGER keys_are_forgotten_with_a_last_resort AFTER DELETE ON last_resorts
    FOR EACH ROW EXECUTE FUNCTION keys_are_forgotten();
