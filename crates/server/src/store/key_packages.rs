use larder_lifecycle::{DirectoryState, DirectoryStatus, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef};
use rusqlite::{OptionalExtension, Row, params};

use crate::error::Fault;
use crate::store::tx::{DeviceKey, Tx, from_sql, stored_group_id, stored_ref, to_sql};

/// The state of a stored KeyPackage.
pub(crate) type StoredState = DirectoryState<DeviceKey, GroupId>;

/// A KeyPackage to store.
pub(crate) struct NewKeyPackage<'a> {
    pub(crate) key_package_ref: &'a KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) suite: u16,
    pub(crate) init_key_hash: &'a [u8],
    pub(crate) not_after: UnixSeconds,
    pub(crate) bytes: &'a [u8],
}

/// A stored KeyPackage, without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct KeyPackageRow {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) suite: u16,
    pub(crate) not_after: UnixSeconds,
    pub(crate) uploaded_at: UnixSeconds,
    pub(crate) state: StoredState,
}

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

fn status_from_sql(number: i64) -> Result<DirectoryStatus, Fault> {
    DirectoryStatus::ALL
        .into_iter()
        .find(|status| i64::from(status_to_sql(*status)) == number)
        .ok_or(Fault::Corrupt("an unknown KeyPackage status"))
}

const ROW: &str =
    "SELECT ref, device_id, suite, not_after, uploaded_at, status, holder, group_id, reserved_until
     FROM key_packages";

type RawRow = (
    Vec<u8>,
    i64,
    u16,
    i64,
    i64,
    i64,
    Option<i64>,
    Option<Vec<u8>>,
    Option<i64>,
);

fn raw_row(row: &Row<'_>) -> rusqlite::Result<RawRow> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
    ))
}

fn parse_row(
    (key_package_ref, owner, suite, not_after, uploaded_at, status, holder, group, until): RawRow,
) -> Result<KeyPackageRow, Fault> {
    let holding = || -> Result<(DeviceKey, GroupId), Fault> {
        let holder = holder.ok_or(Fault::Corrupt("a reservation without a holder"))?;
        let group = group
            .as_deref()
            .ok_or(Fault::Corrupt("a reservation without a group"))?;
        Ok((DeviceKey(holder), stored_group_id(group)?))
    };
    let state = match status_from_sql(status)? {
        DirectoryStatus::Available => StoredState::Available,
        DirectoryStatus::Reserved => {
            let (by, group) = holding()?;
            let until = until.ok_or(Fault::Corrupt("a reservation without an end"))?;
            StoredState::Reserved {
                by,
                group,
                until: UnixSeconds(from_sql(until)?),
            }
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
        key_package_ref: stored_ref(&key_package_ref)?,
        owner: DeviceKey(owner),
        suite,
        not_after: UnixSeconds(from_sql(not_after)?),
        uploaded_at: UnixSeconds(from_sql(uploaded_at)?),
        state,
    })
}

impl Tx<'_> {
    pub(crate) fn key_package(
        &self,
        key_package_ref: &KeyPackageRef,
    ) -> Result<Option<KeyPackageRow>, Fault> {
        let row = self
            .connection()
            .prepare_cached(&format!("{ROW} WHERE ref = ?1"))?
            .query_row([key_package_ref.as_bytes()], raw_row)
            .optional()?;
        row.map(parse_row).transpose()
    }

    /// Every KeyPackage of a device, tombstones included, oldest first.
    pub(crate) fn key_packages_of(&self, owner: DeviceKey) -> Result<Vec<KeyPackageRow>, Fault> {
        self.select(
            &format!("{ROW} WHERE device_id = ?1 ORDER BY uploaded_at, ref"),
            params![owner.0],
        )
    }

    /// Reserved KeyPackages of one reservation.
    pub(crate) fn key_packages_of_reservation(&self, id: &str) -> Result<Vec<KeyPackageRow>, Fault> {
        self.select(
            &format!("{ROW} WHERE reservation_id = ?1 AND status = 1"),
            params![id],
        )
    }

    /// Reserved KeyPackages whose deadline is past.
    pub(crate) fn key_packages_to_lapse(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        self.select(
            &format!("{ROW} WHERE status = 1 AND reserved_until <= ?1 LIMIT ?2"),
            params![to_sql(now.0), limit],
        )
    }

    /// Available KeyPackages with a `not_after` up to this.
    pub(crate) fn key_packages_to_expire(
        &self,
        not_after: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        self.select(
            &format!("{ROW} WHERE status = 0 AND not_after <= ?1 LIMIT ?2"),
            params![to_sql(not_after.0), limit],
        )
    }

    fn select(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<KeyPackageRow>, Fault> {
        let mut statement = self.connection().prepare_cached(sql)?;
        let rows = statement.query_map(parameters, raw_row)?;
        rows.map(|row| parse_row(row?)).collect()
    }

    /// Stores a KeyPackage as available; `false` when its init key is or was here under another reference, be it a
    /// last resort's.
    pub(crate) fn insert_key_package(
        &self,
        new: &NewKeyPackage<'_>,
        now: UnixSeconds,
    ) -> Result<bool, Fault> {
        let inserted = self
            .connection()
            .prepare_cached(
                "INSERT INTO key_packages (ref, device_id, suite, status, init_key_hash, not_after, uploaded_at)
                 SELECT ?1, ?2, ?3, 0, ?4, ?5, ?6
                 WHERE NOT EXISTS (SELECT 1 FROM last_resorts WHERE init_key_hash = ?4)
                 ON CONFLICT (init_key_hash) DO NOTHING",
            )?
            .execute((
                new.key_package_ref.as_bytes(),
                new.owner.0,
                new.suite,
                new.init_key_hash,
                to_sql(new.not_after.0),
                to_sql(now.0),
            ))?;
        if inserted == 0 {
            return Ok(false);
        }
        self.connection()
            .prepare_cached("INSERT INTO key_package_bytes (ref, bytes) VALUES (?1, ?2)")?
            .execute((new.key_package_ref.as_bytes(), new.bytes))?;
        self.note_upload(new.owner, now)?;
        Ok(true)
    }

    /// Notes when the device's last accepted upload was.
    pub(super) fn note_upload(&self, owner: DeviceKey, now: UnixSeconds) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("UPDATE devices SET last_upload = ?2 WHERE id = ?1")?
            .execute((owner.0, to_sql(now.0)))?;
        Ok(())
    }

    /// Takes the oldest available KeyPackage of a device in one of `suites` that is still served, and returns it with
    /// its bytes. One statement finds and marks it, so that no two callers can get the same one.
    pub(crate) fn take_available(
        &self,
        owner: DeviceKey,
        suites: &[u16],
        served_after: UnixSeconds,
        reservation: &Reservation,
    ) -> Result<Option<(KeyPackageRef, Vec<u8>)>, Fault> {
        for suite in suites {
            let taken: Option<Vec<u8>> = self
                .connection()
                .prepare_cached(
                    "UPDATE key_packages
                     SET status = 1, holder = ?1, group_id = ?2, reserved_until = ?3, reservation_id = ?4
                     WHERE status = 0 AND ref = (
                         SELECT ref FROM key_packages
                         WHERE device_id = ?5 AND suite = ?6 AND status = 0 AND not_after > ?7
                         ORDER BY not_after LIMIT 1
                     )
                     RETURNING ref",
                )?
                .query_row(
                    params![
                        reservation.by.0,
                        reservation.group.as_bytes(),
                        to_sql(reservation.until.0),
                        reservation.id,
                        owner.0,
                        suite,
                        to_sql(served_after.0)
                    ],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(key_package_ref) = taken {
                let bytes = self
                    .connection()
                    .prepare_cached("SELECT bytes FROM key_package_bytes WHERE ref = ?1")?
                    .query_row([&key_package_ref], |row| row.get(0))?;
                return Ok(Some((stored_ref(&key_package_ref)?, bytes)));
            }
        }
        Ok(None)
    }

    /// How many KeyPackages of a device could be handed out in one of `suites`.
    pub(crate) fn count_available(
        &self,
        owner: DeviceKey,
        suites: &[u16],
        served_after: UnixSeconds,
    ) -> Result<u32, Fault> {
        let mut available = 0;
        for suite in suites {
            available += self
                .connection()
                .prepare_cached(
                    "SELECT count(*) FROM key_packages
                     WHERE device_id = ?1 AND suite = ?2 AND status = 0 AND not_after > ?3",
                )?
                .query_row((owner.0, suite, to_sql(served_after.0)), |row| {
                    row.get::<_, u32>(0)
                })?;
        }
        Ok(available)
    }

    /// How many KeyPackages of a device could be handed out at all.
    pub(crate) fn count_available_of_any_suite(
        &self,
        owner: DeviceKey,
        served_after: UnixSeconds,
    ) -> Result<u32, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT count(*) FROM key_packages WHERE device_id = ?1 AND status = 0 AND not_after > ?2",
            )?
            .query_row((owner.0, to_sql(served_after.0)), |row| row.get(0))?)
    }

    /// Live (available or reserved) KeyPackages of a device.
    pub(crate) fn count_live(&self, owner: DeviceKey) -> Result<u32, Fault> {
        Ok(self
            .connection()
            .prepare_cached("SELECT count(*) FROM key_packages WHERE device_id = ?1 AND status IN (0, 1)")?
            .query_row([owner.0], |row| row.get(0))?)
    }

    /// Moves a KeyPackage from the state that was read to the next; its bytes go when that is terminal. `false` when
    /// it has left the state that was read.
    pub(crate) fn move_key_package(&self, row: &KeyPackageRow, next: &StoredState) -> Result<bool, Fault> {
        let moved = self
            .connection()
            .prepare_cached("UPDATE key_packages SET status = ?3 WHERE ref = ?1 AND status = ?2")?
            .execute((
                row.key_package_ref.as_bytes(),
                status_to_sql(row.state.status()),
                status_to_sql(next.status()),
            ))?;
        if moved == 1 && next.status().is_terminal() {
            self.connection()
                .prepare_cached("DELETE FROM key_package_bytes WHERE ref = ?1")?
                .execute([row.key_package_ref.as_bytes()])?;
        }
        Ok(moved == 1)
    }

    /// Removes tombstones with a `not_after` before this.
    pub(crate) fn forget_key_packages(&self, not_after: UnixSeconds, limit: u32) -> Result<usize, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "DELETE FROM key_packages WHERE ref IN (
                     SELECT ref FROM key_packages WHERE status > 1 AND not_after < ?1 LIMIT ?2
                 )",
            )?
            .execute((to_sql(not_after.0), limit))?)
    }

    /// Counts a change of the device's KeyPackages.
    pub(crate) fn bump_generation(&self, owner: DeviceKey) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("UPDATE devices SET generation = generation + 1 WHERE id = ?1")?
            .execute([owner.0])?;
        Ok(())
    }

    /// The device's generation and the time of its last accepted upload.
    pub(crate) fn generation(&self, owner: DeviceKey) -> Result<(u64, Option<UnixSeconds>), Fault> {
        let (generation, last_upload): (i64, Option<i64>) = self
            .connection()
            .prepare_cached("SELECT generation, last_upload FROM devices WHERE id = ?1")?
            .query_row([owner.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let last_upload = last_upload.map(from_sql).transpose()?.map(UnixSeconds);
        Ok((from_sql(generation)?, last_upload))
    }
}
