//! A user of whom the server shows other devices than can be: who registered anew, of whom it has lost one, or somebody else.

use crate::support::{Client, Proxy, TestServer, catch_up, count_rows, they_talk, user};
use larder_client::{Error, GroupKey, NotTheServer, Verification};
use larder_pool::openmls::prelude::SignatureScheme;
use larder_wire::{Base64Url, DeviceInfo, UserDevices};
use openmls_basic_credential::SignatureKeyPair;

async fn number(client: &Client, of: &str) -> String {
    client.safety_number(&user(of)).await.unwrap().number
}

async fn verify(client: &Client, of: &str) {
    client.safety_number(&user(of)).await.unwrap();
    client.set_verified(&user(of), true).await.unwrap();
}

async fn warnings(client: &Client) -> Vec<String> {
    let told = client.told().await;
    told.into_iter()
        .filter(|text| text.contains("verify their new identity"))
        .collect()
}

/// Alice, who has verified bob, with a group, through a proxy.
async fn scene() -> (TestServer, Client, Proxy, Client, GroupKey) {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    verify(&alice, "bob").await;
    (server, alice, proxy, bob, group)
}

/// The server begins bob's list with a device of its own, and has none else.
fn show_somebody_else(proxy: &Proxy) {
    let keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
    proxy.lie("GET", "/devices", move |listed: &mut UserDevices| {
        if listed.user == user("bob") {
            listed.devices = vec![DeviceInfo {
                device_id: "evil".parse().unwrap(),
                auth_key: Base64Url(vec![7; 32]),
                mls_signature_key: Base64Url(keys.to_public_vec()),
                authorization: None,
                removed_at: None,
                removal: None,
            }];
        }
    });
}

#[tokio::test]
async fn who_registered_anew_is_invited_once_both_numbers_were_compared() {
    let mut server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let backup = server.backup();
    let mut old = server.client("bob").await;
    let before = alice.group_with(&[&old]).await;
    they_talk(&alice, &old, &before).await;
    verify(&alice, "bob").await;
    let old_number = number(&alice, "bob").await;
    old.stop().await;
    // The operator has lost bob's account, and he has no other way than to register once more.
    server.restore(&backup).await;
    let bob = server.client("bob").await;
    alice.sync().await.unwrap();
    let group = alice.create_group("again").await.unwrap().id;

    // Nothing is done by that list, but to say so.
    for _ in 0..2 {
        let refused = alice.invite(&group, &[user("bob")]).await.unwrap_err();
        assert!(
            matches!(&refused, Error::OtherIdentity { user } if user.as_str() == "bob"),
            "{refused:?}"
        );
        assert_eq!(refused.code(), "other-identity");
    }
    assert_eq!(warnings(&alice).await.len(), 1);
    let shown = alice.safety_number(&user("bob")).await.unwrap();
    assert!(shown.other_identity);
    assert_eq!(shown.number, old_number);
    let both = alice.new_identity(&user("bob")).await.unwrap();
    assert_eq!(both.known.unwrap().number, old_number);
    let of_bob = bob.safety_number(&user("alice")).await.unwrap();
    assert_eq!(both.new.number, of_bob.number);
    assert!(both.new.is_code(&of_bob.qr) && !both.new.is_code(&both.new.qr));
    assert!(both.new.devices.iter().all(|device| device.is_new));
    assert_eq!(number(&alice, "bob").await, old_number, "nothing was taken over");

    alice.take_new_identity(&user("bob")).await.unwrap();
    alice.restart().await;
    assert_eq!(
        alice.verification(&user("bob")).await.unwrap(),
        Verification::Verified
    );
    let shown = alice.safety_number(&user("bob")).await.unwrap();
    assert_eq!(shown.number, of_bob.number);
    assert!(!shown.other_identity);
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
    catch_up(&[&bob, &alice]).await;
    they_talk(&alice, &bob, &group).await;

    // To the one that was given up nothing is said any more.
    let refused = alice.send(&before, "still there?").await.unwrap_err();
    assert_eq!(refused.code(), "verification-changed");
    let told = alice.history(&before, 10).await.unwrap();
    let last = &told.last().unwrap().text;
    assert!(
        told.iter()
            .any(|row| row.text.contains("identity of bob that you have given up")),
        "{last}"
    );
    let again = alice.new_identity(&user("bob")).await.unwrap_err();
    assert_eq!(again.code(), "no-other-identity");
}

#[tokio::test]
async fn a_server_that_shows_somebody_else_gets_nothing_without_the_person() {
    let (_server, alice, proxy, bob, group) = scene().await;
    let known = number(&alice, "bob").await;
    let rows = "SELECT count(*) FROM peers WHERE user = 'bob'";
    show_somebody_else(&proxy);
    let shown = alice.safety_number(&user("bob")).await.unwrap();
    assert!(shown.other_identity);
    assert_eq!(shown.number, known);
    let both = alice.new_identity(&user("bob")).await.unwrap();
    assert_eq!(both.known.unwrap().number, known);
    assert_ne!(both.new.number, number(&bob, "alice").await);
    assert_eq!(warnings(&alice).await.len(), 1);
    assert_eq!(warnings(&alice).await.len(), 0, "once");
    assert_eq!(count_rows(alice.directory.path(), rows), 1);
    assert_eq!(
        alice.verification(&user("bob")).await.unwrap(),
        Verification::Verified
    );
    they_talk(&alice, &bob, &group).await;

    proxy.forward();
    they_talk(&alice, &bob, &group).await;
    assert!(!alice.safety_number(&user("bob")).await.unwrap().other_identity);
    for (name, code) in [("bob", "no-other-identity"), ("alice", "oneself")] {
        let refused = alice.new_identity(&user(name)).await.unwrap_err();
        assert_eq!(refused.code(), code);
    }
    let nobodys = |listed: &mut UserDevices| listed.devices.clear();
    proxy.lie("GET", "/devices", nobodys);
    let refused = alice.new_identity(&user("bob")).await.unwrap_err();
    assert!(matches!(
        refused,
        Error::NotTheServer(NotTheServer::ForgedDevices)
    ));
}

#[tokio::test]
async fn an_identity_that_was_given_up_comes_back_only_in_the_same_way() {
    let (_server, alice, proxy, bob, group) = scene().await;
    show_somebody_else(&proxy);
    // Somebody was careless.
    alice.take_new_identity(&user("bob")).await.unwrap();
    let sent = alice.send(&group, "secret").await;
    assert_eq!(sent.unwrap_err().code(), "verification-changed");
    proxy.forward();
    assert_eq!(
        warnings(&alice).await.len(),
        1,
        "the true one is not believed now"
    );
    let sent = alice.send(&group, "secret").await;
    assert_eq!(sent.unwrap_err().code(), "verification-changed");

    let both = alice.new_identity(&user("bob")).await.unwrap();
    assert_eq!(both.new.number, number(&bob, "alice").await);
    alice.take_new_identity(&user("bob")).await.unwrap();
    assert_eq!(warnings(&alice).await.len(), 0);
    assert_eq!(
        alice.verification(&user("bob")).await.unwrap(),
        Verification::Verified
    );
    they_talk(&alice, &bob, &group).await;
}

#[tokio::test]
async fn a_list_that_has_lost_a_device_is_believed_once_it_was_compared() {
    let (_server, alice, proxy, bob, _) = scene().await;
    let second = bob.link().await;
    catch_up(&[&second, &bob, &alice]).await;
    verify(&alice, "bob").await;
    proxy.lie("GET", "/devices", |listed: &mut UserDevices| {
        if listed.user == user("bob") {
            listed.devices.truncate(1);
        }
    });
    assert_eq!(alice.safety_number(&user("bob")).await.unwrap().devices.len(), 2);
    let both = alice.new_identity(&user("bob")).await.unwrap();
    assert_eq!(both.known.unwrap().devices.len(), 2);
    assert_eq!(both.new.devices.len(), 1);
    alice.take_new_identity(&user("bob")).await.unwrap();
    let shown = alice.safety_number(&user("bob")).await.unwrap();
    assert_eq!((shown.devices.len(), shown.other_identity), (1, false));
    let group = alice.create_group("new").await.unwrap().id;
    let invited = alice.invite(&group, &[user("bob")]).await;
    assert!(
        matches!(&invited, Err(Error::UnauthorizedDevice { device, .. }) if *device == second.me().device_id),
        "the directory has its KeyPackages still: {invited:?}"
    );
}
