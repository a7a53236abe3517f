use std::collections::BTreeMap;

use larder_lifecycle::UnixSeconds;
use larder_wire::{AuditCheckpoint, AuditHead, AuditRow, AuditTransition, Base64Url, GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::statement::{Param, Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx};

fn transition_from_sql(code: &str) -> Result<AuditTransition, Fault> {
    AuditTransition::ALL
        .iter()
        .find(|transition| transition.code() == code)
        .copied()
        .ok_or(Fault::Corrupt("an unknown transition in an audit"))
}

/// Chains that one transaction shortens.
const PRUNED_CHAINS_MAX: u32 = 64;

const HEAD: &str = "SELECT audit_seq, audit_hash FROM devices WHERE user_id = ?1 AND id = ?2";

/// The two columns from `first` on.
pub(super) fn audit_head(row: &Row<'_>, first: usize) -> Result<AuditHead, Fault> {
    Ok(AuditHead {
        seq: row.get(first)?,
        hash: Base64Url(row.get(first + 1)?),
    })
}

fn audit_row(row: &Row<'_>) -> Result<AuditRow, Fault> {
    Ok(AuditRow {
        seq: row.get(0)?,
        time: row.get(1)?,
        key_package_ref: row.get(2)?,
        transition: transition_from_sql(&row.get::<String>(3)?)?,
        actor: row.optional(4)?,
        group_id: row.optional(5)?,
        hash: Base64Url(row.get(6)?),
    })
}

/// The row that follows `head`.
fn audit_row_after(
    head: &AuditHead,
    key_package_ref: &KeyPackageRef,
    transition: AuditTransition,
    (actor, group): (Option<&str>, Option<&GroupId>),
    now: UnixSeconds,
) -> AuditRow {
    let row = AuditRow {
        seq: head.seq + 1,
        time: now.0,
        key_package_ref: key_package_ref.clone(),
        transition,
        actor: actor.map(str::to_owned),
        group_id: group.cloned(),
        hash: Base64Url::default(),
    };
    let hash = row.hash_after(&head.hash.0);
    AuditRow {
        hash: Base64Url(hash.to_vec()),
        ..row
    }
}

/// A KeyPackage that is handed out.
pub(crate) struct Disclosure<'a> {
    pub(crate) owner: DeviceKey,
    /// Of the owner's audit chain, read since the owner was locked.
    pub(crate) head: &'a AuditHead,
    pub(crate) key_package_ref: &'a KeyPackageRef,
    /// Whether an inventory tells it.
    pub(crate) is_change: bool,
    /// Until when the owner counts as asked, if that is remembered.
    pub(crate) asked_until: Option<UnixSeconds>,
}

impl Tx<'_> {
    /// Appends a row to the audit chain of each owner, in order: what happened to a KeyPackage, by whom (a credential
    /// identity; none for the server itself) and for which group. An owner may be there twice.
    pub(crate) fn append_audits(
        &self,
        owned: &[(DeviceKey, &KeyPackageRef)],
        transition: AuditTransition,
        (actor, group): (Option<&str>, Option<&GroupId>),
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let owners: Vec<_> = owned
            .iter()
            .map(|(owner, _)| [Param::from(owner.user()), Param::from(*owner)])
            .collect();
        let heads = self.row_of_each(HEAD, &owners, |row| audit_head(row, 0))?;
        let heads = owned.iter().zip(heads);
        let heads = heads.filter_map(|((owner, _), head)| Some((*owner, head?)));
        let mut heads: BTreeMap<DeviceKey, AuditHead> = heads.collect();
        let mut rows = Vec::with_capacity(owned.len());
        for (owner, key_package_ref) in owned {
            let head = heads
                .get_mut(owner)
                .ok_or(Fault::Corrupt("a KeyPackage of no device"))?;
            let row = audit_row_after(head, key_package_ref, transition, (actor, group), now);
            *head = AuditHead {
                seq: row.seq,
                hash: row.hash.clone(),
            };
            rows.push((*owner, row));
        }
        self.insert_audits(&rows)?;
        let heads = heads
            .iter()
            .map(|(owner, head)| row_params![owner.user(), *owner, head.seq, head.hash.0.as_slice(), now]);
        self.queue_each(
            "UPDATE devices SET audit_seq = ?3, audit_hash = ?4, audit_oldest = coalesce(audit_oldest, ?5)
             WHERE user_id = ?1 AND id = ?2",
            &heads.collect::<Vec<_>>(),
        )
    }

    /// Appends rows like that, of KeyPackages that are handed out, each of another owner; counts the changes of the owners'
    /// KeyPackages, and remembers until when the owners count as asked.
    pub(crate) fn append_disclosures(
        &self,
        disclosures: &[Disclosure<'_>],
        (actor, group): (&str, &GroupId),
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let (transition, actor) = (AuditTransition::Reserve, (Some(actor), Some(group)));
        let rows = disclosures.iter().map(|disclosure| {
            let (head, known_by) = (disclosure.head, disclosure.key_package_ref);
            (
                disclosure.owner,
                audit_row_after(head, known_by, transition, actor, now),
            )
        });
        let rows: Vec<(DeviceKey, AuditRow)> = rows.collect();
        self.insert_audits(&rows)?;
        let heads = disclosures.iter().zip(&rows).map(|(disclosure, (owner, row))| {
            row_params![
                owner.user(),
                *owner,
                row.seq,
                row.hash.0.as_slice(),
                disclosure.asked_until,
                now,
                u8::from(disclosure.is_change)
            ]
        });
        self.queue_each(
            "UPDATE devices SET generation = generation + ?7, audit_seq = ?3, audit_hash = ?4,
                 asked_until = coalesce(?5, asked_until), audit_oldest = coalesce(audit_oldest, ?6)
             WHERE user_id = ?1 AND id = ?2",
            &heads.collect::<Vec<_>>(),
        )
    }

    /// Stores rows of the chains of these owners, in order.
    fn insert_audits(&self, rows: &[(DeviceKey, AuditRow)]) -> Result<(), Fault> {
        let each = rows.iter().map(|(owner, row)| {
            row_params![
                owner.user(),
                *owner,
                row.seq,
                row.time,
                &row.key_package_ref,
                row.transition.code(),
                row.actor.as_deref(),
                row.group_id.as_ref(),
                row.hash.0.as_slice()
            ]
        });
        self.queue_each(
            "INSERT INTO audit (user_id, device_id, seq, time, ref, transition, actor, group_id, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            &each.collect::<Vec<_>>(),
        )
    }

    /// The end of a device's audit chain.
    pub(crate) fn audit_head(&self, owner: DeviceKey) -> Result<AuditHead, Fault> {
        self.one_row(HEAD, params![owner.user(), owner], |row| audit_head(row, 0))
    }

    /// The rows of a device's audit chain after `after`, in order, at most `limit`.
    pub(crate) fn audit_rows(
        &self,
        owner: DeviceKey,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, Fault> {
        self.rows(
            "SELECT seq, time, ref, transition, actor, group_id, hash FROM audit
             WHERE user_id = ?1 AND device_id = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
            params![owner.user(), owner, after, limit],
            audit_row,
        )
    }

    /// The last row of a device's audit chain that was removed; `None` while all are there.
    pub(crate) fn audit_checkpoint(&self, owner: DeviceKey) -> Result<Option<AuditCheckpoint>, Fault> {
        self.row(
            "SELECT seq, hash, time FROM audit_checkpoints WHERE user_id = ?1 AND device_id = ?2",
            params![owner.user(), owner],
            |row| {
                Ok(AuditCheckpoint {
                    seq: row.get(0)?,
                    hash: Base64Url(row.get(1)?),
                    time: row.get(2)?,
                })
            },
        )
    }

    /// When the oldest row of a device's audit chain happened, as the device's row says; `None` without one.
    pub(crate) fn audit_oldest(&self, owner: DeviceKey) -> Result<Option<UnixSeconds>, Fault> {
        self.one_row(
            "SELECT audit_oldest FROM devices WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner],
            |row| row.optional(0),
        )
    }

    /// Removes rows of audit chains that happened before `before`, `most` at most, from the beginning of each chain on. Of each
    /// chain the last row that was removed is kept as a checkpoint. Returns how many were removed.
    pub(crate) fn prune_audits(&self, before: UnixSeconds, most: u32) -> Result<u64, Fault> {
        let due = self.due(
            || {
                self.rows(
                    "SELECT id FROM devices WHERE audit_oldest < ?1 ORDER BY audit_oldest LIMIT ?2",
                    params![before, PRUNED_CHAINS_MAX],
                    |row| row.get::<DeviceKey>(0),
                )
            },
            |device| *device,
        )?;
        let mut left = most;
        for device in due {
            if left == 0 {
                break;
            }
            left -= self.prune_audit(device, before, left)?;
        }
        Ok(u64::from(most - left))
    }

    fn prune_audit(&self, owner: DeviceKey, before: UnixSeconds, most: u32) -> Result<u32, Fault> {
        // One more, to know when the oldest happened that stays.
        let mut rows = self.audit_rows(owner, 0, most.saturating_add(1))?;
        let kept = rows
            .iter()
            .take(most as usize)
            .position(|row| row.time >= before.0)
            .unwrap_or(rows.len().min(most as usize));
        let oldest = rows.get(kept).map(|row| UnixSeconds(row.time));
        rows.truncate(kept);
        self.execute(
            "UPDATE devices SET audit_oldest = ?3 WHERE user_id = ?1 AND id = ?2",
            params![owner.user(), owner, oldest],
        )?;
        let (Some(last), Some(latest)) = (rows.last(), rows.iter().map(|row| row.time).max()) else {
            return Ok(0);
        };
        self.execute(
            "DELETE FROM audit WHERE user_id = ?1 AND device_id = ?2 AND seq <= ?3",
            params![owner.user(), owner, last.seq],
        )?;
        self.execute(
            "INSERT INTO audit_checkpoints (user_id, device_id, seq, hash, time) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (user_id, device_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash,
                 time = CASE WHEN excluded.time > audit_checkpoints.time THEN excluded.time ELSE audit_checkpoints.time END",
            params![
                owner.user(),
                owner,
                last.seq,
                &last.hash.0[..],
                UnixSeconds(latest)
            ],
        )?;
        Ok(u32::try_from(kept).unwrap_or(most))
    }
}
