//! Who finds what of a group's log.

use larder_lifecycle::UnixSeconds;
use larder_wire::{GroupId, ProblemType};

use super::harness::{NOW, Opened, commit, group, say, start_group, waiting};
use crate::delivery::inbox::{PageLimit, Positions, page};
use crate::error::ServiceError;
use crate::store::{BodyGone, DeviceKey, LogKind, LogRange, NewRow, Part, Tx};

on_both_engines! {
    an_acknowledgement_that_runs_ahead_is_told_and_acknowledges_nothing;
    acknowledging_less_takes_nothing_back;
    a_device_finds_what_came_while_it_was_entitled_and_can_come_back;
    a_message_is_kept_until_everybody_has_it_or_it_is_too_old;
    the_sender_with_most_loses_its_own_oldest;
    what_senders_leave_behind_goes_oldest_first;
    a_welcome_and_its_tree_go_when_the_last_joiner_has_it;
    handshakes_are_kept_for_as_long_as_the_stored_state_needs_them;
    a_group_without_members_is_deleted_with_all_that_is_its_own;
    a_number_that_a_refused_message_took_is_given_to_the_next_one;
    a_page_is_bounded_whatever_groups_it_is_of;
}

async fn members(opened: &Opened) -> (DeviceKey, DeviceKey) {
    let (alice, bob) = (
        opened.register("alice", 1).await.key,
        opened.register("bob", 2).await.key,
    );
    let start = opened.store.write(move |tx| start_group(tx, &[alice, bob]));
    start.await.unwrap();
    (alice, bob)
}

async fn run<T: Send + 'static>(
    opened: &Opened,
    work: impl Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
) -> T {
    opened.store.write(work).await.unwrap()
}

async fn an_acknowledgement_that_runs_ahead_is_told_and_acknowledges_nothing(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    run(&opened, move |tx| say(tx, alice, b"one")).await;
    run(&opened, move |tx| say(tx, alice, b"two")).await;
    let acknowledge = async |seq: u64| run(&opened, move |tx| Ok(tx.acknowledge(&group(), bob, seq)?)).await;
    assert_eq!(acknowledge(1).await, None);
    for ahead in [3, 1 << 32, i64::MAX as u64, u64::MAX] {
        assert_eq!(acknowledge(ahead).await, Some(1), "{ahead}");
    }
    assert_eq!(run(&opened, move |tx| waiting(tx, bob)).await, [2]);
    assert_eq!(acknowledge(2).await, None);
    assert_eq!(run(&opened, move |tx| say(tx, alice, b"three")).await, 3);
    assert_eq!(run(&opened, move |tx| waiting(tx, bob)).await, [3]);
}

async fn acknowledging_less_takes_nothing_back(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    for text in [&b"one"[..], b"two", b"three"] {
        run(&opened, move |tx| say(tx, alice, text)).await;
    }
    for (seq, left) in [(2, 1), (1, 1), (0, 1), (2, 1), (3, 0)] {
        let done = run(&opened, move |tx| Ok(tx.acknowledge(&group(), bob, seq)?)).await;
        assert_eq!(done, None);
        assert_eq!(
            run(&opened, move |tx| waiting(tx, bob)).await.len(),
            left,
            "{seq}"
        );
    }
}

async fn a_device_finds_what_came_while_it_was_entitled_and_can_come_back(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    let carol = opened.register("carol", 3).await.key;
    run(&opened, move |tx| say(tx, alice, b"before carol")).await;
    let added = run(&opened, move |tx| commit(tx, alice, (0, 0), &[carol])).await;
    assert_eq!(added, 2);
    run(&opened, move |tx| say(tx, bob, b"with carol")).await;
    let removed = run(&opened, move |tx| {
        let seq = commit(tx, alice, (2, 1), &[])?;
        tx.end_intervals(&group(), &[carol], seq)?;
        Ok(seq)
    })
    .await;
    run(&opened, move |tx| say(tx, alice, b"without carol")).await;
    assert_eq!(run(&opened, move |tx| waiting(tx, carol)).await, [2, 3, 4]);
    assert!(!run(&opened, move |tx| Ok(tx.is_member(&group(), carol)?)).await);
    let again = run(&opened, move |tx| commit(tx, bob, (removed, 2), &[carol])).await;
    run(&opened, move |tx| say(tx, alice, b"again with carol")).await;
    assert_eq!(
        run(&opened, move |tx| waiting(tx, carol)).await,
        [2, 3, 4, again, again + 1],
        "and nothing of what came between"
    );
    // What ended and was read leaves nothing behind.
    run(&opened, move |tx| Ok(tx.acknowledge(&group(), carol, removed)?)).await;
    let intervals = run(&opened, move |tx| Ok(tx.intervals(carol)?)).await;
    assert_eq!(intervals.len(), 1);
    assert_eq!((intervals[0].from_seq, intervals[0].from_epoch), (again, 3));
    // Leaving takes the unread with it.
    assert!(run(&opened, move |tx| Ok(tx.is_member(&group(), carol)?)).await);
    run(&opened, move |tx| Ok(tx.drop_intervals(&group(), carol)?)).await;
    assert_eq!(run(&opened, move |tx| waiting(tx, carol)).await, [] as [u64; 0]);
    assert!(!run(&opened, move |tx| Ok(tx.is_member(&group(), carol)?)).await);
}

/// Why the bodies of the rows are gone, as `reader` finds them.
fn gone(tx: &Tx<'_>, reader: DeviceKey) -> Result<Vec<Option<BodyGone>>, ServiceError> {
    let range = LogRange {
        after: 0,
        until: u64::MAX >> 1,
        rows_max: 99,
        bytes_max: usize::MAX,
    };
    let rows = tx.log_rows(&group(), reader, range)?;
    for row in &rows {
        assert_eq!(row.body.is_none(), row.gone.is_some(), "row {}", row.seq);
    }
    Ok(rows.iter().map(|row| row.gone).collect())
}

async fn a_message_is_kept_until_everybody_has_it_or_it_is_too_old(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    for text in [&b"one"[..], b"two", b"three"] {
        run(&opened, move |tx| say(tx, alice, text)).await;
    }
    let sweep = async |before: UnixSeconds| {
        run(&opened, move |tx| {
            Ok(tx.sweep_bodies(&group(), (before, NOW), 9)?)
        })
        .await
    };
    let bytes = async || run(&opened, move |tx| Ok(tx.waiting_bytes(&group(), alice)?)).await;
    assert_eq!(bytes().await, (11, 11));
    run(&opened, move |tx| Ok(tx.acknowledge(&group(), bob, 2)?)).await;
    assert_eq!(
        sweep(NOW).await,
        0,
        "the sender has not come for its own row either"
    );
    run(&opened, move |tx| Ok(tx.acknowledge(&group(), alice, 1)?)).await;
    assert_eq!(sweep(NOW).await, 1);
    assert_eq!(bytes().await, (8, 8));
    let read = Some(BodyGone::Read);
    assert_eq!(run(&opened, move |tx| gone(tx, bob)).await, [read, None, None]);
    assert_eq!(sweep(NOW.plus(1)).await, 2);
    let age = Some(BodyGone::Age);
    assert_eq!(run(&opened, move |tx| gone(tx, bob)).await, [read, age, age]);
    assert_eq!(bytes().await, (0, 0));
    assert_eq!(opened.count("SELECT count(*) FROM bodies").await, 0);
    assert_eq!(
        run(&opened, move |tx| waiting(tx, bob)).await,
        [3],
        "the row stays"
    );
    let none = run(&opened, |tx| Ok(tx.groups_waiting(None, 9)?)).await;
    assert!(none.is_empty());
}

async fn the_sender_with_most_loses_its_own_oldest(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    run(&opened, move |tx| say(tx, bob, b"small")).await;
    for number in 0..3_u8 {
        let body = [number; 100];
        run(&opened, move |tx| say(tx, alice, &body)).await;
    }
    run(&opened, move |tx| {
        Ok(tx.forget_oldest_of_largest_sender(&group(), 101)?)
    })
    .await;
    let quota = Some(BodyGone::Quota);
    let carol = opened.register("carol", 3).await.key;
    assert_eq!(
        run(&opened, move |tx| gone(tx, carol)).await,
        [None, quota, quota, None]
    );
    let left = run(&opened, move |tx| Ok(tx.waiting_bytes(&group(), alice)?)).await;
    assert_eq!(left, (100, 105));
    run(&opened, move |tx| {
        Ok(tx.forget_oldest_of_largest_sender(&group(), 1)?)
    })
    .await;
    assert_eq!(
        run(&opened, move |tx| gone(tx, carol)).await,
        [None, quota, quota, quota]
    );
    run(&opened, move |tx| say(tx, alice, b"more")).await;
    run(&opened, move |tx| {
        Ok(tx.forget_oldest_of_largest_sender(&group(), 1)?)
    })
    .await;
    assert_eq!(
        run(&opened, move |tx| gone(tx, carol)).await,
        [quota, quota, quota, quota, None],
        "Bob has more"
    );
}

async fn what_senders_leave_behind_goes_oldest_first(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    for (sender, text) in [(alice, b"one"), (bob, b"two"), (alice, b"six")] {
        run(&opened, move |tx| say(tx, sender, text)).await;
    }
    let carol = opened.register("carol", 3).await.key;
    run(&opened, move |tx| {
        tx.begin_interval(&group(), carol, (3, 1))?;
        tx.drop_intervals(&group(), alice)?;
        Ok(tx.drop_intervals(&group(), bob)?)
    })
    .await;
    let quota = Some(BodyGone::Quota);
    for expected in [[quota, None, None], [quota, quota, None], [quota; 3], [quota; 3]] {
        run(&opened, move |tx| {
            Ok(tx.forget_oldest_of_largest_sender(&group(), 1)?)
        })
        .await;
        assert_eq!(run(&opened, move |tx| gone(tx, carol)).await, expected);
    }
    let left = run(&opened, move |tx| Ok(tx.waiting_bytes(&group(), carol)?)).await;
    assert_eq!(left, (0, 0));
}

async fn a_welcome_and_its_tree_go_when_the_last_joiner_has_it(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    let (carol, dave) = (
        opened.register("carol", 3).await.key,
        opened.register("dave", 4).await.key,
    );
    let seq = run(&opened, move |tx| commit(tx, alice, (0, 0), &[carol, dave])).await;
    let left = async || {
        run(&opened, |tx| Ok(tx.sweep_welcomes(9)?)).await;
        opened.count("SELECT count(*) FROM bodies WHERE part > 0").await
    };
    assert_eq!(left().await, 2);
    for device in [bob, carol] {
        run(&opened, move |tx| Ok(tx.acknowledge(&group(), device, seq)?)).await;
        assert_eq!(left().await, 2);
    }
    let is_welcomed =
        async |device| run(&opened, move |tx| Ok(tx.is_welcomed_at(&group(), device, seq)?)).await;
    assert!(is_welcomed(dave).await && !is_welcomed(carol).await && !is_welcomed(bob).await);
    run(&opened, move |tx| Ok(tx.acknowledge(&group(), dave, seq)?)).await;
    assert_eq!(left().await, 0);
    run(&opened, move |tx| Ok(tx.insert_tree(&group(), seq, b"late")?)).await;
    assert_eq!(left().await, 0, "a tree that nobody needs any more");
    let commit = run(&opened, move |tx| Ok(tx.body(&group(), seq, Part::Whole)?)).await;
    assert!(commit.is_some());
}

async fn handshakes_are_kept_for_as_long_as_the_stored_state_needs_them(opened: Opened) {
    let (alice, _) = members(&opened).await;
    let mut state_seq = 0;
    for epoch in 0..3 {
        state_seq = run(&opened, move |tx| commit(tx, alice, (state_seq, epoch), &[])).await;
    }
    let sweep = async || run(&opened, |tx| Ok(tx.sweep_handshakes(NOW.plus(1), 9)?)).await;
    assert_eq!(sweep().await, 0);
    run(&opened, |tx| Ok(tx.set_snapshot(&group(), 2, b"later")?)).await;
    run(&opened, |tx| Ok(tx.set_snapshot(&group(), 1, b"earlier")?)).await;
    let stored = run(&opened, |tx| Ok(tx.snapshot(&group())?)).await;
    assert_eq!(stored, Some((2, b"later".to_vec())), "the newer one stays");
    assert_eq!(sweep().await, 2);
    let kept = run(&opened, |tx| Ok(tx.handshakes(&group(), 0, (9, 999))?)).await;
    let kept: Vec<bool> = kept.iter().map(|row| row.body.is_some()).collect();
    assert_eq!(kept, [false, false, true]);
    let counted = "SELECT handshake_bytes FROM groups";
    assert_eq!(opened.count(counted).await, b"Commit of epoch 2".len() as u64);
    let stale = run(&opened, |tx| {
        Ok(tx.next_for_handshake(&group(), 2, (true, 1))?.is_none())
    })
    .await;
    assert!(stale, "judged against a state that is not the present one");
}

async fn a_group_without_members_is_deleted_with_all_that_is_its_own(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    run(&opened, move |tx| say(tx, alice, b"one")).await;
    run(&opened, move |tx| commit(tx, alice, (0, 0), &[])).await;
    run(&opened, |tx| Ok(tx.set_group_info(&group(), b"info")?)).await;
    let sweep = async || {
        while run(&opened, |tx| Ok(tx.sweep_empty_groups(NOW.plus(1), 1)?)).await > 0 {}
        opened.count("SELECT count(*) FROM groups").await
    };
    for device in [alice, bob] {
        assert_eq!(sweep().await, 1);
        run(&opened, move |tx| {
            tx.drop_intervals(&group(), device)?;
            Ok(tx.note_roster_change(&group(), NOW)?)
        })
        .await;
    }
    assert_eq!(sweep().await, 0);
    for rows in [
        "SELECT count(*) FROM bodies",
        "SELECT count(*) FROM log",
        "SELECT count(*) FROM members",
        "SELECT count(*) FROM group_states",
        "SELECT count(*) FROM group_infos",
    ] {
        assert_eq!(opened.count(rows).await, 0, "{rows}");
    }
}

async fn a_number_that_a_refused_message_took_is_given_to_the_next_one(opened: Opened) {
    let (alice, bob) = members(&opened).await;
    run(&opened, move |tx| say(tx, alice, b"one")).await;
    let refused = opened.store.write(move |tx| {
        tx.next_for_messages(&group(), (1, 5))?;
        Err::<(), _>(ProblemType::Forbidden.into())
    });
    assert!(refused.await.is_err());
    run(&opened, move |tx| {
        tx.next_for_messages(&group(), (2, 5))?;
        tx.count_waiting(&group(), alice, 5)?;
        Ok(tx.give_back(&group(), alice, (2, 5))?)
    })
    .await;
    assert_eq!(run(&opened, move |tx| say(tx, bob, b"two")).await, 2);
    let bytes = run(&opened, move |tx| Ok(tx.waiting_bytes(&group(), bob)?)).await;
    assert_eq!(bytes, (3, 6));
}

async fn a_page_is_bounded_whatever_groups_it_is_of(opened: Opened) {
    const BYTES: usize = 100;
    let alice = opened.register("alice", 1).await.key;
    let bob = opened.register("bob", 2).await;
    let key = bob.key;
    let fill = move |tx: &Tx<'_>| {
        for number in 0..9 {
            let group = GroupId::from_bytes(&[number]).unwrap();
            assert!(tx.insert_group(&group, 1, NOW)?);
            tx.begin_interval(&group, key, (0, 0))?;
            let body = [number; BYTES - 20];
            let row = NewRow {
                kind: LogKind::Message,
                epoch: 0,
                sender: alice,
                sha256: &[number; 32],
                transcript_hash: None,
                body: &body,
            };
            let seq = tx.next_for_messages(&group, (1, body.len()))?.unwrap().seq;
            tx.insert_rows(&group, &[(seq, row)], NOW)?;
        }
        Ok(())
    };
    run(&opened, fill).await;
    // Each has a row that is larger than the group's part of a page.
    let limit = PageLimit {
        rows: 50,
        bytes: BYTES,
    };
    let mut read = Positions::new();
    for pages in 0.. {
        let (bob, so_far) = (bob.clone(), read.clone());
        let rows = run(&opened, move |tx| page(tx, &bob, (&so_far, 0), limit))
            .await
            .rows;
        if rows.is_empty() {
            assert_eq!((read.len(), pages), (9, 5));
            break;
        }
        assert!(rows.len() <= 2, "{} rows", rows.len());
        read.extend(rows.into_iter().map(|row| (row.group_id.unwrap(), row.seq)));
    }
}
