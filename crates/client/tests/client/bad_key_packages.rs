//! KeyPackages that no Commit can add, as their owner made them and a directory that checks nothing hands them out: they keep
//! nobody else out of a group, and are never handed out again.

use std::sync::{Arc, Mutex};

use crate::support::{self, Action, Client, Proxy, TestServer, now, user};
use larder_client::{Error, GroupKey, Invited, KeyPackageFlaw, MessageKind, NotAdded, UserName};
use larder_pool::LocalStore;
use larder_pool::openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialType, CredentialWithKey, Extension, ExtensionType,
    Extensions, KeyPackage, Lifetime, MlsMessageOut, OpenMlsProvider, ProtocolVersion, SignatureScheme,
    UnknownExtension,
};
use larder_wire::{
    Base64Url, DeviceReservation, Inbox, KeyPackageRef, Reserved, credential_identity,
    sign_with_label_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const DAY: u64 = 24 * 3600;
const GREASE: u16 = 0x0A0A;

/// Where the init key and the leaf's encryption key are in a KeyPackage as it travels.
const KEYS: [std::ops::Range<usize>; 2] = [9..41, 42..74];
/// An Ed25519 signature, with the two bytes of its length.
const SIGNATURE_BYTES: usize = 66;

/// What mints KeyPackages in the name of a device that is away: its key.
struct Forger {
    identity: Vec<u8>,
    signer: SignatureKeyPair,
}

/// What is wrong with one.
#[derive(Default, Clone)]
struct Forgery {
    capabilities: Capabilities,
    leaf_extension: Option<u16>,
    lifetime: Option<Lifetime>,
    init_key: Option<[u8; 32]>,
    encryption_key: Option<[u8; 32]>,
    same_keys: bool,
}

impl Forger {
    /// Ends the client; it can be started again.
    async fn of(client: &mut Client) -> Self {
        let identity = credential_identity(&client.me().user, &client.me().device_id);
        client.stop().await;
        let mut store = LocalStore::open(&client.directory.path().join("larder.db")).unwrap();
        let signer = store.transaction(|tx| {
            let sql = "SELECT mls_public_key FROM profile";
            let public: Vec<u8> = tx.connection().query_row(sql, [], |row| row.get(0)).unwrap();
            let provider = tx.provider();
            Ok::<_, larder_pool::StoreError>(
                SignatureKeyPair::read(provider.storage(), &public, SignatureScheme::ED25519).unwrap(),
            )
        });
        Self {
            identity,
            signer: signer.unwrap(),
        }
    }

    fn forge(&self, forgery: Forgery) -> (KeyPackageRef, Vec<u8>) {
        let provider = OpenMlsRustCrypto::default();
        let credential = CredentialWithKey {
            credential: BasicCredential::new(self.identity.clone()).into(),
            signature_key: self.signer.public().into(),
        };
        let (from, to) = (now().minus(3600).0, now().plus(60 * DAY).0);
        let mut builder = KeyPackage::builder()
            .key_package_lifetime(forgery.lifetime.unwrap_or(Lifetime::init(from, to)))
            .leaf_node_capabilities(forgery.capabilities);
        if let Some(number) = forgery.leaf_extension {
            let extension = Extension::Unknown(number, UnknownExtension(Vec::new()));
            builder = builder.leaf_node_extensions(Extensions::single(extension).unwrap());
        }
        let bundle = builder.build(SUITE, &provider, &self.signer, credential).unwrap();
        let mut bytes = MlsMessageOut::from(bundle.into_key_package()).to_bytes().unwrap();
        let [init_key, encryption_key] = keys_of(&bytes);
        let encryption_key = match forgery.same_keys {
            true => init_key,
            false => forgery.encryption_key.unwrap_or(encryption_key),
        };
        let keys = [forgery.init_key.unwrap_or(init_key), encryption_key];
        for (place, key) in KEYS.into_iter().zip(keys) {
            bytes[place].copy_from_slice(&key);
        }
        // The leaf ends with its signature; no extensions follow, and then the signature of all.
        let signed = bytes.len() - SIGNATURE_BYTES;
        let leaf_end = signed - 1;
        let leaf = 41..leaf_end - SIGNATURE_BYTES;
        for (label, content, end) in [
            ("LeafNodeTBS", leaf, leaf_end),
            ("KeyPackageTBS", 4..signed, signed + SIGNATURE_BYTES),
        ] {
            let content = sign_with_label_content(label, &bytes[content]);
            let signature = self.signer.sign(&content).unwrap();
            bytes[end - signature.len()..end].copy_from_slice(&signature);
        }
        let parsed = larder_key_package::read(&bytes).unwrap().into_unchecked();
        let key_package_ref = parsed.hash_ref(provider.crypto()).unwrap();
        (
            KeyPackageRef::from_bytes(key_package_ref.as_slice()).unwrap(),
            bytes,
        )
    }
}

fn keys_of(bytes: &[u8]) -> [[u8; 32]; 2] {
    KEYS.map(|place| bytes[place].try_into().unwrap())
}

fn device_of<'a>(reserved: &'a mut Reserved, name: &str) -> Option<&'a mut DeviceReservation> {
    let answer = reserved
        .users
        .iter_mut()
        .find(|answer| answer.user == user(name))?;
    answer.devices.first_mut()
}

/// From now on the directory gives this out for a user, whatever it has reserved.
fn hand_out(proxy: &Proxy, name: &'static str, (key_package_ref, bytes): (KeyPackageRef, Vec<u8>)) {
    proxy.lie("POST", "/reserve", move |reserved: &mut Reserved| {
        if let Some(device) = device_of(reserved, name) {
            device.key_package_ref = Some(key_package_ref.clone());
            device.key_package = Some(Base64Url(bytes.clone()));
        }
    });
}

fn flawed(invited: &Invited, name: &str, flaw: KeyPackageFlaw) {
    let expected = [(user(name), NotAdded::InvalidKeyPackage(flaw))];
    assert_eq!(to_the_hour(&invited.not_added), expected);
}

/// The same, with times rounded up to hours: some seconds pass.
fn to_the_hour(not_added: &[(UserName, NotAdded)]) -> Vec<(UserName, NotAdded)> {
    let rounded = not_added.iter().map(|(user, why)| match why {
        NotAdded::InvalidKeyPackage(KeyPackageFlaw::NotYetValid { seconds }) => {
            let seconds = seconds.next_multiple_of(3600);
            let flaw = KeyPackageFlaw::NotYetValid { seconds };
            (user.clone(), NotAdded::InvalidKeyPackage(flaw))
        }
        why => (user.clone(), why.clone()),
    });
    rounded.collect()
}

async fn lapsed_and_reserved(client: &Client) -> (u32, u32) {
    client.refresh_key_packages().await.unwrap();
    let health = client.pool_health().await.unwrap();
    (health.lapsed, health.reserved)
}

fn forgeries() -> Vec<(Forgery, KeyPackageFlaw)> {
    let capabilities = || Capabilities::builder().ciphersuites(vec![SUITE]);
    let listing = |capabilities| Forgery {
        capabilities,
        ..Forgery::default()
    };
    let lasting = |from, to| Forgery {
        lifetime: Some(Lifetime::init(from, to)),
        ..Forgery::default()
    };
    let (now, soon, late) = (now().0, now().plus(3600).0, now().plus(60 * DAY).0);
    vec![
        (
            listing(capabilities().ciphersuites(vec![]).build()),
            KeyPackageFlaw::CiphersuiteNotListed,
        ),
        (
            listing(capabilities().versions(vec![ProtocolVersion::Other(7)]).build()),
            KeyPackageFlaw::VersionNotListed,
        ),
        (
            listing(capabilities().credentials(vec![CredentialType::X509]).build()),
            KeyPackageFlaw::CredentialNotListed,
        ),
        (
            Forgery {
                leaf_extension: Some(GREASE),
                ..listing(
                    capabilities()
                        .extensions(vec![ExtensionType::Grease(GREASE)])
                        .build(),
                )
            },
            KeyPackageFlaw::Extension,
        ),
        (
            Forgery {
                same_keys: true,
                ..Forgery::default()
            },
            KeyPackageFlaw::SameKeys,
        ),
        (
            Forgery {
                init_key: Some([0; 32]),
                ..Forgery::default()
            },
            KeyPackageFlaw::UnusableKey,
        ),
        (
            Forgery {
                encryption_key: Some([0; 32]),
                ..Forgery::default()
            },
            KeyPackageFlaw::UnusableKey,
        ),
        (lasting(soon, late), KeyPackageFlaw::NotYetValid { seconds: 3600 }),
        (lasting(now - DAY, now - 1), KeyPackageFlaw::Expired),
        (lasting(now - DAY, late + 30 * DAY), KeyPackageFlaw::Lifetime),
    ]
}

#[tokio::test]
async fn one_bad_key_package_keeps_nobody_else_out() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (mut bad, good) = (server.client("bad").await, server.client("good").await);
    let forger = Forger::of(&mut bad).await;
    let forgeries = forgeries();
    let count = forgeries.len();
    let users = [user("bad"), user("good")];
    for (forgery, flaw) in forgeries {
        let group = alice.create_group("lunch").await.unwrap().id;
        hand_out(&proxy, "bad", forger.forge(forgery));
        let invited = alice.invite(&group, &users).await.unwrap();
        flawed(&invited, "bad", flaw);
        assert_eq!(invited.added, [user("good")], "{flaw:?}");
        assert_eq!(alice.users(&group).await, ["alice", "good"]);
        // All or nobody says who it was, and uses nothing up that could be used.
        let other = alice.create_group("dinner").await.unwrap().id;
        let invited = alice.invite_all(&other, &users).await.unwrap();
        let reasons = [
            (user("bad"), NotAdded::InvalidKeyPackage(flaw)),
            (user("good"), NotAdded::Withheld),
        ];
        assert_eq!(
            (invited.added.len(), to_the_hour(&invited.not_added)),
            (0, reasons.to_vec())
        );

        proxy.forward();
        let invited = alice.invite(&group, &[user("bad")]).await.unwrap();
        assert_eq!(invited.added, [user("bad")]);
    }
    bad.restart().await;
    let joined = u64::try_from(count).unwrap();
    assert_eq!(bad.sync().await.unwrap().joined, joined);
    assert_eq!(good.sync().await.unwrap().joined, joined);
    // What was handed out and not used is over. Nothing waits to be handed out again.
    let twice = u32::try_from(2 * count).unwrap();
    assert_eq!(lapsed_and_reserved(&bad).await, (twice, 0));
    let keys: Vec<_> = proxy
        .seen("POST", "/reserve")
        .into_iter()
        .map(|seen| seen.header("idempotency-key").unwrap().to_owned())
        .collect();
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len(), "each is a new question");
}

#[tokio::test]
async fn a_key_that_is_in_the_group_already_keeps_nobody_else_out() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (carol, mut bad) = (server.client("carol").await, server.client("bad").await);
    let (good, zoe) = (server.client("good").await, server.client("zoe").await);
    let forger = Forger::of(&mut bad).await;

    // The key of carol's leaf, as long as it is that of her KeyPackage.
    let group = alice.create_group("lunch").await.unwrap().id;
    let carols = key_of_whom_is_added(&alice, &proxy, &group, "carol").await;
    for stolen in [
        Forgery {
            encryption_key: Some(carols),
            ..Forgery::default()
        },
        Forgery {
            init_key: Some(carols),
            ..Forgery::default()
        },
    ] {
        hand_out(&proxy, "bad", forger.forge(stolen));
        let invited = alice.invite(&group, &[user("bad")]).await;
        assert!(matches!(
            invited,
            Err(Error::InvalidKeyPackage {
                flaw: KeyPackageFlaw::KeyInUse,
                ..
            })
        ));
    }
    let forged = Forgery {
        encryption_key: Some(carols),
        ..Forgery::default()
    };
    hand_out(&proxy, "bad", forger.forge(forged));
    let users = [user("bad"), user("good"), user("zoe")];
    let invited = alice.invite(&group, &users).await.unwrap();
    flawed(&invited, "bad", KeyPackageFlaw::KeyInUse);
    assert_eq!(invited.added, [user("good"), user("zoe")]);
    for client in [&carol, &good, &zoe] {
        assert_eq!(client.sync().await.unwrap().joined, 1);
    }
    proxy.forward();
    assert_eq!(
        alice.invite(&group, &users[..1]).await.unwrap().added,
        [user("bad")]
    );
}

/// Adds a user, and tells the encryption key of the KeyPackage that was handed out.
async fn key_of_whom_is_added(
    alice: &Client,
    proxy: &Proxy,
    group: &GroupKey,
    name: &'static str,
) -> [u8; 32] {
    let seen = Arc::new(Mutex::new([0; 32]));
    let key = Arc::clone(&seen);
    proxy.lie("POST", "/reserve", move |reserved: &mut Reserved| {
        let device = device_of(reserved, name).unwrap();
        *key.lock().unwrap() = keys_of(&device.key_package.as_ref().unwrap().0)[1];
    });
    alice.invite(group, &[user(name)]).await.unwrap();
    proxy.forward();
    *seen.lock().unwrap()
}

#[tokio::test]
async fn a_key_stolen_from_another_newcomer_keeps_nobody_else_out() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (mut bad, good) = (server.client("bad").await, server.client("good").await);
    let forger = Forger::of(&mut bad).await;
    let group = alice.create_group("lunch").await.unwrap().id;
    // The thief comes first in the alphabet.
    proxy.lie("POST", "/reserve", move |reserved: &mut Reserved| {
        let Some(goods) = device_of(reserved, "good") else {
            return;
        };
        let encryption_key = Some(keys_of(&goods.key_package.as_ref().unwrap().0)[1]);
        let forged = forger.forge(Forgery {
            encryption_key,
            ..Forgery::default()
        });
        if let Some(device) = device_of(reserved, "bad") {
            device.key_package_ref = Some(forged.0);
            device.key_package = Some(Base64Url(forged.1));
        }
    });
    let invited = alice.invite(&group, &[user("bad"), user("good")]).await.unwrap();
    assert!(invited.added.contains(&user("good")), "{invited:?}");
    assert_eq!(good.sync().await.unwrap().joined, 1);
}

#[tokio::test]
async fn a_key_package_that_is_withdrawn_in_between_keeps_nobody_else_out() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bad, good) = (server.client("bad").await, server.client("good").await);
    let group = alice.create_group("lunch").await.unwrap().id;
    let database = server.database();
    proxy.lie("POST", "/reserve", move |_: &mut Reserved| {
        let database = rusqlite::Connection::open(&database).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        let withdrawn = database.execute(
            "UPDATE key_packages SET status = 6 WHERE status = 1
                AND device_id = (SELECT d.id FROM devices d JOIN users u ON u.id = d.user_id WHERE u.name = 'bad')",
            [],
        );
        assert_eq!(withdrawn.unwrap(), 1);
    });
    let users = [user("bad"), user("good")];
    let invited = alice.invite(&group, &users).await.unwrap();
    assert_eq!(invited.added, [user("good")]);
    assert_eq!(invited.not_added, [(user("bad"), NotAdded::Overtaken)]);
    assert_eq!(alice.users(&group).await, ["alice", "good"]);
    assert_eq!(good.sync().await.unwrap().joined, 1);
    proxy.forward();
    assert_eq!(alice.invite(&group, &users).await.unwrap().added, [user("bad")]);
    assert_eq!(bad.sync().await.unwrap().joined, 1);
}

#[tokio::test]
async fn one_who_cannot_be_added_after_a_lost_race_does_not_stop_the_sync() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, bobs_proxy) = server.proxied("bob").await;
    let (carol, mut bad) = (server.client("carol").await, server.client("bad").await);
    let good = server.client("good").await;
    let forger = Forger::of(&mut bad).await;
    let group = alice.group_with(&[&bob]).await;
    support::catch_up(&[&alice, &bob]).await;

    // bob is faster, and brings the key in that the other KeyPackage has, too.
    let carols = key_of_whom_is_added(&bob, &bobs_proxy, &group, "carol").await;
    let forged = forger.forge(Forgery {
        encryption_key: Some(carols),
        ..Forgery::default()
    });
    let mut lost = false;
    proxy.rule(move |seen| {
        lost |= seen.is("POST", "/commits");
        let forged = forged.clone();
        if seen.is("POST", "/v1/inbox/next") && !lost {
            return Action::rewrite_json(|inbox: &mut Inbox| inbox.rows.clear());
        }
        if seen.is("POST", "/reserve") {
            return Action::rewrite_json(move |reserved: &mut Reserved| {
                let device = device_of(reserved, "bad").unwrap();
                device.key_package_ref = Some(forged.0.clone());
                device.key_package = Some(Base64Url(forged.1.clone()));
            });
        }
        Action::Forward
    });
    let users = [user("bad"), user("good")];
    let invited = alice.invite(&group, &users).await.unwrap();
    assert_eq!(invited.added, [user("good")]);
    assert_eq!(invited.not_added, [(user("bad"), NotAdded::Overtaken)]);
    let told = alice.take_unread().await.into_iter();
    let told: Vec<_> = told
        .filter(|message| message.kind == MessageKind::Notice)
        .map(|message| message.text)
        .collect();
    assert!(
        told.iter().any(|text| text.starts_with("bad was not added: ")),
        "{told:?}"
    );
    alice.sync().await.unwrap();
    for client in [&carol, &good] {
        assert_eq!(client.sync().await.unwrap().joined, 1);
    }
    support::catch_up(&[&alice, &bob, &carol, &good]).await;
    assert_eq!(bob.users(&group).await, ["alice", "bob", "carol", "good"]);
}

#[tokio::test]
async fn a_key_package_that_a_slow_clock_finds_not_valid_yet_blames_nobody() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let mut bob = server.client("bob").await;
    let forger = Forger::of(&mut bob).await;
    server.set_clock(50 * 60).await;
    let lifetime = Lifetime::init(now().plus(30 * 60).0, now().plus(60 * DAY).0);
    let early = Forgery {
        lifetime: Some(lifetime),
        ..Forgery::default()
    };
    hand_out(&proxy, "bob", forger.forge(early));
    let group = alice.create_group("lunch").await.unwrap().id;
    let refused = alice.invite(&group, &[user("bob")]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "bob cannot be added yet with the KeyPackage of theirs: it is valid only in 30 min by this computer's clock"
    );
}
