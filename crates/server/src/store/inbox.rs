use std::collections::BTreeMap;

use larder_lifecycle::UnixSeconds;
use larder_wire::{Base64Url, GroupId, InboxKind, InboxRow};

use crate::error::Fault;
use crate::store::statement::{Reading, params};
use crate::store::tx::{DeviceKey, Tx};

/// A page of an inbox ends with the row that reaches this size, in bytes of bodies.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Rows that wait for one device. Beyond that the oldest are dropped.
const INBOX_ROWS_MAX: u64 = 10_000;

/// A row to add to some inboxes.
pub(crate) struct NewInboxRow<'a> {
    pub(crate) kind: InboxKind,
    pub(crate) group: Option<&'a GroupId>,
    pub(crate) epoch: Option<u64>,
    pub(crate) body: Option<&'a [u8]>,
}

/// The kinds as stored. The partial indexes of the schema name these numbers.
fn kind_to_sql(kind: InboxKind) -> u8 {
    match kind {
        InboxKind::Welcome => 0,
        InboxKind::Commit => 1,
        InboxKind::Proposal => 2,
        InboxKind::Message => 3,
        InboxKind::KeyPackagesLow => 4,
        InboxKind::DeviceChange => 5,
    }
}

fn kind_from_sql(number: u8) -> Result<InboxKind, Fault> {
    [
        InboxKind::Welcome,
        InboxKind::Commit,
        InboxKind::Proposal,
        InboxKind::Message,
        InboxKind::KeyPackagesLow,
        InboxKind::DeviceChange,
    ]
    .into_iter()
    .find(|kind| kind_to_sql(*kind) == number)
    .ok_or(Fault::Corrupt("an unknown inbox kind"))
}

impl Tx<'_> {
    /// Adds one row to each inbox, whose devices are locked or come in ascending order. The body is stored once.
    pub(crate) fn deliver(
        &self,
        receivers: &[DeviceKey],
        row: &NewInboxRow<'_>,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        if receivers.is_empty() {
            return Ok(());
        }
        let body_id: Option<i64> = match row.body {
            None => None,
            Some(body) => Some(self.one_row(
                "INSERT INTO bodies (body) VALUES (?1) RETURNING id",
                params![body],
                |row| row.get(0),
            )?),
        };
        for receiver in receivers {
            let (seq, gone): (u64, u64) = self.one_row(
                "UPDATE devices SET inbox_last = inbox_last + 1 WHERE id = ?1
                 RETURNING inbox_last,
                     CASE WHEN inbox_dropped > inbox_acknowledged THEN inbox_dropped ELSE inbox_acknowledged END",
                params![*receiver],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            self.execute(
                "INSERT INTO inbox (device_id, seq, kind, group_id, epoch, body_id, received_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    *receiver,
                    seq,
                    kind_to_sql(row.kind),
                    row.group,
                    row.epoch,
                    body_id,
                    now
                ],
            )?;
            let oldest = seq.saturating_sub(INBOX_ROWS_MAX);
            if oldest > gone {
                self.drop_rows(*receiver, oldest)?;
            }
            self.wake(*receiver);
        }
        Ok(())
    }

    /// Drops a device's rows up to this one, and remembers it.
    fn drop_rows(&self, device: DeviceKey, up_to: u64) -> Result<(), Fault> {
        let bodies = self.rows(
            "DELETE FROM inbox WHERE device_id = ?1 AND seq <= ?2 RETURNING body_id",
            params![device, up_to],
            |row| row.optional(0),
        )?;
        self.note_dropped(device, up_to)?;
        self.collect_bodies(bodies)
    }

    fn note_dropped(&self, device: DeviceKey, up_to: u64) -> Result<(), Fault> {
        self.execute(
            "UPDATE devices SET inbox_dropped = ?2 WHERE id = ?1 AND inbox_dropped < ?2",
            params![device, up_to],
        )?;
        Ok(())
    }

    /// The last row that was dropped although the device had not acknowledged it; 0 when there is none.
    pub(crate) fn dropped_up_to(&self, device: DeviceKey) -> Result<u64, Fault> {
        self.one_row(
            "SELECT CASE WHEN inbox_dropped > inbox_acknowledged THEN inbox_dropped ELSE 0 END
             FROM devices WHERE id = ?1",
            params![device],
            |row| row.get(0),
        )
    }

    /// Rows with a number above `after` and above what the device acknowledged, in order: at most `limit`, and no more
    /// once the bodies reach [`PAGE_BYTES`].
    pub(crate) fn inbox(&self, device: DeviceKey, after: u64, limit: u32) -> Result<Vec<InboxRow>, Fault> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.read_rows(
            "SELECT i.seq, i.kind, i.group_id, i.epoch, i.received_at, b.body
             FROM inbox i LEFT JOIN bodies b ON b.id = i.body_id
             WHERE i.device_id = ?1 AND i.seq > ?2
               AND i.seq > (SELECT inbox_acknowledged FROM devices WHERE id = ?1)
             ORDER BY i.seq LIMIT ?3",
            params![device, after, limit],
            |row| {
                let body: Vec<u8> = row.optional(5)?.unwrap_or_default();
                bytes += body.len();
                found.push(InboxRow {
                    seq: row.get(0)?,
                    kind: kind_from_sql(row.get(1)?)?,
                    group_id: row.optional(2)?,
                    epoch: row.optional(3)?,
                    received_at: row.get(4)?,
                    body: Base64Url(body),
                });
                Ok(if bytes < PAGE_BYTES {
                    Reading::GoOn
                } else {
                    Reading::Stop
                })
            },
        )?;
        Ok(found)
    }

    /// Whether a `key-packages-low` row waits for the device.
    pub(crate) fn has_low_notice(&self, device: DeviceKey) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM inbox WHERE device_id = ?1 AND kind = 4",
            params![device],
        )
    }

    /// Removes the device's rows up to and including `up_to`, and the bodies that nobody waits for any more. Rows to
    /// come are not acknowledged by a number that runs ahead of them.
    pub(crate) fn acknowledge(&self, device: DeviceKey, up_to: u64) -> Result<(), Fault> {
        self.execute(
            "UPDATE devices
             SET inbox_acknowledged = CASE WHEN ?2 < inbox_last THEN ?2 ELSE inbox_last END
             WHERE id = ?1 AND inbox_acknowledged < ?2",
            params![device, up_to],
        )?;
        let bodies = self.rows(
            "DELETE FROM inbox WHERE device_id = ?1 AND seq <= ?2 RETURNING body_id",
            params![device, up_to],
            |row| row.optional(0),
        )?;
        self.collect_bodies(bodies)
    }

    /// Removes rows from before `received_before`.
    pub(crate) fn sweep_inboxes(&self, received_before: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        let removed: Vec<(DeviceKey, u64, Option<i64>)> = self.rows(
            "DELETE FROM inbox WHERE (device_id, seq) IN (
                 SELECT device_id, seq FROM inbox WHERE received_at < ?1 ORDER BY received_at, seq LIMIT ?2
             ) RETURNING device_id, seq, body_id",
            params![received_before, limit],
            |row| Ok((row.get(0)?, row.get(1)?, row.optional(2)?)),
        )?;
        let mut dropped: BTreeMap<DeviceKey, u64> = BTreeMap::new();
        for (device, seq, _) in &removed {
            let last = dropped.entry(*device).or_default();
            *last = (*last).max(*seq);
        }
        for (device, up_to) in dropped {
            self.note_dropped(device, up_to)?;
        }
        let count = removed.len() as u64;
        self.collect_bodies(removed.into_iter().map(|(_, _, body)| body).collect())?;
        Ok(count)
    }

    fn collect_bodies(&self, bodies: Vec<Option<i64>>) -> Result<(), Fault> {
        let bodies: Vec<i64> = bodies.into_iter().flatten().collect();
        // Two receivers who acknowledge at the same time would each find that the other still waits.
        self.lock_bodies(&bodies)?;
        for body in bodies {
            self.execute(
                "DELETE FROM bodies WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM inbox WHERE body_id = ?1)",
                params![body],
            )?;
        }
        Ok(())
    }
}
