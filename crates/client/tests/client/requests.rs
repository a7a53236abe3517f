//! Invitations from strangers are requests: nothing is sent to their groups before the person has accepted.

use crate::support::{
    Action, Answer, Client, Proxy, TestServer, catch_up, count_rows, invitation_by, keeps_no_commits,
    they_talk, user,
};
use larder_client::{Error, GroupKey, GroupState, MessageKind};
use larder_wire::ProblemType;

pub(crate) async fn is_request(client: &Client, group: &GroupKey) -> bool {
    let groups = client.groups().await.unwrap();
    groups
        .iter()
        .any(|known| known.id == *group && known.request.is_some())
}

/// What was sent to groups: messages and Commits.
fn sent(proxy: &Proxy) -> usize {
    ["/messages", "/commits"]
        .iter()
        .map(|path| proxy.seen("POST", path).len())
        .sum()
}

/// A group of a stranger's with somebody in it who wants to be asked.
pub(crate) async fn invited(alice: &Client, bob: &Client) -> GroupKey {
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "hello").await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    group
}

fn assert_not_accepted<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(
        matches!(&result, Err(error @ Error::NotAccepted { .. }) if error.code() == "not-accepted"),
        "{result:?}"
    );
}

#[tokio::test]
async fn nothing_is_sent_to_a_strangers_group_before_the_invitation_is_accepted() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (bob, proxy) = server.proxied("bob").await;
    let bob = bob.asked().await;
    let group = invited(&alice, &bob).await;
    let request = bob.summary(&group).await;
    assert_eq!(
        (request.request, request.state, request.unread),
        (Some(invitation_by("alice")), GroupState::Active, 0)
    );
    assert_eq!(request.name.as_deref(), Some("lunch"));
    assert!(bob.search("hello", None, 10).await.unwrap().is_empty());
    assert_eq!(bob.search("hello", Some(&group), 10).await.unwrap().len(), 1);

    // It is told of once, and is not forgotten by a restart.
    assert_eq!(bob.told().await, ["alice invites you to a group of 2"]);
    assert!(bob.unread().await.unwrap().is_empty());
    let mut bob = bob;
    bob.restart().await;
    assert!(is_request(&bob, &group).await);

    // Neither by the person nor by itself: what the others propose and do goes on without this device.
    assert_not_accepted(bob.send(&group, "hi").await);
    assert_not_accepted(bob.invite(&group, &[user("carol")]).await);
    assert_not_accepted(bob.invite_all(&group, &[user("carol")]).await);
    assert_not_accepted(bob.remove(&group, &user("alice")).await);
    assert_not_accepted(bob.rename_group(&group, "dinner").await);
    assert_not_accepted(bob.retry(&group).await);
    alice.invite(&group, &[user("carol")]).await.unwrap();
    carol.sync().await.unwrap();
    carol.leave(&group).await.unwrap();
    let again = carol.link().await;
    again.sync().await.unwrap();
    let synced = bob.sync().await.unwrap();
    assert!(synced.rows > 0, "what arrives is taken over");
    assert_eq!((synced.updated, synced.committed), (0, 0));
    assert_eq!(sent(&proxy), 0);
    assert_eq!(bob.summary(&group).await.unread, 0);
    assert!(
        bob.pool_health().await.unwrap().available == 32,
        "the pool is kept full"
    );

    bob.accept(&group).await.unwrap();
    bob.accept(&group).await.unwrap();
    assert!(!is_request(&bob, &group).await);
    let synced = bob.sync().await.unwrap();
    assert!(sent(&proxy) > 0);
    assert_eq!(
        synced.updated + synced.committed,
        1,
        "R-C9: a fresh leaf, with or without carol's leave"
    );
    let unread: Vec<String> = bob.take_unread().await.into_iter().map(|row| row.text).collect();
    assert!(unread.contains(&"hello".to_owned()), "{unread:?}");
    they_talk(&alice, &bob, &group).await;
    assert!(matches!(bob.decline(&group).await, Err(Error::NotARequest)));
    for client in [alice, bob, carol] {
        client.stop_and_audit().await;
    }
}

#[tokio::test]
async fn who_shares_an_accepted_group_does_not_ask_and_who_shares_a_request_does() {
    let server = TestServer::start().await;
    let (alice, mallory) = (server.client("alice").await, server.client("mallory").await);
    let bob = server.client("bob").await.asked().await;
    let first = invited(&alice, &bob).await;
    assert!(is_request(&bob, &first).await);
    let second = invited(&alice, &bob).await;
    assert!(is_request(&bob, &second).await, "a request is no acquaintance");
    bob.accept(&first).await.unwrap();
    assert!(is_request(&bob, &second).await, "each is answered for itself");
    let third = invited(&alice, &bob).await;
    assert!(!is_request(&bob, &third).await);
    // Nor are those who happen to be in one.
    alice.invite(&second, &[user("mallory")]).await.unwrap();
    catch_up(&[&mallory, &bob]).await;
    let of_mallory = invited(&mallory, &bob).await;
    assert_eq!(
        bob.summary(&of_mallory).await.request,
        Some(invitation_by("mallory"))
    );
    // A group that was left is no acquaintance any more.
    bob.leave(&first).await.unwrap();
    bob.leave(&third).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    let fourth = invited(&alice, &bob).await;
    assert!(is_request(&bob, &fourth).await);
    // One's own groups are nobody's requests.
    let own = bob.create_group("own").await.unwrap().id;
    assert!(!is_request(&bob, &own).await);
}

#[tokio::test]
async fn declining_leaves_the_group_and_forgets_what_came_from_it() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client("bob").await.asked().await;
    let group = invited(&alice, &bob).await;
    // Alice is not heard of any more, and need not have heard of it herself.
    alice.send(&group, "not read yet").await.unwrap();
    assert!(bob.decline(&group).await.unwrap().told);
    assert_eq!(bob.groups().await.unwrap(), []);
    alice.send(&group, "are you there?").await.unwrap();
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    assert!(bob.history(&group, 10).await.unwrap().is_empty());
    assert!(bob.unread().await.unwrap().is_empty());
    assert_eq!(alice.told().await, ["bob left"]);
    assert_eq!(alice.users(&group).await, ["alice"]);
    for answer in [
        bob.accept(&group).await.map(drop),
        bob.decline(&group).await.map(drop),
    ] {
        assert!(matches!(
            answer,
            Err(Error::GroupNotActive(GroupState::Left) | Error::NotARequest)
        ));
    }
    bob.stop().await;
    let messages = "SELECT count(*) FROM messages WHERE group_id IS NOT NULL";
    assert_eq!(count_rows(bob.directory.path(), messages), 0);
    bob.restart().await;

    // Another invitation is another question.
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    assert!(is_request(&bob, &group).await);
    assert_eq!(bob.told().await, ["alice invites you to a group of 2"]);
    // Who is removed before the answer may answer still.
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    assert!(is_request(&bob, &group).await);
    bob.decline(&group).await.unwrap();
    assert!(!is_request(&bob, &group).await);
    assert!(bob.history(&group, 10).await.unwrap().is_empty());
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn what_is_declined_without_a_server_is_left_when_there_is_one() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let mut bob = bob.asked().await;
    let group = invited(&alice, &bob).await;
    proxy.rule(|_| Action::CutBefore);
    assert!(!bob.decline(&group).await.unwrap().told);
    bob.restart().await;
    assert_eq!(bob.groups().await.unwrap(), []);
    assert!(bob.history(&group, 10).await.unwrap().is_empty());
    proxy.forward();
    catch_up(&[&bob, &alice, &bob]).await;
    assert_eq!(alice.users(&group).await, ["alice"]);
    assert_eq!(bob.groups().await.unwrap(), []);
}

#[tokio::test]
async fn blocking_declines_the_open_invitations_of_a_user_and_no_others() {
    let server = TestServer::start().await;
    let (alice, mallory) = (server.client("alice").await, server.client("mallory").await);
    let bob = server.client("bob").await.asked().await;
    let of_alice = invited(&alice, &bob).await;
    let mut of_mallory = vec![invited(&mallory, &bob).await, invited(&mallory, &bob).await];
    of_mallory.sort();
    // One more is on its way.
    let unread = mallory.create_group("dinner").await.unwrap().id;
    mallory.invite(&unread, &[user("bob")]).await.unwrap();
    let mut declined = bob.block(&user("mallory")).await.unwrap().declined;
    declined.sort();
    assert_eq!(declined, of_mallory);
    let shown: Vec<GroupKey> = bob
        .groups()
        .await
        .unwrap()
        .into_iter()
        .map(|group| group.id)
        .collect();
    assert_eq!(shown, std::slice::from_ref(&of_alice));
    // It was turned away unseen.
    of_mallory.push(unread);
    for group in &of_mallory {
        mallory.send(group, "answer me").await.unwrap();
    }
    assert_eq!(bob.sync().await.unwrap().rows, 0);
    catch_up(&[&mallory, &bob]).await;
    for group in &of_mallory {
        assert_eq!(mallory.users(group).await, ["mallory"]);
    }
    assert!(is_request(&bob, &of_alice).await);
    assert!(bob.block(&user("mallory")).await.unwrap().declined.is_empty());
}

/// Whoever invites could give anybody any key, and nobody else's would be believed after it.
#[tokio::test]
async fn who_is_in_a_group_is_known_by_their_keys_once_it_is_accepted() {
    let server = TestServer::start().await;
    let (mallory, carol) = (server.client("mallory").await, server.client("carol").await);
    let mut bob = server.client("bob").await.asked().await;
    let known = "SELECT count(*) FROM peers WHERE user IN ('mallory', 'carol')";
    let declined = invited(&mallory, &bob).await;
    mallory.invite(&declined, &[user("carol")]).await.unwrap();
    bob.sync().await.unwrap();
    bob.decline(&declined).await.unwrap();
    let accepted = invited(&mallory, &bob).await;
    mallory.invite(&accepted, &[user("carol")]).await.unwrap();
    bob.sync().await.unwrap();
    bob.stop().await;
    assert_eq!(count_rows(bob.directory.path(), known), 0);
    bob.restart().await;
    bob.accept(&accepted).await.unwrap();
    catch_up(&[&carol, &bob]).await;
    they_talk(&mallory, &bob, &accepted).await;
    bob.stop().await;
    assert_eq!(count_rows(bob.directory.path(), known), 2);
}

#[tokio::test]
async fn a_block_holds_here_at_once_and_the_server_is_told_later() {
    let server = TestServer::start().await;
    let mallory = server.client("mallory").await;
    let (bob, proxy) = server.proxied("bob").await;
    let mut bob = bob.asked().await;
    let group = invited(&mallory, &bob).await;
    proxy.rule(|_| Action::CutBefore);
    let blocked = bob.block(&user("mallory")).await.unwrap();
    assert_eq!(blocked.declined, std::slice::from_ref(&group));
    assert!(!blocked.told);
    assert_eq!(bob.groups().await.unwrap(), []);
    bob.restart().await;
    proxy.forward();
    let other = mallory.create_group("dinner").await.unwrap().id;
    bob.sync().await.unwrap();
    let refused = mallory.invite(&other, &[user("bob")]).await.unwrap_err();
    assert!(matches!(refused, Error::NoKeyPackages { .. }), "{refused}");

    // Nor does an end of it get lost.
    proxy.rule(|_| Action::CutBefore);
    assert!(!bob.unblock(&user("mallory")).await.unwrap());
    proxy.forward();
    bob.sync().await.unwrap();
    let outcome = mallory.invite(&other, &[user("bob")]).await.unwrap();
    assert_eq!(outcome.added, [user("bob")]);
}

#[tokio::test]
async fn a_block_that_the_server_refuses_holds_here() {
    let server = TestServer::start().await;
    let mallory = server.client("mallory").await;
    let (bob, proxy) = server.proxied("bob").await;
    let bob = bob.asked().await;
    invited(&mallory, &bob).await;
    proxy.rule_for("PUT", "/v1/blocks/mallory", |_| {
        Action::Answer(Answer::problem(ProblemType::TooLarge))
    });
    let refused = bob.block(&user("mallory")).await.unwrap_err();
    assert_eq!(refused.code(), "too-large");
    assert_eq!(bob.groups().await.unwrap(), []);
    let asked = proxy.seen("PUT", "/v1/blocks/mallory").len();
    bob.sync().await.unwrap();
    assert_eq!(
        proxy.seen("PUT", "/v1/blocks/mallory").len(),
        asked,
        "it is not told again"
    );
    assert_eq!(bob.block(&user("bob")).await.unwrap_err().code(), "malformed");
}

#[tokio::test]
async fn a_request_that_was_lost_track_of_is_rejoined_only_when_it_is_accepted() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (bob, proxy) = server.proxied("bob").await;
    let bob = bob.asked().await;
    let (accepted, declined) = (invited(&alice, &bob).await, invited(&alice, &bob).await);
    proxy.rule(|seen| keeps_no_commits(seen).unwrap_or(Action::Forward));
    for group in [&accepted, &declined] {
        alice.invite(group, &[user("carol")]).await.unwrap();
    }
    assert_eq!(bob.sync().await.unwrap().rejoined, 0);
    proxy.forward();
    assert_eq!(bob.sync().await.unwrap().rejoined, 0);
    assert_eq!(sent(&proxy), 0);
    assert_eq!(bob.summary(&accepted).await.state, GroupState::NeedsRejoin);

    bob.decline(&declined).await.unwrap();
    assert!(
        bob.groups()
            .await
            .unwrap()
            .iter()
            .all(|group| group.id != declined)
    );
    catch_up(&[&alice]).await;
    assert_eq!(alice.users(&declined).await, ["alice", "carol"]);
    bob.accept(&accepted).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().rejoined, 1);
    carol.sync().await.unwrap();
    they_talk(&alice, &bob, &accepted).await;
}

#[tokio::test]
async fn what_one_device_accepts_or_declines_the_others_of_its_user_learn() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let one = server.client("bob").await.asked().await;
    let other = one.link().await.asked().await;
    catch_up(&[&one, &other]).await;
    let (kept, left) = (invited(&alice, &one).await, invited(&alice, &one).await);
    other.sync().await.unwrap();
    for group in [&kept, &left] {
        assert!(is_request(&one, group).await && is_request(&other, group).await);
    }
    one.accept(&kept).await.unwrap();
    one.sync().await.unwrap();
    other.sync().await.unwrap();
    assert!(!is_request(&other, &kept).await);
    assert!(other.receive().await.contains(&"hello".to_owned()));

    one.decline(&left).await.unwrap();
    catch_up(&[&other, &one]).await;
    for device in [&one, &other] {
        assert!(
            device
                .groups()
                .await
                .unwrap()
                .iter()
                .all(|group| group.id != left)
        );
        assert!(device.history(&left, 10).await.unwrap().is_empty());
    }
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&left).await, ["alice"]);
    they_talk(&alice, &other, &kept).await;
}

#[tokio::test]
async fn a_stranger_cannot_take_the_name_of_a_group() {
    let server = TestServer::start().await;
    let (alice, mallory) = (server.client("alice").await, server.client("mallory").await);
    let bob = server.client("bob").await.asked().await;
    let lunch = invited(&alice, &bob).await;
    assert_eq!(bob.resolve_group("lunch").await.unwrap(), lunch);
    bob.accept(&lunch).await.unwrap();
    let other_lunch = invited(&mallory, &bob).await;
    assert_eq!(bob.resolve_group("lunch").await.unwrap(), lunch);
    assert_eq!(bob.resolve_request("lunch").await.unwrap(), other_lunch);
    assert!(matches!(
        bob.resolve_request(&lunch.to_string()).await,
        Err(Error::UnknownGroup)
    ));
    let third = invited(&mallory, &bob).await;
    assert!(matches!(
        bob.resolve_request("lunch").await,
        Err(Error::Ambiguous { groups }) if groups.len() == 2
    ));
    assert_eq!(bob.resolve_request(&third.to_string()[..8]).await.unwrap(), third);
}

/// The texts in the history of a group.
pub(crate) async fn texts(client: &Client, group: &GroupKey) -> Vec<String> {
    let history = client.history(group, 100).await.unwrap();
    let texts = history.into_iter().filter(|row| row.kind == MessageKind::Text);
    texts.map(|row| row.text).collect()
}

/// A group that bob was in, said something in, and did not read to the end before he was removed.
async fn removed_from(alice: &Client, bob: &Client) -> GroupKey {
    let group = invited(alice, bob).await;
    bob.accept(&group).await.unwrap();
    bob.take_unread().await;
    bob.send(&group, "mine").await.unwrap();
    alice.sync().await.unwrap();
    alice.send(&group, "not read").await.unwrap();
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    group
}

const BEFORE: [&str; 3] = ["hello", "mine", "not read"];

#[tokio::test]
async fn declining_forgets_what_came_with_the_invitation_and_nothing_before() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let mut bob = server.client("bob").await.asked().await;
    let group = removed_from(&alice, &bob).await;
    bob.set_muted(&group, true).await.unwrap();
    let unread = bob.summary(&group).await.unread;
    assert!(unread > 0);
    alice.invite(&group, &[user("bob"), user("carol")]).await.unwrap();
    alice.rename_group(&group, "free money").await.unwrap();
    alice.send(&group, "come back").await.unwrap();
    catch_up(&[&carol, &bob]).await;
    assert!(is_request(&bob, &group).await);
    assert_eq!(bob.summary(&group).await.unread, unread);
    assert_eq!(bob.search("not read", None, 9).await.unwrap().len(), 1);
    assert!(bob.search("come back", None, 9).await.unwrap().is_empty());
    // What there was before is told of as ever, and of the invitation that it is there.
    let told: Vec<String> = bob
        .unread()
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.text)
        .collect();
    assert!(
        told.contains(&"not read".to_owned()) && !told.contains(&"come back".to_owned()),
        "{told:?}"
    );
    assert_eq!(told.last().unwrap(), "alice invites you to a group of 3");

    assert!(bob.decline(&group).await.unwrap().kept);
    carol.send(&group, "who is there?").await.unwrap();
    bob.restart().await;
    catch_up(&[&alice, &carol, &bob]).await;
    assert_eq!(alice.users(&group).await, ["alice", "carol"]);
    assert_eq!(texts(&bob, &group).await, BEFORE);
    let left = bob.summary(&group).await;
    assert_eq!(
        (left.state, left.name.as_deref(), left.unread, left.muted),
        (GroupState::Left, Some("lunch"), unread, true)
    );
    assert!(
        bob.unread()
            .await
            .unwrap()
            .iter()
            .any(|row| row.text == "not read")
    );
    assert_eq!(bob.resolve_group("lunch").await.unwrap(), group);

    // Who is invited, and removed before the answer, loses nothing at all before declining.
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "come back").await.unwrap();
    bob.sync().await.unwrap();
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(texts(&bob, &group).await, [&BEFORE[..], &["come back"]].concat());
    bob.decline(&group).await.unwrap();
    assert_eq!(texts(&bob, &group).await, BEFORE);
    // Nor who blocks, and whoever leaves the group instead of answering.
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    bob.leave(&group).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, &group).await, BEFORE);
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(
        bob.block(&user("alice")).await.unwrap().declined,
        std::slice::from_ref(&group)
    );
    catch_up(&[&alice, &bob]).await;
    assert_eq!(texts(&bob, &group).await, BEFORE);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn what_was_declined_once_and_is_accepted_then_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await.asked().await;
    let group = removed_from(&alice, &bob).await;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "come back").await.unwrap();
    bob.sync().await.unwrap();
    bob.accept(&group).await.unwrap();
    let all = [&BEFORE[..], &["come back"]].concat();
    assert_eq!(texts(&bob, &group).await, all);
    alice.remove(&group, &user("bob")).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(texts(&bob, &group).await, all, "an answer is for good");
}

#[tokio::test]
async fn the_servers_word_deletes_nothing_of_an_open_invitation() {
    let mut server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await.asked().await;
    let group = removed_from(&alice, &bob).await;
    let backup = server.backup();
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "come back").await.unwrap();
    bob.sync().await.unwrap();
    server.restore(&backup).await;
    bob.sync().await.unwrap();
    assert!(bob.summary(&group).await.denied);
    let all = [&BEFORE[..], &["come back"]].concat();
    assert_eq!(texts(&bob, &group).await, all);
    let unread = bob.unread().await.unwrap();
    assert!(
        unread.iter().all(|row| row.text != "come back"),
        "it was not answered"
    );
    // It can be answered still.
    assert!(bob.decline(&group).await.unwrap().kept);
    assert_eq!(texts(&bob, &group).await, BEFORE);
}

#[tokio::test]
async fn the_database_refuses_to_forget_what_is_no_open_invitation() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client("bob").await.asked().await;
    let group = removed_from(&alice, &bob).await;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    for sql in ["DELETE FROM messages", "DELETE FROM groups"] {
        assert!(database.execute(sql, []).is_err(), "{sql}");
    }
}
