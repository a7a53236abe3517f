use std::collections::BTreeSet;

use larder_lifecycle::{DirectoryStatus, Kind, PoolEvent, PoolState, UnixSeconds};

use crate::directory::DirectoryRow;
use crate::error::PoolError;
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::transition::{Tally, apply};
use crate::{generation, metadata};

impl KeyPackagePool {
    /// Stops counting on what the directory does not know any more, because it was restored from a backup: it may have
    /// handed these KeyPackages out in the time that it lost, so they must never be offered again. Their private keys
    /// are kept like those of any that are handed out, for invitations that are under way. The next plan mints a whole
    /// new pool and a last resort in their place.
    ///
    /// `directory` is the whole inventory of the device, and `earlier` when this happened the last time, if it did: what
    /// was handed out before then, and is still not known there, has no invitation to wait for, and is erased. Returns
    /// how many KeyPackages are not counted on any more.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn distrust(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        earlier: Option<UnixSeconds>,
        now: UnixSeconds,
    ) -> Result<u32, PoolError> {
        tx.atomically(|| {
            let named: BTreeSet<_> = directory
                .iter()
                .map(|told| (&told.key_package_ref, told.held.kind()))
                .collect();
            let mut tally = Tally::default();
            for row in metadata::all(tx.connection())? {
                if named.contains(&(&row.key_package_ref, row.kind)) {
                    continue;
                }
                let long_gone = row.uploaded_at.zip(earlier).is_some_and(|(at, then)| at < then);
                let event = match (row.kind, row.state) {
                    // It never left this device.
                    (_, PoolState::Created) if row.uploaded_at.is_none() => continue,
                    (Kind::SingleUse, PoolState::Reserved | PoolState::Lost) if long_gone => {
                        PoolEvent::Revoke
                    }
                    (Kind::SingleUse, PoolState::Created | PoolState::Available) => {
                        PoolEvent::Confirmed(DirectoryStatus::Reserved)
                    }
                    (Kind::LastResort, PoolState::Created | PoolState::Available) => PoolEvent::replaced(now),
                    (
                        _,
                        PoolState::Reserved
                        | PoolState::Retiring { .. }
                        | PoolState::Lost
                        | PoolState::Spent
                        | PoolState::Lapsed
                        | PoolState::Expired
                        | PoolState::Revoked
                        | PoolState::Gone,
                    ) => continue,
                };
                tally.note(apply(tx, &row, event, now)?);
            }
            Ok(tally.moved)
        })
    }

    /// Stops counting on everything that was minted, because a copy of the store may have the same private keys, the last
    /// resorts' included. The next plans mint whole new pools and last resorts; once those are published,
    /// [`outdated`](Self::outdated) names what the directory could still hand out of the others. What it has handed out
    /// still joins, for invitations that are under way; what it was never given is erased at once.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn begin_anew(tx: &Tx<'_>, now: UnixSeconds) -> Result<(), PoolError> {
        tx.atomically(|| {
            for row in metadata::all(tx.connection())? {
                if row.state == PoolState::Created && row.uploaded_at.is_none() {
                    apply(tx, &row, PoolEvent::Revoke, now)?;
                }
            }
            Ok(generation::supersede_all(tx.connection())?)
        })
    }
}
