//! A directory and a delivery service that lie: what they hand out is checked, and what fails is never used.

use crate::support::{
    self, Action, Client, Proxy, TestServer, flip_last, keeps_no_commits, now, tamper_inbox, user,
};
use larder_client::{Error, GroupState, KeyPackageFlaw, MessageKind, SendStatus};
use larder_pool::openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialWithKey, ExtensionType, KeyPackage, Lifetime,
    MlsMessageOut, OpenMlsProvider,
};
use larder_wire::{Base64Url, GroupInfoAnswer, Inbox, InboxKind, KeyPackageRef, Reserved};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A genuine KeyPackage of anybody's making, with its reference.
fn forge(identity: &[u8], lifetime_seconds: u64, last_resort: bool) -> (KeyPackageRef, Vec<u8>) {
    let now = now();
    let lifetime = Lifetime::init(now.minus(HOUR).0, now.plus(lifetime_seconds).0);
    forge_with(identity, lifetime, last_resort)
}

fn forge_with(identity: &[u8], lifetime: Lifetime, last_resort: bool) -> (KeyPackageRef, Vec<u8>) {
    let provider = OpenMlsRustCrypto::default();
    let signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(identity.to_vec()).into(),
        signature_key: signer.public().into(),
    };
    let mut builder = KeyPackage::builder().key_package_lifetime(lifetime);
    if last_resort {
        let capabilities = Capabilities::builder().extensions(vec![ExtensionType::LastResort]);
        builder = builder
            .leaf_node_capabilities(capabilities.build())
            .mark_as_last_resort();
    }
    let bundle = builder.build(SUITE, &provider, &signer, credential).unwrap();
    let key_package_ref = bundle.key_package().hash_ref(provider.crypto()).unwrap();
    (
        KeyPackageRef::from_bytes(key_package_ref.as_slice()).unwrap(),
        MlsMessageOut::from(bundle.into_key_package()).to_bytes().unwrap(),
    )
}

/// Changes what the directory hands out for the first device of the first user.
fn tamper(proxy: &Proxy, change: impl Fn(&mut KeyPackageRef, &mut Vec<u8>) + Send + Clone + 'static) {
    proxy.rule(move |seen| {
        if !seen.is("POST", "/reserve") {
            return Action::Forward;
        }
        let change = change.clone();
        Action::rewrite_body(move |body| {
            let mut reserved: Reserved = serde_json::from_slice(&body).unwrap();
            let device = &mut reserved.users[0].devices[0];
            let mut bytes = device.key_package.take().unwrap().0;
            change(device.key_package_ref.as_mut().unwrap(), &mut bytes);
            device.key_package = Some(Base64Url(bytes));
            serde_json::to_vec(&reserved).unwrap()
        })
    });
}

async fn assert_flaw(alice: &Client, group: &larder_client::GroupKey, expected: KeyPackageFlaw) {
    let epoch = alice.epoch(group).await;
    match alice.invite(group, &[user("bob")]).await {
        Err(Error::InvalidKeyPackage { user: who, flaw }) => {
            assert_eq!((who, flaw.code()), (user("bob"), expected.code()));
        }
        other => panic!("{expected}: {other:?}"),
    }
    assert_eq!(alice.users(group).await, ["alice"]);
    assert_eq!(alice.epoch(group).await, epoch);
}

#[tokio::test]
async fn r_c5_r_c6_a_forged_key_package_is_reported_and_never_added() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;

    tamper(&proxy, |_, bytes| bytes.truncate(20));
    assert_flaw(&alice, &group, KeyPackageFlaw::Malformed).await;
    tamper(&proxy, |_, bytes| bytes.push(0));
    assert_flaw(&alice, &group, KeyPackageFlaw::Malformed).await;
    tamper(&proxy, |_, bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    });
    assert_flaw(&alice, &group, KeyPackageFlaw::Invalid).await;
    let mallorys = forge(b"mallory/d-1", 60 * DAY, false);
    let bytes = mallorys.1.clone();
    tamper(&proxy, move |_, shown| shown.clone_from(&bytes));
    assert_flaw(&alice, &group, KeyPackageFlaw::WrongReference).await;
    let forged = mallorys.clone();
    tamper(&proxy, move |key_package_ref, shown| {
        *key_package_ref = forged.0.clone();
        shown.clone_from(&forged.1);
    });
    assert_flaw(&alice, &group, KeyPackageFlaw::Credential).await;
    let identity = format!("bob/{}", bob.me().device_id);
    for (forged, flaw) in [
        (
            forge(identity.as_bytes(), 400 * DAY, false),
            KeyPackageFlaw::Lifetime,
        ),
        (
            forge_with(
                identity.as_bytes(),
                Lifetime::init(now().minus(DAY).0, now().minus(1).0),
                false,
            ),
            KeyPackageFlaw::Expired,
        ),
        (
            forge_with(
                identity.as_bytes(),
                Lifetime::init(now().plus(HOUR).0, now().plus(DAY).0),
                false,
            ),
            KeyPackageFlaw::NotYetValid { seconds: HOUR },
        ),
        // Passed off as single-use.
        (
            forge(identity.as_bytes(), 84 * DAY, true),
            KeyPackageFlaw::LastResort,
        ),
    ] {
        tamper(&proxy, move |key_package_ref, shown| {
            *key_package_ref = forged.0.clone();
            shown.clone_from(&forged.1);
        });
        assert_flaw(&alice, &group, flaw).await;
    }
    assert_eq!(proxy.seen("POST", "/commits").len(), 0);
    assert!(
        proxy.seen("POST", "/abandon").len() >= 7,
        "what cannot be used is given up"
    );

    proxy.forward();
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
}

#[tokio::test]
async fn r_c8_a_changed_signature_key_is_refused() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    alice.group_with(&[&bob]).await;
    let second = alice.create_group("dinner").await.unwrap().id;
    let identity = format!("bob/{}", bob.me().device_id);
    let forged = forge(identity.as_bytes(), 60 * DAY, false);
    tamper(&proxy, move |key_package_ref, shown| {
        *key_package_ref = forged.0.clone();
        shown.clone_from(&forged.1);
    });
    match alice.invite(&second, &[user("bob")]).await {
        Err(Error::KeyChanged { user: who, device }) => {
            assert_eq!((who, device), (user("bob"), bob.me().device_id.clone()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(alice.users(&second).await, ["alice"]);
}

#[tokio::test]
async fn the_key_of_a_forgery_that_was_never_added_is_not_remembered() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    let identity = format!("bob/{}", bob.me().device_id);
    let forged = forge(identity.as_bytes(), 60 * DAY, false);
    tamper(&proxy, move |key_package_ref, shown| {
        *key_package_ref = forged.0.clone();
        shown.clone_from(&forged.1);
    });
    // On first contact the list of his devices tells it from bob's.
    assert!(matches!(
        alice.invite(&group, &[user("bob")]).await,
        Err(Error::KeyChanged { .. })
    ));
    assert_eq!(alice.users(&group).await, ["alice"]);

    proxy.forward();
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_noticed_and_the_next_ones_arrive() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.send(&group, "garbled").await.unwrap();
    tamper_inbox(&proxy, InboxKind::Message, flip_last);
    bob.sync().await.unwrap();
    proxy.forward();
    alice.send(&group, "clear").await.unwrap();
    bob.sync().await.unwrap();
    let kinds: Vec<_> = bob
        .take_unread()
        .await
        .into_iter()
        .map(|m| (m.kind, m.text))
        .collect();
    assert_eq!(kinds.len(), 2);
    assert_eq!(kinds[0].0, MessageKind::Notice);
    assert_eq!(kinds[1], (MessageKind::Text, "clear".to_owned()));
}

/// The length prefixes inside an MLSMessage promise more than a truncated one holds.
#[tokio::test]
async fn a_message_truncated_anywhere_is_noticed_each_time() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.send(&group, "truncated").await.unwrap();
    proxy.rule(|seen| {
        if !seen.is("POST", "/v1/inbox/next") {
            return Action::Forward;
        }
        Action::rewrite_json(|inbox: &mut Inbox| {
            if let Some(whole) = inbox.rows.pop() {
                inbox.rows.extend((0..whole.body.0.len()).map(|length| {
                    let mut row = whole.clone();
                    row.seq += length as u64;
                    row.body.0.truncate(length);
                    row
                }));
            }
        })
    });
    // The server has no rows of these numbers.
    assert_eq!(bob.sync().await.unwrap_err().code(), "went-back");
    let notices = bob.take_unread().await;
    assert!(notices.len() > 100, "{}", notices.len());
    assert!(notices.iter().all(|message| message.kind == MessageKind::Notice));
    // Once it is honest, everything works.
    proxy.forward();
    assert_eq!(bob.receive().await, ["truncated"]);
}

#[tokio::test]
async fn a_member_who_cannot_process_a_commit_rejoins() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (mut bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let before = proxy.seen("POST", "/commits").len();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    alice.send(&group, "missed").await.unwrap();
    // The way back is cut too, at first.
    proxy.rule(|seen| {
        if seen.is("POST", "/commits") {
            return Action::CutAfter;
        }
        keeps_no_commits(seen).unwrap_or(Action::Forward)
    });
    support::assert_unreachable(bob.sync().await);
    assert_eq!(bob.groups().await.unwrap()[0].state, GroupState::NeedsRejoin);
    bob.restart().await;
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(bob.groups().await.unwrap()[0].state, GroupState::Active);
    // Nothing shows how carol came in, so the person says whether it is right.
    assert_eq!(bob.trust(&user("carol")).await.unwrap(), 1);
    let commits = proxy.seen("POST", "/commits").split_off(before);
    assert!(
        commits.iter().all(|request| request.body == commits[0].body),
        "the identical external Commit"
    );
    bob.send(&group, "back again").await.unwrap();
    assert_eq!(alice.receive().await, ["back again"]);
    assert_eq!(carol.receive().await, ["missed", "back again"]);
    alice.send(&group, "good").await.unwrap();
    assert_eq!(bob.receive().await, ["good"]);
    support::catch_up(&[&alice, &bob, &carol]).await;
    for client in [&alice, &bob, &carol] {
        assert_eq!(client.users(&group).await, ["alice", "bob", "carol"]);
        assert_eq!(client.epoch(&group).await, alice.epoch(&group).await);
    }
}

#[tokio::test]
async fn a_member_to_whom_a_commit_is_not_delivered_is_told_so_and_says_nothing_meanwhile() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    alice.invite(&group, &[user("carol")]).await.unwrap();
    alice.remove(&group, &user("carol")).await.unwrap();
    proxy.rule(|seen| {
        if !seen.is("POST", "/v1/inbox/next") {
            return Action::Forward;
        }
        Action::rewrite_json(|inbox: &mut Inbox| {
            // All but the last one: what comes after it shows that something is missing.
            let commits = inbox
                .rows
                .iter()
                .filter(|row| row.kind == InboxKind::Commit)
                .count();
            let mut kept = commits.saturating_sub(1);
            inbox.rows.retain(|row| {
                let is_left_out = row.kind == InboxKind::Commit && kept > 0;
                kept -= usize::from(is_left_out);
                !is_left_out
            });
        })
    });
    let epoch = bob.epoch(&group).await;
    assert_eq!(
        bob.send(&group, "anyone?").await.unwrap().status,
        SendStatus::Pending
    );
    assert_eq!(bob.sync().await.unwrap_err().code(), "leaves-out");
    assert_eq!(bob.epoch(&group).await, epoch);
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(bob.epoch(&group).await, epoch + 2);
    assert_eq!(alice.receive().await, ["anyone?"]);
    assert_eq!(alice.epoch(&group).await, bob.epoch(&group).await);
    carol.sync().await.unwrap();
    assert_eq!(carol.groups().await.unwrap()[0].state, GroupState::Left);
}

#[tokio::test]
async fn a_group_info_that_does_not_verify_rejoins_nothing() {
    let server = TestServer::start().await;
    let (alice, carol) = (server.client("alice").await, server.client("carol").await);
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let before = proxy.seen("POST", "/commits").len();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    proxy.rule(|seen| {
        if seen.path.ends_with("/info") {
            return Action::rewrite_body(|body| {
                let mut answer: GroupInfoAnswer = serde_json::from_slice(&body).unwrap();
                flip_last(&mut answer.group_info.0);
                serde_json::to_vec(&answer).unwrap()
            });
        }
        keeps_no_commits(seen).unwrap_or(Action::Forward)
    });
    bob.sync().await.unwrap();
    assert_eq!(bob.groups().await.unwrap()[0].state, GroupState::NeedsRejoin);
    assert_eq!(proxy.seen("POST", "/commits").len(), before);
    proxy.forward();
    bob.sync().await.unwrap();
    assert_eq!(bob.groups().await.unwrap()[0].state, GroupState::Active);
    carol.sync().await.unwrap();
    assert_eq!(carol.users(&group).await, ["alice", "bob", "carol"]);
}
