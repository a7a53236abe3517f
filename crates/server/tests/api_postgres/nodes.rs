//! Several nodes on one database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_server::Config;
use larder_wire::{
    DeviceOutcome, GroupId, Inbox, KeyPackageState, Memberships, ProblemType, Registered, Reserved,
};
use tokio::task::JoinSet;

use crate::database::Database;
use crate::support::{Device, Http, TestServer, count};

/// The first node, with the database, and the second.
async fn two_nodes() -> (TestServer, TestServer) {
    let one = TestServer::unswept().await;
    let two = another(&one).await;
    (one, two)
}

async fn another(one: &TestServer) -> TestServer {
    TestServer::start_on(Arc::clone(&one.database), |_| {}, false).await
}

/// The device's requests through another node.
fn through(node: &TestServer, device: &Device) -> Http {
    node.http.with_token(device.http.token.as_ref().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_on_an_empty_database_all_come_up() {
    let database = Arc::new(Database::create().await);
    let mut nodes = JoinSet::new();
    for _ in 0..4 {
        let database = Arc::clone(&database);
        nodes.spawn(async move { TestServer::start_on(database, |_| {}, false).await });
    }
    let nodes = nodes.join_all().await;
    let alice = nodes[0].device("alice").await;
    for node in &nodes {
        assert_eq!(node.http.get("/readyz").await.status, 200);
        let inventory: larder_wire::Inventory = through(node, &alice).get("/v1/key-packages").await.ok();
        assert_eq!(inventory.incarnation, alice.inventory().await.incarnation);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_registered_on_two_nodes_at_once_goes_to_one_of_them() {
    let (one, two) = two_nodes().await;
    for round in 0..10 {
        let name = format!("user{round}");
        let (first, second) = (Device::new(&one.http, &name), Device::new(&two.http, &name));
        let (first, second) = tokio::join!(first.register(), second.register());
        let (won, lost) = if first.status == 201 {
            (first, second)
        } else {
            (second, first)
        };
        won.ok::<Registered>();
        lost.refused(ProblemType::NameTaken);
    }
    assert_eq!(one.database.count("SELECT count(*) FROM users").await, 10);
    assert_eq!(one.database.count("SELECT count(*) FROM devices").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_create_no_more_accounts_in_an_hour_than_one() {
    let database = Arc::new(Database::create().await);
    let node = async || {
        let configure = |config: &mut Config| config.accounts_per_hour = 10;
        TestServer::start_on(Arc::clone(&database), configure, false).await
    };
    let nodes = [node().await, node().await];
    let mut registrations = JoinSet::new();
    for number in 0..40 {
        let device = Device::new(&nodes[number % 2].http, &format!("user{number}"));
        registrations.spawn(async move { device.register().await });
    }
    for answer in registrations.join_all().await {
        match answer.status {
            201 => drop(answer.ok::<Registered>()),
            _ => drop(answer.refused(ProblemType::RateLimited)),
        }
    }
    assert_eq!(database.count("SELECT count(*) FROM users").await, 10);
}

/// S2: a retry returns the same bytes, whichever node it comes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_under_one_idempotency_key_on_two_nodes_take_one_key_package() {
    let (one, two) = two_nodes().await;
    let bob = one.device_with_key_packages("bob", 8).await;
    let alice = one.device("alice").await;
    let request = alice.reserve_request(&[&bob], &GroupId::from_bytes(b"g").unwrap());
    let mut retries = JoinSet::new();
    for number in 0..16 {
        let http = through(if number % 2 == 0 { &one } else { &two }, &alice);
        let request = request.clone();
        retries.spawn(async move {
            let answer = http
                .post_with_key("/v1/key-packages/reserve", "once", &request)
                .await;
            answer.ok::<Reserved>();
            answer.body
        });
    }
    let answers: BTreeSet<Vec<u8>> = retries.join_all().await.into_iter().collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Reserved), 1);
    let audited = "SELECT count(*) FROM audit WHERE transition = 'reserve'";
    assert_eq!(one.database.count(audited).await, 1);
}

/// Has a KeyPackage of bob's reserved through one node while he waits at the other. Returns how long he waited then.
async fn woken_after(one: &TestServer, two: &TestServer, bob: &Device, alice: &Device) -> Duration {
    let waiting = through(two, bob);
    let poll = tokio::spawn(async move {
        let answer = waiting
            .post("/v1/inbox/next", &serde_json::json!({"wait": 30}))
            .await;
        (answer.ok::<Inbox>(), Instant::now())
    });
    // By the time that these are answered, the poll before them is under way.
    for _ in 0..8 {
        through(two, alice).get("/v1/groups").await.ok::<Memberships>();
    }
    let group = GroupId::from_bytes(b"g").unwrap();
    let request = alice.reserve_request(&[bob], &group);
    let key = uuid::Uuid::new_v4().to_string();
    let reserved: Reserved = through(one, alice)
        .post_with_key("/v1/key-packages/reserve", &key, &request)
        .await
        .ok();
    let reserved_at = Instant::now();
    assert_eq!(reserved.users[0].devices[0].outcome, DeviceOutcome::Ok);
    let (inbox, answered_at) = poll.await.unwrap();
    assert_eq!(inbox.rows.len(), 1, "the pool is low");
    bob.ack(&inbox.rows[0]).await;
    answered_at.saturating_duration_since(reserved_at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_on_another_node_is_woken_sooner_than_by_looking() {
    /// As many KeyPackages, so that each one that is taken leaves too few.
    const ROUNDS: usize = 8;
    /// Once the machine may have had something else to do.
    const SOON: usize = ROUNDS - 1;
    let (one, two) = two_nodes().await;
    let bob = one.device_with_key_packages("bob", ROUNDS).await;
    let mut waited = Vec::new();
    for round in 0..ROUNDS {
        let alice = one.device(&format!("alice{round}")).await;
        waited.push(woken_after(&one, &two, &bob, &alice).await);
    }
    // A node looks every two seconds: one that only looks is this soon, this often, one time in thirty.
    waited.sort();
    assert!(waited[SOON - 1] < Duration::from_secs(1), "bob waited {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_on_another_node_is_answered_when_no_notification_reaches_it() {
    let (one, two) = two_nodes().await;
    let bob = one.device_with_key_packages("bob", 1).await;
    let alice = one.device("alice").await;
    let channel = format!("larder_{}", bob.inventory().await.incarnation.replace('-', ""));
    let client = one.database.connect().await;
    // Both nodes listen by now; they come back after a second at the earliest.
    let cut_off = client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = $1",
            &[&format!("LISTEN {channel}")],
        )
        .await
        .unwrap();
    assert!(cut_off >= 1);
    woken_after(&one, &two, &bob, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_differs_leaves_the_sweep_to_the_others() {
    const DAY: u64 = 24 * 60 * 60;
    let one = TestServer::unswept().await;
    one.sweep().await;
    for ahead in [2 * DAY, 39 * DAY] {
        let database = Arc::clone(&one.database);
        let two = TestServer::start_with_clock(database, |_| {}, false, ahead.cast_signed()).await;
        two.sweep().await;
        assert_eq!(two.service.clock_suspension(), None, "the other may have ended");
        one.pass(30);
        one.sweep().await;
        two.pass(30);
        two.sweep().await;
        assert!(two.service.clock_suspension().is_some());
        let by_one = format!(
            "SELECT count(*) FROM clock WHERE last_sweep < {}",
            one.time() + DAY
        );
        assert_eq!(one.database.count(&by_one).await, 1);
        one.sweep().await;
        assert_eq!(one.service.clock_suspension(), None);
        two.set_clock(0);
        two.sweep().await;
        assert_eq!(two.service.clock_suspension(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_alone_sweeps_after_a_minute() {
    let one = TestServer::unswept().await;
    one.sweep().await;
    let two = another(&one).await;
    two.pass(7 * 24 * 60 * 60);
    let swept_by_two = format!(
        "SELECT count(*) FROM clock WHERE last_sweep > {}",
        one.time() + 86_400
    );
    two.sweep().await;
    assert_eq!(two.database.count(&swept_by_two).await, 0);
    two.pass(60);
    two.sweep().await;
    assert_eq!(two.database.count(&swept_by_two).await, 1);
}

/// The other one is told by a notification, and finds it out by itself within two seconds where none arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_on_one_node_is_good_on_no_other_within_two_seconds() {
    let (one, two) = two_nodes().await;
    let channel = {
        let watcher = one.device("watcher").await;
        format!(
            "larder_{}",
            watcher.inventory().await.incarnation.replace('-', "")
        )
    };
    for (name, is_told) in [("alice", true), ("bob", false)] {
        let device = one.device(name).await;
        let there = through(&two, &device);
        there.get("/v1/groups").await.ok::<Memberships>();
        if !is_told {
            let client = one.database.connect().await;
            let listening = format!("LISTEN {channel}");
            client
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = $1",
                    &[&listening],
                )
                .await
                .unwrap();
        }
        device.remove_device(&device.id).await.done();
        let removed_at = Instant::now();
        // A request that began within the two seconds may be answered.
        loop {
            let asked_at = Instant::now();
            let answer = there.get("/v1/groups").await;
            if answer.status == 401 {
                break;
            }
            assert!(
                asked_at.duration_since(removed_at) < Duration::from_secs(2),
                "{name}"
            );
        }
        // Nor does anything that changes something pass meanwhile.
        device
            .http
            .get("/v1/groups")
            .await
            .refused(ProblemType::Unauthenticated);
    }
}
