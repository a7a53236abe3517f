//! What a ciphersuite costs: the bytes of its KeyPackages, Welcomes and Commits, and the time to mint and to join.
//!
//! With the feature `xwing` the post-quantum hybrid is measured beside the others, in the same run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark that fails may panic, and sizes are told on stdout"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use larder_lifecycle::{PoolPolicy, UnixSeconds};
use larder_pool::openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use larder_pool::openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, MlsGroup, MlsGroupCreateConfig,
    MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProtocolVersion,
};
use larder_pool::{Ed25519Signer, JoinError, KeyPackagePool, LocalStore, PoolError, StoreError, Upload};
use openmls_basic_credential::SignatureKeyPair;
use tempfile::TempDir;

const SUITES: &[(&str, Ciphersuite)] = &[
    (
        "x25519-aes128gcm",
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    ),
    (
        "x25519-chacha20poly1305",
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    ),
    #[cfg(feature = "xwing")]
    (
        "xwing-aes128gcm",
        Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    ),
];

/// As many as one reservation brings.
const ADDS_MAX: u32 = 64;
/// A whole pool, in one transaction.
const BATCH: u32 = 32;

/// OpenMLS reads the system clock when it validates what is added.
#[expect(
    clippy::disallowed_methods,
    reason = "OpenMLS compares KeyPackages with the system clock"
)]
fn today() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

struct Device {
    _directory: TempDir,
    store: LocalStore,
    signer: Ed25519Signer,
    credential: CredentialWithKey,
    pool: KeyPackagePool,
    suite: Ciphersuite,
}

impl Device {
    fn new(name: &str, suite: Ciphersuite) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
            signature_key: keys.public().into(),
        };
        Self {
            store: LocalStore::open(&directory.path().join("device.sqlite")).unwrap(),
            _directory: directory,
            signer: Ed25519Signer::new(&keys).unwrap(),
            pool: KeyPackagePool::for_identity(PoolPolicy::default(), suite, &credential),
            credential,
            suite,
        }
    }

    fn mint(&mut self, count: u32) -> Vec<Upload> {
        let (pool, signer) = (&self.pool, &self.signer);
        self.store
            .transaction(|tx| {
                pool.mint(tx, signer, count, today())?;
                pool.begin_upload(tx, usize::MAX, today())
            })
            .unwrap()
    }

    /// Creates a group and adds these: Commit, Welcome and ratchet tree.
    fn invite(&mut self, uploads: &[Upload]) -> [Vec<u8>; 3] {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(self.suite)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .build();
        let (signer, credential) = (&self.signer, self.credential.clone());
        self.store
            .transaction(|tx| -> Result<_, StoreError> {
                let provider = tx.provider();
                let key_packages: Vec<KeyPackage> = uploads
                    .iter()
                    .map(|upload| {
                        let message = MlsMessageIn::tls_deserialize_exact(&upload.key_package).unwrap();
                        let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
                            panic!("not a KeyPackage");
                        };
                        key_package
                            .validate(provider.crypto(), ProtocolVersion::Mls10)
                            .unwrap()
                    })
                    .collect();
                let mut group = MlsGroup::new(&provider, signer, &config, credential).unwrap();
                let (commit, welcome, _) = group.add_members(&provider, signer, &key_packages).unwrap();
                group.merge_pending_commit(&provider).unwrap();
                let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
                Ok([commit.to_bytes().unwrap(), welcome.to_bytes().unwrap(), tree])
            })
            .unwrap()
    }
}

fn sizes() {
    for (name, suite) in SUITES {
        let mut bob = Device::new("bob/phone", *suite);
        let upload = bob.mint(1).remove(0);
        let sql = "SELECT length(key_package) FROM openmls_key_packages";
        let connection = bob.store.connection_mut();
        let bundle: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        println!(
            "{name}: KeyPackage {} bytes, stored with its private keys {bundle}",
            upload.key_package.len()
        );
        for adds in [1, ADDS_MAX] {
            let uploads: Vec<Upload> = (0..adds)
                .map(|number| {
                    Device::new(&format!("user-{number}/phone"), *suite)
                        .mint(1)
                        .remove(0)
                })
                .collect();
            let messages = Device::new("alice/phone", *suite).invite(&uploads);
            let [commit, welcome, tree] = messages.map(|bytes| bytes.len());
            println!("{name}: adding {adds}: Commit {commit} bytes, Welcome {welcome}, ratchet tree {tree}");
        }
    }
}

fn mint(c: &mut Criterion) {
    sizes();
    let mut group = c.benchmark_group("mint 32, durable");
    group.throughput(Throughput::Elements(BATCH.into()));
    group.sample_size(20);
    for (name, suite) in SUITES {
        group.bench_function(*name, |b| {
            b.iter_batched(
                || Device::new("alice/phone", *suite),
                |mut device| {
                    let (pool, signer) = (&device.pool, &device.signer);
                    device
                        .store
                        .transaction(|tx| pool.mint(tx, signer, BATCH, today()))
                        .unwrap();
                    device
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn join(c: &mut Criterion) {
    // Rolled back each time: the KeyPackage is there again for the next.
    let mut group = c.benchmark_group("join a group of two, rolled back");
    for (name, suite) in SUITES {
        let mut bob = Device::new("bob/phone", *suite);
        let uploads = bob.mint(1);
        let [_, welcome, tree] = Device::new("alice/phone", *suite).invite(&uploads);
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .build();
        let Device { store, pool, .. } = &mut bob;
        group.bench_function(*name, |b| {
            b.iter(|| {
                let undone = store.transaction(|tx| -> Result<(), JoinError> {
                    pool.join(tx, &welcome, Some(&tree), &config, today())?;
                    Err(PoolError::Randomness.into())
                });
                assert!(matches!(undone, Err(JoinError::Pool(PoolError::Randomness))));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, mint, join);
criterion_main!(benches);
