//! A server that lists groups which there are not, or tells nothing of those that there are.

use std::collections::BTreeSet;

use crate::made_up::{answer, made_up, say_that_it_is_a_copy};
use crate::support::{Action, Client, Proxy, Seen, TestServer, catch_up, count_rows, they_talk, user};
use larder_client::{ContactRequest, GroupKey, GroupState};
use larder_wire::{
    Base64Url, GROUPS_PER_DEVICE_MAX, GroupInfoAnswer, Inbox, InboxKind, InboxRow, Membership, Memberships,
};

/// Groups that nothing explains, of which this device keeps no more.
const UNEXPLAINED_MAX: usize = 64;

/// Real ids have 16 bytes.
fn invented(number: u64) -> GroupKey {
    GroupKey::from_bytes(&number.to_be_bytes()).unwrap()
}

fn membership(group_id: GroupKey) -> Membership {
    Membership {
        group_id,
        epoch: 9,
        gaps: Vec::new(),
        head: 9,
    }
}

/// Whether the request asks for an invented group's GroupInfo.
fn is_info_of_invented(seen: &Seen) -> bool {
    let group = seen.path.strip_prefix("/v1/groups/");
    let group = group.and_then(|rest| rest.strip_suffix("/info"));
    let group = group.and_then(|group| group.parse::<GroupKey>().ok());
    seen.is("GET", "/info") && group.is_some_and(|group| group.as_bytes().len() == 8)
}

fn garbage() -> GroupInfoAnswer {
    GroupInfoAnswer {
        epoch: 9,
        group_info: Base64Url(vec![1, 2, 3]),
        ratchet_tree: Base64Url(vec![0xff; 9]),
    }
}

/// Lists these groups before those that there are, and tells nothing of them that can be read.
fn list(proxy: &Proxy, mut groups: impl FnMut() -> Vec<GroupKey> + Send + 'static) {
    proxy.rule(move |seen| {
        if seen.is("GET", "/v1/groups") {
            let groups = groups();
            return Action::rewrite_json(move |listed: &mut Memberships| {
                let room = GROUPS_PER_DEVICE_MAX - listed.groups.len();
                let groups = groups.into_iter().take(room).map(membership);
                listed.groups.splice(0..0, groups);
            });
        }
        match is_info_of_invented(seen) {
            true => answer(&garbage()),
            false => Action::Forward,
        }
    });
}

/// A user whose second device makes the first one ask for the list whenever it starts.
async fn with_two_devices(server: &TestServer) -> (Client, Client, Proxy) {
    let (bob, proxy) = server.proxied_with_pool_of("bob", 4).await;
    let second = bob.link().await;
    catch_up(&[&bob, &second]).await;
    (bob, second, proxy)
}

async fn requests(client: &Client) -> BTreeSet<GroupKey> {
    let groups = client.groups().await.unwrap().into_iter();
    let asked = groups.filter(|group| matches!(group.request, Some(ContactRequest::Listed { .. })));
    asked.map(|group| group.id).collect()
}

fn listed_with(users: &[&str]) -> Option<ContactRequest> {
    let users = users.iter().map(|name| user(name)).collect();
    Some(ContactRequest::Listed { users: Some(users) })
}

#[tokio::test]
async fn invented_groups_are_bounded_and_go_with_an_honest_list() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", 4).await;
    let (mut bob, second, proxy) = with_two_devices(&server).await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob, &second]).await;
    let mut first = 0;
    list(&proxy, move || {
        first += 5_000;
        (first..first + 5_000).map(invented).collect()
    });
    for _ in 0..3 {
        bob.restart().await;
        let before = proxy.seen("GET", "/info").len();
        bob.sync().await.unwrap();
        let asked = proxy.seen("GET", "/info").len() - before;
        assert!(asked <= UNEXPLAINED_MAX, "{asked} requests");
        let shown = bob.groups().await.unwrap().len();
        assert!(shown <= UNEXPLAINED_MAX + 1, "{shown} are shown");
    }
    bob.stop().await;
    let profile = bob.directory.path().to_owned();
    let remembered = "SELECT (SELECT count(*) FROM groups) + (SELECT count(*) FROM listed)";
    let remembered = count_rows(&profile, remembered);
    assert!(remembered <= UNEXPLAINED_MAX as i64 + 1, "{remembered}");
    let told = "SELECT count(*) FROM messages WHERE length(group_id) = 8";
    assert!(count_rows(&profile, told) <= UNEXPLAINED_MAX as i64);

    // One honest list takes all of it back.
    proxy.forward();
    bob.restart().await;
    bob.sync().await.unwrap();
    let shown: Vec<GroupKey> = bob
        .groups()
        .await
        .unwrap()
        .into_iter()
        .map(|group| group.id)
        .collect();
    assert_eq!(shown, std::slice::from_ref(&group));
    they_talk(&alice, &bob, &group).await;
    bob.stop().await;
    for sql in [
        told,
        "SELECT count(*) FROM listed",
        "SELECT count(*) FROM groups WHERE length(group_id) = 8",
    ] {
        assert_eq!(count_rows(&profile, sql), 0, "{sql}");
    }
}

#[tokio::test]
async fn what_is_listed_now_takes_no_place_of_what_was_before() {
    let server = TestServer::start().await;
    let (mut bob, _second, proxy) = with_two_devices(&server).await;
    let first: Vec<GroupKey> = (0..UNEXPLAINED_MAX as u64).map(invented).collect();
    let (listed, later) = (first.clone(), (100..4_000).map(invented));
    let mut later = later.collect::<Vec<_>>();
    list(&proxy, move || listed.clone());
    bob.restart().await;
    bob.sync().await.unwrap();
    let before: BTreeSet<GroupKey> = first.iter().cloned().collect();
    assert_eq!(requests(&bob).await, before);

    later.extend(first.clone());
    list(&proxy, move || later.clone());
    bob.restart().await;
    bob.sync().await.unwrap();
    assert_eq!(requests(&bob).await, before);

    // Whoever declines makes room for the next one, and is not asked again.
    bob.decline(&first[0]).await.unwrap();
    bob.restart().await;
    bob.sync().await.unwrap();
    let after = requests(&bob).await;
    assert_eq!(after.len(), UNEXPLAINED_MAX);
    assert!(!after.contains(&first[0]));
    assert_eq!(after.difference(&before).count(), 1);
}

/// Messages of the first invented group with these numbers.
fn rows_of_invented(numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = InboxRow> {
    numbers.map(|seq| InboxRow {
        group_id: Some(invented(1)),
        seq,
        first: Some(1),
        kind: InboxKind::Message,
        epoch: Some(9),
        received_at: 1,
        gone: None,
        body: Base64Url(seq.to_be_bytes().to_vec()),
    })
}

#[tokio::test]
async fn rows_of_a_group_that_is_only_listed_are_hardly_kept() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", 4).await;
    let (mut bob, proxy) = server.proxied_with_pool_of("bob", 4).await;
    let group = alice.group_with(&[&bob]).await;
    let mut told = false;
    proxy.rule(move |seen| {
        if seen.is("GET", "/v1/groups") {
            return Action::rewrite_json(|listed: &mut Memberships| {
                listed.groups.push(membership(invented(1)))
            });
        }
        if is_info_of_invented(seen) {
            return answer(&made_up(&invented(1), &[]));
        }
        match seen.is("POST", "/v1/inbox/next") && !std::mem::replace(&mut told, true) {
            true => Action::rewrite_json(|inbox: &mut Inbox| {
                inbox.rows.extend(rows_of_invented(1..=100));
            }),
            false => Action::Forward,
        }
    });
    bob.sync().await.unwrap();
    assert_eq!(requests(&bob).await, BTreeSet::from([invented(1)]));
    let mut told = false;
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        if !std::mem::replace(&mut told, true) {
            inbox.rows.extend(rows_of_invented(101..=200));
        }
    });
    // What it takes over of that group it acknowledges, which the real server refuses.
    let _ = bob.sync().await;
    proxy.forward();
    let _ = bob.sync().await;
    they_talk(&alice, &bob, &group).await;
    bob.stop().await;
    let kept = "SELECT count(*) FROM rows_seen WHERE length(group_id) = 8";
    let kept = count_rows(bob.directory.path(), kept);
    assert!(kept <= 4, "{kept}");
}

#[tokio::test]
async fn who_is_in_a_listed_group_is_told_once_the_server_tells() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let mut bob = bob.asked().await;
    proxy.rule(|seen| {
        if seen.is("GET", "/info") {
            return answer(&garbage());
        }
        match seen.is("POST", "/v1/inbox/next") {
            true => Action::rewrite_json(|inbox: &mut Inbox| {
                for row in inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Welcome) {
                    row.kind = InboxKind::Passed;
                    row.body.0.clear();
                }
            }),
            false => Action::Forward,
        }
    });
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    let unknown = Some(ContactRequest::Listed { users: None });
    assert_eq!(bob.summary(&group).await.request, unknown);
    // As long as it tells nothing, that is said once.
    for _ in 0..2 {
        bob.restart().await;
        bob.sync().await.unwrap();
    }
    assert_eq!(bob.history(&group, 10).await.unwrap().len(), 1);

    proxy.forward();
    bob.restart().await;
    bob.sync().await.unwrap();
    assert_eq!(bob.summary(&group).await.request, listed_with(&["alice"]));
    let told = bob.history(&group, 10).await.unwrap();
    let last = told.last().unwrap();
    assert_eq!(last.text, "the server says that you are in a group of alice");
    bob.decline(&group).await.unwrap();
    assert!(bob.groups().await.unwrap().is_empty());
}

/// A copy of a profile is told of a group that it had left.
#[tokio::test]
async fn what_was_left_is_as_it_was_once_the_server_lists_it_no_more() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    alice.send(&group, "kept").await.unwrap();
    assert_eq!(bob.receive().await, ["kept"]);
    bob.leave(&group).await.unwrap();
    let history = bob.history(&group, 100).await.unwrap();
    bob.stop().await;
    let (left, offer) = (group.clone(), made_up(&group, &[]));
    say_that_it_is_a_copy(&proxy, move |seen| {
        let left = left.clone();
        if seen.is("GET", "/v1/groups") {
            return Some(Action::rewrite_json(move |listed: &mut Memberships| {
                listed.groups.push(membership(left));
            }));
        }
        seen.is("GET", "/info").then(|| answer(&offer))
    });
    bob.restart().await;
    bob.sync().await.unwrap();
    let asked = bob.summary(&group).await;
    assert_eq!(
        (asked.state, asked.request),
        (GroupState::NeedsRejoin, listed_with(&["carol"]))
    );
    assert_eq!(bob.history(&group, 100).await.unwrap().len(), history.len() + 1);

    proxy.forward();
    bob.restart().await;
    bob.sync().await.unwrap();
    let as_before = bob.summary(&group).await;
    assert_eq!((as_before.state, as_before.request), (GroupState::Left, None));
    assert_eq!(as_before.name.as_deref(), Some("lunch"));
    let kept = bob.history(&group, 100).await.unwrap();
    assert_eq!(kept.len(), history.len());
}

/// So many groups that nothing is done about.
const FILL: &str = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4096)
    INSERT INTO groups (group_id, state, joined_epoch) SELECT CAST('full' || n AS BLOB), 0, 0 FROM n";

#[tokio::test]
async fn a_device_in_as_many_groups_as_it_can_be_in_joins_no_more() {
    let server = TestServer::start().await;
    let alice = server.client_with_pool_of("alice", 4).await;
    let mut bob = server.client_with_pool_of("bob", 4).await;
    let known = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    bob.take_unread().await;
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    database.execute(FILL, []).unwrap();
    bob.restart().await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 0);
    let told = bob.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("as many groups as it can be in"), "{told:?}");
    they_talk(&alice, &bob, &known).await;

    // Once there is room it is asked about.
    bob.stop().await;
    database
        .execute(
            "DELETE FROM groups WHERE group_id >= CAST('full' AS BLOB) AND state = 0",
            [],
        )
        .unwrap();
    bob.restart().await;
    bob.sync().await.unwrap();
    assert_eq!(bob.summary(&group).await.request, listed_with(&["alice"]));
    bob.accept(&group).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().rejoined, 1);
    they_talk(&alice, &bob, &group).await;
}
