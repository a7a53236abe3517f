//! What only a check of the whole store reads.

use larder_wire::{GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::accounts::{DEVICE, DeviceRow, EVERY_DEVICE, device};
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Tx};

/// What is stored of a KeyPackage beside its state.
pub(crate) struct Content {
    pub(crate) init_key_hash: Vec<u8>,
    pub(crate) encryption_key_hash: Option<Vec<u8>>,
    pub(crate) bytes: Option<Vec<u8>>,
}

/// The numbers of an inbox.
pub(crate) struct InboxNumbers {
    pub(crate) last: u64,
    pub(crate) acknowledged: u64,
    /// Of the rows that are there.
    pub(crate) lowest: Option<u64>,
    pub(crate) highest: Option<u64>,
}

/// The numbers of a group's sequence.
pub(crate) struct SequenceNumbers {
    pub(crate) epoch: u64,
    pub(crate) last: u64,
    /// Of what is remembered.
    pub(crate) highest: Option<u64>,
    pub(crate) commits: u64,
    pub(crate) commit_epochs: u64,
    pub(crate) highest_commit_epoch: Option<u64>,
}

impl Tx<'_> {
    /// The device after this one, in the order of their rows, be it removed.
    pub(crate) fn device_after(&self, after: Option<DeviceKey>) -> Result<Option<DeviceRow>, Fault> {
        self.next_device(EVERY_DEVICE, after)
    }

    /// The device after this one that is not removed.
    pub(crate) fn present_device_after(&self, after: Option<DeviceKey>) -> Result<Option<DeviceRow>, Fault> {
        self.next_device(DEVICE, after)
    }

    fn next_device(&self, devices: &str, after: Option<DeviceKey>) -> Result<Option<DeviceRow>, Fault> {
        self.row(
            &format!("{devices} WHERE d.id > ?1 ORDER BY d.id LIMIT 1"),
            params![after.map_or(i64::MIN, |device| device.0)],
            device,
        )
    }

    /// The group after this one, by id.
    pub(crate) fn group_after(&self, after: Option<&GroupId>) -> Result<Option<GroupId>, Fault> {
        let after = after.map(GroupId::as_bytes).unwrap_or_default();
        self.row(
            "SELECT id FROM groups WHERE id > ?1 ORDER BY id LIMIT 1",
            params![after],
            |row| row.get(0),
        )
    }

    pub(crate) fn key_package_content(&self, key_package_ref: &KeyPackageRef) -> Result<Content, Fault> {
        self.content("key_packages", "key_package_bytes", key_package_ref)
    }

    pub(crate) fn last_resort_content(&self, key_package_ref: &KeyPackageRef) -> Result<Content, Fault> {
        self.content("last_resorts", "last_resort_bytes", key_package_ref)
    }

    fn content(&self, states: &str, bytes: &str, key_package_ref: &KeyPackageRef) -> Result<Content, Fault> {
        self.one_row(
            &format!(
                "SELECT s.init_key_hash, b.bytes, s.encryption_key_hash FROM {states} s LEFT JOIN {bytes} b ON b.ref = s.ref WHERE s.ref = ?1"
            ),
            params![key_package_ref],
            |row| {
                Ok(Content {
                    init_key_hash: row.get(0)?,
                    bytes: row.optional(1)?,
                    encryption_key_hash: row.optional(2)?,
                })
            },
        )
    }

    pub(crate) fn count_last_resort_reservations(
        &self,
        key_package_ref: &KeyPackageRef,
    ) -> Result<u32, Fault> {
        self.one_row(
            "SELECT count(*) FROM last_resort_reservations WHERE ref = ?1",
            params![key_package_ref],
            |row| row.get(0),
        )
    }

    pub(crate) fn inbox_numbers(&self, device: DeviceKey) -> Result<InboxNumbers, Fault> {
        self.one_row(
            "SELECT d.inbox_last, d.inbox_acknowledged,
                 (SELECT min(seq) FROM inbox WHERE device_id = ?1),
                 (SELECT max(seq) FROM inbox WHERE device_id = ?1)
             FROM devices d WHERE d.id = ?1",
            params![device],
            |row| {
                Ok(InboxNumbers {
                    last: row.get(0)?,
                    acknowledged: row.get(1)?,
                    lowest: row.optional(2)?,
                    highest: row.optional(3)?,
                })
            },
        )
    }

    pub(crate) fn sequence_numbers(&self, group: &GroupId) -> Result<SequenceNumbers, Fault> {
        self.one_row(
            "SELECT g.epoch, g.last_seq,
                 (SELECT max(seq) FROM accepted WHERE group_id = ?1),
                 (SELECT count(*) FROM accepted WHERE group_id = ?1 AND kind = 0),
                 (SELECT count(DISTINCT epoch) FROM accepted WHERE group_id = ?1 AND kind = 0),
                 (SELECT max(epoch) FROM accepted WHERE group_id = ?1 AND kind = 0)
             FROM groups g WHERE g.id = ?1",
            params![group],
            |row| {
                Ok(SequenceNumbers {
                    epoch: row.get(0)?,
                    last: row.get(1)?,
                    highest: row.optional(2)?,
                    commits: row.get(3)?,
                    commit_epochs: row.get(4)?,
                    highest_commit_epoch: row.optional(5)?,
                })
            },
        )
    }

    /// Bodies that no inbox row waits for, by their numbers, at most `limit`.
    pub(crate) fn bodies_without_a_row(&self, limit: u32) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT id FROM bodies b WHERE NOT EXISTS (SELECT 1 FROM inbox WHERE body_id = b.id) ORDER BY id LIMIT ?1",
            params![limit],
            |row| row.get(0),
        )
    }

    /// Inbox rows of the kinds that have a body and have none, by their devices, at most `limit`.
    pub(crate) fn rows_without_a_body(&self, limit: u32) -> Result<Vec<(String, u64)>, Fault> {
        self.rows(
            "SELECT d.name, i.seq FROM inbox i JOIN devices d ON d.id = i.device_id
             WHERE i.kind <= 3 AND NOT EXISTS (SELECT 1 FROM bodies WHERE id = i.body_id)
             ORDER BY d.name, i.seq LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Welcomes whose ratchet tree is not there, by their groups and epochs, at most `limit`.
    pub(crate) fn welcomes_without_a_tree(&self, limit: u32) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT DISTINCT i.group_id, i.epoch FROM inbox i
             WHERE i.kind = 0 AND i.group_id IS NOT NULL AND i.epoch IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM ratchet_trees t WHERE t.group_id = i.group_id AND t.epoch = i.epoch
             ) ORDER BY i.group_id, i.epoch LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Ratchet trees of epochs that their group has not reached, at most `limit`. Those that are merely not needed any
    /// more go with the next sweep.
    pub(crate) fn trees_of_no_epoch(&self, limit: u32) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT t.group_id, t.epoch FROM ratchet_trees t
             WHERE NOT EXISTS (SELECT 1 FROM groups g WHERE g.id = t.group_id AND g.epoch >= t.epoch)
             ORDER BY t.group_id, t.epoch LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Blobs whose parts are not what is stored of them, by their numbers, with what that is, at most `limit`. What the
    /// sweeper has begun to remove is left to it.
    pub(crate) fn blobs_of_other_sizes(&self, limit: u32) -> Result<Vec<(u64, u64)>, Fault> {
        self.rows(
            "SELECT b.id, b.stored FROM blobs b WHERE b.expires_at > 0 AND (
                 b.stored <> (SELECT coalesce(sum(length(p.bytes)), 0) FROM blob_parts p WHERE p.blob_id = b.id)
                 OR (SELECT count(*) FROM blob_parts p WHERE p.blob_id = b.id)
                     <> (SELECT coalesce(max(p.number) + 1, 0) FROM blob_parts p WHERE p.blob_id = b.id)
             ) ORDER BY b.id LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Blobs that a device of somebody else has stored, by their numbers, at most `limit`.
    pub(crate) fn blobs_of_others(&self, limit: u32) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT b.id FROM blobs b
             WHERE NOT EXISTS (SELECT 1 FROM devices d WHERE d.id = b.device_id AND d.user_id = b.user_id)
             ORDER BY b.id LIMIT ?1",
            params![limit],
            |row| row.get(0),
        )
    }

    /// Blobs that are not there, of which there are parts, by their numbers, at most `limit`.
    pub(crate) fn parts_of_no_blob(&self, limit: u32) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT DISTINCT p.blob_id FROM blob_parts p
             WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.id = p.blob_id) ORDER BY p.blob_id LIMIT ?1",
            params![limit],
            |row| row.get(0),
        )
    }
}
