//! When a last resort is handed out, and to whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_wire::{
    DeviceOutcome, GroupId, Health, InboxKind, InventoryItem, KeyPackageRef, KeyPackageState,
    LastResortStatus, PoolStatus, ProblemType, ReserveRequest, Reserved,
};
use openmls::prelude::Ciphersuite;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{
    Device, KeyPackageSpec, TestServer, count, outcomes, reserved_refs, snapshot, state_of,
};

const PATH: &str = "/v1/key-packages/reserve";
const DAY: u64 = 24 * 60 * 60;

fn a_group() -> GroupId {
    GroupId::from_bytes(b"a group of alice").unwrap()
}

async fn reserve(device: &Device, request: &ReserveRequest) -> Reserved {
    let key = uuid::Uuid::new_v4().to_string();
    device.http.post_with_key(PATH, &key, request).await.ok()
}

async fn item(owner: &Device, key_package_ref: &KeyPackageRef) -> InventoryItem {
    let items = owner.inventory().await.items;
    items
        .into_iter()
        .find(|item| item.key_package_ref == *key_package_ref)
        .unwrap()
}

async fn inbox_kinds(device: &Device) -> Vec<InboxKind> {
    device.inbox().await.iter().map(|row| row.kind).collect()
}

/// R-D5.
#[tokio::test]
async fn the_last_resort_is_handed_out_when_nothing_else_is_left() {
    let server = TestServer::generous().await;
    let alice = server.device("alice").await;
    let carol = server.device("carol").await;
    let bob = server.device("bob").await;
    let minted = bob.mint_last_resort();
    let last_resort = bob.upload(std::slice::from_ref(&minted)).await.results[0]
        .key_package_ref
        .clone()
        .unwrap();
    let ordinary = bob.stock(1).await;

    let first = alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(outcomes(&first), [DeviceOutcome::Ok]);
    assert_eq!(reserved_refs(&first), ordinary);
    assert_eq!(item(&bob, &last_resort).await.used, Some(false));
    let unused = bob.inventory().await;

    let second = alice.reserve(&[&bob], &a_group()).await;
    let device = &second.users[0].devices[0];
    assert_eq!(
        (device.outcome, device.last_resort),
        (DeviceOutcome::LastResort, true)
    );
    assert_eq!(device.key_package_ref.as_ref(), Some(&last_resort));
    assert_eq!(device.key_package.as_ref().unwrap().0, minted);
    assert!(second.reservation_id.is_some());
    let used = item(&bob, &last_resort).await;
    assert_eq!(
        (used.state, used.used, used.reserved_until),
        (KeyPackageState::Available, Some(true), None)
    );

    // To others as well, and what the owner sees does not change any more.
    let inventory = bob.inventory().await;
    assert_ne!(inventory.digest, unused.digest);
    for adder in [&carol, &alice] {
        let reserved = adder.reserve(&[&bob], &a_group()).await;
        assert_eq!(reserved_refs(&reserved), std::slice::from_ref(&last_resort));
    }
    assert_eq!(bob.inventory().await, inventory);
    let status: PoolStatus = bob.http.get("/v1/key-packages/status").await.ok();
    let suite = &status.suites[0];
    assert_eq!((suite.available, suite.health), (0, Health::Empty));
    assert_eq!(
        suite.last_resort,
        LastResortStatus {
            present: true,
            used: true
        }
    );

    // An ordinary one goes first again as soon as there is one.
    let fresh = bob.stock(1).await;
    assert_eq!(reserved_refs(&carol.reserve(&[&bob], &a_group()).await), fresh);
}

#[tokio::test]
async fn without_a_last_resort_that_is_still_served_a_drained_device_is_exhausted() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device("bob").await;
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &a_group()).await),
        [DeviceOutcome::Exhausted]
    );
    // A retiring one is not handed out, not even when the newer one is withdrawn.
    let older = bob.stock_last_resort().await;
    let newer = bob.stock_last_resort().await;
    assert_eq!(
        reserved_refs(&alice.reserve(&[&bob], &a_group()).await),
        std::slice::from_ref(&newer)
    );
    bob.revoke(std::slice::from_ref(&newer)).await;
    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Retiring);
    let none = alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(outcomes(&none), [DeviceOutcome::Exhausted]);
    assert_eq!(none.reservation_id, None);

    // Nor is one with less life left than an inbox is kept.
    bob.stock_last_resort().await;
    server.pass(52 * DAY);
    alice.open_session().await;
    bob.open_session().await;
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &a_group()).await),
        [DeviceOutcome::LastResort]
    );
    server.pass(DAY + 60);
    alice.open_session().await;
    bob.open_session().await;
    let before = bob.inventory().await;
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &a_group()).await),
        [DeviceOutcome::Exhausted]
    );
    assert_eq!(bob.inventory().await, before);
}

#[tokio::test]
async fn a_last_resort_of_another_suite_is_incompatible_and_the_asked_suites_are_tried_in_order() {
    let server = TestServer::generous().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let chacha = bob.mint(KeyPackageSpec {
        last_resort: true,
        suite: Some(Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519),
        ..Default::default()
    });
    let uploaded = bob.upload(&[chacha]).await;
    let of_chacha = uploaded.results[0].key_package_ref.clone().unwrap();
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &a_group()).await),
        [DeviceOutcome::Incompatible]
    );
    let mut request = alice.reserve_request(&[&bob], &a_group());
    request.suites = vec![1, 3];
    assert_eq!(
        reserved_refs(&reserve(&alice, &request).await),
        std::slice::from_ref(&of_chacha)
    );
    let of_aes = bob.stock_last_resort().await;
    assert_eq!(
        reserved_refs(&reserve(&alice, &request).await),
        std::slice::from_ref(&of_aes)
    );
    // An ordinary one of the second suite goes before a last resort of the first.
    let ordinary = bob.mint(KeyPackageSpec {
        suite: Some(Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519),
        ..Default::default()
    });
    bob.upload(&[ordinary]).await;
    assert_eq!(outcomes(&reserve(&alice, &request).await), [DeviceOutcome::Ok]);
}

#[tokio::test]
async fn the_owner_is_told_that_its_last_resort_was_handed_out_unless_it_has_not_read_it_yet() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    bob.stock_last_resort().await;
    // Plenty of another suite: that the last resort is used is news all the same.
    let plenty: Vec<_> = (0..16)
        .map(|_| {
            bob.mint(KeyPackageSpec {
                suite: Some(Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519),
                ..Default::default()
            })
        })
        .collect();
    assert_eq!(bob.upload(&plenty).await.available, 16);
    assert!(bob.inbox().await.is_empty());
    for _ in 0..3 {
        alice.reserve(&[&bob], &a_group()).await;
    }
    assert_eq!(inbox_kinds(&bob).await, [InboxKind::KeyPackagesLow]);
    bob.ack(&bob.inbox().await[0]).await;
    alice.reserve(&[&bob], &a_group()).await;
    assert_eq!(
        inbox_kinds(&bob).await,
        [InboxKind::KeyPackagesLow],
        "told again after the acknowledgement"
    );
}

#[tokio::test]
async fn all_or_nothing_counts_a_user_with_nothing_but_a_last_resort_as_reachable() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let carol = server.device("carol").await;
    let last_resort = bob.stock_last_resort().await;
    let mut request = alice.reserve_request(&[&bob, &carol], &a_group());
    request.all_or_nothing = true;
    let before = snapshot(&[&bob, &carol], None).await;
    let withheld = reserve(&alice, &request).await;
    assert_eq!(
        outcomes(&withheld),
        [DeviceOutcome::Withheld, DeviceOutcome::Exhausted]
    );
    assert!(withheld.reservation_id.is_none() && reserved_refs(&withheld).is_empty());
    assert_eq!(
        snapshot(&[&bob, &carol], None).await,
        before,
        "not used, nobody told"
    );

    carol.stock(1).await;
    let reserved = reserve(&alice, &request).await;
    assert_eq!(
        outcomes(&reserved),
        [DeviceOutcome::LastResort, DeviceOutcome::Ok]
    );
    assert_eq!(reserved_refs(&reserved)[0], last_resort);
}

#[tokio::test]
async fn a_retry_under_one_idempotency_key_reserves_the_last_resort_once() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    bob.stock_last_resort().await;
    let request = alice.reserve_request(&[&bob], &a_group());
    let first = alice.http.post_with_key(PATH, "k-1", &request).await;
    assert_eq!(outcomes(&first.ok()), [DeviceOutcome::LastResort]);
    // The same bytes even when an ordinary one would be there by now.
    bob.stock(1).await;
    let again = alice.http.post_with_key(PATH, "k-1", &request).await;
    assert_eq!(again.body, first.body, "byte for byte");
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM reservations WHERE kind = 1 AND state = 0")
            .await,
        1
    );
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Available), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn adders_who_come_too_late_for_a_pool_all_get_the_last_resort() {
    const ADDERS: usize = 24;
    const POOL: usize = 8;
    let server = TestServer::generous().await;
    let bob = server.device_with_key_packages("bob", POOL).await;
    let last_resort = bob.stock_last_resort().await;
    let start = Arc::new(Barrier::new(ADDERS));
    let mut adders = JoinSet::new();
    for number in 0..ADDERS {
        let adder = server.device(&format!("adder{number}")).await;
        let group = GroupId::from_bytes(format!("group {number}").as_bytes()).unwrap();
        let request = adder.reserve_request(&[&bob], &group);
        let start = Arc::clone(&start);
        adders.spawn(async move {
            start.wait().await;
            reserve(&adder, &request).await
        });
    }
    let answers = adders.join_all().await;
    let of = |outcome| {
        answers
            .iter()
            .filter(|answer| outcomes(answer) == [outcome])
            .flat_map(reserved_refs)
            .collect::<Vec<_>>()
    };
    let (ordinary, late) = (of(DeviceOutcome::Ok), of(DeviceOutcome::LastResort));
    assert_eq!((ordinary.len(), late.len()), (POOL, ADDERS - POOL));
    assert_eq!(
        ordinary.into_iter().collect::<BTreeSet<_>>().len(),
        POOL,
        "each ordinary one once"
    );
    assert!(late.iter().all(|found| *found == last_resort));
    assert_eq!(inbox_kinds(&bob).await, [InboxKind::KeyPackagesLow]);

    // The database agrees.
    let count_of = |sql| server.database.count(sql);
    assert_eq!(
        count_of("SELECT count(DISTINCT holder) FROM reservations WHERE kind = 1").await,
        ADDERS - POOL
    );
    assert_eq!(
        count_of("SELECT count(DISTINCT group_id) FROM reservations WHERE kind = 1").await,
        ADDERS - POOL
    );
    assert_eq!(
        count_of("SELECT count(*) FROM key_packages WHERE kind = 1 AND status = 0 AND used = 1").await,
        1
    );
    assert_eq!(
        count_of("SELECT count(*) FROM audit WHERE transition = 'reserve'").await,
        ADDERS
    );
}

#[tokio::test]
async fn only_the_holder_gives_a_reservation_on_a_last_resort_up_and_it_stays_for_the_others() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mallory = server.device("mallory").await;
    let bob = server.device("bob").await;
    let carol = server.device_with_key_packages("carol", 1).await;
    let last_resort = bob.stock_last_resort().await;
    let reserved = alice.reserve(&[&bob, &carol], &a_group()).await;
    assert_eq!(
        outcomes(&reserved),
        [DeviceOutcome::LastResort, DeviceOutcome::Ok]
    );
    mallory.reserve(&[&bob], &a_group()).await;
    let path = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    let held = "SELECT count(*) FROM reservations WHERE kind = 1 AND state = 0";

    let before = snapshot(&[&bob, &carol], None).await;
    mallory.http.post(&path, &()).await.refused(ProblemType::NotFound);
    assert_eq!(
        (
            server.database.count(held).await,
            snapshot(&[&bob, &carol], None).await
        ),
        (2, before)
    );
    alice.http.post(&path, &()).await.done();
    assert_eq!(server.database.count(held).await, 1, "the other adder's stands");
    assert_eq!(count(&carol.inventory().await, KeyPackageState::Lapsed), 1);
    assert_eq!(state_of(&bob, &last_resort).await, KeyPackageState::Available);
    alice.http.post(&path, &()).await.done();

    // Of a last resort alone, a stranger learns no more.
    let alone = alice.reserve(&[&bob], &a_group()).await;
    let path = format!("/v1/reservations/{}/abandon", alone.reservation_id.unwrap());
    mallory.http.post(&path, &()).await.refused(ProblemType::NotFound);
    assert_eq!(server.database.count(held).await, 2);
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM audit WHERE transition = 'abandon'")
            .await,
        2
    );
}
