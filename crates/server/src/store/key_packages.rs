use std::collections::HashSet;

use larder_lifecycle::{DirectoryPolicy, DirectoryState, DirectoryStatus, Lifetime, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::statement::{Param, Row, params};
use crate::store::tx::{DeviceKey, Tx};

/// The state of a stored KeyPackage.
pub(crate) type StoredState = DirectoryState<DeviceKey, GroupId>;

/// A KeyPackage to store.
pub(crate) struct NewKeyPackage<'a> {
    pub(crate) key_package_ref: &'a KeyPackageRef,
    pub(crate) owner: DeviceKey,
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
    pub(crate) state: StoredState,
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

/// A KeyPackage that was taken, and its bytes.
pub(crate) type Taken = (KeyPackageRef, Vec<u8>);

/// Who takes a KeyPackage, and for what.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) id: String,
    pub(crate) by: DeviceKey,
    pub(crate) group: GroupId,
    pub(crate) until: UnixSeconds,
}

/// The statuses as stored. The partial indexes and triggers of the schema name these numbers.
fn status_to_sql(status: DirectoryStatus) -> u8 {
    match status {
        DirectoryStatus::Available => 0,
        DirectoryStatus::Reserved => 1,
        DirectoryStatus::Spent => 2,
        DirectoryStatus::Lapsed => 3,
        DirectoryStatus::Expired => 4,
        DirectoryStatus::Revoked => 5,
    }
}

fn status_from_sql(number: u8) -> Result<DirectoryStatus, Fault> {
    DirectoryStatus::ALL
        .into_iter()
        .find(|status| status_to_sql(*status) == number)
        .ok_or(Fault::Corrupt("an unknown KeyPackage status"))
}

const ROW: &str =
    "SELECT ref, device_id, suite, not_after, uploaded_at, status, holder, group_id, reserved_until, not_before
     FROM key_packages";

fn key_package_row(row: &Row<'_>) -> Result<KeyPackageRow, Fault> {
    let holding = || -> Result<(DeviceKey, GroupId), Fault> {
        let holder = row
            .optional(6)?
            .ok_or(Fault::Corrupt("a reservation without a holder"))?;
        let group = row
            .optional(7)?
            .ok_or(Fault::Corrupt("a reservation without a group"))?;
        Ok((holder, group))
    };
    let state = match status_from_sql(row.get(5)?)? {
        DirectoryStatus::Available => StoredState::Available,
        DirectoryStatus::Reserved => {
            let (by, group) = holding()?;
            let until = row
                .optional(8)?
                .ok_or(Fault::Corrupt("a reservation without an end"))?;
            StoredState::Reserved { by, group, until }
        }
        DirectoryStatus::Spent => {
            let (by, group) = holding()?;
            StoredState::Spent { by, group }
        }
        DirectoryStatus::Lapsed => StoredState::Lapsed,
        DirectoryStatus::Expired => StoredState::Expired,
        DirectoryStatus::Revoked => StoredState::Revoked,
    };
    Ok(KeyPackageRow {
        key_package_ref: row.get(0)?,
        owner: row.get(1)?,
        suite: row.get(2)?,
        lifetime: Lifetime {
            not_before: row.get(9)?,
            not_after: row.get(3)?,
        },
        uploaded_at: row.get(4)?,
        state,
    })
}

impl Tx<'_> {
    pub(crate) fn key_package(
        &self,
        key_package_ref: &KeyPackageRef,
    ) -> Result<Option<KeyPackageRow>, Fault> {
        self.row(
            &format!("{ROW} WHERE ref = ?1"),
            params![key_package_ref],
            key_package_row,
        )
    }

    /// The KeyPackages of these references, in their order; `None` for one that is unknown.
    pub(crate) fn key_packages(&self, refs: &[KeyPackageRef]) -> Result<Vec<Option<KeyPackageRow>>, Fault> {
        let refs: Vec<_> = refs.iter().map(|known_by| [Param::from(known_by)]).collect();
        self.row_of_each(&format!("{ROW} WHERE ref = ?1"), &refs, key_package_row)
    }

    /// Every KeyPackage of a device, tombstones included, oldest first.
    pub(crate) fn key_packages_of(&self, owner: DeviceKey) -> Result<Vec<KeyPackageRow>, Fault> {
        self.rows(
            &format!("{ROW} WHERE device_id = ?1 ORDER BY uploaded_at, ref"),
            params![owner],
            key_package_row,
        )
    }

    /// Reserved KeyPackages of one reservation.
    pub(crate) fn key_packages_of_reservation(&self, id: &str) -> Result<Vec<KeyPackageRow>, Fault> {
        self.rows(
            &format!("{ROW} WHERE reservation_id = ?1 AND status = 1"),
            params![id],
            key_package_row,
        )
    }

    /// Reserved KeyPackages whose deadline is past.
    pub(crate) fn key_packages_to_lapse(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        self.key_packages_due("status = 1 AND reserved_until <= ?1", params![now, limit])
    }

    /// Available KeyPackages with a `not_after` up to this.
    pub(crate) fn key_packages_to_expire(
        &self,
        not_after: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        self.key_packages_due("status = 0 AND not_after <= ?1", params![not_after, limit])
    }

    fn key_packages_due(&self, due: &str, params: &[Param<'_>]) -> Result<Vec<KeyPackageRow>, Fault> {
        self.due(
            || self.rows(&format!("{ROW} WHERE {due} LIMIT ?2"), params, key_package_row),
            |row| row.owner,
        )
    }

    /// Those of these hashes that are of public keys which a KeyPackage of either kind has or had, as its init key or as its leaf's
    /// encryption key.
    pub(crate) fn known_keys(&self, hashes: &[&[u8]]) -> Result<HashSet<Vec<u8>>, Fault> {
        let asked: Vec<_> = hashes.iter().map(|hash| [Param::from(*hash)]).collect();
        let found = self.row_of_each(
            "SELECT hash FROM key_package_keys WHERE hash = ?1",
            &asked,
            |row| row.get(0),
        )?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Stores a KeyPackage as available. The schema refuses one whose keys are or were here under another reference.
    pub(crate) fn insert_key_package(&self, new: &NewKeyPackage<'_>, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO key_packages (ref, device_id, suite, status, init_key_hash, encryption_key_hash,
                 not_before, not_after, uploaded_at)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8)",
            params![
                new.key_package_ref,
                new.owner,
                new.suite,
                new.init_key_hash,
                new.encryption_key_hash,
                new.lifetime.not_before,
                new.lifetime.not_after,
                now
            ],
        )?;
        self.queue(
            "INSERT INTO key_package_bytes (ref, bytes) VALUES (?1, ?2)",
            params![new.key_package_ref, new.bytes],
        )
    }

    /// Notes when the device's last accepted upload was, and counts the change of its KeyPackages.
    pub(crate) fn note_upload(&self, owner: DeviceKey, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET last_upload = ?2, generation = generation + 1 WHERE id = ?1",
            params![owner, now],
        )
    }

    /// Takes the oldest available KeyPackage that is still served of each of these devices and ciphersuites, and returns it with its
    /// bytes. One statement finds and marks it, so that no two callers can get the same one. The devices are locked,
    /// so that nobody is told that none is left because of a reservation that comes to nothing.
    pub(crate) fn take_available(
        &self,
        stocks: &[(DeviceKey, u16)],
        serving: Serving,
        reservation: &Reservation,
    ) -> Result<Vec<Option<Taken>>, Fault> {
        let asked: Vec<[Param<'_>; 8]> = stocks
            .iter()
            .map(|(owner, suite)| {
                [
                    Param::from(reservation.by),
                    Param::from(&reservation.group),
                    Param::from(reservation.until),
                    Param::from(reservation.id.as_str()),
                    Param::from(*owner),
                    Param::from(*suite),
                    Param::from(serving.not_after),
                    Param::from(serving.not_before),
                ]
            })
            .collect();
        self.row_of_each(
            "UPDATE key_packages
             SET status = 1, holder = ?1, group_id = ?2, reserved_until = ?3, reservation_id = ?4
             WHERE status = 0 AND ref = (
                 SELECT ref FROM key_packages
                 WHERE device_id = ?5 AND suite = ?6 AND status = 0 AND not_after > ?7 AND not_before <= ?8
                 ORDER BY not_after LIMIT 1
             )
             RETURNING ref, (SELECT bytes FROM key_package_bytes b WHERE b.ref = key_packages.ref)",
            &asked,
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The bytes of the KeyPackages of either kind with these references, in their order; `None` for one that cannot be added any
    /// more.
    pub(crate) fn bytes_of(&self, refs: &[KeyPackageRef]) -> Result<Vec<Option<Vec<u8>>>, Fault> {
        let refs: Vec<_> = refs.iter().map(|known_by| [Param::from(known_by)]).collect();
        self.row_of_each(
            "SELECT bytes FROM key_package_bytes WHERE ref = ?1
             UNION ALL SELECT bytes FROM last_resort_bytes WHERE ref = ?1",
            &refs,
            |row| row.get(0),
        )
    }

    /// How many KeyPackages of a device could be handed out at all.
    pub(crate) fn count_available_of_any_suite(
        &self,
        owner: DeviceKey,
        serving: Serving,
    ) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM key_packages
             WHERE device_id = ?1 AND status = 0 AND not_after > ?2 AND not_before <= ?3",
            params![owner, serving.not_after, serving.not_before],
            |row| row.get(0),
        )
    }

    /// Live (available or reserved) KeyPackages of a device.
    pub(crate) fn count_live(&self, owner: DeviceKey) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM key_packages WHERE device_id = ?1 AND status IN (0, 1)",
            params![owner],
            |row| row.get(0),
        )
    }

    /// Moves a KeyPackage from the state that was read to the next; its bytes go when that is terminal. When it has left the
    /// state that was read, the transaction fails.
    pub(crate) fn move_key_package(&self, row: &KeyPackageRow, next: &StoredState) -> Result<(), Fault> {
        self.queue_for_one(
            "UPDATE key_packages SET status = ?3 WHERE ref = ?1 AND status = ?2",
            params![
                &row.key_package_ref,
                status_to_sql(row.state.status()),
                status_to_sql(next.status())
            ],
        )?;
        match next.status().is_terminal() {
            true => self.queue(
                "DELETE FROM key_package_bytes WHERE ref = ?1",
                params![&row.key_package_ref],
            ),
            false => Ok(()),
        }
    }

    /// Removes tombstones with a `not_after` before this.
    pub(crate) fn forget_key_packages(&self, not_after: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        self.execute(
            "DELETE FROM key_packages WHERE ref IN (
                 SELECT ref FROM key_packages WHERE status > 1 AND not_after < ?1 LIMIT ?2
             )",
            params![not_after, limit],
        )
    }

    /// Counts a change of the device's KeyPackages.
    pub(crate) fn bump_generation(&self, owner: DeviceKey) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET generation = generation + 1 WHERE id = ?1",
            params![owner],
        )?;
        Ok(())
    }

    /// The device's generation and the time of its last accepted upload.
    pub(crate) fn generation(&self, owner: DeviceKey) -> Result<(u64, Option<UnixSeconds>), Fault> {
        self.one_row(
            "SELECT generation, last_upload FROM devices WHERE id = ?1",
            params![owner],
            |row| Ok((row.get(0)?, row.optional(1)?)),
        )
    }
}
