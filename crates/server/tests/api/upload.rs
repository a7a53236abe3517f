//! What enters the directory, and what does not.

use larder_wire::{
    Inventory, KeyPackageCheck, KeyPackageState, LABEL_REGISTER, PoolStatus, RevokeRequest, Revoked,
    UploadOutcome, UploadResult, sign_with_label_content,
};
use openmls::prelude::Ciphersuite;
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;
use reqwest::Method;

use crate::support::{
    Answer, Device, KeyPackageSpec, SIGNATURE_BYTES, TestServer, count, message_bytes, of_suite, state_of,
};

const DAY: i64 = 24 * 60 * 60;

#[track_caller]
fn check_of(result: &UploadResult) -> &str {
    assert_eq!(result.outcome, UploadOutcome::Rejected);
    let problem = result.problem.as_ref().expect("a rejection says why");
    problem.check.as_deref().expect("a rejection names its check")
}

/// Uploads one KeyPackage, which must fail this check and leave nothing behind.
async fn refused(device: &Device, key_package: Vec<u8>, check: KeyPackageCheck) {
    let before = device.inventory().await;
    let uploaded = device.upload(&[key_package]).await;
    assert_eq!(check_of(&uploaded.results[0]), check.code());
    assert_eq!(device.inventory().await, before, "{check}");
}

/// S6, R-D6.
#[tokio::test]
async fn what_is_accepted_is_in_the_inventory_under_the_reference_that_its_owner_computes() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let minted = alice.mint(KeyPackageSpec::default());
    let uploaded = alice.upload(std::slice::from_ref(&minted)).await;
    assert_eq!(uploaded.available, 1);
    let result = &uploaded.results[0];
    assert_eq!(
        (result.outcome, result.state),
        (UploadOutcome::Accepted, Some(KeyPackageState::Available))
    );

    let key_package = alice.validate(&minted);
    let hash = key_package
        .hash_ref(openmls::prelude::OpenMlsProvider::crypto(&alice.provider))
        .unwrap();
    assert_eq!(
        result.key_package_ref.as_ref().unwrap().as_bytes(),
        hash.as_slice()
    );

    let inventory = alice.inventory().await;
    let [item] = inventory.items.as_slice() else {
        panic!("one item")
    };
    assert_eq!(Some(&item.key_package_ref), result.key_package_ref.as_ref());
    assert_eq!(
        (item.suite, item.last_resort, item.reserved_until),
        (1, false, None)
    );
    assert_eq!(item.not_after, key_package.life_time().not_after());
}

#[tokio::test]
async fn a_key_package_with_a_flipped_signature_is_refused() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mut own_signature = alice.mint(KeyPackageSpec::default());
    *own_signature.last_mut().unwrap() ^= 1;
    refused(&alice, own_signature, KeyPackageCheck::Signature).await;
    // The leaf's signature is the last thing before the extensions and the outer signature.
    let mut leaf_signature = alice.mint(KeyPackageSpec::default());
    let leaf_end = leaf_signature.len() - SIGNATURE_BYTES - 1;
    leaf_signature[leaf_end - 1] ^= 1;
    refused(&alice, leaf_signature, KeyPackageCheck::Signature).await;
}

/// R-D1.
#[tokio::test]
async fn lifetimes_are_held_to_the_policy() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let cases = [
        ((-3600, 400 * DAY), KeyPackageCheck::LifetimeTooLong),
        ((-DAY, 84 * DAY), KeyPackageCheck::LifetimeTooLong),
        (
            (-3600, 31 * DAY + 2 * 3600 - 10),
            KeyPackageCheck::LifetimeTooShort,
        ),
        ((-2 * DAY, -DAY), KeyPackageCheck::LifetimeTooShort),
        ((3600, 60 * DAY), KeyPackageCheck::NotYetValid),
    ];
    for (lifetime, check) in cases {
        let key_package = alice.mint(KeyPackageSpec {
            lifetime: Some(lifetime),
            ..Default::default()
        });
        refused(&alice, key_package, check).await;
    }
    for lifetime in [
        (-3600, 84 * DAY),
        (-60, 31 * DAY + 2 * 3600 + 600),
        (240, 60 * DAY),
    ] {
        let key_package = alice.mint(KeyPackageSpec {
            lifetime: Some(lifetime),
            ..Default::default()
        });
        let uploaded = alice.upload(&[key_package]).await;
        assert_eq!(
            uploaded.results[0].outcome,
            UploadOutcome::Accepted,
            "{lifetime:?} {:?}",
            uploaded.results[0]
        );
    }
}

/// S6, R-D1.
#[tokio::test]
async fn a_key_package_names_its_uploader_and_carries_the_registered_key() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    for identity in [&b"alice"[..], b"bob/bob-1", b"alice/another", b"", b"\xff\xfe"] {
        let spec = KeyPackageSpec {
            identity: Some(identity.to_vec()),
            ..Default::default()
        };
        refused(&alice, alice.mint(spec), KeyPackageCheck::WrongCredential).await;
    }
    let other_key = SignatureKeyPair::new(openmls::prelude::SignatureScheme::ED25519).unwrap();
    let spec = KeyPackageSpec {
        signer: Some(other_key),
        ..Default::default()
    };
    refused(&alice, alice.mint(spec), KeyPackageCheck::WrongSignatureKey).await;
    // Another's KeyPackage, perfectly valid, present in the directory or not.
    let of_bob = bob.mint(KeyPackageSpec::default());
    refused(&alice, of_bob.clone(), KeyPackageCheck::WrongCredential).await;
    bob.upload(std::slice::from_ref(&of_bob)).await;
    refused(&alice, of_bob, KeyPackageCheck::WrongCredential).await;
    assert_eq!(bob.inventory().await.items.len(), 1);
}

#[tokio::test]
async fn suites_that_the_server_does_not_take_are_refused() {
    let server = TestServer::start_with(|config| config.group_suites = vec![3], true).await;
    let alice = server.device("alice").await;
    // One that this build has, one that only other builds have, and one that nobody has.
    for suite in [0x0002, 0x004D, 0x7777] {
        let key_package = of_suite(alice.mint(KeyPackageSpec::default()), suite);
        refused(&alice, key_package, KeyPackageCheck::UnsupportedSuite).await;
    }
    let suite = Some(Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519);
    let uploaded = alice
        .upload(&[alice.mint(KeyPackageSpec {
            suite,
            ..Default::default()
        })])
        .await;
    assert_eq!(uploaded.results[0].outcome, UploadOutcome::Accepted);
}

#[tokio::test]
async fn what_is_not_exactly_one_key_package_is_refused() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let genuine = alice.mint(KeyPackageSpec::default());
    let mut trailing = genuine.clone();
    trailing.push(0);
    refused(&alice, trailing, KeyPackageCheck::TrailingBytes).await;
    refused(
        &alice,
        [genuine.clone(), genuine.clone()].concat(),
        KeyPackageCheck::TrailingBytes,
    )
    .await;
    for length in 0..genuine.len() {
        refused(&alice, genuine[..length].to_vec(), KeyPackageCheck::Malformed).await;
    }
    refused(&alice, genuine[4..].to_vec(), KeyPackageCheck::Malformed).await;
    refused(&alice, vec![0; 9 * 1024], KeyPackageCheck::Malformed).await;
    let mut padded = genuine.clone();
    padded.resize(9 * 1024, 0);
    refused(&alice, padded, KeyPackageCheck::Malformed).await;
    let group = alice.new_group();
    refused(&alice, alice.group_info(&group), KeyPackageCheck::Malformed).await;
}

/// S6, R-D1.
#[tokio::test]
async fn no_flipped_bit_of_a_key_package_is_accepted() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let genuine = alice.mint(KeyPackageSpec::default());
    let flipped: Vec<Vec<u8>> = (0..genuine.len())
        .map(|at| {
            let mut bytes = genuine.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        })
        .collect();
    for batch in flipped.chunks(64) {
        for result in alice.upload(batch).await.results {
            assert_eq!(result.outcome, UploadOutcome::Rejected);
        }
    }
    assert!(alice.inventory().await.items.is_empty());
}

/// R-D6.
#[tokio::test]
async fn two_key_packages_with_one_init_key_never_both_enter() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let first = alice.mint(KeyPackageSpec::default());
    let second = alice.with_init_key_of(&alice.mint(KeyPackageSpec::default()), &first);

    let uploaded = alice.upload(std::slice::from_ref(&first)).await;
    let first_ref = uploaded.results[0].key_package_ref.clone().unwrap();
    refused(&alice, second.clone(), KeyPackageCheck::DuplicateInitKey).await;
    // Not even when the first is a tombstone.
    alice.revoke(&[first_ref]).await;
    refused(&alice, second, KeyPackageCheck::DuplicateInitKey).await;
}

#[tokio::test]
async fn a_signature_for_something_else_signs_no_key_package() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mut key_package = alice.mint(KeyPackageSpec::default());
    let signed = key_package.len() - SIGNATURE_BYTES;
    for content in [
        sign_with_label_content(LABEL_REGISTER, &key_package[4..signed]),
        sign_with_label_content("LeafNodeTBS", &key_package[4..signed]),
        key_package[4..signed].to_vec(),
    ] {
        key_package[signed + 2..].copy_from_slice(&alice.mls.sign(&content).unwrap());
        refused(&alice, key_package.clone(), KeyPackageCheck::Signature).await;
    }
}

#[tokio::test]
async fn each_key_package_of_a_batch_gets_its_own_verdict_in_order() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let good = alice.mint(KeyPackageSpec::default());
    let long = alice.mint(KeyPackageSpec {
        lifetime: Some((0, 400 * DAY)),
        ..Default::default()
    });
    let uploaded = alice.upload(&[long, good.clone(), b"no".to_vec(), good]).await;
    let outcomes: Vec<_> = uploaded.results.iter().map(|result| result.outcome).collect();
    let expected = [
        UploadOutcome::Rejected,
        UploadOutcome::Accepted,
        UploadOutcome::Rejected,
        UploadOutcome::Present,
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(uploaded.available, 1);
    assert_eq!(alice.inventory().await.items.len(), 1);
}

/// S7.
#[tokio::test]
async fn a_device_never_holds_more_than_the_hard_cap() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    alice.stock(64).await;
    refused(
        &alice,
        alice.mint(KeyPackageSpec::default()),
        KeyPackageCheck::OverCap,
    )
    .await;
    let status: PoolStatus = alice.http.get("/v1/key-packages/status").await.ok();
    assert_eq!(status.suites[0].available, 64);
}

#[tokio::test]
async fn the_same_bytes_again_report_the_state_and_revive_nothing() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let (mut group, gid) = alice.create_group().await;

    let minted: Vec<_> = (0..4).map(|_| bob.mint(KeyPackageSpec::default())).collect();
    let upload_again = async |at: usize, state: KeyPackageState| {
        let before = bob.inventory().await;
        let uploaded = bob.upload(std::slice::from_ref(&minted[at])).await;
        let result = &uploaded.results[0];
        assert_eq!(
            (result.outcome, result.state),
            (UploadOutcome::Present, Some(state))
        );
        assert_eq!(bob.inventory().await, before);
    };
    // spent
    bob.upload(&minted[..1]).await;
    upload_again(0, KeyPackageState::Available).await;
    bob_is_added(&alice, &bob, &mut group).await;
    upload_again(0, KeyPackageState::Spent).await;
    // reserved, then lapsed
    bob.upload(&minted[1..2]).await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    upload_again(1, KeyPackageState::Reserved).await;
    let abandon = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    alice.http.post(&abandon, &()).await.done();
    upload_again(1, KeyPackageState::Lapsed).await;
    // revoked
    let uploaded = bob.upload(&minted[2..3]).await;
    let revoke = RevokeRequest {
        refs: vec![uploaded.results[0].key_package_ref.clone().unwrap()],
    };
    bob.http
        .post("/v1/key-packages/revoke", &revoke)
        .await
        .ok::<Revoked>();
    upload_again(2, KeyPackageState::Revoked).await;
    // Nothing of it is ever handed out again.
    let reserved = alice.reserve(&[&bob], &gid).await;
    assert_eq!(reserved.reservation_id, None);
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Available), 0);
}

async fn bob_is_added(alice: &Device, bob: &Device, group: &mut openmls::prelude::MlsGroup) {
    let refs = alice.invite(group, &[bob]).await;
    assert_eq!(state_of(bob, &refs[0]).await, KeyPackageState::Spent);
}

#[tokio::test]
async fn an_unchanged_inventory_is_not_sent_again() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let empty = alice.inventory().await;
    assert!(empty.items.is_empty());
    alice.stock(2).await;
    let path = |inventory: &Inventory| format!("/v1/key-packages?digest={}", inventory.digest);
    let inventory: Inventory = alice.http.get(&path(&empty)).await.ok();
    assert_eq!(inventory.items.len(), 2);
    assert!(inventory.generation > empty.generation);
    assert_eq!(inventory.incarnation, empty.incarnation);
    let same = alice.http.get(&path(&inventory)).await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let revoke = format!("/v1/key-packages/{}", inventory.items[0].key_package_ref);
    Answer::to(alice.http.request(Method::DELETE, &revoke))
        .await
        .ok::<Revoked>();
    let changed: Inventory = alice.http.get(&path(&inventory)).await.ok();
    assert_ne!(changed.digest, inventory.digest);
}

/// R-D8.
#[tokio::test]
async fn an_owner_revokes_what_is_its_own_and_nothing_else() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let (of_alice, of_bob) = (alice.stock(3).await, bob.stock(1).await);
    let bobs = bob.inventory().await;
    let unknown = larder_wire::KeyPackageRef::from_bytes(&[9; 32]).unwrap();
    let refs = vec![
        of_alice[0].clone(),
        of_bob[0].clone(),
        unknown,
        of_alice[0].clone(),
    ];
    let revoked: Revoked = alice
        .http
        .post("/v1/key-packages/revoke", &RevokeRequest { refs })
        .await
        .ok();
    assert!(revoked.refs.iter().all(|revoked| *revoked == of_alice[0]));
    assert!(!revoked.refs.is_empty());
    assert_eq!(state_of(&alice, &of_alice[0]).await, KeyPackageState::Revoked);
    assert_eq!(bob.inventory().await, bobs);

    let path = format!("/v1/key-packages/{}", of_alice[1]);
    let revoked: Revoked = Answer::to(alice.http.request(Method::DELETE, &path)).await.ok();
    assert_eq!(revoked.refs, [of_alice[1].clone()]);
    let again: Revoked = Answer::to(alice.http.request(Method::DELETE, &path)).await.ok();
    assert_eq!(again, revoked, "revoking is idempotent");
    let path = format!("/v1/key-packages/{}", of_bob[0]);
    let nothing: Revoked = Answer::to(alice.http.request(Method::DELETE, &path)).await.ok();
    assert!(nothing.refs.is_empty());
    assert_eq!(bob.inventory().await, bobs);
    assert_eq!(count(&alice.inventory().await, KeyPackageState::Available), 1);
}

#[tokio::test]
async fn a_welcome_is_no_key_package() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mut group = alice.new_group();
    let own = alice.validate(&server.device("bob").await.mint(KeyPackageSpec::default()));
    let request = alice.stage_adds(&mut group, vec![own]);
    refused(&alice, request.welcome.unwrap().0, KeyPackageCheck::Malformed).await;
    refused(&alice, request.commit.0, KeyPackageCheck::Malformed).await;
    let message = alice.mint(KeyPackageSpec::default());
    let parsed = alice.validate(&message);
    assert_eq!(
        message_bytes(&parsed.into()),
        message,
        "the helper gives the bytes that were signed"
    );
}
