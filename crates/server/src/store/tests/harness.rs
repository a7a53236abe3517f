use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, Kind, Lifetime, Listed, UnixSeconds};
use larder_wire::{AuditHead, GroupId, KeyPackageRef};
use sha2::{Digest as _, Sha256};
use tokio_postgres::NoTls;

use crate::error::{Fault, ServiceError};
use crate::store::statement::Param;
use crate::store::{
    Beginning, DeviceKey, DeviceRow, Disclosure, KeyPackageRow, LogKind, LogRange, MailKind, NewKeyPackage,
    NewRow, Part, ReservationId, Serving, StateChange, Store, StoreLocation, Stored, Tx,
};
use crate::wakeups::Wakeups;

pub(super) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

thread_local! {
    /// Whether this thread runs a statement that only the tests run.
    static AD_HOC: Cell<bool> = const { Cell::new(false) };
}

/// Every statement that a transaction of the tests of this process ran, and whether on PostgreSQL.
static STATEMENTS: Mutex<BTreeSet<(bool, String)>> = Mutex::new(BTreeSet::new());

pub(in crate::store) fn record(on_postgres: bool, sql: &str) {
    if AD_HOC.get() {
        return;
    }
    let mut statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    statements.insert((on_postgres, sql.to_owned()));
}

fn beginning(incarnation: &str) -> Beginning {
    Beginning {
        incarnation: incarnation.to_owned(),
        challenge_key: [1; 32],
    }
}

pub(super) fn ad_hoc<T>(work: impl FnOnce() -> T) -> T {
    AD_HOC.set(true);
    let done = work();
    AD_HOC.set(false);
    done
}

/// What was recorded of one engine.
pub(super) fn recorded(on_postgres: bool) -> Vec<String> {
    let statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let of_engine = statements.iter().filter(|(engine, _)| *engine == on_postgres);
    of_engine.map(|(_, sql)| sql.clone()).collect()
}

/// A store of its own for a test.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) location: StoreLocation,
    pub(super) wakeups: Wakeups,
    _directory: Option<tempfile::TempDir>,
}

impl Opened {
    pub(super) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().join("larder.db").into();
        Self::at(location, Some(directory)).await
    }

    pub(super) async fn postgres() -> Self {
        Self::postgres_with("").await
    }

    /// A schema of its own on the server that `scripts/test` starts, with more options for its sessions.
    pub(super) async fn postgres_with(options: &str) -> Self {
        let server = std::env::var("LARDER_TEST_POSTGRES")
            .expect("LARDER_TEST_POSTGRES names no PostgreSQL server: run scripts/test, which starts one");
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        let url = format!("{server}?options=-csearch_path%3D{schema}{options}");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
            .batch_execute(&format!("CREATE SCHEMA {schema}"))
            .await
            .unwrap();
        Self::at(url.parse().unwrap(), None).await
    }

    async fn at(location: StoreLocation, directory: Option<tempfile::TempDir>) -> Self {
        let wakeups = Wakeups::default();
        let store = Store::open(&location, &beginning("first"), wakeups.clone(), Duration::ZERO)
            .await
            .unwrap();
        Self {
            store,
            location,
            wakeups,
            _directory: directory,
        }
    }

    /// Lets go of the store; its directory stays.
    pub(super) fn close(self) -> Option<tempfile::TempDir> {
        let Self {
            store, _directory, ..
        } = self;
        drop(store);
        _directory
    }

    /// Whether the store also wakes whoever has only begun to wait.
    pub(super) fn looks_by_itself(&self) -> bool {
        matches!(self.location, StoreLocation::Postgres(_))
    }

    /// Another node on the same PostgreSQL database.
    pub(super) async fn another_node(&self) -> Store {
        Store::open(
            &self.location,
            &beginning("second"),
            Wakeups::default(),
            Duration::ZERO,
        )
        .await
        .unwrap()
    }

    /// Runs a statement in a transaction of its own, as nobody in the program does.
    pub(super) async fn try_execute(&self, sql: &str, params: &[Value]) -> Result<u64, ServiceError> {
        let (sql, params) = (sql.to_owned(), params.to_vec());
        self.store
            .write(move |tx| {
                let params: Vec<Param<'_>> = params.iter().map(Value::param).collect();
                Ok(ad_hoc(|| tx.execute(&sql, &params))?)
            })
            .await
    }

    pub(super) async fn execute(&self, sql: &str, params: &[Value]) -> u64 {
        self.try_execute(sql, params).await.unwrap()
    }

    pub(super) async fn count(&self, sql: &'static str) -> u64 {
        self.store
            .read(move |tx| Ok(ad_hoc(|| tx.one_row(sql, &[], |row| row.get(0)))?))
            .await
            .unwrap()
    }

    /// Statements of the engine's own.
    pub(super) async fn batch(&self, sqlite: &str, postgres: &str) {
        match &self.location {
            StoreLocation::Sqlite(file) => rusqlite::Connection::open(file)
                .unwrap()
                .execute_batch(sqlite)
                .unwrap(),
            StoreLocation::Postgres(location) => {
                let (client, connection) = location.config().connect(NoTls).await.unwrap();
                tokio::spawn(connection);
                client.batch_execute(postgres).await.unwrap();
            }
        }
    }

    pub(super) async fn register(&self, user: &str, key: u8) -> DeviceRow {
        let user = user.to_owned();
        self.store
            .write(move |tx| {
                let (user, device) = (user.parse().unwrap(), format!("{user}-1").parse().unwrap());
                assert!(tx.insert_account(&user, &device, &[key; 32], &[key + 100; 32], NOW)?);
                Ok(tx.device_by_id(&device)?.unwrap())
            })
            .await
            .unwrap()
    }

    pub(super) async fn store_key_package(&self, owner: DeviceKey, number: u8) -> KeyPackageRef {
        self.store
            .write(move |tx| {
                Ok(with_key_package(owner, number, number, |new| {
                    tx.insert_key_packages(&[*new], NOW)
                })?)
            })
            .await
            .unwrap();
        reference(number)
    }
}

/// A value that outlives its statement.
#[derive(Clone)]
pub(super) enum Value {
    Integer(i64),
    Bytes(Vec<u8>),
}

impl Value {
    fn param(&self) -> Param<'_> {
        match self {
            Self::Integer(value) => Param::from(*value),
            Self::Bytes(value) => Param::from(value.as_slice()),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<DeviceKey> for Value {
    fn from(value: DeviceKey) -> Self {
        Self::Integer(value.0)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

pub(super) fn reference(number: u8) -> KeyPackageRef {
    KeyPackageRef::from_bytes(&[number; 32]).unwrap()
}

pub(super) fn with_key_package<T>(
    owner: DeviceKey,
    name: u8,
    init_key: u8,
    store: impl FnOnce(&NewKeyPackage<'_>) -> T,
) -> T {
    let mut encryption_key_hash = [init_key; 32];
    encryption_key_hash[0] = !init_key;
    store(&NewKeyPackage {
        key_package_ref: &reference(name),
        owner,
        kind: Kind::SingleUse,
        suite: 1,
        init_key_hash: &[init_key; 32],
        encryption_key_hash: &encryption_key_hash,
        lifetime: Lifetime {
            not_before: NOW.minus(1000),
            not_after: NOW.plus(1000),
        },
        bytes: b"bytes",
    })
}

/// Takes the oldest KeyPackage of a device, for another one and the group.
pub(super) fn take(
    tx: &Tx<'_>,
    owner: DeviceKey,
    by: DeviceKey,
    until: UnixSeconds,
) -> Result<Option<KeyPackageRef>, Fault> {
    let mut stocks = tx.stocks(None, &[owner], (&[1], serving()), 9)?;
    let Some((oldest, _)) = stocks.remove(0).remove(0).oldest else {
        return Ok(None);
    };
    let available = Listed::uploaded(Kind::SingleUse);
    let group = group();
    let taken = available
        .apply(DirectoryEvent::Reserve { by, group, until })
        .unwrap();
    let id = ReservationId::made_at(NOW);
    tx.write_states(&[StateChange {
        owner,
        key_package_ref: &oldest,
        from: &available,
        next: &taken,
        reservation: Some(id),
    }])?;
    Ok(Some(oldest))
}

/// What is made of a KeyPackage that was read.
pub(super) fn change_of<'a>(row: &'a KeyPackageRow, next: &'a Stored) -> StateChange<'a> {
    StateChange {
        owner: row.owner,
        key_package_ref: &row.key_package_ref,
        from: &row.listed,
        next,
        reservation: row.reservation_id,
    }
}

/// That a KeyPackage was handed out.
pub(super) fn disclosure<'a>(
    owner: DeviceKey,
    head: &'a AuditHead,
    key_package_ref: &'a KeyPackageRef,
) -> Disclosure<'a> {
    Disclosure {
        owner,
        head,
        key_package_ref,
        is_change: true,
        asked_until: Some(NOW),
    }
}

/// What is served now, if it is valid for a while yet.
pub(super) fn serving() -> Serving {
    let policy = DirectoryPolicy {
        serving_margin_seconds: 0,
        ..DirectoryPolicy::default()
    };
    Serving::at(NOW, &policy)
}

pub(super) fn group() -> GroupId {
    GroupId::from_bytes(b"group").unwrap()
}

/// Tells a device something.
pub(super) fn post(tx: &Tx<'_>, device: DeviceKey) -> Result<(), ServiceError> {
    Ok(tx.post(&[device], MailKind::KeyPackagesLow, NOW)?)
}

/// Creates the group, with these members.
pub(super) fn start_group(tx: &Tx<'_>, members: &[DeviceKey]) -> Result<(), ServiceError> {
    assert!(tx.insert_group(&group(), 1, NOW)?);
    tx.set_snapshot(&group(), 0, b"snapshot")?;
    for member in members {
        tx.begin_interval(&group(), *member, (0, 0))?;
    }
    Ok(())
}

fn new_row<'a>(kind: LogKind, sender: DeviceKey, body: &'a [u8], sha256: &'a [u8; 32]) -> NewRow<'a> {
    NewRow {
        kind,
        epoch: 0,
        sender,
        sha256,
        transcript_hash: (kind == LogKind::Commit).then_some(b"hash"),
        body,
    }
}

/// Says something in the group, and returns the number of the row.
pub(super) fn say(tx: &Tx<'_>, sender: DeviceKey, body: &[u8]) -> Result<u64, ServiceError> {
    let seq = tx.next_for_messages(&group(), (1, body.len()))?.unwrap().seq;
    tx.count_waiting(&group(), sender, body.len())?.unwrap();
    let sha256: [u8; 32] = Sha256::digest(body).into();
    let row = new_row(LogKind::Message, sender, body, &sha256);
    tx.insert_rows(&group(), &[(seq, row)], NOW)?;
    tx.wake_group(&group());
    Ok(seq)
}

/// Commits in the group, adding these devices, and returns the number of the row.
pub(super) fn commit(
    tx: &Tx<'_>,
    sender: DeviceKey,
    (state_seq, epoch): (u64, u64),
    added: &[DeviceKey],
) -> Result<u64, ServiceError> {
    let body = format!("Commit of epoch {epoch}");
    let sha256: [u8; 32] = Sha256::digest(&body).into();
    let seq = tx
        .next_for_handshake(&group(), state_seq, (true, body.len()))?
        .unwrap()
        .seq;
    let row = NewRow {
        epoch,
        ..new_row(LogKind::Commit, sender, body.as_bytes(), &sha256)
    };
    tx.insert_rows(&group(), &[(seq, row)], NOW)?;
    if !added.is_empty() {
        tx.insert_bodies(&group(), [(seq, Part::Welcome, b"welcome".as_slice())])?;
        tx.insert_tree(&group(), seq, b"tree")?;
    }
    tx.begin_by_welcome(&group(), added, (seq, epoch + 1))?;
    tx.note_roster_change(&group(), NOW)?;
    tx.wake_group(&group());
    Ok(seq)
}

/// The numbers of the rows that wait for a device in the group.
pub(super) fn waiting(tx: &Tx<'_>, device: DeviceKey) -> Result<Vec<u64>, ServiceError> {
    let mut numbers = Vec::new();
    for interval in tx.intervals(device)? {
        let range = LogRange {
            after: interval.acknowledged,
            until: interval.head,
            rows_max: 1000,
            bytes_max: usize::MAX,
        };
        let rows = tx.log_rows(&interval.group, device, range)?;
        numbers.extend(rows.iter().map(|row| row.seq));
    }
    Ok(numbers)
}
