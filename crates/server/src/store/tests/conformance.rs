use std::collections::HashMap;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use larder_wire::{AuditChain, AuditTransition, ProblemType};
use tokio::time::timeout;

use super::harness::{NOW, Opened, ad_hoc, group, post, reference, say, start_group, take};
use crate::error::{Fault, ServiceError};
use crate::store::statement::params;
use crate::store::{DeviceKey, NewMessage};
use crate::wakeups::{Place, Queue};

/// Nothing that a test waits for takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

on_both_engines! {
    a_refusal_and_a_panic_leave_the_rest_alone;
    a_group_has_one_commit_per_epoch;
    an_unknown_status_in_a_row_fails_closed;
    what_is_queued_last_must_succeed_too;
    a_rehearsal_leaves_nothing_behind;
    an_empty_pool_is_told_from_one_that_others_are_taking_from;
    the_audit_of_a_device_is_a_hash_chain;
    a_store_that_is_opened_again_is_the_same;
    what_is_left_of_an_audit_links_up_to_its_checkpoint;
    a_year_of_transitions_leaves_those_of_ninety_days;
    a_message_is_told_though_nobody_waits_for_its_answer;
}

async fn a_refusal_and_a_panic_leave_the_rest_alone(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    let woken = opened.wakeups.subscribe(alice.key, 1).unwrap();
    let refused = opened.store.write(move |tx| {
        post(tx, alice.key)?;
        Err::<(), _>(ProblemType::Forbidden.into())
    });
    let panicked = opened.store.write(move |tx| -> Result<(), ServiceError> {
        post(tx, alice.key)?;
        panic!("on purpose")
    });
    let accepted = opened.store.write(move |tx| post(tx, alice.key));
    let (refused, panicked, accepted) = tokio::join!(refused, panicked, accepted);
    assert!(matches!(refused, Err(ServiceError::Refused(_))));
    assert!(matches!(panicked, Err(ServiceError::Fault(_))));
    accepted.unwrap();
    let times = woken.times();
    assert!(
        times == 1 || times > 1 && opened.looks_by_itself(),
        "only what was committed wakes anyone: {times}"
    );
    let mail = opened.store.read(move |tx| Ok(tx.mail(alice.key)?));
    let numbers: Vec<u64> = mail.await.unwrap().iter().map(|mail| mail.seq).collect();
    assert_eq!(numbers, [1], "no gap and nothing of the others");
}

/// S9.
async fn a_group_has_one_commit_per_epoch(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    opened
        .store
        .write(move |tx| {
            assert!(tx.insert_group(&group(), 1, NOW)?);
            assert!(!tx.insert_group(&group(), 1, NOW)?);
            Ok(())
        })
        .await
        .unwrap();
    let accept = async |seq: i64, kind: i64, epoch: i64, sha256: &[u8]| {
        opened
            .try_execute(
                "INSERT INTO log (group_id, seq, kind, epoch, sender, sha256, size, accepted_at, transcript_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 1, CASE WHEN ?3 = 0 THEN ?6 END)",
                &[
                    group().as_bytes().into(),
                    seq.into(),
                    kind.into(),
                    epoch.into(),
                    alice.into(),
                    sha256.into(),
                ],
            )
            .await
    };
    accept(1, 0, 0, b"a").await.unwrap();
    assert!(
        accept(2, 0, 0, b"b").await.is_err(),
        "a second Commit of an epoch"
    );
    assert!(accept(2, 2, 0, b"a").await.is_err(), "the same bytes again");
    assert!(accept(1, 2, 0, b"c").await.is_err(), "the same number again");
    accept(2, 2, 0, b"c").await.unwrap();
    accept(3, 0, 1, b"d").await.unwrap();
}

async fn an_unknown_status_in_a_row_fails_closed(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    opened.store_key_package(alice.key, 1).await;
    opened
        .batch(
            "PRAGMA ignore_check_constraints = ON; DROP TRIGGER key_packages_change_as_allowed;
             UPDATE key_packages SET status = 8",
            "ALTER TABLE key_packages DROP CONSTRAINT key_packages_status_check;
             DROP TRIGGER key_packages_change_as_allowed ON key_packages;
             UPDATE key_packages SET status = 8",
        )
        .await;
    let read = opened
        .store
        .read(move |tx| Ok(tx.key_packages_of(alice.key)?))
        .await;
    assert!(
        matches!(read, Err(ServiceError::Fault(Fault::Corrupt(_)))),
        "{read:?}"
    );
}

async fn what_is_queued_last_must_succeed_too(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    let written = opened
        .store
        .write(move |tx| {
            tx.bump_generations(&[alice.key].into())?;
            let forget = "UPDATE devices SET generation = NULL WHERE id = ?1";
            Ok(ad_hoc(|| tx.queue(forget, params![alice.key]))?)
        })
        .await;
    assert!(matches!(written, Err(ServiceError::Fault(_))), "{written:?}");
    let generation = opened.store.read(move |tx| Ok(tx.generation(alice.key)?)).await;
    assert_eq!(generation.unwrap(), (0, None));
}

async fn a_rehearsal_leaves_nothing_behind(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    opened.store_key_package(alice, 1).await;
    let woken = opened.wakeups.subscribe(alice, 1).unwrap();
    for _ in 0..2 {
        let taken = opened
            .store
            .rehearse(move |tx| {
                post(tx, alice)?;
                Ok(take(tx, alice, alice, NOW.plus(10))?)
            })
            .await
            .unwrap();
        assert_eq!(taken.unwrap(), reference(1));
    }
    assert!(woken.times() == 0 || opened.looks_by_itself());
    assert_eq!(opened.count("SELECT count(*) FROM mail").await, 0);
    assert_eq!(
        opened
            .count("SELECT count(*) FROM key_packages WHERE status = 0")
            .await,
        1
    );
}

async fn an_empty_pool_is_told_from_one_that_others_are_taking_from(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    opened.store_key_package(alice, 1).await;
    // Of two who ask for the last one at once, one is refused afterwards: the other gets it, whoever came first.
    let try_to_take = async |refuse: bool| {
        let taken = opened.store.write(move |tx| {
            tx.lock_devices([alice])?;
            let taken = take(tx, alice, alice, NOW.plus(10))?;
            if refuse && taken.is_some() {
                return Err(ProblemType::Forbidden.into());
            }
            Ok(taken.is_some())
        });
        taken.await
    };
    let (refused, taken) = tokio::join!(try_to_take(true), try_to_take(false));
    assert!(taken.unwrap());
    assert!(matches!(refused, Err(ServiceError::Refused(_)) | Ok(false)));
    assert!(!try_to_take(false).await.unwrap());
}

async fn the_audit_of_a_device_is_a_hash_chain(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    let key_package_ref = opened.store_key_package(alice, 1).await;
    opened
        .store
        .write(move |tx| {
            let group = group();
            for (transition, actor, group) in [
                (AuditTransition::Upload, Some("alice/alice-1"), None),
                (AuditTransition::Reserve, Some("bob/bob-1"), Some(&group)),
                (AuditTransition::Lapse, None, None),
            ] {
                tx.append_audits(&[(alice, &key_package_ref)], transition, (actor, group), NOW)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let verify = async || -> bool {
        let rows = opened
            .store
            .read(move |tx| Ok((tx.audit_rows(alice, 0, 9)?, tx.audit_head(alice)?)));
        let (rows, head) = rows.await.unwrap();
        let mut chain = AuditChain::default();
        rows.len() == 3 && rows.iter().all(|row| chain.follow(row).is_ok()) && chain.ends_at(&head)
    };
    assert!(verify().await);
    opened
        .execute("UPDATE audit SET actor = 'eve/eve-1' WHERE seq = 2", &[])
        .await;
    assert!(!verify().await, "a changed row breaks the chain");
}

async fn a_store_that_is_opened_again_is_the_same(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    let again = opened.another_node().await;
    let (incarnation, found) = again
        .read(move |tx| Ok((tx.incarnation()?, tx.device_by_id(&alice.device_id)?)))
        .await
        .unwrap();
    assert_eq!(incarnation, "first");
    assert_eq!(found.unwrap().key, alice.key);
}

/// Appends rows that happened at these seconds after [`NOW`].
async fn append_at(opened: &Opened, device: DeviceKey, times: &'static [u64]) {
    let key_package_ref = reference(1);
    let appended = opened.store.write(move |tx| {
        for time in times {
            let (lapse, nobody) = (AuditTransition::Lapse, (None, None));
            tx.append_audits(&[(device, &key_package_ref)], lapse, nobody, NOW.plus(*time))?;
        }
        Ok(())
    });
    appended.await.unwrap();
}

/// S8: however much is removed at a time, and whatever clocks said.
async fn what_is_left_of_an_audit_links_up_to_its_checkpoint(opened: Opened) {
    // Clocks went back in between.
    const TIMES: [u64; 6] = [5, 9, 7, 20, 3, 30];
    for (number, (before, kept)) in
        (1..).zip([(0, 6), (5, 6), (6, 5), (8, 5), (10, 3), (20, 3), (30, 1), (31, 0)])
    {
        for (budget, name, key) in [(1, "a", 0), (2, "b", 1), (9, "c", 2)] {
            let device = opened
                .register(&format!("{name}{number}"), number * 3 + key)
                .await
                .key;
            append_at(&opened, device, &TIMES).await;
            let mut removed = 0;
            loop {
                let pruned = opened
                    .store
                    .write(move |tx| Ok(tx.prune_audits(NOW.plus(before), budget)?));
                match pruned.await.unwrap() {
                    0 => break,
                    rows => removed += rows,
                }
            }
            assert_eq!(
                removed,
                (TIMES.len() - kept) as u64,
                "before {before}, {budget} at a time"
            );
            let left = opened.store.read(move |tx| {
                let (checkpoint, rows) = (tx.audit_checkpoint(device)?, tx.audit_rows(device, 0, 9)?);
                Ok((checkpoint, rows, tx.audit_head(device)?, tx.audit_oldest(device)?))
            });
            let (checkpoint, rows, head, oldest) = left.await.unwrap();
            assert_eq!((rows.len(), checkpoint.is_some()), (kept, removed > 0));
            let mut chain = checkpoint
                .as_ref()
                .map_or_else(|| Some(AuditChain::default()), AuditChain::after)
                .unwrap();
            assert!(rows.iter().all(|row| chain.follow(row).is_ok()) && chain.ends_at(&head));
            assert_eq!(oldest.map(|oldest| oldest.0), rows.first().map(|row| row.time));
            let gone = TIMES[..TIMES.len() - kept].iter().max();
            assert_eq!(
                checkpoint.map(|checkpoint| checkpoint.time),
                gone.map(|time| NOW.plus(*time).0)
            );
            // What comes next goes on from there.
            append_at(&opened, device, &[40]).await;
            let next = opened
                .store
                .read(move |tx| Ok((tx.audit_rows(device, head.seq, 9)?, tx.audit_head(device)?)));
            let (next, end) = next.await.unwrap();
            assert!(next.len() == 1 && chain.follow(&next[0]).is_ok() && chain.ends_at(&end));
            // It is not in the way of the others.
            let all = opened
                .store
                .write(move |tx| Ok(tx.prune_audits(NOW.plus(41), 99)?));
            assert_eq!(all.await.unwrap(), kept as u64 + 1);
        }
    }
}

async fn a_year_of_transitions_leaves_those_of_ninety_days(opened: Opened) {
    const DAY: u64 = 24 * 60 * 60;
    const ROWS_A_WEEK: usize = 6;
    let devices = [
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    ];
    let mut most = 0;
    for week in 0..52 {
        let now = NOW.plus(week * 7 * DAY);
        let passed = opened.store.write(move |tx| {
            for device in devices {
                for number in 0..ROWS_A_WEEK {
                    let key_package_ref = reference(number as u8);
                    let (upload, nobody) = (AuditTransition::Upload, (None, None));
                    tx.append_audits(&[(device, &key_package_ref)], upload, nobody, now)?;
                }
            }
            Ok(())
        });
        passed.await.unwrap();
        let swept = opened
            .store
            .write(move |tx| Ok(tx.prune_audits(now.minus(90 * DAY), 500)?));
        swept.await.unwrap();
        most = most.max(opened.count("SELECT count(*) FROM audit").await);
    }
    // The weeks that begin within the last ninety days.
    assert_eq!(most, 13 * ROWS_A_WEEK as u64 * devices.len() as u64);
    let rows = opened.store.read(move |tx| Ok(tx.audit_head(devices[0])?.seq));
    assert_eq!(rows.await.unwrap(), 52 * ROWS_A_WEEK as u64);
}

/// By the thread that commits: a request whose client goes away is dropped.
async fn a_message_is_told_though_nobody_waits_for_its_answer(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    let bob = opened.register("bob", 2).await.key;
    let start = opened.store.write(move |tx| start_group(tx, &[alice, bob]));
    start.await.unwrap();
    // Nothing but the message itself is put into a queue: who looks for rows by itself, or is told by another node, reads the store.
    let (queue, mut events) = Queue::new(2);
    let stream = opened.wakeups.stream(bob, 1, (queue, NOW.plus(1))).unwrap();
    let place = Place {
        position: 0,
        from_epoch: 0,
        roster_version: 0,
    };
    stream.listen_to(&[group()]);
    stream.is_at(HashMap::from([(group(), place)]));
    let (is_in, may_go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let meet = async |barrier: &Arc<Barrier>| {
        let barrier = Arc::clone(barrier);
        tokio::task::spawn_blocking(move || barrier.wait()).await.unwrap()
    };
    let barriers = (Arc::clone(&is_in), Arc::clone(&may_go_on));
    let mut sending = Box::pin(opened.store.write(move |tx| {
        let seq = say(tx, alice, b"said")?;
        tx.announce(NewMessage {
            group: group(),
            seq,
            epoch: 0,
            roster_version: 0,
            sender: alice,
            received_at: NOW,
            body: b"said".to_vec(),
        });
        barriers.0.wait();
        barriers.1.wait();
        Ok(())
    }));
    tokio::select! {
        _ = &mut sending => panic!("it goes on by itself"),
        _ = meet(&is_in) => {}
    }
    drop(sending);
    meet(&may_go_on).await;
    let event = timeout(PATIENCE, events.next())
        .await
        .expect("it is told")
        .unwrap();
    assert!(event.starts_with(b"data: "));
}
