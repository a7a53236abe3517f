//! Several nodes on one PostgreSQL database, and connections that break.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, Kind, UnixSeconds};
use larder_wire::AuditTransition;
use tokio::task::JoinSet;

use super::harness::{
    NOW, Opened, ad_hoc, change_of, commit, group, post, say, start_group, take, waiting, with_key_package,
};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, NewKeyPackage, Store, Tx};

/// Cuts the connection of a transaction off.
fn cut_off(tx: &Tx<'_>) -> Result<u64, Fault> {
    ad_hoc(|| tx.execute("SELECT pg_terminate_backend(pg_backend_pid())", &[]))
}

/// S9: the numbers of a log have no gaps, and whoever has read up to one has missed nothing before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_two_nodes_fill_has_no_gaps_and_is_never_seen_out_of_order() {
    const EACH: u64 = 40;
    let opened = Opened::postgres().await;
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    let start = opened.store.write(move |tx| start_group(tx, &[alice, bob]));
    start.await.unwrap();
    let mut writers = JoinSet::new();
    for (number, node) in [opened.store.clone(), opened.another_node().await]
        .into_iter()
        .enumerate()
    {
        for writer in 0..2 {
            let node = node.clone();
            writers.spawn(async move {
                for text in 0..EACH {
                    node.write(move |tx| {
                        let body = format!("{number} {writer} {text}");
                        say(tx, bob, body.as_bytes()).map(drop)
                    })
                    .await
                    .unwrap();
                }
            });
        }
    }
    let mut read = 0;
    while read < 4 * EACH {
        let rows = opened.store.read(move |tx| waiting(tx, alice)).await.unwrap();
        for seq in rows {
            assert_eq!(seq, read + 1);
            read += 1;
        }
        let acknowledged = opened
            .store
            .write(move |tx| Ok(tx.acknowledge(&group(), alice, read)?));
        acknowledged.await.unwrap();
    }
    writers.join_all().await;
    let rows = opened.store.read(move |tx| waiting(tx, bob)).await.unwrap();
    assert_eq!(rows, (1..=4 * EACH).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_transactions_that_wait_for_each_other_one_starts_over() {
    let opened = Opened::postgres().await;
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    let (attempts, both_hold_one) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(2)));
    let crosswise = |first: DeviceKey, second: DeviceKey| {
        let (attempts, both_hold_one) = (Arc::clone(&attempts), Arc::clone(&both_hold_one));
        opened.store.write(move |tx| {
            post(tx, first)?;
            // What is queued is carried out before this.
            tx.mail(first)?;
            if attempts.fetch_add(1, Ordering::SeqCst) < 2 {
                both_hold_one.wait();
            }
            post(tx, second)
        })
    };
    let (one, two) = tokio::join!(crosswise(alice, bob), crosswise(bob, alice));
    one.unwrap();
    two.unwrap();
    // The one that starts over may be there again before the other one has been woken, and they meet once more.
    assert!(attempts.load(Ordering::SeqCst) >= 3);
    assert_eq!(
        opened
            .count("SELECT CAST(sum(mail_last) AS BIGINT) FROM devices")
            .await,
        4
    );
}

#[tokio::test]
async fn a_transaction_whose_connection_is_killed_starts_over_and_counts_once() {
    let opened = Opened::postgres().await;
    let alice = opened.register("alice", 1).await.key;
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    opened
        .store
        .write(move |tx| {
            post(tx, alice)?;
            // What is queued is carried out before this.
            tx.mail(alice)?;
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                cut_off(tx)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert_eq!(opened.count("SELECT mail_last FROM devices").await, 1);
}

/// S5: nobody is told that something happened, or that it did not, when it is not known.
#[tokio::test]
async fn a_commit_whose_connection_is_lost_is_a_fault_and_is_not_repeated() {
    let opened = Opened::postgres().await;
    let alice = opened.register("alice", 1).await.key;
    opened
        .batch(
            "",
            "CREATE FUNCTION cut_off() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON mail DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION cut_off()",
        )
        .await;
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let written = opened.store.write(move |tx| {
        counted.fetch_add(1, Ordering::SeqCst);
        post(tx, alice)
    });
    assert!(matches!(
        written.await,
        Err(ServiceError::Fault(Fault::Postgres(_)))
    ));
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    // The next request gets a connection that works.
    assert_eq!(opened.count("SELECT count(*) FROM devices").await, 1);
}

#[tokio::test]
async fn a_failed_statement_fails_its_transaction_even_if_nobody_looks() {
    let opened = Opened::postgres().await;
    let alice = opened.register("alice", 1).await.key;
    let written = opened.store.write(move |tx| {
        post(tx, alice)?;
        let _ = ad_hoc(|| tx.execute("SELECT 1 / 0", &[]));
        Ok(())
    });
    assert!(matches!(
        written.await,
        Err(ServiceError::Fault(Fault::Postgres(_)))
    ));
    assert_eq!(opened.count("SELECT count(*) FROM mail").await, 0);
}

/// S5.
#[tokio::test]
async fn a_commit_waits_for_the_disk_whatever_the_database_is_set_to() {
    let opened = Opened::postgres_with("%20-csynchronous_commit%3Doff").await;
    let setting: String = opened
        .store
        .read(|tx| {
            let sql = "SELECT current_setting('synchronous_commit')";
            Ok(ad_hoc(|| tx.one_row(sql, &[], |row| row.get(0)))?)
        })
        .await
        .unwrap();
    assert_eq!(setting, "on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_who_acknowledge_on_two_nodes_at_once_leave_neither_body_nor_tree_behind() {
    let opened = Opened::postgres().await;
    let (alice, bob, carol) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
        opened.register("carol", 3).await.key,
    );
    let other = opened.another_node().await;
    let start = opened.store.write(move |tx| start_group(tx, &[alice]));
    start.await.unwrap();
    let commits = "SELECT count(*) FROM log WHERE kind = 0";
    for epoch in 0..30 {
        let seq = opened
            .store
            .write(move |tx| {
                let state_seq = tx.group(&group())?.unwrap().state_seq;
                commit(tx, alice, (state_seq, epoch), &[bob, carol])?;
                say(tx, alice, format!("{epoch}").as_bytes())
            })
            .await
            .unwrap();
        let acknowledge = |node: &Store, device: DeviceKey| {
            let node = node.clone();
            async move {
                node.write(move |tx| Ok(tx.acknowledge(&group(), device, seq)?))
                    .await
            }
        };
        let sweep = || {
            opened
                .store
                .write(|tx| Ok(tx.sweep_welcomes(9)? + tx.sweep_bodies(&group(), (UnixSeconds(0), NOW), 9)?))
        };
        let (one, two, three, swept) = tokio::join!(
            acknowledge(&opened.store, alice),
            acknowledge(&opened.store, bob),
            acknowledge(&other, carol),
            sweep()
        );
        assert_eq!((one.unwrap(), two.unwrap(), three.unwrap()), (None, None, None));
        swept.unwrap();
        while sweep().await.unwrap() > 0 {}
        let kept = opened.count("SELECT count(*) FROM bodies").await;
        assert_eq!(kept, opened.count(commits).await, "the Commits stay");
        let removed = opened.store.write(move |tx| {
            for device in [bob, carol] {
                tx.drop_intervals(&group(), device)?;
            }
            Ok(())
        });
        removed.await.unwrap();
    }
    assert_eq!(opened.count("SELECT waiting_bytes FROM groups").await, 0);
}

/// S3, S8: what is due moves once, and the audit tells it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_lapses_once_when_two_nodes_sweep_while_reservations_go_on() {
    const POOL: u8 = 60;
    let opened = Opened::postgres().await;
    let alice = opened.register("alice", 1).await.key;
    for number in 1..=POOL {
        opened.store_key_package(alice, number).await;
    }
    let take_all = |node: Store| async move {
        for _ in 0..POOL / 2 {
            node.write(move |tx| {
                tx.lock_devices([alice])?;
                let taken = take(tx, alice, alice, NOW)?.unwrap();
                let reserve = AuditTransition::Reserve;
                Ok(tx.append_audits(&[(alice, &taken)], reserve, (None, None), NOW)?)
            })
            .await
            .unwrap();
        }
    };
    let sweep = |node: Store| async move {
        node.write(move |tx| {
            if !tx.take_turn_to_sweep()? {
                return Ok(0);
            }
            // Nothing expires meanwhile.
            let policy = DirectoryPolicy {
                serving_margin_seconds: 0,
                ..DirectoryPolicy::default()
            };
            crate::directory::sweep(tx, &policy, NOW, 500)
        })
        .await
        .unwrap()
    };
    let other = opened.another_node().await;
    let mut busy = JoinSet::new();
    busy.spawn(take_all(opened.store.clone()));
    busy.spawn(take_all(other.clone()));
    let mut lapsed = 0;
    while lapsed < u64::from(POOL) {
        let (one, two) = tokio::join!(sweep(opened.store.clone()), sweep(other.clone()));
        lapsed += one + two;
    }
    busy.join_all().await;
    for transition in ["lapse", "reserve"] {
        let audited = opened
            .store
            .read(move |tx| {
                Ok(ad_hoc(|| {
                    tx.one_row(
                        "SELECT count(DISTINCT ref) * 1000 + count(*) FROM audit WHERE transition = ?1",
                        &[transition.into()],
                        |row| row.get::<u64>(0),
                    )
                })?)
            })
            .await
            .unwrap();
        assert_eq!(audited, u64::from(POOL) * 1001, "{transition}");
    }
}

/// S3: one name, one KeyPackage, whoever stores it where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_key_that_is_stored_on_two_nodes_at_once_as_both_kinds_enters_once() {
    let opened = Opened::postgres().await;
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    let other = opened.another_node().await;
    for init_key in 1..=20 {
        let ordinary = opened.store.write(move |tx| {
            if !tx.known_keys(&[&[init_key; 32]])?.is_empty() {
                return Ok(false);
            }
            with_key_package(alice, 100 + init_key, init_key, |new| {
                tx.insert_key_packages(&[*new], NOW)
            })?;
            Ok(true)
        });
        let last_resort = other.write(move |tx| {
            if !tx.known_keys(&[&[init_key; 32]])?.is_empty() {
                return Ok(false);
            }
            with_key_package(bob, 200 + init_key, init_key, |new| {
                let kind = Kind::LastResort;
                tx.insert_key_packages(&[NewKeyPackage { kind, ..*new }], NOW)
            })?;
            // One is available at a time.
            let row = tx.available_last_resort(bob, 1)?.unwrap();
            let revoked = row.listed.apply(DirectoryEvent::Revoke).unwrap();
            tx.write_states(&[change_of(&row, &revoked)])?;
            Ok(true)
        });
        let (ordinary, last_resort) = tokio::join!(ordinary, last_resort);
        assert_ne!(ordinary.unwrap(), last_resort.unwrap(), "{init_key}");
    }
}
