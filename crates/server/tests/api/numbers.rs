//! What a device may acknowledge, and that it gets what it has not.

use larder_wire::{Inbox, InboxKind, InboxRow, NextRequest, Position, ProblemType};

use crate::delivery::scene;
use crate::support::{Device, TestServer};

/// A page of so many rows at most, of groups alone.
async fn page(device: &Device, limit: u32) -> Vec<InboxRow> {
    let request = NextRequest {
        limit: Some(limit),
        ..NextRequest::default()
    };
    let mut rows = device.next(&request).await.ok::<Inbox>().rows;
    rows.retain(|row| row.group_id.is_some());
    rows
}

#[tokio::test]
async fn numbers_of_another_incarnation_are_refused_with_all_that_came_with_them() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let sent = alice.send(&mut alices, "unread").await.seq;
    let mut other = bob.acknowledgement();
    other.incarnation = "another".to_owned();
    let nothing = other.clone();
    other.groups.push(Position {
        group_id: gid.clone(),
        seq: sent,
    });
    other.mail = Some(u64::MAX);
    for refused in [other, nothing] {
        bob.acknowledge(refused)
            .await
            .refused(ProblemType::OtherIncarnation);
    }
    assert_eq!(bob.rows(InboxKind::Message).await.len(), 1);
    bob.ack_up_to(&gid, sent).await.ok::<Inbox>();
    assert!(bob.inbox().await.is_empty());
}

#[tokio::test]
async fn nobody_acknowledges_beyond_the_commit_that_removed_them() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, bobs, gid) = scene(&server).await;
    let known = alice.send(&mut alices, "before").await.seq - 1;
    let removal = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    alice.commit(&mut alices, &removal).await;
    let later = alice.send(&mut alices, "after").await.seq;
    let removed_at = later - 1;
    for ahead in [later, later + 1, u64::MAX >> 1, u64::MAX] {
        let problem = bob
            .ack_up_to(&gid, ahead)
            .await
            .refused(ProblemType::PositionAhead);
        let position = Position {
            group_id: gid.clone(),
            seq: known,
        };
        assert_eq!(&*problem.positions, [position], "{ahead}");
    }
    let kinds: Vec<_> = page(&bob, 256).await.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [InboxKind::Message, InboxKind::Commit]);
    bob.ack_up_to(&gid, removed_at).await.ok::<Inbox>();
    assert!(bob.inbox().await.is_empty());
}

#[tokio::test]
async fn what_came_before_a_removal_comes_before_what_came_after_it() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, bobs, gid) = scene(&server).await;
    for number in 0..4 {
        alice.send(&mut alices, &format!("{number}")).await;
    }
    let removal = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    alice.commit(&mut alices, &removal).await;
    alice.send(&mut alices, "without bob").await;
    alice.invite(&mut alices, &[&bob]).await;
    // Of two groups each has its part of a page.
    let (mut others, _) = alice.create_group().await;
    alice.invite(&mut others, &[&bob]).await;
    let mut seen = Vec::new();
    loop {
        let mut rows = page(&bob, 4).await;
        rows.retain(|row| row.group_id.as_ref() == Some(&gid));
        let Some(last) = rows.last() else {
            break;
        };
        seen.extend(rows.iter().map(|row| (row.seq, row.kind)));
        bob.ack_up_to(&gid, last.seq).await.ok::<Inbox>();
    }
    let expected = [
        (2, InboxKind::Message),
        (3, InboxKind::Message),
        (4, InboxKind::Message),
        (5, InboxKind::Message),
        (6, InboxKind::Commit),
        (8, InboxKind::Welcome),
    ];
    assert_eq!(seen, expected);
}
