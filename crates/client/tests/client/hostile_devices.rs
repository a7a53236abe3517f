//! A server that lies about whose devices there are.

use std::sync::Arc;
use std::time::Instant;

use crate::device_lists::{
    MadeUp, alice_twice_and_bob, distrust_told, keys_of, lie_about_devices, removal, said_removed,
};
use crate::support::{Client, Proxy, TestServer, catch_up, count_rows, they_talk, user};
use larder_client::{Error, NotAdded};
use larder_wire::{DeviceInfo, Membership, Memberships, Reserved, UserDevices};

#[tokio::test]
async fn a_root_that_the_server_makes_up_is_no_device_of_a_user_with_one() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let alone = alice.create_group("notes").await.unwrap().id;
    let before = proxy.seen("POST", "/reserve").len();
    lie_about_devices(&proxy, &user("alice"), |listed| {
        let evil = MadeUp::new("evil");
        evil.authorize(&listed.user, &mut listed.devices[0]);
        listed.devices.insert(0, evil.info);
    });
    let told = distrust_told(&alice).await;
    assert_eq!(told.len(), 2, "once in each group: {told:?}");
    assert!(told[0].contains("alice's devices") && told[0].contains("begins with another device"));
    for _ in 0..2 {
        assert_eq!(distrust_told(&alice).await, [""; 0]);
    }
    let listed = alice.devices().await;
    assert_eq!(listed.unwrap_err().code(), "forged-devices");
    assert_eq!(
        proxy.seen("POST", "/reserve").len(),
        before,
        "nobody is to be added"
    );
    for group in [&group, &alone] {
        assert!(!alice.users(group).await.is_empty());
        let members = alice.members(group).await.unwrap();
        assert!(members.iter().all(|member| member.device_id.as_str() != "evil"));
    }
    let known = "SELECT count(*) FROM peers WHERE user = 'alice'";
    assert_eq!(count_rows(alice.directory.path(), known), 1);

    // With an honest server a device is linked as ever.
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    let second = alice.link().await;
    catch_up(&[&second, &alice, &bob]).await;
    for member in [&alice, &bob, &second] {
        assert_eq!(member.users(&group).await, ["alice", "alice", "bob"]);
    }
    assert_eq!(alice.devices().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_linked_device_keeps_the_root_that_it_learned_when_it_was_linked() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let proxy = Proxy::start(&server.url);
    let (new, linking) = Client::begin_link(&proxy.url, "alice").await;
    let device = alice.read_link_code(linking.code()).await.unwrap();
    alice.authorize_link(device).await.unwrap();
    // The list has to lead to it, from the beginning on.
    proxy.lie("GET", "/devices", |listed: &mut UserDevices| {
        listed.devices.truncate(1)
    });
    let finished = linking.finish().await;
    assert_eq!(finished.unwrap_err().code(), "forged-devices");
    proxy.forward();
    let second = new.finish_link(linking).await;
    let root = "SELECT count(*) FROM peers WHERE user = 'alice' AND root = 1";
    assert_eq!(count_rows(second.directory.path(), root), 1);

    let group = second.create_group("notes").await.unwrap().id;
    lie_about_devices(&proxy, &user("alice"), |listed| {
        let evil = MadeUp::new("evil");
        evil.authorize(&listed.user, &mut listed.devices[0]);
        listed.devices.insert(0, evil.info);
    });
    second.sync().await.unwrap();
    let members = second.members(&group).await.unwrap();
    assert!(members.iter().all(|member| member.device_id.as_str() != "evil"));
    assert_eq!(second.devices().await.unwrap_err().code(), "forged-devices");
    proxy.forward();
    catch_up(&[&second, &alice]).await;
    assert_eq!(second.devices().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_removed_device_does_not_come_back_with_a_list_that_is_silent_about_it() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let lost = alice.link().await;
    catch_up(&[&lost, &alice, &bob, &alice]).await;
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    alice.remove_device(&lost.me().device_id).await.unwrap();
    catch_up(&[&bob, &alice]).await;
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);

    lie_about_devices(&proxy, &user("alice"), |listed| {
        for device in &mut listed.devices {
            (device.removed_at, device.removal) = (None, None);
        }
    });
    bob.sync().await.unwrap();
    let removed = format!(
        "SELECT count(*) FROM peers WHERE device_id = '{}' AND standing = 2",
        lost.me().device_id
    );
    assert_eq!(count_rows(bob.directory.path(), &removed), 1);
    // Nor with one in which it is nobody's.
    lie_about_devices(&proxy, &user("alice"), |listed| {
        listed.devices[1].authorization = None
    });
    bob.sync().await.unwrap();
    assert_eq!(count_rows(bob.directory.path(), &removed), 1);
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    let told = bob.told().await;
    assert!(!told.iter().any(|text| text.contains("new device")), "{told:?}");
}

#[tokio::test]
async fn a_removal_that_only_the_server_says_is_told_and_expels_nobody() {
    let server = TestServer::start().await;
    let (alice, second, bob, proxy, group) = alice_twice_and_bob(&server).await;
    let mallory = Arc::new(keys_of(&server.client("mallory").await));
    let mut told = Vec::new();
    // Without a signature, and with that of somebody else.
    for is_forged in [false, true] {
        let mallory = Arc::clone(&mallory);
        lie_about_devices(&proxy, &user("alice"), move |listed| {
            let device = &mut listed.devices[1];
            device.removed_at = Some(7);
            let forged = is_forged.then(|| removal(&mallory, &device.device_id, &listed.user, device));
            device.removal = forged;
        });
        told.extend(said_removed(&bob).await);
        told.extend(said_removed(&bob).await);
        assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&second.me().device_id.as_str()[..8]), "{told:?}");
    // Messages go on.
    bob.send(&group, "to both").await.unwrap();
    assert_eq!(alice.receive().await, ["to both"]);
    assert_eq!(second.receive().await, ["to both"]);
    second.send(&group, "I am here").await.unwrap();
    assert_eq!(bob.receive().await, ["I am here"]);
    // It is not invited any more, and is again once the server does not say so.
    let other = bob.create_group("supper").await.unwrap().id;
    let refused = bob.invite(&other, &[user("alice")]).await;
    assert!(
        matches!(&refused, Err(Error::UnauthorizedDevice { device, .. }) if *device == second.me().device_id),
        "{refused:?}"
    );
    proxy.forward();
    assert_eq!(
        bob.invite(&other, &[user("alice")]).await.unwrap().added,
        [user("alice")]
    );
    assert_eq!(bob.users(&other).await, ["alice", "alice", "bob"]);
}

#[tokio::test]
async fn of_two_devices_that_remove_one_another_the_one_nearer_to_the_root_stays() {
    let server = TestServer::start().await;
    let (alice, second, bob, proxy, group) = alice_twice_and_bob(&server).await;
    let keys = Arc::new((keys_of(&alice), keys_of(&second)));
    // Somebody has the second device, and the server with it.
    let ids = (alice.me().device_id.clone(), second.me().device_id.clone());
    lie_about_devices(&proxy, &user("alice"), move |listed| {
        let [first, second] = listed.devices.as_mut_slice() else {
            panic!("{listed:?}");
        };
        (first.removed_at, second.removed_at) = (Some(7), Some(8));
        first.removal = Some(removal(&keys.1, &ids.1, &listed.user, first));
        second.removal = Some(removal(&keys.0, &ids.0, &listed.user, second));
    });
    let told = said_removed(&bob).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&alice.me().device_id.as_str()[..8]), "{told:?}");
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    let members = bob.members(&group).await.unwrap();
    assert!(
        members
            .iter()
            .all(|member| member.device_id != second.me().device_id)
    );
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn who_removes_a_device_takes_its_leaves_away_at_once() {
    let server = TestServer::start().await;
    let (alice, second, bob, _proxy, group) = alice_twice_and_bob(&server).await;
    let alone = alice.create_group("notes").await.unwrap().id;
    catch_up(&[&second, &alice]).await;
    assert_eq!(alice.users(&alone).await, ["alice", "alice"]);
    alice.remove_device(&second.me().device_id).await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice", "bob"]);
    assert_eq!(alice.users(&alone).await, ["alice"]);
    assert_eq!(bob.sync().await.unwrap().committed, 0, "nothing is left to do");
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    they_talk(&alice, &bob, &group).await;
    assert!(said_removed(&bob).await.is_empty());
}

#[tokio::test]
async fn a_list_of_sixty_thousand_devices_is_refused_at_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let second = alice.link().await;
    second.sync().await.unwrap();
    let known = "SELECT count(*) FROM peers WHERE user = 'alice'";
    // Short enough to be read, and not.
    for devices in [300, 60_000] {
        lie_about_devices(&proxy, &user("alice"), move |listed| {
            let root = listed.devices[0].clone();
            listed.devices.extend((0..devices).map(|number| DeviceInfo {
                device_id: format!("made-up-{number}").parse().unwrap(),
                ..root.clone()
            }));
        });
        let begun = Instant::now();
        bob.sync().await.unwrap();
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        assert!(count_rows(bob.directory.path(), known) <= 2, "{devices}");
    }
    let told = distrust_told(&bob).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("is longer than one can be"), "{told:?}");

    // The next honest answer is believed, without anybody asking for it.
    proxy.forward();
    catch_up(&[&bob, &alice, &second, &bob]).await;
    let checks = "SELECT count(*) FROM device_checks";
    assert_eq!(count_rows(bob.directory.path(), checks), 0);
    let authorized = "SELECT count(*) FROM peers WHERE user = 'alice' AND standing = 1";
    assert_eq!(count_rows(bob.directory.path(), authorized), 2);
    bob.send(&group, "to both").await.unwrap();
    assert_eq!(alice.receive().await, ["to both"]);
    assert_eq!(second.receive().await, ["to both"]);
}

#[tokio::test]
async fn a_list_that_is_too_long_keeps_its_user_out_and_nobody_else() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (_bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    proxy.lie("POST", "/reserve", |reserved: &mut Reserved| {
        let of_bob = &mut reserved.users[0].devices;
        let real = of_bob[0].clone();
        of_bob.extend((0..60_000).map(|number| {
            let mut made_up = real.clone();
            made_up.device_id = format!("made-up-{number}").parse().unwrap();
            made_up.key_package = None;
            made_up
        }));
    });
    let begun = Instant::now();
    let invited = alice.invite(&group, &[user("bob"), user("carol")]).await.unwrap();
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert_eq!(invited.added, [user("carol")]);
    assert_eq!(invited.not_added, [(user("bob"), NotAdded::TooManyDevices)]);
    assert_eq!(carol.sync().await.unwrap().joined, 1);
    proxy.forward();
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
}

#[tokio::test]
async fn more_groups_than_a_device_can_be_in_are_refused_at_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let group = alice.create_group("notes").await.unwrap().id;
    let proxy = Proxy::start(&server.url);
    let (new, linking) = Client::begin_link(&proxy.url, "alice").await;
    let device = alice.read_link_code(linking.code()).await.unwrap();
    alice.authorize_link(device).await.unwrap();
    let second = new.finish_link(linking).await;
    proxy.lie("GET", "/v1/groups", |listed: &mut Memberships| {
        listed.groups.extend((0..5000_u32).map(|number| Membership {
            group_id: larder_wire::GroupId::from_bytes(&number.to_be_bytes()).unwrap(),
            epoch: 1,
            head: 1,
            gaps: Vec::new(),
        }));
    });
    let refused = second.sync().await;
    assert!(matches!(&refused, Err(Error::NotTheServer(_))), "{refused:?}");
    assert_eq!(refused.unwrap_err().code(), "too-much");
    assert_eq!(second.groups().await.unwrap(), []);
    proxy.forward();
    assert_eq!(second.sync().await.unwrap().rejoined, 1);
    assert_eq!(second.users(&group).await, ["alice", "alice"]);
}

#[tokio::test]
async fn a_list_that_names_a_device_twice_takes_nothing_back() {
    let server = TestServer::start().await;
    let (_alice, _second, bob, proxy, _) = alice_twice_and_bob(&server).await;
    let mut told = Vec::new();
    // By its id, and by its key.
    for id in [None, Some("another")] {
        lie_about_devices(&proxy, &user("alice"), move |listed| {
            let mut again = listed.devices[1].clone();
            if let Some(id) = id {
                again.device_id = id.parse().unwrap();
            }
            listed.devices.push(again);
        });
        told.extend(distrust_told(&bob).await);
        told.extend(distrust_told(&bob).await);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("names a device twice"), "{told:?}");
    // Then the device is not left out in silence.
    lie_about_devices(&proxy, &user("alice"), |listed| listed.devices.truncate(1));
    let told = distrust_told(&bob).await;
    assert!(
        told.len() == 1 && told[0].contains("leaves out the device"),
        "{told:?}"
    );
    let authorized = "SELECT count(*) FROM peers WHERE user = 'alice' AND standing = 1";
    assert_eq!(count_rows(bob.directory.path(), authorized), 2);
    let other = bob.create_group("supper").await.unwrap().id;
    assert_eq!(
        bob.invite(&other, &[user("alice")]).await.unwrap().added,
        [user("alice")]
    );
    assert_eq!(bob.users(&other).await, ["alice", "alice", "bob"]);
    proxy.forward();
    bob.sync().await.unwrap();
    let checks = "SELECT count(*) FROM device_checks";
    assert_eq!(count_rows(bob.directory.path(), checks), 0);
}

#[tokio::test]
async fn the_database_does_not_forget_whose_a_device_is() {
    let server = TestServer::start().await;
    let (alice, second, mut bob, _proxy, _) = alice_twice_and_bob(&server).await;
    alice.remove_device(&second.me().device_id).await.unwrap();
    bob.sync().await.unwrap();
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    for (sql, refused) in [
        ("standing = 3 WHERE standing = 1", true),
        ("standing = 0 WHERE standing = 1", true),
        ("standing = 1, removed_by = NULL WHERE standing = 2", true),
        ("removed_by = NULL WHERE standing = 2", true),
        ("let_in_by = 'another' WHERE standing = 2", true),
        ("standing = 4 WHERE standing = 1", false),
    ] {
        let done = database.execute(&format!("UPDATE peers SET {sql} AND user = 'alice'"), []);
        assert_eq!(done.is_err(), refused, "{sql}: {done:?}");
        assert!(refused || done == Ok(1), "{done:?}");
    }
}
