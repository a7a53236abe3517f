-- What is known of a device beside its key: 0 it was seen in a group, 1 it is one of its user's devices, by the list that the
-- server gives and the signatures in it, 2 it was, and is removed, 3 it is in no such list, or without a good signature.
ALTER TABLE peers ADD COLUMN standing INTEGER NOT NULL DEFAULT 0 CHECK (standing BETWEEN 0 AND 3);
-- Whether it is the user's first device, from which the signatures are verified.
ALTER TABLE peers ADD COLUMN root INTEGER NOT NULL DEFAULT 0 CHECK (root IN (0, 1));

-- The users whose lists of devices are to be fetched.
CREATE TABLE device_checks (
    user TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- 1 until this device has joined the group because another one of its user is a member.
ALTER TABLE groups ADD COLUMN following INTEGER NOT NULL DEFAULT 0 CHECK (following IN (0, 1));
