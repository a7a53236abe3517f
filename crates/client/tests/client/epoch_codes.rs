//! What members compare to know that nobody has split their group (RFC 9420 §8.7).
#![allow(
    clippy::disallowed_methods,
    reason = "a member who splits a group passes no gate"
)]

use crate::member::with_state;
use crate::support::{Action, Client, TestServer, catch_up, they_talk};
use larder_client::{EpochCode, GroupKey};
use larder_pool::openmls::prelude::OpenMlsProvider;
use larder_wire::{Base64Url, InboxKind};

async fn code(client: &Client, group: &GroupKey) -> EpochCode {
    client.epoch_code(group).await.unwrap().expect("a member")
}

#[tokio::test]
async fn members_see_one_code_in_each_epoch() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    let other = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let first = code(&alice, &group).await;
    assert_eq!(first, code(&bob, &group).await);
    assert_ne!(first.code, code(&alice, &other).await.code);
    let groups: Vec<&str> = first.code.split(' ').collect();
    assert_eq!(groups.len(), 4);
    assert!(
        groups
            .iter()
            .all(|group| group.len() == 5 && group.parse::<u32>().is_ok())
    );
    let carol = server.client("carol").await;
    alice.invite(&group, &[carol.me().user.clone()]).await.unwrap();
    catch_up(&[&carol, &alice, &bob]).await;
    let next = code(&alice, &group).await;
    assert!(next.epoch > first.epoch && next.code != first.code);
    for client in [&bob, &carol] {
        assert_eq!(code(client, &group).await, next);
    }
    bob.leave(&group).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    assert_eq!(bob.epoch_code(&group).await.unwrap(), None);
}

/// A member makes two Commits of one epoch, and the server gives each of two others one of them.
#[tokio::test]
async fn a_group_that_was_split_shows_other_codes() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let mallory = server.client("mallory").await;
    let group = alice.group_with(&[&bob, &mallory]).await;
    catch_up(&[&alice, &bob, &mallory]).await;
    they_talk(&alice, &bob, &group).await;
    mallory.sync().await.unwrap();
    let for_bob = with_state(&mallory, &group, |provider, state, keys| {
        let staged = state
            .commit_builder()
            .force_self_update(true)
            .load_psks(provider.storage())
            .unwrap()
            .build(provider.rand(), provider.crypto(), keys, |_| true)
            .unwrap()
            .stage_commit(provider)
            .unwrap();
        staged.into_commit().to_bytes().unwrap()
    });
    let carol = server.client("carol").await;
    mallory.invite(&group, &[carol.me().user.clone()]).await.unwrap();
    proxy.rule(move |seen| match seen.is("POST", "/v1/inbox/next") {
        true => {
            let for_bob = for_bob.clone();
            Action::rewrite_json(move |inbox: &mut larder_wire::Inbox| {
                for row in &mut inbox.rows {
                    if row.kind == InboxKind::Commit {
                        row.body = Base64Url(for_bob);
                        break;
                    }
                }
            })
        }
        false => Action::Forward,
    });
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    let (of_alice, of_bob) = (code(&alice, &group).await, code(&bob, &group).await);
    assert_eq!(of_alice.epoch, of_bob.epoch);
    assert_ne!(of_alice.code, of_bob.code);
}
