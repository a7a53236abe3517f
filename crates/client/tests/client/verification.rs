//! Two people compare keys, and what follows when those change.

use crate::support::{
    self, Action, Client, Proxy, TestServer, catch_up, count_rows, invitation_by, they_talk, user,
};
use larder_client::{Error, GroupKey, MessageKind, NotAdded, SendStatus, Verification};

async fn verification(client: &Client, name: &str) -> Verification {
    client.verification(&user(name)).await.unwrap()
}

async fn verify(client: &Client, name: &str) {
    client.safety_number(&user(name)).await.unwrap();
    client.set_verified(&user(name), true).await.unwrap();
    assert_eq!(verification(client, name).await, Verification::Verified);
}

/// Those who are marked as changed, of everybody.
async fn changed(client: &Client) -> Vec<String> {
    let users = client.changed_users().await.unwrap();
    users.iter().map(ToString::to_string).collect()
}

fn assert_changed<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(
        matches!(&result, Err(error @ Error::VerificationChanged { user }) if user.as_str() == "bob"
            && error.code() == "verification-changed"),
        "{result:?}"
    );
}

/// The warnings about bob in a group.
async fn warnings(client: &Client, group: &GroupKey) -> usize {
    let history = client.history(group, 100).await.unwrap();
    history
        .iter()
        .filter(|row| row.kind == MessageKind::Notice)
        .filter(|row| row.text.starts_with("WARNING: bob, whom you have verified"))
        .count()
}

#[tokio::test]
async fn r_c8_both_see_the_same_number_and_each_knows_the_code_of_the_other() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let of_alice = alice.safety_number(&user("bob")).await.unwrap();
    let of_bob = bob.safety_number(&user("alice")).await.unwrap();
    assert_eq!(of_alice.number, of_bob.number);
    assert!(of_alice.is(&of_bob.number.replace(' ', "")));
    assert!(!of_alice.is(&of_bob.number[1..]) && !of_alice.is(""));
    let of_carol = carol.safety_number(&user("bob")).await.unwrap();
    assert_ne!(of_alice.number, of_carol.number);

    assert!(alice.check_qr(&user("bob"), &of_bob.qr).await.unwrap());
    assert!(bob.check_qr(&user("alice"), &of_alice.qr).await.unwrap());
    for other in [&of_alice.qr[..], &of_carol.qr, &of_bob.qr[1..], b""] {
        assert!(!alice.check_qr(&user("bob"), other).await.unwrap());
    }
    assert_eq!(verification(&alice, "bob").await, Verification::Unverified);
    assert_eq!(of_alice.devices.len(), 1);
    assert_eq!(of_alice.devices[0].device_id, bob.me().device_id);
    assert!(!of_alice.devices[0].is_new);

    // Every device of both is in it, from whichever of them one looks.
    let second = bob.link().await;
    let with_both = alice.safety_number(&user("bob")).await.unwrap();
    assert_ne!(with_both.number, of_alice.number);
    assert_eq!(with_both.devices.len(), 2);
    for device in [&bob, &second] {
        let seen = device.safety_number(&user("alice")).await.unwrap();
        assert_eq!(seen.number, with_both.number);
        assert!(alice.check_qr(&user("bob"), &seen.qr).await.unwrap());
    }
    // A removed one is not.
    bob.remove_device(&second.me().device_id).await.unwrap();
    let seen = alice.safety_number(&user("bob")).await.unwrap();
    assert_eq!(seen.number, of_alice.number);
    assert_eq!(
        bob.safety_number(&user("alice")).await.unwrap().number,
        seen.number
    );
}

#[tokio::test]
async fn a_user_stays_verified_until_unmarked_and_nobody_verifies_themselves_or_nobody() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.client("alice").await, server.client("bob").await);
    let group = alice.group_with(&[&bob]).await;
    verify(&alice, "bob").await;
    alice.restart().await;
    for member in alice.members(&group).await.unwrap() {
        let expected = match member.is_me {
            true => Verification::Unverified,
            false => Verification::Verified,
        };
        assert_eq!(member.verification, expected);
    }
    they_talk(&alice, &bob, &group).await;
    alice.set_verified(&user("bob"), false).await.unwrap();
    assert_eq!(verification(&alice, "bob").await, Verification::Unverified);
    assert!(matches!(
        alice.safety_number(&user("alice")).await,
        Err(Error::Oneself)
    ));
    assert!(matches!(
        alice.set_verified(&user("alice"), true).await,
        Err(Error::Oneself)
    ));
    assert!(matches!(
        alice.safety_number(&user("nobody")).await,
        Err(Error::UnknownUser(_))
    ));
    assert!(matches!(
        alice.set_verified(&user("nobody"), true).await,
        Err(Error::UnknownUser(_))
    ));
}

#[tokio::test]
async fn r_c8_nothing_is_sent_to_a_new_device_of_a_verified_user_before_the_person_has_looked() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.client("alice").await, server.client("bob").await);
    let carol = server.client("carol").await;
    let (group, other) = (
        alice.group_with(&[&bob, &carol]).await,
        alice.group_with(&[&bob]).await,
    );
    let apart = alice.group_with(&[&carol]).await;
    verify(&alice, "bob").await;
    let before = alice.safety_number(&user("bob")).await.unwrap();
    let second = bob.link().await;
    catch_up(&[&second, &bob, &alice, &carol]).await;

    assert_eq!(verification(&alice, "bob").await, Verification::Changed);
    assert_eq!(changed(&alice).await, ["bob"]);
    assert_eq!(
        (warnings(&alice, &group).await, warnings(&alice, &other).await),
        (1, 1)
    );
    assert_eq!(warnings(&alice, &apart).await, 0);
    assert_changed(alice.send(&group, "secret").await);
    assert_changed(alice.rename_group(&other, "secret").await);
    assert_changed(alice.retry(&other).await);
    assert_changed(alice.invite(&apart, &[user("bob")]).await);
    let invited = alice.invite_all(&apart, &[user("bob")]).await.unwrap();
    assert_eq!(invited.not_added, [(user("bob"), NotAdded::VerificationChanged)]);
    alice.send(&apart, "this goes on").await.unwrap();
    let members = alice.members(&group).await.unwrap();
    let of_bob: Vec<_> = members
        .iter()
        .filter(|member| member.user == user("bob"))
        .collect();
    assert_eq!(of_bob.len(), 2);
    assert!(
        of_bob
            .iter()
            .all(|member| member.verification == Verification::Changed)
    );
    // Who has not verified bob is told of the device and goes on.
    assert_eq!(warnings(&carol, &group).await, 0);
    carol.send(&group, "hi").await.unwrap();

    let now = alice.safety_number(&user("bob")).await.unwrap();
    assert_ne!(now.number, before.number);
    assert_eq!(now.verification, Verification::Changed);
    let new: Vec<_> = now.devices.iter().filter(|device| device.is_new).collect();
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].device_id, second.me().device_id);
    alice.set_verified(&user("bob"), true).await.unwrap();
    assert_eq!(verification(&alice, "bob").await, Verification::Verified);
    assert!(changed(&alice).await.is_empty());
    alice.send(&group, "not so secret").await.unwrap();
    assert!(second.receive().await.contains(&"not so secret".to_owned()));

    // That a device is gone needs no comparing: the others were compared.
    bob.remove_device(&second.me().device_id).await.unwrap();
    catch_up(&[&alice, &bob, &carol]).await;
    assert_eq!(verification(&alice, "bob").await, Verification::Verified);
    they_talk(&alice, &bob, &other).await;
    // And a third is told of like the second; not to count bob as verified any more is an answer too.
    let third = bob.link().await;
    catch_up(&[&third, &alice]).await;
    assert_eq!(warnings(&alice, &other).await, 2);
    assert_changed(alice.send(&other, "secret").await);
    alice.set_verified(&user("bob"), false).await.unwrap();
    alice.send(&other, "to whoever it is").await.unwrap();
}

#[tokio::test]
async fn what_was_written_before_a_new_device_came_does_not_reach_it() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    verify(&alice, "bob").await;
    proxy.rule(|_| Action::CutBefore);
    assert_eq!(
        alice.send(&group, "secret").await.unwrap().status,
        SendStatus::Pending
    );
    let second = bob.link().await;
    catch_up(&[&second, &bob]).await;
    // The server takes messages of the epoch before; with one more Commit it has to be encrypted again, to all who are there.
    server.client("carol").await;
    bob.invite(&group, &[user("carol")]).await.unwrap();
    proxy.forward();
    catch_up(&[&alice, &bob, &second]).await;
    assert_eq!(bob.receive().await, [""; 0]);
    assert_eq!(second.receive().await, [""; 0]);
    let history = alice.history(&group, 100).await.unwrap();
    let secret = history.iter().find(|row| row.text == "secret").unwrap();
    assert_eq!(secret.status, SendStatus::Failed);
    assert_eq!(warnings(&alice, &group).await, 1);

    verify(&alice, "bob").await;
    assert_eq!(alice.retry(&group).await.unwrap(), 1);
    assert_eq!(second.receive().await, ["secret"]);
    assert_eq!(bob.receive().await, ["secret"]);
}

/// What was sent to groups, or stored for them.
fn left(proxy: &Proxy) -> usize {
    ["/messages", "/commits", "/proposals", "/v1/blobs"]
        .iter()
        .map(|path| proxy.seen("POST", path).len())
        .sum()
}

async fn status_of(client: &Client, group: &GroupKey, text: &str) -> SendStatus {
    let history = client.history(group, 100).await.unwrap();
    history.iter().find(|row| row.text == text).unwrap().status
}

#[tokio::test]
async fn r_c8_the_gate_is_the_same_for_all_that_leaves_and_lets_removals_through() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    server.client("dave").await;
    let group = alice.group_with(&[&bob, &carol]).await;
    verify(&alice, "bob").await;
    let second = bob.link().await;
    catch_up(&[&second, &bob, &alice, &carol]).await;
    let before = left(&proxy);
    assert_changed(alice.send(&group, "secret").await);
    assert_changed(alice.post(&group, "secret").await);
    assert_changed(alice.attach(&group, "secret", "text/plain", vec![1]).await);
    assert_changed(alice.rename_group(&group, "secret").await);
    assert_changed(alice.retry(&group).await);
    assert_changed(alice.invite(&group, &[user("dave")]).await);
    assert_changed(alice.invite_all(&group, &[user("dave")]).await);
    alice.sync().await.unwrap();
    assert_eq!(left(&proxy), before);
    assert_eq!(alice.summary(&group).await.name.as_deref(), Some("lunch"));
    assert!(second.receive().await.is_empty());
    assert_eq!(
        count_rows(alice.directory.path(), "SELECT count(*) FROM uploads"),
        0
    );

    // Who wants to leave is let go, a device that was removed goes, and whom one does not trust any more can be removed.
    carol.leave(&group).await.unwrap();
    catch_up(&[&alice, &carol]).await;
    assert_eq!(alice.users(&group).await, ["alice", "bob", "bob"]);
    let third = bob.link().await;
    catch_up(&[&third, &bob, &alice]).await;
    bob.remove_device(&third.me().device_id).await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice", "bob", "bob"]);
    assert_changed(alice.send(&group, "secret").await);
    alice.remove(&group, &user("bob")).await.unwrap();
    assert_eq!(alice.users(&group).await, ["alice"]);
    alice.send(&group, "to myself").await.unwrap();
    alice.leave(&group).await.unwrap();
}

#[tokio::test]
async fn r_c8_a_file_that_waited_does_not_reach_a_new_device() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    verify(&alice, "bob").await;
    // One waits to be stored, of the other only the message waits.
    proxy.cut_before("POST", "/v1/blobs");
    alice.attach(&group, "one", "text/plain", vec![1]).await.unwrap();
    proxy.cut_before("POST", "/messages");
    alice
        .attach(&group, "other", "text/plain", vec![1])
        .await
        .unwrap();
    let second = bob.link().await;
    catch_up(&[&second, &bob]).await;
    server.client("carol").await;
    bob.invite(&group, &[user("carol")]).await.unwrap();
    let before = left(&proxy);
    proxy.forward();
    catch_up(&[&alice, &bob, &second]).await;
    for text in ["one, 1 byte", "other, 1 byte"] {
        assert_eq!(status_of(&alice, &group, text).await, SendStatus::Failed);
    }
    assert!(
        left(&proxy) <= before + 1,
        "what was made before is refused by the server"
    );
    for device in [&bob, &second] {
        let history = device.history(&group, 100).await.unwrap();
        assert!(history.iter().all(|row| row.kind != MessageKind::Attachment));
    }
    assert_changed(alice.retry(&group).await);

    verify(&alice, "bob").await;
    assert_eq!(alice.retry(&group).await.unwrap(), 2);
    second.sync().await.unwrap();
    let files = second.take_unread().await;
    let files = files.iter().filter(|row| row.kind == MessageKind::Attachment);
    assert_eq!(files.count(), 2);
}

#[tokio::test]
async fn r_c8_an_invitation_that_lost_a_race_to_a_new_device_is_not_made_again() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob]).await;
    verify(&alice, "bob").await;
    proxy.cut_before("POST", "/commits");
    support::assert_unreachable(alice.invite(&group, &[user("carol")]).await);
    let second = bob.link().await;
    catch_up(&[&second, &bob]).await;
    let before = proxy.seen("POST", "/commits").len();
    proxy.forward();
    catch_up(&[&alice, &bob, &second]).await;
    assert_eq!(
        proxy.seen("POST", "/commits").len(),
        before + 1,
        "the first, refused"
    );
    assert_eq!(alice.users(&group).await, ["alice", "bob", "bob"]);
    assert_eq!(carol.sync().await.unwrap().joined, 0);
    // Nothing is stuck.
    verify(&alice, "bob").await;
    alice.invite(&group, &[user("carol")]).await.unwrap();
    assert_eq!(carol.sync().await.unwrap().joined, 1);
}

#[tokio::test]
async fn r_c8_a_groups_name_waits_for_the_person_to_look_and_goes_out_by_itself() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let group = alice.group_with(&[&bob]).await;
    verify(&alice, "bob").await;
    proxy.cut_before("POST", "/messages");
    alice.rename_group(&group, "secret plans").await.unwrap();
    let second = bob.link().await;
    catch_up(&[&second, &bob]).await;
    bob.invite(&group, &[user("carol")]).await.unwrap();
    let before = proxy.seen("POST", "/messages").len();
    proxy.forward();
    catch_up(&[&alice, &bob, &second, &carol]).await;
    assert_eq!(
        proxy.seen("POST", "/messages").len(),
        before + 1,
        "the first, refused"
    );
    for client in [&bob, &second, &carol] {
        assert_eq!(client.summary(&group).await.name.as_deref(), Some("lunch"));
    }
    verify(&alice, "bob").await;
    catch_up(&[&alice, &bob, &second, &carol]).await;
    for client in [&bob, &second, &carol] {
        assert_eq!(client.summary(&group).await.name.as_deref(), Some("secret plans"));
    }
}

#[tokio::test]
async fn what_is_marked_is_what_was_shown_and_it_is_shown_without_a_server_too() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    proxy.rule(|_| Action::CutBefore);
    let offline = alice.safety_number(&user("bob")).await.unwrap();
    proxy.forward();
    assert_eq!(offline, alice.safety_number(&user("bob")).await.unwrap());
    let second = bob.link().await;
    catch_up(&[&second, &alice]).await;
    // While the two were comparing.
    alice.set_verified(&user("bob"), true).await.unwrap();
    assert_eq!(verification(&alice, "bob").await, Verification::Changed);
    assert_changed(alice.send(&group, "secret").await);
}

#[tokio::test]
async fn an_invitation_from_somebody_who_is_verified_is_no_request() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await.asked().await;
    verify(&bob, "alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    let groups = bob.groups().await.unwrap();
    assert_eq!(groups[0].request, None);
    // One from a device that was not compared is.
    bob.leave(&group).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    let second = alice.link().await;
    let group = second.create_group("dinner").await.unwrap().id;
    second.invite(&group, &[user("bob")]).await.unwrap();
    bob.sync().await.unwrap();
    let groups = bob.groups().await.unwrap();
    let request = groups.iter().find(|known| known.id == group).unwrap();
    assert_eq!(request.request, Some(invitation_by("alice")));
}
