//! Operations are abandoned at every point where they wait, and the process starts again.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::support::{Client, TestServer, catch_up, user};
use larder_client::{Error, GroupKey, SendStatus};

/// Polls a future at most `polls` times and drops it; `None` when it had not ended.
async fn at_most<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// After the restart of an interrupted inviter: whoever the server has accepted is a member, and nobody else.
async fn finish_invitation(alice: &Client, group: &GroupKey) {
    alice.sync().await.unwrap();
    if alice.users(group).await == ["alice"] {
        alice.invite(group, &[user("bob")]).await.unwrap();
    }
    assert_eq!(alice.users(group).await, ["alice", "bob"]);
}

#[tokio::test]
async fn an_invitation_interrupted_anywhere_is_finished_or_can_be_repeated() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.client("alice").await, server.client("bob").await);
    let mut interrupted = 0;
    for polls in 1.. {
        let group = alice.create_group("lunch").await.unwrap().id;
        let outcome = at_most(polls, alice.invite(&group, &[user("bob")])).await;
        alice.restart().await;
        finish_invitation(&alice, &group).await;
        catch_up(&[&bob, &alice]).await;
        assert_eq!(bob.users(&group).await, ["alice", "bob"], "after {polls} polls");
        assert_eq!(bob.epoch(&group).await, alice.epoch(&group).await);
        bob.send(&group, "here").await.unwrap();
        assert_eq!(alice.receive().await, ["here"]);
        let health = bob.pool_health().await.unwrap();
        assert_eq!(
            (health.reserved, health.available),
            (0, 32),
            "nothing is burnt, after {polls} polls"
        );
        match outcome {
            Some(outcome) => {
                outcome.unwrap();
                break;
            }
            None => interrupted += 1,
        }
    }
    assert!(interrupted > 10, "{interrupted}");
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_message_interrupted_anywhere_arrives_once_if_it_is_in_the_history() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    for polls in 1.. {
        let text = format!("after {polls}");
        let outcome = at_most(polls, alice.send(&group, &text)).await;
        alice.restart().await;
        alice.sync().await.unwrap();
        let history = alice.history(&group, 1).await.unwrap();
        let stored = history.iter().any(|message| message.text == text);
        let expected: Vec<String> = if stored { vec![text] } else { Vec::new() };
        assert_eq!(bob.receive().await, expected);
        assert!(history.iter().all(|message| message.status == SendStatus::Sent));
        if outcome.is_some() {
            assert!(stored);
            break;
        }
    }
}

#[tokio::test]
async fn a_sync_interrupted_anywhere_loses_and_doubles_nothing() {
    let server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    for polls in 1.. {
        let group = alice.create_group("lunch").await.unwrap().id;
        alice.invite(&group, &[user("bob")]).await.unwrap();
        alice.send(&group, "one").await.unwrap();
        alice.send(&group, "two").await.unwrap();
        let outcome = at_most(polls, bob.sync()).await;
        bob.restart().await;
        assert_eq!(bob.receive().await, ["one", "two"], "after {polls} polls");
        assert_eq!(bob.users(&group).await, ["alice", "bob"]);
        bob.sync().await.unwrap();
        assert_eq!(bob.pool_health().await.unwrap().available, 32);
        if outcome.is_some() {
            break;
        }
    }
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn concurrent_operations_of_one_connection_do_not_disturb_each_other() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    let users = [user("carol")];
    let (sent, synced, invited, also_sent, refreshed) = tokio::join!(
        alice.send(&group, "one"),
        alice.sync(),
        alice.invite(&group, &users),
        bob.send(&group, "two"),
        alice.refresh_key_packages(),
    );
    assert_eq!(sent.unwrap().status, SendStatus::Sent);
    assert_eq!(also_sent.unwrap().status, SendStatus::Sent);
    synced.unwrap();
    refreshed.unwrap();
    assert_eq!(invited.unwrap().added, [user("carol")]);
    for client in [&alice, &bob, &carol] {
        client.sync().await.unwrap();
        assert_eq!(client.users(&group).await, ["alice", "bob", "carol"]);
    }
    assert_eq!(alice.receive().await, ["two"]);
    assert_eq!(bob.receive().await, ["one"]);
    let closed = alice.clone();
    drop(alice);
    assert_eq!(
        closed.me().user,
        user("alice"),
        "a clone keeps the connection open"
    );
    let _: Result<_, Error> = closed.sync().await;
}
