//! Several devices of one user, and what becomes of one that is removed or was never let in.

use crate::support::{Client, TestServer, catch_up, user};
use larder_client::{Error, GroupState, NotAdded, ProblemType, UserName, Verification};
use larder_wire::{LinkCode, Reserved};

/// The beginning of a device's id, as people are told.
fn short(client: &Client) -> String {
    client.me().device_id.as_str()[..8].to_owned()
}

/// Everything that a person was told of a group beside messages.
async fn notices(client: &Client, about: &str) -> Vec<String> {
    let mut found = Vec::new();
    for group in client.groups().await.unwrap() {
        for message in client.history(&group.id, 1000).await.unwrap() {
            if message.text.contains(about) {
                found.push(message.text);
            }
        }
    }
    found
}

/// What a server that serves somebody else does: it lists a device of the user that nobody of the user's let in.
async fn plant_ghost(server: &TestServer, victim: &Client) -> Client {
    let ghost = victim.link().await;
    disown(server, &ghost);
    ghost
}

/// The server says from now on that nobody has let this device in.
fn disown(server: &TestServer, device: &Client) {
    server.tamper(
        "UPDATE devices SET authorized_by = NULL, link_signature = NULL WHERE name = ?1",
        [device.me().device_id.as_str()],
    );
}

/// A device that was let in and is in its user's groups, and of which the server then says that nobody has let it in.
async fn disowned(server: &TestServer, owner: &Client) -> Client {
    let device = owner.link().await;
    device.sync().await.unwrap();
    disown(server, &device);
    device
}

#[tokio::test]
async fn a_linked_device_joins_every_group_of_its_user_and_each_member_is_told_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let alone = alice.create_group("notes").await.unwrap().id;

    let second = alice.link().await;
    assert_eq!(second.groups().await.unwrap(), []);
    assert_eq!(second.sync().await.unwrap().rejoined, 2);
    catch_up(&[&bob, &alice, &second, &bob]).await;
    for member in [&alice, &bob, &second] {
        assert_eq!(member.users(&group).await, ["alice", "alice", "bob"]);
    }
    let new = format!("new device of alice: {}", short(&second));
    assert_eq!(notices(&bob, &new).await, [&*new]);
    assert_eq!(
        notices(&alice, &new).await,
        [new.clone(), new],
        "once in each group"
    );
    assert_eq!(notices(&second, "new device").await, [""; 0]);
    assert_eq!(notices(&bob, "WARNING").await, [""; 0]);

    // What one device writes arrives at the other, and at everybody once.
    alice.send(&group, "from the first").await.unwrap();
    second.send(&group, "from the second").await.unwrap();
    second.send(&alone, "to myself").await.unwrap();
    assert_eq!(second.receive().await, ["from the first"]);
    assert_eq!(bob.receive().await, ["from the first", "from the second"]);
    // What came in one second may come group by group.
    let mut received = alice.receive().await;
    received.sort();
    assert_eq!(received, ["from the second", "to myself"]);
    // It has the names from its user's other device.
    let names: Vec<_> = second
        .groups()
        .await
        .unwrap()
        .into_iter()
        .map(|group| group.name)
        .collect();
    assert!(names.contains(&Some("lunch".to_owned())) && names.contains(&Some("notes".to_owned())));

    // A group of later, and a group that was left on all devices at once.
    let later = second.create_group("later").await.unwrap().id;
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&later).await, ["alice", "alice"]);
    second.leave(&group).await.unwrap();
    catch_up(&[&bob, &alice, &second, &bob, &alice]).await;
    assert_eq!(bob.users(&group).await, ["bob"]);
    for device in [&alice, &second] {
        let groups = device.groups().await.unwrap();
        let left = groups.into_iter().find(|known| known.id == group).unwrap();
        assert_eq!(left.state, GroupState::Left);
    }
    assert_eq!(notices(&bob, "left").await.last().unwrap(), "alice left");
    // Also where nobody else is there to commit it.
    second.leave(&alone).await.unwrap();
    catch_up(&[&alice, &second]).await;
    for device in [&alice, &second] {
        let groups = device.groups().await.unwrap();
        let left = groups.into_iter().find(|known| known.id == alone).unwrap();
        assert_eq!(left.state, GroupState::Left);
    }
}

#[tokio::test]
async fn an_invitation_adds_every_device_of_a_user_and_says_so_once() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let second = bob.link().await;
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&second, &bob, &alice]).await;
    for member in [&alice, &bob, &second] {
        assert_eq!(member.users(&group).await, ["alice", "bob", "bob"]);
    }
    assert_eq!(notices(&alice, "alice added bob").await.len(), 1);
    // Both were there when they were first seen: they are no news.
    assert_eq!(notices(&alice, "new device").await, [""; 0]);
    alice.send(&group, "to both").await.unwrap();
    assert_eq!(bob.receive().await, ["to both"]);
    assert_eq!(second.receive().await, ["to both"]);
    alice.remove(&group, &user("bob")).await.unwrap();
    assert_eq!(notices(&alice, "alice removed").await, ["alice removed bob"]);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn r_s7_the_first_member_who_hears_of_a_removed_device_takes_its_leaves_away() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let carol = server.client("carol").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    let lost = alice.link().await;
    catch_up(&[&lost, &alice, &bob, &carol, &lost]).await;
    lost.send(&group, "hello").await.unwrap();
    catch_up(&[&alice, &bob, &carol]).await;

    proxy.cut_before("POST", "/commits");
    alice.remove_device(&lost.me().device_id).await.unwrap();
    // Alice is gone before she can do anything in the group; bob and carol are not.
    let refused = lost.send(&group, "still here").await;
    assert!(refused.is_err() || lost.sync().await.is_err(), "{refused:?}");
    match lost.sync().await {
        Err(Error::Refused(problem)) => assert_eq!(problem.problem_type, ProblemType::DeviceRemoved),
        other => panic!("{other:?}"),
    }
    assert_eq!(bob.sync().await.unwrap().committed, 1);
    let epoch = bob.epoch(&group).await;
    proxy.forward();
    catch_up(&[&carol, &alice, &bob]).await;
    for member in [&alice, &bob, &carol] {
        assert_eq!(member.users(&group).await, ["alice", "bob", "carol"]);
        assert_eq!(member.epoch(&group).await, epoch, "nothing was left to do");
    }
    let removed = format!("alice removed the device {}", short(&lost));
    assert_eq!(notices(&carol, &removed).await, [&*removed]);
    let by_bob = format!("bob removed the device {} of alice", short(&lost));
    assert_eq!(notices(&carol, &by_bob).await, [by_bob]);
    bob.send(&group, "without it").await.unwrap();
    assert_eq!(alice.receive().await.last().unwrap(), "without it");

    let devices = alice.devices().await.unwrap();
    assert_eq!(devices.len(), 2);
    assert!(devices[0].is_me && !devices[0].is_removed && devices[0].authorized_by.is_none());
    assert!(devices[1].is_removed && devices[1].is_authorized);
    assert_eq!(devices[1].authorized_by.as_ref(), Some(&alice.me().device_id));
}

#[tokio::test]
async fn r_s7_who_was_away_while_the_server_told_of_a_removal_finds_out_all_the_same() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let lost = alice.link().await;
    catch_up(&[&lost, &alice, &bob, &lost]).await;
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    alice.remove_device(&lost.me().device_id).await.unwrap();
    server.sweep_after(31 * 24 * 60 * 60).await;
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
}

#[tokio::test]
async fn an_account_that_ends_goes_from_its_groups() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.remove_device(&alice.me().device_id).await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(bob.users(&group).await, ["bob"]);
    let error = bob.invite(&group, &[user("alice")]).await.unwrap_err();
    let Error::NoKeyPackages { outcomes } = error else {
        panic!("{error:?}");
    };
    assert_eq!(outcomes, [(user("alice"), NotAdded::NotFound)]);
}

#[tokio::test]
async fn r_c8_a_device_that_nobody_of_its_user_let_in_is_not_invited() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    let ghost = plant_ghost(&server, &bob).await;
    let invited = alice.invite(&group, &[user("bob")]).await;
    match invited {
        Err(Error::UnauthorizedDevice { user: whose, device }) => {
            assert_eq!((whose, &device), (user("bob"), &ghost.me().device_id));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(alice.users(&group).await, ["alice"]);
    // Once it is gone bob can be invited.
    server.tamper(
        "UPDATE devices SET removed_at = 2 WHERE name = ?1",
        [ghost.me().device_id.as_str()],
    );
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
}

#[tokio::test]
async fn r_c8_a_device_that_nobody_of_its_user_let_in_does_not_come_in() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let ghost = plant_ghost(&server, &alice).await;
    ghost.sync().await.unwrap();
    assert_eq!(ghost.summary(&group).await.state, GroupState::NeedsRejoin);
    catch_up(&[&alice, &bob, &ghost]).await;
    for member in [&alice, &bob] {
        assert_eq!(member.users(&group).await, ["alice", "bob"]);
    }
    bob.send(&group, "among us").await.unwrap();
    assert_eq!(alice.receive().await, ["among us"]);
}

#[tokio::test]
async fn a_device_that_cannot_show_who_let_it_in_is_added_by_one_that_is_in() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let second = bob.link().await;
    let third = second.link().await;
    // Of bob's first device, which let the second one in, alice gets no KeyPackage.
    proxy.lie("POST", "/reserve", |reserved: &mut Reserved| {
        reserved.users[0].devices.remove(0);
        reserved.users[0].devices.truncate(1);
    });
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    proxy.forward();
    assert_eq!(alice.users(&group).await, ["alice", "bob"]);
    // The first one has nothing to show; the third one was let in by the second one.
    bob.sync().await.unwrap();
    catch_up(&[&second, &third, &bob, &second, &alice]).await;
    for member in [&alice, &bob, &second, &third] {
        assert_eq!(member.users(&group).await, ["alice", "bob", "bob", "bob"]);
    }
    bob.send(&group, "from the first").await.unwrap();
    for member in [&alice, &second, &third] {
        assert_eq!(member.receive().await, ["from the first"]);
    }
}

#[tokio::test]
async fn r_c8_a_device_that_nobody_of_its_user_let_in_is_shown_loudly_in_a_group() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let ghost = disowned(&server, &alice).await;
    for member in [&bob, &alice] {
        let told = member.told().await;
        assert!(
            told.contains(&format!("new device of alice: {}", short(&ghost))),
            "{told:?}"
        );
        let warnings: Vec<_> = told.iter().filter(|text| text.starts_with("WARNING")).collect();
        assert!(
            warnings.len() == 1 && warnings[0].contains(&short(&ghost)),
            "once and not before it was looked at: {told:?}"
        );
        assert_eq!(member.users(&group).await, ["alice", "alice", "bob"]);
        let again = member.told().await;
        assert!(!again.iter().any(|text| text.contains("WARNING")), "{again:?}");
    }
    let judged = alice.devices().await.unwrap();
    assert_eq!(
        judged
            .iter()
            .map(|device| device.is_authorized)
            .collect::<Vec<_>>(),
        [true, false]
    );
}

#[tokio::test]
async fn r_c8_nothing_is_said_to_a_device_that_nobody_of_a_verified_user_let_in_and_it_cannot_be_verified() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    bob.safety_number(&user("alice")).await.unwrap();
    bob.set_verified(&user("alice"), true).await.unwrap();
    let ghost = disowned(&server, &alice).await;
    bob.sync().await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            bob.verification(&user("alice")).await.unwrap(),
            Verification::Changed
        );
        assert!(matches!(
            bob.send(&group, "secret").await,
            Err(Error::VerificationChanged { .. })
        ));
        // It is not in what the two compare, so looking at that lets it in no more than before.
        let number = bob.safety_number(&user("alice")).await.unwrap();
        assert_eq!(number.devices.len(), 1);
        bob.set_verified(&user("alice"), true).await.unwrap();
    }
    bob.remove(&group, &user("alice")).await.unwrap();
    assert_eq!(
        bob.verification(&user("alice")).await.unwrap(),
        Verification::Verified
    );
    bob.send(&group, "without it").await.unwrap();
    assert!(!ghost.receive().await.contains(&"without it".to_owned()));
}

#[tokio::test]
async fn r_c8_a_list_that_begins_with_another_key_than_the_one_known_is_not_believed() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let second = alice.link().await;
    // Whoever has the server makes another first device of alice's, which signs what it likes.
    server.tamper(
        "UPDATE devices SET signature_key = zeroblob(32) WHERE name = ?1",
        [alice.me().device_id.as_str()],
    );
    let told = bob.told().await;
    assert!(
        told.iter()
            .any(|text| text.starts_with("WARNING: the list of alice's devices")),
        "{told:?}"
    );
    assert!(!told.iter().any(|text| text.contains("new device")), "{told:?}");
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    drop(second);
}

#[tokio::test]
async fn r_c8_without_a_list_what_was_known_holds_and_a_device_that_is_new_is_shown_loudly() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    alice.group_with(&[&bob]).await;
    let second = alice.link().await;
    second.sync().await.unwrap();
    server.tamper("UPDATE user_names SET name = 'hidden' WHERE name = ?1", ["alice"]);
    let told = bob.told().await;
    let warnings: Vec<_> = told.iter().filter(|text| text.starts_with("WARNING")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains(&short(&second)),
        "not of the device that was verified before: {told:?}"
    );
}

#[tokio::test]
async fn a_link_code_is_for_one_user_at_one_server_and_does_not_survive_a_change() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mallory = server.client("mallory").await;
    let (_new, linking) = Client::begin_link(&server.url, "alice").await;
    let code = linking.code();
    match mallory.read_link_code(code).await {
        Err(Error::LinkCodeOfAnother { user: whose, .. }) => assert_eq!(whose, user("alice")),
        other => panic!("{other:?}"),
    }
    let changed = |change: &dyn Fn(&mut LinkCode)| {
        let mut parsed: LinkCode = code.parse().unwrap();
        change(&mut parsed);
        parsed.reveal()
    };
    let others_name: UserName = user("mallory");
    for bad in [
        String::new(),
        "larder-link:AAAA".to_owned(),
        code[..code.len() - 8].to_owned(),
        changed(&|code| code.device.auth_key.0[0] ^= 1),
        changed(&|code| code.device.mls_signature_key.0[0] ^= 1),
        changed(&|code| code.device.device_id = "another".parse().unwrap()),
    ] {
        let read = alice.read_link_code(&bad).await;
        assert!(matches!(read, Err(Error::InvalidLinkCode)), "{bad}: {read:?}");
    }
    for of_another in [
        changed(&|code| code.server_name.push('x')),
        changed(&|code| code.device.user = others_name.clone()),
    ] {
        let read = alice.read_link_code(&of_another).await;
        assert!(matches!(read, Err(Error::LinkCodeOfAnother { .. })), "{read:?}");
    }
    assert!(linking.finish().await.unwrap().is_none());
    let device = alice.read_link_code(code).await.unwrap();
    alice.authorize_link(device.clone()).await.unwrap();
    alice.authorize_link(device).await.unwrap();
    assert!(linking.finish().await.unwrap().is_some());
}
