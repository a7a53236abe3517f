//! What becomes of each legacy row in the pool.

use std::collections::{BTreeMap, BTreeSet};

use larder_lifecycle::{Kind, Lifetime, PoolState, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageBundle, KeyPackageRef, OpenMlsProvider as _};
use openmls_traits::storage::StorageProvider as _;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension};

use super::file::{Content, LegacyFile, LegacyRow, LegacyStatus, count, key_package_ref};
use super::residue::Residue;
use super::{LegacyError, LegacyLeft, LegacyReason, LegacyReport};
use crate::error::StoreError;
use crate::generation::{self, Fingerprint, Generation};
use crate::metadata::{self, Metadata};
use crate::store::Tx;

/// The suite of a tombstone whose suite is not known; reserved by RFC 9420 §17.1, so no pool is of it.
const UNKNOWN_SUITE: u16 = 0;

/// What becomes of the rows of a file.
pub(super) struct Import {
    planned: Vec<Planned>,
}

/// What becomes of one row.
pub(super) struct Planned {
    row: LegacyRow,
    fate: Fate,
}

enum Fate {
    /// The pool has it.
    Present,
    /// It is to be taken over in this state.
    Import(PoolState),
    /// It stays where it is.
    Left(LegacyReason),
}

impl Planned {
    pub(super) fn key(&self) -> &Value {
        &self.row.key
    }
}

impl Import {
    /// Decides about every row. Writes nothing.
    pub(super) fn plan(tx: &Tx<'_>, rows: Vec<LegacyRow>) -> Result<Self, LegacyError> {
        let mut seen: BTreeMap<KeyPackageRef, u32> = BTreeMap::new();
        for content in rows.iter().filter_map(|row| row.content.as_ref().ok()) {
            *seen.entry(content.key_package_ref.clone()).or_default() += 1;
        }
        let planned = rows
            .into_iter()
            .map(|row| {
                let fate = match &row.content {
                    Err(reason) => Fate::Left(reason.clone()),
                    Ok(content) if seen.get(&content.key_package_ref) != Some(&1) => {
                        Fate::Left(LegacyReason::Duplicate)
                    }
                    Ok(content) => fate(tx, content)?,
                };
                Ok(Planned { row, fate })
            })
            .collect::<Result<_, LegacyError>>()?;
        Ok(Self { planned })
    }

    /// Live rows of a legacy pool without a single bundle here are those of another account.
    pub(super) fn is_for_this_store(&self) -> Result<(), LegacyError> {
        let live: Vec<&Planned> = self
            .planned
            .iter()
            .filter(|planned| {
                planned
                    .row
                    .content
                    .as_ref()
                    .is_ok_and(|content| content.status.is_live())
            })
            .collect();
        let ours = live.iter().any(|planned| match planned.fate {
            Fate::Present | Fate::Import(_) | Fate::Left(LegacyReason::LastResort) => true,
            Fate::Left(_) => false,
        });
        if live.is_empty() || ours {
            return Ok(());
        }
        Err(LegacyError::AnotherStore {
            live: count(live.len()),
        })
    }

    pub(super) fn report(&self) -> LegacyReport {
        let mut report = LegacyReport {
            rows: count(self.planned.len()),
            ..LegacyReport::default()
        };
        for Planned { row, fate } in &self.planned {
            match fate {
                Fate::Present => report.present += 1,
                Fate::Import(state) => {
                    match state {
                        PoolState::Created => report.created += 1,
                        PoolState::Available => report.available += 1,
                        PoolState::Reserved => report.reserved += 1,
                        PoolState::Spent => report.spent += 1,
                        PoolState::Expired => report.expired += 1,
                        // No legacy row becomes one of these.
                        PoolState::Retiring { .. }
                        | PoolState::Lost
                        | PoolState::Lapsed
                        | PoolState::Revoked
                        | PoolState::Gone => {}
                    }
                    let ended = row
                        .content
                        .as_ref()
                        .is_ok_and(|content| !content.status.is_live());
                    report.in_flight += u32::from(ended && state.is_live());
                }
                Fate::Left(reason) => report.left.push(LegacyLeft {
                    key_package_ref: shown(&row.key),
                    reason: reason.clone(),
                }),
            }
        }
        report
    }

    pub(super) fn len(&self) -> usize {
        self.planned.len()
    }

    pub(super) fn batches(&self, rows: usize) -> impl Iterator<Item = &[Planned]> {
        self.planned.chunks(rows)
    }

    /// Takes over a batch, and returns how many rows that were. What the pool has by now is left alone.
    pub(super) fn carry_out(tx: &Tx<'_>, batch: &[Planned]) -> Result<usize, LegacyError> {
        let mut imported = 0;
        for planned in batch {
            let (Fate::Import(_), Ok(content)) = (&planned.fate, &planned.row.content) else {
                continue;
            };
            // Decided again: this is another transaction than the plan's.
            if let Fate::Import(state) = fate(tx, content)? {
                insert(tx, content, state)?;
                imported += 1;
            }
        }
        Ok(imported)
    }

    /// Every private key that must not be in the file afterwards. OpenMLS's own stay, if they are in the same file.
    pub(super) fn private_keys(
        &self,
        tx: &Tx<'_>,
        file: &LegacyFile,
        shared: bool,
        residue: &mut Residue,
    ) -> Result<(), LegacyError> {
        let mut stay = BTreeSet::new();
        for content in self
            .planned
            .iter()
            .filter_map(|planned| planned.row.content.as_ref().ok())
        {
            let Some(bundle) = bundle(tx, &content.key_package_ref)? else {
                continue;
            };
            if shared {
                stay.insert(content.key_package_ref.clone());
            } else {
                // After an interruption the column may be empty and the bytes not yet gone.
                residue.add(bundle.init_private_key());
            }
        }
        file.private_keys(|key_package_ref, key| {
            if key_package_ref.is_none_or(|key_package_ref| !stay.contains(&key_package_ref)) {
                residue.add(key);
            }
        })
    }
}

impl LegacyStatus {
    fn is_live(self) -> bool {
        match self {
            Self::Created | Self::Available | Self::Reserved => true,
            Self::Spent | Self::Expired => false,
        }
    }
}

fn bundle(tx: &Tx<'_>, key_package_ref: &KeyPackageRef) -> Result<Option<KeyPackageBundle>, LegacyError> {
    let bundle = tx.provider().storage().key_package(key_package_ref);
    Ok(bundle.map_err(StoreError::from)?)
}

fn fate(tx: &Tx<'_>, content: &Content) -> Result<Fate, LegacyError> {
    if metadata::find(tx.connection(), &content.key_package_ref)?.is_some() {
        return Ok(Fate::Present);
    }
    let Some(bundle) = bundle(tx, &content.key_package_ref)? else {
        return Ok(match content.status {
            LegacyStatus::Created | LegacyStatus::Available | LegacyStatus::Reserved => {
                Fate::Left(LegacyReason::NoBundle)
            }
            LegacyStatus::Spent => Fate::Import(PoolState::Spent),
            LegacyStatus::Expired => Fate::Import(PoolState::Expired),
        });
    };
    let key_package = bundle.key_package();
    let computed = key_package
        .hash_ref(tx.provider().crypto())
        .map_err(crate::error::PoolError::from)?;
    if computed != content.key_package_ref {
        return Ok(Fate::Left(LegacyReason::Malformed("keypackage_ref")));
    }
    if key_package.last_resort() {
        return Ok(Fate::Left(LegacyReason::LastResort));
    }
    Ok(Fate::Import(match content.status {
        LegacyStatus::Created => PoolState::Created,
        LegacyStatus::Available => PoolState::Available,
        // OpenMLS deletes a bundle when it joins with it. So nothing was joined with those that are spent, and those
        // that are expired are the sweep's, after the grace. Neither counts as available: someone may have it.
        LegacyStatus::Reserved | LegacyStatus::Spent | LegacyStatus::Expired => PoolState::Reserved,
    }))
}

fn insert(tx: &Tx<'_>, content: &Content, state: PoolState) -> Result<(), LegacyError> {
    let connection = tx.connection();
    let (generation, lifetime) = match bundle(tx, &content.key_package_ref)? {
        Some(bundle) => {
            let key_package = bundle.key_package();
            let lifetime = Lifetime {
                not_before: UnixSeconds(key_package.life_time().not_before()),
                not_after: UnixSeconds(key_package.life_time().not_after()),
            };
            let fingerprint = Fingerprint::of_key_package(key_package);
            (generation::ensure(connection, &fingerprint)?, lifetime)
        }
        None => {
            let lifetime = Lifetime {
                not_before: content.created_at,
                not_after: content.not_after,
            };
            let suite = content.suite.unwrap_or(UNKNOWN_SUITE);
            (unknown_generation(connection, suite)?, lifetime)
        }
    };
    let ended_at = (!state.is_live()).then(|| match state {
        PoolState::Expired => content.not_after,
        _ => content.last_known_time(),
    });
    let spent_group_id = (state == PoolState::Spent)
        // The column needs one. The empty one says that the group is not known.
        .then(|| GroupId::from_slice(content.spent_group_id.as_deref().unwrap_or_default()));
    let created = Metadata::created(
        content.key_package_ref.clone(),
        Kind::SingleUse,
        generation,
        content.created_at,
        lifetime,
    );
    let row = Metadata {
        state,
        uploaded_at: content.uploaded_at,
        reservation_expires_at: content.reservation_expires_at,
        ended_at,
        spent_group_id,
        ..created
    };
    Ok(metadata::insert(connection, &row)?)
}

impl Content {
    /// When it was spent, or the last time that the row knows before that.
    fn last_known_time(&self) -> UnixSeconds {
        let times = [self.spent_at, self.reserved_at, self.uploaded_at];
        times.into_iter().flatten().next().unwrap_or(self.created_at)
    }
}

/// A tombstone tells nothing of its key.
fn unknown_generation(connection: &Connection, suite: u16) -> Result<Generation, LegacyError> {
    let found = connection
        .prepare_cached(
            "SELECT generation FROM keypackage_pool_generations WHERE suite = ?1 AND signature_key_hash IS NULL",
        )
        .and_then(|mut statement| statement.query_row([suite], |row| row.get(0)).optional())
        .map_err(StoreError::from)?;
    if let Some(generation) = found {
        return Ok(Generation(generation));
    }
    connection
        .execute(
            "INSERT INTO keypackage_pool_generations (suite) VALUES (?1)",
            [suite],
        )
        .map_err(StoreError::from)?;
    Ok(Generation(connection.last_insert_rowid()))
}

/// A reference for people.
fn shown(key: &Value) -> String {
    let hex = |bytes: &[u8]| bytes.iter().take(66).map(|byte| format!("{byte:02x}")).collect();
    match (key_package_ref(ValueRef::from(key)), key) {
        (Some(key_package_ref), _) => hex(key_package_ref.as_slice()),
        (None, Value::Blob(bytes)) => hex(bytes),
        (None, Value::Text(text)) => hex(text.as_bytes()),
        (None, Value::Null | Value::Integer(_) | Value::Real(_)) => String::new(),
    }
}
