//! R-C9: the leaf of a KeyPackage is replaced by a fresh one soon after joining (RFC 9750 §5.1), and a later one from time to time.

use std::path::Path;

use crate::member::{with_copied_state, with_state};
use crate::support::{Client, Proxy, TestServer, assert_unreachable, catch_up, they_talk, user};
use larder_client::GroupKey;
use larder_pool::openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use larder_pool::openmls::prelude::{MlsMessageIn, ProcessedMessageContent};
use larder_pool::openmls::treesync::LeafNodeSource;
use larder_wire::{CommitRequest, MessagesRequest};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// Whether the client's own leaf is the one of a KeyPackage.
fn has_the_leaf_of_a_key_package(client: &Client, group: &GroupKey) -> bool {
    with_state(client, group, |_, state, _| {
        let leaf = state.own_leaf_node().expect("a member");
        matches!(leaf.leaf_node_source(), LeafNodeSource::KeyPackage(_))
    })
}

/// The key of the client's own leaf that others encrypt to.
fn encryption_key(client: &Client, group: &GroupKey) -> Vec<u8> {
    with_state(client, group, |_, state, _| {
        let leaf = state.own_leaf_node().expect("a member");
        leaf.encryption_key().tls_serialize_detached().unwrap()
    })
}

/// So many seconds pass for all of them.
fn pass(server: &TestServer, clients: &[&Client], seconds: u64) {
    server.pass(seconds);
    for client in clients {
        client.pass(seconds);
    }
}

#[tokio::test]
async fn who_joins_replaces_the_leaf_at_once_and_only_once() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    assert_eq!(alice.sync().await.unwrap().updated, 0, "nobody else is there");
    assert_eq!(alice.epoch(&group).await, 0);
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(alice.epoch(&group).await, 1);
    assert!(
        !has_the_leaf_of_a_key_package(&alice, &group),
        "the first invitation replaces the creator's leaf too"
    );

    let synced = bob.sync().await.unwrap();
    assert_eq!((synced.joined, synced.updated), (1, 1));
    assert!(!has_the_leaf_of_a_key_package(&bob, &group));
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
    for client in &newcomers {
        assert_eq!(client.receive().await, ["one", "two", "three"]);
        assert!(!has_the_leaf_of_a_key_package(client, &group));
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

#[tokio::test]
async fn a_leaf_that_was_used_is_replaced_after_about_a_week() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    // Those of Commits, with nothing sent under them.
    let before = [encryption_key(&alice, &group), encryption_key(&bob, &group)];
    alice.send(&group, "there?").await.unwrap();
    assert_eq!(bob.receive().await, ["there?"]);

    pass(&server, &[&alice, &bob], 6 * DAY - HOUR);
    assert_eq!(alice.sync().await.unwrap().updated, 0, "too early");
    pass(&server, &[&alice, &bob], 2 * DAY + 2 * HOUR);
    assert_eq!(bob.sync().await.unwrap().updated, 0, "bob has sent nothing");
    assert_eq!(alice.sync().await.unwrap().updated, 1);
    assert_eq!(alice.sync().await.unwrap().updated, 0, "once");
    assert_ne!(encryption_key(&alice, &group), before[0]);
    assert_eq!(encryption_key(&bob, &group), before[1]);

    // However much time passes, it waits for something to be sent, and is then made at once.
    pass(&server, &[&alice, &bob], 30 * DAY);
    assert_eq!(alice.sync().await.unwrap().updated, 0);
    bob.send(&group, "here").await.unwrap();
    assert_eq!(alice.receive().await, ["here"]);
    assert_eq!(bob.sync().await.unwrap().updated, 1);
    assert_ne!(encryption_key(&bob, &group), before[1]);
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn whatever_is_committed_brings_a_leaf_that_is_due_along() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    let before = encryption_key(&alice, &group);
    pass(&server, &[&alice, &bob, &carol], 8 * DAY + HOUR);
    for client in [&alice, &bob, &carol] {
        client.refresh_key_packages().await.unwrap();
    }
    alice.invite(&group, &[user("carol")]).await.unwrap();
    assert_ne!(encryption_key(&alice, &group), before);
    let epoch = alice.epoch(&group).await;
    alice.sync().await.unwrap();
    assert_eq!(alice.epoch(&group).await, epoch, "no other Commit");
}

#[tokio::test]
async fn a_clock_that_steps_replaces_no_leaf_and_keeps_none_for_ever() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    let before = encryption_key(&alice, &group);
    // This computer's, to and fro.
    for days in [30, -30, 400] {
        alice.set_clock(days * 24 * 60 * 60);
        assert_eq!(alice.sync().await.unwrap().updated, 0, "{days}");
    }
    alice.set_clock(0);
    // The server's.
    for days in [30, -30, 400] {
        server.set_clock(days * 24 * 60 * 60).await;
        assert_eq!(alice.sync().await.unwrap().updated, 0, "{days}");
    }
    server.set_clock(0).await;
    assert_eq!(alice.sync().await.unwrap().updated, 0);
    assert_eq!(encryption_key(&alice, &group), before);

    // Both, while a leaf is made: it counts from the moment at which they are right again.
    pass(&server, &[&alice, &bob], 100 * DAY);
    assert_eq!(alice.sync().await.unwrap().updated, 1);
    server.set_clock(0).await;
    alice.set_clock(0);
    bob.set_clock(0);
    they_talk(&alice, &bob, &group).await;
    assert_eq!(alice.sync().await.unwrap().updated, 0);
    pass(&server, &[&alice, &bob], 8 * DAY + HOUR);
    assert_eq!(alice.sync().await.unwrap().updated, 1);
    they_talk(&alice, &bob, &group).await;
}

/// The message that a client sends, as it travels.
async fn sent(client: &Client, proxy: &Proxy, group: &GroupKey, text: &str) -> Vec<u8> {
    client.send(group, text).await.unwrap();
    let seen = proxy.seen("POST", "/messages");
    let last: MessagesRequest = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
    last.messages.last().unwrap().0.clone()
}

/// Whether somebody with this copy of a profile's state can read a message, after these Commits.
fn reads(copy: &Path, group: &GroupKey, commits: &[Vec<u8>], message: &[u8]) -> bool {
    with_copied_state(copy, group, |provider, state, _| {
        let mut process = |bytes: &[u8]| {
            let message = MlsMessageIn::tls_deserialize_exact(bytes).unwrap();
            let message = message.try_into_protocol_message().unwrap();
            let content = state.process_message(provider, message).ok()?.into_content();
            match content {
                ProcessedMessageContent::ApplicationMessage(_) => Some(()),
                ProcessedMessageContent::StagedCommitMessage(commit) => {
                    state.merge_staged_commit(provider, *commit).ok()
                }
                _ => None,
            }
        };
        commits.iter().all(|commit| process(commit).is_some()) && process(message).is_some()
    })
}

#[tokio::test]
async fn a_copied_state_reads_nothing_after_the_next_fresh_leaf() {
    let server = TestServer::start().await;
    let (alice, says) = server.proxied("alice").await;
    let (mut bob, commits) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    // A thief copies bob's state, and nobody notices.
    bob.stop().await;
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(bob.directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    bob.restart().await;
    let read = sent(&alice, &says, &group, "overheard").await;
    assert!(reads(copy.path(), &group, &[], &read));
    assert_eq!(bob.receive().await, ["overheard"]);

    pass(&server, &[&alice, &bob], 8 * DAY + HOUR);
    assert_eq!(bob.sync().await.unwrap().updated, 1);
    alice.sync().await.unwrap();
    let healed = sent(&alice, &says, &group, "healed").await;
    let seen = commits.seen("POST", "/commits");
    let commit: CommitRequest = serde_json::from_slice(&seen.last().unwrap().body).unwrap();
    assert!(!reads(copy.path(), &group, &[], &healed));
    assert!(!reads(copy.path(), &group, &[commit.commit.0], &healed));
    assert_eq!(bob.receive().await, ["healed"]);
}
