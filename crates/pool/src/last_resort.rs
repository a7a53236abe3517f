use larder_lifecycle::{
    LAST_RESORT_RETIRING_SECONDS, NewestLastResort, OwnLastResort, OwnLastResortEvent, PoolPolicy,
    UnixSeconds, last_resort_is_due,
};
use openmls::prelude::{
    Capabilities, Ciphersuite, ExtensionType, KeyPackage, KeyPackageRef, Lifetime, OpenMlsProvider as _,
};
use openmls_traits::signatures::Signer;

use crate::column::count;
use crate::directory::LastResortHeld;
use crate::error::{PoolError, StoreError};
use crate::generation::{self, Generation};
use crate::last_resort_rows::{self, LastResort};
use crate::losses::{self, Losses};
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::transition::{Change, Tally, apply_to_last_resort};

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
            self.check_hard_cap(live(&self.last_resorts(tx)?), 1)?;
            let generation = self.begin_generation(tx)?;
            losses::settle(tx.connection(), generation, now)?;
            let provider = tx.provider();
            let lifetime = PoolPolicy::default().lifetime(now);
            let bundle = KeyPackage::builder()
                .key_package_lifetime(Lifetime::init(lifetime.not_before.0, lifetime.not_after.0))
                .leaf_node_capabilities(with_last_resort(&self.capabilities))
                .mark_as_last_resort()
                .build(self.ciphersuite, &provider, signer, self.credential.clone())?;
            let key_package_ref = bundle.key_package().hash_ref(provider.crypto())?;
            last_resort_rows::insert(tx.connection(), &key_package_ref, generation, now, lifetime)?;
            Ok(key_package_ref)
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
            .filter(|row| matches!(row.state, OwnLastResort::Created | OwnLastResort::Active))
            .rfind(|row| Some(row.generation) == current)
            .map(|row| NewestLastResort {
                lifetime: row.lifetime,
                created_at: row.created_at,
                used: row.used_at.is_some(),
            });
        let withheld = newest.is_none() && Losses::of(tx.connection(), current)?.withholds_last_resort(now);
        let due = last_resort_is_due(&self.policy, newest, now) && !withheld;
        Ok(due && live(&rows) < self.policy.hard_cap())
    }

    /// Those of this ciphersuite, of every generation, oldest first.
    fn last_resorts(&self, tx: &Tx<'_>) -> Result<Vec<LastResort>, StoreError> {
        let generations = generation::of_suite(tx.connection(), self.ciphersuite)?;
        of(tx, &generations)
    }
}

/// Takes over the directory's word on a last resort. When it is confirmed, the older ones retire.
pub(crate) fn hear(
    tx: &Tx<'_>,
    row: &LastResort,
    held: LastResortHeld,
    now: UnixSeconds,
    tally: &mut Tally,
) -> Result<(), PoolError> {
    let event = match held {
        LastResortHeld::Active { used } => {
            if used && row.state.is_live() {
                last_resort_rows::set_used(tx.connection(), row, now)?;
            }
            if row.state.apply(OwnLastResortEvent::Confirmed) == Some(OwnLastResort::Active) {
                replace_older(tx, row, now, tally)?;
            }
            OwnLastResortEvent::Confirmed
        }
        // The one that replaced it may be unknown here, after a restore; the directory will not hand this one out.
        LastResortHeld::Retiring => replaced(now),
        LastResortHeld::Gone => OwnLastResortEvent::GoneThere,
    };
    tally.note(apply_to_last_resort(tx, row, event, now)?);
    Ok(())
}

/// Those of other generations too.
fn replace_older(
    tx: &Tx<'_>,
    newer: &LastResort,
    now: UnixSeconds,
    tally: &mut Tally,
) -> Result<(), PoolError> {
    for row in of(tx, &generation::siblings(tx.connection(), newer.generation)?)? {
        if row.sequence < newer.sequence {
            tally.note(apply_to_last_resort(tx, &row, replaced(now), now)?);
        }
    }
    Ok(())
}

/// A last resort that the directory does not hand out any more: invitations under way may still name it, for a day.
pub(crate) fn retire(tx: &Tx<'_>, row: &LastResort, now: UnixSeconds) -> Result<Change, PoolError> {
    apply_to_last_resort(tx, row, replaced(now), now)
}

fn replaced(now: UnixSeconds) -> OwnLastResortEvent {
    OwnLastResortEvent::Replace {
        until: now.plus(LAST_RESORT_RETIRING_SECONDS),
    }
}

fn of(tx: &Tx<'_>, generations: &[Generation]) -> Result<Vec<LastResort>, StoreError> {
    let mut rows = last_resort_rows::all(tx.connection())?;
    rows.retain(|row| generations.contains(&row.generation));
    Ok(rows)
}

fn live(rows: &[LastResort]) -> u32 {
    count(rows.iter().filter(|row| row.state.is_in_stock()).count())
}

/// The extension types that a KeyPackage uses are to be listed in its leaf (RFC 9420 §7.2, §10); OpenMLS marks a last
/// resort without listing the mark.
fn with_last_resort(capabilities: &Capabilities) -> Capabilities {
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
