use larder_lifecycle::{Kind, NewestLastResort, PoolEvent, PoolState, UnixSeconds, last_resort_is_due};
use openmls::prelude::{Capabilities, Ciphersuite, ExtensionType, KeyPackageRef};
use openmls_traits::signatures::Signer;

use crate::error::{PoolError, StoreError};
use crate::generation::{self, Generation};
use crate::losses::{self, Losses};
use crate::metadata::{self, Metadata, in_stock};
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::transition::{Tally, apply};

impl KeyPackagePool {
    /// Mints a last resort (RFC 9420 §16.8): a KeyPackage that the directory hands out when nothing else is left, to
    /// several if need be, and that opens all of their invitations.
    ///
    /// It lives from 25 hours before `now` until 83 days after, whatever the policy says of the others. Once the directory has confirmed it, the older ones of
    /// this ciphersuite retire; a day later [`sweep`](Self::sweep) erases their private keys.
    ///
    /// # Errors
    /// [`PoolError::HardCap`] when as many live last resorts as the policy's hard cap are kept: so often were they used
    /// within a day. [`PoolError::Mls`] when `signer` does not fit the ciphersuite.
    pub fn mint_last_resort(
        &self,
        tx: &Tx<'_>,
        signer: &impl Signer,
        now: UnixSeconds,
    ) -> Result<KeyPackageRef, PoolError> {
        tx.atomically(|| {
            self.check_hard_cap(in_stock(&self.last_resorts(tx)?), 1)?;
            let generation = self.begin_generation(tx)?;
            losses::settle(tx.connection(), generation, now)?;
            self.mint_one(tx, signer, Kind::LastResort, generation, now)
        })
    }

    /// Whether a refresh should mint a last resort: there is none of this generation, the newest one was used, it is
    /// 30 days old, or it cannot be served and added now. One that the directory lost is replaced once a day.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn last_resort_due(&self, tx: &Tx<'_>, now: UnixSeconds) -> Result<bool, PoolError> {
        let current = self.generation(tx)?;
        let rows = self.last_resorts(tx)?;
        let newest = rows
            .iter()
            .filter(|row| matches!(row.state, PoolState::Created | PoolState::Available))
            .rfind(|row| Some(row.generation) == current)
            .map(|row| NewestLastResort {
                lifetime: row.lifetime,
                created_at: row.created_at,
                used: row.used_at.is_some(),
            });
        let withheld = newest.is_none() && Losses::of(tx.connection(), current)?.withholds_last_resort(now);
        let due = last_resort_is_due(&self.policy, newest, now) && !withheld;
        Ok(due && in_stock(&rows) < self.policy.hard_cap())
    }

    /// Those of this ciphersuite, of every generation, oldest first.
    fn last_resorts(&self, tx: &Tx<'_>) -> Result<Vec<Metadata>, StoreError> {
        let generations = generation::of_suite(tx.connection(), self.ciphersuite)?;
        of(tx, &generations)
    }
}

/// Notes that the directory has handed a last resort out. The first use counts; the row as it is then.
pub(crate) fn note_use(
    tx: &Tx<'_>,
    row: Metadata,
    used: bool,
    now: UnixSeconds,
) -> Result<Metadata, StoreError> {
    let is_news = used && row.used_at.is_none() && row.kind == Kind::LastResort && row.state.is_live();
    if !is_news {
        return Ok(row);
    }
    let next = Metadata {
        used_at: Some(now),
        ..row.clone()
    };
    metadata::write_state(tx.connection(), &row, &next)?;
    Ok(next)
}

/// A last resort was confirmed: the older ones of its ciphersuite retire, those of other generations too.
pub(crate) fn retire_older(
    tx: &Tx<'_>,
    newer: &Metadata,
    now: UnixSeconds,
    tally: &mut Tally,
) -> Result<(), PoolError> {
    let siblings = of(tx, &generation::siblings(tx.connection(), newer.generation)?)?;
    let older = siblings
        .iter()
        .take_while(|row| row.key_package_ref != newer.key_package_ref);
    for row in older {
        tally.note(apply(tx, row, PoolEvent::replaced(now), now)?);
    }
    Ok(())
}

/// The last resorts of these generations, in the order in which they were minted.
fn of(tx: &Tx<'_>, generations: &[Generation]) -> Result<Vec<Metadata>, StoreError> {
    let mut rows = metadata::of_kind(tx.connection(), Kind::LastResort)?;
    rows.retain(|row| generations.contains(&row.generation));
    Ok(rows)
}

/// The extension types that a KeyPackage uses are to be listed in its leaf (RFC 9420 §7.2, §10); OpenMLS marks a last
/// resort without listing the mark.
pub(crate) fn with_last_resort(capabilities: &Capabilities) -> Capabilities {
    let mut extensions = capabilities.extensions().to_vec();
    if !extensions.contains(&ExtensionType::LastResort) {
        extensions.push(ExtensionType::LastResort);
    }
    // What is no suite that OpenMLS knows is GREASE, which this leaf does without.
    let ciphersuites: Vec<_> = capabilities
        .ciphersuites()
        .iter()
        .filter_map(|&suite| Ciphersuite::try_from(suite).ok())
        .collect();
    Capabilities::new(
        Some(capabilities.versions()),
        Some(&ciphersuites),
        Some(&extensions),
        Some(capabilities.proposals()),
        Some(capabilities.credentials()),
    )
}
