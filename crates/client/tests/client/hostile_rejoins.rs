//! A server that makes a device give up its groups, and then offers others in their place.
#![allow(clippy::disallowed_methods, reason = "an attacker passes no gate")]

use crate::made_up::{answer, key_package_of, made_up, say_that_it_is_a_copy};
use crate::support::{Action, Answer, Client, Proxy, Seen, TestServer, catch_up, they_talk, user};
use larder_client::{Difference, Error, GroupKey, GroupState, GroupSummary, MessageKind};
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::openmls::prelude::{GroupId, MlsGroup, OpenMlsProvider as _};
use larder_wire::{Base64Url, GroupInfoAnswer, Handshakes, Inventory, Memberships, Session};

/// Has none of the Commits that led a group on.
fn keeps_no_handshakes(seen: &Seen) -> Option<Action> {
    let none = Handshakes {
        handshakes: Vec::new(),
    };
    seen.is("GET", "/commits")
        .then(|| Action::Answer(Answer::json(200, &none)))
}

/// The texts of what the person was told about a group.
async fn told_of(client: &Client, group: &GroupKey) -> Vec<String> {
    let history = client.history(group, 100).await.unwrap();
    let notices = history
        .into_iter()
        .filter(|message| message.kind == MessageKind::Notice);
    notices.map(|message| message.text).collect()
}

/// For whom a group is held, and why.
fn held_for(summary: &GroupSummary) -> Vec<(&str, Difference)> {
    let held = summary.held.iter();
    held.map(|held| (held.user.as_str(), held.difference)).collect()
}

#[tokio::test]
async fn a_group_of_the_servers_own_making_does_not_take_the_place_of_one() {
    for with_own_leaf in [false, true] {
        let server = TestServer::start().await;
        let (mut alice, proxy) = server.proxied("alice").await;
        let bob = server.client("bob").await;
        let group = alice.group_with(&[&bob]).await;
        they_talk(&alice, &bob, &group).await;
        let added: Vec<_> = with_own_leaf
            .then(|| key_package_of(&server, "alice"))
            .into_iter()
            .collect();
        let offer = made_up(&group, &added);
        let commits = proxy.seen("POST", "/commits").len();
        alice.stop().await;
        say_that_it_is_a_copy(&proxy, move |seen| {
            seen.is("GET", "/info").then(|| answer(&offer))
        });
        alice.restart().await;
        alice.sync().await.unwrap();
        alice.sync().await.unwrap();

        // Nothing is joined, and the person learns whose group it would have been.
        assert_eq!(proxy.seen("POST", "/commits").len(), commits);
        assert_eq!(alice.summary(&group).await.state, GroupState::NeedsRejoin);
        let told = told_of(&alice, &group).await;
        let offers: Vec<_> = told
            .iter()
            .filter(|text| text.contains("in the place of this one"))
            .collect();
        assert_eq!(offers.len(), 1, "{told:?}");
        assert!(offers[0].contains("carol"), "{told:?}");
        let before = proxy.seen("POST", "/messages").len();
        let refused = alice.send(&group, "secret").await;
        assert!(
            matches!(refused, Err(Error::GroupNotActive(GroupState::NeedsRejoin))),
            "{refused:?}"
        );
        assert_eq!(proxy.seen("POST", "/messages").len(), before);

        proxy.forward();
        alice.sync().await.unwrap();
        assert_eq!(alice.users(&group).await, ["alice", "bob"]);
        assert_eq!(alice.summary(&group).await.held, []);
        they_talk(&alice, &bob, &group).await;
    }
}

#[tokio::test]
async fn a_group_does_not_go_back_to_an_epoch_that_is_over() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let (bob, mallory) = (server.client("bob").await, server.client("mallory").await);
    let group = alice.group_with(&[&bob, &mallory]).await;
    catch_up(&[&bob, &mallory, &alice]).await;
    // What the server told when mallory was still in the group.
    let database = rusqlite::Connection::open(server.database()).unwrap();
    let info: Vec<u8> = database
        .query_row(
            "SELECT group_info FROM group_infos WHERE group_id = ?1",
            [group.as_bytes()],
            |row| row.get(0),
        )
        .unwrap();
    let offer = GroupInfoAnswer {
        epoch: alice.epoch(&group).await,
        group_info: Base64Url(info),
        ratchet_tree: Base64Url(tree_of(&mallory, &group)),
    };
    alice.remove(&group, &user("mallory")).await.unwrap();
    catch_up(&[&bob, &alice]).await;
    let commits = proxy.seen("POST", "/commits").len();
    alice.stop().await;
    say_that_it_is_a_copy(&proxy, move |seen| {
        seen.is("GET", "/info").then(|| answer(&offer))
    });
    alice.restart().await;
    alice.sync().await.unwrap();
    assert_eq!(proxy.seen("POST", "/commits").len(), commits);
    assert_eq!(alice.summary(&group).await.state, GroupState::NeedsRejoin);
    proxy.forward();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice", "bob"]);
    they_talk(&alice, &bob, &group).await;
}

/// The ratchet tree of a group as a member has it.
fn tree_of(client: &Client, group: &GroupKey) -> Vec<u8> {
    let mut store = larder_pool::LocalStore::open(&client.directory.path().join("larder.db")).unwrap();
    let mut tree = None;
    let undone = store.transaction(|tx| {
        let id = GroupId::from_slice(group.as_bytes());
        let state = MlsGroup::load(tx.provider().storage(), &id).unwrap().unwrap();
        tree = Some(state.export_ratchet_tree().tls_serialize_detached().unwrap());
        Err::<(), larder_pool::StoreError>(larder_pool::StoreError::Encrypted)
    });
    assert!(undone.is_err());
    tree.unwrap()
}

/// While alice is away, carol comes and dave goes. She has given up her state, and comes back.
async fn changed_meanwhile(server: &TestServer) -> (Client, Proxy, Client, Client, GroupKey) {
    let (mut alice, proxy) = server.proxied("alice").await;
    let (bob, carol, dave) = (
        server.client("bob").await,
        server.client("carol").await,
        server.client("dave").await,
    );
    let group = alice.group_with(&[&bob, &dave]).await;
    catch_up(&[&bob, &dave, &alice]).await;
    alice.stop().await;
    bob.invite(&group, &[user("carol")]).await.unwrap();
    catch_up(&[&carol, &bob]).await;
    bob.remove(&group, &user("dave")).await.unwrap();
    catch_up(&[&carol]).await;
    alice.restart().await;
    (alice, proxy, bob, carol, group)
}

#[tokio::test]
async fn what_the_members_have_signed_meanwhile_is_followed_and_nothing_is_asked() {
    let server = TestServer::start().await;
    let (mut alice, proxy, bob, carol, group) = changed_meanwhile(&server).await;
    alice.stop().await;
    say_that_it_is_a_copy(&proxy, |_| None);
    alice.restart().await;
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice", "bob", "carol"]);
    assert_eq!(alice.summary(&group).await.held, []);
    they_talk(&alice, &bob, &group).await;
    they_talk(&carol, &alice, &group).await;
}

#[tokio::test]
async fn nothing_is_sent_to_whoever_came_without_a_commit_that_shows_why_before_the_person_has_looked() {
    let server = TestServer::start().await;
    let (mut alice, proxy, bob, carol, group) = changed_meanwhile(&server).await;
    alice.stop().await;
    say_that_it_is_a_copy(&proxy, keeps_no_handshakes);
    alice.restart().await;
    alice.sync().await.unwrap();
    let summary = alice.summary(&group).await;
    assert_eq!(summary.state, GroupState::Active);
    let held = held_for(&summary);
    assert_eq!(held, [("carol", Difference::New), ("dave", Difference::Missing)]);
    let told = told_of(&alice, &group).await;
    assert!(
        told.iter()
            .any(|text| text.contains("carol is new; dave is missing")),
        "{told:?}"
    );
    // Whatever it is: nothing leaves. What arrives is read.
    proxy.forward();
    let before = proxy.seen("POST", "/messages").len();
    for refused in [
        alice.send(&group, "secret").await.map(drop),
        alice.rename_group(&group, "secret").await,
        alice.invite(&group, &[user("dave")]).await.map(drop),
        alice.remove(&group, &user("bob")).await,
    ] {
        assert!(
            matches!(&refused, Err(error) if error.code() == "held"),
            "{refused:?}"
        );
    }
    assert_eq!(proxy.seen("POST", "/messages").len(), before);
    bob.sync().await.unwrap();
    bob.send(&group, "hello").await.unwrap();
    assert_eq!(alice.receive().await, ["hello"]);

    // The person answers for each, and it goes on.
    assert_eq!(alice.trust(&user("carol")).await.unwrap(), 1);
    assert!(alice.send(&group, "secret").await.is_err());
    assert_eq!(alice.trust(&user("dave")).await.unwrap(), 1);
    assert_eq!(alice.trust(&user("dave")).await.unwrap(), 0);
    they_talk(&alice, &carol, &group).await;
    they_talk(&bob, &alice, &group).await;
}

/// T2: what the server says ends no membership, and with an honest one everything goes on.
#[tokio::test]
async fn that_a_device_is_not_a_member_is_shown_and_ends_nothing() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    let epoch = alice.epoch(&group).await;
    alice.stop().await;
    proxy.rule(move |seen| {
        let another = || "another".to_owned();
        if seen.is("POST", "/v1/sessions") {
            return Action::rewrite_json::<Session>(move |session| session.incarnation = Some(another()));
        }
        if seen.is("GET", "/v1/key-packages") {
            return Action::rewrite_json::<Inventory>(move |inventory| inventory.incarnation = another());
        }
        if seen.is("GET", "/v1/groups") {
            return Action::rewrite_json::<Memberships>(|memberships| memberships.groups.clear());
        }
        Action::Forward
    });
    alice.restart().await;
    // The honest half of the server knows no such incarnation.
    assert!(alice.sync().await.is_err());
    let summary = alice.summary(&group).await;
    assert!(summary.denied);
    assert_eq!((summary.state, summary.epoch), (GroupState::Active, epoch));
    let told = told_of(&alice, &group).await;
    let denials = told.iter().filter(|text| text.contains("not a member")).count();
    assert_eq!(denials, 1, "{told:?}");

    proxy.forward();
    alice.stop().await;
    alice.restart().await;
    alice.sync().await.unwrap();
    assert!(!alice.summary(&group).await.denied);
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_device_that_is_not_let_back_in_keeps_what_it_knew_and_asks_again() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    alice.stop().await;
    say_that_it_is_a_copy(&proxy, |seen| {
        let kind = larder_wire::ProblemType::NotFound;
        seen.is("GET", "/info")
            .then(|| Action::Answer(Answer::problem(kind)))
    });
    alice.restart().await;
    alice.sync().await.unwrap();
    let summary = alice.summary(&group).await;
    assert!(summary.denied);
    assert_eq!(summary.state, GroupState::NeedsRejoin);
    proxy.forward();
    alice.stop().await;
    alice.restart().await;
    alice.sync().await.unwrap();
    assert_eq!(alice.summary(&group).await.state, GroupState::Active);
    they_talk(&alice, &bob, &group).await;
}

/// Nothing links what the server has to what alice knew; the person alone can say that it is right, and only of whom they were told.
#[tokio::test]
async fn a_group_that_nothing_links_is_joined_once_the_person_accepts_it() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    alice.stop().await;
    // All who were in the group have gone, but for carol, and the Commits that show it are not to be had.
    bob.invite(&group, &[user("carol")]).await.unwrap();
    catch_up(&[&carol, &bob]).await;
    say_that_it_is_a_copy(&proxy, keeps_no_handshakes);
    bob.leave(&group).await.unwrap();
    catch_up(&[&carol]).await;
    assert_eq!(carol.users(&group).await, ["alice", "carol"]);
    alice.restart().await;
    let _ = alice.sync().await;
    assert_eq!(alice.summary(&group).await.state, GroupState::NeedsRejoin);
    let told = told_of(&alice, &group).await;
    let offer = told.iter().find(|text| text.contains("in the place of this one"));
    assert!(offer.unwrap().ends_with("unless you accept it"), "{told:?}");
    assert_eq!(alice.resolve_request("lunch").await.unwrap(), group);

    alice.accept(&group).await.unwrap();
    let _ = alice.sync().await;
    let summary = alice.summary(&group).await;
    assert_eq!(summary.state, GroupState::Active);
    assert_eq!(alice.users(&group).await, ["alice", "carol"]);
    // Carol was named; that bob is gone nothing shows.
    let held = held_for(&summary);
    assert_eq!(held, [("bob", Difference::Missing)]);
    assert!(matches!(alice.send(&group, "hi").await, Err(Error::Held { .. })));
    alice.trust(&user("bob")).await.unwrap();
    proxy.forward();
    they_talk(&alice, &carol, &group).await;
}
