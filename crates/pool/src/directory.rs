use std::collections::BTreeSet;

use larder_lifecycle::{
    Correction, DirectoryStatus, OwnLastResort, OwnLastResortEvent, PoolEvent, PoolState, UnixSeconds,
    reconcile,
};
use openmls::prelude::KeyPackageRef;

use crate::error::PoolError;
use crate::last_resort::hear;
use crate::pool::KeyPackagePool;
use crate::store::Tx;
use crate::transition::{Tally, apply, apply_to_last_resort};
use crate::{last_resort_rows, losses, metadata};

/// What the directory holds under a KeyPackageRef.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A single-use KeyPackage, in this state.
    KeyPackage(DirectoryStatus),
    /// A last resort, in this state.
    LastResort(LastResortHeld),
}

/// The state of a last resort in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastResortHeld {
    /// Handed out when nothing else is left.
    Active {
        /// Whether it ever was.
        used: bool,
    },
    /// A newer one took its place. A Commit of a device that reserved it before is still accepted.
    Retiring,
    /// No Commit can add it any more.
    Gone,
}

impl LastResortHeld {
    fn is_active(self) -> bool {
        match self {
            Self::Active { .. } => true,
            Self::Retiring | Self::Gone => false,
        }
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
            let mut tally = Tally::default();
            for (key_package_ref, verdict) in verdicts {
                if let Some(row) = metadata::find(tx.connection(), key_package_ref)? {
                    let event = match verdict {
                        Verdict::Held(Held::KeyPackage(status)) => PoolEvent::Confirmed(*status),
                        Verdict::Held(Held::LastResort(_)) => continue,
                        Verdict::Rejected => PoolEvent::Rejected,
                    };
                    tally.note(apply(tx, &row, event, now)?);
                } else if let Some(row) = last_resort_rows::find(tx.connection(), key_package_ref)? {
                    match verdict {
                        Verdict::Held(Held::KeyPackage(_)) => {}
                        Verdict::Held(Held::LastResort(held)) => hear(tx, &row, *held, now, &mut tally)?,
                        Verdict::Rejected => {
                            let rejected = OwnLastResortEvent::Rejected;
                            tally.note(apply_to_last_resort(tx, &row, rejected, now)?);
                        }
                    }
                }
            }
            let Tally { moved, erased } = tally;
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
            let mut found = Findings::default();
            self.reconcile_key_packages(tx, directory, now, &mut found)?;
            self.reconcile_last_resorts(tx, directory, now, &mut found)?;
            take_over_reservations(tx, directory)?;
            losses::hold_to_cap(tx, now, &mut found.tally)?;
            Ok(Reconciled {
                revoke_there: found.revoke_there,
                upload_again: found.upload_again,
                moved: found.tally.moved,
                lost: found.lost,
                erased: found.tally.erased,
            })
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
                if told.held != Held::KeyPackage(DirectoryStatus::Spent) {
                    continue;
                }
                if let Some(row) = metadata::find(tx.connection(), &told.key_package_ref)? {
                    tally.note(apply(tx, &row, PoolEvent::Revoke, now)?);
                }
            }
            Ok(tally.erased)
        })
    }

    fn reconcile_key_packages(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        now: UnixSeconds,
        found: &mut Findings,
    ) -> Result<(), PoolError> {
        let current = self.generation(tx)?;
        let here = metadata::all(tx.connection())?;
        // What is of the other kind here than there is no word on either.
        let other_kind: BTreeSet<_> = last_resort_rows::all(tx.connection())?
            .into_iter()
            .map(|row| row.key_package_ref)
            .collect();
        let there = directory.iter().filter_map(|told| match told.held {
            Held::KeyPackage(status) if !other_kind.contains(&told.key_package_ref) => {
                Some((told.key_package_ref.clone(), status))
            }
            Held::KeyPackage(_) | Held::LastResort(_) => None,
        });
        let corrections = reconcile(
            here.iter().map(|row| (row.key_package_ref.clone(), row.state)),
            there,
        );
        for correction in corrections {
            match correction {
                Correction::RevokeThere(key_package_ref) => found.revoke_there.push(key_package_ref),
                Correction::UploadAgain(key_package_ref) => {
                    let row = metadata::find(tx.connection(), &key_package_ref)?;
                    found.upload_again += u32::from(row.map(|row| row.generation) == current);
                }
                Correction::Apply(key_package_ref, event) => {
                    let Some(row) = metadata::find(tx.connection(), &key_package_ref)? else {
                        continue;
                    };
                    if event == PoolEvent::Missing {
                        found.lost += 1;
                        // What was handed out was replaced by then.
                        let owed = u32::from(row.state == PoolState::Available);
                        losses::owe(tx.connection(), row.generation, owed, 0)?;
                    }
                    found.tally.note(apply(tx, &row, event, now)?);
                }
            }
        }
        Ok(())
    }

    fn reconcile_last_resorts(
        &self,
        tx: &Tx<'_>,
        directory: &[DirectoryRow],
        now: UnixSeconds,
        found: &mut Findings,
    ) -> Result<(), PoolError> {
        let connection = tx.connection();
        let mut named = BTreeSet::new();
        for told in directory {
            let (key_package_ref, Held::LastResort(held)) = (&told.key_package_ref, told.held) else {
                continue;
            };
            named.insert(key_package_ref);
            match last_resort_rows::find(connection, key_package_ref)? {
                Some(row) if row.state == OwnLastResort::Lost && held.is_active() => {
                    found.revoke_there.push(key_package_ref.clone());
                }
                Some(row) if row.state.is_live() => hear(tx, &row, held, now, &mut found.tally)?,
                None if metadata::find(connection, key_package_ref)?.is_some() => {}
                Some(_) | None => match held {
                    LastResortHeld::Active { .. } | LastResortHeld::Retiring => {
                        found.revoke_there.push(key_package_ref.clone());
                    }
                    LastResortHeld::Gone => {}
                },
            }
        }
        let current = self.generation(tx)?;
        for row in last_resort_rows::all(connection)? {
            if named.contains(&row.key_package_ref) {
                continue;
            }
            let again = row.state == OwnLastResort::Created && Some(row.generation) == current;
            found.upload_again += u32::from(again);
            if row.state == OwnLastResort::Active {
                found.lost += 1;
                losses::owe(connection, row.generation, 0, 1)?;
                let change = apply_to_last_resort(tx, &row, OwnLastResortEvent::Missing, now)?;
                found.tally.note(change);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Findings {
    revoke_there: Vec<KeyPackageRef>,
    upload_again: u32,
    lost: u32,
    tally: Tally,
}

fn take_over_reservations(tx: &Tx<'_>, directory: &[DirectoryRow]) -> Result<(), PoolError> {
    for told in directory {
        let Some(row) = metadata::find(tx.connection(), &told.key_package_ref)? else {
            continue;
        };
        if row.state.is_live() && row.reservation_expires_at != told.reserved_until {
            metadata::set_reservation(tx.connection(), &row.key_package_ref, told.reserved_until)?;
        }
    }
    Ok(())
}
