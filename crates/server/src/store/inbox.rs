use larder_lifecycle::UnixSeconds;
use larder_wire::{Base64Url, GroupId, InboxKind, InboxRow};

use crate::error::Fault;
use crate::store::tx::{DeviceKey, Tx, from_sql, stored_group_id, to_sql};

/// A page of an inbox ends with the row that reaches this size, in bytes of bodies.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

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
    /// Adds one row to each inbox. The body is stored once.
    pub(crate) fn deliver(
        &self,
        receivers: &[DeviceKey],
        row: &NewInboxRow<'_>,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        if receivers.is_empty() {
            return Ok(());
        }
        let body_id = match row.body {
            None => None,
            Some(body) => {
                self.connection()
                    .prepare_cached("INSERT INTO bodies (body) VALUES (?1)")?
                    .execute([body])?;
                Some(self.connection().last_insert_rowid())
            }
        };
        for receiver in receivers {
            let seq: i64 = self
                .connection()
                .prepare_cached(
                    "UPDATE devices SET inbox_last = inbox_last + 1 WHERE id = ?1 RETURNING inbox_last",
                )?
                .query_row([receiver.0], |row| row.get(0))?;
            self.connection()
                .prepare_cached(
                    "INSERT INTO inbox (device_id, seq, kind, group_id, epoch, body_id, received_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute((
                    receiver.0,
                    seq,
                    kind_to_sql(row.kind),
                    row.group.map(GroupId::as_bytes),
                    row.epoch.map(to_sql),
                    body_id,
                    to_sql(now.0),
                ))?;
            self.wake(*receiver);
        }
        Ok(())
    }

    /// Rows with a number above `after` and above what the device acknowledged, in order: at most `limit`, and no more
    /// once the bodies reach [`PAGE_BYTES`].
    pub(crate) fn inbox(&self, device: DeviceKey, after: u64, limit: u32) -> Result<Vec<InboxRow>, Fault> {
        let mut statement = self.connection().prepare_cached(
            "SELECT i.seq, i.kind, i.group_id, i.epoch, i.received_at, b.body
             FROM inbox i LEFT JOIN bodies b ON b.id = i.body_id
             WHERE i.device_id = ?1
               AND i.seq > max(?2, (SELECT inbox_acknowledged FROM devices WHERE id = ?1))
             ORDER BY i.seq LIMIT ?3",
        )?;
        let mut rows = statement.query((device.0, to_sql(after), limit))?;
        let mut found = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if bytes >= PAGE_BYTES {
                break;
            }
            let group: Option<Vec<u8>> = row.get(2)?;
            let body = row.get::<_, Option<Vec<u8>>>(5)?.unwrap_or_default();
            bytes += body.len();
            found.push(InboxRow {
                seq: from_sql(row.get(0)?)?,
                kind: kind_from_sql(row.get(1)?)?,
                group_id: group.as_deref().map(stored_group_id).transpose()?,
                epoch: row.get::<_, Option<i64>>(3)?.map(from_sql).transpose()?,
                received_at: from_sql(row.get(4)?)?,
                body: Base64Url(body),
            });
        }
        Ok(found)
    }

    /// Whether a `key-packages-low` row waits for the device.
    pub(crate) fn has_low_notice(&self, device: DeviceKey) -> Result<bool, Fault> {
        Ok(self
            .connection()
            .prepare_cached("SELECT 1 FROM inbox WHERE device_id = ?1 AND kind = 4")?
            .exists([device.0])?)
    }

    /// Removes the device's rows up to and including `up_to`, and the bodies that nobody waits for any more. Rows to
    /// come are not acknowledged by a number that runs ahead of them.
    pub(crate) fn acknowledge(&self, device: DeviceKey, up_to: u64) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "UPDATE devices SET inbox_acknowledged = max(inbox_acknowledged, min(?2, inbox_last)) WHERE id = ?1",
            )?
            .execute((device.0, to_sql(up_to)))?;
        let bodies: Vec<Option<i64>> = self
            .connection()
            .prepare_cached("DELETE FROM inbox WHERE device_id = ?1 AND seq <= ?2 RETURNING body_id")?
            .query_map((device.0, to_sql(up_to)), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        self.collect_bodies(bodies)
    }

    /// Removes rows from before `received_before`.
    pub(crate) fn sweep_inboxes(&self, received_before: UnixSeconds, limit: u32) -> Result<usize, Fault> {
        let bodies: Vec<Option<i64>> = self
            .connection()
            .prepare_cached(
                "DELETE FROM inbox WHERE (device_id, seq) IN (
                     SELECT device_id, seq FROM inbox WHERE received_at < ?1 LIMIT ?2
                 ) RETURNING body_id",
            )?
            .query_map((to_sql(received_before.0), limit), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let removed = bodies.len();
        self.collect_bodies(bodies)?;
        Ok(removed)
    }

    fn collect_bodies(&self, bodies: Vec<Option<i64>>) -> Result<(), Fault> {
        let mut statement = self.connection().prepare_cached(
            "DELETE FROM bodies WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM inbox WHERE body_id = ?1)",
        )?;
        for body in bodies.into_iter().flatten() {
            statement.execute([body])?;
        }
        Ok(())
    }
}
