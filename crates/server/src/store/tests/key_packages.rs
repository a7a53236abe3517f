//! KeyPackages: what the schema lets happen to them, and their names and keys.

use larder_lifecycle::{DirectoryEvent, DirectoryState, Kind};
use larder_wire::KeyPackageRef;

use super::harness::{NOW, Opened, change_of, reference, take, with_key_package};
use crate::error::ServiceError;
use crate::store::{DeviceKey, NewKeyPackage};

on_both_engines! {
    the_schema_refuses_every_move_that_the_lifecycle_refuses;
    the_schema_lets_a_single_use_key_package_be_reserved_once;
    a_device_has_one_available_last_resort_per_ciphersuite;
    what_was_read_must_still_be_so_when_it_is_moved;
    a_reference_and_a_key_belong_to_one_key_package_of_either_kind;
}

/// Stores a KeyPackage of a kind, each in a ciphersuite of its own.
async fn insert(opened: &Opened, owner: DeviceKey, name: u8, kind: i64, (status, used): (i64, i64)) -> bool {
    opened.try_execute(
        "INSERT INTO key_packages (user_id, device_id, ref, kind, suite, status, used, init_key_hash, encryption_key_hash,
             not_before, not_after, uploaded_at, retiring_until)
         VALUES (?1 >> 8, ?1, ?2, ?3, ?4, ?5, ?6, ?2, substr(?2, 1, 31), 0, 9, 1, CASE WHEN ?5 = 2 THEN 5 END)",
        &[
            owner.into(),
            reference(name).as_bytes().into(),
            kind.into(),
            i64::from(name).into(),
            status.into(),
            used.into(),
        ],
    ).await.is_ok()
}

/// S3.
async fn the_schema_refuses_every_move_that_the_lifecycle_refuses(opened: Opened) {
    const MOVE: &str = "UPDATE key_packages SET status = ?2, used = CASE WHEN ?2 = 1 THEN 1 ELSE used END,
             retiring_until = CASE WHEN ?2 = 2 THEN 5 ELSE retiring_until END
         WHERE ref = ?1";
    let alice = opened.register("alice", 1).await.key;
    let single_use = [(0, 1), (0, 5), (0, 6), (1, 3), (1, 4), (1, 6)];
    let last_resort = [(0, 2), (0, 5), (0, 6), (2, 5), (2, 6), (2, 7)];
    let mut name = 0;
    for (kind, allowed) in [(0, single_use), (1, last_resort)] {
        let reached = |status: i64| status == 0 || allowed.iter().any(|(_, to)| *to == status);
        for from in (0..8).filter(|status| reached(*status)) {
            for to in (0..8).filter(|to| *to != from) {
                name += 1;
                assert!(insert(&opened, alice, name, kind, (0, 0)).await);
                let moving = |to: i64| [reference(name).as_bytes().into(), to.into()];
                if from > 0 && !allowed.contains(&(0, from)) {
                    opened.execute(MOVE, &moving(1 + kind)).await;
                }
                if from > 0 {
                    opened.execute(MOVE, &moving(from)).await;
                }
                let moved = opened.try_execute(MOVE, &moving(to)).await;
                let expected = allowed.contains(&(from, to));
                assert_eq!(moved.is_ok(), expected, "{kind}: {from} to {to}: {moved:?}");
            }
        }
    }
    for kind in [0, 1] {
        for (status, used) in (0..8).flat_map(|status| [(status, 0), (status, 1)]).skip(1) {
            let inserted = insert(&opened, alice, 250, kind, (status, used)).await;
            assert!(!inserted, "{kind} starts with {status}, {used}");
        }
    }
}

/// S2.
async fn the_schema_lets_a_single_use_key_package_be_reserved_once(opened: Opened) {
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    assert!(insert(&opened, alice, 1, 0, (0, 0)).await);
    assert!(insert(&opened, alice, 2, 1, (0, 0)).await);
    let reserve = async |id: u8, name: u8, kind: i64, state: i64| {
        let reserved = opened
            .try_execute(
                "INSERT INTO reservations
                     VALUES (?2 >> 8, ?2, ?3, ?4, ?1, ?5, ?5 >> 8, ?6, 9, ?7)",
                &[
                    [id; 16][..].into(),
                    alice.into(),
                    reference(name).as_bytes().into(),
                    kind.into(),
                    bob.into(),
                    b"g"[..].into(),
                    state.into(),
                ],
            )
            .await;
        reserved.is_ok()
    };
    let set = async |name: u8, sql: &str| {
        let sql = format!("UPDATE key_packages SET {sql} WHERE ref = ?1");
        opened
            .try_execute(&sql, &[reference(name).as_bytes().into()])
            .await
            .is_ok()
    };
    for (name, kind) in [(1, 0), (2, 1)] {
        assert!(!reserve(1, name, kind, 0).await, "{kind}: it was not handed out");
    }
    assert!(
        !set(1, "used = 1").await,
        "a single-use one that is used is taken"
    );
    assert!(!set(1, "status = 1").await, "one that is taken is used");
    assert!(set(1, "status = 1, used = 1").await && set(2, "used = 1").await);
    for (name, kind) in [(1, 0), (2, 1)] {
        assert!(!reserve(1, name, 1 - kind, 0).await, "{kind}: the other kind");
        for state in 1..4 {
            assert!(
                !reserve(1, name, kind, state).await,
                "{kind}: it starts with {state}"
            );
        }
        assert!(reserve(1, name, kind, 0).await);
        assert_eq!(reserve(2, name, kind, 0).await, kind == 1, "{kind}: a second one");
        assert!(!set(name, "used = 0").await, "used once is used for good");
    }
    for change in [
        "holder = device_id",
        "group_id = ref",
        "kind = 1 - kind",
        "ref = id",
    ] {
        let changed = opened
            .try_execute(&format!("UPDATE reservations SET {change}"), &[])
            .await;
        assert!(changed.is_err(), "{change}");
    }
    opened
        .execute("UPDATE reservations SET state = 2, reserved_until = 8", &[])
        .await;
    for state in [0, 1, 3] {
        let again = opened
            .try_execute("UPDATE reservations SET state = ?1", &[state.into()])
            .await;
        assert!(again.is_err(), "from lapsed to {state}");
    }
    assert!(
        !reserve(3, 1, 0, 0).await,
        "one that has lapsed is never free again"
    );

    assert!(set(2, "status = 2, retiring_until = 5").await);
    assert!(
        !set(2, "retiring_until = 6").await,
        "the retirement is not prolonged"
    );
    assert!(!reserve(4, 2, 1, 0).await, "a retiring one is not handed out");
    opened.execute("DELETE FROM key_packages", &[]).await;
    assert_eq!(opened.count("SELECT count(*) FROM reservations").await, 0);
}

async fn a_device_has_one_available_last_resort_per_ciphersuite(opened: Opened) {
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    let store = async |owner: DeviceKey, name: u8, suite: u16| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(owner, name, name, |new| {
                let kind = Kind::LastResort;
                let new = NewKeyPackage { kind, suite, ..*new };
                tx.insert_key_packages(&[new], NOW)
            })?)
        });
        stored.await.is_ok()
    };
    assert!(store(alice, 1, 1).await);
    assert!(!store(alice, 2, 1).await, "a second one");
    assert!(store(alice, 2, 2).await, "of another ciphersuite");
    assert!(store(bob, 3, 1).await, "of another device");
    opened
        .execute(
            "UPDATE key_packages SET status = 2, retiring_until = 5 WHERE ref = ?1",
            &[reference(1).as_bytes().into()],
        )
        .await;
    assert!(store(alice, 4, 1).await, "the older one retires");
}

async fn what_was_read_must_still_be_so_when_it_is_moved(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    let available = opened.store_key_package(alice, 1).await;
    let taken = opened.store_key_package(alice, 2).await;
    opened
        .store
        .write(move |tx| Ok(take(tx, alice, alice, NOW)?))
        .await
        .unwrap();
    let expire = DirectoryEvent::Expire {
        now: NOW,
        of_use_before: NOW,
    };
    let (lapse, revoke) = (DirectoryEvent::Lapse { now: NOW }, DirectoryEvent::Revoke);
    // The oldest was taken; both are as old.
    let (available, taken) = match is_available(&opened, alice, &available).await {
        true => (available, taken),
        false => (taken, available),
    };
    for (asked, again) in [
        (&available, &revoke),
        (&available, &expire),
        (&taken, &lapse),
        (&taken, &revoke),
    ] {
        let (named, again) = (asked.clone(), again.clone());
        let moved = opened
            .store
            .write(move |tx| {
                let row = tx.key_packages([(alice, &named)])?.remove(0).unwrap();
                for event in [DirectoryEvent::Revoke, again.clone()] {
                    let next = row.listed.apply(event).unwrap();
                    tx.write_states(&[change_of(&row, &next)])?;
                }
                Ok(())
            })
            .await;
        assert!(matches!(moved, Err(ServiceError::Fault(_))), "{moved:?}");
    }
    assert!(
        is_available(&opened, alice, &available).await,
        "nothing of it is stored"
    );
    let open = opened.count("SELECT count(*) FROM reservations WHERE state = 0");
    assert_eq!(open.await, 1);
}

async fn is_available(opened: &Opened, owner: DeviceKey, named: &KeyPackageRef) -> bool {
    let named = named.clone();
    let state = opened.store.read(move |tx| {
        let row = tx.key_packages([(owner, &named)])?.remove(0).unwrap();
        Ok(row.listed.state)
    });
    state.await.unwrap() == DirectoryState::Available
}

async fn a_reference_and_a_key_belong_to_one_key_package_of_either_kind(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    opened.store_key_package(alice, 1).await;
    let as_last_resort = async |name: u8, init_key: u8| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                let kind = Kind::LastResort;
                tx.insert_key_packages(&[NewKeyPackage { kind, ..*new }], NOW)
            })?)
        });
        stored.await.is_ok()
    };
    let as_ordinary = async |name: u8, init_key: u8| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                tx.insert_key_packages(&[*new], NOW)
            })?)
        });
        stored.await.is_ok()
    };
    assert!(!as_last_resort(1, 2).await, "the reference is an ordinary one's");
    assert!(!as_last_resort(2, 1).await, "the init key is an ordinary one's");
    assert!(as_last_resort(2, 2).await);
    assert!(!as_ordinary(2, 3).await, "the reference is a last resort's");
    assert!(!as_ordinary(3, 2).await, "the init key is a last resort's");
    let knows = async |key: u8| {
        let knows = opened
            .store
            .read(move |tx| Ok(!tx.known_keys(&[&[key; 32]])?.is_empty()));
        knows.await.unwrap()
    };
    assert!(knows(1).await && knows(2).await && !knows(3).await);
    assert!(as_ordinary(3, 3).await);

    // A key is of one, whichever of its two it is, until its tombstone is forgotten.
    let with_keys = async |name: u8, init_key: u8, encryption_key: u8, last_resort: bool| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                let encryption_key_hash = &[encryption_key; 32];
                let kind = match last_resort {
                    true => Kind::LastResort,
                    false => Kind::SingleUse,
                };
                let new = NewKeyPackage {
                    encryption_key_hash,
                    kind,
                    suite: name.into(),
                    ..*new
                };
                tx.insert_key_packages(&[new], NOW)
            })?)
        });
        stored.await.is_ok()
    };
    for last_resort in [false, true] {
        assert!(!with_keys(10, 10, 1, last_resort).await, "an init key of another");
        assert!(!with_keys(10, 10, 2, last_resort).await, "of a last resort");
    }
    assert!(with_keys(10, 10, 11, false).await);
    assert!(with_keys(12, 12, 13, true).await);
    for last_resort in [false, true] {
        for taken in [10, 11, 12, 13] {
            assert!(!with_keys(14, 14, taken, last_resort).await, "{taken}");
            assert!(!with_keys(14, taken, 15, last_resort).await, "{taken}");
        }
        assert!(!with_keys(14, 14, 14, last_resort).await, "both keys are one");
    }
    opened.execute("DELETE FROM key_package_bytes", &[]).await;
    opened.execute("DELETE FROM key_packages", &[]).await;
    assert_eq!(opened.count("SELECT count(*) FROM key_package_keys").await, 0);
}
