use larder_lifecycle::UnixSeconds;
use openmls::prelude::{GroupId, KeyPackageRef};

use crate::error::PoolError;
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::{last_resort_rows, metadata};

/// A KeyPackage of this store, its private keys kept or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// Whether it is a last resort.
    pub last_resort: bool,
    /// The group that a single-use one joined.
    pub joined: Option<GroupId>,
    /// When a single-use one became terminal.
    pub ended_at: Option<UnixSeconds>,
}

impl KeyPackagePool {
    /// Every KeyPackage of the store, of every ciphersuite, tombstones included.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn known(&self, tx: &Tx<'_>) -> Result<Vec<Known>, PoolError> {
        let single_use = metadata::all(tx.connection())?.into_iter().map(|row| Known {
            key_package_ref: row.key_package_ref,
            last_resort: false,
            joined: row.spent_group_id,
            ended_at: row.ended_at,
        });
        let last_resorts = last_resort_rows::all(tx.connection())?
            .into_iter()
            .map(|row| Known {
                key_package_ref: row.key_package_ref,
                last_resort: true,
                joined: None,
                ended_at: None,
            });
        Ok(single_use.chain(last_resorts).collect())
    }
}
