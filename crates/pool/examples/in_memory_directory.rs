//! Two devices and a directory in memory: the whole life of a KeyPackage, from the stock to the spent one.
//!
//! The pool carries no network. It hands a batch to its caller and takes the answer back, so any transport fits; here
//! it is a struct with two maps.
//!
//! ```sh
//! cargo run -p larder-pool --example in_memory_directory
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use larder_lifecycle::{DirectoryEvent, DirectoryState, Kind, Listed, PoolPolicy, UnixSeconds};
use larder_pool::openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use larder_pool::openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, MlsGroup, MlsGroupCreateConfig,
    MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProtocolVersion,
};
use larder_pool::{
    DirectoryRow, Held, JoinError, KeyPackagePool, KeyPackageRef, LocalStore, PoolError, Upload, Verdict,
};
use openmls_basic_credential::SignatureKeyPair;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const RESERVATION_SECONDS: u64 = 3600;

/// One device: a file, a signature key, a pool.
struct Device {
    store: LocalStore,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
    pool: KeyPackagePool,
}

impl Device {
    fn new(directory: &Path, name: &str) -> Result<Self, Box<dyn Error>> {
        let signer = SignatureKeyPair::new(SUITE.signature_algorithm())?;
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
            signature_key: signer.public().into(),
        };
        Ok(Self {
            store: LocalStore::open(&directory.join(format!("{name}.sqlite")))?,
            pool: KeyPackagePool::for_identity(PoolPolicy::default(), SUITE, &credential),
            signer,
            credential,
        })
    }

    /// What an application does at start, after every Welcome and once an hour.
    fn refresh(&mut self, directory: &mut Directory, now: UnixSeconds) -> Result<(), Box<dyn Error>> {
        let inventory = directory.inventory();
        let Self {
            store, pool, signer, ..
        } = self;
        // First agree with the directory, then fill up: one transaction, one fsync.
        let uploads = store.transaction(|tx| {
            pool.sweep(tx, now)?;
            pool.reconcile(tx, &inventory, now)?;
            pool.mint(tx, signer, pool.how_many(tx, now)?, now)?;
            pool.begin_upload(tx, 64, now)
        })?;
        // Only now does anything leave the device. If this answer were lost, the next refresh would send the same bytes.
        let verdicts = directory.upload(uploads);
        store.transaction(|tx| pool.confirm(tx, &verdicts, now))?;
        Ok(())
    }

    fn show(&mut self, who: &str, now: UnixSeconds) -> Result<(), Box<dyn Error>> {
        let pool = &self.pool;
        let health = self.store.transaction(|tx| pool.health(tx, now))?;
        let audit = self.store.audit()?;
        println!(
            "{who}: {} available, {} reserved, {} spent; {} private keys for {} live rows",
            health.available, health.reserved, health.spent, audit.bundles, audit.live
        );
        Ok(())
    }
}

/// Devices and groups go by their names here.
type Entry = Listed<&'static str, &'static str>;

/// Stands for the server: what the pure transition function allows, and nothing else.
#[derive(Default)]
struct Directory {
    listed: BTreeMap<KeyPackageRef, Entry>,
    bytes: BTreeMap<KeyPackageRef, Vec<u8>>,
}

impl Directory {
    fn upload(&mut self, uploads: Vec<Upload>) -> Vec<(KeyPackageRef, Verdict)> {
        let mut verdicts = Vec::new();
        for Upload {
            key_package_ref,
            key_package,
            kind,
        } in uploads
        {
            let entry = self
                .listed
                .entry(key_package_ref.clone())
                .or_insert_with(|| Listed::uploaded(kind));
            let verdict = held(entry).map_or(Verdict::Rejected, Verdict::Held);
            self.bytes.insert(key_package_ref.clone(), key_package);
            verdicts.push((key_package_ref, verdict));
        }
        verdicts
    }

    fn inventory(&self) -> Vec<DirectoryRow> {
        let row = |(key_package_ref, entry): (&KeyPackageRef, &Entry)| {
            Some(DirectoryRow {
                key_package_ref: key_package_ref.clone(),
                held: held(entry)?,
                reserved_until: entry.reservation.as_ref().map(|reservation| reservation.until),
            })
        };
        self.listed.iter().filter_map(row).collect()
    }

    /// Moves one KeyPackage to its next state and hands out its bytes.
    fn apply(
        &mut self,
        key_package_ref: &KeyPackageRef,
        event: DirectoryEvent<&'static str, &'static str>,
    ) -> Result<Vec<u8>, String> {
        let entry = self.listed.get_mut(key_package_ref).ok_or("unknown")?;
        *entry = entry
            .apply(event)
            .map_err(|refusal| format!("refused: {refusal:?}"))?;
        Ok(self.bytes[key_package_ref].clone())
    }

    fn any_available(&self) -> Option<KeyPackageRef> {
        self.listed
            .iter()
            .find(|(_, entry)| entry.kind == Kind::SingleUse && entry.state == DirectoryState::Available)
            .map(|(key_package_ref, _)| key_package_ref.clone())
    }
}

/// What an upload's answer and the inventory tell of a KeyPackage.
fn held(entry: &Entry) -> Option<Held> {
    Held::new(entry.kind, entry.state.status(), entry.used)
}

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let now = now();
    let mut directory = Directory::default();
    let (mut alice, mut bob) = (
        Device::new(home.path(), "alice")?,
        Device::new(home.path(), "bob")?,
    );
    bob.refresh(&mut directory, now)?;
    bob.show("bob, full", now)?;

    // Alice takes one of bob's KeyPackages: it is hers alone, and for this group alone.
    let taken = directory.any_available().ok_or("bob's pool is empty")?;
    let reserve = DirectoryEvent::Reserve {
        by: "alice",
        group: "lunch",
        until: now.plus(RESERVATION_SECONDS),
    };
    let bytes = directory.apply(&taken, reserve.clone())?;
    assert!(directory.apply(&taken, reserve).is_err(), "nobody else gets it");

    // Hostile until it is checked: parse, validate, compare the reference.
    let (welcome, ratchet_tree) = add(&mut alice, &bytes, &taken)?;
    directory.apply(
        &taken,
        DirectoryEvent::Commit {
            by: "alice",
            group: "lunch",
        },
    )?;

    // A corrupted Welcome burns nothing: the join is undone whole.
    let mut corrupted = welcome.clone();
    if let Some(last) = corrupted.last_mut() {
        *last ^= 1;
    }
    if let Err(error) = join(&mut bob, &corrupted, &ratchet_tree, now) {
        println!("a corrupted Welcome: {error}");
    }
    let joined = join(&mut bob, &welcome, &ratchet_tree, now)?;
    println!("bob joined a group of {}", joined.members().count());
    if let Err(error) = join(&mut bob, &welcome, &ratchet_tree, now) {
        println!("the same Welcome again: {error}");
    }
    bob.show("bob, after joining", now)?;
    bob.refresh(&mut directory, now)?;
    bob.show("bob, refreshed", now)?;
    Ok(())
}

/// Group state, spent KeyPackage and erased private key: one transaction, together with whatever rows the application
/// adds to it.
fn join(
    bob: &mut Device,
    welcome: &[u8],
    ratchet_tree: &[u8],
    now: UnixSeconds,
) -> Result<MlsGroup, JoinError> {
    let Device { store, pool, .. } = bob;
    let config = MlsGroupJoinConfig::default();
    store.transaction(|tx| Ok(pool.join(tx, welcome, Some(ratchet_tree), &config, now)?.group))
}

/// Alice creates a group with the owner of this KeyPackage in it.
fn add(
    alice: &mut Device,
    bytes: &[u8],
    expected: &KeyPackageRef,
) -> Result<(Vec<u8>, Vec<u8>), Box<dyn Error>> {
    let Device {
        store,
        signer,
        credential,
        ..
    } = alice;
    let sent = store.transaction(|tx| -> Result<_, PoolError> {
        let provider = tx.provider();
        let added = || -> Result<_, Box<dyn Error>> {
            let MlsMessageBodyIn::KeyPackage(package) = MlsMessageIn::tls_deserialize_exact(bytes)?.extract()
            else {
                return Err("not a KeyPackage".into());
            };
            let package: KeyPackage = package.validate(provider.crypto(), ProtocolVersion::Mls10)?;
            if package.hash_ref(provider.crypto())? != *expected {
                return Err("not the KeyPackage that was reserved".into());
            }
            let config = MlsGroupCreateConfig::builder().ciphersuite(SUITE).build();
            let mut group = MlsGroup::new(&provider, signer, &config, credential.clone())?;
            let (_, welcome, _) = group.add_members(&provider, signer, &[package])?;
            group.merge_pending_commit(&provider)?;
            let tree = group.export_ratchet_tree().tls_serialize_detached()?;
            Ok((welcome.to_bytes()?, tree))
        };
        Ok(added().map_err(|error| error.to_string()))
    })?;
    Ok(sent?)
}

/// Applications pass the time in; only their outermost edge reads a clock.
#[allow(clippy::disallowed_methods, reason = "the outermost edge of this program")]
fn now() -> UnixSeconds {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixSeconds(since_epoch.map_or(0, |elapsed| elapsed.as_secs()))
}

#[cfg(test)]
#[test]
fn the_program_does_what_it_says() {
    main().expect("every step is checked on its way");
}
