//! What concerns one device alone and no group: at most one of a kind waits for it.

use larder_lifecycle::UnixSeconds;

use crate::error::Fault;
use crate::store::statement::{params, row_params};
use crate::store::tx::{DeviceKey, Tx};

/// What there can be to tell a device. The schema names these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailKind {
    /// Its pool runs low, or its last resort was handed out.
    KeyPackagesLow = 0,
    /// A device of its user came or went, or created a group.
    DeviceChange = 1,
}

/// Something that waits.
pub(crate) struct MailRow {
    pub(crate) seq: u64,
    pub(crate) kind: MailKind,
    pub(crate) received_at: UnixSeconds,
}

impl MailKind {
    fn from_sql(number: u8) -> Result<Self, Fault> {
        [Self::KeyPackagesLow, Self::DeviceChange]
            .into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or(Fault::Corrupt("an unknown kind of mail"))
    }
}

impl Tx<'_> {
    /// Tells devices something, none of them twice; again those that have been told and may have acted already.
    pub(crate) fn post(&self, devices: &[DeviceKey], kind: MailKind, now: UnixSeconds) -> Result<(), Fault> {
        let each = devices.iter().map(|device| row_params![device.user(), *device]);
        self.queue_each(
            "UPDATE devices SET mail_last = mail_last + 1 WHERE user_id = ?1 AND id = ?2",
            &each.collect::<Vec<_>>(),
        )?;
        let each = devices
            .iter()
            .map(|device| row_params![device.user(), *device, kind as u8, now]);
        self.queue_each(
            "INSERT INTO mail (user_id, device_id, kind, seq, received_at)
             VALUES (?1, ?2, ?3, (SELECT mail_last FROM devices WHERE user_id = ?1 AND id = ?2), ?4)
             ON CONFLICT (user_id, device_id, kind) DO UPDATE SET seq = excluded.seq, received_at = excluded.received_at",
            &each.collect::<Vec<_>>(),
        )?;
        devices.iter().for_each(|device| self.wake(*device));
        Ok(())
    }

    /// What waits for a device, in order.
    pub(crate) fn mail(&self, device: DeviceKey) -> Result<Vec<MailRow>, Fault> {
        self.rows(
            "SELECT seq, kind, received_at FROM mail WHERE user_id = ?1 AND device_id = ?2 ORDER BY seq",
            params![device.user(), device],
            |row| {
                Ok(MailRow {
                    seq: row.get(0)?,
                    kind: MailKind::from_sql(row.get(1)?)?,
                    received_at: row.get(2)?,
                })
            },
        )
    }

    /// The device has stored what was told up to this number.
    pub(crate) fn acknowledge_mail(&self, device: DeviceKey, up_to: u64) -> Result<(), Fault> {
        self.queue(
            "DELETE FROM mail WHERE user_id = ?1 AND device_id = ?2 AND seq <= ?3",
            params![device.user(), device, up_to],
        )
    }
}
