use larder_lifecycle::{Reservation, ReservationState, UnixSeconds};
use larder_wire::{GroupId, KeyPackageRef};
use uuid::{NoContext, Timestamp, Uuid};

use crate::error::Fault;
use crate::store::key_packages::{COLUMNS, KeyPackageRow, Stored, key_package_row, kind_to_sql};
use crate::store::statement::{Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx, UserKey};

/// What names a reservation. One request reserves under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReservationId(Uuid);

impl ReservationId {
    /// A new one. They are in the order of time, so that rows that are made together are stored together.
    pub(crate) fn made_at(now: UnixSeconds) -> Self {
        Self(Uuid::new_v7(Timestamp::from_unix(NoContext, now.0, 0)))
    }

    /// As a client names it; `None` when it is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// As it is stored.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let id = Uuid::from_slice(bytes).map_err(|_| Fault::Corrupt("the id of a reservation"))?;
        Ok(Self(id))
    }
}

impl std::fmt::Display for ReservationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The states as stored. The partial indexes and triggers of the schema name these numbers.
fn state_to_sql(state: ReservationState) -> u8 {
    match state {
        ReservationState::Open => 0,
        ReservationState::Committed => 1,
        ReservationState::Lapsed => 2,
        ReservationState::Revoked => 3,
    }
}

fn state_from_sql(number: u8) -> Result<ReservationState, Fault> {
    Ok(match number {
        0 => ReservationState::Open,
        1 => ReservationState::Committed,
        2 => ReservationState::Lapsed,
        3 => ReservationState::Revoked,
        _ => return Err(Fault::Corrupt("an unknown state of a reservation")),
    })
}

/// The four columns from `first` on.
pub(super) fn reservation(row: &Row<'_>, first: usize) -> Result<Reservation<DeviceKey, GroupId>, Fault> {
    Ok(Reservation {
        by: row.get(first)?,
        group: row.get(first + 1)?,
        until: row.get(first + 2)?,
        state: state_from_sql(row.get(first + 3)?)?,
    })
}

/// What a transition has made of a KeyPackage and of its reservation.
pub(crate) struct StateChange<'a> {
    pub(crate) owner: DeviceKey,
    pub(crate) key_package_ref: &'a KeyPackageRef,
    pub(crate) from: &'a Stored,
    pub(crate) next: &'a Stored,
    /// The name of the reservation, if there is one.
    pub(crate) reservation: Option<ReservationId>,
}

const HELD_BY_USER: &str = "SELECT device_id FROM reservations
     WHERE holder_user = ?1 AND state IN (0, 2) AND reserved_until > ?2 AND reserved_until < ?3
       AND (kind = 0 OR (state = 0 AND reserved_until > ?4))";

/// A KeyPackage comes with this one of its reservations.
const FROM: &str = "reservations r
     JOIN key_packages k ON k.user_id = r.user_id AND k.device_id = r.device_id AND k.ref = r.ref";

impl Tx<'_> {
    /// What a reservation holds, as long as it is open.
    pub(crate) fn reserved_under(&self, id: ReservationId) -> Result<Vec<KeyPackageRow>, Fault> {
        self.rows(
            &format!("SELECT {COLUMNS} FROM {FROM} WHERE r.id = ?1 AND r.state = 0"),
            params![&id],
            key_package_row,
        )
    }

    /// What a device has spent for a group under a reservation.
    pub(crate) fn spent_under(
        &self,
        id: ReservationId,
        holder: DeviceKey,
        group: &GroupId,
    ) -> Result<Vec<KeyPackageRef>, Fault> {
        self.rows(
            "SELECT ref FROM reservations WHERE id = ?1 AND holder = ?2 AND group_id = ?3 AND state = 1",
            params![&id, holder, group],
            |row| row.get(0),
        )
    }

    /// A last resort that a holder has reserved for a group, as long as the reservation is open; that which lapses first, if
    /// there are several.
    pub(crate) fn reserved_last_resort(
        &self,
        (owner, key_package_ref): (DeviceKey, &KeyPackageRef),
        holder: DeviceKey,
        group: &GroupId,
    ) -> Result<Option<KeyPackageRow>, Fault> {
        self.row(
            &format!(
                "SELECT {COLUMNS} FROM {FROM}
                 WHERE r.user_id = ?1 AND r.device_id = ?2 AND r.ref = ?3 AND r.holder = ?4 AND r.group_id = ?5
                   AND r.kind = 1 AND r.state = 0
                 ORDER BY r.reserved_until, r.id LIMIT 1"
            ),
            params![owner.user(), owner, key_package_ref, holder, group],
            key_package_row,
        )
    }

    /// What is reserved and past its deadline.
    pub(crate) fn reserved_to_lapse(
        &self,
        now: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<KeyPackageRow>, Fault> {
        let sql =
            format!("SELECT {COLUMNS} FROM {FROM} WHERE r.state = 0 AND r.reserved_until <= ?1 LIMIT ?2");
        self.due(
            || self.rows(&sql, params![now, limit], key_package_row),
            |row| row.owner,
        )
    }

    /// The devices that a user holds reservations on, each as often as there are reservations: open ones, and of
    /// single-use KeyPackages those that lapsed, if their deadline is past `since`. None that has its deadline after
    /// `until`: that was made by a clock that was far ahead.
    pub(crate) fn held_by_user(
        &self,
        user: UserKey,
        (since, until): (UnixSeconds, UnixSeconds),
        now: UnixSeconds,
    ) -> Result<Vec<DeviceKey>, Fault> {
        self.rows(HELD_BY_USER, params![user, since, until, now], |row| row.get(0))
    }

    /// Reads them ahead.
    pub(crate) fn held_by_user_ahead(
        &self,
        user: UserKey,
        (since, until): (UnixSeconds, UnixSeconds),
        now: UnixSeconds,
    ) {
        self.read_ahead(HELD_BY_USER, params![user, since, until, now]);
    }

    /// Open reservations on a last resort.
    pub(crate) fn count_open_on_last_resort(
        &self,
        owner: DeviceKey,
        key_package_ref: &KeyPackageRef,
    ) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM reservations
             WHERE user_id = ?1 AND device_id = ?2 AND ref = ?3 AND kind = 1 AND state = 0",
            params![owner.user(), owner, key_package_ref],
            |row| row.get(0),
        )
    }

    /// The part of [`write_states`](Self::write_states) that concerns the reservations.
    pub(super) fn write_reservations(&self, changes: &[StateChange<'_>]) -> Result<(), Fault> {
        let (mut made, mut changed) = (Vec::new(), Vec::new());
        for change in changes {
            let StateChange {
                owner,
                key_package_ref,
                from,
                next,
                reservation,
            } = change;
            let Some(after) = &next.reservation else {
                continue;
            };
            let id = reservation
                .as_ref()
                .ok_or(Fault::Corrupt("a reservation without a name"))?;
            match &from.reservation {
                None => made.push(row_params![
                    owner.user(),
                    *owner,
                    *key_package_ref,
                    kind_to_sql(next.kind),
                    id,
                    after.by,
                    after.by.user(),
                    &after.group,
                    after.until,
                    state_to_sql(after.state)
                ]),
                Some(before) if before.state != after.state => changed.push(row_params![
                    owner.user(),
                    *owner,
                    *key_package_ref,
                    id,
                    state_to_sql(before.state),
                    state_to_sql(after.state)
                ]),
                Some(_) => {}
            }
        }
        self.queue_each(
            "INSERT INTO reservations
                 (user_id, device_id, ref, kind, id, holder, holder_user, group_id, reserved_until, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            &made,
        )?;
        self.queue_for_one_each(
            "UPDATE reservations SET state = ?6
             WHERE user_id = ?1 AND device_id = ?2 AND ref = ?3 AND id = ?4 AND state = ?5",
            &changed,
        )
    }

    /// Removes reservations on last resorts that have ended and whose deadline is past. Those on single-use KeyPackages go with
    /// the tombstone.
    pub(crate) fn forget_reservations(&self, now: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        self.execute(
            "DELETE FROM reservations WHERE kind = 1 AND (user_id, device_id, ref, id) IN (
                 SELECT user_id, device_id, ref, id FROM reservations
                 WHERE kind = 1 AND state > 0 AND reserved_until <= ?1 LIMIT ?2
             )",
            params![now, limit],
        )
    }
}
