//! What only a check of the whole store reads.

use larder_wire::{GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::accounts::{DEVICE, DeviceRow, EVERY_DEVICE, device};
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Tx};

/// What is stored of a KeyPackage beside its state.
pub(crate) struct Content {
    pub(crate) init_key_hash: Vec<u8>,
    pub(crate) encryption_key_hash: Vec<u8>,
    pub(crate) bytes: Option<Vec<u8>>,
}

/// The numbers of a group's log.
pub(crate) struct LogNumbers {
    pub(crate) epoch: u64,
    pub(crate) next: u64,
    pub(crate) state: u64,
    pub(crate) waiting_bytes: u64,
    pub(crate) handshake_bytes: u64,
    pub(crate) highest: Option<u64>,
    pub(crate) highest_handshake: Option<u64>,
    pub(crate) commits: u64,
    pub(crate) commit_epochs: u64,
    pub(crate) highest_commit_epoch: Option<u64>,
    /// Of the rows whose bodies are there.
    pub(crate) message_bytes: u64,
    pub(crate) commit_and_proposal_bytes: u64,
    /// Intervals that begin, end or are acknowledged beyond the log.
    pub(crate) intervals_beyond: u64,
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

    pub(crate) fn key_package_content(
        &self,
        owner: DeviceKey,
        key_package_ref: &KeyPackageRef,
    ) -> Result<Content, Fault> {
        self.one_row(
            "SELECT k.init_key_hash, k.encryption_key_hash, b.bytes
             FROM key_packages k
             LEFT JOIN key_package_bytes b ON b.user_id = k.user_id AND b.device_id = k.device_id AND b.ref = k.ref
             WHERE k.user_id = ?1 AND k.device_id = ?2 AND k.ref = ?3",
            params![owner.user(), owner, key_package_ref],
            |row| {
                Ok(Content {
                    init_key_hash: row.get(0)?,
                    encryption_key_hash: row.get(1)?,
                    bytes: row.optional(2)?,
                })
            },
        )
    }

    pub(crate) fn log_numbers(&self, group: &GroupId) -> Result<LogNumbers, Fault> {
        self.one_row(
            "SELECT g.epoch, g.next_seq, g.state_seq, g.waiting_bytes, g.handshake_bytes,
                 (SELECT max(seq) FROM log WHERE group_id = ?1),
                 (SELECT max(seq) FROM log WHERE group_id = ?1 AND kind <= 1),
                 (SELECT count(*) FROM log WHERE group_id = ?1 AND kind = 0),
                 (SELECT count(DISTINCT epoch) FROM log WHERE group_id = ?1 AND kind = 0),
                 (SELECT max(epoch) FROM log WHERE group_id = ?1 AND kind = 0),
                 (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM log WHERE group_id = ?1 AND kind = 2 AND gone IS NULL),
                 (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM log WHERE group_id = ?1 AND kind <= 1 AND gone IS NULL),
                 (SELECT count(*) FROM members m WHERE m.group_id = ?1 AND (m.from_seq > g.next_seq
                     OR m.until_seq >= g.next_seq OR m.acknowledged_seq >= g.next_seq))
             FROM groups g WHERE g.id = ?1",
            params![group],
            |row| {
                Ok(LogNumbers {
                    epoch: row.get(0)?,
                    next: row.get(1)?,
                    state: row.get(2)?,
                    waiting_bytes: row.get(3)?,
                    handshake_bytes: row.get(4)?,
                    highest: row.optional(5)?,
                    highest_handshake: row.optional(6)?,
                    commits: row.get(7)?,
                    commit_epochs: row.get(8)?,
                    highest_commit_epoch: row.optional(9)?,
                    message_bytes: row.get(10)?,
                    commit_and_proposal_bytes: row.get(11)?,
                    intervals_beyond: row.get(12)?,
                })
            },
        )
    }

    /// The words of devices that have left a group.
    pub(crate) fn departures(&self, group: &GroupId) -> Result<Vec<Vec<u8>>, Fault> {
        self.rows(
            "SELECT b.body FROM log l JOIN bodies b ON b.group_id = l.group_id AND b.seq = l.seq AND b.part = 0
             WHERE l.group_id = ?1 AND l.kind = 4 ORDER BY l.seq",
            params![group],
            |row| row.get(0),
        )
    }

    /// Bodies of rows that are not there, or are said to have none, at most `limit`.
    pub(crate) fn bodies_without_a_row(&self, limit: u32) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT b.group_id, b.seq FROM bodies b WHERE NOT EXISTS (
                 SELECT 1 FROM log l WHERE l.group_id = b.group_id AND l.seq = b.seq AND (b.part > 0 OR l.gone IS NULL)
             ) ORDER BY b.group_id, b.seq LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Rows whose body is not there, although nothing says why, or is of another size, at most `limit`.
    pub(crate) fn rows_without_a_body(&self, limit: u32) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT l.group_id, l.seq FROM log l WHERE l.gone IS NULL AND NOT EXISTS (
                 SELECT 1 FROM bodies b
                 WHERE b.group_id = l.group_id AND b.seq = l.seq AND b.part = 0 AND length(b.body) = l.size
             ) ORDER BY l.group_id, l.seq LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Ratchet trees of rows that have no Welcome, at most `limit`.
    pub(crate) fn trees_without_a_welcome(&self, limit: u32) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT t.group_id, t.seq FROM bodies t WHERE t.part = 2 AND NOT EXISTS (
                 SELECT 1 FROM bodies w WHERE w.group_id = t.group_id AND w.seq = t.seq AND w.part = 1
             ) ORDER BY t.group_id, t.seq LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// KeyPackages that are reserved and are not there, with the names of the devices that should have them, at most `limit`.
    pub(crate) fn reservations_of_nothing(&self, limit: u32) -> Result<Vec<(KeyPackageRef, String)>, Fault> {
        self.rows(
            "SELECT r.ref, d.name FROM reservations r JOIN devices d ON d.user_id = r.user_id AND d.id = r.device_id
             WHERE NOT EXISTS (
                 SELECT 1 FROM key_packages k
                 WHERE k.user_id = r.user_id AND k.device_id = r.device_id AND k.ref = r.ref AND k.kind = r.kind
             ) ORDER BY r.device_id, r.ref LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The sizes of all blobs together, in bytes, one by one.
    pub(crate) fn sizes_of_blobs(&self) -> Result<u64, Fault> {
        self.one_row(
            "SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM blobs",
            &[],
            |row| row.get(0),
        )
    }

    /// Blobs whose parts are not what is stored of them, by their numbers, with what that is, at most `limit`. What the
    /// sweeper has begun to remove is left to it.
    pub(crate) fn blobs_of_other_sizes(&self, limit: u32) -> Result<Vec<(u64, u64)>, Fault> {
        self.rows(
            "SELECT b.id, b.stored FROM blobs b WHERE b.expires_at > 0 AND (
                 b.stored <> (SELECT coalesce(sum(length(p.bytes)), 0) FROM blob_parts p
                     WHERE p.user_id = b.user_id AND p.blob_id = b.id)
                 OR (SELECT count(*) FROM blob_parts p WHERE p.user_id = b.user_id AND p.blob_id = b.id)
                     <> (SELECT coalesce(max(p.number) + 1, 0) FROM blob_parts p
                         WHERE p.user_id = b.user_id AND p.blob_id = b.id)
             ) ORDER BY b.id LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Blobs that nobody finds by their names, by their numbers, at most `limit`.
    pub(crate) fn blobs_without_a_name(&self, limit: u32) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT b.id FROM blobs b WHERE NOT EXISTS (
                 SELECT 1 FROM blob_names n WHERE n.name = b.name AND n.user_id = b.user_id AND n.blob_id = b.id
             ) ORDER BY b.id LIMIT ?1",
            params![limit],
            |row| row.get(0),
        )
    }

    /// Names that are registered for what is not there, or for something of another name, with what they should be of, at most
    /// `limit` of each registry.
    pub(crate) fn names_of_nothing(&self, limit: u32) -> Result<Vec<(&'static str, i64)>, Fault> {
        let mut found = Vec::new();
        for (what, sql) in [
            (
                "user",
                "SELECT n.user_id FROM user_names n
                 WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = n.user_id AND u.name = n.name)
                 ORDER BY n.user_id LIMIT ?1",
            ),
            (
                "device",
                "SELECT n.device_id FROM device_names n WHERE NOT EXISTS (
                     SELECT 1 FROM devices d WHERE d.user_id = n.device_id >> 8 AND d.id = n.device_id AND d.name = n.name
                 ) ORDER BY n.device_id LIMIT ?1",
            ),
            (
                "device's signature key",
                "SELECT n.device_id FROM signature_keys n WHERE NOT EXISTS (
                     SELECT 1 FROM devices d
                     WHERE d.user_id = n.device_id >> 8 AND d.id = n.device_id AND d.signature_key = n.key
                 ) ORDER BY n.device_id LIMIT ?1",
            ),
            (
                "file",
                "SELECT n.blob_id FROM blob_names n WHERE NOT EXISTS (
                     SELECT 1 FROM blobs b WHERE b.user_id = n.user_id AND b.id = n.blob_id AND b.name = n.name
                 ) ORDER BY n.blob_id LIMIT ?1",
            ),
        ] {
            let strays: Vec<i64> = self.rows(sql, params![limit], |row| row.get(0))?;
            found.extend(strays.into_iter().map(|id| (what, id)));
        }
        Ok(found)
    }

    /// Whether the name and the signature key of a device, and the name of its user, are registered for them.
    pub(crate) fn is_registered(&self, device: &DeviceRow) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM user_names u, device_names n, signature_keys k
             WHERE u.name = ?1 AND u.user_id = ?2 AND n.name = ?3 AND n.device_id = ?4 AND k.key = ?5 AND k.device_id = ?4",
            params![
                device.user.as_str(),
                device.user_key(),
                device.device_id.as_str(),
                device.key,
                device.signature_key.as_slice()
            ],
        )
    }

    /// Blobs that are not there, of which there are parts, by their numbers, at most `limit`.
    pub(crate) fn parts_of_no_blob(&self, limit: u32) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT DISTINCT p.blob_id FROM blob_parts p
             WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.user_id = p.user_id AND b.id = p.blob_id) ORDER BY p.blob_id LIMIT ?1",
            params![limit],
            |row| row.get(0),
        )
    }
}
