//! What devices that let others in have to say to them.

use larder_lifecycle::UnixSeconds;
use larder_wire::{Base64Url, DeviceId, GroupId, Introduction, Voucher};

use crate::error::Fault;
use crate::store::statement::{Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx};

impl Tx<'_> {
    /// Stores an introduction for a device, in the place of an earlier one; of its vouchers those that `are_kept`.
    pub(crate) fn set_introduction(
        &self,
        device: DeviceKey,
        introduction: &Introduction,
        are_kept: impl Fn(&Voucher) -> bool,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.forget_introduction(device)?;
        self.queue(
            "INSERT INTO introductions (user_id, device_id, by_name, by_key, root, root_key, proof, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                device.user(),
                device,
                introduction.by.as_str(),
                introduction.by_key.0.as_slice(),
                introduction.root.as_str(),
                introduction.root_key.0.as_slice(),
                introduction.proof.0.as_slice(),
                now
            ],
        )?;
        let kept = introduction.vouchers.iter().filter(|voucher| are_kept(voucher));
        let each = kept.map(|voucher| {
            row_params![
                &voucher.group_id,
                device,
                voucher.epoch,
                voucher.group_info.0.as_slice(),
                voucher.signature.0.as_slice()
            ]
        });
        self.queue_each(
            "INSERT INTO vouchers (group_id, device_id, epoch, group_info, signature) VALUES (?1, ?2, ?3, ?4, ?5)",
            &each.collect::<Vec<_>>(),
        )
    }

    /// The introduction of a device, with the vouchers by group.
    pub(crate) fn introduction(&self, device: DeviceKey) -> Result<Option<Introduction>, Fault> {
        let named = |row: &Row<'_>, column: usize| -> Result<DeviceId, Fault> {
            let name: String = row.get(column)?;
            name.parse().map_err(|_| Fault::Corrupt("a device id"))
        };
        let introduction = self.row(
            "SELECT by_name, by_key, root, root_key, proof FROM introductions WHERE user_id = ?1 AND device_id = ?2",
            params![device.user(), device],
            |row| {
                Ok(Introduction {
                    by: named(row, 0)?,
                    by_key: Base64Url(row.get(1)?),
                    root: named(row, 2)?,
                    root_key: Base64Url(row.get(3)?),
                    proof: Base64Url(row.get(4)?),
                    vouchers: Vec::new(),
                })
            },
        )?;
        let Some(introduction) = introduction else {
            return Ok(None);
        };
        let vouchers = self.rows(
            "SELECT group_id, epoch, group_info, signature FROM vouchers WHERE device_id = ?1 ORDER BY group_id",
            params![device],
            |row| {
                Ok(Voucher {
                    group_id: row.get(0)?,
                    epoch: row.get(1)?,
                    group_info: Base64Url(row.get(2)?),
                    signature: Base64Url(row.get(3)?),
                })
            },
        )?;
        Ok(Some(Introduction {
            vouchers,
            ..introduction
        }))
    }

    /// The device has all that it needs, or is gone.
    pub(crate) fn forget_introduction(&self, device: DeviceKey) -> Result<(), Fault> {
        self.queue("DELETE FROM vouchers WHERE device_id = ?1", params![device])?;
        self.queue(
            "DELETE FROM introductions WHERE user_id = ?1 AND device_id = ?2",
            params![device.user(), device],
        )
    }

    /// Whether a device has a voucher for this epoch of a group, and the ratchet tree of the epoch, compressed, if it is kept.
    #[expect(
        clippy::option_option,
        reason = "a voucher whose tree is not kept is not the same as none"
    )]
    pub(crate) fn vouched_tree(
        &self,
        group: &GroupId,
        device: DeviceKey,
        epoch: u64,
    ) -> Result<Option<Option<Vec<u8>>>, Fault> {
        self.row(
            "SELECT tree FROM vouchers WHERE group_id = ?1 AND device_id = ?2 AND epoch = ?3",
            params![group, device, epoch],
            |row| row.optional(0),
        )
    }

    /// The epochs of a group that there are vouchers for, and no ratchet trees with them.
    pub(crate) fn vouched_epochs(&self, group: &GroupId) -> Result<Vec<u64>, Fault> {
        self.rows(
            "SELECT DISTINCT epoch FROM vouchers WHERE group_id = ?1 AND tree IS NULL",
            params![group],
            |row| row.get(0),
        )
    }

    /// Keeps the ratchet tree of an epoch, compressed, with the vouchers for it.
    pub(crate) fn keep_vouched_tree(&self, group: &GroupId, epoch: u64, tree: &[u8]) -> Result<(), Fault> {
        self.queue(
            "UPDATE vouchers SET tree = ?3 WHERE group_id = ?1 AND epoch = ?2 AND tree IS NULL",
            params![group, epoch, tree],
        )
    }

    /// Deletes introductions from before `before`; at most so many rows of each kind.
    pub(crate) fn sweep_introductions(&self, before: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        let vouchers = self.execute(
            "DELETE FROM vouchers WHERE (group_id, device_id) IN (
                 SELECT v.group_id, v.device_id FROM introductions i JOIN vouchers v ON v.device_id = i.device_id
                 WHERE i.created_at < ?1 LIMIT ?2
             )",
            params![before, limit],
        )?;
        let introductions = self.execute(
            "DELETE FROM introductions WHERE (user_id, device_id) IN (
                 SELECT i.user_id, i.device_id FROM introductions i WHERE i.created_at < ?1
                     AND NOT EXISTS (SELECT 1 FROM vouchers v WHERE v.device_id = i.device_id) LIMIT ?2
             )",
            params![before, limit],
        )?;
        Ok(vouchers + introductions)
    }
}
