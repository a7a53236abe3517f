//! What becomes of a store that was restored from a backup, before it is served again.

use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_server::Admin;
use larder_wire::{
    AuditPage, AuditTransition, Gap, GroupId, Inbox, InboxKind, KeyPackageState, Memberships, ProblemType,
};

use crate::support::{TestServer, count, reserved_refs};

#[tokio::test]
async fn s2_x2_a_restored_store_hands_nothing_out_that_it_may_have_handed_out_before() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 3).await;
    bob.stock_last_resort().await;
    let group = GroupId::from_bytes(b"a group of alice").unwrap();
    let reserved = alice.reserve(&[&bob], &group).await;
    alice.http = alice.http.with_state("AAAA");
    alice.acknowledge(alice.acknowledgement()).await.ok::<Inbox>();
    let before = bob.inventory().await;
    let stale = bob.http.clone();

    let admin = Admin::open(&server.database.location()).await.unwrap();
    let restored = admin.restored(UnixSeconds(server.time())).await.unwrap();
    assert_eq!((restored.devices, restored.revoked), (2, 4));

    // Whoever serves it from now on knows no session of before.
    let started = TestServer::start_on(Arc::clone(&server.database), |_| {}, false).await;
    started
        .http
        .with_token(stale.token.as_ref().unwrap())
        .get("/v1/key-packages")
        .await
        .refused(ProblemType::Unauthenticated);
    let session = bob.open_session().await;
    assert_eq!(session.state, None);
    let inventory = bob.inventory().await;
    assert_eq!(inventory.incarnation, restored.incarnation);
    assert_ne!(inventory.incarnation, before.incarnation);
    assert_ne!(inventory.digest, before.digest);
    assert_eq!(count(&inventory, KeyPackageState::Revoked), 4);
    let audit: AuditPage = bob.http.get("/v1/key-packages/audit").await.ok();
    let by_server = audit
        .rows
        .iter()
        .filter(|row| row.transition == AuditTransition::Revoke && row.actor.is_none());
    assert_eq!(by_server.count(), 4, "S8");
    let rows = bob.inbox().await;
    let low: Vec<_> = rows
        .iter()
        .filter(|row| row.kind == InboxKind::KeyPackagesLow)
        .collect();
    assert_eq!(low.len(), 1);

    // The mark of a device that used one is forgotten, and so is the answer to the reservation.
    alice.http = alice.http.with_state("BBBB");
    alice.open_session().await;
    assert_eq!(reserved_refs(&reserved).len(), 1);
    let again = alice.reserve(&[&bob], &group).await;
    assert_eq!(reserved_refs(&again), []);
    let mut findings = Vec::new();
    admin.check(|finding| findings.push(finding)).await.unwrap();
    assert_eq!(findings, []);
}

#[tokio::test]
async fn making_a_store_safe_again_withdraws_nothing_twice() {
    let server = TestServer::unswept().await;
    let mut bob = server.device_with_key_packages("bob", 2).await;
    let admin = Admin::open(&server.database.location()).await.unwrap();
    let now = UnixSeconds(server.time());
    let first = admin.restored(now).await.unwrap();
    let second = admin.restored(now).await.unwrap();
    assert_eq!((first.revoked, second.revoked), (2, 0));
    assert_ne!(first.incarnation, second.incarnation);
    bob.open_session().await;
    assert_eq!(bob.inbox().await.len(), 1);
}

#[tokio::test]
async fn x1_what_waited_in_the_backup_still_waits_after_the_restore() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 2).await;
    let (mut group, _) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    let one = alice.send(&mut group, "one").await;
    let admin = Admin::open(&server.database.location()).await.unwrap();
    admin.restored(UnixSeconds(server.time())).await.unwrap();
    alice.open_session().await;
    let listed: Memberships = alice.http.get("/v1/groups").await.ok();
    let two = alice.send(&mut group, "two").await;
    assert!(two.seq > u64::from(u32::MAX), "no device has seen its number");
    let expected = [Gap {
        first: one.seq + 1,
        last: two.seq - 1,
    }];
    assert_eq!(listed.groups[0].gaps, expected);
    assert_eq!(listed.groups[0].head, two.seq - 1);
    let of_user: Memberships = alice.http.get("/v1/groups?of=user").await.ok();
    assert_eq!(of_user.groups[0].gaps, expected);
    bob.open_session().await;
    let mut joined = bob.join().await;
    assert_eq!(bob.catch_up(&mut joined).await, ["one", "two"]);
}
