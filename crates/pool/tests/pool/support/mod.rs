//! Devices with real databases, and what the tests look at in them.
#![allow(unreachable_pub, reason = "test binaries have no public interface")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_lifecycle::{DirectoryStatus, Kind, PoolPolicy, UnixSeconds};
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, GroupId, KeyPackage, KeyPackageBundle, KeyPackageIn,
    Lifetime, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    MlsMessageOut, OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProtocolVersion,
    tls_codec::Deserialize as _,
};
use larder_pool::rusqlite::Connection;
use larder_pool::rusqlite::types::Value;
use larder_pool::{
    Held, JoinError, Joined, KeyPackagePool, KeyPackageRef, LocalStore, PoolError, PoolHealth, StoreError,
    StoreKey, Swept, Tx, Upload, Verdict,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::storage::StorageProvider as _;
use tempfile::TempDir;

pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
pub const DAY: u64 = 86_400;
/// The directory's answer to the first upload of a last resort.
pub const ACTIVE: Verdict = Verdict::Held(Held::available(Kind::LastResort));
/// The directory's word on a last resort that it has handed out.
pub const HANDED_OUT: Held = held(Kind::LastResort, DirectoryStatus::Available, true);
/// The same as an answer to an upload.
pub const USED: Verdict = Verdict::Held(HANDED_OUT);

const fn held(kind: Kind, status: DirectoryStatus, used: bool) -> Held {
    match Held::new(kind, status, used) {
        Some(held) => held,
        None => panic!("no KeyPackage of this kind is in this state"),
    }
}

pub const fn single_use(status: DirectoryStatus) -> Held {
    held(Kind::SingleUse, status, false)
}

/// A last resort that was never handed out.
pub const fn last_resort(status: DirectoryStatus) -> Held {
    held(Kind::LastResort, status, false)
}

/// OpenMLS reads the system clock when it validates a KeyPackage that is added, so the tests live today.
#[expect(
    clippy::disallowed_methods,
    reason = "OpenMLS compares KeyPackages with the system clock"
)]
pub fn today() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

pub fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .build()
}

fn create_config(lifetime: Option<Lifetime>) -> MlsGroupCreateConfig {
    let builder = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false);
    match lifetime {
        Some(lifetime) => builder.lifetime(lifetime).build(),
        None => builder.build(),
    }
}

/// A device: a file, a signature key, a pool.
pub struct Device {
    pub directory: TempDir,
    pub store: LocalStore,
    pub signer: SignatureKeyPair,
    pub credential: CredentialWithKey,
    pub policy: PoolPolicy,
    pub pool: KeyPackagePool,
    pub now: UnixSeconds,
}

/// What an adder sends to the device that it added.
#[derive(Clone)]
pub struct Invitation {
    pub group_id: GroupId,
    pub welcome: Vec<u8>,
    pub ratchet_tree: Vec<u8>,
}

impl Device {
    pub fn new(name: &str) -> Self {
        Self::with_policy(name, PoolPolicy::default())
    }

    pub fn with_policy(name: &str, policy: PoolPolicy) -> Self {
        Self::opened(name, policy, |path| LocalStore::open(path).unwrap())
    }

    /// A device whose store is encrypted.
    pub fn encrypted(name: &str, key: &StoreKey) -> Self {
        Self::opened(name, PoolPolicy::default(), |path| {
            LocalStore::open_encrypted(path, key).unwrap()
        })
    }

    fn opened(name: &str, policy: PoolPolicy, open: impl FnOnce(&Path) -> LocalStore) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("device.sqlite"));
        let signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
            signature_key: signer.public().into(),
        };
        Self {
            directory,
            store,
            policy,
            pool: KeyPackagePool::for_identity(policy, SUITE, &credential),
            signer,
            credential,
            now: today(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("device.sqlite")
    }

    /// Closes the store, and keeps its files.
    pub fn close(self) -> (TempDir, PathBuf) {
        let path = self.path();
        drop(self.store);
        (self.directory, path)
    }

    /// Closes the store, and goes on with what `open` makes of its file.
    pub fn reopened(&mut self, open: impl FnOnce(&Path) -> LocalStore) {
        let elsewhere = tempfile::tempdir().unwrap();
        self.store = LocalStore::open(&elsewhere.path().join("meanwhile.sqlite")).unwrap();
        self.store = open(&self.path());
    }

    pub fn in_tx<T>(
        &mut self,
        work: impl FnOnce(&Tx<'_>, &KeyPackagePool, UnixSeconds) -> Result<T, PoolError>,
    ) -> T {
        let (pool, now) = (&self.pool, self.now);
        self.store.transaction(|tx| work(tx, pool, now)).unwrap()
    }

    pub fn mint(&mut self, count: u32) -> Vec<KeyPackageRef> {
        self.try_mint(count).unwrap()
    }

    pub fn try_mint(&mut self, count: u32) -> Result<Vec<KeyPackageRef>, PoolError> {
        let Self {
            store,
            pool,
            signer,
            now,
            ..
        } = self;
        store.transaction(|tx| pool.mint(tx, signer, count, *now))
    }

    pub fn begin_upload(&mut self) -> Vec<Upload> {
        self.in_tx(|tx, pool, now| pool.begin_upload(tx, usize::MAX, now))
    }

    pub fn confirm(&mut self, key_package_ref: &KeyPackageRef, verdict: Verdict) {
        let verdicts = [(key_package_ref.clone(), verdict)];
        self.in_tx(|tx, pool, now| pool.confirm(tx, &verdicts, now));
    }

    /// Mints and uploads `count` KeyPackages, which the directory then holds.
    pub fn stock(&mut self, count: u32) -> Vec<Upload> {
        self.mint(count);
        let uploads = self.begin_upload();
        for upload in &uploads {
            self.confirm(
                &upload.key_package_ref,
                Verdict::Held(Held::available(Kind::SingleUse)),
            );
        }
        uploads
    }

    pub fn mint_last_resort(&mut self) -> KeyPackageRef {
        let Self {
            store,
            pool,
            signer,
            now,
            ..
        } = self;
        store
            .transaction(|tx| pool.mint_last_resort(tx, signer, *now))
            .unwrap()
    }

    /// Mints and uploads a last resort, which the directory then holds.
    pub fn stock_last_resort(&mut self) -> Upload {
        let key_package_ref = self.mint_last_resort();
        let upload = self
            .begin_upload()
            .into_iter()
            .find(|upload| upload.key_package_ref == key_package_ref)
            .unwrap();
        self.confirm(&key_package_ref, ACTIVE);
        upload
    }

    pub fn last_resort_due(&mut self) -> bool {
        self.in_tx(|tx, pool, now| pool.last_resort_due(tx, now))
    }

    pub fn sweep(&mut self) -> Swept {
        self.in_tx(|tx, pool, now| pool.sweep(tx, now))
    }

    pub fn outdated(&mut self) -> Vec<KeyPackageRef> {
        self.in_tx(|tx, pool, now| pool.outdated(tx, now))
    }

    /// Takes another signature key, under the same name.
    pub fn rotate(&mut self) {
        self.signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
        self.credential.signature_key = self.signer.public().into();
        self.pool = KeyPackagePool::for_identity(self.policy, SUITE, &self.credential);
    }

    pub fn health(&mut self) -> PoolHealth {
        self.in_tx(|tx, pool, now| pool.health(tx, now))
    }

    /// Creates a group, adds the owner of this KeyPackage and merges.
    pub fn invite(&mut self, upload: &Upload) -> Invitation {
        self.invite_with(upload, None)
    }

    /// Like `invite`, with the creator's own leaf never updated and of this lifetime.
    pub fn invite_with(&mut self, upload: &Upload, lifetime: Option<Lifetime>) -> Invitation {
        let Self {
            store,
            signer,
            credential,
            ..
        } = self;
        store
            .transaction(|tx| -> Result<_, StoreError> {
                let group = MlsGroup::new(
                    &tx.provider(),
                    signer,
                    &create_config(lifetime),
                    credential.clone(),
                );
                Ok(add(tx, group.unwrap(), signer, upload))
            })
            .unwrap()
    }

    /// Adds the owner of this KeyPackage to a group of ours.
    pub fn invite_to(&mut self, group_id: &GroupId, upload: &Upload) -> Invitation {
        let Self { store, signer, .. } = self;
        store
            .transaction(|tx| -> Result<_, StoreError> {
                let group = MlsGroup::load(tx.provider().storage(), group_id)
                    .unwrap()
                    .unwrap();
                Ok(add(tx, group, signer, upload))
            })
            .unwrap()
    }

    /// Removes everybody else from a group of ours and merges.
    pub fn remove_others(&mut self, group_id: &GroupId) {
        let Self { store, signer, .. } = self;
        store
            .transaction(|tx| -> Result<_, StoreError> {
                let provider = tx.provider();
                let mut group = MlsGroup::load(provider.storage(), group_id).unwrap().unwrap();
                let own = group.own_leaf_index();
                let others: Vec<_> = group.members().map(|m| m.index).filter(|at| *at != own).collect();
                group.remove_members(&provider, signer, &others).unwrap();
                group.merge_pending_commit(&provider).unwrap();
                Ok(())
            })
            .unwrap();
    }

    /// Forgets a group, as after being removed from it.
    pub fn forget_group(&mut self, group_id: &GroupId) {
        self.in_tx(|tx, _, _| {
            let mut group = MlsGroup::load(tx.provider().storage(), group_id)?.unwrap();
            Ok(group.delete(tx.provider().storage())?)
        });
    }

    pub fn join(&mut self, invitation: &Invitation) -> Result<Joined, JoinError> {
        self.join_bytes(&invitation.welcome, Some(&invitation.ratchet_tree))
    }

    pub fn join_bytes(&mut self, welcome: &[u8], ratchet_tree: Option<&[u8]>) -> Result<Joined, JoinError> {
        let (pool, now) = (&self.pool, self.now);
        self.store
            .transaction(|tx| pool.join(tx, welcome, ratchet_tree, &join_config(), now))
    }

    pub fn has_group(&mut self, group_id: &GroupId) -> bool {
        self.in_tx(|tx, _, _| Ok(MlsGroup::load(tx.provider().storage(), group_id)?.is_some()))
    }

    pub fn bundle(&mut self, key_package_ref: &KeyPackageRef) -> Option<KeyPackageBundle> {
        self.in_tx(|tx, _, _| Ok(tx.provider().storage().key_package(key_package_ref)?))
    }

    pub fn assert_consistent(&self, live: u32) {
        let audit = self.store.audit().unwrap();
        assert!(audit.is_consistent(), "{audit:?}");
        assert_eq!((audit.bundles, audit.live), (live, live));
    }

    pub fn dump(&mut self) -> Dump {
        dump(self.store.connection_mut())
    }
}

fn add(tx: &Tx<'_>, mut group: MlsGroup, signer: &SignatureKeyPair, upload: &Upload) -> Invitation {
    let provider = tx.provider();
    // Without an update path the creator keeps the leaf, and its lifetime, that it began with.
    let (_, welcome, _) = group
        .add_members_without_update(&provider, signer, &[key_package(upload)])
        .unwrap();
    group.merge_pending_commit(&provider).unwrap();
    Invitation {
        group_id: group.group_id().clone(),
        welcome: welcome.to_bytes().unwrap(),
        ratchet_tree: group.export_ratchet_tree().tls_serialize_detached().unwrap(),
    }
}

/// What an adder makes of the uploaded bytes.
pub fn key_package(upload: &Upload) -> KeyPackage {
    let message = MlsMessageIn::tls_deserialize_exact(&upload.key_package).unwrap();
    let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
        panic!("not a KeyPackage");
    };
    let key_package: KeyPackageIn = key_package;
    let crypto = crypto();
    key_package.validate(&crypto, ProtocolVersion::Mls10).unwrap()
}

pub fn crypto() -> openmls_rust_crypto::RustCrypto {
    openmls_rust_crypto::RustCrypto::default()
}

/// The `MLSMessage` of a KeyPackage.
pub fn message(key_package: KeyPackage) -> Vec<u8> {
    MlsMessageOut::from(key_package).to_bytes().unwrap()
}

/// Every row of every table, by value.
pub type Dump = Vec<(String, Vec<Vec<Value>>)>;

pub fn dump(connection: &Connection) -> Dump {
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap();
    let names: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    names
        .into_iter()
        .map(|name| {
            let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = statement.column_count();
            let mut rows: Vec<Vec<Value>> = statement
                .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            rows.sort_by_key(|row| format!("{row:?}"));
            (name, rows)
        })
        .collect()
}

/// The private keys in a bundle: the init key and the leaf's encryption key.
pub fn private_keys(bundle: &KeyPackageBundle) -> Vec<Vec<u8>> {
    let ciborium::Value::Map(fields) = ciborium::Value::serialized(bundle).unwrap() else {
        panic!("a bundle is a map");
    };
    let mut keys = Vec::new();
    for (name, value) in fields {
        if name.as_text().unwrap().starts_with("private_") {
            keys.push(innermost_bytes(value));
        }
    }
    assert_eq!(keys.len(), 2);
    assert!(keys.contains(&bundle.init_private_key().to_vec()));
    keys
}

fn innermost_bytes(value: ciborium::Value) -> Vec<u8> {
    match value {
        ciborium::Value::Bytes(bytes) => bytes,
        ciborium::Value::Map(mut fields) if fields.len() == 1 => innermost_bytes(fields.remove(0).1),
        ciborium::Value::Array(numbers) => numbers
            .into_iter()
            .map(|number| u8::try_from(number.into_integer().unwrap()).unwrap())
            .collect(),
        other => panic!("no key in {other:?}"),
    }
}

/// Whether `haystack` holds these bytes, as they are or as the CBOR array of numbers that serde makes of a `Vec<u8>`.
pub fn holds(haystack: &[u8], secret: &[u8]) -> bool {
    let mut array = Vec::new();
    ciborium::into_writer(&secret.to_vec(), &mut array).unwrap();
    // Without the head, whose length differs.
    let array = &array[array.len()
        - secret
            .iter()
            .map(|&byte| if byte < 24 { 1 } else { 2 })
            .sum::<usize>()..];
    [secret, array]
        .iter()
        .any(|form| haystack.windows(form.len()).any(|window| window == *form))
}

/// The tables with a column that holds these bytes.
pub fn tables_holding(dump: &Dump, secret: &[u8]) -> Vec<String> {
    dump.iter()
        .filter(|(_, rows)| {
            rows.iter().flatten().any(|value| match value {
                Value::Blob(bytes) => holds(bytes, secret),
                Value::Text(text) => holds(text.as_bytes(), secret),
                Value::Null | Value::Integer(_) | Value::Real(_) => false,
            })
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// The files of a database that hold these bytes.
pub fn files_holding(directory: &Path, secret: &[u8]) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| holds(&fs::read(path).unwrap(), secret))
        .collect()
}
