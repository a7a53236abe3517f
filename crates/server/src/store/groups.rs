use larder_lifecycle::UnixSeconds;
use larder_wire::{Gap, GroupId};

use crate::error::Fault;
use crate::store::log::{AcceptedRow, LogKind};
use crate::store::statement::{Row, params};
use crate::store::tx::{DeviceKey, Tx, UserKey};

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) epoch: u64,
    /// The last row that changed the public state; 0 at first.
    pub(crate) state_seq: u64,
    /// The confirmed transcript hash after the last Commit; empty before the first.
    pub(crate) transcript_hash: Vec<u8>,
}

/// Where a group stands to a device and to a handshake message.
pub(crate) struct StandingRow {
    pub(crate) group: GroupRow,
    /// Whether the device is a member.
    pub(crate) is_member: bool,
    /// The message, if the group has accepted it.
    pub(crate) earlier: Option<AcceptedRow>,
}

/// A membership as its owner sees it.
pub(crate) struct MembershipRow {
    pub(crate) group: GroupId,
    pub(crate) epoch: u64,
    /// The number of the last row of the log; 0 before the first.
    pub(crate) head: u64,
}

impl Tx<'_> {
    pub(crate) fn group(&self, group: &GroupId) -> Result<Option<GroupRow>, Fault> {
        self.row(
            "SELECT g.epoch, g.state_seq, c.transcript_hash FROM groups g
             LEFT JOIN log c ON c.group_id = g.id AND c.kind = 0 AND c.epoch = g.epoch - 1
             WHERE g.id = ?1",
            params![group],
            |row| group_row(row, 2),
        )
    }

    /// Where a group stands to a device and to a handshake message with this hash.
    pub(crate) fn standing(
        &self,
        group: &GroupId,
        device: DeviceKey,
        sha256: &[u8; 32],
    ) -> Result<Option<StandingRow>, Fault> {
        self.row(
            "SELECT g.epoch, g.state_seq, m.device_id, l.seq, l.epoch, l.sender, l.kind, c.transcript_hash FROM groups g
             LEFT JOIN members m ON m.group_id = g.id AND m.device_id = ?2 AND m.until_seq IS NULL
             LEFT JOIN log l ON l.group_id = g.id AND l.sha256 = ?3
             LEFT JOIN log c ON c.group_id = g.id AND c.kind = 0 AND c.epoch = g.epoch - 1
             WHERE g.id = ?1",
            params![group, device, sha256.as_slice()],
            |row| {
                let earlier: Option<u64> = row.optional(3)?;
                Ok(StandingRow {
                    group: group_row(row, 7)?,
                    is_member: row.optional::<DeviceKey>(2)?.is_some(),
                    earlier: match earlier {
                        Some(seq) => Some(AcceptedRow {
                            seq,
                            epoch: row.get(4)?,
                            sender: row.get(5)?,
                            kind: LogKind::from_sql(row.get(6)?)?,
                        }),
                        None => None,
                    },
                })
            },
        )
    }

    /// `false` when the group id is in use.
    pub(crate) fn insert_group(&self, group: &GroupId, suite: u16, now: UnixSeconds) -> Result<bool, Fault> {
        let inserted = self.execute(
            "INSERT INTO groups (id, suite, epoch, created_at) VALUES (?1, ?2, 0, ?3) ON CONFLICT DO NOTHING",
            params![group, suite, now],
        )?;
        Ok(inserted == 1)
    }

    /// The GroupInfo of the present epoch.
    pub(crate) fn group_info(&self, group: &GroupId) -> Result<Option<Vec<u8>>, Fault> {
        self.row(
            "SELECT group_info FROM group_infos WHERE group_id = ?1",
            params![group],
            |row| row.get(0),
        )
    }

    pub(crate) fn set_group_info(&self, group: &GroupId, group_info: &[u8]) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO group_infos (group_id, group_info) VALUES (?1, ?2)
             ON CONFLICT (group_id) DO UPDATE SET group_info = excluded.group_info",
            params![group, group_info],
        )
    }

    /// The public state that was stored last, and the row that it is the state after.
    pub(crate) fn snapshot(&self, group: &GroupId) -> Result<Option<(u64, Vec<u8>)>, Fault> {
        self.row(
            "SELECT seq, snapshot FROM group_states WHERE group_id = ?1",
            params![group],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The row that the public state that was stored last is the one after.
    pub(crate) fn snapshot_seq(&self, group: &GroupId) -> Result<Option<u64>, Fault> {
        self.row(
            "SELECT snapshot_seq FROM groups WHERE id = ?1",
            params![group],
            |row| row.get(0),
        )
    }

    /// Stores a public state, unless a newer one is stored.
    pub(crate) fn set_snapshot(&self, group: &GroupId, seq: u64, snapshot: &[u8]) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO group_states (group_id, seq, snapshot) VALUES (?1, ?2, ?3)
             ON CONFLICT (group_id) DO UPDATE SET seq = excluded.seq, snapshot = excluded.snapshot
             WHERE group_states.seq < excluded.seq",
            params![group, seq, snapshot],
        )?;
        self.queue(
            "UPDATE groups SET snapshot_seq = ?2 WHERE id = ?1 AND snapshot_seq < ?2",
            params![group, seq],
        )
    }

    /// The groups whose stored state is not the present one, after this one, by id.
    pub(crate) fn groups_behind(&self, after: Option<&GroupId>, limit: u32) -> Result<Vec<GroupId>, Fault> {
        let none: &[u8] = &[];
        self.rows(
            "SELECT id FROM groups WHERE state_seq > snapshot_seq AND id > ?1 ORDER BY id LIMIT ?2",
            params![after.map_or(none, GroupId::as_bytes), limit],
            |row| row.get(0),
        )
    }

    /// The groups that a device is a member of, by id.
    pub(crate) fn memberships(&self, device: DeviceKey) -> Result<Vec<MembershipRow>, Fault> {
        self.rows(
            "SELECT g.id, g.epoch, g.next_seq - 1 FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id >> 8 = ?1 AND m.device_id = ?2 AND m.until_seq IS NULL ORDER BY g.id",
            params![device.user(), device],
            membership,
        )
    }

    /// The numbers that are left out of the logs of the groups that a device is a member of, by group and number.
    pub(crate) fn gaps(&self, device: DeviceKey) -> Result<Vec<(GroupId, Gap)>, Fault> {
        self.rows(
            "SELECT p.group_id, p.first_seq, p.last_seq FROM members m JOIN gaps p ON p.group_id = m.group_id
             WHERE m.device_id >> 8 = ?1 AND m.device_id = ?2 AND m.until_seq IS NULL
             ORDER BY p.group_id, p.first_seq",
            params![device.user(), device],
            gap,
        )
    }

    /// The same of the groups that any device of a user is a member of.
    pub(crate) fn gaps_of_user(&self, user: UserKey) -> Result<Vec<(GroupId, Gap)>, Fault> {
        self.rows(
            "SELECT DISTINCT p.group_id, p.first_seq, p.last_seq FROM members m JOIN gaps p ON p.group_id = m.group_id
             WHERE m.device_id >> 8 = ?1 AND m.until_seq IS NULL ORDER BY p.group_id, p.first_seq",
            params![user],
            gap,
        )
    }

    /// The groups that any device of a user is a member of, by id.
    pub(crate) fn memberships_of_user(&self, user: UserKey) -> Result<Vec<MembershipRow>, Fault> {
        self.rows(
            "SELECT DISTINCT g.id, g.epoch, g.next_seq - 1 FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id >> 8 = ?1 AND m.until_seq IS NULL ORDER BY g.id",
            params![user],
            membership,
        )
    }

    /// Whether any device of a user is a member.
    pub(crate) fn is_member_user(&self, group: &GroupId, user: UserKey) -> Result<bool, Fault> {
        let (first, end) = user.devices();
        self.exists(
            "SELECT 1 FROM members
             WHERE group_id = ?1 AND device_id >= ?2 AND device_id < ?3 AND until_seq IS NULL",
            params![group, first, end],
        )
    }
}

fn group_row(row: &Row<'_>, transcript_hash: usize) -> Result<GroupRow, Fault> {
    Ok(GroupRow {
        epoch: row.get(0)?,
        state_seq: row.get(1)?,
        transcript_hash: row.optional(transcript_hash)?.unwrap_or_default(),
    })
}

fn gap(row: &Row<'_>) -> Result<(GroupId, Gap), Fault> {
    let gap = Gap {
        first: row.get(1)?,
        last: row.get(2)?,
    };
    Ok((row.get(0)?, gap))
}

fn membership(row: &Row<'_>) -> Result<MembershipRow, Fault> {
    Ok(MembershipRow {
        group: row.get(0)?,
        epoch: row.get(1)?,
        head: row.get(2)?,
    })
}
