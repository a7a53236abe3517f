use std::collections::{BTreeSet, HashSet};

use larder_lifecycle::{
    DirectoryPolicy, DirectoryState, DirectoryStatus, End, Kind, Lifetime, Listed, UnixSeconds,
};
use larder_wire::{GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::reservations::{ReservationId, StateChange, reservation};
use crate::store::statement::{Param, Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx};

/// A stored KeyPackage in the directory's machine.
pub(crate) type Stored = Listed<DeviceKey, GroupId>;

/// A KeyPackage to store.
#[derive(Clone, Copy)]
pub(crate) struct NewKeyPackage<'a> {
    pub(crate) key_package_ref: &'a KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) kind: Kind,
    pub(crate) suite: u16,
    pub(crate) init_key_hash: &'a [u8],
    pub(crate) encryption_key_hash: &'a [u8],
    pub(crate) lifetime: Lifetime,
    pub(crate) bytes: &'a [u8],
}

/// A stored KeyPackage, without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct KeyPackageRow {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) suite: u16,
    pub(crate) lifetime: Lifetime,
    pub(crate) uploaded_at: UnixSeconds,
    /// With the reservation that it has if it is single-use, or that was asked for if it is a last resort.
    pub(crate) listed: Stored,
    /// Of that reservation.
    pub(crate) reservation_id: Option<ReservationId>,
}

/// Which lifetimes are served at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serving {
    /// The KeyPackage is valid from this time on, or an earlier one.
    pub(super) not_before: UnixSeconds,
    /// It is valid beyond this time.
    pub(super) not_after: UnixSeconds,
}

impl Serving {
    /// Those that are served now.
    pub(crate) fn at(now: UnixSeconds, policy: &DirectoryPolicy) -> Self {
        Self {
            not_before: now.minus(policy.skew_seconds),
            not_after: now.plus(policy.serving_margin_seconds),
        }
    }

    /// Whether this is one of them.
    pub(crate) fn includes(self, lifetime: Lifetime) -> bool {
        lifetime.not_before <= self.not_before && lifetime.not_after > self.not_after
    }
}

/// The kinds as stored. The partial indexes and triggers of the schema name these numbers, and those below.
pub(super) fn kind_to_sql(kind: Kind) -> u8 {
    match kind {
        Kind::SingleUse => 0,
        Kind::LastResort => 1,
    }
}

pub(super) fn kind_from_sql(number: u8) -> Result<Kind, Fault> {
    match number {
        0 => Ok(Kind::SingleUse),
        1 => Ok(Kind::LastResort),
        _ => Err(Fault::Corrupt("an unknown kind of KeyPackage")),
    }
}

fn status_to_sql(status: DirectoryStatus) -> u8 {
    match status {
        DirectoryStatus::Available => 0,
        DirectoryStatus::Reserved => 1,
        DirectoryStatus::Retiring => 2,
        DirectoryStatus::Spent => 3,
        DirectoryStatus::Lapsed => 4,
        DirectoryStatus::Expired => 5,
        DirectoryStatus::Revoked => 6,
        DirectoryStatus::Gone => 7,
    }
}

fn state_from_sql(number: u8, retiring_until: Option<UnixSeconds>) -> Result<DirectoryState, Fault> {
    Ok(match (number, retiring_until) {
        (0, None) => DirectoryState::Available,
        (1, None) => DirectoryState::Taken,
        (2, Some(until)) => DirectoryState::Retiring { until },
        (3, _) => DirectoryState::Ended(End::Spent),
        (4, _) => DirectoryState::Ended(End::Lapsed),
        (5, _) => DirectoryState::Ended(End::Expired),
        (6, _) => DirectoryState::Ended(End::Revoked),
        (7, _) => DirectoryState::Ended(End::Gone),
        _ => return Err(Fault::Corrupt("an unknown KeyPackage status")),
    })
}

pub(super) const COLUMNS: &str =
    "k.ref, k.device_id, k.suite, k.not_before, k.not_after, k.uploaded_at, k.kind, k.status,
     k.used, k.retiring_until, r.id, r.holder, r.group_id, r.reserved_until, r.state";

/// One that is single-use comes with its reservation, if it has one.
const FROM: &str = "key_packages k
     LEFT JOIN reservations r ON r.user_id = k.user_id AND r.device_id = k.device_id AND r.ref = k.ref AND r.kind = 0
         AND k.kind = 0";

pub(super) fn key_package_row(row: &Row<'_>) -> Result<KeyPackageRow, Fault> {
    let reservation_id = row.optional(10)?;
    let reservation = match reservation_id {
        Some(_) => Some(reservation(row, 11)?),
        None => None,
    };
    let kind = kind_from_sql(row.get(6)?)?;
    let state = state_from_sql(row.get(7)?, row.optional(9)?)?;
    if state == DirectoryState::Taken && reservation.is_none() {
        return Err(Fault::Corrupt("a KeyPackage that is reserved by nobody"));
    }
    Ok(KeyPackageRow {
        key_package_ref: row.get(0)?,
        owner: row.get(1)?,
        suite: row.get(2)?,
        lifetime: Lifetime {
            not_before: row.get(3)?,
            not_after: row.get(4)?,
        },
        uploaded_at: row.get(5)?,
        listed: Listed {
            kind,
            state,
            used: row.get(8)?,
            reservation,
        },
        reservation_id,
    })
}

/// What names KeyPackages, as parameters.
pub(super) fn named<'a>(
    names: impl IntoIterator<Item = (DeviceKey, &'a KeyPackageRef)>,
) -> Vec<[Param<'a>; 3]> {
    let names = names.into_iter();
    names
        .map(|(owner, known_by)| [owner.user().into(), owner.into(), known_by.into()])
        .collect()
}

impl Tx<'_> {
    /// The KeyPackages of these owners and references, in their order; `None` for one that is unknown.
    pub(crate) fn key_packages<'a>(
        &self,
        names: impl IntoIterator<Item = (DeviceKey, &'a KeyPackageRef)>,
    ) -> Result<Vec<Option<KeyPackageRow>>, Fault> {
        self.row_of_each(
            &format!("SELECT {COLUMNS} FROM {FROM} WHERE k.user_id = ?1 AND k.device_id = ?2 AND k.ref = ?3"),
            &named(names),
            key_package_row,
        )
    }

    /// Every KeyPackage of a device, tombstones included, oldest first.
    pub(crate) fn key_packages_of(&self, owner: DeviceKey) -> Result<Vec<KeyPackageRow>, Fault> {
        self.rows(
            &format!(
                "SELECT {COLUMNS} FROM {FROM} WHERE k.user_id = ?1 AND k.device_id = ?2 ORDER BY k.uploaded_at, k.ref"
            ),
            params![owner.user(), owner],
            key_package_row,
        )
    }

    /// The last resort of a device and suite that may be handed out.
    pub(crate) fn available_last_resort(
        &self,
        owner: DeviceKey,
        suite: u16,
    ) -> Result<Option<KeyPackageRow>, Fault> {
        self.row(
            &format!(
                "SELECT {COLUMNS} FROM {FROM}
                 WHERE k.user_id = ?1 AND k.device_id = ?2 AND k.suite = ?3 AND k.kind = 1 AND k.status = 0"
            ),
            params![owner.user(), owner, suite],
            key_package_row,
        )
    }

    /// Devices whose single-use KeyPackages may have a `not_after` up to this, at most `limit`. They are locked.
    pub(crate) fn devices_to_expire(
        &self,
        not_after: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<DeviceKey>, Fault> {
        self.due(
            || {
                self.rows(
                    "SELECT id FROM devices WHERE stock_ends <= ?1 ORDER BY stock_ends LIMIT ?2",
                    params![not_after, limit],
                    |row| row.get(0),
                )
            },
            |device| *device,
        )
    }

    /// Single-use KeyPackages of these devices that are available and have a `not_after` up to this.
    pub(crate) fn key_packages_to_expire(
        &self,
        owners: &[DeviceKey],
        not_after: UnixSeconds,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        let asked: Vec<_> = owners
            .iter()
            .map(|owner| [owner.user().into(), (*owner).into(), not_after.into()])
            .collect();
        let rows = self.rows_of_each(
            &format!(
                "SELECT {COLUMNS} FROM {FROM}
                 WHERE k.user_id = ?1 AND k.device_id = ?2 AND k.kind = 0 AND k.status = 0 AND k.not_after <= ?3"
            ),
            &asked,
            key_package_row,
        )?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Notes when the first of a device's single-use KeyPackages that are available ends.
    pub(crate) fn note_end_of_stock(&self, owner: DeviceKey) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET stock_ends = (
                 SELECT min(not_after) FROM key_packages
                 WHERE user_id = ?1 AND device_id = ?2 AND kind = 0 AND status = 0
             ) WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner],
        )
    }

    /// When that is as far as the device's row knows: no later.
    pub(crate) fn end_of_stock(&self, owner: DeviceKey) -> Result<Option<UnixSeconds>, Fault> {
        self.one_row(
            "SELECT stock_ends FROM devices WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner],
            |row| row.optional(0),
        )
    }

    /// Last resorts whose life or whose retirement is over, at most `limit` for each reason.
    pub(crate) fn last_resorts_to_end(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        let find = || -> Result<Vec<KeyPackageRow>, Fault> {
            let mut found: Vec<KeyPackageRow> = Vec::new();
            for due in [
                "k.kind = 1 AND k.status < 3 AND k.not_after <= ?1",
                "k.status = 2 AND k.retiring_until <= ?1",
            ] {
                let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE {due} LIMIT ?2");
                let rows = self.rows(&sql, params![now, limit], key_package_row)?;
                // One may be due for both reasons.
                let known = |row: &KeyPackageRow| {
                    found
                        .iter()
                        .any(|other| other.key_package_ref == row.key_package_ref)
                };
                let new: Vec<_> = rows.into_iter().filter(|row| !known(row)).collect();
                found.extend(new);
            }
            Ok(found)
        };
        self.due(find, |row| row.owner)
    }

    /// Those of these hashes that are of public keys which a KeyPackage has or had, as its init key or as its leaf's encryption
    /// key.
    pub(crate) fn known_keys(&self, hashes: &[&[u8]]) -> Result<HashSet<Vec<u8>>, Fault> {
        let asked: Vec<_> = hashes.iter().map(|hash| [Param::from(*hash)]).collect();
        let found = self.row_of_each(
            "SELECT hash FROM key_package_keys WHERE hash = ?1",
            &asked,
            |row| row.get(0),
        )?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Stores KeyPackages as available and unused. The schema refuses one whose keys are or were here under another reference,
    /// and a second last resort of a device and suite.
    pub(crate) fn insert_key_packages(
        &self,
        new: &[NewKeyPackage<'_>],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let each = new.iter().map(|new| {
            row_params![
                new.owner.user(),
                new.owner,
                new.key_package_ref,
                kind_to_sql(new.kind),
                new.suite,
                new.init_key_hash,
                new.encryption_key_hash,
                new.lifetime.not_before,
                new.lifetime.not_after,
                now
            ]
        });
        self.queue_each(
            "INSERT INTO key_packages (user_id, device_id, ref, kind, suite, status, used, init_key_hash,
                 encryption_key_hash, not_before, not_after, uploaded_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8, ?9, ?10)",
            &each.collect::<Vec<_>>(),
        )?;
        let each = new
            .iter()
            .map(|new| row_params![new.owner.user(), new.owner, new.key_package_ref, new.bytes]);
        self.queue_each(
            "INSERT INTO key_package_bytes (user_id, device_id, ref, bytes) VALUES (?1, ?2, ?3, ?4)",
            &each.collect::<Vec<_>>(),
        )
    }

    /// Notes when the device's last accepted upload was, and that one of its single-use KeyPackages has this `not_after`; counts
    /// the change of its KeyPackages.
    pub(crate) fn note_upload(
        &self,
        owner: DeviceKey,
        first_end: Option<UnixSeconds>,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET last_upload = ?3, generation = generation + 1,
                 stock_ends = CASE WHEN stock_ends <= ?4 THEN stock_ends ELSE coalesce(?4, stock_ends) END
             WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner, now, first_end],
        )
    }

    /// The bytes of these KeyPackages, in their order; `None` for one that is over.
    pub(crate) fn bytes_of<'a>(
        &self,
        names: impl IntoIterator<Item = (DeviceKey, &'a KeyPackageRef)>,
    ) -> Result<Vec<Option<Vec<u8>>>, Fault> {
        self.row_of_each(
            "SELECT bytes FROM key_package_bytes WHERE user_id = ?1 AND device_id = ?2 AND ref = ?3",
            &named(names),
            |row| row.get(0),
        )
    }

    /// How many KeyPackages of a kind a device has that could be handed out now, of whatever ciphersuite.
    pub(crate) fn count_available(
        &self,
        owner: DeviceKey,
        kind: Kind,
        serving: Serving,
    ) -> Result<u32, Fault> {
        // The kind by itself, so that its index is used.
        let kind = kind_to_sql(kind);
        self.one_row(
            &format!(
                "SELECT count(*) FROM key_packages
                 WHERE user_id = ?1 AND device_id = ?2 AND kind = {kind} AND status = 0 AND not_after > ?3
                   AND not_before <= ?4"
            ),
            params![owner.user(), owner, serving.not_after, serving.not_before],
            |row| row.get(0),
        )
    }

    /// Single-use KeyPackages of a device that are available or taken.
    pub(crate) fn count_single_use(&self, owner: DeviceKey) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM key_packages WHERE user_id = ?1 AND device_id = ?2 AND kind = 0 AND status < 2",
            params![owner.user(), owner],
            |row| row.get(0),
        )
    }

    /// Last resorts of a device and suite that are available or retiring.
    pub(crate) fn count_last_resorts(&self, owner: DeviceKey, suite: u16) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM key_packages
             WHERE user_id = ?1 AND device_id = ?2 AND suite = ?3 AND kind = 1 AND status < 3",
            params![owner.user(), owner, suite],
            |row| row.get(0),
        )
    }

    /// Stores what transitions have made of KeyPackages and of their reservations. What is over loses its bytes. When one of
    /// them has left the state that was read, the transaction fails. Nothing else writes a state.
    pub(crate) fn write_states(&self, changes: &[StateChange<'_>]) -> Result<(), Fault> {
        let is_written = |change: &&StateChange<'_>| {
            (change.from.state, change.from.used) != (change.next.state, change.next.used)
        };
        let written = changes.iter().filter(is_written).map(|change| {
            let retiring_until = match change.next.state {
                DirectoryState::Retiring { until } => Some(until),
                DirectoryState::Available | DirectoryState::Taken | DirectoryState::Ended(_) => None,
            };
            row_params![
                change.owner.user(),
                change.owner,
                change.key_package_ref,
                status_to_sql(change.from.state.status()),
                status_to_sql(change.next.state.status()),
                u8::from(change.next.used),
                retiring_until
            ]
        });
        self.queue_for_one_each(
            "UPDATE key_packages SET status = ?5, used = ?6, retiring_until = coalesce(?7, retiring_until)
             WHERE user_id = ?1 AND device_id = ?2 AND ref = ?3 AND status = ?4",
            &written.collect::<Vec<_>>(),
        )?;
        self.write_reservations(changes)?;
        let over = changes
            .iter()
            .filter(|change| change.next.state.has_ended() && !change.from.state.has_ended());
        self.queue_each(
            "DELETE FROM key_package_bytes WHERE user_id = ?1 AND device_id = ?2 AND ref = ?3",
            &named(over.map(|change| (change.owner, change.key_package_ref))),
        )
    }

    /// Removes tombstones with a `not_after` before this, with their reservations; those of last resorts once no reservation on
    /// them is open.
    pub(crate) fn forget_key_packages(&self, not_after: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        self.execute(
            "DELETE FROM key_packages WHERE (user_id, device_id, ref) IN (
                 SELECT user_id, device_id, ref FROM key_packages AS k
                 WHERE status > 2 AND not_after < ?1 AND NOT EXISTS (
                     SELECT 1 FROM reservations r
                     WHERE r.user_id = k.user_id AND r.device_id = k.device_id AND r.ref = k.ref AND r.kind = 1
                       AND r.state = 0
                 )
                 LIMIT ?2
             )",
            params![not_after, limit],
        )
    }

    /// Counts a change of the KeyPackages of these devices.
    pub(crate) fn bump_generations(&self, owners: &BTreeSet<DeviceKey>) -> Result<(), Fault> {
        let each = owners.iter().map(|owner| row_params![owner.user(), *owner]);
        self.queue_each(
            "UPDATE devices SET generation = generation + 1 WHERE user_id = ?1 AND id = ?2",
            &each.collect::<Vec<_>>(),
        )
    }

    /// The device's generation and the time of its last accepted upload.
    pub(crate) fn generation(&self, owner: DeviceKey) -> Result<(u64, Option<UnixSeconds>), Fault> {
        self.one_row(
            "SELECT generation, last_upload FROM devices WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner],
            |row| Ok((row.get(0)?, row.optional(1)?)),
        )
    }
}
