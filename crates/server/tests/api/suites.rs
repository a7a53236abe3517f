//! Deployments with other ciphersuites than the default one, and with several.

use larder_lifecycle::{ClockReading, UnixSeconds};
use larder_server::{Config, Service, UnusableSuites};
use larder_wire::{
    DeviceOutcome, GroupId, Health, InboxKind, PoolStatus, ReserveRequest, Reserved, ServerInfo,
    UploadOutcome,
};
use openmls::prelude::Ciphersuite;

use crate::support::{Device, KeyPackageSpec, TestServer, outcomes};

const CHACHA: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

fn of(device: &Device, suite: Ciphersuite, count: usize) -> Vec<Vec<u8>> {
    let spec = || KeyPackageSpec {
        suite: Some(suite),
        ..Default::default()
    };
    (0..count).map(|_| device.mint(spec())).collect()
}

async fn reserve(by: &Device, of: &Device, suites: &[u16]) -> Vec<DeviceOutcome> {
    let request = ReserveRequest {
        suites: suites.to_vec(),
        ..by.reserve_request(&[of], &GroupId::from_bytes(b"a group").unwrap())
    };
    let key = uuid::Uuid::new_v4().to_string();
    let reserved: Reserved = by
        .http
        .post_with_key("/v1/key-packages/reserve", &key, &request)
        .await
        .ok();
    outcomes(&reserved)
}

async fn low_notices(device: &Device) -> usize {
    let inbox = device.inbox().await;
    inbox
        .iter()
        .filter(|row| row.kind == InboxKind::KeyPackagesLow)
        .count()
}

#[tokio::test]
async fn a_deployment_says_in_which_order_clients_stock_its_suites() {
    let server = TestServer::start_with(|config| config.group_suites = vec![3, 1], true).await;
    let info: ServerInfo = server.http.get("/.well-known/larder").await.ok();
    assert_eq!((info.suites, info.group_suites), (vec![1, 3], vec![3, 1]));
}

#[tokio::test]
async fn a_server_does_not_start_with_a_suite_that_it_cannot_validate() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("server.db");
    let mut config = Config::new(database.clone());
    config.group_suites = vec![1, 0x7777];
    let clock = std::sync::Arc::new(|| ClockReading::steady(UnixSeconds(0)));
    let refused = Service::open(config, clock).await.err().unwrap();
    assert_eq!(
        refused.to_string(),
        UnusableSuites::Unsupported(0x7777).to_string()
    );
    assert!(!database.exists());
}

#[tokio::test]
async fn the_owner_is_told_when_the_suite_that_was_asked_for_runs_low_whatever_there_is_of_others() {
    let server = TestServer::start_with(|config| config.group_suites = vec![1, 3], true).await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    bob.stock(5).await;
    bob.upload(&of(&bob, CHACHA, 16)).await;

    // Two suites: half of the low watermark of 8 each.
    assert_eq!(reserve(&alice, &bob, &[1]).await, [DeviceOutcome::Ok]);
    assert_eq!(low_notices(&bob).await, 0);
    assert_eq!(reserve(&alice, &bob, &[3]).await, [DeviceOutcome::Ok]);
    assert_eq!(low_notices(&bob).await, 0);
    assert_eq!(reserve(&alice, &bob, &[1]).await, [DeviceOutcome::Ok]);
    assert_eq!(low_notices(&bob).await, 1);

    let status: PoolStatus = bob.http.get("/v1/key-packages/status").await.ok();
    let health: Vec<_> = status
        .suites
        .iter()
        .map(|suite| (suite.suite, suite.available, suite.health))
        .collect();
    assert_eq!(health, [(1, 3, Health::Low), (3, 15, Health::Good)]);
}

#[tokio::test]
async fn s7_the_hard_cap_is_for_all_suites_together() {
    let server = TestServer::start_with(|config| config.group_suites = vec![1, 3], true).await;
    let bob = server.device("bob").await;
    bob.stock(60).await;
    let uploaded = bob.upload(&of(&bob, CHACHA, 5)).await;
    let accepted = uploaded
        .results
        .iter()
        .filter(|result| result.outcome == UploadOutcome::Accepted);
    assert_eq!((accepted.count(), uploaded.available), (4, 64));
}

#[cfg(feature = "xwing")]
mod xwing {
    use larder_wire::{KEY_PACKAGE_BYTES_MAX, KeyPackageCheck, UPLOAD_KEY_PACKAGES_MAX};

    use super::*;

    const XWING: Ciphersuite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519;

    #[tokio::test]
    async fn a_whole_batch_of_x_wing_is_within_the_limits_and_incompatible_with_other_suites() {
        let server = TestServer::start_with(|config| config.group_suites = vec![0x004F], true).await;
        let (alice, bob) = (server.device("alice").await, server.device("bob").await);
        let batch = of(&bob, XWING, UPLOAD_KEY_PACKAGES_MAX);
        assert!(batch.iter().all(|bytes| bytes.len() < KEY_PACKAGE_BYTES_MAX / 2));
        let uploaded = bob.upload(&batch).await;
        assert_eq!(uploaded.available, 64);

        assert_eq!(reserve(&alice, &bob, &[1]).await, [DeviceOutcome::Incompatible]);
        assert_eq!(reserve(&alice, &bob, &[1, 0x004F]).await, [DeviceOutcome::Ok]);
    }

    #[tokio::test]
    async fn x_wing_is_refused_where_it_is_not_configured() {
        let server = TestServer::start().await;
        let bob = server.device("bob").await;
        let uploaded = bob.upload(&of(&bob, XWING, 1)).await;
        let problem = uploaded.results[0].problem.as_ref().unwrap();
        let check = KeyPackageCheck::UnsupportedSuite.code();
        assert_eq!(problem.check.as_deref(), Some(check));
    }
}
