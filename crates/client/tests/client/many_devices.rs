//! Users who have more devices than they usually may.

use crate::support::{Client, TestServer, catch_up, options, they_talk, user};
use larder_client::{Error, GroupKey, GroupState, MlsConnection, NotAdded};
use larder_lifecycle::PoolPolicy;
use larder_wire::Reserved;

/// A user with so many devices, of which one stays.
async fn with_devices(server: &TestServer, name: &str, count: usize) -> Client {
    let first = server.client_with_pool_of(name, 2).await;
    for _ in 1..count {
        let directory = tempfile::tempdir().unwrap();
        let mut options = options(directory.path());
        options.policy = PoolPolicy::new(2, 1, 64).unwrap();
        let linking = MlsConnection::link(options, &server.url, user(name))
            .await
            .unwrap();
        let device = first.read_link_code(linking.code()).await.unwrap();
        first.authorize_link(device).await.unwrap();
        let linked = linking.finish().await.unwrap().expect("let in");
        linked.refresh_key_packages().await.unwrap();
    }
    first
}

/// How many devices of a user are in a group.
async fn devices_in(client: &Client, group: &GroupKey, name: &str) -> usize {
    let users = client.users(group).await;
    users.iter().filter(|user| *user == name).count()
}

#[tokio::test]
async fn more_devices_than_one_commit_may_add_are_added_by_several() {
    let mut server = TestServer::start().await;
    server.restart_where_users_have(256).await;
    let alice = server.client("alice").await;
    let (bob, carol) = tokio::join!(
        with_devices(&server, "bob", 129),
        with_devices(&server, "carol", 129)
    );
    let group = alice.create_group("lunch").await.unwrap().id;
    let before = alice.epoch(&group).await;
    let users = [user("bob"), user("carol")];
    let invited = alice.invite(&group, &users).await.unwrap();
    assert_eq!(
        (invited.added.as_slice(), invited.not_added),
        (&users[..], vec![])
    );
    assert_eq!(alice.epoch(&group).await, before + 2);
    for name in ["bob", "carol"] {
        assert_eq!(devices_in(&alice, &group, name).await, 129, "{name}");
    }
    alice.send(&group, "to all of you").await.unwrap();
    for client in [&bob, &carol] {
        assert_eq!(client.receive().await, ["to all of you"]);
    }

    // They cannot be added all or not at all.
    let other = alice.create_group("supper").await.unwrap().id;
    let refused = alice.invite_all(&other, &users).await;
    assert!(matches!(refused, Err(Error::TooManyUsers)), "{refused:?}");
    assert_eq!(alice.users(&other).await, ["alice"]);
}

#[tokio::test]
async fn a_directory_that_makes_up_devices_keeps_nobody_else_out() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.lie("POST", "/reserve", |reserved: &mut Reserved| {
        let bob = reserved
            .users
            .iter_mut()
            .find(|answer| answer.user == user("bob"))
            .unwrap();
        let real = bob.devices[0].clone();
        bob.devices.extend((0..300).map(|number| {
            let mut made_up = real.clone();
            made_up.device_id = format!("made-up-{number}").parse().unwrap();
            made_up
        }));
    });
    let invited = alice.invite(&group, &[user("bob"), user("carol")]).await.unwrap();
    assert_eq!(invited.added, [user("carol")]);
    assert_eq!(invited.not_added, [(user("bob"), NotAdded::TooManyDevices)]);
    assert_eq!(carol.sync().await.unwrap().joined, 1);
    assert_eq!(bob.sync().await.unwrap().joined, 0);
    // An honest answer is what it takes.
    proxy.forward();
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
}

/// It takes a while to make so many groups.
#[tokio::test]
async fn a_linked_device_comes_into_two_hundred_groups_and_asks_about_none() {
    const GROUPS: usize = 200;
    let server = TestServer::start().await;
    let (first, bob) = (server.client("alice").await, server.client("bob").await);
    let mut groups = Vec::new();
    for number in 0..GROUPS {
        groups.push(first.create_group(&format!("group {number}")).await.unwrap().id);
    }
    first.invite(&groups[GROUPS - 1], &[user("bob")]).await.unwrap();
    catch_up(&[&bob, &first]).await;
    let second = first.link().await.asked().await;
    assert_eq!(second.sync().await.unwrap().rejoined, GROUPS as u64);
    let joined = second.groups().await.unwrap();
    assert_eq!(joined.len(), GROUPS);
    for group in &joined {
        assert_eq!((group.state, &group.request), (GroupState::Active, &None));
        assert_eq!(group.held, []);
    }
    they_talk(&second, &bob, &groups[GROUPS - 1]).await;
    they_talk(&first, &second, &groups[0]).await;
}
