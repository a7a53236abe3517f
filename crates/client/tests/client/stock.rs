//! The directory's stock is what the directory says: lost inventories, and lies about them.

use crate::support::{Action, Client, Proxy, TestServer, count_rows, user};
use larder_client::{NextAction, NotAdded, Probe};

const DAY: u64 = 24 * 60 * 60;

/// Lets the inventory name nothing.
fn hide_inventory(proxy: &Proxy) {
    proxy.rule(|seen| {
        if !seen.is("GET", "/v1/key-packages") {
            return Action::Forward;
        }
        Action::rewrite_body(|body: Vec<u8>| {
            let mut answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            if let Some(items) = answer.get_mut("items") {
                *items = serde_json::Value::Array(Vec::new());
            }
            // Never the digest of a true answer.
            if let Some(digest) = answer.get_mut("digest") {
                *digest = "none".into();
            }
            serde_json::to_vec(&answer).unwrap()
        })
    });
}

#[tokio::test]
async fn what_the_directory_lost_is_told_and_replaced() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    server.lose_stock();
    let probe = bob.probe(1).await.unwrap();
    assert_eq!(probe, Probe::NotAddable(NotAdded::Exhausted));
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.lost), (0, 32), "and so does the count");
    assert!(health.last_resort.is_none());
    assert_eq!(health.next_action, NextAction::Refresh);

    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!((refreshed.minted, refreshed.health.available), (32, 32));
    assert!(refreshed.last_resort_replaced);
    assert!(matches!(bob.probe(1).await.unwrap(), Probe::Addable { .. }));
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn an_inventory_that_lies_for_weeks_stays_within_caps() {
    let server = TestServer::start().await;
    let (bob, proxy) = server.proxied("bob").await;
    let bundles =
        |bob: &Client| count_rows(bob.directory.path(), "SELECT count(*) FROM openmls_key_packages");
    let mut minted = 0;
    hide_inventory(&proxy);
    for _ in 0..20 {
        server.lose_stock();
        for _ in 0..3 {
            minted += bob.refresh_key_packages().await.unwrap().minted;
        }
        assert!(bundles(&bob) <= 256 + 64 + 2, "{}", bundles(&bob));
        // Both clocks go on, so that they stay together.
        bob.pass(DAY);
        server.pass(DAY);
    }
    assert!(minted <= 20 * 32, "{minted}");
    proxy.forward();
    bob.refresh_key_packages().await.unwrap();
    bob.pass(DAY);
    server.pass(DAY);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(bob.pool_health().await.unwrap().available, 32, "the truth heals");
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn an_invitation_under_way_survives_the_loss() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    hide_inventory(&proxy);
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!(refreshed.health.lost, 32);
    assert_eq!(bob.sync().await.unwrap().joined, 1);
}
