use std::sync::{Arc, Mutex};

use larder_lifecycle::{DirectoryEvent, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef, ProblemType};
use rusqlite::Connection;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

struct Opened {
    store: Store,
    directory: tempfile::TempDir,
    woken: Arc<Mutex<Vec<DeviceKey>>>,
}

impl Opened {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&woken);
        let store = Store::open(&directory.path().join("larder.db"), "first", move |devices| {
            noted.lock().unwrap().extend_from_slice(devices);
        })
        .unwrap();
        Self {
            store,
            directory,
            woken,
        }
    }

    fn connection(&self) -> Connection {
        Connection::open(self.directory.path().join("larder.db")).unwrap()
    }

    async fn register(&self, user: &'static str, key: u8) -> DeviceRow {
        self.store
            .write(move |tx| {
                let (user, device) = (user.parse().unwrap(), format!("{user}-1").parse().unwrap());
                assert!(tx.insert_account(&user, &device, &[key; 32], &[key + 100; 32], NOW)?);
                Ok(tx.device_by_id(&device)?.unwrap())
            })
            .await
            .unwrap()
    }

    async fn store_key_package(&self, owner: DeviceKey, number: u8) -> KeyPackageRef {
        let key_package_ref = KeyPackageRef::from_bytes(&[number; 32]).unwrap();
        let stored = key_package_ref.clone();
        self.store
            .write(move |tx| {
                let new = NewKeyPackage {
                    key_package_ref: &stored,
                    owner,
                    suite: 1,
                    init_key_hash: &[number; 32],
                    not_after: NOW.plus(1000),
                    bytes: b"bytes",
                };
                assert!(tx.insert_key_package(&new, NOW)?);
                Ok(())
            })
            .await
            .unwrap();
        key_package_ref
    }
}

fn group() -> GroupId {
    GroupId::from_bytes(b"group").unwrap()
}

#[tokio::test]
async fn a_refusal_and_a_panic_leave_the_rest_of_the_batch_alone() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    let deliver = move |tx: &Tx<'_>| {
        let row = NewInboxRow {
            kind: larder_wire::InboxKind::KeyPackagesLow,
            group: None,
            epoch: None,
            body: None,
        };
        Ok(tx.deliver(&[alice.key], &row, NOW)?)
    };
    let refused = opened.store.write(move |tx| {
        deliver(tx)?;
        Err::<(), _>(ProblemType::Forbidden.into())
    });
    let panicked = opened.store.write(move |tx| -> Result<(), ServiceError> {
        deliver(tx)?;
        panic!("on purpose")
    });
    let accepted = opened.store.write(deliver);
    let (refused, panicked, accepted) = tokio::join!(refused, panicked, accepted);
    assert!(matches!(refused, Err(ServiceError::Refused(_))));
    assert!(matches!(panicked, Err(ServiceError::Fault(_))));
    accepted.unwrap();
    let rows = opened
        .store
        .read(move |tx| Ok(tx.inbox(alice.key, 0, 9)?))
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.seq).collect::<Vec<_>>(),
        [1],
        "no gap and nothing of the others"
    );
    assert_eq!(
        *opened.woken.lock().unwrap(),
        [alice.key],
        "only what was committed wakes anyone"
    );
}

#[tokio::test]
async fn the_schema_refuses_every_move_that_the_lifecycle_refuses() {
    let opened = Opened::new();
    let (alice, bob) = (opened.register("alice", 1).await, opened.register("bob", 2).await);
    let connection = opened.connection();
    let allowed = [(0, 1), (0, 4), (0, 5), (1, 2), (1, 3), (1, 5)];
    let mut number = 0;
    for from in 0..6 {
        for to in 0..6 {
            number += 1;
            let key_package_ref = opened.store_key_package(alice.key, number).await;
            let bytes = key_package_ref.as_bytes();
            let path: &[u8] = match from {
                0 => &[],
                1 => &[1],
                2 => &[1, 2],
                3 => &[1, 3],
                other => &[other],
            };
            for status in path {
                connection
                    .execute(
                        "UPDATE key_packages SET status = ?2, holder = CASE WHEN ?2 = 1 THEN ?3 ELSE holder END,
                             group_id = CASE WHEN ?2 = 1 THEN x'01' ELSE group_id END,
                             reserved_until = CASE WHEN ?2 = 1 THEN 1 ELSE reserved_until END WHERE ref = ?1",
                        (bytes, status, bob.key.0),
                    )
                    .unwrap();
            }
            let moved = connection.execute(
                "UPDATE key_packages SET status = ?2, holder = ifnull(holder, CASE WHEN ?2 IN (1, 2) THEN ?3 END),
                     group_id = ifnull(group_id, x'01'), reserved_until = ifnull(reserved_until, 1) WHERE ref = ?1",
                (bytes, to, bob.key.0),
            );
            assert_eq!(
                moved.is_ok(),
                allowed.contains(&(from, to)),
                "{from} to {to}: {moved:?}"
            );
        }
    }
    let key_package_ref = opened.store_key_package(alice.key, 200).await;
    let reserve = "UPDATE key_packages SET status = 1, holder = ?2, group_id = x'01', reserved_until = 1 WHERE ref = ?1";
    connection
        .execute(reserve, (key_package_ref.as_bytes(), bob.key.0))
        .unwrap();
    let stolen = connection.execute(
        "UPDATE key_packages SET holder = ?2 WHERE ref = ?1",
        (key_package_ref.as_bytes(), alice.key.0),
    );
    assert!(stolen.unwrap_err().to_string().contains("disclosed once"));
}

#[tokio::test]
async fn the_schema_allows_a_last_resort_exactly_its_transitions() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    let bob = opened.register("bob", 2).await;
    let connection = opened.connection();
    let insert = |number: u8, owner: DeviceKey, status: u8, used: u8| {
        connection.execute(
            "INSERT INTO last_resorts (ref, device_id, suite, status, used, init_key_hash, not_after, uploaded_at,
                 retiring_until)
             VALUES (?1, ?2, 1, ?3, ?4, ?1, 9, 1, CASE WHEN ?3 = 1 THEN 5 END)",
            ([number; 32], owner.0, status, used),
        )
    };
    let forget = |number: u8| {
        connection
            .execute("DELETE FROM last_resorts WHERE ref = ?1", [[number; 32]])
            .unwrap()
    };
    for (status, used) in [(1, 0), (2, 0), (0, 1)] {
        assert!(
            insert(1, alice.key, status, used).is_err(),
            "it starts active and unused"
        );
    }
    let allowed = [(0, 1), (0, 2), (1, 2)];
    for from in 0..3 {
        for to in 0..3 {
            insert(1, alice.key, 0, 0).unwrap();
            let shift = "UPDATE last_resorts SET status = ?2,
                 retiring_until = ifnull(retiring_until, CASE WHEN ?2 = 1 THEN 5 END) WHERE ref = ?1";
            if from > 0 {
                connection.execute(shift, ([1u8; 32], from)).unwrap();
            }
            let moved = connection.execute(shift, ([1u8; 32], to));
            assert_eq!(
                moved.is_ok(),
                allowed.contains(&(from, to)),
                "{from} to {to}: {moved:?}"
            );
            forget(1);
        }
    }

    insert(1, alice.key, 0, 0).unwrap();
    assert!(
        insert(2, alice.key, 0, 0).is_err(),
        "one is active per device and suite"
    );
    insert(3, bob.key, 0, 0).unwrap();
    let reserve = |holder: DeviceKey| {
        connection.execute(
            "INSERT INTO last_resort_reservations VALUES ('r', ?1, ?2, x'01', 9)",
            ([1u8; 32], holder.0),
        )
    };
    assert!(reserve(bob.key).is_err(), "one that is handed out is used");
    let set = |sql: &str| {
        connection.execute(
            &format!("UPDATE last_resorts SET {sql} WHERE ref = ?1"),
            [[1u8; 32]],
        )
    };
    set("used = 1").unwrap();
    reserve(bob.key).unwrap();
    assert!(set("used = 0").is_err(), "used once is used for good");
    let steal = "UPDATE last_resort_reservations SET holder = ?1";
    assert!(connection.execute(steal, [alice.key.0]).is_err());
    set("status = 1, retiring_until = 5").unwrap();
    assert!(
        set("retiring_until = 6").is_err(),
        "the retirement is not prolonged"
    );
    connection
        .execute("DELETE FROM last_resort_reservations", [])
        .unwrap();
    assert!(reserve(bob.key).is_err(), "a retiring one is not handed out");
}

#[tokio::test]
async fn a_reference_and_an_init_key_name_one_key_package_of_either_kind() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    opened.store_key_package(alice.key, 1).await;
    opened
        .store
        .write(move |tx| {
            let key_package = |name: u8, init_key: u8, store: &dyn Fn(&NewKeyPackage<'_>) -> bool| {
                store(&NewKeyPackage {
                    key_package_ref: &KeyPackageRef::from_bytes(&[name; 32]).unwrap(),
                    owner: alice.key,
                    suite: 1,
                    init_key_hash: &[init_key; 32],
                    not_after: NOW.plus(1000),
                    bytes: b"bytes",
                })
            };
            let as_last_resort = |new: &NewKeyPackage<'_>| tx.insert_last_resort(new, NOW).is_ok();
            let as_ordinary = |new: &NewKeyPackage<'_>| matches!(tx.insert_key_package(new, NOW), Ok(true));
            assert!(
                !key_package(1, 2, &as_last_resort),
                "the reference is an ordinary one's"
            );
            assert!(
                !key_package(2, 1, &as_last_resort),
                "the init key is an ordinary one's"
            );
            assert!(key_package(2, 2, &as_last_resort));
            assert!(
                !key_package(2, 3, &as_ordinary),
                "the reference is a last resort's"
            );
            assert!(
                !key_package(3, 2, &as_ordinary),
                "the init key is a last resort's"
            );
            assert!(tx.knows_init_key(&[1; 32])? && tx.knows_init_key(&[2; 32])?);
            assert!(!tx.knows_init_key(&[3; 32])?);
            assert!(key_package(3, 3, &as_ordinary));
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unknown_status_in_a_row_fails_closed() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    opened.store_key_package(alice.key, 1).await;
    opened
        .connection()
        .execute_batch(
            "PRAGMA ignore_check_constraints = ON; DROP TRIGGER key_packages_change_as_allowed;
             UPDATE key_packages SET status = 6",
        )
        .unwrap();
    let read = opened
        .store
        .read(move |tx| Ok(tx.key_packages_of(alice.key)?))
        .await;
    assert!(
        matches!(read, Err(ServiceError::Fault(Fault::Corrupt(_)))),
        "{read:?}"
    );
}

#[tokio::test]
async fn what_was_read_must_still_be_so_when_it_is_moved() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    let key_package_ref = opened.store_key_package(alice.key, 1).await;
    opened
        .store
        .write(move |tx| {
            let row = tx.key_package(&key_package_ref)?.unwrap();
            let revoked = row.state.clone().apply(DirectoryEvent::Revoke).unwrap();
            assert!(tx.move_key_package(&row, &revoked)?);
            assert!(!tx.move_key_package(&row, &revoked)?, "compare and set");
            let expired = row
                .state
                .clone()
                .apply(DirectoryEvent::Expire {
                    now: NOW,
                    served_before: NOW,
                })
                .unwrap();
            assert!(!tx.move_key_package(&row, &expired)?);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_audit_of_a_device_is_a_hash_chain() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    let key_package_ref = opened.store_key_package(alice.key, 1).await;
    opened
        .store
        .write(move |tx| {
            tx.append_audit(
                alice.key,
                &key_package_ref,
                "upload",
                Some("alice/alice-1"),
                None,
                NOW,
            )?;
            tx.append_audit(
                alice.key,
                &key_package_ref,
                "reserve",
                Some("bob/bob-1"),
                Some(&group()),
                NOW,
            )?;
            Ok(tx.append_audit(alice.key, &key_package_ref, "lapse", None, None, NOW)?)
        })
        .await
        .unwrap();
    let connection = opened.connection();
    let verify = || -> bool {
        let mut statement = connection
            .prepare("SELECT seq, time, ref, transition, actor, group_id, hash FROM audit ORDER BY seq")
            .unwrap();
        let mut previous = vec![0; 32];
        let mut rows = statement.query([]).unwrap();
        let mut seq = 0;
        while let Some(row) = rows.next().unwrap() {
            seq += 1;
            let key_package_ref: Vec<u8> = row.get(2).unwrap();
            let transition: String = row.get(3).unwrap();
            let actor: Option<String> = row.get(4).unwrap();
            let group: Option<Vec<u8>> = row.get(5).unwrap();
            let hash = audit::audit_hash(
                &previous,
                row.get::<_, i64>(0).unwrap() as u64,
                UnixSeconds(row.get::<_, i64>(1).unwrap() as u64),
                [
                    &key_package_ref,
                    transition.as_bytes(),
                    actor.unwrap_or_default().as_bytes(),
                    &group.unwrap_or_default(),
                ],
            );
            previous = row.get(6).unwrap();
            if hash[..] != previous[..] {
                return false;
            }
        }
        seq == 3
    };
    assert!(verify());
    connection
        .execute("UPDATE audit SET actor = 'eve/eve-1' WHERE seq = 2", [])
        .unwrap();
    assert!(!verify(), "a changed row breaks the chain");
}

#[tokio::test]
async fn an_acknowledgement_that_runs_ahead_loses_no_row_to_come() {
    let opened = Opened::new();
    let alice = opened.register("alice", 1).await;
    let message = |body: &'static [u8]| {
        opened.store.write(move |tx| {
            let row = NewInboxRow {
                kind: larder_wire::InboxKind::Message,
                group: Some(&group()),
                epoch: Some(1),
                body: Some(body),
            };
            Ok(tx.deliver(&[alice.key], &row, NOW)?)
        })
    };
    message(b"one").await.unwrap();
    opened
        .store
        .write(move |tx| Ok(tx.acknowledge(alice.key, u64::MAX)?))
        .await
        .unwrap();
    message(b"two").await.unwrap();
    let rows = opened
        .store
        .read(move |tx| Ok(tx.inbox(alice.key, 0, 9)?))
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].body.0, b"two");
    let bodies: i64 = opened
        .connection()
        .query_row("SELECT count(*) FROM bodies", [], |row| row.get(0))
        .unwrap();
    assert_eq!(bodies, 1, "a body that nobody waits for is gone");
}
