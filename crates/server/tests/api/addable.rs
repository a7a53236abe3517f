//! What enters the directory can be added by anybody who gets it: all that adding checks is checked at upload.

use larder_wire::{
    DeviceOutcome, GroupId, KeyPackageCheck, PoolStatus, ProblemType, RevokeRequest, Revoked, UploadOutcome,
};
use openmls::prelude::{Capabilities, Ciphersuite, CredentialType, ExtensionType, ProtocolVersion};

use crate::support::{Device, KeyPackageSpec, SUITE, TestServer, keys_of, outcomes};

const MINUTE: u64 = 60;
const DAY: i64 = 24 * 60 * 60;
const UNKNOWN: u16 = 0xF042;
/// Of those that RFC 9420 §13.5 reserves.
const GREASE: u16 = 0x0A0A;

/// Uploads one KeyPackage, which must fail this check with a sentence, and leave nothing behind.
async fn refused(device: &Device, key_package: Vec<u8>, check: KeyPackageCheck) {
    let before = device.inventory().await;
    let uploaded = device.upload(&[key_package]).await;
    let problem = uploaded.results[0].problem.as_ref().expect("refused");
    assert_eq!(problem.problem_type, ProblemType::InvalidKeyPackage);
    assert_eq!(problem.check.as_deref(), Some(check.code()));
    assert_eq!(problem.detail.as_deref(), Some(check.explanation()));
    assert_eq!(device.inventory().await, before, "{check}");
}

/// Uploads one KeyPackage, which must be accepted, and has `adder` add it to a new group.
async fn is_accepted_and_added(owner: &Device, adder: &Device, key_package: Vec<u8>) {
    let uploaded = owner.upload(&[key_package]).await;
    let result = &uploaded.results[0];
    assert_eq!(result.outcome, UploadOutcome::Accepted, "{:?}", result.problem);
    let (mut group, gid) = adder.create_group().await;
    let (key_packages, _) = adder.take(&[owner], &gid).await;
    let request = adder.stage_adds(&mut group, key_packages);
    adder.commit(&mut group, &request).await;
    // A Commit that encrypts to the new leaf.
    let request = adder.stage_update(&mut group);
    adder.commit(&mut group, &request).await;
}

#[tokio::test]
async fn a_leaf_that_does_not_list_what_it_uses_is_refused() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let capabilities = || Capabilities::builder().ciphersuites(vec![SUITE]);
    let other_suite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    let cases = [
        (
            capabilities().ciphersuites(vec![other_suite]),
            KeyPackageCheck::CiphersuiteNotListed,
        ),
        (
            capabilities().ciphersuites(vec![]),
            KeyPackageCheck::CiphersuiteNotListed,
        ),
        (
            capabilities().versions(vec![ProtocolVersion::Other(2)]),
            KeyPackageCheck::VersionNotListed,
        ),
        (capabilities().versions(vec![]), KeyPackageCheck::VersionNotListed),
        (
            capabilities().credentials(vec![CredentialType::X509]),
            KeyPackageCheck::CredentialNotListed,
        ),
        (
            capabilities().credentials(vec![]),
            KeyPackageCheck::CredentialNotListed,
        ),
    ];
    for (capabilities, check) in cases {
        let spec = KeyPackageSpec {
            capabilities: Some(capabilities.build()),
            ..Default::default()
        };
        refused(&alice, alice.mint(spec), check).await;
    }
    let bob = server.device("bob").await;
    let spec = KeyPackageSpec {
        capabilities: Some(capabilities().build()),
        ..Default::default()
    };
    is_accepted_and_added(&alice, &bob, alice.mint(spec)).await;
}

#[tokio::test]
async fn an_extension_that_no_commit_can_add_is_refused() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let with = |extensions, announced: &[ExtensionType]| {
        let capabilities = Capabilities::builder().extensions(announced.to_vec());
        alice.mint(KeyPackageSpec {
            capabilities: Some(capabilities.build()),
            extensions,
            ..Default::default()
        })
    };
    for number in [UNKNOWN, GREASE] {
        for extensions in [(Some(number), None), (None, Some(number))] {
            refused(
                &alice,
                with(extensions, &[]),
                KeyPackageCheck::UnsupportedExtension,
            )
            .await;
        }
    }
    let announced = [ExtensionType::from(UNKNOWN), ExtensionType::from(GREASE)];
    for extensions in [(Some(GREASE), None), (None, Some(GREASE))] {
        let check = KeyPackageCheck::UnsupportedExtension;
        refused(&alice, with(extensions, &announced), check).await;
    }
    for extensions in [(Some(UNKNOWN), None), (None, Some(UNKNOWN)), (None, None)] {
        is_accepted_and_added(&alice, &bob, with(extensions, &announced)).await;
    }
}

#[tokio::test]
async fn keys_that_nothing_can_be_encrypted_to_are_refused() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    for key_package in [alice.mint(KeyPackageSpec::default()), alice.mint_last_resort()] {
        let [init_key, _] = keys_of(&key_package);
        let same = alice.with_keys(&key_package, None, Some(&init_key));
        refused(&alice, same, KeyPackageCheck::SameKeys).await;
        // A point of small order: every secret that is made with it is zero.
        let mut one = [0; 32];
        one[0] = 1;
        for nothing in [[0; 32], one] {
            let forged = alice.with_keys(&key_package, Some(&nothing), None);
            refused(&alice, forged, KeyPackageCheck::UnusableKey).await;
            let forged = alice.with_keys(&key_package, None, Some(&nothing));
            refused(&alice, forged, KeyPackageCheck::UnusableKey).await;
        }
        // The same KeyPackage, signed again.
        let genuine = alice.with_keys(&key_package, None, None);
        is_accepted_and_added(&alice, &bob, genuine).await;
    }
}

#[tokio::test]
async fn no_key_of_a_key_package_was_ever_in_another() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let ordinary = alice.mint(KeyPackageSpec::default());
    let last_resort = alice.mint_last_resort();
    let uploaded = alice.upload(&[ordinary.clone(), last_resort.clone()]).await;
    let refs: Vec<_> = uploaded
        .results
        .iter()
        .map(|result| result.key_package_ref.clone().expect("accepted"))
        .collect();
    let all_are_refused = async || {
        for taken in [keys_of(&ordinary), keys_of(&last_resort)].concat() {
            for device in [&alice, &bob] {
                for fresh in [device.mint(KeyPackageSpec::default()), device.mint_last_resort()] {
                    let forged = device.with_keys(&fresh, Some(&taken), None);
                    refused(device, forged, KeyPackageCheck::DuplicateInitKey).await;
                    let forged = device.with_keys(&fresh, None, Some(&taken));
                    refused(device, forged, KeyPackageCheck::DuplicateEncryptionKey).await;
                }
            }
        }
    };
    all_are_refused().await;
    let revoke = RevokeRequest { refs };
    let path = "/v1/key-packages/revoke";
    let revoked: Revoked = alice.http.post(path, &revoke).await.ok();
    assert_eq!(revoked.refs.len(), 2);
    all_are_refused().await;

    // Within one upload, too.
    let [first, second] = [(), ()].map(|()| bob.mint(KeyPackageSpec::default()));
    let twin = bob.with_keys(&second, None, Some(&keys_of(&first)[1]));
    let uploaded = bob.upload(&[first, twin, second]).await;
    let outcomes: Vec<_> = uploaded.results.iter().map(|result| result.outcome).collect();
    let expected = [
        UploadOutcome::Accepted,
        UploadOutcome::Rejected,
        UploadOutcome::Accepted,
    ];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn what_is_valid_in_a_moment_is_accepted_and_served_five_minutes_later() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device("bob").await;
    let gid = GroupId::from_bytes(b"g").expect("a group id");
    // As libraries do that set `not_before` to now, on a computer that is four minutes fast.
    let lifetime = Some((240, 60 * DAY));
    let mint = |last_resort| KeyPackageSpec {
        lifetime,
        last_resort,
        ..Default::default()
    };
    // One more than what is kept for those who share a group with bob.
    let mut minted: Vec<_> = (0..9).map(|_| bob.mint(mint(false))).collect();
    minted.push(bob.mint(mint(true)));
    let uploaded = bob.upload(&minted).await;
    let accepted = |result: &larder_wire::UploadResult| result.outcome == UploadOutcome::Accepted;
    assert!(uploaded.results.iter().all(accepted));
    assert_eq!(uploaded.available, 0);

    let in_stock = async |bob: &Device| {
        let status: PoolStatus = bob.http.get("/v1/key-packages/status").await.ok();
        (status.suites[0].available, status.suites[0].last_resort.present)
    };
    for minutes in [4, 4] {
        assert_eq!(in_stock(&bob).await, (0, false));
        let reserved = alice.reserve(&[&bob], &gid).await;
        assert_eq!(outcomes(&reserved), [DeviceOutcome::Exhausted]);
        server.pass(minutes * MINUTE);
    }
    assert_eq!(in_stock(&bob).await, (0, false));
    server.pass(2 * MINUTE);
    alice.open_session().await;
    bob.open_session().await;
    assert_eq!(in_stock(&bob).await, (9, true));
    for outcome in [DeviceOutcome::Ok, DeviceOutcome::LastResort] {
        assert_eq!(outcomes(&alice.reserve(&[&bob], &gid).await), [outcome]);
    }
}

#[tokio::test]
async fn what_would_never_be_served_is_refused() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    // It is served from 5 minutes after its beginning until 30 days before its end, which is earlier.
    let key_package = alice.mint(KeyPackageSpec {
        lifetime: Some((0, 30 * DAY + 200)),
        ..Default::default()
    });
    refused(&alice, key_package, KeyPackageCheck::LifetimeTooShort).await;
}
