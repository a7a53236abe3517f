//! Invitations that are no good: none burns a key, each is explained, and none is tried for ever.

use crate::support::{self, Action, Proxy, TestServer, flip_last, now, tamper_inbox, user};
use larder_client::{ContactRequest, MessageKind, QuarantineReason};
use larder_pool::JOIN_ATTEMPTS_MAX;
use larder_wire::{GroupId, Inbox, InboxKind};

const DAY: u64 = 24 * 3600;

#[tokio::test]
async fn r_c8_an_invitation_by_a_known_device_with_another_signature_key_is_not_accepted() {
    let server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    alice.group_with(&[&bob]).await;
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    let changed = database
        .execute(
            "UPDATE peers SET signature_key = zeroblob(32) WHERE user = 'alice'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);
    bob.restart().await;
    let second = alice.create_group("dinner").await.unwrap().id;
    alice.invite(&second, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    let notices = bob.take_unread().await;
    assert!(
        notices[0].text.contains("signature key of alice"),
        "{}",
        notices[0].text
    );
    assert_eq!(bob.members(&second).await.unwrap(), []);
    assert!(matches!(
        bob.summary(&second).await.request,
        Some(ContactRequest::Listed { .. })
    ));
    let health = bob.pool_health().await.unwrap();
    assert_eq!(
        (health.spent, health.reserved),
        (1, 1),
        "the key of the refused invitation is kept"
    );
}

#[tokio::test]
async fn a_corrupted_welcome_is_explained_and_leaves_the_key_usable() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    tamper_inbox(&proxy, InboxKind::Welcome, flip_last);
    bob.sync().await.unwrap();
    let notices = bob.take_unread().await;
    assert_eq!(notices[0].kind, MessageKind::Notice);
    assert!(
        notices[0].text.contains("could not be accepted"),
        "{}",
        notices[0].text
    );
    assert!(matches!(
        bob.summary(&group).await.request,
        Some(ContactRequest::Listed { .. })
    ));
    let health = bob.pool_health().await.unwrap();
    assert_eq!(
        (health.spent, health.reserved, health.available),
        (0, 1, 32),
        "the key is kept, the pool refilled"
    );
    let bundles = "SELECT count(*) FROM openmls_key_packages";
    assert_eq!(support::count_rows(bob.directory.path(), bundles), 34);

    // Invited anew, with another KeyPackage.
    proxy.forward();
    alice.remove(&group, &user("bob")).await.unwrap();
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
}

/// Hands out every Welcome this often, as rows of their own, after a change. The rows after them come later.
fn repeat_welcomes(proxy: &Proxy, times: u64, change: fn(&mut [u8])) {
    proxy.rule(move |seen| {
        if !seen.is("POST", "/v1/inbox/next") {
            return Action::Forward;
        }
        Action::rewrite_json(move |inbox: &mut Inbox| {
            inbox.rows.retain(|row| row.group_id.is_some());
            inbox.rows.truncate(1);
            if let Some(first) = inbox.rows.first().cloned()
                && first.kind == InboxKind::Welcome
            {
                inbox.rows = (0..times)
                    .map(|copy| {
                        let mut row = first.clone();
                        row.seq += copy;
                        change(&mut row.body.0);
                        row
                    })
                    .collect();
            }
        })
    });
}

#[tokio::test]
async fn a_welcome_that_fails_again_and_again_is_told_once_tried_three_times_and_shown() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    repeat_welcomes(&proxy, 8, flip_last);
    // The server has no rows of these numbers.
    assert_eq!(bob.sync().await.unwrap_err().code(), "went-back");
    let notices = bob.take_unread().await;
    let of_the_invitation = notices.iter().filter(|notice| notice.text.contains("invitation"));
    assert_eq!(of_the_invitation.count(), 1, "one notice");
    bob.restart().await;
    let quarantined = bob.quarantined_welcomes().await.unwrap();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(
        (quarantined[0].reason, quarantined[0].attempts),
        (QuarantineReason::Refused, JOIN_ATTEMPTS_MAX)
    );
    assert!(quarantined[0].key_package_ref.is_some());
    assert_eq!(bob.pool_health().await.unwrap().quarantined, 1);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_welcome_that_comes_again_after_it_was_joined_is_dropped_in_silence() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    repeat_welcomes(&proxy, 2, |_| {});
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    proxy.forward();
    let told = bob.take_unread().await;
    assert!(
        told.iter().all(|message| message.kind != MessageKind::Notice),
        "{told:?}"
    );
    assert!(bob.quarantined_welcomes().await.unwrap().is_empty());
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    bob.send(&group, "still here").await.unwrap();
    assert_eq!(alice.receive().await, ["still here"]);
}

/// The same Welcome, said to be to another group.
#[tokio::test]
async fn a_welcome_that_was_joined_and_comes_for_another_group_is_explained_with_its_date() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    proxy.lie("POST", "/v1/inbox/next", |inbox: &mut Inbox| {
        let welcome = inbox.rows.iter().find(|row| row.kind == InboxKind::Welcome);
        if let Some(mut again) = welcome.cloned() {
            again.group_id = Some(GroupId::from_bytes(b"another").unwrap());
            inbox.rows.push(again);
        }
    });
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    proxy.forward();
    let today = format!("on day {}", now().0 / DAY);
    let notices = bob.take_unread().await;
    assert!(
        notices.iter().any(
            |notice| notice.text.contains("joined with its KeyPackage already")
                && notice.text.contains(&today)
        ),
        "{:?}",
        notices.iter().map(|notice| &notice.text).collect::<Vec<_>>()
    );
    let quarantined = bob.quarantined_welcomes().await.unwrap();
    assert_eq!(quarantined[0].reason, QuarantineReason::AlreadySpent);
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    bob.send(&group, "still here").await.unwrap();
    assert_eq!(alice.receive().await, ["still here"]);
}

#[tokio::test]
async fn a_welcome_whose_tree_cannot_be_fetched_waits() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    proxy.rule(|seen| {
        if seen.path.contains("/trees/") {
            Action::CutAfter
        } else {
            Action::Forward
        }
    });
    support::assert_unreachable(bob.sync().await);
    assert!(bob.take_unread().await.is_empty(), "nothing is decided yet");
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
}
