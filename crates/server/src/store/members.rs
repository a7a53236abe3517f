//! Who gets what of a group's log: each device the rows of its intervals, in order, up to where it has acknowledged them.

use larder_lifecycle::{CLOCK_STEP_SECONDS_MAX, UnixSeconds};
use larder_wire::GroupId;

use crate::error::Fault;
use crate::store::log::{BodyGone, LogKind};
use crate::store::statement::{Reading, Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx};

/// The place of a member that sends something.
pub(crate) struct SenderRow {
    /// The first epoch whose messages the device can read.
    pub(crate) from_epoch: u64,
    /// Bytes of the bodies of its messages that wait, the new ones included.
    pub(crate) waiting_bytes: u64,
}

/// What a device gets of a group, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) group: GroupId,
    pub(crate) from_seq: u64,
    pub(crate) from_epoch: u64,
    /// Whether its first row is the Welcome of that Commit.
    pub(crate) by_welcome: bool,
    pub(crate) acknowledged: u64,
    /// The last row that there is for it.
    pub(crate) head: u64,
    /// Whether it goes on.
    pub(crate) is_open: bool,
    /// The group's roster now.
    pub(crate) roster_version: u64,
}

/// A row of the log that may be forgotten.
struct Waiting {
    seq: u64,
    /// Whether it is a message whose body is there.
    is_waiting: bool,
    sender: Option<DeviceKey>,
    size: u64,
    accepted_at: UnixSeconds,
}

const IS_MEMBER: &str = "SELECT 1 FROM members WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL";
const COUNT_WAITING: &str = "UPDATE members SET waiting_bytes = waiting_bytes + ?3
     WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL RETURNING from_epoch, waiting_bytes";

impl Tx<'_> {
    /// Whether a device is a member.
    pub(crate) fn is_member(&self, group: &GroupId, device: DeviceKey) -> Result<bool, Fault> {
        self.exists(IS_MEMBER, params![group, device])
    }

    /// Reads it ahead.
    pub(crate) fn is_member_ahead(&self, group: &GroupId, device: DeviceKey) {
        self.read_ahead(IS_MEMBER, params![group, device]);
    }

    /// The member devices of a group, in ascending order.
    pub(crate) fn members(&self, group: &GroupId) -> Result<Vec<DeviceKey>, Fault> {
        self.rows(
            "SELECT device_id FROM members WHERE group_id = ?1 AND until_seq IS NULL ORDER BY device_id",
            params![group],
            |row| row.get(0),
        )
    }

    /// Counts the bytes of messages to those of their sender that wait; `None` when the device is no member.
    pub(crate) fn count_waiting(
        &self,
        group: &GroupId,
        device: DeviceKey,
        size: usize,
    ) -> Result<Option<SenderRow>, Fault> {
        self.row(COUNT_WAITING, params![group, device, size as u64], |row| {
            Ok(SenderRow {
                from_epoch: row.get(0)?,
                waiting_bytes: row.get(1)?,
            })
        })
    }

    /// Counts them ahead.
    pub(crate) fn count_waiting_ahead(&self, group: &GroupId, device: DeviceKey, size: usize) {
        self.read_ahead(COUNT_WAITING, params![group, device, size as u64]);
    }

    /// Bytes of the bodies of messages that wait: of this member's, and of all in the group.
    pub(crate) fn waiting_bytes(&self, group: &GroupId, device: DeviceKey) -> Result<(u64, u64), Fault> {
        self.one_row(
            "SELECT m.waiting_bytes, g.waiting_bytes FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.group_id = ?1 AND m.device_id = ?2 AND m.until_seq IS NULL",
            params![group, device],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Undoes what was taken and counted for so many messages of so many bytes together, which the group does not take.
    pub(crate) fn give_back(
        &self,
        group: &GroupId,
        device: DeviceKey,
        (count, size): (usize, usize),
    ) -> Result<(), Fault> {
        self.queue(
            "UPDATE groups SET next_seq = next_seq - ?2, waiting_bytes = waiting_bytes - ?3 WHERE id = ?1",
            params![group, count as u64, size as u64],
        )?;
        self.queue(
            "UPDATE members SET waiting_bytes = waiting_bytes - ?3
             WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL",
            params![group, device, size as u64],
        )
    }

    /// Lets a device have the rows after `after`, and messages of `from_epoch` and later: its creator's of a new group, or those
    /// of a device that has come by a Commit of its own.
    pub(crate) fn begin_interval(
        &self,
        group: &GroupId,
        device: DeviceKey,
        (after, from_epoch): (u64, u64),
    ) -> Result<(), Fault> {
        self.insert_intervals(group, &[device], (after + 1, from_epoch), false)
    }

    /// Lets devices have the Welcome of the Commit at `from_seq` and the rows after it, and messages of `from_epoch` and later.
    pub(crate) fn begin_by_welcome(
        &self,
        group: &GroupId,
        devices: &[DeviceKey],
        from: (u64, u64),
    ) -> Result<(), Fault> {
        self.insert_intervals(group, devices, from, true)
    }

    fn insert_intervals(
        &self,
        group: &GroupId,
        devices: &[DeviceKey],
        (from_seq, from_epoch): (u64, u64),
        by_welcome: bool,
    ) -> Result<(), Fault> {
        let each = devices.iter().map(|device| {
            row_params![
                group,
                *device,
                from_seq,
                from_epoch,
                u8::from(by_welcome),
                from_seq - 1
            ]
        });
        self.queue_each(
            "INSERT INTO members (group_id, device_id, from_seq, from_epoch, by_welcome, acknowledged_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            &each.collect::<Vec<_>>(),
        )?;
        devices.iter().for_each(|device| self.wake(*device));
        Ok(())
    }

    /// What was sent in earlier epochs is not for this member any more: it has come back without its state. `false` when it is
    /// no member.
    pub(crate) fn raise_interval(
        &self,
        group: &GroupId,
        device: DeviceKey,
        from_epoch: u64,
    ) -> Result<bool, Fault> {
        let raised = self.execute(
            "UPDATE members SET from_epoch = ?3, by_welcome = 0 WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL",
            params![group, device, from_epoch],
        )?;
        Ok(raised == 1)
    }

    /// The row that removes these devices is the last one that they get.
    pub(crate) fn end_intervals(
        &self,
        group: &GroupId,
        devices: &[DeviceKey],
        until_seq: u64,
    ) -> Result<(), Fault> {
        let each = devices
            .iter()
            .map(|device| row_params![group, *device, until_seq]);
        self.queue_each(
            "UPDATE members SET until_seq = ?3 WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL",
            &each.collect::<Vec<_>>(),
        )
    }

    /// Takes everything of a group away from a device, what it has not read included.
    pub(crate) fn drop_intervals(&self, group: &GroupId, device: DeviceKey) -> Result<(), Fault> {
        self.queue(
            "DELETE FROM members WHERE group_id = ?1 AND device_id = ?2",
            params![group, device],
        )
    }

    /// Notes that the roster is another one, and since when a group is without members.
    pub(crate) fn note_roster_change(&self, group: &GroupId, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE groups SET roster_version = roster_version + 1, empty_since = CASE
                 WHEN EXISTS (SELECT 1 FROM members WHERE group_id = ?1 AND until_seq IS NULL) THEN NULL
                 ELSE coalesce(empty_since, ?2) END
             WHERE id = ?1",
            params![group, now],
        )
    }

    /// The groups that a device gets rows of, by id.
    pub(crate) fn intervals(&self, device: DeviceKey) -> Result<Vec<Interval>, Fault> {
        self.rows(
            "SELECT m.group_id, m.from_seq, m.from_epoch, m.by_welcome, m.acknowledged_seq,
                 coalesce(m.until_seq, g.next_seq - 1), m.until_seq, g.roster_version
             FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id >> 8 = ?1 AND m.device_id = ?2 ORDER BY m.group_id, m.from_seq",
            params![device.user(), device],
            |row| {
                Ok(Interval {
                    group: row.get(0)?,
                    from_seq: row.get(1)?,
                    from_epoch: row.get(2)?,
                    by_welcome: row.get(3)?,
                    acknowledged: row.get(4)?,
                    head: row.get(5)?,
                    is_open: row.optional::<u64>(6)?.is_none(),
                    roster_version: row.get(7)?,
                })
            },
        )
    }

    /// Whether the Welcome of the Commit at this row is for a device that has not acknowledged it.
    pub(crate) fn is_welcomed_at(&self, group: &GroupId, device: DeviceKey, seq: u64) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM members WHERE group_id = ?1 AND device_id = ?2 AND from_seq = ?3 AND by_welcome = 1
                 AND acknowledged_seq < ?3",
            params![group, device, seq],
        )
    }

    /// The device has stored the rows up to and including `seq`. `Some` when there are not that many of the group for it: how many
    /// are acknowledged.
    pub(crate) fn acknowledge(
        &self,
        group: &GroupId,
        device: DeviceKey,
        seq: u64,
    ) -> Result<Option<u64>, Fault> {
        // The last row of an interval that this ends; 0 of one that goes on.
        let ended: Vec<u64> = self.rows(
            "UPDATE members SET acknowledged_seq = ?3
             WHERE group_id = ?1 AND device_id = ?2 AND from_seq <= ?3 AND acknowledged_seq < ?3
                 AND ?3 <= (SELECT max(coalesce(m.until_seq, g.next_seq - 1)) FROM members m JOIN groups g ON g.id = m.group_id
                     WHERE m.group_id = ?1 AND m.device_id = ?2)
             RETURNING CASE WHEN until_seq <= ?3 THEN until_seq ELSE 0 END",
            params![group, device, seq],
            |row| row.get(0),
        )?;
        if ended.iter().any(|until| *until > 0) {
            self.queue(
                "DELETE FROM members WHERE group_id = ?1 AND device_id = ?2 AND until_seq <= acknowledged_seq",
                params![group, device],
            )?;
        }
        if !ended.is_empty() {
            return Ok(None);
        }
        self.row(
            "SELECT min(m.acknowledged_seq) FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.group_id = ?1 AND m.device_id = ?2 HAVING max(coalesce(m.until_seq, g.next_seq - 1)) < ?3",
            params![group, device, seq],
            |row| row.get(0),
        )
    }

    /// Deletes the bodies of messages that everybody has who is entitled to them, and of those from before `before`; of one
    /// group, and looks at no more than `limit` rows. Returns how many it has done with. What was stored by a clock that was
    /// far ahead gets the time that it would have `now`.
    pub(crate) fn sweep_bodies(
        &self,
        group: &GroupId,
        (before, now): (UnixSeconds, UnixSeconds),
        limit: u32,
    ) -> Result<u64, Fault> {
        self.lock_group(group)?;
        let read_by_all: Option<u64> = self.one_row(
            "SELECT min(acknowledged_seq) FROM members WHERE group_id = ?1",
            params![group],
            |row| row.optional(0),
        )?;
        let why = |row: &Waiting| match read_by_all.is_none_or(|read| row.seq <= read) {
            true => Some(BodyGone::Read),
            false => (row.accepted_at < before).then_some(BodyGone::Age),
        };
        let is_done = |row: &Waiting| !row.is_waiting || why(row).is_some();
        let mut oldest = self.oldest_waiting(group, limit, is_done)?;
        if let Some(kept) = oldest.pop_if(|row| !is_done(row))
            && kept.accepted_at > now.plus(CLOCK_STEP_SECONDS_MAX)
        {
            self.queue(
                "UPDATE log SET accepted_at = ?2 WHERE group_id = ?1 AND accepted_at > ?3",
                params![group, now, now.plus(CLOCK_STEP_SECONDS_MAX)],
            )?;
        }
        for row in oldest.iter().filter(|row| row.is_waiting) {
            if let Some(why) = why(row) {
                self.forget_message(group, row, why)?;
            }
        }
        if let Some(last) = oldest.last() {
            self.begin_waiting_after(group, last.seq)?;
        }
        Ok(oldest.len() as u64)
    }

    /// Deletes the oldest bodies of the messages of the sender that has most waiting in a group, until `over` bytes are freed.
    pub(crate) fn forget_oldest_of_largest_sender(
        &self,
        group: &GroupId,
        mut over: u64,
    ) -> Result<(), Fault> {
        while over > 0 {
            let largest: Option<(DeviceKey, u64)> = self.row(
                "SELECT device_id, waiting_from FROM members WHERE group_id = ?1 AND waiting_bytes > 0
                 ORDER BY waiting_bytes DESC, device_id LIMIT 1",
                params![group],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            // Without one, what is left is of devices that are gone.
            let Some(oldest) = self.oldest_of(group, largest)? else {
                return Ok(());
            };
            over = over.saturating_sub(oldest.size.max(1));
            self.forget_message(group, &oldest, BodyGone::Quota)?;
            if largest.is_none() {
                self.begin_waiting_after(group, oldest.seq)?;
            }
        }
        Ok(())
    }

    /// The oldest message that waits of a sender, or of anybody. It is not before the row that the sender comes with.
    fn oldest_of(&self, group: &GroupId, sender: Option<(DeviceKey, u64)>) -> Result<Option<Waiting>, Fault> {
        let (sender, from) = sender.map_or((0, 0), |(sender, from)| (sender.0, from));
        self.row(
            "SELECT seq, kind, sender, size, gone, accepted_at FROM log
             WHERE group_id = ?1 AND kind = 2 AND gone IS NULL AND (?2 = 0 OR sender = ?2)
                 AND seq >= (SELECT first_seq FROM groups WHERE id = ?1) AND seq >= ?3
             ORDER BY seq LIMIT 1",
            params![group, sender, from],
            waiting,
        )
    }

    /// The first rows from which on messages may wait: those that are done, and one more.
    fn oldest_waiting(
        &self,
        group: &GroupId,
        limit: u32,
        is_done: impl Fn(&Waiting) -> bool,
    ) -> Result<Vec<Waiting>, Fault> {
        let mut oldest = Vec::new();
        self.read_rows(
            "SELECT seq, kind, sender, size, gone, accepted_at FROM log
             WHERE group_id = ?1 AND seq >= (SELECT first_seq FROM groups WHERE id = ?1) ORDER BY seq LIMIT ?2",
            params![group, limit],
            |row| {
                let row = waiting(row)?;
                let goes_on = is_done(&row);
                oldest.push(row);
                Ok(match goes_on {
                    true => Reading::GoOn,
                    false => Reading::Stop,
                })
            },
        )?;
        Ok(oldest)
    }

    /// No message waits up to and including `seq`.
    fn begin_waiting_after(&self, group: &GroupId, seq: u64) -> Result<(), Fault> {
        self.queue(
            "UPDATE groups SET first_seq = ?2 WHERE id = ?1",
            params![group, seq + 1],
        )
    }

    fn forget_message(&self, group: &GroupId, row: &Waiting, why: BodyGone) -> Result<(), Fault> {
        self.forget_body(group, row.seq, why)?;
        self.queue(
            "UPDATE groups SET waiting_bytes = waiting_bytes - ?2 WHERE id = ?1",
            params![group, row.size],
        )?;
        // A sender that was removed and came back has another place; what it sent before was counted there.
        self.queue(
            "UPDATE members SET waiting_bytes = CASE WHEN waiting_bytes < ?3 THEN 0 ELSE waiting_bytes - ?3 END,
                 waiting_from = ?4
             WHERE group_id = ?1 AND device_id = ?2 AND until_seq IS NULL",
            params![
                group,
                row.sender.map_or(0, |sender| sender.0),
                row.size,
                row.seq + 1
            ],
        )
    }

    /// The groups in which bodies of messages wait, after this one, by id.
    pub(crate) fn groups_waiting(&self, after: Option<&GroupId>, limit: u32) -> Result<Vec<GroupId>, Fault> {
        let none: &[u8] = &[];
        self.rows(
            "SELECT id FROM groups WHERE waiting_bytes > 0 AND id > ?1 ORDER BY id LIMIT ?2",
            params![after.map_or(none, GroupId::as_bytes), limit],
            |row| row.get(0),
        )
    }

    /// Deletes Welcomes that have been acknowledged, with their ratchet trees; at most `limit`.
    pub(crate) fn sweep_welcomes(&self, limit: u32) -> Result<u64, Fault> {
        let done: Vec<(GroupId, u64)> = self.rows(
            "SELECT b.group_id, b.seq FROM bodies b WHERE b.part = 1 AND NOT EXISTS (
                 SELECT 1 FROM members m
                 WHERE m.group_id = b.group_id AND m.from_seq = b.seq AND m.by_welcome = 1
                     AND m.acknowledged_seq < b.seq
             ) ORDER BY b.group_id, b.seq LIMIT ?1",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (group, seq) in &done {
            self.lock_group(group)?;
            self.queue(
                "DELETE FROM bodies WHERE group_id = ?1 AND seq = ?2 AND part > 0",
                params![group, *seq],
            )?;
        }
        Ok(done.len() as u64)
    }

    /// Deletes groups that have been without members since before `before`, with all that is theirs; at most `limit` rows of
    /// their logs.
    pub(crate) fn sweep_empty_groups(&self, before: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        let empty: Option<GroupId> = self.row(
            "SELECT id FROM groups WHERE empty_since < ?1 ORDER BY empty_since LIMIT 1",
            params![before],
            |row| row.get(0),
        )?;
        let Some(group) = empty else {
            return Ok(0);
        };
        self.lock_group(&group)?;
        let removed = self.execute(
            "DELETE FROM bodies WHERE (group_id, seq, part) IN (
                 SELECT group_id, seq, part FROM bodies WHERE group_id = ?1 LIMIT ?2)",
            params![&group, limit],
        )?;
        if removed > 0 {
            return Ok(removed);
        }
        let removed = self.execute(
            "DELETE FROM log WHERE (group_id, seq) IN (SELECT group_id, seq FROM log WHERE group_id = ?1 LIMIT ?2)",
            params![&group, limit],
        )?;
        if removed > 0 {
            return Ok(removed);
        }
        for table in ["members", "group_states", "group_infos", "gaps"] {
            self.queue(
                &format!("DELETE FROM {table} WHERE group_id = ?1"),
                params![&group],
            )?;
        }
        self.execute("DELETE FROM groups WHERE id = ?1", params![&group])
    }
}

fn waiting(row: &Row<'_>) -> Result<Waiting, Fault> {
    Ok(Waiting {
        seq: row.get(0)?,
        is_waiting: row.get::<u8>(1)? == LogKind::Message as u8 && row.optional::<u8>(4)?.is_none(),
        sender: row.optional(2)?,
        size: row.get(3)?,
        accepted_at: row.get(5)?,
    })
}
