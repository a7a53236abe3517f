//! Many adders, one pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_wire::{DeviceOutcome, GroupId, KeyPackageState, Reserved};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::{TestServer, count, outcomes, reserved_refs};

const ADDERS: usize = 64;
const POOL: usize = 32;

/// S1, S2, R-D2.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_adders_get_the_thirty_two_key_packages_of_a_pool_each_once() {
    let server = TestServer::start().await;
    let bob = server.device_with_key_packages("bob", POOL).await;
    let start = Arc::new(Barrier::new(ADDERS));
    let mut adders = JoinSet::new();
    for number in 0..ADDERS {
        let adder = server.device(&format!("adder{number}")).await;
        let group = GroupId::from_bytes(format!("group {number}").as_bytes()).unwrap();
        let request = adder.reserve_request(&[&bob], &group);
        let start = Arc::clone(&start);
        adders.spawn(async move {
            start.wait().await;
            let reserved: Reserved = adder
                .http
                .post_with_key("/v1/key-packages/reserve", "race", &request)
                .await
                .ok();
            reserved
        });
    }
    let answers = adders.join_all().await;

    let refs: Vec<_> = answers.iter().flat_map(reserved_refs).collect();
    assert_eq!(refs.len(), POOL);
    let distinct: BTreeSet<_> = refs.iter().cloned().collect();
    assert_eq!(distinct.len(), POOL, "no KeyPackage was handed out twice");
    let bytes: BTreeSet<_> = answers
        .iter()
        .flat_map(|answer| &answer.users[0].devices)
        .filter_map(|device| device.key_package.as_ref().map(|bytes| bytes.0.clone()))
        .collect();
    assert_eq!(bytes.len(), POOL);
    let outcomes: Vec<_> = answers.iter().flat_map(outcomes).collect();
    let of = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
    assert_eq!(
        (of(DeviceOutcome::Ok), of(DeviceOutcome::Exhausted)),
        (POOL, ADDERS - POOL)
    );

    let inventory = bob.inventory().await;
    assert_eq!(count(&inventory, KeyPackageState::Reserved), POOL);
    let known: BTreeSet<_> = inventory
        .items
        .iter()
        .map(|item| item.key_package_ref.clone())
        .collect();
    assert_eq!(known, distinct);

    let database = &server.database;
    for (sql, expected) in [
        ("SELECT count(*) FROM key_packages WHERE status = 1", POOL),
        ("SELECT count(*) FROM key_packages", POOL),
        ("SELECT count(DISTINCT holder) FROM reservations", POOL),
        ("SELECT count(DISTINCT id) FROM reservations", POOL),
        ("SELECT count(*) FROM audit WHERE transition = 'reserve'", POOL),
        (
            "SELECT count(DISTINCT ref) FROM audit WHERE transition = 'reserve'",
            POOL,
        ),
    ] {
        assert_eq!(database.count(sql).await, expected, "{sql}");
    }
}

/// S2.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_storm_under_one_idempotency_key_takes_one_key_package() {
    let server = TestServer::start().await;
    let bob = server.device_with_key_packages("bob", 8).await;
    let alice = Arc::new(server.device("alice").await);
    let request = alice.reserve_request(&[&bob], &GroupId::from_bytes(b"g").unwrap());
    let mut retries = JoinSet::new();
    for _ in 0..16 {
        let (alice, request) = (Arc::clone(&alice), request.clone());
        retries.spawn(async move {
            alice
                .http
                .post_with_key("/v1/key-packages/reserve", "once", &request)
                .await
                .body
        });
    }
    let answers: BTreeSet<Vec<u8>> = retries.join_all().await.into_iter().collect();
    assert_eq!(answers.len(), 1, "every retry gets the same bytes");
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Reserved), 1);
}
