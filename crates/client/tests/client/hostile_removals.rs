//! A server that lies about which devices were removed, and by whom.

use std::sync::Arc;

use crate::device_lists::{
    MadeUp, alice_twice_and_bob, distrust_told, keys_of, lie_about_devices, mail_of_device_change, removal,
    said_removed,
};
use crate::support::{Action, Answer, Client, Proxy, TestServer, catch_up, count_rows, they_talk, user};
use larder_client::{Error, ProblemType};
use larder_wire::{Inbox, Reserved, UserDevices};

/// The server shows a user's devices as if this first device had let them in, and removed them all if
/// `removes`.
fn put_under(root: &MadeUp, listed: &mut UserDevices, removes: bool) {
    let user = listed.user.clone();
    for device in &mut listed.devices {
        if device.authorization.is_none() {
            root.authorize(&user, device);
        }
        if removes {
            device.removed_at = Some(7);
            device.removal = Some(removal(&root.keys, &root.info.device_id, &user, device));
        }
    }
    listed.devices.insert(0, root.info.clone());
}

/// Lies so about one user, and says once that a device of theirs came or went.
fn put_user_under(proxy: &Proxy, root: &Arc<MadeUp>, name: &'static str, removes: bool) {
    let root = Arc::clone(root);
    lie_about_devices(proxy, &user(name), move |listed| {
        if listed.user == user(name) {
            put_under(&root, listed, removes);
        }
    });
}

/// How many devices of a user are known to be removed.
fn removed(client: &Client, name: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM peers WHERE user = '{name}' AND standing = 2");
    count_rows(client.directory.path(), &sql)
}

#[tokio::test]
async fn a_first_list_under_a_made_up_root_expels_nobody() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let dave = server.client("dave").await;
    let group = alice.group_with(&[&bob]).await;
    let root = Arc::new(MadeUp::new("root-of-the-server"));
    put_user_under(&proxy, &root, "dave", true);
    alice.invite(&group, &[user("dave")]).await.unwrap();
    let mut told = said_removed(&bob).await;
    for _ in 0..2 {
        assert_eq!(bob.sync().await.unwrap().committed, 0);
        told.extend(said_removed(&bob).await);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&dave.me().device_id.as_str()[..8]), "{told:?}");
    dave.sync().await.unwrap();
    dave.accept(&group).await.unwrap();
    catch_up(&[&dave, &alice, &bob]).await;
    for member in [&alice, &bob, &dave] {
        assert_eq!(member.users(&group).await, ["alice", "bob", "dave"]);
    }
    they_talk(&dave, &bob, &group).await;
    // It is told in a group of later, too.
    let later = alice.create_group("dinner").await.unwrap().id;
    alice.invite(&later, &[user("dave")]).await.unwrap();
    alice.invite(&later, &[user("bob")]).await.unwrap();
    assert_eq!(said_removed(&bob).await.len(), 1);
    assert_eq!(bob.users(&later).await, ["alice", "bob", "dave"]);
    // Nor is the device invited by what the server says of it.
    let other = bob.create_group("supper").await.unwrap().id;
    let refused = bob.invite(&other, &[user("dave")]).await;
    assert!(
        matches!(&refused, Err(Error::UnauthorizedDevice { device, .. }) if *device == dave.me().device_id),
        "{refused:?}"
    );

    // The true list begins with another device: the person compares.
    proxy.forward();
    bob.new_identity(&user("dave")).await.unwrap();
    assert_eq!(distrust_told(&bob).await.len(), 2, "once in each group");
    bob.take_new_identity(&user("dave")).await.unwrap();
    assert_eq!(
        bob.invite(&other, &[user("dave")]).await.unwrap().added,
        [user("dave")]
    );
    they_talk(&dave, &bob, &group).await;
}

#[tokio::test]
async fn a_made_up_root_that_was_shown_before_expels_nobody() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let dave = server.client("dave").await;
    let group = alice.group_with(&[&bob]).await;
    let root = Arc::new(MadeUp::new("root-of-the-server"));
    put_user_under(&proxy, &root, "dave", false);
    alice.invite(&group, &[user("dave")]).await.unwrap();
    assert_eq!(said_removed(&bob).await, [""; 0]);
    // The removal comes with a later list, and is kept when another one is silent about it.
    let mut told = Vec::new();
    for removes in [true, false] {
        put_user_under(&proxy, &root, "dave", removes);
        told.extend(said_removed(&bob).await);
        assert_eq!(bob.sync().await.unwrap().committed, 0);
        assert_eq!(bob.users(&group).await, ["alice", "bob", "dave"]);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    dave.sync().await.unwrap();
    dave.accept(&group).await.unwrap();
    they_talk(&dave, &bob, &group).await;
}

#[tokio::test]
async fn a_newcomer_is_not_made_to_expel_everybody() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (dave, proxy) = server.proxied("dave").await;
    let group = alice.group_with(&[&carol]).await;
    let roots = Arc::new([MadeUp::new("root-of-alice"), MadeUp::new("root-of-carol")]);
    proxy.lie("GET", "/devices", move |listed: &mut UserDevices| {
        match listed.user.as_str() {
            "alice" => put_under(&roots[0], listed, true),
            "carol" => put_under(&roots[1], listed, true),
            _ => {}
        }
    });
    alice.invite(&group, &[user("dave")]).await.unwrap();
    dave.sync().await.unwrap();
    dave.accept(&group).await.unwrap();
    for _ in 0..2 {
        catch_up(&[&dave, &alice, &carol]).await;
        for member in [&alice, &carol, &dave] {
            assert_eq!(member.users(&group).await, ["alice", "carol", "dave"]);
        }
    }
    assert_eq!((removed(&dave, "alice"), removed(&dave, "carol")), (1, 1));
    they_talk(&dave, &carol, &group).await;
}

#[tokio::test]
async fn a_sibling_outside_the_group_removes_a_leaf_by_its_links() {
    let server = TestServer::start().await;
    let (_alice, second, bob, _proxy, group) = alice_twice_and_bob(&server).await;
    let proxy = Proxy::start(&server.url);
    let (new, linking) = Client::begin_link(&proxy.url, "alice").await;
    let device = second.read_link_code(linking.code()).await.unwrap();
    second.authorize_link(device).await.unwrap();
    let third = new.finish_link(linking).await;
    proxy.cut_before("POST", "/commits");
    third.remove_device(&second.me().device_id).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().committed, 1);
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    assert_eq!(said_removed(&bob).await, [""; 0]);
}

#[tokio::test]
async fn a_root_outside_the_group_is_believed_by_its_users_devices() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let proxy = Proxy::start(&server.url);
    let (new, linking) = Client::begin_link(&proxy.url, "alice").await;
    let device = alice.read_link_code(linking.code()).await.unwrap();
    alice.authorize_link(device).await.unwrap();
    let second = new.finish_link(linking).await;
    // The first device is in none of the groups that the second one makes.
    let first = alice.me().device_id.clone();
    proxy.lie("POST", "/reserve", move |reserved: &mut Reserved| {
        for of_user in &mut reserved.users {
            of_user.devices.retain(|device| device.device_id != first);
        }
    });
    let group = second.group_with(&[&bob]).await;
    let third = second.link().await;
    catch_up(&[&third, &second, &bob]).await;
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);

    alice.remove_device(&third.me().device_id).await.unwrap();
    // For bob nothing shows that the group's alice has such a device.
    assert_eq!(said_removed(&bob).await.len(), 1);
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    // The second device learned it by its link code.
    assert_eq!(second.sync().await.unwrap().committed, 1);
    bob.sync().await.unwrap();
    for member in [&second, &bob] {
        assert_eq!(member.users(&group).await, ["alice", "bob"]);
    }
    they_talk(&second, &bob, &group).await;
}

#[tokio::test]
async fn the_nearer_of_two_removals_counts_whichever_came_first() {
    let server = TestServer::start().await;
    let (alice, second, bob, proxy, group) = alice_twice_and_bob(&server).await;
    let keys = Arc::new((keys_of(&alice), keys_of(&second)));
    let ids = (alice.me().device_id.clone(), second.me().device_id.clone());
    let lie = |both: bool| {
        let (keys, ids) = (Arc::clone(&keys), ids.clone());
        lie_about_devices(&proxy, &user("alice"), move |listed| {
            let [first, second] = listed.devices.as_mut_slice() else {
                panic!("{listed:?}");
            };
            first.removed_at = Some(7);
            first.removal = Some(removal(&keys.1, &ids.1, &listed.user, first));
            if both {
                second.removed_at = Some(8);
                second.removal = Some(removal(&keys.0, &ids.0, &listed.user, second));
            }
        });
    };
    // Somebody has the second device, and the server with it.
    lie(false);
    bob.sync().await.unwrap();
    let left = bob.members(&group).await.unwrap();
    assert!(left.len() == 2 && left.iter().any(|member| member.device_id == ids.1));
    // Then the person removes it with the first one.
    lie(true);
    let told = bob.told().await;
    assert_eq!(bob.users(&group).await, ["bob"]);
    assert_eq!(removed(&bob, "alice"), 1);
    let restored = format!("the removal of the device {} of alice", &ids.0.as_str()[..8]);
    assert_eq!(
        told.iter().filter(|text| text.starts_with(&restored)).count(),
        1,
        "{told:?}"
    );
    // The first device has lost its leaf, and comes back as everybody does.
    proxy.forward();
    alice.remove_device(&ids.1).await.unwrap();
    alice.sync().await.unwrap();
    let invited = bob.invite(&group, &[user("alice")]).await.unwrap();
    assert_eq!(invited.added, [user("alice")]);
    alice.accept_all().await;
    they_talk(&alice, &bob, &group).await;
    for member in [&alice, &bob] {
        assert_eq!(member.users(&group).await, ["alice", "bob"]);
    }
}

/// A server that does not let its leaf be removed does not let a removed device read on.
#[tokio::test]
async fn nothing_is_said_to_a_device_that_is_known_to_be_removed() {
    let server = TestServer::start().await;
    let (alice, second, bob, proxy, group) = alice_twice_and_bob(&server).await;
    let (keys, by) = (Arc::new(keys_of(&alice)), alice.me().device_id.clone());
    let mut mail = Some(mail_of_device_change(&user("alice")));
    proxy.rule(move |seen| {
        if seen.is("POST", "/commits") {
            return Action::Answer(Answer::problem(ProblemType::Forbidden));
        }
        if seen.is("GET", "/devices") {
            let (keys, by) = (Arc::clone(&keys), by.clone());
            return Action::rewrite_json(move |listed: &mut UserDevices| {
                let user = listed.user.clone();
                if let [_, device] = listed.devices.as_mut_slice() {
                    device.removed_at = Some(7);
                    device.removal = Some(removal(&keys, &by, &user, device));
                }
            });
        }
        match seen.is("POST", "/v1/inbox/next").then(|| mail.take()).flatten() {
            Some(mut mail) => Action::rewrite_json(move |inbox: &mut Inbox| mail(inbox)),
            None => Action::Forward,
        }
    });
    bob.sync().await.unwrap();
    let before = proxy.seen("POST", "/messages").len();
    let _ = bob.send(&group, "not for the thief").await;
    let _ = bob.sync().await;
    assert_eq!(proxy.seen("POST", "/messages").len(), before);
    assert!(proxy.seen("POST", "/commits").len() > 1, "it tries to remove it");
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    assert_eq!(alice.receive().await, ["not for the thief"]);
    assert_eq!(second.receive().await, Vec::<String>::new());
}
