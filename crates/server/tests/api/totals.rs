//! What all users of a store may do together.

use larder_server::{AddressLimits, Config};
use larder_wire::{BlobStored, ProblemType, Registered};
use reqwest::Method;
use tokio::task::JoinSet;

use crate::support::{Answer, Device, TestServer};

const KIB: usize = 1024;

async fn with(configure: impl FnOnce(&mut Config)) -> TestServer {
    let configure = |config: &mut Config| {
        config.addresses = AddressLimits::none();
        configure(config);
    };
    TestServer::start_with(configure, false).await
}

async fn register(server: &TestServer, user: &str) -> Answer {
    Device::new(&server.http, user).register().await
}

async fn store(device: &Device, key: &str, bytes: usize) -> Answer {
    let request = device.http.request(Method::POST, "/v1/blobs");
    let request = request
        .header("Idempotency-Key", key)
        .header("Content-Type", "application/octet-stream");
    Answer::to(request.body(vec![7; bytes])).await
}

/// How many of these succeeded; the others were refused like this.
fn succeeded(answers: &[Answer], refused: ProblemType) -> usize {
    let failed = answers.iter().filter(|answer| answer.status != 201);
    let failed = failed.inspect(|answer| drop(answer.refused(refused))).count();
    answers.len() - failed
}

#[tokio::test]
async fn so_many_accounts_are_created_in_an_hour() {
    let server = with(|config| config.accounts_per_hour = 3).await;
    for user in ["alice", "bob"] {
        register(&server, user).await.ok::<Registered>();
    }
    // One that is not created does not count.
    register(&server, "alice").await.refused(ProblemType::NameTaken);
    server.pass(1000);
    register(&server, "carol").await.ok::<Registered>();
    let refused = register(&server, "dave").await;
    refused.refused(ProblemType::RateLimited);
    let wait = refused.retry_after.unwrap();
    assert!((2500..=2600).contains(&wait), "{wait}");
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 3);
    server.pass(wait);
    for user in ["dave", "erin", "frank"] {
        register(&server, user).await.ok::<Registered>();
    }
    register(&server, "grace").await.refused(ProblemType::RateLimited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_register_at_once_so_many_succeed() {
    let server = with(|config| config.accounts_per_hour = 10).await;
    let mut registrations = JoinSet::new();
    for number in 0..40 {
        let device = Device::new(&server.http, &format!("user{number}"));
        registrations.spawn(async move { device.register().await });
    }
    let answers = registrations.join_all().await;
    assert_eq!(succeeded(&answers, ProblemType::RateLimited), 10);
    assert_eq!(server.database.count("SELECT count(*) FROM users").await, 10);
}

#[tokio::test]
async fn files_of_all_users_together_are_bounded() {
    let server = with(|config| config.blobs.store_bytes_max = 100 * KIB as u64).await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let stored: BlobStored = store(&alice, "a", 60 * KIB).await.ok();
    store(&bob, "b", 40 * KIB).await.ok::<BlobStored>();
    let refused = store(&bob, "c", 1).await.refused(ProblemType::TooLarge);
    assert_eq!(
        refused.detail.unwrap(),
        "as much as may be is stored on this server"
    );
    // What is there already is not stored again.
    store(&bob, "b", 40 * KIB).await.ok::<BlobStored>();
    let path = format!("/v1/blobs/{}", stored.blob_id);
    Answer::to(alice.http.request(Method::DELETE, &path)).await.done();
    store(&bob, "c", 1).await.refused(ProblemType::TooLarge);
    server.sweep().await;
    store(&bob, "c", 60 * KIB).await.ok::<BlobStored>();
    store(&alice, "d", 1).await.refused(ProblemType::TooLarge);
    assert_eq!(bytes(&server).await, 100 * KIB);
}

/// What is counted, which must be what is there.
async fn bytes(server: &TestServer) -> usize {
    let counted = server.database.count("SELECT blob_bytes FROM totals").await;
    let sum = "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM blobs";
    assert_eq!(server.database.count(sum).await, counted);
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_files_that_are_stored_at_once_so_many_find_room() {
    let server = with(|config| {
        config.blobs.store_bytes_max = 50 * KIB as u64;
        config.limits.transfers_per_user_max = 100;
    })
    .await;
    let mut uploads = JoinSet::new();
    for number in 0..12 {
        let device = server.device(&format!("user{number}")).await;
        uploads.spawn(async move { store(&device, "k", 10 * KIB).await });
    }
    let answers = uploads.join_all().await;
    assert_eq!(succeeded(&answers, ProblemType::TooLarge), 5);
    assert_eq!(bytes(&server).await, 50 * KIB);
}

#[tokio::test]
async fn a_file_counts_until_the_sweeper_has_removed_it() {
    let server = with(|_| {}).await;
    let alice = server.device("alice").await;
    store(&alice, "k", 600 * KIB).await.ok::<BlobStored>();
    store(&alice, "l", 1).await.ok::<BlobStored>();
    assert_eq!(bytes(&server).await, 600 * KIB + 1);
    server.pass(31 * 24 * 60 * 60);
    server.sweep().await;
    assert_eq!(bytes(&server).await, 0);
}
