//! When the pool is refreshed, and what a refresh costs.

use crate::support::{Action, Answer, Client, Proxy, TestServer, assert_unreachable, count_rows, user};
use larder_wire::{InboxKind, ProblemType, UploadRequest};

/// Questions for the inventory, and everything else about KeyPackages.
fn requests(proxy: &Proxy) -> (usize, usize) {
    let asked = proxy.seen("GET", "/v1/key-packages").len();
    let changed = ["/v1/key-packages", "/v1/key-packages/revoke"]
        .map(|path| proxy.seen("POST", path).len())
        .iter()
        .sum();
    (asked, changed)
}

/// The bytes of the database and of its write-ahead log.
fn files(client: &Client) -> Vec<Vec<u8>> {
    ["larder.db", "larder.db-wal"]
        .map(|name| std::fs::read(client.directory.path().join(name)).unwrap())
        .to_vec()
}

#[tokio::test]
async fn a_refresh_with_nothing_to_do_is_one_conditional_request_and_writes_nothing() {
    let server = TestServer::start().await;
    let (bob, proxy) = server.proxied("bob").await;
    bob.refresh_key_packages().await.unwrap();
    let (asked, changed) = requests(&proxy);
    let before = files(&bob);
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!(
        (refreshed.minted, refreshed.uploaded, refreshed.revoked),
        (0, 0, 0)
    );
    assert!(!refreshed.last_resort_replaced);
    assert_eq!(requests(&proxy), (asked + 1, changed));
    assert!(
        proxy.seen("GET", "/v1/key-packages")[asked]
            .path
            .contains("digest=")
    );
    assert!(files(&bob) == before, "not a byte is written");
}

#[tokio::test]
async fn the_start_and_the_return_of_the_server_are_reasons_for_a_refresh() {
    let server = TestServer::start().await;
    let (mut bob, proxy) = server.proxied("bob").await;
    bob.restart().await;
    let (before, _) = requests(&proxy);
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 1, "the first sync");
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 1, "and no other without a reason");

    proxy.cut_before("POST", "/v1/inbox/next");
    assert_unreachable(bob.sync().await);
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 2);
    proxy.cut_before("POST", "/v1/inbox/next");
    assert_unreachable(bob.wait(std::time::Duration::ZERO).await);
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 3);
}

#[tokio::test]
async fn a_welcome_is_a_reason_for_a_refresh_even_if_it_fails() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    bob.sync().await.unwrap();
    for spoilt in [true, false] {
        let (before, _) = requests(&proxy);
        alice.invite(&group, &[user("bob")]).await.unwrap();
        proxy.rule(move |seen| {
            if !spoilt || !seen.is("POST", "/v1/inbox/next") {
                return Action::Forward;
            }
            Action::rewrite_body(|body| {
                let mut inbox: larder_wire::Inbox = serde_json::from_slice(&body).unwrap();
                for row in &mut inbox.rows {
                    if row.kind == InboxKind::Welcome {
                        row.body.0.truncate(40);
                    }
                }
                serde_json::to_vec(&inbox).unwrap()
            })
        });
        assert_eq!(bob.sync().await.unwrap().joined, u64::from(!spoilt));
        assert_eq!(requests(&proxy).0, before + 1);
        assert_eq!(bob.pool_health().await.unwrap().available, 32);
        alice.remove(&group, &user("bob")).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = TestServer::start().await;
    let (mut bob, proxy) = server.proxied("bob").await;
    bob.restart().await;
    proxy.rule_for("GET", "/v1/key-packages", |_| {
        Action::Answer(Answer::problem(ProblemType::RateLimited).with_header("retry-after", "600"))
    });
    let (before, _) = requests(&proxy);
    bob.sync().await.unwrap();
    bob.sync().await.unwrap();
    bob.pass(540);
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 1);
    proxy.forward();
    bob.pass(60);
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 2);
    bob.sync().await.unwrap();
    assert_eq!(requests(&proxy).0, before + 2);
}

#[tokio::test]
async fn refreshes_at_the_same_time_do_the_work_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    let (_, changed) = requests(&proxy);
    let (a, b, c) = tokio::join!(
        bob.refresh_key_packages(),
        bob.refresh_key_packages(),
        bob.refresh_key_packages()
    );
    let minted: u32 = [a, b, c]
        .into_iter()
        .map(|refreshed| refreshed.unwrap().minted)
        .sum();
    assert_eq!(minted, 1);
    assert_eq!(requests(&proxy).1, changed + 1);
}

#[tokio::test]
async fn an_earlier_generation_is_withdrawn_once_the_new_one_is_published() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.refresh_key_packages().await.unwrap();
    bob.stop().await;
    // As if everything had been minted with other capabilities.
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    let changed = database
        .execute(
            "UPDATE keypackage_pool_generations SET capabilities_hash = zeroblob(32)",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);
    bob.restart().await;
    proxy.cut_before("POST", "/v1/key-packages");
    assert_unreachable(bob.refresh_key_packages().await);
    assert_eq!(
        proxy.seen("POST", "/v1/key-packages/revoke").len(),
        0,
        "nothing is withdrawn before the new ones are confirmed"
    );
    proxy.forward();
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!((refreshed.uploaded, refreshed.revoked), (31, 32));
    assert!(refreshed.last_resort_replaced);
    let health = refreshed.health;
    assert_eq!(
        (health.available, health.outdated),
        (31, 1),
        "the reserved one is drained"
    );
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.outdated), (32, 0));
    bob.refresh_key_packages().await.unwrap();
    let (_, changed) = requests(&proxy);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(requests(&proxy).1, changed, "X3");
}

#[tokio::test]
async fn c2_an_upload_leaves_only_after_its_private_keys_and_the_attempt_are_on_disk() {
    let server = TestServer::start().await;
    let (bob, proxy) = server.proxied("bob").await;
    let erased = "UPDATE keypackage_pool_metadata SET not_after = 0 WHERE kind = 0";
    let profile = bob.directory.path().to_owned();
    let database = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
    database.execute(erased, []).unwrap();
    drop(database);
    let (tell, told) = std::sync::mpsc::channel();
    proxy.rule(move |seen| {
        if seen.is("POST", "/v1/key-packages") {
            let request: UploadRequest = serde_json::from_slice(&seen.body).unwrap();
            // What another connection sees is committed, and a commit is a write to the disk (`synchronous=FULL`).
            let bundles = count_rows(&profile, "SELECT count(*) FROM openmls_key_packages");
            let attempted = "SELECT count(*) FROM keypackage_pool_metadata
                             WHERE kind = 0 AND status = 1 AND uploaded_at IS NOT NULL";
            tell.send((
                request.key_packages.len(),
                bundles,
                count_rows(&profile, attempted),
            ))
            .unwrap();
        }
        Action::Forward
    });
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!((refreshed.minted, refreshed.uploaded), (32, 32));
    let (sent, bundles, attempted) = told.recv().unwrap();
    // And the last resort.
    assert_eq!((sent, bundles, attempted), (32, 33, 32));
    assert!(told.try_recv().is_err(), "one upload");
}
