//! What the table refuses, whatever the code above it does.

use larder_lifecycle::{Kind, Lifetime, PoolState, UnixSeconds};
use openmls::prelude::GroupId;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{Metadata, all, can_be, columns_of, delete, find, insert, kind_of, state_of, write_state};
use crate::error::{Corrupt, StoreError};
use crate::generation::Generation;
use crate::key_package_ref::key_package_ref_from_slice;
use crate::store::LocalStore;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const KINDS: [Kind; 2] = [Kind::SingleUse, Kind::LastResort];
const STATES: [PoolState; 10] = [
    PoolState::Created,
    PoolState::Available,
    PoolState::Reserved,
    PoolState::Retiring { until: NOW },
    PoolState::Lost,
    PoolState::Spent,
    PoolState::Lapsed,
    PoolState::Expired,
    PoolState::Revoked,
    PoolState::Gone,
];

/// A store with one generation.
fn store() -> (TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = LocalStore::open(&directory.path().join("device.sqlite")).unwrap();
    let sql = "INSERT INTO keypackage_pool_generations (generation, suite) VALUES (1, 1)";
    store.connection_mut().execute(sql, []).unwrap();
    (directory, store)
}

/// A row that fits, of whichever kind and state.
fn row(number: u8, kind: Kind, state: PoolState) -> Metadata {
    let lifetime = Lifetime {
        not_before: NOW.minus(60),
        not_after: NOW.plus(60),
    };
    let key_package_ref = key_package_ref_from_slice(&[number; 32]).unwrap();
    Metadata {
        state,
        ended_at: (!state.is_live()).then_some(NOW),
        spent_group_id: (state == PoolState::Spent).then(|| GroupId::from_slice(b"group")),
        ..Metadata::created(key_package_ref, kind, Generation(1), NOW, lifetime)
    }
}

/// Every kind with every state that it can be in.
fn rows() -> Vec<Metadata> {
    let pairs = KINDS
        .into_iter()
        .flat_map(|kind| STATES.map(|state| (kind, state)));
    (1..)
        .zip(pairs.filter(|(kind, state)| can_be(*kind, *state)))
        .map(|(number, (kind, state))| row(number, kind, state))
        .collect()
}

fn with_every_row() -> (TempDir, LocalStore) {
    let (directory, mut store) = store();
    for row in rows() {
        insert(store.connection_mut(), &row).unwrap();
    }
    (directory, store)
}

/// Whether this SQL is refused for these rows, all of which are there.
fn is_refused(connection: &Connection, sql: &str, rows: &str) -> bool {
    let count = format!("SELECT count(*) FROM keypackage_pool_metadata WHERE {rows}");
    let found: i64 = connection.query_row(&count, [], |row| row.get(0)).unwrap();
    assert!(found > 0, "{rows}");
    connection.execute(&format!("{sql} WHERE {rows}"), []).is_err()
}

#[test]
fn every_state_has_its_own_integer_and_no_other_integer_is_a_state() {
    for kind in KINDS {
        for state in STATES {
            let (status, retires_at) = columns_of(state);
            let retires_at = retires_at.map(|_| NOW);
            let expected = can_be(kind, state).then_some(state).ok_or(Corrupt::Kind);
            assert_eq!(state_of(kind, status, retires_at), expected);
            let other = retires_at.xor(Some(NOW));
            assert_eq!(state_of(kind, status, other), Err(Corrupt::End));
        }
        for status in [i64::MIN, -1, 0, 11, i64::MAX] {
            let unknown = Err(Corrupt::UnknownStatus(status));
            assert_eq!(state_of(kind, status, None), unknown);
        }
    }
    assert_eq!(
        (kind_of(0), kind_of(1)),
        (Ok(Kind::SingleUse), Ok(Kind::LastResort))
    );
    assert_eq!(kind_of(2), Err(Corrupt::UnknownKind(2)));
}

#[test]
fn what_is_written_is_read_and_last_resorts_come_first() {
    let (_directory, mut store) = with_every_row();
    let connection = store.connection_mut();
    let mut expected = rows();
    expected.sort_by_key(|row| std::cmp::Reverse(row.kind));
    assert_eq!(all(connection).unwrap(), expected);
    for row in &expected {
        assert_eq!(
            find(connection, &row.key_package_ref).unwrap().as_ref(),
            Some(row)
        );
    }
}

#[test]
fn no_kind_enters_a_state_of_the_other() {
    let (_directory, mut store) = store();
    let connection = store.connection_mut();
    let mut refused = 0;
    for (kind, state) in KINDS
        .into_iter()
        .flat_map(|kind| STATES.map(|state| (kind, state)))
    {
        let row = row(1, kind, PoolState::Created);
        let next = self::row(1, kind, state);
        let moved = connection.transaction().map_err(StoreError::from).and_then(|tx| {
            insert(&tx, &row)?;
            write_state(&tx, &row, &next)
        });
        assert_eq!(moved.is_ok(), can_be(kind, state), "{kind:?}, {state:?}");
        refused += u32::from(moved.is_err());
    }
    assert_eq!(refused, 4);
}

#[test]
fn a_terminal_row_never_moves() {
    let (_directory, mut store) = with_every_row();
    let connection = store.connection_mut();
    let revived = "UPDATE keypackage_pool_metadata SET status = 2, ended_at = NULL, spent_group_id = NULL";
    let revoked = "UPDATE keypackage_pool_metadata SET status = 9, spent_group_id = NULL";
    for status in 6..=10 {
        let rows = format!("status = {status}");
        assert!(is_refused(connection, revived, &rows));
        assert!(status == 9 || is_refused(connection, revoked, &rows));
    }
    for row in rows().into_iter().filter(|row| !row.state.is_live()) {
        let next = Metadata {
            state: PoolState::Available,
            ended_at: None,
            spent_group_id: None,
            ..row.clone()
        };
        assert!(write_state(connection, &row, &next).is_err());
        delete(connection, &row).unwrap();
    }
}

#[test]
fn a_live_row_is_never_dropped() {
    let (_directory, mut store) = with_every_row();
    let connection = store.connection_mut();
    for row in rows().into_iter().filter(|row| row.state.is_live()) {
        assert!(delete(connection, &row).is_err(), "{:?}", row.state);
    }
}

#[test]
fn the_table_holds_what_each_state_and_kind_has() {
    let (_directory, mut store) = with_every_row();
    let connection = store.connection_mut();
    for (assignments, rows) in [
        ("retires_at = NULL", "status = 4"),
        ("retires_at = 7", "status = 2 AND kind = 1"),
        ("ended_at = NULL", "status = 8"),
        ("ended_at = 7", "status = 2"),
        ("spent_group_id = NULL", "status = 6"),
        ("spent_group_id = x'00'", "status = 2"),
        ("status = 4, retires_at = 7", "status = 2 AND kind = 0"),
        ("status = 10, ended_at = 7", "status = 2 AND kind = 0"),
        ("status = 3", "status = 2 AND kind = 1"),
        (
            "status = 6, ended_at = 7, spent_group_id = x'00'",
            "status = 2 AND kind = 1",
        ),
        ("kind = 1, sequence = 99", "status = 2 AND kind = 0"),
        ("kind = 0, sequence = NULL", "status = 2 AND kind = 1"),
        ("kind = 2", "status = 2"),
        ("status = 11, ended_at = 7", "status = 2"),
        ("status = 0", "status = 2"),
        ("used_at = 7", "status = 2 AND kind = 0"),
        ("reservation_expires_at = 7", "status = 2 AND kind = 1"),
        ("sequence = NULL", "status = 2 AND kind = 1"),
        ("sequence = 7", "status = 2 AND kind = 0"),
        ("sequence = 1", "kind = 1 AND sequence = 2"),
        ("generation = 9", "status = 2"),
    ] {
        let sql = format!("UPDATE keypackage_pool_metadata SET {assignments}");
        assert!(is_refused(connection, &sql, rows), "{assignments} where {rows}");
    }
    // So that a mistake in the SQL would show.
    let sql = "UPDATE keypackage_pool_metadata SET status = 3, reservation_expires_at = 7";
    assert!(!is_refused(connection, sql, "status = 2 AND kind = 0"));
}

#[test]
fn a_row_that_has_changed_since_it_was_read_is_not_written() {
    let (_directory, mut store) = store();
    let connection = store.connection_mut();
    let until = |until| PoolState::Retiring {
        until: UnixSeconds(until),
    };
    let single_use = row(1, Kind::SingleUse, PoolState::Created);
    let last_resort = row(2, Kind::LastResort, until(7));
    for (read, changed, wanted) in [
        (
            &single_use,
            row(1, Kind::SingleUse, PoolState::Available),
            row(1, Kind::SingleUse, PoolState::Revoked),
        ),
        (
            &single_use,
            Metadata {
                uploaded_at: Some(NOW),
                ..single_use.clone()
            },
            row(1, Kind::SingleUse, PoolState::Available),
        ),
        (
            &last_resort,
            row(2, Kind::LastResort, until(8)),
            row(2, Kind::LastResort, PoolState::Gone),
        ),
        (
            &last_resort,
            Metadata {
                used_at: Some(NOW),
                ..last_resort.clone()
            },
            row(2, Kind::LastResort, PoolState::Gone),
        ),
    ] {
        let tx = connection.transaction().unwrap();
        insert(&tx, read).unwrap();
        write_state(&tx, read, &changed).unwrap();
        let stale = write_state(&tx, read, &wanted);
        assert!(
            matches!(
                stale,
                Err(StoreError::Sqlite(rusqlite::Error::StatementChangedRows(0)))
            ),
            "{stale:?}"
        );
        assert_eq!(find(&tx, &read.key_package_ref).unwrap().as_ref(), Some(&changed));
        write_state(&tx, &changed, &wanted).unwrap();
    }
}

#[test]
fn last_resorts_are_in_the_order_of_their_minting_whatever_the_clock_says() {
    let (_directory, mut store) = store();
    let connection = store.connection_mut();
    let minted = |number, created_at| Metadata {
        created_at: UnixSeconds(created_at),
        ..row(number, Kind::LastResort, PoolState::Created)
    };
    let order = [minted(3, 50), minted(1, 50), minted(2, 10)];
    for row in &order {
        insert(connection, row).unwrap();
    }
    assert_eq!(all(connection).unwrap(), order);
    // Neither does a tombstone that was forgotten.
    let newest = Metadata {
        ended_at: Some(NOW),
        state: PoolState::Revoked,
        ..order[2].clone()
    };
    write_state(connection, &order[2], &newest).unwrap();
    delete(connection, &newest).unwrap();
    insert(connection, &minted(0, 5)).unwrap();
    let refs: Vec<_> = all(connection)
        .unwrap()
        .into_iter()
        .map(|row| row.key_package_ref.as_slice()[0])
        .collect();
    assert_eq!(refs, [3, 1, 0]);
}
