//! One statement for many rows is the same as one for each, in their order.

use larder_lifecycle::DirectoryEvent;
use larder_wire::{AuditTransition, KeyPackageRef};

use super::harness::{
    NOW, Opened, ad_hoc, change_of, disclosure, group, post, reference, start_group, with_key_package,
};
use crate::error::{Fault, ServiceError};
use crate::store::statement::{Param, params, row_params};
use crate::store::{
    DeviceKey, LogKind, MailKind, NewKeyPackage, NewRow, ReservationId, StateChange, Tx, UserKey,
};

on_both_engines! {
    many_rows_are_inserted_in_their_order;
    one_bad_row_of_many_fails_the_transaction;
    many_changes_fail_when_one_row_has_moved;
    nobody_changes_anything_without_rows;
}

/// A table that numbers its rows as they come.
async fn numbered(opened: &Opened) {
    let columns = "a BIGINT, b TEXT, c BYTEA UNIQUE";
    opened
        .batch(
            &format!("CREATE TABLE numbered (id INTEGER PRIMARY KEY, {columns})"),
            &format!("CREATE TABLE numbered (id BIGINT GENERATED ALWAYS AS IDENTITY, {columns})"),
        )
        .await;
}

fn insert(tx: &Tx<'_>, rows: &[[Param<'_>; 3]]) -> Result<(), Fault> {
    ad_hoc(|| tx.queue_each("INSERT INTO numbered (a, b, c) VALUES (?1 + 1, ?2, ?3)", rows))
}

async fn many_rows_are_inserted_in_their_order(opened: Opened) {
    numbered(&opened).await;
    type Numbered = (Option<i64>, Option<String>, Option<Vec<u8>>);
    let found: Vec<Numbered> = opened
        .store
        .write(|tx| {
            let (bytes, none): (&[u8], Option<&[u8]>) = (b"\x00\xff", None);
            insert(
                tx,
                &[
                    row_params![7_i64, "{\"a\", NULL}", bytes],
                    row_params![None::<i64>, None::<&str>, none],
                    row_params![-9_i64, "", b"".as_slice()],
                ],
            )?;
            let found = ad_hoc(|| {
                tx.rows("SELECT a, b, c FROM numbered ORDER BY id", params![], |row| {
                    Ok((row.optional(0)?, row.optional(1)?, row.optional(2)?))
                })
            });
            Ok(found?)
        })
        .await
        .unwrap();
    let expected = [
        (
            Some(8),
            Some("{\"a\", NULL}".to_owned()),
            Some(b"\x00\xff".to_vec()),
        ),
        (None, None, None),
        (Some(-8), Some(String::new()), Some(Vec::new())),
    ];
    assert_eq!(found, expected);
}

async fn one_bad_row_of_many_fails_the_transaction(opened: Opened) {
    numbered(&opened).await;
    let alice = opened.register("alice", 1).await.key;
    let written = opened
        .store
        .write(move |tx| {
            post(tx, alice)?;
            let twice: &[u8] = b"twice";
            let row = row_params![1_i64, "b", twice];
            Ok(insert(tx, &[row, row])?)
        })
        .await;
    assert!(matches!(written, Err(ServiceError::Fault(_))), "{written:?}");
    assert_eq!(opened.count("SELECT count(*) FROM numbered").await, 0);
    assert_eq!(opened.count("SELECT count(*) FROM mail").await, 0);
}

async fn many_changes_fail_when_one_row_has_moved(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    for number in [1, 2, 3] {
        opened.store_key_package(alice, number).await;
    }
    let revoked = async |numbers: &'static [u8]| {
        opened
            .store
            .write(move |tx| {
                let named: Vec<_> = numbers.iter().map(|number| reference(*number)).collect();
                let rows = tx.key_packages(named.iter().map(|named| (alice, named)))?;
                let rows: Vec<_> = rows.into_iter().map(Option::unwrap).collect();
                let moved = rows[0].listed.apply(DirectoryEvent::Revoke).unwrap();
                tx.write_states(&[change_of(&rows[0], &moved)])?;
                let nexts = rows
                    .iter()
                    .map(|row| row.listed.apply(DirectoryEvent::Revoke).unwrap());
                let nexts: Vec<_> = nexts.collect();
                let changes = rows.iter().zip(&nexts).skip(usize::from(numbers.len() == 3));
                let changes = changes.map(|(row, next)| change_of(row, next));
                Ok(tx.write_states(&changes.collect::<Vec<_>>())?)
            })
            .await
    };
    let ended = "SELECT count(*) FROM key_packages WHERE status = 6";
    let bytes = "SELECT count(*) FROM key_package_bytes";
    // The first of these two was revoked just before.
    let moved = revoked(&[1, 2]).await;
    assert!(matches!(moved, Err(ServiceError::Fault(_))), "{moved:?}");
    assert_eq!((opened.count(ended).await, opened.count(bytes).await), (0, 3));
    // Of three, the other two are.
    revoked(&[1, 2, 3]).await.unwrap();
    assert_eq!((opened.count(ended).await, opened.count(bytes).await), (3, 0));
}

async fn nobody_changes_anything_without_rows(opened: Opened) {
    numbered(&opened).await;
    opened
        .store
        .write(|tx| {
            insert(tx, &[])?;
            Ok(tx.write_states(&[])?)
        })
        .await
        .unwrap();
    assert_eq!(opened.count("SELECT count(*) FROM numbered").await, 0);
}

/// Runs each statement that a request runs for many rows with two of them, and leaves nothing behind.
pub(super) async fn exercise_many(opened: &Opened, user: UserKey, devices: [DeviceKey; 2]) {
    let rehearsed = opened.store.rehearse(move |tx| {
        let made = [104, 105].map(|name| (reference(name), [name; 32]));
        let each = [(devices[0], &made[0].0), (devices[1], &made[1].0)];
        with_key_package(devices[0], 1, 1, |like| {
            let both = [0, 1].map(|index| NewKeyPackage {
                owner: devices[index],
                key_package_ref: &made[index].0,
                init_key_hash: &made[index].1,
                encryption_key_hash: &made[index].1[1..],
                ..*like
            });
            tx.insert_key_packages(&both, NOW)
        })?;
        tx.remember_pairs(&devices.map(|device| (user, device, NOW)))?;
        tx.post(&devices, MailKind::KeyPackagesLow, NOW)?;
        tx.lock_devices(devices)?;
        let heads = [tx.audit_head(devices[0])?, tx.audit_head(devices[1])?];
        let disclosed = [0, 1].map(|index| disclosure(devices[index], &heads[index], each[index].1));
        tx.append_disclosures(&disclosed, ("alice", &group()), NOW)?;
        tx.append_audits(&each, AuditTransition::Upload, (None, None), NOW)?;
        tx.bump_generations(&devices.into())?;
        exercise_states(tx, &each, devices[0])?;
        start_group(tx, &[])?;
        tx.begin_by_welcome(&group(), &devices, (1, 0))?;
        tx.end_intervals(&group(), &devices, 2)?;
        let row = |sha256| NewRow {
            kind: LogKind::Message,
            epoch: 0,
            sender: devices[0],
            sha256,
            transcript_hash: None,
            body: b"body",
        };
        let seq = tx.next_for_messages(&group(), (2, 8))?.unwrap().seq;
        Ok(tx.insert_rows(&group(), &[(seq, row(&[1; 32])), (seq + 1, row(&[2; 32]))], NOW)?)
    });
    rehearsed.await.unwrap();
}

/// Reserves KeyPackages, and has them lapse.
fn exercise_states(tx: &Tx<'_>, each: &[(DeviceKey, &KeyPackageRef)], by: DeviceKey) -> Result<(), Fault> {
    let id = ReservationId::made_at(NOW);
    let reserve = DirectoryEvent::Reserve {
        by,
        group: group(),
        until: NOW,
    };
    for event in [reserve, DirectoryEvent::Lapse { now: NOW }] {
        let rows = tx.key_packages(each.iter().copied())?;
        let rows: Vec<_> = rows.into_iter().map(Option::unwrap).collect();
        let nexts = rows.iter().map(|row| row.listed.apply(event.clone()).unwrap());
        let nexts: Vec<_> = nexts.collect();
        let changes = rows.iter().zip(&nexts).map(|(row, next)| StateChange {
            reservation: Some(id),
            ..change_of(row, next)
        });
        tx.write_states(&changes.collect::<Vec<_>>())?;
    }
    Ok(())
}
