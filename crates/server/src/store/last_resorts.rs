use larder_lifecycle::{LastResortState, Lifetime, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::key_packages::{NewKeyPackage, Reservation, Serving};
use crate::store::statement::{Param, Row, params};
use crate::store::tx::{DeviceKey, Tx};

/// A stored last resort, without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct LastResortRow {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) owner: DeviceKey,
    pub(crate) suite: u16,
    pub(crate) lifetime: Lifetime,
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
    /// Whose last resort it is.
    pub(crate) owner: DeviceKey,
}

/// The states as stored. The partial indexes and triggers of the schema name these numbers.
fn status_to_sql(state: LastResortState) -> u8 {
    match state {
        LastResortState::Active => 0,
        LastResortState::Retiring { .. } => 1,
        LastResortState::Gone => 2,
    }
}

fn state_from_sql(status: u8, retiring_until: Option<UnixSeconds>) -> Result<LastResortState, Fault> {
    match (status, retiring_until) {
        (0, None) => Ok(LastResortState::Active),
        (1, Some(until)) => Ok(LastResortState::Retiring { until }),
        (2, _) => Ok(LastResortState::Gone),
        _ => Err(Fault::Corrupt("an unknown last-resort status")),
    }
}

const ROW: &str =
    "SELECT ref, device_id, suite, not_after, uploaded_at, used, status, retiring_until, not_before
     FROM last_resorts";

const RESERVATION: &str = "SELECT r.reservation_id, r.ref, r.holder, r.group_id, l.device_id
    FROM last_resort_reservations r JOIN last_resorts l ON l.ref = r.ref";

fn last_resort_row(row: &Row<'_>) -> Result<LastResortRow, Fault> {
    Ok(LastResortRow {
        key_package_ref: row.get(0)?,
        owner: row.get(1)?,
        suite: row.get(2)?,
        lifetime: Lifetime {
            not_before: row.get(8)?,
            not_after: row.get(3)?,
        },
        uploaded_at: row.get(4)?,
        used: row.get(5)?,
        state: state_from_sql(row.get(6)?, row.optional(7)?)?,
    })
}

fn reservation_row(row: &Row<'_>) -> Result<LastResortReservation, Fault> {
    Ok(LastResortReservation {
        id: row.get(0)?,
        key_package_ref: row.get(1)?,
        holder: row.get(2)?,
        group: row.get(3)?,
        owner: row.get(4)?,
    })
}

impl Tx<'_> {
    pub(crate) fn last_resort(
        &self,
        key_package_ref: &KeyPackageRef,
    ) -> Result<Option<LastResortRow>, Fault> {
        self.row(
            &format!("{ROW} WHERE ref = ?1"),
            params![key_package_ref],
            last_resort_row,
        )
    }

    /// The last resorts of these references, in their order; `None` for one that is unknown.
    pub(crate) fn last_resorts(&self, refs: &[KeyPackageRef]) -> Result<Vec<Option<LastResortRow>>, Fault> {
        let refs: Vec<_> = refs.iter().map(|known_by| [Param::from(known_by)]).collect();
        self.row_of_each(&format!("{ROW} WHERE ref = ?1"), &refs, last_resort_row)
    }

    /// Every last resort of a device, tombstones included, oldest first.
    pub(crate) fn last_resorts_of(&self, owner: DeviceKey) -> Result<Vec<LastResortRow>, Fault> {
        self.rows(
            &format!("{ROW} WHERE device_id = ?1 ORDER BY uploaded_at, ref"),
            params![owner],
            last_resort_row,
        )
    }

    /// The active last resort of a device and suite.
    pub(crate) fn active_last_resort(
        &self,
        owner: DeviceKey,
        suite: u16,
    ) -> Result<Option<LastResortRow>, Fault> {
        self.row(
            &format!("{ROW} WHERE device_id = ?1 AND suite = ?2 AND status = 0"),
            params![owner, suite],
            last_resort_row,
        )
    }

    /// Whether a device has an active last resort of any suite that is still served.
    pub(crate) fn has_active_last_resort(&self, owner: DeviceKey, serving: Serving) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM last_resorts WHERE device_id = ?1 AND status = 0 AND not_after > ?2 AND not_before <= ?3",
            params![owner, serving.not_after, serving.not_before],
        )
    }

    /// The active and retiring last resorts of a device and suite.
    pub(crate) fn count_live_last_resorts(&self, owner: DeviceKey, suite: u16) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM last_resorts WHERE device_id = ?1 AND suite = ?2 AND status < 2",
            params![owner, suite],
            |row| row.get(0),
        )
    }

    /// Retiring last resorts whose time is over.
    pub(crate) fn last_resorts_to_retire(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortRow>, Fault> {
        self.last_resorts_due("status = 1 AND retiring_until <= ?1", params![now, limit])
    }

    /// Active and retiring last resorts at the end of their lifetime.
    pub(crate) fn last_resorts_to_end(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortRow>, Fault> {
        self.last_resorts_due("status < 2 AND not_after <= ?1", params![now, limit])
    }

    fn last_resorts_due(&self, due: &str, params: &[Param<'_>]) -> Result<Vec<LastResortRow>, Fault> {
        self.due(
            || self.rows(&format!("{ROW} WHERE {due} LIMIT ?2"), params, last_resort_row),
            |row| row.owner,
        )
    }

    /// Stores a last resort as active and unused. The one before it must have left that state.
    pub(crate) fn insert_last_resort(&self, new: &NewKeyPackage<'_>, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO last_resorts
                 (ref, device_id, suite, status, used, init_key_hash, encryption_key_hash, not_before, not_after,
                  uploaded_at)
             VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, ?6, ?7, ?8)",
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
            "INSERT INTO last_resort_bytes (ref, bytes) VALUES (?1, ?2)",
            params![new.key_package_ref, new.bytes],
        )
    }

    pub(crate) fn last_resort_bytes(&self, key_package_ref: &KeyPackageRef) -> Result<Vec<u8>, Fault> {
        self.one_row(
            "SELECT bytes FROM last_resort_bytes WHERE ref = ?1",
            params![key_package_ref],
            |row| row.get(0),
        )
    }

    /// Notes the first time that an active last resort is handed out; `false` when that happened before. The only
    /// write to the row that a reservation makes, and it makes it once.
    pub(crate) fn mark_last_resort_used(&self, key_package_ref: &KeyPackageRef) -> Result<bool, Fault> {
        let marked = self.execute(
            "UPDATE last_resorts SET used = 1 WHERE ref = ?1 AND status = 0 AND used = 0",
            params![key_package_ref],
        )?;
        Ok(marked == 1)
    }

    /// Moves a last resort from the state that was read to the next; its bytes go when that is the end. `false` when
    /// it has left the state that was read.
    pub(crate) fn move_last_resort(&self, row: &LastResortRow, next: LastResortState) -> Result<bool, Fault> {
        let retiring_until = match next {
            LastResortState::Retiring { until } => Some(until),
            LastResortState::Active | LastResortState::Gone => None,
        };
        let moved = self.execute(
            "UPDATE last_resorts SET status = ?3, retiring_until = coalesce(?4, retiring_until)
             WHERE ref = ?1 AND status = ?2",
            params![
                &row.key_package_ref,
                status_to_sql(row.state),
                status_to_sql(next),
                retiring_until
            ],
        )?;
        if moved == 1 && next == LastResortState::Gone {
            self.queue(
                "DELETE FROM last_resort_bytes WHERE ref = ?1",
                params![&row.key_package_ref],
            )?;
        }
        Ok(moved == 1)
    }

    /// Removes tombstones with a `not_after` before this. One that is still named by a reservation stays.
    pub(crate) fn forget_last_resorts(&self, not_after: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        self.execute(
            "DELETE FROM last_resorts WHERE ref IN (
                 SELECT ref FROM last_resorts AS gone
                 WHERE status = 2 AND not_after < ?1
                   AND NOT EXISTS (SELECT 1 FROM last_resort_reservations WHERE ref = gone.ref)
                 LIMIT ?2
             )",
            params![not_after, limit],
        )
    }

    // Reservations

    pub(crate) fn insert_last_resort_reservation(
        &self,
        key_package_ref: &KeyPackageRef,
        reservation: &Reservation,
    ) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO last_resort_reservations (reservation_id, ref, holder, group_id, reserved_until)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                reservation.id.as_str(),
                key_package_ref,
                reservation.by,
                &reservation.group,
                reservation.until
            ],
        )?;
        Ok(())
    }

    /// The reservation of a holder for a group on a last resort; the one that lapses first, if there are several.
    pub(crate) fn last_resort_reservation(
        &self,
        key_package_ref: &KeyPackageRef,
        holder: DeviceKey,
        group: &GroupId,
    ) -> Result<Option<LastResortReservation>, Fault> {
        self.row(
            &format!(
                "{RESERVATION} WHERE r.ref = ?1 AND r.holder = ?2 AND r.group_id = ?3
                 ORDER BY r.reserved_until, r.reservation_id LIMIT 1"
            ),
            params![key_package_ref, holder, group],
            reservation_row,
        )
    }

    /// What one reservation holds of last resorts.
    pub(crate) fn last_resorts_of_reservation(&self, id: &str) -> Result<Vec<LastResortReservation>, Fault> {
        self.rows(
            &format!("{RESERVATION} WHERE r.reservation_id = ?1"),
            params![id],
            reservation_row,
        )
    }

    /// Reservations on last resorts whose deadline is past.
    pub(crate) fn last_resort_reservations_to_lapse(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<LastResortReservation>, Fault> {
        self.due(
            || {
                self.rows(
                    &format!("{RESERVATION} WHERE r.reserved_until <= ?1 LIMIT ?2"),
                    params![now, limit],
                    reservation_row,
                )
            },
            |reservation| reservation.owner,
        )
    }

    /// Ends a reservation; `false` when it has ended already.
    pub(crate) fn end_last_resort_reservation(
        &self,
        reservation: &LastResortReservation,
    ) -> Result<bool, Fault> {
        let ended = self.execute(
            "DELETE FROM last_resort_reservations WHERE reservation_id = ?1 AND ref = ?2",
            params![reservation.id.as_str(), &reservation.key_package_ref],
        )?;
        Ok(ended == 1)
    }
}
