//! A pool that ran dry: the last resort, and what becomes of it.

use std::time::Duration;

use crate::support::{Client, Proxy, TestServer, assert_unreachable, count_rows, they_talk, user};
use larder_client::{GroupKey, UserName};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Every client makes a group of its own and invites bob. Returns who was told that it took the last resort.
async fn everybody_invites_bob(clients: &[&Client]) -> Vec<(GroupKey, Vec<UserName>)> {
    let mut invited = Vec::new();
    for client in clients {
        let group = client.create_group("lunch").await.unwrap().id;
        let outcome = client.invite(&group, &[user("bob")]).await.unwrap();
        assert_eq!(outcome.added, [user("bob")]);
        invited.push((group, outcome.by_last_resort));
    }
    invited
}

/// Bundles that OpenMLS keeps, and last resorts whose private keys are kept.
fn kept(client: &Client) -> (i64, i64) {
    let profile = client.directory.path();
    (
        count_rows(profile, "SELECT count(*) FROM openmls_key_packages"),
        count_rows(
            profile,
            "SELECT count(*) FROM keypackage_pool_metadata WHERE kind = 1 AND ended_at IS NULL",
        ),
    )
}

#[tokio::test]
async fn a_full_pool_has_an_unused_last_resort_that_is_not_counted() {
    let server = TestServer::start().await;
    let (bob, proxy) = server.proxied("bob").await;
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.unconfirmed), (32, 0));
    let last_resort = health
        .last_resort
        .expect("S7: after the first upload there is one");
    assert!(!last_resort.used);
    assert_eq!(kept(&bob), (33, 1));

    // X3: as long as nothing happens it stays.
    bob.refresh_key_packages().await.unwrap();
    let before = uploads(&proxy);
    assert!(!bob.refresh_key_packages().await.unwrap().last_resort_replaced);
    assert_eq!(uploads(&proxy), before);
}

#[tokio::test]
async fn an_unused_last_resort_is_replaced_when_it_is_a_month_old() {
    let server = TestServer::start().await;
    let mut bob = server.client("bob").await;
    for (days, replaced) in [(29, false), (30, true)] {
        bob.stop().await;
        let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
        let sql = "UPDATE keypackage_pool_metadata SET created_at = unixepoch() - ?1 WHERE kind = 1";
        assert_eq!(database.execute(sql, [days * DAY.cast_signed()]).unwrap(), 1);
        drop(database);
        bob.restart().await;
        let refreshed = bob.refresh_key_packages().await.unwrap();
        assert_eq!(refreshed.last_resort_replaced, replaced, "after {days} days");
    }
    assert_eq!(kept(&bob), (32 + 2, 2));
}

#[tokio::test]
async fn a_drained_pool_is_invited_by_its_last_resort_by_two_at_once() {
    let server = TestServer::start().await;
    let mut bob = server.client_with_pool_of("bob", 2).await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (dave, erin) = (server.client("dave").await, server.client("erin").await);
    let ordinary = everybody_invites_bob(&[&alice, &carol]).await;
    assert!(
        ordinary
            .iter()
            .all(|(_, by_last_resort)| by_last_resort.is_empty())
    );
    let (davids, erins) = (
        dave.create_group("lunch").await.unwrap().id,
        erin.create_group("lunch").await.unwrap().id,
    );
    let users = [user("bob")];
    let (by_dave, by_erin) = tokio::join!(dave.invite(&davids, &users), erin.invite(&erins, &users));
    for outcome in [by_dave.unwrap(), by_erin.unwrap()] {
        assert_eq!(outcome.added, [user("bob")]);
        assert_eq!(outcome.by_last_resort, [user("bob")]);
    }

    let synced = bob.sync().await.unwrap();
    assert_eq!((synced.joined, synced.updated), (4, 4));
    they_talk(&dave, &bob, &davids).await;
    they_talk(&erin, &bob, &erins).await;
    they_talk(&alice, &bob, &ordinary[0].0).await;

    // Its use was enough for a new one; the old one still opens what is under way.
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.spent), (2, 2));
    assert!(!health.last_resort.unwrap().used);
    assert_eq!(kept(&bob), (2 + 2, 2));
    bob.restart().await;
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_replaced_last_resort_opens_invitations_under_way_and_is_erased_a_day_later() {
    let server = TestServer::start().await;
    let mut bob = server.client_with_pool_of("bob", 2).await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let dave = server.client("dave").await;
    let invited = everybody_invites_bob(&[&alice, &carol, &dave]).await;
    assert_eq!(invited[2].1, [user("bob")]);

    // The refresh learns from the directory that it was used, before any Welcome was read.
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert!(refreshed.last_resort_replaced);
    assert_eq!((refreshed.minted, refreshed.uploaded), (2, 2));
    assert_eq!(kept(&bob), (2 + 2 + 2, 2));
    let again = bob.refresh_key_packages().await.unwrap();
    assert!(!again.last_resort_replaced, "C6: once");
    assert_eq!(bob.sync().await.unwrap().joined, 3);
    assert_eq!(kept(&bob), (2 + 2, 2));

    bob.pass(DAY - HOUR);
    server.pass(DAY - HOUR);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(
        kept(&bob),
        (2 + 2, 2),
        "a Commit that was under way is still accepted"
    );
    bob.pass(2 * HOUR);
    server.pass(2 * HOUR);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(kept(&bob), (2 + 1, 1), "C6: the used one is gone");
    they_talk(&dave, &bob, &invited[2].0).await;
    bob.stop().await;
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn an_invitation_that_waited_for_longer_than_a_day_is_opened_before_the_last_resort_is_erased() {
    let server = TestServer::start().await;
    let mut bob = server.client_with_pool_of("bob", 2).await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let dave = server.client("dave").await;
    let invited = everybody_invites_bob(&[&alice, &carol, &dave]).await;
    assert_eq!(invited[2].1, [user("bob")]);
    // It was replaced, and then bob was away with the invitations unread.
    assert!(bob.refresh_key_packages().await.unwrap().last_resort_replaced);
    bob.pass(5 * DAY);
    server.pass(5 * DAY);
    bob.restart().await;

    bob.refresh_key_packages().await.unwrap();
    assert_eq!(kept(&bob), (2 + 1, 1), "C6: the used one is gone");
    assert_eq!(bob.groups().await.unwrap().len(), 3, "and all have been joined");
    they_talk(&dave, &bob, &invited[2].0).await;
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_last_resort_that_was_only_handed_out_is_replaced_when_the_directory_says_so() {
    let server = TestServer::start().await;
    let (bob, proxy) = server.proxied_with_pool_of("bob", 2).await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    everybody_invites_bob(&[&alice, &carol]).await;
    bob.sync().await.unwrap();
    let before = uploads(&proxy);

    let (dave, daves) = server.proxied("dave").await;
    let (erin, erins) = server.proxied("erin").await;
    let (frank, franks) = server.proxied("frank").await;
    for (client, proxy) in [(&dave, &daves), (&erin, &erins), (&frank, &franks)] {
        proxy.cut_before("POST", "/commits");
        let group = client.create_group("lunch").await.unwrap().id;
        assert_unreachable(client.invite(&group, &[user("bob")]).await);
    }
    assert!(
        bob.wait(Duration::from_secs(10)).await.unwrap(),
        "key-packages-low"
    );
    let synced = bob.sync().await.unwrap();
    assert_eq!(synced.joined, 0);
    assert_eq!(
        uploads(&proxy),
        before + 1,
        "the pool and the last resort, together"
    );
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.reserved), (2, 2));
    assert!(!health.last_resort.unwrap().used);

    // Reserved before it was replaced, committed after.
    franks.forward();
    frank.sync().await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
}

fn uploads(proxy: &Proxy) -> usize {
    proxy.seen("POST", "/v1/key-packages").len()
}

#[tokio::test]
async fn a_last_resort_whose_confirmation_was_lost_is_sent_again_as_the_same_bytes() {
    let server = TestServer::start().await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", 2).await;
    let adders = [
        server.client("alice").await,
        server.client("carol").await,
        server.client("dave").await,
    ];
    everybody_invites_bob(&adders.iter().collect::<Vec<_>>()).await;
    let before = uploads(&proxy);
    proxy.cut_before("POST", "/v1/key-packages");
    assert_unreachable(bob.refresh_key_packages().await);
    bob.restart().await;
    proxy.forward();
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(bob.pool_health().await.unwrap().unconfirmed, 0);
    let requests = proxy.seen("POST", "/v1/key-packages").split_off(before);
    assert!(
        requests.iter().all(|request| request.body == requests[0].body),
        "identical KeyPackages"
    );

    // And when the request arrived.
    let (erin, frank, grace) = (
        server.client("erin").await,
        server.client("frank").await,
        server.client("grace").await,
    );
    bob.sync().await.unwrap();
    everybody_invites_bob(&[&erin, &frank, &grace]).await;
    let before = uploads(&proxy);
    proxy.cut_after("POST", "/v1/key-packages");
    assert_unreachable(bob.refresh_key_packages().await);
    proxy.forward();
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert!(
        !refreshed.last_resort_replaced,
        "the inventory tells that it has arrived"
    );
    assert!(!refreshed.health.last_resort.unwrap().used);
    let requests = proxy.seen("POST", "/v1/key-packages").split_off(before);
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    assert_eq!(bob.sync().await.unwrap().joined, 3);
}
