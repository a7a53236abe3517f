//! What only the operator of a restored store writes.

use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;

use crate::accounts::CHALLENGE_KEY_BYTES;
use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Engine, Tx};

/// A log goes on this far behind its last number: further than a device can have read in the time that was lost.
const NUMBERS_SKIPPED: u64 = 1 << 32;

impl Tx<'_> {
    /// Ends sessions, and forgets invitations, which may have been used or withdrawn, and the answers to retries, which hold
    /// KeyPackages that they disclosed; at most `limit` of each. Returns how many.
    pub(crate) fn forget_what_may_have_ended(&self, limit: u32) -> Result<u64, Fault> {
        // Any time and any age will do.
        let ever = UnixSeconds(i64::MAX.cast_unsigned());
        self.count_ended_sessions()?;
        self.sweep_accounts(ever, ever, limit)
    }

    /// The device uses no marks, as far as is known.
    pub(crate) fn forget_state_mark(&self, device: DeviceKey) -> Result<(), Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "UPDATE devices SET state_mark = NULL WHERE user_id = ?1 AND id = ?2",
            Engine::Postgres(_) => {
                "UPDATE device_states SET state_mark = NULL WHERE user_id = ?1 AND device_id = ?2"
            }
        };
        self.queue(sql, params![device.user(), device])
    }

    /// Rows to come in the group after `after`, by id, have numbers that no device has seen: one may have read further than this
    /// store remembers, and would take them for rows that it knows. The store remembers which were left out: what had them is lost.
    /// Returns the group, while there is one.
    pub(crate) fn skip_numbers(&self, after: Option<&GroupId>) -> Result<Option<GroupId>, Fault> {
        let Some(group) = self.group_after(after)? else {
            return Ok(None);
        };
        self.queue(
            "INSERT INTO gaps (group_id, first_seq, last_seq)
             SELECT id, next_seq, next_seq + ?2 - 1 FROM groups WHERE id = ?1",
            params![&group, NUMBERS_SKIPPED],
        )?;
        self.queue(
            "UPDATE groups SET next_seq = next_seq + ?2 WHERE id = ?1",
            params![&group, NUMBERS_SKIPPED],
        )?;
        Ok(Some(group))
    }

    /// A challenge of before is none of this incarnation: it may have been traded for a session that is forgotten.
    pub(crate) fn set_incarnation(
        &self,
        incarnation: &str,
        challenge_key: &[u8; CHALLENGE_KEY_BYTES],
    ) -> Result<(), Fault> {
        self.queue(
            "UPDATE server SET incarnation = ?1, challenge_key = ?2 WHERE id = 1",
            params![incarnation, challenge_key.as_slice()],
        )
    }
}
