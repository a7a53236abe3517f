//! A user who is blocked neither finds nor invites this one, by what they had reserved before neither.

use crate::support::{Client, TestServer, assert_unreachable, catch_up, they_talk, user};
use larder_client::{GroupKey, Invitations};

/// Whoever is blocked commits what they had reserved before.
async fn commits_after_the_block(server: &TestServer, bob: &Client) -> (Client, GroupKey) {
    let (mallory, proxy) = server.proxied("mallory").await;
    let group = mallory.create_group("free money").await.unwrap().id;
    proxy.cut_before("POST", "/commits");
    assert_unreachable(mallory.invite(&group, &[user("bob")]).await);
    bob.block(&user("mallory")).await.unwrap();
    proxy.forward();
    mallory.sync().await.unwrap();
    assert_eq!(mallory.users(&group).await, ["bob", "mallory"]);
    mallory.send(&group, "you are rich").await.unwrap();
    (mallory, group)
}

#[tokio::test]
async fn who_is_blocked_invites_nobody_by_what_they_had_reserved() {
    for invitations in [Invitations::Ask, Invitations::Accept] {
        let server = TestServer::start().await;
        let mut bob = server.client("bob").await;
        if matches!(invitations, Invitations::Ask) {
            bob = bob.asked().await;
        }
        let (mallory, group) = commits_after_the_block(&server, &bob).await;
        assert_eq!(bob.sync().await.unwrap().joined, 0);
        assert!(bob.groups().await.unwrap().is_empty());
        assert!(bob.unread().await.unwrap().is_empty());
        assert!(bob.history(&group, 10).await.unwrap().is_empty());
        // The server knows that bob has left, and so does everybody else.
        mallory.send(&group, "answer me").await.unwrap();
        assert_eq!(bob.sync().await.unwrap().rows, 0);
        mallory.sync().await.unwrap();
        assert_eq!(mallory.users(&group).await, ["mallory"]);
        bob.restart().await;
        bob.sync().await.unwrap();
        assert!(bob.groups().await.unwrap().is_empty());

        // Who is not blocked any more may ask again.
        bob.unblock(&user("mallory")).await.unwrap();
        mallory.invite(&group, &[user("bob")]).await.unwrap();
        assert_eq!(bob.sync().await.unwrap().joined, 1);
        bob.accept(&group).await.unwrap();
        they_talk(&mallory, &bob, &group).await;
        bob.stop_and_audit().await;
    }
}

#[tokio::test]
async fn a_blocked_user_ends_nothing_that_both_are_in() {
    let server = TestServer::start().await;
    let (alice, mallory) = (server.client("alice").await, server.client("mallory").await);
    let bob = server.client("bob").await;
    let both = alice.group_with(&[&mallory, &bob]).await;
    catch_up(&[&alice, &mallory, &bob]).await;
    bob.block(&user("mallory")).await.unwrap();
    they_talk(&mallory, &bob, &both).await;
    let own = mallory.create_group("dinner").await.unwrap().id;
    let refused = mallory.invite(&own, &[user("bob")]).await;
    assert_eq!(refused.unwrap_err().code(), "no-key-packages");
    // Alice may invite, whoever else is in the group.
    let other = mallory.group_with(&[&alice]).await;
    alice.invite(&other, &[user("bob")]).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    catch_up(&[&alice, &mallory, &bob]).await;
    they_talk(&alice, &bob, &other).await;
}
