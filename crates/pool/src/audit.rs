use std::collections::BTreeSet;

use openmls::prelude::KeyPackageRef;
use openmls_sqlite_storage::Codec;
use rusqlite::Connection;

use crate::codec::CborCodec;
use crate::column;
use crate::error::{Corrupt, StoreError};
use crate::metadata;

/// OpenMLS's bundles against the pool's live rows.
///
/// They name the same KeyPackages at every commit: a row is live exactly while the private keys are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// KeyPackages whose private keys OpenMLS holds.
    pub bundles: u32,
    /// Live rows of the pool, last resorts included.
    pub live: u32,
    /// Live rows without private keys: an invitation could not be opened.
    pub without_bundle: Vec<KeyPackageRef>,
    /// Private keys without a live row: nothing would ever erase them.
    pub without_row: Vec<KeyPackageRef>,
}

impl Audit {
    /// Whether both sides name the same KeyPackages.
    pub fn is_consistent(&self) -> bool {
        self.without_bundle.is_empty() && self.without_row.is_empty()
    }
}

pub(crate) fn audit(connection: &Connection) -> Result<Audit, StoreError> {
    // One snapshot of both sides.
    let snapshot = connection.unchecked_transaction()?;
    let bundles = bundles(&snapshot)?;
    let live: BTreeSet<_> = metadata::all(&snapshot)?
        .into_iter()
        .filter(|row| row.state.is_live())
        .map(|row| row.key_package_ref)
        .collect();
    Ok(Audit {
        bundles: column::count(bundles.len()),
        live: column::count(live.len()),
        without_bundle: live.difference(&bundles).cloned().collect(),
        without_row: bundles.difference(&live).cloned().collect(),
    })
}

/// OpenMLS lists nothing, so this reads the keys of its table, as the codec wrote them.
fn bundles(connection: &Connection) -> Result<BTreeSet<KeyPackageRef>, StoreError> {
    let mut statement = connection.prepare("SELECT key_package_ref FROM openmls_key_packages")?;
    let mut rows = statement.query([])?;
    let mut refs = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let key: Vec<u8> = row.get(0)?;
        refs.insert(CborCodec::from_slice(&key).map_err(|_| Corrupt::KeyPackageRef)?);
    }
    Ok(refs)
}
