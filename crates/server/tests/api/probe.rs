//! What the owner is told of the KeyPackage that an adder would get, and that asking changes nothing.

use larder_wire::{DeviceOutcome, DeviceReservation, GroupId, ProblemType};

use crate::support::{Device, TestServer, reserved_refs, snapshot};

const SUITE: u16 = 1;

async fn probe(device: &Device, suite: u16) -> DeviceReservation {
    device
        .http
        .get(&format!("/v1/key-packages/probe?suite={suite}"))
        .await
        .ok()
}

#[tokio::test]
async fn a_probe_tells_what_an_adder_gets_next_and_takes_nothing() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    bob.stock(2).await;
    let before = snapshot(&[&alice, &bob], None).await;
    let probed = probe(&bob, SUITE).await;
    assert_eq!(probed.outcome, DeviceOutcome::Ok);
    assert_eq!(
        probe(&bob, SUITE).await,
        probed,
        "asking again takes nothing either"
    );
    assert_eq!(snapshot(&[&alice, &bob], None).await, before);

    let group = GroupId::from_bytes(b"a group of alice").unwrap();
    let reserved = alice.reserve(&[&bob], &group).await;
    assert_eq!(reserved_refs(&reserved), [probed.key_package_ref.unwrap()]);
    assert_eq!(reserved.users[0].devices[0].key_package, probed.key_package);
    assert_ne!(
        probe(&bob, SUITE).await.key_package,
        reserved.users[0].devices[0].key_package
    );
}

#[tokio::test]
async fn a_probe_falls_back_as_a_reservation_does_and_marks_nothing_used() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    assert_eq!(probe(&bob, SUITE).await.outcome, DeviceOutcome::Exhausted);
    let last_resort = bob.stock_last_resort().await;
    let probed = probe(&bob, SUITE).await;
    assert_eq!(
        (probed.outcome, probed.key_package_ref),
        (DeviceOutcome::LastResort, Some(last_resort))
    );
    assert_eq!(probe(&bob, 3).await.outcome, DeviceOutcome::Incompatible);
    assert_eq!(bob.inventory().await.items[0].used, Some(false));
    assert!(
        bob.inbox().await.is_empty(),
        "the owner is not told that its last resort was used"
    );
}

#[tokio::test]
async fn a_probe_needs_a_session_and_a_suite() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    server
        .http
        .get("/v1/key-packages/probe?suite=1")
        .await
        .refused(ProblemType::Unauthenticated);
    for query in ["", "?suite=", "?suite=x", "?suite=65536", "?suite=-1"] {
        bob.http
            .get(&format!("/v1/key-packages/probe{query}"))
            .await
            .refused(ProblemType::Malformed);
    }
}
