//! Reserving: what is disclosed, to whom, and what for.

use larder_wire::{
    DeviceOutcome, GroupId, InboxKind, KeyPackageState, ProblemType, ReserveRequest, Reserved, UserName,
};
use openmls::prelude::Ciphersuite;

use crate::support::{
    Device, KeyPackageSpec, TestServer, count, outcomes, reserved_refs, snapshot, state_of,
};

const PATH: &str = "/v1/key-packages/reserve";
const HOUR: u64 = 60 * 60;

fn a_group() -> GroupId {
    GroupId::from_bytes(b"a group of alice").unwrap()
}

async fn reserve(device: &Device, request: &ReserveRequest) -> Reserved {
    let key = uuid::Uuid::new_v4().to_string();
    device.http.post_with_key(PATH, &key, request).await.ok()
}

#[tokio::test]
async fn the_same_idempotency_key_gets_the_same_key_package() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let request = alice.reserve_request(&[&bob], &a_group());
    let first = alice.http.post_with_key(PATH, "k-1", &request).await;
    let reserved: Reserved = first.ok();
    assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok]);
    assert!(reserved.expires_at.abs_diff(server.time() + HOUR) <= 5);
    let after_first = bob.inventory().await;

    let again = alice.http.post_with_key(PATH, "k-1", &request).await;
    assert_eq!(again.body, first.body, "byte for byte");
    assert_eq!(bob.inventory().await, after_first);
    assert_eq!(count(&after_first, KeyPackageState::Reserved), 1);

    // Another body under the same key is refused; the same key of another device is another key.
    let other = ReserveRequest {
        suites: vec![3, 1],
        ..request.clone()
    };
    alice
        .http
        .post_with_key(PATH, "k-1", &other)
        .await
        .refused(ProblemType::IdempotencyMismatch);
    assert_eq!(bob.inventory().await, after_first);
    let carol = server.device("carol").await;
    let of_carol: Reserved = carol.http.post_with_key(PATH, "k-1", &request).await.ok();
    assert_ne!(reserved_refs(&of_carol), reserved_refs(&reserved));
}

#[tokio::test]
async fn a_retry_is_told_when_what_it_was_given_is_of_no_use() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let carol = server.device("carol").await;
    carol.stock_last_resort().await;
    let request = alice.reserve_request(&[&bob, &carol], &a_group());
    let first = alice.http.post_with_key(PATH, "k-1", &request).await;
    let reserved: Reserved = first.ok();
    assert_eq!(
        outcomes(&reserved),
        [DeviceOutcome::Ok, DeviceOutcome::LastResort]
    );
    assert_eq!(
        alice.http.post_with_key(PATH, "k-1", &request).await.body,
        first.body
    );
    let long = "SELECT count(*) FROM idempotent_answers WHERE length(answer) > 700";
    assert_eq!(
        server.database.count(long).await,
        0,
        "no KeyPackage is stored twice"
    );

    let abandon = format!(
        "/v1/reservations/{}/abandon",
        reserved.reservation_id.as_ref().unwrap()
    );
    alice.http.post(&abandon, &()).await.done();
    let again = alice.http.post_with_key(PATH, "k-1", &request).await;
    let refused = again.refused(ProblemType::ReservationLapsed);
    // The last resort, too: it is not the caller's to add any more.
    assert_eq!(refused.refs, reserved_refs(&reserved));
    // A last resort is for as many as ask.
    assert_eq!(reserve(&alice, &request).await.users.len(), 2);
}

#[tokio::test]
async fn the_bytes_that_are_disclosed_are_those_that_were_uploaded() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let minted = bob.mint(KeyPackageSpec::default());
    let uploaded = bob.upload(std::slice::from_ref(&minted)).await;
    let reserved = alice.reserve(&[&bob], &a_group()).await;
    let device = &reserved.users[0].devices[0];
    assert_eq!((&reserved.users[0].user, &device.device_id), (&bob.user, &bob.id));
    assert_eq!(device.key_package.as_ref().unwrap().0, minted);
    assert_eq!(device.key_package_ref, uploaded.results[0].key_package_ref);
    assert!(!device.last_resort);
    let item = &bob.inventory().await.items[0];
    assert_eq!(
        (item.state, item.reserved_until),
        (KeyPackageState::Reserved, Some(reserved.expires_at))
    );
}

/// R-D7.
#[tokio::test]
async fn an_unknown_user_refuses_the_request_and_reserves_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let before = snapshot(&[&alice, &bob], None).await;
    let mut request = alice.reserve_request(&[&bob], &a_group());
    request.users.push("nobody".parse().unwrap());
    alice
        .http
        .post_with_key(PATH, "k", &request)
        .await
        .refused(ProblemType::NotFound);
    assert_eq!(snapshot(&[&alice, &bob], None).await, before);
    // A refusal is not remembered under its key.
    server.device_with_key_packages("nobody", 1).await;
    let reserved: Reserved = alice.http.post_with_key(PATH, "k", &request).await.ok();
    assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok; 2]);
}

/// R-D4.
#[tokio::test]
async fn exhaustion_and_incompatibility_are_outcomes_of_a_device() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let empty = server.device("empty").await;
    let other = server.device("other").await;
    let chacha = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    other
        .upload(&[other.mint(KeyPackageSpec {
            suite: Some(chacha),
            ..Default::default()
        })])
        .await;

    let reserved = alice.reserve(&[&bob, &empty, &other], &a_group()).await;
    let expected = [
        DeviceOutcome::Ok,
        DeviceOutcome::Exhausted,
        DeviceOutcome::Incompatible,
    ];
    assert_eq!(outcomes(&reserved), expected);
    assert_eq!(reserved_refs(&reserved).len(), 1);
    let again = alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(outcomes(&again), [DeviceOutcome::Exhausted]);
    assert_eq!(again.reservation_id, None);

    let mut request = alice.reserve_request(&[&other], &a_group());
    request.suites = vec![1, 3];
    assert_eq!(outcomes(&reserve(&alice, &request).await), [DeviceOutcome::Ok]);
}

#[tokio::test]
async fn all_or_nothing_discloses_nothing_unless_everyone_can_be_added() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let carol = server.device("carol").await;
    let mut request = alice.reserve_request(&[&bob, &carol], &a_group());
    request.all_or_nothing = true;
    let before = snapshot(&[&bob, &carol], None).await;
    let reserved = reserve(&alice, &request).await;
    assert_eq!(
        outcomes(&reserved),
        [DeviceOutcome::Withheld, DeviceOutcome::Exhausted]
    );
    assert_eq!(
        (reserved.reservation_id.as_ref(), reserved_refs(&reserved).len()),
        (None, 0)
    );
    assert!(
        reserved
            .users
            .iter()
            .flat_map(|user| &user.devices)
            .all(|device| device.key_package.is_none())
    );
    assert_eq!(snapshot(&[&bob, &carol], None).await, before);

    carol.stock(1).await;
    let reserved = reserve(&alice, &request).await;
    assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok; 2]);
}

#[tokio::test]
async fn a_request_out_of_bounds_is_malformed_and_reserves_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let before = snapshot(&[&bob], None).await;
    let request = alice.reserve_request(&[&bob], &a_group());
    let nobody = ReserveRequest {
        users: vec![],
        ..request.clone()
    };
    let twice = ReserveRequest {
        users: vec![bob.user.clone(); 2],
        ..request.clone()
    };
    let crowd: Vec<UserName> = (0..65).map(|at| format!("u{at}").parse().unwrap()).collect();
    let crowd = ReserveRequest {
        users: crowd,
        ..request.clone()
    };
    let no_suite = ReserveRequest {
        suites: vec![],
        ..request.clone()
    };
    for request in [nobody, twice, crowd, no_suite] {
        alice
            .http
            .post_with_key(PATH, "k", &request)
            .await
            .refused(ProblemType::Malformed);
    }
    alice
        .http
        .post(PATH, &request)
        .await
        .refused(ProblemType::Malformed);
    for key in ["", &"k".repeat(65), "with space"] {
        alice
            .http
            .post_with_key(PATH, key, &request)
            .await
            .refused(ProblemType::Malformed);
    }
    assert_eq!(snapshot(&[&bob], None).await, before);
    alice
        .http
        .post_with_key(PATH, &"k".repeat(64), &request)
        .await
        .ok::<Reserved>();
}

#[tokio::test]
async fn only_the_holder_abandons_and_what_was_abandoned_is_gone_for_good() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mallory = server.device("mallory").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let reserved = alice.reserve(&[&bob], &a_group()).await;
    let key_package_ref = reserved_refs(&reserved).remove(0);
    let path = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());

    let before = snapshot(&[&bob], None).await;
    mallory.http.post(&path, &()).await.refused(ProblemType::NotFound);
    bob.http.post(&path, &()).await.refused(ProblemType::NotFound);
    assert_eq!(snapshot(&[&bob], None).await, before);

    alice.http.post(&path, &()).await.done();
    assert_eq!(state_of(&bob, &key_package_ref).await, KeyPackageState::Lapsed);
    alice.http.post(&path, &()).await.done();
    let again = alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(outcomes(&again), [DeviceOutcome::Exhausted]);
}

#[tokio::test]
async fn the_owner_is_told_once_that_its_pool_is_low() {
    let server = TestServer::generous().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    alice.reserve(&[&bob], &a_group()).await;
    assert!(bob.inbox().await.is_empty(), "eight are enough");
    for _ in 0..3 {
        alice.reserve(&[&bob], &a_group()).await;
    }
    let rows = bob.inbox().await;
    assert_eq!(
        rows.iter().map(|row| row.kind).collect::<Vec<_>>(),
        [InboxKind::KeyPackagesLow]
    );
    bob.ack(&rows[0]).await;
    alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(bob.inbox().await.len(), 1, "told again after the acknowledgement");
}
