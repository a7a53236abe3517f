//! Blobs: what they cost, who may fetch and end them, and that they are stored whole or not at all.

use larder_lifecycle::Rate;
use larder_server::Config;
use larder_wire::{BlobStored, Handshakes, LEAF_BYTES_MAX, ProblemType, ServerInfo};
use reqwest::{Body, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Http, TestServer, padded_leaf};

const DAY: u64 = 24 * 60 * 60;
const MIB: usize = 1024 * 1024;

/// Bytes of which no two parts are the same.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + at / 251 + at / 262_144) % 256).unwrap())
        .collect()
}

async fn store(http: &Http, key: &str, body: impl Into<Body>) -> Answer {
    let request = http
        .request(Method::POST, "/v1/blobs")
        .header("Idempotency-Key", key)
        .header("Content-Type", "application/octet-stream")
        .body(body);
    Answer::to(request).await
}

async fn fetch(http: &Http, stored: &BlobStored) -> Answer {
    http.get(&format!("/v1/blobs/{}", stored.blob_id)).await
}

async fn remove(http: &Http, stored: &BlobStored) -> Answer {
    let path = format!("/v1/blobs/{}", stored.blob_id);
    Answer::to(http.request(Method::DELETE, &path)).await
}

async fn with_blobs(configure: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(configure, false).await
}

async fn parts(server: &TestServer) -> usize {
    server.database.count("SELECT count(*) FROM blob_parts").await
}

/// Begins an upload of `announced` bytes on a connection of its own, and sends only `sent` of them.
async fn begin(server: &TestServer, http: &Http, key: &str, announced: usize, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let token = http.token.as_deref().unwrap();
    let head = format!(
        "POST /v1/blobs HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\nidempotency-key: {key}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {announced}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// Waits for something that the server does in its own time.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed().as_secs() < 120, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_blob_comes_back_as_it_was_to_everybody_who_knows_its_id() {
    let server = TestServer::unswept().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    for length in [1, 262_144, 3 * MIB + 7] {
        let bytes = content(length);
        let answer = store(&alice.http, &format!("k{length}"), bytes.clone()).await;
        let stored: BlobStored = answer.ok();
        assert_eq!(answer.status, 201);
        assert!(stored.expires_at >= server.time() + 30 * DAY - 60);
        for device in [&alice, &bob] {
            let answer = fetch(&device.http, &stored).await;
            assert_eq!(answer.content_type.as_deref(), Some("application/octet-stream"));
            assert!(answer.body == bytes, "{length}");
        }
    }
    assert_eq!(parts(&server).await, 1 + 1 + 13);
}

#[tokio::test]
async fn a_repeated_upload_is_stored_once_and_another_under_the_same_key_is_refused() {
    let server = TestServer::unswept().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let bytes = content(MIB);
    let first: BlobStored = store(&alice.http, "key", bytes.clone()).await.ok();
    assert_eq!(
        store(&alice.http, "key", bytes.clone()).await.ok::<BlobStored>(),
        first
    );
    assert_eq!(parts(&server).await, 4);
    let mut other = bytes.clone();
    other[MIB - 1] ^= 1;
    for other in [other, content(MIB - 1)] {
        let refused = store(&alice.http, "key", other).await;
        refused.refused(ProblemType::IdempotencyMismatch);
    }
    // Keys are each device's own.
    let of_bob: BlobStored = store(&bob.http, "key", bytes).await.ok();
    assert_ne!(of_bob.blob_id, first.blob_id);
}

#[tokio::test]
async fn what_was_cut_off_is_not_to_be_fetched_and_a_new_attempt_takes_its_place() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let bytes = content(MIB);
    let cut = begin(&server, &alice.http, "key", MIB, &bytes[..MIB / 2 + 9]).await;
    until("two parts are stored", async || parts(&server).await == 2).await;
    drop(cut);
    let whole = "SELECT count(*) FROM blobs WHERE sha256 IS NOT NULL";
    assert_eq!(server.database.count(whole).await, 0);
    let stored: BlobStored = store(&alice.http, "key", bytes.clone()).await.ok();
    assert!(fetch(&alice.http, &stored).await.body == bytes);
    server.sweep().await;
    assert_eq!(
        parts(&server).await,
        4,
        "the sweeper took the halves of the first attempt"
    );
    assert!(fetch(&alice.http, &stored).await.body == bytes);
}

#[tokio::test]
async fn an_attempt_that_goes_on_after_a_newer_one_under_the_same_key_stores_nothing() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let bytes = content(MIB);
    let mut old = begin(&server, &alice.http, "key", MIB, &bytes[..MIB / 2]).await;
    until("two parts are stored", async || parts(&server).await == 2).await;
    let stored: BlobStored = store(&alice.http, "key", bytes.clone()).await.ok();
    let mut answer = [0; 12];
    // The answer may come while the rest is still sent.
    let _ = old.write_all(&bytes[MIB / 2..]).await;
    old.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    server.sweep().await;
    assert_eq!(parts(&server).await, 4);
    assert!(fetch(&alice.http, &stored).await.body == bytes);
}

#[tokio::test]
async fn what_never_ends_is_removed_an_hour_later() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let cut = begin(&server, &alice.http, "key", MIB, &content(MIB / 2)).await;
    until("two parts are stored", async || parts(&server).await == 2).await;
    drop(cut);
    server.pass(3500);
    server.sweep().await;
    assert_eq!(parts(&server).await, 2);
    server.pass(200);
    server.sweep().await;
    assert_eq!(parts(&server).await, 0);
    assert_eq!(server.database.count("SELECT count(*) FROM blobs").await, 0);
}

#[tokio::test]
async fn a_blob_ends_with_its_retention_and_then_looks_as_if_it_had_never_been() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let stored: BlobStored = store(&alice.http, "key", content(9)).await.ok();
    let never: BlobStored = BlobStored {
        blob_id: larder_wire::BlobId::from_bytes([7; 32]),
        expires_at: 0,
    };
    server.pass(30 * DAY - 60);
    server.sweep().await;
    alice.open_session().await;
    assert_eq!(fetch(&alice.http, &stored).await.body, content(9));
    server.pass(120);
    // Its time counts, not the sweeper.
    let expired = fetch(&alice.http, &stored).await;
    expired.refused(ProblemType::NotFound);
    remove(&alice.http, &stored).await.refused(ProblemType::NotFound);
    server.sweep().await;
    assert_eq!(parts(&server).await, 0);
    for unknown in [&stored, &never] {
        assert_eq!(fetch(&alice.http, unknown).await.body, expired.body);
    }
    // The key can be used again.
    store(&alice.http, "key", content(10)).await.ok::<BlobStored>();
}

#[tokio::test]
async fn only_devices_of_the_uploader_s_user_can_end_a_blob() {
    let server = TestServer::unswept().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let stored: BlobStored = store(&alice.http, "key", content(9)).await.ok();
    remove(&bob.http, &stored).await.refused(ProblemType::NotFound);
    assert_eq!(fetch(&bob.http, &stored).await.body, content(9));
    remove(&alice.http, &stored).await.done();
    fetch(&bob.http, &stored).await.refused(ProblemType::NotFound);
    remove(&alice.http, &stored).await.refused(ProblemType::NotFound);
    server.sweep().await;
    assert_eq!(parts(&server).await, 0);
}

#[tokio::test]
async fn a_blob_is_bounded_and_so_is_what_is_kept_for_a_user() {
    let server = with_blobs(|config| {
        config.blobs.bytes_max = MIB as u64;
        config.blobs.user_bytes_max = 2 * MIB as u64 + 5;
    })
    .await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let limits = server
        .http
        .get("/.well-known/larder")
        .await
        .ok::<ServerInfo>()
        .limits;
    assert_eq!(
        (
            limits.blob_bytes_max,
            limits.user_blob_bytes_max,
            limits.blob_retention_seconds
        ),
        (MIB as u64, 2 * MIB as u64 + 5, 30 * DAY)
    );
    store(&alice.http, "large", content(MIB + 1))
        .await
        .refused(ProblemType::TooLarge);
    store(&alice.http, "empty", "")
        .await
        .refused(ProblemType::Malformed);
    let first: BlobStored = store(&alice.http, "1", content(MIB)).await.ok();
    store(&alice.http, "2", content(MIB)).await.ok::<BlobStored>();
    let refused = store(&alice.http, "3", content(6)).await;
    assert!(refused.refused(ProblemType::TooLarge).detail.is_some());
    store(&alice.http, "4", content(5)).await.ok::<BlobStored>();
    store(&bob.http, "5", content(MIB)).await.ok::<BlobStored>();
    // What is over does not count once it is gone.
    remove(&alice.http, &first).await.done();
    store(&alice.http, "6", content(6))
        .await
        .refused(ProblemType::TooLarge);
    server.sweep().await;
    store(&alice.http, "6", content(6)).await.ok::<BlobStored>();
}

#[tokio::test]
async fn what_is_announced_counts_before_it_has_come() {
    let server = with_blobs(|config| config.blobs.user_bytes_max = MIB as u64).await;
    let alice = server.device("alice").await;
    let _slow = begin(&server, &alice.http, "slow", MIB, b"a beginning").await;
    let blobs = "SELECT count(*) FROM blobs";
    until("it has begun", async || server.database.count(blobs).await == 1).await;
    store(&alice.http, "more", content(1))
        .await
        .refused(ProblemType::TooLarge);
}

#[tokio::test]
async fn a_user_stores_so_many_blobs_and_then_one_in_an_interval() {
    let server = with_blobs(|config| {
        config.blobs.rate = Rate {
            burst: 2,
            interval_seconds: 600,
        };
    })
    .await;
    let alice = server.device("alice").await;
    for key in ["1", "2"] {
        store(&alice.http, key, content(9)).await.ok::<BlobStored>();
    }
    store(&alice.http, "3", content(9))
        .await
        .refused(ProblemType::RateLimited);
    // A repeated request is not another one.
    store(&alice.http, "2", content(9)).await.ok::<BlobStored>();
    server.pass(600);
    store(&alice.http, "3", content(9)).await.ok::<BlobStored>();
    server.pass(3000);
    server.sweep().await;
    assert_eq!(server.database.count("SELECT count(*) FROM blob_rates").await, 0);
}

#[tokio::test]
async fn a_user_s_transfers_and_all_of_them_are_bounded() {
    let server = with_blobs(|config| {
        config.limits.transfers_per_user_max = 1;
        config.limits.transfers_max = 2;
    })
    .await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| server.device(user));
    let (alice, bob, carol) = (alice.await, bob.await, carol.await);
    let stored: BlobStored = store(&carol.http, "key", content(9)).await.ok();
    let slow = begin(&server, &alice.http, "slow", MIB, b"a beginning").await;
    let blobs = "SELECT count(*) FROM blobs";
    until("it has begun", async || server.database.count(blobs).await == 2).await;
    store(&alice.http, "more", content(9))
        .await
        .refused(ProblemType::RateLimited);
    fetch(&alice.http, &stored)
        .await
        .refused(ProblemType::RateLimited);
    let slower = begin(&server, &bob.http, "slow", MIB, b"a beginning").await;
    until("it has begun", async || server.database.count(blobs).await == 3).await;
    fetch(&carol.http, &stored)
        .await
        .refused(ProblemType::Unavailable);
    drop((slow, slower));
    until("their places are free", async || {
        fetch(&carol.http, &stored).await.status == 200
    })
    .await;
    until("her place is free", async || {
        fetch(&alice.http, &stored).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn what_is_large_of_a_group_takes_the_place_of_a_transfer() {
    const COMMITS: usize = 90;
    let server = with_blobs(|config| config.limits.transfers_per_user_max = 1).await;
    let alice = server.device("alice").await;
    let (mut group, gid) = alice.create_group().await;
    for _ in 0..COMMITS {
        let update = alice.stage(&mut group, |commit| {
            commit
                .leaf_node_parameters(padded_leaf(LEAF_BYTES_MAX - 600))
                .force_self_update(true)
        });
        alice.commit(&mut group, &update).await;
    }
    let path = format!("/v1/groups/{gid}/commits?from_epoch=0");
    let all = alice.http.get(&path).await;
    assert_eq!(all.ok::<Handshakes>().handshakes.len(), COMMITS);
    assert!(all.body.len() > 256 * 1024 * 4 / 3, "{}", all.body.len());
    let slow = begin(&server, &alice.http, "slow", MIB, b"a beginning").await;
    let blobs = "SELECT count(*) FROM blobs";
    until("it has begun", async || server.database.count(blobs).await == 1).await;
    alice.http.get(&path).await.refused(ProblemType::Unavailable);
    let few = format!("/v1/groups/{gid}/commits?from_epoch={}", COMMITS - 1);
    assert_eq!(alice.http.get(&few).await.ok::<Handshakes>().handshakes.len(), 1);
    drop(slow);
    until("its place is free", async || {
        alice.http.get(&path).await.body == all.body
    })
    .await;
}

#[tokio::test]
async fn a_large_page_of_an_inbox_takes_the_place_of_a_transfer() {
    const MESSAGES: usize = 8;
    let server = with_blobs(|config| config.limits.transfers_per_user_max = 1).await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let alice = server.device("alice").await;
    let (mut group, _) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    bob.join().await;
    let text = "m".repeat(60 * 1024);
    for _ in 0..MESSAGES {
        alice.send(&mut group, &text).await;
    }
    let all = bob.inbox().await;
    assert_eq!(all.len(), MESSAGES);
    let slow = begin(&server, &bob.http, "slow", MIB, b"a beginning").await;
    let blobs = "SELECT count(*) FROM blobs";
    until("it has begun", async || server.database.count(blobs).await == 1).await;
    // What needs no place is there all the same, and the rest comes after it.
    for rest in all.chunks(4) {
        assert_eq!(bob.inbox().await, rest);
        bob.ack(&rest[3]).await;
    }
    assert!(bob.inbox().await.is_empty());
    drop(slow);
}

#[tokio::test]
async fn who_sends_nothing_any_more_is_given_up() {
    let server = with_blobs(|config| config.limits.transfer_part_seconds_max = 1).await;
    let alice = server.device("alice").await;
    let mut stalled = begin(&server, &alice.http, "slow", MIB, b"a beginning").await;
    let mut answer = [0; 12];
    stalled.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn a_server_without_blobs_says_so_and_gives_out_those_that_it_has() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let stored: BlobStored = store(&alice.http, "key", content(9)).await.ok();
    let without = TestServer::start_on(
        std::sync::Arc::clone(&server.database),
        |config| config.blobs.bytes_max = 0,
        false,
    )
    .await;
    let http = without.http.with_token(alice.http.token.as_deref().unwrap());
    let info: ServerInfo = http.get("/.well-known/larder").await.ok();
    assert_eq!(info.limits.blob_bytes_max, 0);
    store(&http, "other", content(9))
        .await
        .refused(ProblemType::Forbidden);
    assert_eq!(fetch(&http, &stored).await.body, content(9));
    remove(&http, &stored).await.done();
}

#[tokio::test]
async fn a_request_that_is_not_an_upload_is_refused() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    alice
        .http
        .post_with_key("/v1/blobs", "key", &"text")
        .await
        .refused(ProblemType::UnsupportedMediaType);
    let without_key = alice
        .http
        .request(Method::POST, "/v1/blobs")
        .header("Content-Type", "application/octet-stream");
    Answer::to(without_key.body("x"))
        .await
        .refused(ProblemType::Malformed);
    for path in ["/v1/blobs/AAAA", "/v1/blobs/not+an+id"] {
        alice.http.get(path).await.refused(ProblemType::Malformed);
    }
    assert_eq!(server.database.count("SELECT count(*) FROM blobs").await, 0);
}

#[tokio::test]
async fn a_check_finds_a_blob_without_all_its_parts_and_one_of_somebody_else() {
    let planted: [(&str, &[&str]); 6] = [
        ("SELECT 1", &[]),
        ("DELETE FROM blob_parts WHERE number = 1", &["blob"]),
        (
            "UPDATE blob_parts SET number = number + 1 WHERE number = 3",
            &["blob"],
        ),
        (
            "UPDATE blob_parts SET bytes = (SELECT name FROM blobs) WHERE number = 2",
            &["blob"],
        ),
        // Its size is counted still.
        ("DELETE FROM blobs", &["totals", "registry", "blob"]),
        (
            "UPDATE blobs SET user_id = (SELECT id FROM users WHERE name = 'bob')",
            &["blob", "blob", "registry", "blob"],
        ),
    ];
    for (sql, expected) in planted {
        let server = TestServer::unswept().await;
        let (alice, _bob) = (server.device("alice").await, server.device("bob").await);
        store(&alice.http, "key", content(MIB)).await.ok::<BlobStored>();
        server.database.corrupt(sql).await;
        let admin = larder_server::Admin::open(&server.database.location())
            .await
            .unwrap();
        let mut codes = Vec::new();
        admin
            .check(|finding| codes.push(finding.code.code()))
            .await
            .unwrap();
        assert_eq!(codes, expected, "{sql}");
    }
}
