//! An older pool's file, migrated by its owner.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::{World, contains, parse};

const KEY: &[u8] = b"\x9a\x01\xc3\x52\xee\x17\x08\xb4\x6d\x2f\x90\xa7\x3c\xd5\xf1\x44";

/// Bundles that OpenMLS has and the pool does not, as an application has them that never had a pool.
fn forget_metadata(profile: &Path, count: usize) -> Vec<Vec<u8>> {
    let database = Connection::open(profile.join("larder.db")).unwrap();
    let trigger: String = database
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'keypackage_pool_metadata_live_rows_stay'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let refs: Vec<Vec<u8>> = database
        .prepare("SELECT key_package_ref FROM keypackage_pool_metadata WHERE kind = 0 LIMIT ?1")
        .unwrap()
        .query_map([count], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    database
        .execute_batch("DROP TRIGGER keypackage_pool_metadata_live_rows_stay")
        .unwrap();
    for key_package_ref in &refs {
        database
            .execute(
                "DELETE FROM keypackage_pool_metadata WHERE key_package_ref = ?1",
                [key_package_ref],
            )
            .unwrap();
    }
    database.execute_batch(&trigger).unwrap();
    refs
}

/// An older pool with three KeyPackages of this profile, one that was joined with, and one of an unknown status.
fn older_pool(world: &World) -> PathBuf {
    let mut refs = forget_metadata(&world.profile("alice"), 3);
    refs.extend([vec![6; 32], vec![7; 32]]);
    let path = world.path("metadata.db");
    let older = Connection::open(&path).unwrap();
    older
        .execute_batch(
            "CREATE TABLE keypackages (keypackage_ref BLOB PRIMARY KEY, keypackage_bytes BLOB NOT NULL,
                 private_init_key BLOB NOT NULL, private_encryption_key BLOB NOT NULL, status TEXT NOT NULL,
                 created_at INTEGER NOT NULL, not_after INTEGER NOT NULL)",
        )
        .unwrap();
    let statuses = ["created", "available", "reserved", "spent", "on hold"];
    for (at, (key_package_ref, status)) in refs.iter().zip(statuses).enumerate() {
        let key = |which: u8| [&[which, at as u8][..], KEY, KEY].concat();
        older
            .execute(
                "INSERT INTO keypackages VALUES (?1, x'00', ?2, ?3, ?4, 1700000000, 1900000000)",
                (key_package_ref, key(1), key(2), status),
            )
            .unwrap();
    }
    path
}

#[test]
fn an_older_pool_is_looked_at_first_and_migrated_then() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let file = older_pool(&world);
    let from = file.to_str().unwrap();
    let bytes = || std::fs::read(&file).unwrap();
    let before = bytes();
    assert!(contains(&before, KEY));

    let left = format!("left: {}  unknown status on hold", "07".repeat(32));
    assert_eq!(
        world.ok("alice", &["pool", "migrate-legacy", "--from", from]),
        format!(
            "5 rows: 1 created, 1 available, 1 reserved, 1 spent to take over, 1 left; private keys to erase from 5 rows\n\
             {left}\nnothing was changed; --apply does it\n"
        )
    );
    let refused = world.run("bob", &["pool", "migrate-legacy", "--from", from, "--apply"]);
    assert_eq!(refused.code, 3);
    assert_eq!(
        refused.err,
        "larder: none of the 3 live KeyPackages of that file is in this store; is it another account's?\n"
    );
    assert_eq!(bytes(), before);

    assert_eq!(
        world.ok("alice", &["pool", "migrate-legacy", "--from", from, "--apply"]),
        format!(
            "5 rows: 1 created, 1 available, 1 reserved, 1 spent taken over, 1 left; private keys erased from 5 rows, \
             and none of them is in the file any more\n{left}\n"
        )
    );
    assert!(!contains(&bytes(), KEY));
    let again = world
        .json("alice", &["pool", "migrate-legacy", "--from", from, "--apply"])
        .remove(0);
    assert_eq!(again["type"], "legacy_migration");
    assert_eq!(
        (&again["present"], &again["available"], &again["erased"]),
        (&4.into(), &0.into(), &true.into())
    );
    assert_eq!(again["left"][0]["code"], "unknown-status");

    // The directory knows these KeyPackages, and the pool agrees with it.
    world.ok("alice", &["pool", "refresh"]);
    world.ok("bob", &["group", "create", "room"]);
    world.ok("bob", &["invite", "room", "alice"]);
    world.ok("alice", &["recv"]);
    assert!(world.ok("alice", &["groups"]).contains("#room"));
}

#[test]
fn a_file_that_is_no_older_pool_is_refused() {
    let world = World::new();
    world.register(&["alice"]);
    let nowhere = world.path("nowhere.db");
    let arguments = [
        "--json",
        "pool",
        "migrate-legacy",
        "--from",
        nowhere.to_str().unwrap(),
    ];
    let ended = world.run("alice", &arguments);
    assert_eq!(ended.code, 3);
    assert_eq!(parse(&ended.out)["error"]["code"], "not-a-legacy-pool");
    assert!(!nowhere.exists());
    assert_eq!(world.run("alice", &["pool", "migrate-legacy"]).code, 2);
}
