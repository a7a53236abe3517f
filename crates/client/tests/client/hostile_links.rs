//! A server that lists groups which nothing explains, and that lies to a new device about whose it is.
#![allow(clippy::disallowed_methods, reason = "an attacker passes no gate")]

use crate::made_up::{answer, key_package_of, key_package_under, made_up, say_that_it_is_a_copy};
use crate::support::{
    Action, Answer, Client, Proxy, Seen, TestServer, catch_up, count_rows, they_talk, user,
};
use larder_client::{
    ContactRequest, Difference, Error, GroupKey, GroupState, Linking, NotTheServer, ProblemType,
};
use larder_wire::{
    Accepted, Base64Url, GroupInfoAnswer, Handshakes, Inbox, InboxKind, Introduction, Membership,
    Memberships, RatchetTreeAnswer,
};

fn invented() -> GroupKey {
    GroupKey::from_bytes(b"an invented group").unwrap()
}

/// Lists a group of which there is nothing.
fn list(listed: &mut Memberships, group: &GroupKey) {
    listed.groups.push(Membership {
        group_id: group.clone(),
        epoch: 9,
        gaps: Vec::new(),
        head: 9,
    });
}

fn listed_with(users: &[&str]) -> Option<ContactRequest> {
    let users = users.iter().map(|name| user(name)).collect();
    Some(ContactRequest::Listed { users: Some(users) })
}

/// Whether the request is of this group and asks for this.
fn is_of(seen: &Seen, method: &str, group: &GroupKey, what: &str) -> bool {
    seen.is(method, &format!("/v1/groups/{group}/{what}"))
}

/// A device that waits to be let in, by way of a server that may lie.
async fn waiting(server: &TestServer) -> (Client, Linking, Proxy) {
    let proxy = Proxy::start(&server.url);
    let (new, linking) = Client::begin_link(&proxy.url, "alice").await;
    (new, linking, proxy)
}

async fn let_in(by: &Client, linking: &Linking) {
    let device = by.read_link_code(linking.code()).await.unwrap();
    by.authorize_link(device).await.unwrap();
}

/// A linked device that goes by way of a server that may lie, and has not looked for groups yet.
async fn linked(server: &TestServer, by: &Client) -> (Client, Proxy) {
    let (new, linking, proxy) = waiting(server).await;
    let_in(by, &linking).await;
    (new.finish_link(linking).await, proxy)
}

/// Nothing of the client's has gone to a group by way of this proxy.
fn is_silent(proxy: &Proxy, group: &GroupKey) -> bool {
    ["commits", "messages", "proposals"].iter().all(|what| {
        proxy
            .seen("POST", &format!("/v1/groups/{group}/{what}"))
            .is_empty()
    })
}

/// Lists an invented group, and serves what it made up of it.
fn invent(proxy: &Proxy, offer: GroupInfoAnswer) {
    proxy.rule(move |seen| {
        if seen.is("GET", "/v1/groups") {
            Action::rewrite_json(|listed: &mut Memberships| list(listed, &invented()))
        } else if is_of(seen, "GET", &invented(), "info") {
            answer(&offer)
        } else {
            Action::Forward
        }
    });
}

#[tokio::test]
async fn a_linked_device_asks_before_it_joins_a_group_that_nothing_explains() {
    for with_own_leaf in [false, true] {
        let server = TestServer::start().await;
        let alice = server.client("alice").await;
        let bob = server.client("bob").await;
        let group = alice.group_with(&[&bob]).await;
        let (second, proxy) = linked(&server, &alice).await;
        let added: Vec<_> = with_own_leaf
            .then(|| key_package_of(&server, "alice"))
            .into_iter()
            .collect();
        invent(&proxy, made_up(&invented(), &added));
        assert_eq!(second.sync().await.unwrap().rejoined, 1, "of its user's groups");
        catch_up(&[&second, &bob, &alice]).await;
        assert_eq!(second.users(&group).await, ["alice", "alice", "bob"]);

        let asked = second.summary(&invented()).await;
        assert_eq!(asked.request, listed_with(&["carol"]));
        assert_eq!(asked.state, GroupState::NeedsRejoin);
        let refused = second.send(&invented(), "hello").await;
        assert!(refused.is_err(), "{refused:?}");
        let told = second.history(&invented(), 10).await.unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].text, "the server says that you are in a group of carol");

        // What is declined does not come back.
        second.decline(&invented()).await.unwrap();
        let mut second = second;
        second.restart().await;
        second.sync().await.unwrap();
        let groups = second.groups().await.unwrap();
        assert!(groups.iter().all(|known| known.id != invented()));
        assert!(is_silent(&proxy, &invented()));
        they_talk(&second, &bob, &group).await;
    }
}

/// The request names other users only, and whoever accepts it has not accepted a leaf that calls itself a device of theirs.
#[tokio::test]
async fn a_ghost_of_ones_own_is_not_accepted_with_a_listed_group() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (second, proxy) = linked(&server, &alice).await;
    let added = [key_package_of(&server, "alice"), key_package_under("alice/ghost")];
    let offer = made_up(&invented(), &added);
    proxy.rule(move |seen| {
        if seen.is("GET", "/v1/groups") {
            Action::rewrite_json(|listed: &mut Memberships| list(listed, &invented()))
        } else if is_of(seen, "GET", &invented(), "info") {
            answer(&offer)
        } else if is_of(seen, "POST", &invented(), "commits") {
            let accepted = Accepted {
                epoch: offer.epoch + 1,
                seq: 10,
            };
            Action::Answer(Answer::json(200, &accepted))
        } else {
            Action::Forward
        }
    });
    second.sync().await.unwrap();
    assert_eq!(second.summary(&invented()).await.request, listed_with(&["carol"]));
    second.accept(&invented()).await.unwrap();
    let _ = second.sync().await;
    let held = second.summary(&invented()).await.held;
    assert!(held.iter().any(|held| held.user == user("alice")), "{held:?}");
    assert!(second.send(&invented(), "for the server").await.is_err());
    assert!(
        proxy
            .seen("POST", &format!("/v1/groups/{}/messages", invented()))
            .is_empty()
    );
}

#[tokio::test]
async fn a_restored_copy_asks_about_groups_that_it_does_not_know() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let known = alice.group_with(&[&bob]).await;
    let left = alice.create_group("left").await.unwrap().id;
    alice.leave(&left).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    alice.stop().await;
    let offer = made_up(&invented(), &[key_package_of(&server, "alice")]);
    let of_left = made_up(&left, &[]);
    let gone = left.clone();
    say_that_it_is_a_copy(&proxy, move |seen| {
        if seen.is("GET", "/v1/groups") {
            let gone = gone.clone();
            return Some(Action::rewrite_json(move |listed: &mut Memberships| {
                list(listed, &invented());
                list(listed, &gone);
            }));
        }
        if is_of(seen, "GET", &gone, "info") {
            return Some(answer(&of_left));
        }
        is_of(seen, "GET", &invented(), "info").then(|| answer(&offer))
    });
    alice.restart().await;
    assert_eq!(alice.sync().await.unwrap().rejoined, 1);
    for group in [&invented(), &left] {
        assert_eq!(alice.summary(group).await.request, listed_with(&["carol"]));
        assert!(
            proxy
                .seen("POST", &format!("/v1/groups/{group}/commits"))
                .is_empty()
        );
    }
    catch_up(&[&alice, &bob]).await;
    they_talk(&alice, &bob, &known).await;

    // A block declines what is of nobody else.
    alice.block(&user("dave")).await.unwrap();
    assert_eq!(alice.summary(&invented()).await.request, listed_with(&["carol"]));
    let mut declined = alice.block(&user("carol")).await.unwrap().declined;
    declined.sort();
    let mut both = [invented(), left.clone()];
    both.sort();
    assert_eq!(declined, both);
    let groups = alice.groups().await.unwrap();
    assert!(groups.iter().all(|known| known.id != invented()));
}

#[tokio::test]
async fn what_the_server_does_not_tell_of_a_group_is_not_known() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (second, proxy) = linked(&server, &alice).await;
    let broken = GroupInfoAnswer {
        epoch: 9,
        group_info: Base64Url(vec![1, 2, 3]),
        ratchet_tree: Base64Url(vec![0xff; 9]),
    };
    invent(&proxy, broken);
    second.sync().await.unwrap();
    let asked = second.summary(&invented()).await;
    assert_eq!(asked.request, Some(ContactRequest::Listed { users: None }));
    let told = second.history(&invented(), 10).await.unwrap();
    assert_eq!(
        told[0].text,
        "the server says that you are in a group; who is in it is not known"
    );
    assert_eq!(second.sync().await.unwrap().rejoined, 0);
    assert!(is_silent(&proxy, &invented()));
}

#[tokio::test]
async fn without_vouchers_every_group_is_asked_about_and_joined_when_it_is_accepted() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let named = alice.group_with(&[&bob]).await;
    let hidden = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let (new, linking, proxy) = waiting(&server).await;
    let_in(&alice, &linking).await;
    proxy.lie("GET", "/v1/introduction", |said: &mut Introduction| {
        said.vouchers.clear()
    });
    let second = new.finish_link(linking).await;
    proxy.rule({
        let key = hidden.clone();
        move |seen| match is_of(seen, "GET", &key, "info") {
            true => Action::rewrite_json(|info: &mut GroupInfoAnswer| info.group_info.0.truncate(9)),
            false => Action::Forward,
        }
    });
    assert_eq!(second.sync().await.unwrap().rejoined, 0);
    assert_eq!(second.summary(&named).await.request, listed_with(&["bob"]));
    let unknown = Some(ContactRequest::Listed { users: None });
    assert_eq!(second.summary(&hidden).await.request, unknown);
    assert!(is_silent(&proxy, &named) && is_silent(&proxy, &hidden));

    proxy.forward();
    for group in [&named, &hidden] {
        second.accept(group).await.unwrap();
    }
    assert_eq!(second.sync().await.unwrap().rejoined, 2);
    // The person knew of bob in the one, and of nobody in the other.
    assert_eq!(second.summary(&named).await.held, []);
    let held = second.summary(&hidden).await.held;
    let held: Vec<_> = held
        .iter()
        .map(|held| (held.user.as_str(), held.difference))
        .collect();
    assert_eq!(held, [("bob", Difference::New)]);
    let refused = second.send(&hidden, "hello").await;
    assert!(matches!(refused, Err(Error::Held { .. })), "{refused:?}");
    second.trust(&user("bob")).await.unwrap();
    catch_up(&[&second, &alice, &bob, &second]).await;
    they_talk(&second, &bob, &named).await;
    they_talk(&second, &bob, &hidden).await;
}

#[tokio::test]
async fn a_device_believes_nothing_that_was_not_said_by_who_had_its_code() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let (new, linking, proxy) = waiting(&server).await;
    let_in(&alice, &linking).await;
    let lies: [fn(&mut Introduction); 6] = [
        |said| said.proof.0[0] ^= 1,
        |said| said.proof.0.clear(),
        |said| said.root = "evil".parse().unwrap(),
        |said| said.root_key.0[0] ^= 1,
        |said| said.by = "evil".parse().unwrap(),
        |said| said.by_key.0[0] ^= 1,
    ];
    let profile = new.directory.path().to_owned();
    let is_forged = |finished: Result<Option<_>, Error>| {
        let error = finished.expect_err("refused");
        assert_eq!(error.code(), "forged-introduction");
        assert!(matches!(
            error,
            Error::NotTheServer(NotTheServer::ForgedIntroduction)
        ));
        assert_eq!(count_rows(&profile, "SELECT count(*) FROM peers"), 0);
        let registered = "SELECT count(*) FROM profile WHERE registered = 1";
        assert_eq!(count_rows(&profile, registered), 0);
    };
    for lie in lies {
        proxy.lie("GET", "/v1/introduction", lie);
        is_forged(linking.finish().await);
    }
    proxy.rule_for("GET", "/v1/introduction", |_| {
        Action::Answer(Answer::problem(ProblemType::NotFound))
    });
    is_forged(linking.finish().await);
    // It can be tried again.
    proxy.forward();
    let second = new.finish_link(linking).await;
    let secret = "SELECT count(*) FROM profile WHERE link_secret IS NOT NULL";
    assert_eq!(count_rows(second.directory.path(), secret), 0);
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    catch_up(&[&second, &alice, &bob]).await;
    they_talk(&second, &bob, &group).await;
}

#[tokio::test]
async fn a_voucher_that_was_changed_explains_nothing() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let (one, other) = (alice.group_with(&[&bob]).await, alice.group_with(&[&bob]).await);
    catch_up(&[&alice, &bob]).await;
    let (new, linking, proxy) = waiting(&server).await;
    let_in(&alice, &linking).await;
    let (first, offer) = (one.clone(), made_up(&one, &[]));
    let offered = offer.clone();
    proxy.lie("GET", "/v1/introduction", move |said: &mut Introduction| {
        let voucher = said
            .vouchers
            .iter_mut()
            .find(|voucher| voucher.group_id == first)
            .unwrap();
        (voucher.epoch, voucher.group_info) = (offer.epoch, offer.group_info.clone());
    });
    let second = new.finish_link(linking).await;
    let first = one.clone();
    proxy.rule(move |seen| match is_of(seen, "GET", &first, "info") {
        true => answer(&offered),
        false => Action::Forward,
    });
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    assert_eq!(second.summary(&one).await.request, listed_with(&["carol"]));
    assert_eq!(second.summary(&other).await.state, GroupState::Active);
    assert!(is_silent(&proxy, &one));
}

/// Alice's second device, whose group has moved on since it was let in.
async fn behind(server: &TestServer) -> (Client, Client, Client, Proxy, GroupKey) {
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let dave = server.client("dave").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let (second, proxy) = linked(server, &alice).await;
    alice.invite(&group, &[user("dave")]).await.unwrap();
    catch_up(&[&dave, &bob, &alice, &dave, &bob, &alice]).await;
    (alice, bob, second, proxy, group)
}

#[tokio::test]
async fn a_group_that_has_moved_on_is_joined_all_the_same() {
    let server = TestServer::start().await;
    let (alice, bob, second, proxy, group) = behind(&server).await;
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    catch_up(&[&second, &alice, &bob, &second]).await;
    let joined = second.summary(&group).await;
    assert_eq!((joined.request, joined.held), (None, vec![]));
    assert_eq!(second.users(&group).await, ["alice", "alice", "bob", "dave"]);
    they_talk(&second, &bob, &group).await;
    // The server need not keep anything for it any more.
    assert_eq!(proxy.seen("DELETE", "/v1/introduction").len(), 1);
}

#[tokio::test]
async fn who_came_since_without_the_commits_that_show_why_is_asked_about() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, _dave) = (server.client("bob").await, server.client("dave").await);
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let (second, proxy) = linked(&server, &alice).await;
    // Signed by a member whom the first device knew.
    alice.invite(&group, &[user("dave")]).await.unwrap();
    proxy.lie("GET", "/commits", |told: &mut Handshakes| told.handshakes.clear());
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    let held = second.summary(&group).await.held;
    let held: Vec<_> = held.iter().map(|held| held.user.as_str()).collect();
    assert_eq!(held, ["dave"]);
    second.trust(&user("dave")).await.unwrap();
    proxy.forward();
    catch_up(&[&second, &alice, &bob, &second]).await;
    they_talk(&second, &bob, &group).await;
}

#[tokio::test]
async fn another_tree_than_the_vouched_one_explains_nothing() {
    let server = TestServer::start().await;
    let (_alice, _bob, second, proxy, group) = behind(&server).await;
    let asked = group.clone();
    proxy.rule(move |seen| match seen.path.contains("/trees/") {
        true => {
            let tree = made_up(&asked, &[]).ratchet_tree;
            Action::rewrite_json(move |told: &mut RatchetTreeAnswer| told.ratchet_tree = tree)
        }
        false => Action::Forward,
    });
    assert_eq!(second.sync().await.unwrap().rejoined, 0);
    assert_eq!(
        second.summary(&group).await.request,
        listed_with(&["bob", "dave"])
    );
    assert!(is_silent(&proxy, &group));
}

#[tokio::test]
async fn another_group_in_the_place_of_a_vouched_one_is_not_joined() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let (second, proxy) = linked(&server, &alice).await;
    let offer = made_up(&group, &[]);
    proxy.rule_for("GET", "/info", move |_| answer(&offer));
    assert_eq!(second.sync().await.unwrap().rejoined, 0);
    let shown = second.summary(&group).await;
    assert_eq!(shown.state, GroupState::NeedsRejoin);
    let told = second.history(&group, 10).await.unwrap();
    let text = "in the place of this one";
    assert!(told.iter().any(|told| told.text.contains(text)), "{told:?}");
    assert!(is_silent(&proxy, &group));
    proxy.forward();
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    catch_up(&[&second, &alice, &bob]).await;
    they_talk(&second, &bob, &group).await;
}

#[tokio::test]
async fn what_the_person_has_not_accepted_is_not_vouched_for() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await.asked().await;
    let mallory = server.client("mallory").await;
    let of_mallory = mallory.group_with(&[&alice]).await;
    let own = alice.create_group("notes").await.unwrap().id;
    let (new, linking, proxy) = waiting(&server).await;
    let_in(&alice, &linking).await;
    let second = new.finish_link(linking).await;
    let vouched = "SELECT count(*) FROM vouchers";
    assert_eq!(count_rows(second.directory.path(), vouched), 1);
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    assert_eq!(second.users(&own).await, ["alice", "alice"]);
    assert_eq!(
        second.summary(&of_mallory).await.request,
        listed_with(&["mallory"])
    );
    assert!(is_silent(&proxy, &of_mallory));
}

#[tokio::test]
async fn an_invitation_whose_welcome_was_lost_is_asked_about() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    proxy.lie("POST", "/v1/inbox/next", |inbox: &mut Inbox| {
        for row in &mut inbox.rows {
            if row.kind == InboxKind::Welcome {
                row.kind = InboxKind::Passed;
                row.body.0.clear();
            }
        }
    });
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.summary(&group).await.request, listed_with(&["alice"]));
    assert!(is_silent(&proxy, &group));
    proxy.forward();
    bob.accept(&group).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().rejoined, 1);
    catch_up(&[&alice, &bob]).await;
    they_talk(&alice, &bob, &group).await;
}
