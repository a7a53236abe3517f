//! Invitations of all or nobody.

use crate::support::{Action, Client, TestServer, assert_unreachable, options, user};
use larder_client::{Error, GroupKey, Invited, KeyPackageFlaw, MlsConnection, NotAdded};
use larder_wire::Reserved;

/// How many KeyPackages the directory would hand out of this device.
async fn available(client: &Client) -> (u32, u32) {
    client.refresh_key_packages().await.unwrap();
    let health = client.pool_health().await.unwrap();
    (health.available, health.reserved)
}

async fn assert_nobody(alice: &Client, group: &GroupKey, invited: Invited, reasons: &[(&str, NotAdded)]) {
    assert!(invited.added.is_empty() && invited.by_last_resort.is_empty());
    let mut not_added = invited.not_added;
    not_added.sort_by(|one, other| one.0.cmp(&other.0));
    let expected: Vec<_> = reasons
        .iter()
        .map(|(name, reason)| (user(name), reason.clone()))
        .collect();
    assert_eq!(not_added, expected);
    assert_eq!(alice.users(group).await, ["alice"]);
}

#[tokio::test]
async fn when_one_user_cannot_be_added_nobody_is_and_nothing_of_theirs_is_used_up() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let directory = tempfile::tempdir().unwrap();
    let empty = MlsConnection::register(options(directory.path()), &server.url, user("empty"))
        .await
        .unwrap();
    let group = alice.create_group("lunch").await.unwrap().id;
    let before = available(&bob).await;

    let invited = alice.invite_all(&group, &[user("bob"), user("nobody")]).await;
    let reasons = [("bob", NotAdded::Withheld), ("nobody", NotAdded::NotFound)];
    assert_nobody(&alice, &group, invited.unwrap(), &reasons).await;
    let invited = alice.invite_all(&group, &[user("empty"), user("bob")]).await;
    let reasons = [("bob", NotAdded::Withheld), ("empty", NotAdded::Exhausted)];
    assert_nobody(&alice, &group, invited.unwrap(), &reasons).await;
    assert_eq!(available(&bob).await, before);

    empty.refresh_key_packages().await.unwrap();
    let users = [user("bob"), user("empty")];
    let invited = alice.invite_all(&group, &users).await.unwrap();
    assert_eq!(
        (invited.added.as_slice(), invited.not_added),
        (&users[..], vec![])
    );
    assert_eq!(alice.users(&group).await, ["alice", "bob", "empty"]);
}

#[tokio::test]
async fn a_bad_key_package_of_one_keeps_the_others_out_and_the_reservation_is_given_back() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.rule(|seen| {
        if !seen.is("POST", "/reserve") {
            return Action::Forward;
        }
        Action::rewrite_body(|body| {
            let mut reserved: Reserved = serde_json::from_slice(&body).unwrap();
            let bytes = reserved.users[0].devices[0].key_package.as_mut().unwrap();
            *bytes.0.last_mut().unwrap() ^= 1;
            serde_json::to_vec(&reserved).unwrap()
        })
    });
    let users = [user("bob"), user("carol")];
    let invited = alice.invite_all(&group, &users).await.unwrap();
    let reasons = [
        ("bob", NotAdded::InvalidKeyPackage(KeyPackageFlaw::Invalid)),
        ("carol", NotAdded::Withheld),
    ];
    assert_nobody(&alice, &group, invited, &reasons).await;
    assert!(proxy.seen("POST", "/commits").is_empty());
    carol.refresh_key_packages().await.unwrap();
    let health = carol.pool_health().await.unwrap();
    assert_eq!(
        (health.reserved, health.lapsed),
        (0, 1),
        "given back, and never handed out again"
    );

    proxy.forward();
    assert_eq!(alice.invite_all(&group, &users).await.unwrap().added, users);
    // Who is a member already keeps nobody out.
    server.client("dave").await;
    let invited = alice
        .invite_all(&group, &[user("bob"), user("dave")])
        .await
        .unwrap();
    assert_eq!(invited.added, [user("dave")]);
    assert_eq!(invited.not_added, [(user("bob"), NotAdded::AlreadyMember)]);
    let again = alice.invite_all(&group, &users).await.unwrap();
    assert!(again.added.is_empty());
    for client in [alice, bob, carol] {
        client.stop_and_audit().await;
    }
}

#[tokio::test]
async fn asking_for_all_or_for_anybody_after_a_lost_answer_is_another_request() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.cut_after("POST", "/reserve");
    assert_unreachable(alice.invite_all(&group, &[user("bob")]).await);
    proxy.forward();
    let invited = alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(invited.added, [user("bob")]);
    assert_eq!(bob.sync().await.unwrap().joined, 1);
}

#[tokio::test]
async fn more_users_than_one_request_may_name_are_refused_before_anything_happens() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    let users: Vec<_> = (0..65).map(|number| user(&format!("user{number}"))).collect();
    assert!(matches!(
        alice.invite_all(&group, &users).await,
        Err(Error::TooManyUsers)
    ));
    assert!(proxy.seen("POST", "/reserve").is_empty());
}
