use larder_lifecycle::{Kind, UnixSeconds};
use openmls::prelude::{GroupId, KeyPackageRef};

use crate::error::PoolError;
use crate::metadata;
use crate::pool::KeyPackagePool;
use crate::store::Tx;

/// A KeyPackage of this store, its private keys kept or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// What it is.
    pub kind: Kind,
    /// The group that a single-use one joined.
    pub joined: Option<GroupId>,
    /// When it became terminal.
    pub ended_at: Option<UnixSeconds>,
}

impl KeyPackagePool {
    /// Every KeyPackage of the store, of every ciphersuite, tombstones included.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn known(&self, tx: &Tx<'_>) -> Result<Vec<Known>, PoolError> {
        let rows = metadata::all(tx.connection())?.into_iter();
        Ok(rows
            .map(|row| Known {
                key_package_ref: row.key_package_ref,
                kind: row.kind,
                joined: row.spent_group_id,
                ended_at: row.ended_at,
            })
            .collect())
    }
}
