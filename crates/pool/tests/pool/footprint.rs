//! What the pool's metadata takes on disk, and what a mint costs in commits.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{self, Device};
use larder_pool::openmls::prelude::OpenMlsRand as _;
use larder_pool::rusqlite::{Connection, params};

const ROWS: u32 = 100_000;
/// As long as the group ids of OpenMLS and of the other libraries, or longer.
const GROUP_ID_BYTES: usize = 32;

/// Bytes of all pages of the table and of its indexes, free space in them included.
fn bytes_on_disk(connection: &Connection, table: &str) -> i64 {
    connection
        .query_row(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?1)",
            [table],
            |row| row.get(0),
        )
        .unwrap()
}

fn bytes_per_row(connection: &Connection) -> f64 {
    let rows: i64 = connection
        .query_row("SELECT count(*) FROM keypackage_pool_metadata", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(rows, i64::from(ROWS));
    let bytes = bytes_on_disk(connection, "keypackage_pool_metadata")
        + bytes_on_disk(connection, "keypackage_pool_generations");
    bytes as f64 / f64::from(ROWS)
}

/// A hundred thousand rows, written as a pool writes them: one after the other in the order of their making, which is
/// none for a hash, and again when they become available.
fn stock(device: &mut Device) -> Vec<Vec<u8>> {
    let now = i64::try_from(device.now.0).unwrap();
    let random = support::crypto();
    let connection = device.store.connection_mut();
    let transaction = connection.transaction().unwrap();
    transaction
        .execute(
            "INSERT INTO keypackage_pool_generations (suite, signature_key_hash, credential_hash, capabilities_hash)
             VALUES (1, randomblob(32), randomblob(32), randomblob(32))",
            [],
        )
        .unwrap();
    let generation = transaction.last_insert_rowid();
    let mut refs = Vec::new();
    {
        let mut insert = transaction
            .prepare(
                "INSERT INTO keypackage_pool_metadata
                     (key_package_ref, kind, status, generation, created_at, not_before, not_after)
                 VALUES (?1, 0, 1, ?2, ?3, ?3 - 90000, ?4)",
            )
            .unwrap();
        for row in 0..i64::from(ROWS) {
            let hash: [u8; 32] = random.random_array().unwrap();
            let key_package_ref = [&[32][..], &hash].concat();
            insert
                .execute(params![
                    key_package_ref,
                    generation,
                    now + row,
                    now + row + 5_000_000
                ])
                .unwrap();
            refs.push(key_package_ref);
        }
    }
    update_each(&transaction, &refs, "status = 2, uploaded_at = created_at + 1");
    transaction.commit().unwrap();
    refs
}

fn update_each(connection: &Connection, refs: &[Vec<u8>], assignments: &str) {
    let sql = format!("UPDATE keypackage_pool_metadata SET {assignments} WHERE key_package_ref = ?1");
    let mut update = connection.prepare(&sql).unwrap();
    for key_package_ref in refs {
        assert_eq!(update.execute([key_package_ref]).unwrap(), 1);
    }
}

#[test]
fn metadata_takes_at_most_120_bytes_per_available_and_210_per_spent_key_package() {
    let mut device = Device::new("alice/phone");
    let refs = stock(&mut device);
    let connection = device.store.connection_mut();
    let available = bytes_per_row(connection);

    let transaction = connection.transaction().unwrap();
    let spent = format!(
        "status = 6, reservation_expires_at = created_at + 2, ended_at = created_at + 3,
         spent_group_id = randomblob({GROUP_ID_BYTES})"
    );
    update_each(&transaction, &refs, &spent);
    transaction.commit().unwrap();
    let spent = bytes_per_row(connection);
    println!("bytes on disk for each KeyPackage: available {available:.1}, spent {spent:.1}");
    assert!(
        (60.0..=120.0).contains(&available),
        "{available} bytes for each available KeyPackage"
    );
    assert!(
        (90.0..=210.0).contains(&spent),
        "{spent} bytes for each spent KeyPackage"
    );
}

/// The frames in the log, and how many of them end a commit: those whose header has the size of the database after it.
fn commits_in_the_log(log: &[u8]) -> (usize, usize) {
    const HEADER_BYTES: usize = 32;
    const FRAME_HEADER_BYTES: usize = 24;
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let page_bytes = number(8) as usize;
    let salts = &log[16..24];
    let frames: Vec<usize> = (HEADER_BYTES..log.len())
        .step_by(FRAME_HEADER_BYTES + page_bytes)
        .filter(|&frame| &log[frame + 8..frame + 16] == salts)
        .collect();
    let commits = frames.iter().filter(|&&frame| number(frame + 4) != 0).count();
    (frames.len(), commits)
}

#[test]
fn a_mint_of_32_is_one_write_transaction_and_one_synchronised_commit() {
    let mut device = Device::new("alice/phone");
    device.mint(1);
    assert!(device.store.scrub().unwrap(), "the log is empty");
    let commits = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&commits);
    let connection = device.store.connection_mut();
    connection.commit_hook(Some(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        false
    }));
    // FULL: with a write-ahead log, SQLite synchronises it once for each commit, and for nothing else.
    let synchronous: i64 = connection
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .unwrap();
    assert_eq!(synchronous, 2);

    device.mint(32);
    assert_eq!(commits.load(Ordering::SeqCst), 1);
    let log = fs::read(device.directory.path().join("device.sqlite-wal")).unwrap();
    let (frames, commits) = commits_in_the_log(&log);
    assert_eq!(commits, 1);
    assert!(frames > 10, "{frames} pages went through the log");
    device.mint(1);
    let log = fs::read(device.directory.path().join("device.sqlite-wal")).unwrap();
    assert_eq!(commits_in_the_log(&log).1, 2, "the log counts");
}
