use larder_lifecycle::{Kind, PoolEvent, PoolState, UnixSeconds, Worth};
use openmls::prelude::KeyPackageRef;

use crate::error::PoolError;
use crate::generation::{self, Generation};
use crate::losses::Losses;
use crate::metadata::{self, Metadata};
use crate::pool::KeyPackagePool;
use crate::quarantine;
use crate::store::Tx;
use crate::transition::{Change, apply};

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// KeyPackages whose life and grace are over; their private keys are gone.
    pub expired: u32,
    /// Replaced last resorts whose day is over; their private keys are gone.
    pub retired: u32,
    /// KeyPackages of an older generation that were never sent anywhere; their private keys are gone.
    pub withdrawn: u32,
    /// Terminal KeyPackages whose metadata was dropped.
    pub forgotten: u32,
    /// Quarantined Welcomes that were dropped.
    pub released: u32,
}

impl KeyPackagePool {
    /// Erases the private keys whose KeyPackage's life and grace are over, those of last resorts that were replaced a
    /// day ago, and those of an older generation that never left this device; forgets what is old: terminal
    /// KeyPackages, and quarantined Welcomes.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn sweep(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Swept, PoolError> {
        tx.atomically(|| {
            let mut swept = Swept::default();
            let superseded = self.superseded(tx)?;
            for row in metadata::all(tx.connection())? {
                self.sweep_key_package(tx, &row, &superseded, now, &mut swept)?;
            }
            generation::forget_empty(tx.connection())?;
            let long_ago = now.minus(self.policy.tombstone_seconds);
            swept.released = quarantine::forget(tx.connection(), long_ago)?;
            Ok(swept)
        })
    }

    fn sweep_key_package(
        &self,
        tx: &Tx<'_>,
        row: &Metadata,
        superseded: &[Generation],
        now: UnixSeconds,
        swept: &mut Swept,
    ) -> Result<(), PoolError> {
        if let Some(ended_at) = row.ended_at {
            if now >= ended_at.plus(self.policy.tombstone_seconds) {
                metadata::delete(tx.connection(), row)?;
                swept.forgotten += 1;
            }
            return Ok(());
        }
        let erase_at = self.policy.erase_at(row.lifetime.not_after);
        match apply(tx, row, PoolEvent::Sweep { now, erase_at }, now)? {
            Change::Erased(PoolState::Gone) => swept.retired += 1,
            Change::Erased(_) => swept.expired += 1,
            Change::Moved(_) => {}
            Change::None => {
                let never_sent = row.state == PoolState::Created && row.uploaded_at.is_none();
                if never_sent && superseded.contains(&row.generation) {
                    apply(tx, row, PoolEvent::Revoke, now)?;
                    swept.withdrawn += 1;
                }
            }
        }
        Ok(())
    }

    /// What the directory may still hand out of this ciphersuite and nobody should be given: what is of older generations,
    /// so that nobody adds this device under an identity that it has given up; and what is valid only later, because it was
    /// minted by a clock that was ahead, so that nobody is given what cannot be added. Revoke it there.
    ///
    /// Nothing, as long as this generation has KeyPackages to mint or to be confirmed: the new ones are published before
    /// the old ones are withdrawn, unless the hard cap leaves no room for them. What is reserved is never named; it still
    /// joins, and ends like any other. Neither is a last resort: it retires when the new one is confirmed.
    ///
    /// Afterwards [`reconcile`](Self::reconcile) with a new inventory: what was revoked loses its private keys. What the
    /// whole inventory, tombstones included, does not name was never received; telling [`confirm`](Self::confirm) that
    /// it is [`Rejected`](crate::Verdict::Rejected) erases it too. Do not conclude that from the answer to the
    /// revocation: what is spent by now is not revoked either, and its invitation is under way.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn outdated(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Vec<KeyPackageRef>, PoolError> {
        let rows = metadata::of_kind(tx.connection(), Kind::SingleUse)?;
        let current = self.generation(tx)?;
        let census = self.census(&rows, current, Losses::of(tx.connection(), current)?, now);
        if census.unconfirmed > 0 || larder_lifecycle::plan(&self.policy, census).mint > 0 {
            return Ok(Vec::new());
        }
        let superseded = self.superseded(tx)?;
        Ok(rows
            .into_iter()
            .filter(|row| {
                let not_yet = self.policy.worth(row.lifetime, now) == Worth::NotYet;
                superseded.contains(&row.generation) || (Some(row.generation) == current && not_yet)
            })
            .filter(|row| match row.state {
                PoolState::Created => row.uploaded_at.is_some(),
                PoolState::Available => true,
                PoolState::Reserved
                | PoolState::Retiring { .. }
                | PoolState::Lost
                | PoolState::Spent
                | PoolState::Lapsed
                | PoolState::Expired
                | PoolState::Revoked
                | PoolState::Gone => false,
            })
            .map(|row| row.key_package_ref)
            .collect())
    }

    /// The other generations of this ciphersuite.
    fn superseded(&self, tx: &Tx<'_>) -> Result<Vec<Generation>, PoolError> {
        let current = self.generation(tx)?;
        let mut generations = generation::of_suite(tx.connection(), self.ciphersuite)?;
        generations.retain(|generation| Some(*generation) != current);
        Ok(generations)
    }
}
