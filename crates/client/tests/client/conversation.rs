//! Accounts talk through a real server.

use std::time::Duration;

use crate::support::{Client, TestServer, catch_up, count_rows, options, user};
use larder_client::{Error, GroupState, MessageKind, MlsConnection, NotAdded, SendStatus};
use larder_wire::MessagesRequest;

#[tokio::test]
async fn two_accounts_talk_both_ways() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;

    let sent = alice.send(&group, "hello bob").await.unwrap();
    assert_eq!(sent.status, SendStatus::Sent);
    assert!(bob.wait(Duration::from_secs(10)).await.unwrap());
    bob.sync().await.unwrap();
    let [message] = &bob.take_unread().await[..] else {
        panic!("one message")
    };
    assert_eq!(message.text, "hello bob");
    assert_eq!(message.id, sent.id);
    assert_eq!(message.sender, Some(user("alice")));
    assert_eq!(message.group_name.as_deref(), Some("lunch"));
    assert!(!message.mine);

    bob.send(&group, "hello alice").await.unwrap();
    assert_eq!(alice.receive().await, ["hello alice"]);
    assert_eq!(alice.receive().await, [""; 0], "exactly once");
    assert_eq!(alice.epoch(&group).await, bob.epoch(&group).await);
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    assert_eq!(bob.resolve_group("lunch").await.unwrap(), group);
    assert_eq!(bob.resolve_group(&group.to_string()[..6]).await.unwrap(), group);
    assert!(matches!(
        bob.resolve_group("dinner").await,
        Err(Error::UnknownGroup)
    ));
    let texts: Vec<_> = alice
        .history(&group, 2)
        .await
        .unwrap()
        .into_iter()
        .map(|m| m.text)
        .collect();
    assert_eq!(texts, ["hello bob", "hello alice"]);
}

#[tokio::test]
async fn a_member_who_was_offline_catches_up_in_order_and_exactly_once() {
    let server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    bob.stop().await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    for text in ["one", "two", "three"] {
        assert_eq!(alice.send(&group, text).await.unwrap().status, SendStatus::Sent);
    }
    bob.restart().await;
    bob.sync().await.unwrap();
    let unread = bob.take_unread().await;
    let kinds: Vec<_> = unread.iter().map(|message| message.kind).collect();
    use MessageKind::{Joined, Text};
    assert_eq!(kinds, [Joined, Text, Text, Text]);
    assert_eq!(
        unread.iter().skip(1).map(|m| m.text.as_str()).collect::<Vec<_>>(),
        ["one", "two", "three"]
    );
    bob.restart().await;
    assert_eq!(bob.receive().await, [""; 0]);
}

#[tokio::test]
async fn several_users_are_invited_at_once_and_each_outcome_is_told() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob]).await;
    let invited = alice
        .invite(
            &group,
            &[user("carol"), user("nobody"), user("bob"), user("carol")],
        )
        .await
        .unwrap();
    assert_eq!(invited.added, [user("carol")]);
    assert_eq!(
        invited.not_added,
        [
            (user("bob"), NotAdded::AlreadyMember),
            (user("nobody"), NotAdded::NotFound)
        ]
    );
    carol.sync().await.unwrap();
    assert_eq!(carol.users(&group).await, ["alice", "bob", "carol"]);
    bob.sync().await.unwrap();
    let added = bob.take_unread().await;
    assert_eq!(
        (added[0].kind, added[0].text.as_str()),
        (MessageKind::Added, "alice added carol")
    );

    let nobody = alice.invite(&group, &[user("nobody")]).await;
    assert!(matches!(nobody, Err(Error::NoKeyPackages { outcomes }) if outcomes[0].1 == NotAdded::NotFound));
}

#[tokio::test]
async fn a_removed_member_is_told_and_reads_no_more() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    bob.sync().await.unwrap();
    alice.remove(&group, &user("bob")).await.unwrap();
    alice.send(&group, "without bob").await.unwrap();
    assert_eq!(bob.receive().await, [""; 0]);
    let summary = &bob.groups().await.unwrap()[0];
    assert_eq!((summary.state, summary.members), (GroupState::Left, 0));
    assert!(matches!(
        bob.send(&group, "?").await,
        Err(Error::GroupNotActive(GroupState::Left))
    ));
    assert_eq!(carol.receive().await, ["without bob"]);
    assert_eq!(carol.users(&group).await, ["alice", "carol"]);
    assert!(matches!(
        alice.remove(&group, &user("bob")).await,
        Err(Error::NotAMember(_))
    ));

    // And comes back with a fresh KeyPackage.
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    bob.send(&group, "back").await.unwrap();
    assert_eq!(alice.receive().await, ["back"]);
    assert_eq!(carol.receive().await, ["back"]);
}

#[tokio::test]
async fn a_message_of_a_member_who_was_removed_meanwhile_fails_and_says_so() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    alice.remove(&group, &user("bob")).await.unwrap();
    let refused = bob.send(&group, "too late").await;
    assert!(
        matches!(
            refused,
            Err(Error::Refused(_) | Error::GroupNotActive(GroupState::Left))
        ),
        "{refused:?}"
    );
    bob.sync().await.unwrap();
    let history = bob.history(&group, 10).await.unwrap();
    let mine = history.iter().find(|message| message.mine).unwrap();
    assert_eq!(
        (mine.text.as_str(), mine.status),
        ("too late", SendStatus::Failed)
    );
    assert!(history.iter().any(|message| message.text == "alice removed bob"));
    assert_eq!(alice.receive().await, [""; 0]);
}

#[tokio::test]
async fn the_pool_goes_from_32_to_31_and_back_to_32() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    assert_eq!(bob.pool_health().await.unwrap().available, 32);
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    proxy.cut_before("GET", "/v1/key-packages");
    bob.sync().await.unwrap();
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.spent), (31, 1));
    proxy.forward();
    // The sync that follows makes up for the refresh that failed.
    bob.sync().await.unwrap();
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.spent, health.unconfirmed), (32, 1, 0));
    let uploads = proxy.seen("POST", "/v1/key-packages").len();
    bob.refresh_key_packages().await.unwrap();
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!(
        (refreshed.minted, refreshed.uploaded, refreshed.revoked),
        (0, 0, 0)
    );
    assert_eq!(
        proxy.seen("POST", "/v1/key-packages").len(),
        uploads,
        "X3: nothing is uploaded in steady state"
    );
}

#[tokio::test]
async fn a_profile_belongs_to_one_process_and_one_account() {
    let server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let profile = alice.directory.path().to_owned();
    let locked = MlsConnection::open(options(&profile)).await;
    assert!(matches!(locked, Err(Error::ProfileLocked)));
    alice.stop().await;
    let other = MlsConnection::register(options(&profile), &server.url, user("mallory")).await;
    assert!(matches!(other, Err(Error::AlreadyRegistered { user }) if user.as_str() == "alice"));
    let again = MlsConnection::register(options(&profile), &server.url, user("alice"))
        .await
        .unwrap();
    assert_eq!(again.me().user, user("alice"));
    drop(again);
    let elsewhere = tempfile::tempdir().unwrap();
    let none = MlsConnection::open(options(&elsewhere.path().join("none"))).await;
    assert!(matches!(none, Err(Error::NotRegistered)));
    let taken = MlsConnection::register(options(elsewhere.path()), &server.url, user("alice")).await;
    assert_eq!(taken.unwrap_err().code(), "name-taken");
    let other_name = MlsConnection::register(options(elsewhere.path()), &server.url, user("alice2")).await;
    assert_eq!(other_name.unwrap().me().user, user("alice2"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_profile_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = TestServer::start().await;
    let alice: Client = server.client("alice").await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(alice.directory.path()), 0o700);
    for file in std::fs::read_dir(alice.directory.path()).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn what_is_not_a_message_or_a_name_is_refused_at_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    assert!(matches!(
        alice.create_group("a\nb").await,
        Err(Error::InvalidGroupName)
    ));
    let group = alice.create_group("lunch").await.unwrap().id;
    assert!(matches!(alice.send(&group, "").await, Err(Error::InvalidText)));
    let long = "x".repeat(larder_client::TEXT_BYTES_MAX + 1);
    assert!(matches!(alice.send(&group, &long).await, Err(Error::InvalidText)));
    let longest = "x".repeat(larder_client::TEXT_BYTES_MAX);
    assert_eq!(
        alice.send(&group, &longest).await.unwrap().status,
        SendStatus::Sent
    );
    let unknown = "AAAAAAAA".parse().unwrap();
    assert!(matches!(
        alice.send(&unknown, "x").await,
        Err(Error::UnknownGroup)
    ));
}

#[tokio::test]
async fn r_c11_what_people_write_and_the_name_of_a_group_travel_as_private_messages_only() {
    const PRIVATE_MESSAGE: [u8; 4] = [0, 1, 0, 2];
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.send(&group, "bread at noon").await.unwrap();
    assert_eq!(bob.receive().await, ["bread at noon"]);
    let messages = proxy.seen("POST", "/messages");
    assert!(messages.len() >= 2, "the text, and the name for the newcomer");
    for message in messages {
        let request: MessagesRequest = serde_json::from_slice(&message.body).unwrap();
        for message in request.messages {
            let bytes = message.0;
            assert_eq!(bytes[..4], PRIVATE_MESSAGE);
            for secret in ["bread at noon", "lunch"] {
                assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn r_c14_the_state_of_a_group_is_deleted_when_it_is_left_or_its_idle_member_is_removed() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    catch_up(&[&alice, &bob, &carol]).await;
    let states = |client: &Client| {
        count_rows(
            client.directory.path(),
            "SELECT (SELECT count(*) FROM openmls_group_data) + (SELECT count(*) FROM openmls_epoch_keys_pairs)
             + (SELECT count(*) FROM openmls_own_leaf_nodes) + (SELECT count(*) FROM openmls_proposals)",
        )
    };
    assert!([&alice, &bob, &carol].iter().all(|client| states(client) > 0));
    bob.leave(&group).await.unwrap();
    alice.remove(&group, &user("carol")).await.unwrap();
    catch_up(&[&alice, &bob, &carol]).await;
    assert_eq!((states(&bob), states(&carol)), (0, 0));
    assert_eq!(alice.users(&group).await, ["alice"]);
    alice.leave(&group).await.unwrap();
    assert_eq!(states(&alice), 0);
}
