//! Invitations that others end before the person has answered: what came with them is the person's to keep or to forget.

use crate::requests::{invited, is_request, texts};
use crate::support::{Client, TestServer, catch_up, invitation_by, they_talk, user};
use larder_client::{Error, GroupKey, GroupState};

/// An invitation by alice, who removes bob before he answers.
async fn removed_before_the_answer(alice: &Client, bob: &Client) -> GroupKey {
    let group = invited(alice, bob).await;
    alice.send(&group, "are you there?").await.unwrap();
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    group
}

const WRITTEN: [&str; 2] = ["hello", "are you there?"];

#[tokio::test]
async fn a_removal_erases_nothing_of_an_open_invitation() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client("bob").await.asked().await;
    let group = removed_before_the_answer(&alice, &bob).await;
    bob.restart().await;
    bob.sync().await.unwrap();
    let over = bob.summary(&group).await;
    assert_eq!(
        (over.state, over.request, over.unread),
        (GroupState::Left, Some(invitation_by("alice")), 0)
    );
    assert_eq!(texts(&bob, &group).await, WRITTEN);
    assert_eq!(bob.resolve_request("lunch").await.unwrap(), group);

    // Whoever accepts is told that it is over, and keeps what was written.
    assert_eq!(bob.accept(&group).await.unwrap(), GroupState::Left);
    assert_eq!(texts(&bob, &group).await, WRITTEN);
    let kept = bob.summary(&group).await;
    assert_eq!((kept.state, kept.request), (GroupState::Left, None));
    assert!(kept.unread >= 2);
    let again = bob.accept(&group).await;
    assert!(
        matches!(again, Err(Error::GroupNotActive(GroupState::Left))),
        "{again:?}"
    );
    let refused = bob.decline(&group).await;
    assert!(matches!(refused, Err(Error::NotARequest)), "{refused:?}");
    assert_eq!(texts(&bob, &group).await, WRITTEN);
}

#[tokio::test]
async fn an_invitation_that_is_over_goes_when_the_person_wants_it() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await.asked().await;
    let declined = removed_before_the_answer(&alice, &bob).await;
    let left = removed_before_the_answer(&alice, &bob).await;
    let blocked = removed_before_the_answer(&alice, &bob).await;
    let answered = bob.decline(&declined).await.unwrap();
    assert!(
        answered.was_over && answered.told && !answered.kept,
        "{answered:?}"
    );
    bob.leave(&left).await.unwrap();
    assert!(!is_request(&bob, &declined).await && !is_request(&bob, &left).await);
    assert_eq!(
        bob.block(&user("alice")).await.unwrap().declined,
        std::slice::from_ref(&blocked)
    );
    assert!(bob.groups().await.unwrap().is_empty());
    for group in [&declined, &left, &blocked] {
        assert!(bob.history(group, 10).await.unwrap().is_empty());
    }
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn another_invitation_belongs_to_the_one_that_is_open() {
    let server = TestServer::start().await;
    let (alice, mallory) = (server.client("alice").await, server.client("mallory").await);
    let bob = server.client("bob").await.asked().await;
    let group = removed_before_the_answer(&alice, &bob).await;
    // A blocked user changes nothing of it.
    alice.invite(&group, &[user("mallory")]).await.unwrap();
    catch_up(&[&mallory, &alice]).await;
    mallory.invite(&group, &[user("bob")]).await.unwrap();
    assert!(bob.block(&user("mallory")).await.unwrap().declined.is_empty());
    assert_eq!(texts(&bob, &group).await, WRITTEN);
    assert_eq!(bob.summary(&group).await.request, Some(invitation_by("alice")));
    catch_up(&[&mallory, &alice]).await;
    assert_eq!(alice.users(&group).await, ["alice", "mallory"]);

    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    assert_eq!(bob.accept(&group).await.unwrap(), GroupState::Active);
    assert_eq!(texts(&bob, &group).await, WRITTEN);
    they_talk(&alice, &bob, &group).await;
}
