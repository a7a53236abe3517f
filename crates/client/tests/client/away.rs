//! A device that was away for longer than the server keeps messages.

use crate::support::{Client, TestServer, catch_up, they_talk, user};
use larder_client::{GroupKey, GroupState, MessageKind};

const DAY: u64 = 24 * 60 * 60;

/// The groups of the notices that messages are missing.
fn told_of_missing_messages(messages: &[larder_client::Message]) -> Vec<GroupKey> {
    messages
        .iter()
        .filter(|message| {
            message.kind == MessageKind::Notice && message.text.contains("messages are missing")
        })
        .filter_map(|message| message.group.clone())
        .collect()
}

/// The states of a client's groups, sorted.
async fn states(client: &Client) -> Vec<(String, GroupState)> {
    let mut states: Vec<_> = client
        .groups()
        .await
        .unwrap()
        .into_iter()
        .map(|group| (group.id.to_string(), group.state))
        .collect();
    states.sort_by_key(|(id, _)| id.clone());
    states
}

#[tokio::test]
async fn r_s4_who_was_away_for_long_follows_its_groups_joins_new_ones_and_learns_what_is_missing() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let carol = server.client("carol").await;
    let mut bob = server.client_with_pool_of("bob", 4).await;
    let went_on = alice.group_with(&[&bob, &carol]).await;
    let only_talked = alice.group_with(&[&bob]).await;
    let removed_from = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    let epoch = bob.epoch(&only_talked).await;
    bob.stop().await;

    for text in ["missed", "missed, too"] {
        alice.send(&only_talked, text).await.unwrap();
    }
    alice.remove(&went_on, &user("carol")).await.unwrap();
    alice.remove(&removed_from, &user("bob")).await.unwrap();
    let invited_to = alice.create_group("new").await.unwrap().id;
    alice.invite(&invited_to, &[user("bob")]).await.unwrap();
    catch_up(&[&alice, &carol]).await;
    server.sweep_after(31 * DAY).await;
    alice.sync().await.unwrap();

    bob.restart().await;
    let synced = bob.sync().await.unwrap();
    assert_eq!((synced.joined, synced.rejoined), (1, 0));
    let mut told = told_of_missing_messages(&bob.take_unread().await);
    told.sort();
    // The name of the new group was sent as a message.
    let mut expected = [only_talked.clone(), invited_to.clone()];
    expected.sort();
    assert_eq!(told, expected, "once, however many there are");
    let mut expected = [
        (went_on.to_string(), GroupState::Active),
        (only_talked.to_string(), GroupState::Active),
        (invited_to.to_string(), GroupState::Active),
        (removed_from.to_string(), GroupState::Left),
    ];
    expected.sort_by_key(|(id, _)| id.clone());
    assert_eq!(states(&bob).await, expected);
    assert_eq!(
        bob.epoch(&only_talked).await,
        epoch,
        "nothing but messages was missed"
    );
    for group in [&went_on, &only_talked, &invited_to] {
        they_talk(&alice, &bob, group).await;
    }

    // X3: told once, and the pool is what it should be.
    bob.sync().await.unwrap();
    assert_eq!(told_of_missing_messages(&bob.take_unread().await), []);
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!(
        (refreshed.minted, refreshed.uploaded, refreshed.revoked),
        (0, 0, 0)
    );
    assert_eq!((refreshed.health.available, refreshed.health.reserved), (4, 0));
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn what_waited_in_the_outbox_of_who_was_away_is_sent() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let carol = server.client("carol").await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", 4).await;
    let group = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    alice.take_unread().await;
    proxy.cut_before("POST", "/messages");
    bob.send(&group, "written on the way").await.unwrap();
    bob.stop().await;
    alice.remove(&group, &user("carol")).await.unwrap();
    server.sweep_after(31 * DAY).await;

    proxy.forward();
    bob.restart().await;
    bob.sync().await.unwrap();
    assert_eq!(alice.receive().await, ["written on the way"]);
    they_talk(&alice, &bob, &group).await;
}
