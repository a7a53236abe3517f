//! What a refresh costs the disk, counted by the calls that the process makes (`strace`), not by a clock.
//!
//! This is its own program, without a test harness: it starts itself under `strace` once without and once with the refresh.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::Path;
use std::process::Command;

use larder_lifecycle::{PoolPolicy, UnixSeconds};
use larder_pool::openmls::prelude::{BasicCredential, Ciphersuite, CredentialWithKey};
use larder_pool::{KeyPackagePool, LocalStore, PoolError};
use openmls_basic_credential::SignatureKeyPair;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// Mints one KeyPackage; then, if asked to, the 31 that are missing and a last resort, and notes the attempt to upload them.
fn work(file: &Path, refresh: bool) {
    let mut store = LocalStore::open(file).unwrap();
    let signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(b"alice/phone".to_vec()).into(),
        signature_key: signer.public().into(),
    };
    let pool = KeyPackagePool::for_identity(PoolPolicy::default(), SUITE, &credential);
    store
        .transaction(|tx| pool.mint(tx, &signer, 1, NOW).map(drop))
        .unwrap();
    if refresh {
        let uploads = store
            .transaction(|tx| -> Result<_, PoolError> {
                pool.sweep(tx, NOW)?;
                let missing = pool.how_many(tx, NOW)?;
                pool.mint(tx, &signer, missing, NOW)?;
                pool.mint_last_resort(tx, &signer, NOW)?;
                pool.begin_upload(tx, 64, NOW)
            })
            .unwrap();
        assert_eq!(uploads.len(), 33);
    }
}

/// How often a process that does this work has the disk flushed.
fn flushes(refresh: bool) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("calls");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .arg(directory.path().join("device.sqlite"))
        .arg(refresh.to_string())
        .status()
        .expect("strace is needed: install the package `strace`");
    assert!(status.success());
    let calls = std::fs::read_to_string(&log).unwrap();
    calls.lines().filter(|line| line.contains("sync")).count()
}

#[expect(clippy::print_stdout, reason = "it reports as a test harness does")]
fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [file, refresh] = &arguments[..]
        && let Ok(refresh) = refresh.parse()
    {
        return work(Path::new(file), refresh);
    }
    let (without, with) = (flushes(false), flushes(true));
    assert!(without > 0, "a commit is a flush of the disk");
    assert_eq!(with - without, 1, "a refresh that mints 31 and a last resort");
    println!("test a_refresh_that_fills_the_pool_flushes_the_disk_once ... ok");
    println!("\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
