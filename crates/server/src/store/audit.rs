use larder_lifecycle::UnixSeconds;
use larder_wire::{AuditHead, AuditRow, AuditTransition, Base64Url, GroupId, KeyPackageRef};

use crate::error::Fault;
use crate::store::statement::{Row, params};
use crate::store::tx::{DeviceKey, Tx};

fn transition_from_sql(code: &str) -> Result<AuditTransition, Fault> {
    AuditTransition::ALL
        .iter()
        .find(|transition| transition.code() == code)
        .copied()
        .ok_or(Fault::Corrupt("an unknown transition in an audit"))
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

impl Tx<'_> {
    /// Appends a row to the owner's audit chain: what happened to a KeyPackage, by whom (a credential identity; none
    /// for the server itself) and for which group.
    pub(crate) fn append_audit(
        &self,
        owner: DeviceKey,
        key_package_ref: &KeyPackageRef,
        transition: AuditTransition,
        actor: Option<&str>,
        group: Option<&GroupId>,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let AuditHead {
            seq: last,
            hash: previous,
        } = self.audit_head(owner)?;
        let row = AuditRow {
            seq: last + 1,
            time: now.0,
            key_package_ref: key_package_ref.clone(),
            transition,
            actor: actor.map(str::to_owned),
            group_id: group.cloned(),
            hash: Base64Url::default(),
        };
        let hash = row.hash_after(&previous.0);
        self.execute(
            "INSERT INTO audit (device_id, seq, time, ref, transition, actor, group_id, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                owner,
                row.seq,
                now,
                key_package_ref,
                transition.code(),
                actor,
                group,
                &hash[..]
            ],
        )?;
        self.execute(
            "UPDATE devices SET audit_seq = ?2, audit_hash = ?3 WHERE id = ?1",
            params![owner, row.seq, &hash[..]],
        )?;
        Ok(())
    }

    /// The end of a device's audit chain.
    pub(crate) fn audit_head(&self, owner: DeviceKey) -> Result<AuditHead, Fault> {
        self.one_row(
            "SELECT audit_seq, audit_hash FROM devices WHERE id = ?1",
            params![owner],
            |row| {
                Ok(AuditHead {
                    seq: row.get(0)?,
                    hash: Base64Url(row.get(1)?),
                })
            },
        )
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
             WHERE device_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            params![owner, after, limit],
            audit_row,
        )
    }
}
