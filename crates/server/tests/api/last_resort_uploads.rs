//! How a last resort enters the directory, and how it leaves it.

use larder_wire::{
    KeyPackageCheck, KeyPackageRef, KeyPackageState, LastResortStatus, PoolStatus, UploadOutcome,
    UploadResult,
};
use openmls::prelude::Ciphersuite;

use crate::support::{Device, KeyPackageSpec, TestServer, count, of_suite, state_of};

const DAY: i64 = 24 * 60 * 60;
const CHACHA: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// Uploads one KeyPackage, which must fail this check and leave nothing behind.
async fn refused(device: &Device, key_package: Vec<u8>, check: KeyPackageCheck) {
    let before = device.inventory().await;
    let uploaded = device.upload(&[key_package]).await;
    let result: &UploadResult = &uploaded.results[0];
    assert_eq!(result.outcome, UploadOutcome::Rejected, "{check}");
    let problem = result.problem.as_ref().unwrap();
    assert_eq!(problem.check.as_deref(), Some(check.code()));
    assert_eq!(device.inventory().await, before, "{check}");
}

/// Uploads one KeyPackage that is or was here: its state, and nothing changes.
async fn present(device: &Device, key_package: &[u8]) -> KeyPackageState {
    let before = device.inventory().await;
    let uploaded = device.upload(&[key_package.to_vec()]).await;
    let result = &uploaded.results[0];
    assert_eq!(result.outcome, UploadOutcome::Present, "{:?}", result.problem);
    assert_eq!(device.inventory().await, before);
    result.state.unwrap()
}

/// Uploads one last resort, which must be accepted.
async fn accepted(device: &Device, key_package: &[u8]) -> KeyPackageRef {
    let uploaded = device.upload(&[key_package.to_vec()]).await;
    let result = &uploaded.results[0];
    assert_eq!(result.outcome, UploadOutcome::Accepted, "{:?}", result.problem);
    result.key_package_ref.clone().unwrap()
}

async fn status(device: &Device) -> PoolStatus {
    device.http.get("/v1/key-packages/status").await.ok()
}

#[tokio::test]
async fn a_last_resort_counts_neither_as_available_nor_against_the_hard_cap() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    bob.stock(64).await;
    assert_eq!(
        status(&bob).await.suites[0].last_resort,
        LastResortStatus::default()
    );
    let before = bob.inventory().await;
    let uploaded = bob.upload(&[bob.mint_last_resort()]).await;
    assert_eq!(uploaded.available, 64);
    let result = &uploaded.results[0];
    assert_eq!(
        (result.outcome, result.state),
        (UploadOutcome::Accepted, Some(KeyPackageState::Available))
    );

    let inventory = bob.inventory().await;
    assert_ne!(inventory.digest, before.digest);
    let (last_resorts, ordinary): (Vec<_>, Vec<_>) =
        inventory.items.iter().partition(|item| item.last_resort);
    assert_eq!((last_resorts.len(), ordinary.len()), (1, 64));
    assert_eq!(
        Some(&last_resorts[0].key_package_ref),
        result.key_package_ref.as_ref()
    );
    assert_eq!(
        (last_resorts[0].used, last_resorts[0].reserved_until),
        (Some(false), None)
    );
    assert!(ordinary.iter().all(|item| item.used.is_none()));

    let status = status(&bob).await;
    assert_eq!(status.suites.len(), 1);
    assert_eq!(status.suites[0].available, 64);
    assert_eq!(
        status.suites[0].last_resort,
        LastResortStatus {
            present: true,
            used: false
        }
    );
    refused(
        &bob,
        bob.mint(KeyPackageSpec::default()),
        KeyPackageCheck::OverCap,
    )
    .await;
}

#[tokio::test]
async fn a_last_resort_whose_leaf_does_not_announce_the_extension_is_refused() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let unannounced = bob.mint(KeyPackageSpec {
        last_resort: true,
        unannounced: true,
        ..Default::default()
    });
    refused(&bob, unannounced, KeyPackageCheck::UnsupportedExtension).await;
}

#[tokio::test]
async fn a_last_resort_is_held_to_the_same_lifetimes_credential_and_suites() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let last_resort = |spec: KeyPackageSpec| {
        bob.mint(KeyPackageSpec {
            last_resort: true,
            ..spec
        })
    };
    for (lifetime, check) in [
        ((-3600, 84 * DAY + 60), KeyPackageCheck::LifetimeTooLong),
        (
            (-3600, 31 * DAY + 2 * 3600 - 10),
            KeyPackageCheck::LifetimeTooShort,
        ),
        ((3600, 60 * DAY), KeyPackageCheck::NotYetValid),
    ] {
        let key_package = last_resort(KeyPackageSpec {
            lifetime: Some(lifetime),
            ..Default::default()
        });
        refused(&bob, key_package, check).await;
    }
    let of_another = last_resort(KeyPackageSpec {
        identity: Some(b"alice/alice-1".to_vec()),
        ..Default::default()
    });
    refused(&bob, of_another, KeyPackageCheck::WrongCredential).await;
    let other_suite = of_suite(last_resort(KeyPackageSpec::default()), 0x0002);
    refused(&bob, other_suite, KeyPackageCheck::UnsupportedSuite).await;
    bob.stock_last_resort().await;
}

#[tokio::test]
async fn a_newer_last_resort_makes_the_older_one_of_its_suite_retire() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let carol = server.device("carol").await;
    let of_carol = carol.stock_last_resort().await;
    let other_suite = bob.mint(KeyPackageSpec {
        last_resort: true,
        suite: Some(CHACHA),
        ..Default::default()
    });
    let other_suite = accepted(&bob, &other_suite).await;
    let last_upload = status(&bob).await.suites[0].last_upload.unwrap();
    assert!(last_upload.abs_diff(server.time()) <= 5);
    let (older_bytes, newer_bytes) = (bob.mint_last_resort(), bob.mint_last_resort());
    let older = accepted(&bob, &older_bytes).await;
    let newer = accepted(&bob, &newer_bytes).await;

    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Retiring);
    assert_eq!(state_of(&bob, &newer).await, KeyPackageState::Available);
    assert_eq!(state_of(&bob, &other_suite).await, KeyPackageState::Available);
    assert_eq!(state_of(&carol, &of_carol).await, KeyPackageState::Available);
    // The older one again is a retry of an upload whose answer was lost. It does not come back.
    assert_eq!(present(&bob, &older_bytes).await, KeyPackageState::Retiring);
    assert_eq!(present(&bob, &newer_bytes).await, KeyPackageState::Available);
    // Two in one upload: the second is the newer.
    let both = [bob.mint_last_resort(), bob.mint_last_resort()];
    let uploaded = bob.upload(&both).await;
    assert_eq!(
        present(&bob, &both[0]).await,
        KeyPackageState::Retiring,
        "{uploaded:?}"
    );
    assert_eq!(present(&bob, &both[1]).await, KeyPackageState::Available);
    assert_eq!(state_of(&bob, &newer).await, KeyPackageState::Retiring);
    assert_eq!(
        count(&bob.inventory().await, KeyPackageState::Available),
        2,
        "one per suite"
    );
}

#[tokio::test]
async fn a_retiring_last_resort_is_gone_a_day_later_and_not_before() {
    let server = TestServer::unswept().await;
    let mut bob = server.device("bob").await;
    let older = bob.stock_last_resort().await;
    let newer = bob.stock_last_resort().await;
    server.pass(DAY as u64 - 60);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Retiring);
    let before = bob.inventory().await;
    server.pass(120);
    server.sweep().await;
    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Gone);
    assert_eq!(state_of(&bob, &newer).await, KeyPackageState::Available);
    assert_ne!(bob.inventory().await.digest, before.digest);
}

#[tokio::test]
async fn a_device_has_at_most_a_handful_of_live_last_resorts_of_a_suite() {
    let server = TestServer::unswept().await;
    let mut bob = server.device("bob").await;
    for _ in 0..8 {
        bob.stock_last_resort().await;
    }
    let one_more = bob.mint_last_resort();
    refused(&bob, one_more.clone(), KeyPackageCheck::OverCap).await;
    let inventory = bob.inventory().await;
    assert_eq!(
        (
            count(&inventory, KeyPackageState::Available),
            count(&inventory, KeyPackageState::Retiring)
        ),
        (1, 7)
    );
    // Another suite and ordinary KeyPackages have room of their own.
    let other_suite = bob.mint(KeyPackageSpec {
        last_resort: true,
        suite: Some(CHACHA),
        ..Default::default()
    });
    accepted(&bob, &other_suite).await;
    bob.stock(1).await;
    server.pass(DAY as u64 + 1);
    server.sweep().await;
    bob.open_session().await;
    accepted(&bob, &one_more).await;
}

#[tokio::test]
async fn a_last_resort_that_is_gone_is_never_uploaded_again() {
    let server = TestServer::unswept().await;
    let mut bob = server.device("bob").await;
    let minted: Vec<_> = (0..3).map(|_| bob.mint_last_resort()).collect();
    // The first is replaced, the second withdrawn while it is active.
    accepted(&bob, &minted[0]).await;
    let second = accepted(&bob, &minted[1]).await;
    server.pass(DAY as u64 + 1);
    server.sweep().await;
    bob.open_session().await;
    bob.revoke(&[second]).await;
    assert_eq!(present(&bob, &minted[0]).await, KeyPackageState::Gone);
    assert_eq!(present(&bob, &minted[1]).await, KeyPackageState::Revoked);
    // The third lives to its end.
    accepted(&bob, &minted[2]).await;
    server.pass(53 * DAY as u64 + 3600);
    bob.open_session().await;
    assert!(
        !status(&bob).await.suites[0].last_resort.present,
        "nothing is served with less life left than an inbox is kept"
    );
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Available), 1);
    server.pass(30 * DAY as u64);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Expired), 1);

    // The tombstones stand for thirty days; by then their lifetime speaks against them anyway.
    server.pass(29 * DAY as u64);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(bob.inventory().await.items.len(), 3);
    server.pass(2 * DAY as u64);
    server.sweep().await;
    bob.open_session().await;
    assert!(bob.inventory().await.items.is_empty());
    for key_package in minted {
        refused(&bob, key_package, KeyPackageCheck::LifetimeTooShort).await;
    }
}

#[tokio::test]
async fn an_init_key_belongs_to_one_key_package_of_either_kind() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let ordinary = bob.mint(KeyPackageSpec::default());
    let last_resort = bob.mint_last_resort();
    let twin_of_ordinary = bob.with_init_key_of(&bob.mint_last_resort(), &ordinary);
    let twin_of_last_resort = bob.with_init_key_of(&bob.mint(KeyPackageSpec::default()), &last_resort);
    let second_last_resort = bob.with_init_key_of(&bob.mint_last_resort(), &last_resort);
    let uploaded = bob.upload(&[ordinary, last_resort]).await;
    let refs: Vec<_> = uploaded
        .results
        .iter()
        .map(|result| result.key_package_ref.clone().unwrap())
        .collect();
    let twins = [twin_of_ordinary, twin_of_last_resort, second_last_resort];
    for twin in &twins {
        refused(&bob, twin.clone(), KeyPackageCheck::DuplicateInitKey).await;
    }
    // Not even when the first are tombstones.
    assert_eq!(bob.revoke(&refs).await.refs, refs);
    for twin in twins {
        refused(&bob, twin, KeyPackageCheck::DuplicateInitKey).await;
    }
}

#[tokio::test]
async fn an_owner_withdraws_its_last_resort_and_nobody_elses() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let carol = server.device("carol").await;
    let of_bob = bob.stock_last_resort().await;
    let of_carol = carol.stock_last_resort().await;
    let carols = carol.inventory().await;
    let both = [of_bob.clone(), of_carol];
    assert_eq!(bob.revoke(&both).await.refs, std::slice::from_ref(&of_bob));
    assert_eq!(state_of(&bob, &of_bob).await, KeyPackageState::Revoked);
    assert_eq!(carol.inventory().await, carols);
    let after = bob.inventory().await;
    assert_eq!(
        bob.revoke(&both).await.refs,
        std::slice::from_ref(&of_bob),
        "withdrawing is idempotent"
    );
    assert_eq!(bob.inventory().await, after);
    // A retiring one can be withdrawn too, before its day is over.
    let retiring = bob.stock_last_resort().await;
    let active = bob.stock_last_resort().await;
    bob.revoke(std::slice::from_ref(&retiring)).await;
    assert_eq!(state_of(&bob, &retiring).await, KeyPackageState::Revoked);
    assert_eq!(state_of(&bob, &active).await, KeyPackageState::Available);
}
