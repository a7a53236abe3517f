//! What minting costs, with the signer that derives its key at every signature and with the one that keeps it expanded.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark that fails may panic"
)]

use std::hint::black_box;
#[cfg(feature = "sqlcipher")]
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use larder_lifecycle::{PoolPolicy, UnixSeconds};
use larder_pool::openmls::prelude::{BasicCredential, Ciphersuite, CredentialWithKey};
#[cfg(feature = "sqlcipher")]
use larder_pool::zeroize::Zeroizing;
use larder_pool::{Ed25519Signer, KeyPackagePool, LocalStore, PoolError, Tx};
#[cfg(feature = "sqlcipher")]
use larder_pool::{RAW_KEY_BYTES, StoreKey};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
/// A whole pool, in one transaction.
const BATCH: u32 = 32;

fn mint(c: &mut Criterion) {
    let keys = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
    let expanded = Ed25519Signer::new(&keys).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(b"alice/phone".to_vec()).into(),
        signature_key: keys.public().into(),
    };
    let pool = KeyPackagePool::for_identity(PoolPolicy::default(), SUITE, &credential);
    let directory = tempfile::tempdir().unwrap();
    let mut store = LocalStore::open(&directory.path().join("device.sqlite")).unwrap();

    // Rolled back each time: the pool stays empty, and no fsync hides what the signer costs.
    let mut rolled_back = |mint: &dyn Fn(&Tx<'_>) -> Result<(), PoolError>| {
        let undone = store.transaction(|tx| {
            mint(tx)?;
            Err::<(), _>(PoolError::Randomness)
        });
        assert!(matches!(undone, Err(PoolError::Randomness)));
    };
    let mut group = c.benchmark_group("mint 32, rolled back");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("SignatureKeyPair", |b| {
        b.iter(|| rolled_back(&|tx| pool.mint(tx, &keys, BATCH, NOW).map(drop)));
    });
    group.bench_function("Ed25519Signer", |b| {
        b.iter(|| rolled_back(&|tx| pool.mint(tx, &expanded, BATCH, NOW).map(drop)));
    });
    group.finish();

    let mut group = c.benchmark_group("mint 32, durable");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.sample_size(20);
    for (name, signer) in [("SignatureKeyPair", None), ("Ed25519Signer", Some(&expanded))] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let directory = tempfile::tempdir().unwrap();
                    let store = LocalStore::open(&directory.path().join("device.sqlite")).unwrap();
                    (directory, store)
                },
                |(directory, mut store)| {
                    store
                        .transaction(|tx| match signer {
                            Some(signer) => pool.mint(tx, signer, BATCH, NOW),
                            None => pool.mint(tx, &keys, BATCH, NOW),
                        })
                        .unwrap();
                    (directory, store)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();

    let payload = [7; 300];
    let mut group = c.benchmark_group("sign");
    group.bench_function("SignatureKeyPair", |b| b.iter(|| keys.sign(black_box(&payload))));
    group.bench_function("Ed25519Signer", |b| b.iter(|| expanded.sign(black_box(&payload))));
    group.finish();
}

/// What encryption costs: the same work on a plain store and on encrypted ones, side by side.
#[cfg(feature = "sqlcipher")]
fn encryption(c: &mut Criterion) {
    let passphrase = StoreKey::passphrase(Zeroizing::new("open sesame".to_owned())).unwrap();
    let raw = StoreKey::raw(Zeroizing::new([7; RAW_KEY_BYTES]));
    let stores = [
        ("plain", None),
        ("raw key", Some(&raw)),
        ("passphrase", Some(&passphrase)),
    ];
    let open = |path: &Path, key: Option<&StoreKey>| match key {
        Some(key) => LocalStore::open_encrypted(path, key).unwrap(),
        None => LocalStore::open(path).unwrap(),
    };
    let keys = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
    let signer = Ed25519Signer::new(&keys).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(b"alice/phone".to_vec()).into(),
        signature_key: keys.public().into(),
    };
    let pool = KeyPackagePool::for_identity(PoolPolicy::default(), SUITE, &credential);

    let mut group = c.benchmark_group("open a store of 32");
    group.sample_size(20);
    for (name, key) in stores {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("device.sqlite");
        open(&path, key)
            .transaction(|tx| pool.mint(tx, &signer, BATCH, NOW))
            .unwrap();
        group.bench_function(name, |b| b.iter(|| open(&path, key)));
        let bytes = std::fs::metadata(&path).unwrap().len();
        println!("{name}: {bytes} bytes");
    }
    group.finish();

    let mut group = c.benchmark_group("mint 32, durable, by encryption");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.sample_size(30);
    for (name, key) in &stores[..2] {
        group.bench_function(*name, |b| {
            b.iter_batched(
                || {
                    let directory = tempfile::tempdir().unwrap();
                    let store = open(&directory.path().join("device.sqlite"), *key);
                    (directory, store)
                },
                |(directory, mut store)| {
                    store
                        .transaction(|tx| pool.mint(tx, &signer, BATCH, NOW))
                        .unwrap();
                    (directory, store)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

#[cfg(feature = "sqlcipher")]
criterion_group!(benches, mint, encryption);
#[cfg(not(feature = "sqlcipher"))]
criterion_group!(benches, mint);
criterion_main!(benches);
