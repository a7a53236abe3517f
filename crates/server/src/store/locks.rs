//! Who may change what at the same time.
//!
//! SQLite has one writer, so nothing here concerns it. On PostgreSQL transactions run side by side at READ COMMITTED,
//! and code that was written for a single writer stays right because whatever changes together has one row that is
//! locked before the rest is read:
//!
//! * a **device's state**, which each request of the device holds first (`state_mark`);
//! * a **user's** row for how much all of the user's devices have reserved and stored together, and whom the user has
//!   blocked;
//! * a **group's** row for its epoch, state, roster and log; each number of the log is taken by a change of that row, so that
//!   nobody sees a later row before an earlier one;
//! * a **device's** row for its KeyPackages with the reservations on them, its audit chain and its mail;
//! * a **blob's** row for its parts;
//! * the row of the **totals** for the bytes of all blobs and the accounts of an hour. It is last, and each transaction takes it
//!   with one of its last statements: few requests store a blob or register.
//!
//! Who removes devices takes their states, too, as if the last request of each were this one.
//!
//! A lock is not waited for by itself: it goes before the next statement that reads, whose snapshot is of after it.
//!
//! They are locked in this order, and rows of one kind in ascending order, so that nobody waits in a circle. What has
//! no such row (names, init keys, idempotency keys, group ids) is unique by constraint: who comes second starts over,
//! and then finds what the first one stored. An invitation is taken by deleting it, before anything else: who comes second
//! waits, and then finds none.

use std::collections::BTreeSet;

use crate::error::Fault;
use crate::store::reservations::ReservationId;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Engine, Tx, UserKey};
use larder_wire::GroupId;

impl Tx<'_> {
    /// Keeps what a user's devices have together as it is for everybody else until the end of the transaction.
    pub(crate) fn lock_user(&self, user: UserKey) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(_) => self.queue(
                "SELECT 1 FROM users WHERE id = ?1 FOR NO KEY UPDATE",
                params![user],
            ),
        }
    }

    /// Keeps a group as it is for everybody else until the end of the transaction.
    pub(crate) fn lock_group(&self, group: &GroupId) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(_) => self.queue(
                "SELECT 1 FROM groups WHERE id = ?1 FOR NO KEY UPDATE",
                params![group],
            ),
        }
    }

    /// Keeps what belongs to these devices as it is for everybody else until the end of the transaction.
    pub(crate) fn lock_devices(&self, devices: impl IntoIterator<Item = DeviceKey>) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(session) => {
                let devices: BTreeSet<DeviceKey> = devices.into_iter().collect();
                session.queue_lock(
                    "SELECT 1 FROM unnest(?1::bigint[]) AS wanted JOIN devices d ON d.user_id = wanted >> 8 AND d.id = wanted
                     ORDER BY d.id FOR NO KEY UPDATE OF d",
                    devices.into_iter().map(|device| device.0),
                );
                Ok(())
            }
        }
    }

    /// Locks those of these devices that nobody else has locked, and returns them; `None` when no lock is needed.
    /// Waits for nobody.
    fn lock_idle_devices(
        &self,
        devices: impl IntoIterator<Item = DeviceKey>,
    ) -> Result<Option<Vec<DeviceKey>>, Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(None),
            Engine::Postgres(session) => {
                let locked = session.lock_rows(
                    "SELECT d.id FROM unnest($1::bigint[]) AS wanted JOIN devices d ON d.user_id = wanted >> 8 AND d.id = wanted
                     ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED",
                    devices.into_iter().map(|device| device.0),
                )?;
                Ok(Some(locked.into_iter().map(DeviceKey).collect()))
            }
        }
    }

    /// Locks the devices whose KeyPackages a reservation holds.
    pub(crate) fn lock_reservation(&self, id: ReservationId) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(_) => {
                let owners = self.rows(
                    "SELECT device_id FROM reservations WHERE id = ?1 AND state = 0",
                    params![&id],
                    |row| row.get::<DeviceKey>(0),
                )?;
                self.lock_devices(owners)
            }
        }
    }

    /// Whether it is this transaction's turn to sweep. One node at a time does, and the others need not.
    pub(crate) fn take_turn_to_sweep(&self) -> Result<bool, Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(true),
            Engine::Postgres(_) => {
                self.exists("SELECT 1 FROM server WHERE id = 1 FOR UPDATE SKIP LOCKED", &[])
            }
        }
    }

    /// What `find` finds, of devices that nobody else is changing. The others' rows stay due.
    pub(super) fn due<T>(
        &self,
        find: impl Fn() -> Result<Vec<T>, Fault>,
        owner: impl Fn(&T) -> DeviceKey,
    ) -> Result<Vec<T>, Fault> {
        let found = find()?;
        let Some(idle) = self.lock_idle_devices(found.iter().map(&owner))? else {
            return Ok(found);
        };
        // What was found before the lock may have moved since.
        let mut found = find()?;
        found.retain(|row| idle.contains(&owner(row)));
        Ok(found)
    }
}
