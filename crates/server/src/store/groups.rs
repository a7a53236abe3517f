use std::collections::BTreeSet;

use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Tx};

/// A group.
pub(crate) struct GroupRow {
    pub(crate) epoch: u64,
    pub(crate) public_state: Vec<u8>,
    pub(crate) group_info: Vec<u8>,
}

/// What a group can accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptedKind {
    Commit = 0,
    Proposal = 1,
    Message = 2,
}

/// Something to add to a group's sequence.
pub(crate) struct NewAccepted<'a> {
    pub(crate) kind: AcceptedKind,
    /// The epoch that it was sent in.
    pub(crate) epoch: u64,
    pub(crate) sender: DeviceKey,
    pub(crate) sha256: &'a [u8],
}

/// Something that a group accepted earlier.
pub(crate) struct AcceptedRow {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) sender: DeviceKey,
    pub(crate) is_commit: bool,
}

impl Tx<'_> {
    pub(crate) fn group(&self, group: &GroupId) -> Result<Option<GroupRow>, Fault> {
        self.row(
            "SELECT epoch, public_state, group_info FROM groups WHERE id = ?1",
            params![group],
            |row| {
                Ok(GroupRow {
                    epoch: row.get(0)?,
                    public_state: row.get(1)?,
                    group_info: row.get(2)?,
                })
            },
        )
    }

    /// The group's epoch, without the rest.
    pub(crate) fn group_epoch(&self, group: &GroupId) -> Result<Option<u64>, Fault> {
        self.row("SELECT epoch FROM groups WHERE id = ?1", params![group], |row| {
            row.get(0)
        })
    }

    /// `false` when the group id is in use.
    pub(crate) fn insert_group(
        &self,
        group: &GroupId,
        suite: u16,
        epoch: u64,
        public_state: &[u8],
        group_info: &[u8],
        now: UnixSeconds,
    ) -> Result<bool, Fault> {
        let inserted = self.execute(
            "INSERT INTO groups (id, suite, epoch, last_seq, public_state, group_info, created_at)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![group, suite, epoch, public_state, group_info, now],
        )?;
        Ok(inserted == 1)
    }

    /// Moves the group to the epoch after `epoch`; `false` when it is not at `epoch`.
    pub(crate) fn advance_group(
        &self,
        group: &GroupId,
        epoch: u64,
        public_state: &[u8],
        group_info: &[u8],
    ) -> Result<bool, Fault> {
        let advanced = self.execute(
            "UPDATE groups SET epoch = epoch + 1, public_state = ?3, group_info = ?4 WHERE id = ?1 AND epoch = ?2",
            params![group, epoch, public_state, group_info],
        )?;
        Ok(advanced == 1)
    }

    /// Replaces the public state within an epoch: a proposal was queued.
    pub(crate) fn set_public_state(&self, group: &GroupId, public_state: &[u8]) -> Result<(), Fault> {
        self.execute(
            "UPDATE groups SET public_state = ?2 WHERE id = ?1",
            params![group, public_state],
        )?;
        Ok(())
    }

    /// Gives the group's next sequence number to something it accepts.
    pub(crate) fn append_accepted(
        &self,
        group: &GroupId,
        accepted: &NewAccepted<'_>,
        now: UnixSeconds,
    ) -> Result<u64, Fault> {
        let seq: u64 = self.one_row(
            "UPDATE groups SET last_seq = last_seq + 1 WHERE id = ?1 RETURNING last_seq",
            params![group],
            |row| row.get(0),
        )?;
        self.execute(
            "INSERT INTO accepted (group_id, seq, kind, epoch, sender, sha256, accepted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                group,
                seq,
                accepted.kind as u8,
                accepted.epoch,
                accepted.sender,
                accepted.sha256,
                now
            ],
        )?;
        Ok(seq)
    }

    /// What the group accepted under this hash.
    pub(crate) fn accepted(&self, group: &GroupId, sha256: &[u8]) -> Result<Option<AcceptedRow>, Fault> {
        self.row(
            "SELECT seq, epoch, sender, kind FROM accepted WHERE group_id = ?1 AND sha256 = ?2",
            params![group, sha256],
            |row| {
                Ok(AcceptedRow {
                    seq: row.get(0)?,
                    epoch: row.get(1)?,
                    sender: row.get(2)?,
                    is_commit: row.get::<u8>(3)? == AcceptedKind::Commit as u8,
                })
            },
        )
    }

    /// The member devices of a group, each with the first epoch whose messages it can read, in ascending order.
    pub(crate) fn members(&self, group: &GroupId) -> Result<Vec<(DeviceKey, u64)>, Fault> {
        self.rows(
            "SELECT device_id, since_epoch FROM members WHERE group_id = ?1 ORDER BY device_id",
            params![group],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The groups that a device is a member of, each with its epoch, by id.
    pub(crate) fn memberships(&self, device: DeviceKey) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT g.id, g.epoch FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id = ?1 ORDER BY g.id",
            params![device],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The groups that any device of this device's user is a member of, each with its epoch, by id.
    pub(crate) fn memberships_of_user(&self, device: DeviceKey) -> Result<Vec<(GroupId, u64)>, Fault> {
        self.rows(
            "SELECT DISTINCT g.id, g.epoch FROM devices me
             JOIN devices mine ON mine.user_id = me.user_id
             JOIN members m ON m.device_id = mine.id
             JOIN groups g ON g.id = m.group_id
             WHERE me.id = ?1 ORDER BY g.id",
            params![device],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Whether any device of the user who owns `device` is a member.
    pub(crate) fn is_member_user(&self, group: &GroupId, device: DeviceKey) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM devices mine
             JOIN devices theirs ON theirs.user_id = mine.user_id
             JOIN members m ON m.group_id = ?1 AND m.device_id = theirs.id
             WHERE mine.id = ?2",
            params![group, device],
        )
    }

    pub(crate) fn insert_member(
        &self,
        group: &GroupId,
        device: DeviceKey,
        since_epoch: u64,
    ) -> Result<(), Fault> {
        self.execute(
            "INSERT INTO members (group_id, device_id, since_epoch) VALUES (?1, ?2, ?3)
             ON CONFLICT (group_id, device_id) DO UPDATE SET since_epoch = excluded.since_epoch",
            params![group, device, since_epoch],
        )?;
        Ok(())
    }

    pub(crate) fn remove_member(&self, group: &GroupId, device: DeviceKey) -> Result<(), Fault> {
        self.execute(
            "DELETE FROM members WHERE group_id = ?1 AND device_id = ?2",
            params![group, device],
        )?;
        Ok(())
    }

    pub(crate) fn insert_ratchet_tree(&self, group: &GroupId, epoch: u64, tree: &[u8]) -> Result<(), Fault> {
        self.execute(
            "INSERT INTO ratchet_trees (group_id, epoch, tree) VALUES (?1, ?2, ?3)",
            params![group, epoch, tree],
        )?;
        Ok(())
    }

    /// The ratchet tree of an epoch, for a device that has a Welcome of that epoch in its inbox.
    pub(crate) fn ratchet_tree_for(
        &self,
        group: &GroupId,
        epoch: u64,
        device: DeviceKey,
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.row(
            "SELECT t.tree FROM ratchet_trees t
             WHERE t.group_id = ?1 AND t.epoch = ?2 AND EXISTS (
                 SELECT 1 FROM inbox i
                 WHERE i.group_id = t.group_id AND i.epoch = t.epoch AND i.device_id = ?3 AND i.kind = 0
             )",
            params![group, epoch, device],
            |row| row.get(0),
        )
    }

    /// Removes ratchet trees whose last Welcome has gone, and the memory of what was accepted before `accepted_before`.
    /// Only trees are looked at of which a Welcome has gone since the last time: a tree comes with Welcomes, and no other
    /// ones of its epoch follow.
    pub(crate) fn sweep_groups(&self, accepted_before: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        // Those that commit meanwhile come next time: what is looked at is exactly what is returned.
        let gone: Vec<(GroupId, u64)> = self.rows(
            "DELETE FROM welcomes_gone WHERE id IN (SELECT id FROM welcomes_gone ORDER BY id LIMIT ?1)
             RETURNING group_id, epoch",
            params![limit],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let mut removed = gone.len() as u64;
        for (group, epoch) in gone.into_iter().collect::<BTreeSet<_>>() {
            removed += self.execute(
                "DELETE FROM ratchet_trees WHERE group_id = ?1 AND epoch = ?2 AND NOT EXISTS (
                     SELECT 1 FROM inbox i WHERE i.group_id = ?1 AND i.epoch = ?2 AND i.kind = 0
                 )",
                params![&group, epoch],
            )?;
        }
        let accepted = self.execute(
            "DELETE FROM accepted WHERE (group_id, seq) IN (
                 SELECT group_id, seq FROM accepted WHERE accepted_at < ?1 LIMIT ?2
             )",
            params![accepted_before, limit],
        )?;
        Ok(removed + accepted)
    }
}
