use larder_lifecycle::{Correction, DirectoryStatus, Kind, PoolEvent, PoolState, UnixSeconds, reconcile};
use openmls::prelude::KeyPackageRef;

use crate::error::PoolError;
use crate::last_resort::{note_use, retire_older};
use crate::losses;
use crate::metadata::{self, Metadata};
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::transition::{Change, Tally, apply};

/// What the directory holds under a KeyPackageRef.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    kind: Kind,
    status: DirectoryStatus,
    used: bool,
}

impl Held {
    /// A KeyPackage of this kind in this state. `used` says whether it was ever handed out; it matters of a last resort.
    ///
    /// `None` for a state that no KeyPackage of the kind is ever in. A single-use one is available, reserved, spent, lapsed,
    /// expired or revoked; a last resort is available, retiring, expired, revoked or gone.
    pub const fn new(kind: Kind, status: DirectoryStatus, used: bool) -> Option<Self> {
        use DirectoryStatus as D;
        let can_be = match (kind, status) {
            (Kind::SingleUse | Kind::LastResort, D::Available | D::Expired | D::Revoked)
            | (Kind::SingleUse, D::Reserved | D::Spent | D::Lapsed)
            | (Kind::LastResort, D::Retiring | D::Gone) => true,
            (Kind::SingleUse, D::Retiring | D::Gone)
            | (Kind::LastResort, D::Reserved | D::Spent | D::Lapsed) => false,
        };
        if can_be {
            Some(Self { kind, status, used })
        } else {
            None
        }
    }

    /// A KeyPackage of this kind that may be handed out and never was.
    pub const fn available(kind: Kind) -> Self {
        Self {
            kind,
            status: DirectoryStatus::Available,
            used: false,
        }
    }

    /// How often it may be handed out.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its state.
    pub fn status(&self) -> DirectoryStatus {
        self.status
    }

    /// Whether it was ever handed out.
    pub fn used(&self) -> bool {
        self.used
    }
}

/// The directory's answer about one uploaded KeyPackage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The directory holds it.
    Held(Held),
    /// The directory refused it, and never held it.
    Rejected,
}

/// What the directory's verdicts changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confirmed {
    /// KeyPackages that changed their state and kept their private keys. Last resorts that retire because a newer one
    /// was confirmed are among them.
    pub moved: u32,
    /// KeyPackages that became terminal; their private keys are gone.
    pub erased: u32,
}

/// One KeyPackage in the directory's inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// Its reference.
    pub key_package_ref: KeyPackageRef,
    /// What it is, and its state there.
    pub held: Held,
    /// When its reservation may lapse. A hint.
    pub reserved_until: Option<UnixSeconds>,
}

/// What a reconcile found and changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// The directory could hand these out, or accept a Commit that adds them, and we could not open the invitation:
    /// revoke them there.
    pub revoke_there: Vec<KeyPackageRef>,
    /// KeyPackages that the directory does not know yet; [`KeyPackagePool::begin_upload`] gives them again.
    pub upload_again: u32,
    /// KeyPackages that took over the directory's state and kept their private keys.
    pub moved: u32,
    /// KeyPackages, last resorts included, that the directory held and does not name any more. They do not count from now
    /// on, and are replaced by the next plans.
    pub lost: u32,
    /// KeyPackages that became terminal; their private keys are gone.
    pub erased: u32,
}

impl KeyPackagePool {
    /// Takes over the directory's verdicts on an upload.
    ///
    /// What it says of KeyPackages that are unknown here, or that have moved on since, is ignored: an answer may come
    /// late. A KeyPackage that becomes terminal loses its private keys. When a last resort is confirmed, the older ones
    /// of its ciphersuite retire: their private keys are erased by the first sweep 24 hours later.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn confirm(
        &self,
        tx: &Tx<'_>,
        verdicts: &[(KeyPackageRef, Verdict)],
        now: UnixSeconds,
    ) -> Result<Confirmed, PoolError> {
        tx.atomically(|| {
            let mut heard = Heard::default();
            for (key_package_ref, verdict) in verdicts {
                let Some(row) = metadata::find(tx.connection(), key_package_ref)? else {
                    continue;
                };
                match verdict {
                    Verdict::Rejected => heard.apply(tx, &row, PoolEvent::Rejected, now)?,
                    Verdict::Held(held) if held.kind == row.kind => {
                        let row = note_use(tx, row, held.used, now)?;
                        heard.apply(tx, &row, PoolEvent::told(held.kind, held.status, now), now)?;
                    }
                    // A word on the other kind is no word on it.
                    Verdict::Held(_) => {}
                }
            }
            let Tally { moved, erased } = heard.finish(tx, now)?;
            Ok(Confirmed { moved, erased })
        })
    }

    /// Compares the pool with the directory's inventory and takes over what the directory knows better.
    ///
    /// `directory` is the whole inventory of the device, of every ciphersuite. A KeyPackage that it does not name is
    /// not erased: absence proves nothing. One that the directory held before does not count any more, and its private keys
    /// are kept to its end, beside at most 255 others of that kind, for an invitation that may be under way.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn reconcile(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        now: UnixSeconds,
    ) -> Result<Reconciled, PoolError> {
        tx.atomically(|| {
            let connection = tx.connection();
            let current = self.generation(tx)?;
            let here = metadata::all(connection)?;
            let corrections = reconcile(
                here.iter()
                    .map(|row| (row.key_package_ref.clone(), row.kind, row.state)),
                directory
                    .iter()
                    .map(|told| (told.key_package_ref.clone(), told.held.kind, told.held.status)),
                now,
            );
            let (mut found, mut heard) = (Reconciled::default(), Heard::default());
            for correction in corrections {
                match correction {
                    Correction::RevokeThere(key_package_ref) => found.revoke_there.push(key_package_ref),
                    Correction::UploadAgain(key_package_ref) => {
                        let row = metadata::find(connection, &key_package_ref)?;
                        found.upload_again += u32::from(row.map(|row| row.generation) == current);
                    }
                    Correction::Apply(key_package_ref, event) => {
                        let Some(row) = metadata::find(connection, &key_package_ref)? else {
                            continue;
                        };
                        if event == PoolEvent::Missing {
                            found.lost += 1;
                            losses::note(connection, &row)?;
                        }
                        heard.apply(tx, &row, event, now)?;
                    }
                }
            }
            take_over_hints(tx, directory, now)?;
            let mut tally = heard.finish(tx, now)?;
            losses::hold_to_cap(tx, now, &mut tally)?;
            (found.moved, found.erased) = (tally.moved, tally.erased);
            Ok(found)
        })
    }

    /// Erases the private keys of KeyPackages that are spent in the directory and still live here, for a device that was
    /// restored from an old copy: their invitations were answered by the state that came after the copy. Returns how many.
    ///
    /// `directory` is an inventory that was fetched before the device read its inbox to the end: what was spent by then and is
    /// live after has no Welcome to wait for. Anyone else calls [`reconcile`](Self::reconcile), which keeps such keys.
    ///
    /// # Errors
    /// [`PoolError`] when the store cannot be used, or private keys survive their deletion.
    pub fn give_up_spent(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        now: UnixSeconds,
    ) -> Result<u32, PoolError> {
        tx.atomically(|| {
            let mut tally = Tally::default();
            for told in directory {
                if told.held.status != DirectoryStatus::Spent {
                    continue;
                }
                match metadata::find(tx.connection(), &told.key_package_ref)? {
                    Some(row) if row.kind == told.held.kind => {
                        tally.note(apply(tx, &row, PoolEvent::Revoke, now)?);
                    }
                    Some(_) | None => {}
                }
            }
            Ok(tally.erased)
        })
    }
}

/// What the directory's words have done so far.
#[derive(Default)]
struct Heard {
    tally: Tally,
    /// The last resorts that were confirmed.
    confirmed: Vec<Metadata>,
}

impl Heard {
    fn apply(
        &mut self,
        tx: &Tx<'_>,
        row: &Metadata,
        event: PoolEvent,
        now: UnixSeconds,
    ) -> Result<(), PoolError> {
        let change = apply(tx, row, event, now)?;
        self.tally.note(change);
        if (row.kind, change) == (Kind::LastResort, Change::Moved(PoolState::Available)) {
            self.confirmed.push(row.clone());
        }
        Ok(())
    }

    /// Retires the last resorts that those which were confirmed replace; after everything that was said of them, so that
    /// its order makes no difference.
    fn finish(mut self, tx: &Tx<'_>, now: UnixSeconds) -> Result<Tally, PoolError> {
        for newer in &self.confirmed {
            retire_older(tx, newer, now, &mut self.tally)?;
        }
        Ok(self.tally)
    }
}

fn take_over_hints(tx: &Tx<'_>, directory: &[DirectoryRow], now: UnixSeconds) -> Result<(), PoolError> {
    for told in directory {
        let row = match metadata::find(tx.connection(), &told.key_package_ref)? {
            Some(row) if row.kind == told.held.kind && row.state.is_live() => row,
            Some(_) | None => continue,
        };
        match row.kind {
            Kind::SingleUse if row.reservation_expires_at != told.reserved_until => {
                let next = Metadata {
                    reservation_expires_at: told.reserved_until,
                    ..row.clone()
                };
                metadata::write_state(tx.connection(), &row, &next)?;
            }
            Kind::SingleUse => {}
            Kind::LastResort => {
                note_use(tx, row, told.held.used, now)?;
            }
        }
    }
    Ok(())
}
