//! R-D8, S8: what an owner can read about its own KeyPackages, and verify.

use larder_wire::{AuditChain, AuditPage, AuditRow, AuditTransition, GroupId, ProblemType};

use crate::support::{Device, TestServer, reserved_refs};

async fn page(device: &Device, after: u64, limit: u32) -> AuditPage {
    device
        .http
        .get(&format!("/v1/key-packages/audit?after={after}&limit={limit}"))
        .await
        .ok()
}

/// The whole chain, in pages of two, verified.
async fn verified(device: &Device) -> Vec<AuditRow> {
    let (mut chain, mut rows) = (AuditChain::default(), Vec::new());
    loop {
        let page = page(device, chain.seq(), 2).await;
        assert!(page.rows.len() <= 2);
        for row in page.rows {
            chain.follow(&row).unwrap();
            rows.push(row);
        }
        if chain.ends_at(&page.head) {
            return rows;
        }
    }
}

#[tokio::test]
async fn r_d8_s8_an_owner_reads_who_took_what_for_which_group_in_a_chain_that_it_can_verify() {
    let server = TestServer::unswept().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    assert_eq!(verified(&bob).await, []);
    let stocked = bob.stock(3).await;
    let group = GroupId::from_bytes(b"a group of alice").unwrap();
    let reserved = alice.reserve(&[&bob], &group).await;
    let [taken] = &reserved_refs(&reserved)[..] else {
        panic!("one KeyPackage");
    };
    let path = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    alice.http.post(&path, &()).await.done();
    let left = stocked.iter().find(|known| *known != taken).unwrap();
    bob.revoke(std::slice::from_ref(left)).await;

    let rows = verified(&bob).await;
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.transition, row.actor.as_deref(), row.group_id.as_ref()))
        .collect();
    let (me, other) = (Some("bob/bob-1"), Some("alice/alice-1"));
    assert_eq!(
        told,
        [
            (AuditTransition::Upload, me, None),
            (AuditTransition::Upload, me, None),
            (AuditTransition::Upload, me, None),
            (AuditTransition::Reserve, other, Some(&group)),
            (AuditTransition::Abandon, other, Some(&group)),
            (AuditTransition::Revoke, me, None),
        ]
    );
    let refs = rows[3..].iter().map(|row| &row.key_package_ref);
    assert!(refs.eq([taken, taken, left]));
    let uploaded = rows[..3].iter().map(|row| &row.key_package_ref);
    assert!(uploaded.eq(&stocked));
    assert_eq!(verified(&alice).await, [], "R-D8: nobody reads another's");
}

#[tokio::test]
async fn pages_of_an_audit_are_bounded_and_nothing_is_after_the_end() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    for _ in 0..5 {
        let refs = bob.stock(60).await;
        bob.revoke(&refs).await;
    }
    let first: AuditPage = bob.http.get("/v1/key-packages/audit").await.ok();
    assert_eq!((first.rows.len(), first.head.seq), (256, 600));
    assert_eq!(page(&bob, 0, 10_000).await, first);
    let last = page(&bob, 600, 256).await;
    assert_eq!(last.rows, []);
    assert_eq!(last.head, first.head);
    assert_eq!(page(&bob, u64::MAX, 256).await.rows, []);
    for query in ["limit=0", "limit=-1", "after=x"] {
        let path = format!("/v1/key-packages/audit?{query}");
        bob.http.get(&path).await.refused(ProblemType::Malformed);
    }
}

#[tokio::test]
async fn an_audit_begins_where_the_last_ninety_days_do() {
    const DAY: u64 = 24 * 60 * 60;
    let server = TestServer::unswept().await;
    let mut bob = server.device("bob").await;
    let refs = bob.stock(4).await;
    let before = verified(&bob).await;
    server.pass(60 * DAY);
    bob.open_session().await;
    bob.revoke(&refs[..3]).await;
    let all = verified(&bob).await;
    assert_eq!(all.len(), 7);
    server.pass(30 * DAY - 60);
    server.sweep().await;
    bob.open_session().await;
    let whole = page(&bob, 0, 256).await;
    assert_eq!(whole.checkpoint, None);
    assert_eq!(whole.rows[..7], all, "the sweep may have told of more");
    server.pass(120);
    server.sweep().await;
    let pruned = page(&bob, 0, 256).await;
    let checkpoint = pruned.checkpoint.clone().unwrap();
    let last = before.last().unwrap();
    assert_eq!(
        (checkpoint.seq, &checkpoint.hash, checkpoint.time),
        (4, &last.hash, last.time)
    );
    assert_eq!((&pruned.rows[..], &pruned.head), (&whole.rows[4..], &whole.head));
    let mut chain = AuditChain::after(&checkpoint).unwrap();
    assert!(pruned.rows.iter().all(|row| chain.follow(row).is_ok()));
    assert!(chain.ends_at(&pruned.head));
    // Whoever knows that much is not told of it.
    assert!(page(&bob, 3, 256).await.checkpoint.is_some());
    assert_eq!(page(&bob, 4, 256).await.checkpoint, None);
    // All of it goes in the end, and the next row follows all the same.
    server.pass(91 * DAY);
    server.sweep().await;
    bob.open_session().await;
    let nothing = page(&bob, 0, 256).await;
    assert_eq!(
        (&nothing.rows[..], nothing.checkpoint.unwrap().seq),
        (&[][..], pruned.head.seq)
    );
}

#[tokio::test]
async fn an_audit_is_not_pruned_by_a_clock_that_is_not_believed() {
    const DAY: u64 = 24 * 60 * 60;
    let server = TestServer::unswept().await;
    let mut bob = server.device_with_key_packages("bob", 2).await;
    server.sweep().await;
    server.set_clock(400 * 24 * 60 * 60);
    server.sweep().await;
    assert_eq!(page(&bob, 0, 256).await.checkpoint, None);
    server.set_clock(0);
    server.pass(91 * DAY);
    server.sweep().await;
    bob.open_session().await;
    assert!(page(&bob, 0, 256).await.checkpoint.is_some());
}
