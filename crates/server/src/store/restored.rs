//! What only the operator of a restored store writes.

use larder_lifecycle::UnixSeconds;

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Engine, Tx};

/// An inbox goes on this far behind its last number: further than a device can have read in the time that was lost.
const INBOX_NUMBERS_SKIPPED: u64 = 1 << 32;

impl Tx<'_> {
    /// Ends sessions, and forgets challenges, invitations, which may have been used or withdrawn, and the answers to retries,
    /// which hold KeyPackages that they disclosed; at most `limit` of each. Returns how many.
    pub(crate) fn forget_what_may_have_ended(&self, limit: u32) -> Result<u64, Fault> {
        // Any time and any age will do.
        let ever = UnixSeconds(i64::MAX.cast_unsigned());
        self.sweep_accounts(ever, ever, limit)
    }

    /// The device uses no marks, as far as is known.
    pub(crate) fn forget_state_mark(&self, device: DeviceKey) -> Result<(), Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "UPDATE devices SET state_mark = NULL WHERE id = ?1",
            Engine::Postgres(_) => "UPDATE device_states SET state_mark = NULL WHERE device_id = ?1",
        };
        self.execute(sql, params![device]).map(drop)
    }

    /// Rows to come have numbers that the device has not seen: it may have read further than this store remembers, and
    /// would take them for rows that it knows.
    pub(crate) fn skip_inbox_numbers(&self, device: DeviceKey) -> Result<(), Fault> {
        self.execute(
            "UPDATE devices SET inbox_last = inbox_last + ?2 WHERE id = ?1",
            params![device, INBOX_NUMBERS_SKIPPED],
        )
        .map(drop)
    }

    pub(crate) fn set_incarnation(&self, incarnation: &str) -> Result<(), Fault> {
        self.execute(
            "UPDATE server SET incarnation = ?1 WHERE id = 1",
            params![incarnation],
        )
        .map(drop)
    }
}
