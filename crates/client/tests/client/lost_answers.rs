//! Answers and requests are lost, processes restart, members race. Nothing is lost or doubled.

use std::path::Path;
use std::sync::mpsc;

use crate::support::{self, Action, Answer, Proxy, TestServer, assert_unreachable, catch_up, options, user};
use larder_client::{GroupState, InviteCode, MessageKind, MlsConnection, SendStatus};
use larder_wire::{ProblemType, Registration};

#[tokio::test]
async fn a_registration_whose_answer_was_lost_goes_on_with_the_same_keys() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.url);
    let directory = tempfile::tempdir().unwrap();
    proxy.cut_after("POST", "/v1/accounts");
    assert_unreachable(MlsConnection::register(options(directory.path()), &proxy.url, user("alice")).await);
    let unfinished = MlsConnection::open(options(directory.path())).await;
    assert_eq!(unfinished.unwrap_err().code(), "not-registered");
    proxy.forward();
    let alice = MlsConnection::register(options(directory.path()), &proxy.url, user("alice"))
        .await
        .unwrap();
    let requests = proxy.seen("POST", "/v1/accounts");
    assert!(requests.len() > 1);
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    assert_eq!(alice.refresh_key_packages().await.unwrap().health.available, 32);
}

/// The code is used up by the request whose answer was lost, and no second one is needed.
#[tokio::test]
async fn a_registration_by_invitation_whose_answer_was_lost_needs_no_second_code() {
    let mut server = TestServer::start().await;
    server.restart_where_register(Registration::Invited).await;
    let proxy = Proxy::start(&server.url);
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let register = async |directory: &Path, name: &str, code: &InviteCode| {
        MlsConnection::register_invited(options(directory), &proxy.url, user(name), code.clone()).await
    };
    let without = MlsConnection::register(options(directory.path()), &proxy.url, user("alice")).await;
    assert_eq!(without.unwrap_err().code(), "invitation-required");
    let code = server.invitation().await;
    proxy.cut_after("POST", "/v1/accounts");
    assert_unreachable(register(directory.path(), "alice", &code).await);
    proxy.forward();
    let bob = register(elsewhere.path(), "bob", &code).await;
    assert_eq!(bob.unwrap_err().code(), "invitation-required");
    let alice = register(directory.path(), "alice", &code).await.unwrap();
    assert_eq!(alice.refresh_key_packages().await.unwrap().health.available, 32);
    drop(alice);

    // Nor does it matter that nobody may register any more.
    let code = server.invitation().await;
    proxy.cut_after("POST", "/v1/accounts");
    assert_unreachable(register(elsewhere.path(), "bob", &code).await);
    server.restart_where_register(Registration::Closed).await;
    proxy.forward();
    register(elsewhere.path(), "bob", &code).await.unwrap();
    let third = tempfile::tempdir().unwrap();
    let carol = register(third.path(), "carol", &code).await;
    assert_eq!(carol.unwrap_err().code(), "registration-closed");
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_sent_again_as_the_same_bytes() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.url);
    let directory = tempfile::tempdir().unwrap();
    let alice = MlsConnection::register(options(directory.path()), &proxy.url, user("alice"))
        .await
        .unwrap();
    proxy.cut_after("POST", "/v1/key-packages");
    assert_unreachable(alice.refresh_key_packages().await);
    assert_eq!(alice.pool_health().await.unwrap().unconfirmed, 32);
    drop(alice);
    let requests = proxy.seen("POST", "/v1/key-packages");
    assert!(requests.len() > 1);
    proxy.forward();
    let alice = MlsConnection::open(options(directory.path())).await.unwrap();
    // The inventory tells what became of the upload: nothing has to be sent again, and nothing is minted.
    let refreshed = alice.refresh_key_packages().await.unwrap();
    assert_eq!(
        (
            refreshed.minted,
            refreshed.health.available,
            refreshed.health.unconfirmed
        ),
        (0, 32, 0)
    );
    assert!(
        requests.iter().all(|request| request.body == requests[0].body),
        "identical keys"
    );
    let bundles = "SELECT count(*) FROM openmls_key_packages";
    assert_eq!(
        support::count_rows(directory.path(), bundles),
        33,
        "with the last resort"
    );
}

#[tokio::test]
async fn an_upload_that_never_arrived_is_sent_again_as_the_same_bytes() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.url);
    let directory = tempfile::tempdir().unwrap();
    let alice = MlsConnection::register(options(directory.path()), &proxy.url, user("alice"))
        .await
        .unwrap();
    proxy.cut_before("POST", "/v1/key-packages");
    assert_unreachable(alice.refresh_key_packages().await);
    drop(alice);
    proxy.forward();
    let alice = MlsConnection::open(options(directory.path())).await.unwrap();
    let refreshed = alice.refresh_key_packages().await.unwrap();
    assert_eq!((refreshed.minted, refreshed.uploaded), (0, 32));
    let requests = proxy.seen("POST", "/v1/key-packages");
    assert!(requests.len() > 1);
    assert!(requests.iter().all(|request| request.body == requests[0].body));
}

#[tokio::test]
async fn a_group_whose_creation_was_not_answered_is_there_after_the_next_sync() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    for cut in [Proxy::cut_after, Proxy::cut_before] {
        cut(&proxy, "POST", "/v1/groups");
        assert_unreachable(alice.create_group("lunch").await);
        proxy.forward();
        alice.restart().await;
        let creating = alice.groups().await.unwrap();
        assert!(creating.iter().any(|group| group.state == GroupState::Creating));
        alice.sync().await.unwrap();
        let groups = alice.groups().await.unwrap();
        assert!(groups.iter().all(|group| group.state == GroupState::Active));
    }
    assert_eq!(alice.groups().await.unwrap().len(), 2);
}

/// Alice invites Bob; the Commit is cut in this way; then she restarts and syncs.
async fn invite_is_finished_by_the_next_sync(cut: fn(&Proxy, &'static str, &'static str)) {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    cut(&proxy, "POST", "/commits");
    assert_unreachable(alice.invite(&group, &[user("bob")]).await);
    assert_eq!(alice.epoch(&group).await, 0, "not merged without an answer");
    // What is written meanwhile is meant for Bob too.
    assert_eq!(
        alice.send(&group, "welcome").await.unwrap().status,
        SendStatus::Pending
    );
    let inboxes = proxy.seen("POST", "/v1/inbox/next").len();
    assert_unreachable(alice.sync().await);
    assert_eq!(
        proxy.seen("POST", "/v1/inbox/next").len(),
        inboxes,
        "the inbox waits for the fate of the Commit"
    );
    proxy.forward();
    alice.restart().await;
    alice.sync().await.unwrap();
    assert_eq!(alice.epoch(&group).await, 1);
    let commits = proxy.seen("POST", "/commits");
    assert!(
        commits.iter().all(|request| request.body == commits[0].body),
        "the identical Commit"
    );
    assert_eq!(proxy.seen("POST", "/reserve").len(), 1);
    assert_eq!(bob.receive().await, ["welcome"]);
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    assert_eq!(bob.groups().await.unwrap()[0].name.as_deref(), Some("lunch"));
    assert_eq!(bob.pool_health().await.unwrap().spent, 1);
    bob.send(&group, "thanks").await.unwrap();
    assert_eq!(alice.receive().await, ["thanks"]);
}

#[tokio::test]
async fn r_c12_an_accepted_commit_whose_answer_was_lost_is_merged_after_all() {
    invite_is_finished_by_the_next_sync(Proxy::cut_after).await;
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_sent_again() {
    invite_is_finished_by_the_next_sync(Proxy::cut_before).await;
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_is_asked_for_again_and_burns_nothing() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.cut_after("POST", "/reserve");
    assert_unreachable(alice.invite(&group, &[user("bob")]).await);
    proxy.forward();
    alice.restart().await;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    let requests = proxy.seen("POST", "/reserve");
    assert!(
        requests.iter().all(|request| request.repeats(&requests[0])),
        "same key, same body"
    );
    bob.sync().await.unwrap();
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.spent, health.reserved), (1, 0));
}

#[tokio::test]
async fn a_reservation_that_has_lapsed_meanwhile_is_made_anew() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.cut_after("POST", "/reserve");
    assert_unreachable(alice.invite(&group, &[user("bob")]).await);
    let mut is_first = true;
    proxy.rule(
        move |seen| match seen.is("POST", "/reserve") && std::mem::take(&mut is_first) {
            true => Action::Answer(Answer::problem(ProblemType::ReservationLapsed)),
            false => Action::Forward,
        },
    );
    let before = proxy.seen("POST", "/reserve").len();
    alice.invite(&group, &[user("bob")]).await.unwrap();
    let requests = proxy.seen("POST", "/reserve");
    assert_eq!(requests.len(), before + 2);
    assert!(
        !requests[before + 1].repeats(&requests[before]),
        "with another key"
    );
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_arrives_once() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    for cut in [Proxy::cut_after, Proxy::cut_before] {
        cut(&proxy, "POST", "/messages");
        assert_eq!(
            alice.send(&group, "one").await.unwrap().status,
            SendStatus::Pending
        );
        assert_eq!(
            alice.send(&group, "two").await.unwrap().status,
            SendStatus::Pending
        );
        alice.restart().await;
        proxy.forward();
        assert_eq!(
            alice.send(&group, "three").await.unwrap().status,
            SendStatus::Sent
        );
        assert_eq!(bob.receive().await, ["one", "two", "three"]);
        let history = alice.history(&group, 3).await.unwrap();
        assert!(
            history
                .iter()
                .all(|message| message.status == SendStatus::Sent && message.mine)
        );
    }
    assert_eq!(bob.receive().await, [""; 0]);
}

#[tokio::test]
async fn an_acknowledgement_that_was_lost_doubles_nothing() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    for cut in [Proxy::cut_before, Proxy::cut_after] {
        alice.send(&group, "one").await.unwrap();
        cut(&proxy, "POST", "/v1/inbox/next");
        assert_unreachable(bob.sync().await);
        bob.restart().await;
        alice.send(&group, "two").await.unwrap();
        proxy.forward();
        assert_eq!(bob.receive().await, ["one", "two"]);
    }
    assert_eq!(bob.receive().await, [""; 0]);
}

#[tokio::test]
async fn a_session_that_the_server_no_longer_knows_is_opened_again() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    alice.restart().await;
    let before = proxy.seen("POST", "/v1/sessions").len();
    let mut spoilt = false;
    proxy.rule(move |seen| {
        if !seen.is("POST", "/v1/sessions") || std::mem::replace(&mut spoilt, true) {
            return Action::Forward;
        }
        Action::rewrite_body(|body| {
            let mut session: larder_wire::Session = serde_json::from_slice(&body).unwrap();
            session.token = "A".repeat(session.token.len());
            serde_json::to_vec(&session).unwrap()
        })
    });
    alice.sync().await.unwrap();
    assert_eq!(proxy.seen("POST", "/v1/sessions").len(), before + 2);
}

#[tokio::test]
async fn the_loser_of_a_race_invites_with_the_same_reservation() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let dave = server.client("dave").await;
    let group = alice.group_with(&[&bob]).await;
    let before = proxy.seen("POST", "/reserve").len();
    let commits_before = proxy.seen("POST", "/commits").len();

    // Alice's Commit waits at the proxy while Bob's goes through.
    let (open, gate) = mpsc::channel();
    let (arrived, has_arrived) = tokio::sync::oneshot::channel();
    let mut once = Some((gate, arrived));
    proxy.rule(move |seen| {
        if seen.is("POST", "/commits")
            && let Some((gate, arrived)) = once.take()
        {
            arrived.send(()).unwrap();
            return Action::Hold(gate);
        }
        Action::Forward
    });
    let inviting = {
        let (alice, group) = ((*alice).clone(), group.clone());
        tokio::spawn(async move { alice.invite(&group, &[user("carol")]).await })
    };
    has_arrived.await.unwrap();
    bob.invite(&group, &[user("dave")]).await.unwrap();
    drop(open);
    assert_eq!(inviting.await.unwrap().unwrap().added, [user("carol")]);

    assert_eq!(
        proxy.seen("POST", "/reserve").len(),
        before + 1,
        "one reservation"
    );
    assert_eq!(
        proxy.seen("POST", "/commits").len(),
        commits_before + 2,
        "two Commits with it"
    );
    catch_up(&[&alice, &bob, &carol, &dave]).await;
    for client in [&alice, &bob, &carol, &dave] {
        assert_eq!(client.users(&group).await, ["alice", "bob", "carol", "dave"]);
        assert_eq!(client.epoch(&group).await, alice.epoch(&group).await);
    }
    let carols = carol.pool_health().await.unwrap();
    assert_eq!(
        (carols.spent, carols.reserved, carols.lapsed),
        (1, 0, 0),
        "nothing is burnt"
    );
    dave.send(&group, "all here?").await.unwrap();
    for client in [&alice, &bob, &carol] {
        assert_eq!(client.receive().await, ["all here?"]);
    }
}

#[tokio::test]
async fn a_message_for_an_epoch_long_past_is_encrypted_again() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob]).await;
    proxy.cut_before("POST", "/messages");
    let sent = alice.send(&group, "late").await.unwrap();
    // Two epochs later the server does not take it any more.
    bob.invite(&group, &[user("carol")]).await.unwrap();
    bob.remove(&group, &user("carol")).await.unwrap();
    proxy.forward();
    alice.sync().await.unwrap();
    bob.sync().await.unwrap();
    let messages = bob.take_unread().await;
    let texts: Vec<_> = messages.iter().filter(|m| m.kind == MessageKind::Text).collect();
    assert_eq!(texts.len(), 1);
    assert_eq!((texts[0].text.as_str(), &texts[0].id), ("late", &sent.id));
    carol.sync().await.unwrap();
    assert!(
        carol
            .take_unread()
            .await
            .iter()
            .all(|message| message.kind != MessageKind::Text)
    );
}
