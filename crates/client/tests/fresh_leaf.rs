//! R-C9: the leaf of a KeyPackage is replaced by a fresh one soon after joining (RFC 9750 §5.1).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use larder_client::GroupKey;
use larder_pool::openmls::prelude::{GroupId, MlsGroup, OpenMlsProvider};
use larder_pool::openmls::treesync::LeafNodeSource;
use larder_pool::{LocalStore, StoreError};
use support::{Client, TestServer, assert_unreachable, catch_up, user};

/// Whether the client's own leaf is the one of a KeyPackage. Restarts it.
async fn has_the_leaf_of_a_key_package(client: &mut Client, group: &GroupKey) -> bool {
    client.stop().await;
    let mut store = LocalStore::open(&client.directory.path().join("larder.db")).unwrap();
    let stale = store
        .transaction(|tx| {
            let state = MlsGroup::load(tx.provider().storage(), &GroupId::from_slice(group.as_bytes()))?
                .expect("a member");
            let leaf = state.own_leaf_node().expect("a member");
            Ok::<_, StoreError>(matches!(leaf.leaf_node_source(), LeafNodeSource::KeyPackage(_)))
        })
        .unwrap();
    drop(store);
    client.restart().await;
    stale
}

#[tokio::test]
async fn who_joins_replaces_the_leaf_at_once_and_only_once() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    assert_eq!(alice.sync().await.unwrap().updated, 0, "nobody else is there");
    assert_eq!(alice.epoch(&group).await, 0);
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(alice.epoch(&group).await, 1);
    assert!(
        !has_the_leaf_of_a_key_package(&mut alice, &group).await,
        "the first invitation replaces the creator's leaf too"
    );

    let synced = bob.sync().await.unwrap();
    assert_eq!((synced.joined, synced.updated), (1, 1));
    assert!(!has_the_leaf_of_a_key_package(&mut bob, &group).await);
    catch_up(&[&alice, &bob]).await;
    for client in [&alice, &bob] {
        assert_eq!(client.epoch(&group).await, 2);
        assert_eq!(client.sync().await.unwrap().updated, 0);
        assert_eq!(client.epoch(&group).await, 2);
    }
}

#[tokio::test]
async fn those_who_join_together_all_get_a_fresh_leaf_and_no_message_in_flight_is_lost() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut newcomers = Vec::new();
    for name in ["bob", "carol", "dave", "erin"] {
        newcomers.push(server.client(name).await);
    }
    let group = alice.create_group("lunch").await.unwrap().id;
    let users: Vec<_> = newcomers.iter().map(|client| client.me().user.clone()).collect();
    alice.invite(&group, &users).await.unwrap();
    alice.send(&group, "one").await.unwrap();
    let [bob, carol, dave, erin] = &newcomers[..] else {
        panic!("four")
    };
    // Alice writes for the epoch that the others are leaving behind, one after the other.
    let (b, c, d, e, sent) = tokio::join!(
        bob.sync(),
        carol.sync(),
        dave.sync(),
        erin.sync(),
        alice.send(&group, "two")
    );
    sent.unwrap();
    let at_once: u64 = [b, c, d, e]
        .into_iter()
        .map(|synced| synced.unwrap().updated)
        .sum();
    assert!(at_once >= 1, "one of them wins");
    for client in &newcomers {
        client.sync().await.unwrap();
    }
    alice.send(&group, "three").await.unwrap();
    for client in &mut newcomers {
        assert_eq!(client.receive().await, ["one", "two", "three"]);
        assert!(!has_the_leaf_of_a_key_package(client, &group).await);
    }
    let mut everybody: Vec<&Client> = newcomers.iter().collect();
    everybody.push(&alice);
    catch_up(&everybody).await;
    for client in everybody {
        assert_eq!(client.epoch(&group).await, 1 + 4, "each of them once");
    }
}

#[tokio::test]
async fn a_fresh_leaf_whose_answer_was_lost_is_committed_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "hello").await.unwrap();
    proxy.cut_after("POST", "/commits");
    assert_unreachable(bob.sync().await);
    let commits = proxy.seen("POST", "/commits");
    assert!(
        commits.iter().all(|request| request.body == commits[0].body),
        "the identical Commit"
    );
    bob.restart().await;
    proxy.forward();
    assert_eq!(bob.sync().await.unwrap().updated, 1);
    let texts: Vec<_> = bob.take_unread().await.into_iter().map(|m| m.text).collect();
    assert_eq!(texts.last().map(String::as_str), Some("hello"));
    bob.send(&group, "hi").await.unwrap();
    assert_eq!(alice.receive().await, ["hi"]);
    assert_eq!(alice.epoch(&group).await, 2);
    assert_eq!(bob.epoch(&group).await, 2);
}
