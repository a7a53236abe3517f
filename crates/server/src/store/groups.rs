use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;

use crate::error::Fault;
use crate::store::statement::{Row, params};
use crate::store::tx::{DeviceKey, Tx};

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupRow {
    pub(crate) epoch: u64,
    /// The last row that changed the public state; 0 at first.
    pub(crate) state_seq: u64,
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
            "SELECT epoch, state_seq FROM groups WHERE id = ?1",
            params![group],
            |row| {
                Ok(GroupRow {
                    epoch: row.get(0)?,
                    state_seq: row.get(1)?,
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
        self.execute(
            "INSERT INTO group_infos (group_id, group_info) VALUES (?1, ?2)
             ON CONFLICT (group_id) DO UPDATE SET group_info = excluded.group_info",
            params![group, group_info],
        )
        .map(drop)
    }

    /// The public state that was stored last, and the row that it is the state after.
    pub(crate) fn snapshot(&self, group: &GroupId) -> Result<Option<(u64, Vec<u8>)>, Fault> {
        self.row(
            "SELECT seq, snapshot FROM group_states WHERE group_id = ?1",
            params![group],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Stores a public state, unless a newer one is stored.
    pub(crate) fn set_snapshot(&self, group: &GroupId, seq: u64, snapshot: &[u8]) -> Result<(), Fault> {
        self.execute(
            "INSERT INTO group_states (group_id, seq, snapshot) VALUES (?1, ?2, ?3)
             ON CONFLICT (group_id) DO UPDATE SET seq = excluded.seq, snapshot = excluded.snapshot
             WHERE group_states.seq < excluded.seq",
            params![group, seq, snapshot],
        )
        .map(drop)
    }

    /// The groups that a device is a member of, by id.
    pub(crate) fn memberships(&self, device: DeviceKey) -> Result<Vec<MembershipRow>, Fault> {
        self.rows(
            "SELECT g.id, g.epoch, g.next_seq - 1 FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id = ?1 AND m.until_seq IS NULL ORDER BY g.id",
            params![device],
            membership,
        )
    }

    /// The groups that any device of this device's user is a member of, by id.
    pub(crate) fn memberships_of_user(&self, device: DeviceKey) -> Result<Vec<MembershipRow>, Fault> {
        self.rows(
            "SELECT DISTINCT g.id, g.epoch, g.next_seq - 1 FROM devices me
             JOIN devices mine ON mine.user_id = me.user_id
             JOIN members m ON m.device_id = mine.id AND m.until_seq IS NULL
             JOIN groups g ON g.id = m.group_id
             WHERE me.id = ?1 ORDER BY g.id",
            params![device],
            membership,
        )
    }

    /// Whether any device of the user who owns `device` is a member.
    pub(crate) fn is_member_user(&self, group: &GroupId, device: DeviceKey) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM devices mine
             JOIN devices theirs ON theirs.user_id = mine.user_id
             JOIN members m ON m.group_id = ?1 AND m.device_id = theirs.id AND m.until_seq IS NULL
             WHERE mine.id = ?2",
            params![group, device],
        )
    }
}

fn membership(row: &Row<'_>) -> Result<MembershipRow, Fault> {
    Ok(MembershipRow {
        group: row.get(0)?,
        epoch: row.get(1)?,
        head: row.get(2)?,
    })
}
