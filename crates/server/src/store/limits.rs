use larder_lifecycle::UnixSeconds;
use larder_wire::UserName;

use crate::error::Fault;
use crate::store::statement::{params, row_params};
use crate::store::tx::{DeviceKey, Tx, UserKey};

impl Tx<'_> {
    /// Remembers until when each of these pairs counts, none of which is there twice.
    pub(crate) fn remember_pairs(&self, pairs: &[(UserKey, DeviceKey, UnixSeconds)]) -> Result<(), Fault> {
        let each = pairs.iter().map(|(asked_by, device, forgotten_at)| {
            row_params![device.user(), *device, *asked_by, *forgotten_at]
        });
        self.queue_each(
            "INSERT INTO pair_rates (user_id, device_id, asked_by, forgotten_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (user_id, device_id, asked_by) DO UPDATE SET forgotten_at = excluded.forgotten_at",
            &each.collect::<Vec<_>>(),
        )
    }

    /// Whether two users share a group.
    pub(crate) fn are_acquainted(&self, one: UserKey, other: UserKey) -> Result<bool, Fault> {
        let (first, end) = one.devices();
        self.exists(
            "SELECT 1 FROM members theirs WHERE theirs.device_id >> 8 = ?1 AND EXISTS (
                 SELECT 1 FROM members m
                 WHERE m.group_id = theirs.group_id AND m.device_id >= ?2 AND m.device_id < ?3
             )",
            params![other, first, end],
        )
    }

    /// Removes what is remembered of rates and says nothing any more.
    pub(crate) fn sweep_rates(&self, now: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        let pairs = self.execute(
            "DELETE FROM pair_rates WHERE (user_id, device_id, asked_by) IN (
                 SELECT user_id, device_id, asked_by FROM pair_rates WHERE forgotten_at <= ?1 LIMIT ?2
             )",
            params![now, limit],
        )?;
        let blobs = self.execute(
            "DELETE FROM blob_rates WHERE user_id IN (
                 SELECT user_id FROM blob_rates WHERE forgotten_at <= ?1 LIMIT ?2
             )",
            params![now, limit],
        )?;
        Ok(pairs + blobs)
    }

    // Blocks

    /// Blocks a name, whether somebody has it or not; `false` when the user has blocked `most` others already.
    pub(crate) fn insert_block(&self, user: UserKey, blocked: &UserName, most: u32) -> Result<bool, Fault> {
        let known = self.exists(
            "SELECT 1 FROM blocks WHERE user_id = ?1 AND blocked = ?2",
            params![user, blocked.as_str()],
        )?;
        if known {
            return Ok(true);
        }
        let count: u32 = self.one_row(
            "SELECT count(*) FROM blocks WHERE user_id = ?1",
            params![user],
            |row| row.get(0),
        )?;
        if count >= most {
            return Ok(false);
        }
        self.queue(
            "INSERT INTO blocks (user_id, blocked) VALUES (?1, ?2)",
            params![user, blocked.as_str()],
        )?;
        Ok(true)
    }

    pub(crate) fn remove_block(&self, user: UserKey, blocked: &UserName) -> Result<(), Fault> {
        self.queue(
            "DELETE FROM blocks WHERE user_id = ?1 AND blocked = ?2",
            params![user, blocked.as_str()],
        )
    }
}
