use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;
use rusqlite::OptionalExtension;

use crate::error::Fault;
use crate::store::tx::{DeviceKey, Tx, from_sql, stored_group_id, to_sql};

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
        let row: Option<(i64, Vec<u8>, Vec<u8>)> = self
            .connection()
            .prepare_cached("SELECT epoch, public_state, group_info FROM groups WHERE id = ?1")?
            .query_row([group.as_bytes()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        row.map(|(epoch, public_state, group_info)| {
            Ok(GroupRow {
                epoch: from_sql(epoch)?,
                public_state,
                group_info,
            })
        })
        .transpose()
    }

    /// The group's epoch, without the rest.
    pub(crate) fn group_epoch(&self, group: &GroupId) -> Result<Option<u64>, Fault> {
        let epoch: Option<i64> = self
            .connection()
            .prepare_cached("SELECT epoch FROM groups WHERE id = ?1")?
            .query_row([group.as_bytes()], |row| row.get(0))
            .optional()?;
        epoch.map(from_sql).transpose()
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
        let inserted = self
            .connection()
            .prepare_cached(
                "INSERT INTO groups (id, suite, epoch, last_seq, public_state, group_info, created_at)
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute((
                group.as_bytes(),
                suite,
                to_sql(epoch),
                public_state,
                group_info,
                to_sql(now.0),
            ))?;
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
        let advanced = self
            .connection()
            .prepare_cached(
                "UPDATE groups SET epoch = epoch + 1, public_state = ?3, group_info = ?4 WHERE id = ?1 AND epoch = ?2",
            )?
            .execute((group.as_bytes(), to_sql(epoch), public_state, group_info))?;
        Ok(advanced == 1)
    }

    /// Replaces the public state within an epoch: a proposal was queued.
    pub(crate) fn set_public_state(&self, group: &GroupId, public_state: &[u8]) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("UPDATE groups SET public_state = ?2 WHERE id = ?1")?
            .execute((group.as_bytes(), public_state))?;
        Ok(())
    }

    /// Gives the group's next sequence number to something it accepts.
    pub(crate) fn append_accepted(
        &self,
        group: &GroupId,
        accepted: &NewAccepted<'_>,
        now: UnixSeconds,
    ) -> Result<u64, Fault> {
        let seq: i64 = self
            .connection()
            .prepare_cached("UPDATE groups SET last_seq = last_seq + 1 WHERE id = ?1 RETURNING last_seq")?
            .query_row([group.as_bytes()], |row| row.get(0))?;
        self.connection()
            .prepare_cached(
                "INSERT INTO accepted (group_id, seq, kind, epoch, sender, sha256, accepted_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                group.as_bytes(),
                seq,
                accepted.kind as u8,
                to_sql(accepted.epoch),
                accepted.sender.0,
                accepted.sha256,
                to_sql(now.0),
            ))?;
        from_sql(seq)
    }

    /// What the group accepted under this hash.
    pub(crate) fn accepted(&self, group: &GroupId, sha256: &[u8]) -> Result<Option<AcceptedRow>, Fault> {
        let row: Option<(i64, i64, i64, u8)> = self
            .connection()
            .prepare_cached(
                "SELECT seq, epoch, sender, kind FROM accepted WHERE group_id = ?1 AND sha256 = ?2",
            )?
            .query_row((group.as_bytes(), sha256), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        row.map(|(seq, epoch, sender, kind)| {
            Ok(AcceptedRow {
                seq: from_sql(seq)?,
                epoch: from_sql(epoch)?,
                sender: DeviceKey(sender),
                is_commit: kind == AcceptedKind::Commit as u8,
            })
        })
        .transpose()
    }

    /// The member devices of a group, each with the first epoch whose messages it can read.
    pub(crate) fn members(&self, group: &GroupId) -> Result<Vec<(DeviceKey, u64)>, Fault> {
        let mut statement = self
            .connection()
            .prepare_cached("SELECT device_id, since_epoch FROM members WHERE group_id = ?1")?;
        let rows = statement.query_map([group.as_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        rows.map(|row| {
            let (device, since) = row?;
            Ok((DeviceKey(device), from_sql(since)?))
        })
        .collect()
    }

    /// The groups that a device is a member of, each with its epoch, by id.
    pub(crate) fn memberships(&self, device: DeviceKey) -> Result<Vec<(GroupId, u64)>, Fault> {
        let mut statement = self.connection().prepare_cached(
            "SELECT g.id, g.epoch FROM members m JOIN groups g ON g.id = m.group_id
             WHERE m.device_id = ?1 ORDER BY g.id",
        )?;
        let rows = statement.query_map([device.0], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
        })?;
        rows.map(|row| {
            let (group, epoch) = row?;
            Ok((stored_group_id(&group)?, from_sql(epoch)?))
        })
        .collect()
    }

    pub(crate) fn is_member(&self, group: &GroupId, device: DeviceKey) -> Result<bool, Fault> {
        Ok(self
            .connection()
            .prepare_cached("SELECT 1 FROM members WHERE group_id = ?1 AND device_id = ?2")?
            .exists((group.as_bytes(), device.0))?)
    }

    /// Whether any device of the user who owns `device` is a member.
    pub(crate) fn is_member_user(&self, group: &GroupId, device: DeviceKey) -> Result<bool, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT 1 FROM devices mine
                 JOIN devices theirs ON theirs.user_id = mine.user_id
                 JOIN members m ON m.group_id = ?1 AND m.device_id = theirs.id
                 WHERE mine.id = ?2",
            )?
            .exists((group.as_bytes(), device.0))?)
    }

    pub(crate) fn insert_member(
        &self,
        group: &GroupId,
        device: DeviceKey,
        since_epoch: u64,
    ) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "INSERT INTO members (group_id, device_id, since_epoch) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET since_epoch = excluded.since_epoch",
            )?
            .execute((group.as_bytes(), device.0, to_sql(since_epoch)))?;
        Ok(())
    }

    pub(crate) fn remove_member(&self, group: &GroupId, device: DeviceKey) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("DELETE FROM members WHERE group_id = ?1 AND device_id = ?2")?
            .execute((group.as_bytes(), device.0))?;
        Ok(())
    }

    pub(crate) fn insert_ratchet_tree(&self, group: &GroupId, epoch: u64, tree: &[u8]) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("INSERT INTO ratchet_trees (group_id, epoch, tree) VALUES (?1, ?2, ?3)")?
            .execute((group.as_bytes(), to_sql(epoch), tree))?;
        Ok(())
    }

    /// The ratchet tree of an epoch, for a device that has a Welcome of that epoch in its inbox.
    pub(crate) fn ratchet_tree_for(
        &self,
        group: &GroupId,
        epoch: u64,
        device: DeviceKey,
    ) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT t.tree FROM ratchet_trees t
                 WHERE t.group_id = ?1 AND t.epoch = ?2 AND EXISTS (
                     SELECT 1 FROM inbox i
                     WHERE i.group_id = t.group_id AND i.epoch = t.epoch AND i.device_id = ?3 AND i.kind = 0
                 )",
            )?
            .query_row((group.as_bytes(), to_sql(epoch), device.0), |row| row.get(0))
            .optional()?)
    }

    /// Removes ratchet trees that no Welcome waits for, and the memory of what was accepted before `accepted_before`.
    pub(crate) fn sweep_groups(&self, accepted_before: UnixSeconds, limit: u32) -> Result<usize, Fault> {
        let trees = self
            .connection()
            .prepare_cached(
                "DELETE FROM ratchet_trees WHERE NOT EXISTS (
                     SELECT 1 FROM inbox i
                     WHERE i.group_id = ratchet_trees.group_id AND i.epoch = ratchet_trees.epoch AND i.kind = 0
                 )",
            )?
            .execute([])?;
        let accepted = self
            .connection()
            .prepare_cached(
                "DELETE FROM accepted WHERE (group_id, seq) IN (
                     SELECT group_id, seq FROM accepted WHERE accepted_at < ?1 LIMIT ?2
                 )",
            )?
            .execute((to_sql(accepted_before.0), limit))?;
        Ok(trees + accepted)
    }
}
