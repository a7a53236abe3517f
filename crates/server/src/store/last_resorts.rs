use larder_lifecycle::{LastResortState, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef};
use rusqlite::{OptionalExtension, Row, params};

use crate::error::Fault;
use crate::store::key_packages::{NewKeyPackage, Reservation};
use crate::store::tx::{DeviceKey, Tx, from_sql, stored_group_id, stored_ref, to_sql};

/// A stored last resort, without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct LastResortRow {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) suite: u16,
    pub(crate) not_after: UnixSeconds,
    pub(crate) uploaded_at: UnixSeconds,
    /// Whether it was ever handed out.
    pub(crate) used: bool,
    pub(crate) state: LastResortState,
}

/// A reservation on a last resort. There can be many on one.
#[derive(Debug, Clone)]
pub(crate) struct LastResortReservation {
    pub(crate) id: String,
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) holder: DeviceKey,
    pub(crate) group: GroupId,
}

/// The states as stored. The partial indexes and triggers of the schema name these numbers.
fn status_to_sql(state: LastResortState) -> u8 {
    match state {
        LastResortState::Active => 0,
        LastResortState::Retiring { .. } => 1,
        LastResortState::Gone => 2,
    }
}

fn state_from_sql(status: i64, retiring_until: Option<i64>) -> Result<LastResortState, Fault> {
    match (status, retiring_until) {
        (0, None) => Ok(LastResortState::Active),
        (1, Some(until)) => Ok(LastResortState::Retiring {
            until: UnixSeconds(from_sql(until)?),
        }),
        (2, _) => Ok(LastResortState::Gone),
        _ => Err(Fault::Corrupt("an unknown last-resort status")),
    }
}

const ROW: &str =
    "SELECT ref, device_id, suite, not_after, uploaded_at, used, status, retiring_until FROM last_resorts";

const RESERVATION: &str = "SELECT reservation_id, ref, holder, group_id FROM last_resort_reservations";

type RawRow = (Vec<u8>, i64, u16, i64, i64, bool, i64, Option<i64>);

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
    ))
}

fn parse_row(
    (key_package_ref, owner, suite, not_after, uploaded_at, used, status, retiring_until): RawRow,
) -> Result<LastResortRow, Fault> {
    Ok(LastResortRow {
        key_package_ref: stored_ref(&key_package_ref)?,
        owner: DeviceKey(owner),
        suite,
        not_after: UnixSeconds(from_sql(not_after)?),
        uploaded_at: UnixSeconds(from_sql(uploaded_at)?),
        used,
        state: state_from_sql(status, retiring_until)?,
    })
}

fn raw_reservation(row: &Row<'_>) -> rusqlite::Result<(String, Vec<u8>, i64, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn parse_reservation(
    (id, key_package_ref, holder, group): (String, Vec<u8>, i64, Vec<u8>),
) -> Result<LastResortReservation, Fault> {
    Ok(LastResortReservation {
        id,
        key_package_ref: stored_ref(&key_package_ref)?,
        holder: DeviceKey(holder),
        group: stored_group_id(&group)?,
    })
}

impl Tx<'_> {
    pub(crate) fn last_resort(
        &self,
        key_package_ref: &KeyPackageRef,
    ) -> Result<Option<LastResortRow>, Fault> {
        let row = self
            .connection()
            .prepare_cached(&format!("{ROW} WHERE ref = ?1"))?
            .query_row([key_package_ref.as_bytes()], raw_row)
            .optional()?;
        row.map(parse_row).transpose()
    }

    /// Every last resort of a device, tombstones included, oldest first.
    pub(crate) fn last_resorts_of(&self, owner: DeviceKey) -> Result<Vec<LastResortRow>, Fault> {
        self.select_last_resorts(
            &format!("{ROW} WHERE device_id = ?1 ORDER BY uploaded_at, ref"),
            params![owner.0],
        )
    }

    /// The active last resort of a device and suite.
    pub(crate) fn active_last_resort(
        &self,
        owner: DeviceKey,
        suite: u16,
    ) -> Result<Option<LastResortRow>, Fault> {
        let row = self
            .connection()
            .prepare_cached(&format!(
                "{ROW} WHERE device_id = ?1 AND suite = ?2 AND status = 0"
            ))?
            .query_row((owner.0, suite), raw_row)
            .optional()?;
        row.map(parse_row).transpose()
    }

    /// Whether a device has an active last resort of any suite that is still served.
    pub(crate) fn has_active_last_resort(
        &self,
        owner: DeviceKey,
        served_after: UnixSeconds,
    ) -> Result<bool, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT 1 FROM last_resorts WHERE device_id = ?1 AND status = 0 AND not_after > ?2",
            )?
            .exists((owner.0, to_sql(served_after.0)))?)
    }

    /// The active and retiring last resorts of a device and suite.
    pub(crate) fn count_live_last_resorts(&self, owner: DeviceKey, suite: u16) -> Result<u32, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT count(*) FROM last_resorts WHERE device_id = ?1 AND suite = ?2 AND status < 2",
            )?
            .query_row((owner.0, suite), |row| row.get(0))?)
    }

    /// Retiring last resorts whose time is over.
    pub(crate) fn last_resorts_to_retire(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortRow>, Fault> {
        self.select_last_resorts(
            &format!("{ROW} WHERE status = 1 AND retiring_until <= ?1 LIMIT ?2"),
            params![to_sql(now.0), limit],
        )
    }

    /// Active and retiring last resorts at the end of their lifetime.
    pub(crate) fn last_resorts_to_end(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortRow>, Fault> {
        self.select_last_resorts(
            &format!("{ROW} WHERE status < 2 AND not_after <= ?1 LIMIT ?2"),
            params![to_sql(now.0), limit],
        )
    }

    fn select_last_resorts(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<LastResortRow>, Fault> {
        let mut statement = self.connection().prepare_cached(sql)?;
        let rows = statement.query_map(parameters, raw_row)?;
        rows.map(|row| parse_row(row?)).collect()
    }

    /// Whether a KeyPackage of either kind has or had this init key.
    pub(crate) fn knows_init_key(&self, init_key_hash: &[u8]) -> Result<bool, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT 1 FROM key_packages WHERE init_key_hash = ?1
                 UNION ALL SELECT 1 FROM last_resorts WHERE init_key_hash = ?1",
            )?
            .exists([init_key_hash])?)
    }

    /// Stores a last resort as active and unused. The one before it must have left that state.
    pub(crate) fn insert_last_resort(&self, new: &NewKeyPackage<'_>, now: UnixSeconds) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "INSERT INTO last_resorts
                     (ref, device_id, suite, status, used, init_key_hash, not_after, uploaded_at)
                 VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6)",
            )?
            .execute((
                new.key_package_ref.as_bytes(),
                new.owner.0,
                new.suite,
                new.init_key_hash,
                to_sql(new.not_after.0),
                to_sql(now.0),
            ))?;
        self.connection()
            .prepare_cached("INSERT INTO last_resort_bytes (ref, bytes) VALUES (?1, ?2)")?
            .execute((new.key_package_ref.as_bytes(), new.bytes))?;
        self.note_upload(new.owner, now)
    }

    pub(crate) fn last_resort_bytes(&self, key_package_ref: &KeyPackageRef) -> Result<Vec<u8>, Fault> {
        Ok(self
            .connection()
            .prepare_cached("SELECT bytes FROM last_resort_bytes WHERE ref = ?1")?
            .query_row([key_package_ref.as_bytes()], |row| row.get(0))?)
    }

    /// Notes the first time that an active last resort is handed out; `false` when that happened before. The only
    /// write to the row that a reservation makes, and it makes it once.
    pub(crate) fn mark_last_resort_used(&self, key_package_ref: &KeyPackageRef) -> Result<bool, Fault> {
        let marked = self
            .connection()
            .prepare_cached("UPDATE last_resorts SET used = 1 WHERE ref = ?1 AND status = 0 AND used = 0")?
            .execute([key_package_ref.as_bytes()])?;
        Ok(marked == 1)
    }

    /// Moves a last resort from the state that was read to the next; its bytes go when that is the end. `false` when
    /// it has left the state that was read.
    pub(crate) fn move_last_resort(&self, row: &LastResortRow, next: LastResortState) -> Result<bool, Fault> {
        let retiring_until = match next {
            LastResortState::Retiring { until } => Some(to_sql(until.0)),
            LastResortState::Active | LastResortState::Gone => None,
        };
        let moved = self
            .connection()
            .prepare_cached(
                "UPDATE last_resorts SET status = ?3, retiring_until = ifnull(?4, retiring_until)
                 WHERE ref = ?1 AND status = ?2",
            )?
            .execute((
                row.key_package_ref.as_bytes(),
                status_to_sql(row.state),
                status_to_sql(next),
                retiring_until,
            ))?;
        if moved == 1 && next == LastResortState::Gone {
            self.connection()
                .prepare_cached("DELETE FROM last_resort_bytes WHERE ref = ?1")?
                .execute([row.key_package_ref.as_bytes()])?;
        }
        Ok(moved == 1)
    }

    /// Removes tombstones with a `not_after` before this. One that is still named by a reservation stays.
    pub(crate) fn forget_last_resorts(&self, not_after: UnixSeconds, limit: u32) -> Result<usize, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "DELETE FROM last_resorts WHERE ref IN (
                     SELECT ref FROM last_resorts AS gone
                     WHERE status = 2 AND not_after < ?1
                       AND NOT EXISTS (SELECT 1 FROM last_resort_reservations WHERE ref = gone.ref)
                     LIMIT ?2
                 )",
            )?
            .execute((to_sql(not_after.0), limit))?)
    }

    // Reservations

    pub(crate) fn insert_last_resort_reservation(
        &self,
        key_package_ref: &KeyPackageRef,
        reservation: &Reservation,
    ) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "INSERT INTO last_resort_reservations (reservation_id, ref, holder, group_id, reserved_until)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                &reservation.id,
                key_package_ref.as_bytes(),
                reservation.by.0,
                reservation.group.as_bytes(),
                to_sql(reservation.until.0),
            ))?;
        Ok(())
    }

    /// The reservation of a holder for a group on a last resort; the one that lapses first, if there are several.
    pub(crate) fn last_resort_reservation(
        &self,
        key_package_ref: &KeyPackageRef,
        holder: DeviceKey,
        group: &GroupId,
    ) -> Result<Option<LastResortReservation>, Fault> {
        let found = self
            .connection()
            .prepare_cached(&format!(
                "{RESERVATION} WHERE ref = ?1 AND holder = ?2 AND group_id = ?3
                 ORDER BY reserved_until, reservation_id LIMIT 1"
            ))?
            .query_row(
                (key_package_ref.as_bytes(), holder.0, group.as_bytes()),
                raw_reservation,
            )
            .optional()?;
        found.map(parse_reservation).transpose()
    }

    /// What one reservation holds of last resorts.
    pub(crate) fn last_resorts_of_reservation(&self, id: &str) -> Result<Vec<LastResortReservation>, Fault> {
        self.select_reservations(&format!("{RESERVATION} WHERE reservation_id = ?1"), params![id])
    }

    /// Reservations on last resorts whose deadline is past.
    pub(crate) fn last_resort_reservations_to_lapse(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortReservation>, Fault> {
        self.select_reservations(
            &format!("{RESERVATION} WHERE reserved_until <= ?1 LIMIT ?2"),
            params![to_sql(now.0), limit],
        )
    }

    fn select_reservations(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<LastResortReservation>, Fault> {
        let mut statement = self.connection().prepare_cached(sql)?;
        let rows = statement.query_map(parameters, raw_reservation)?;
        rows.map(|row| parse_reservation(row?)).collect()
    }

    /// Ends a reservation; `false` when it has ended already.
    pub(crate) fn end_last_resort_reservation(
        &self,
        reservation: &LastResortReservation,
    ) -> Result<bool, Fault> {
        let ended = self
            .connection()
            .prepare_cached("DELETE FROM last_resort_reservations WHERE reservation_id = ?1 AND ref = ?2")?
            .execute((&reservation.id, reservation.key_package_ref.as_bytes()))?;
        Ok(ended == 1)
    }
}
