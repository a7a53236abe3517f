//! The devices of a user: linked one by another, and removed.

use larder_lifecycle::UnixSeconds;
use larder_wire::{Authorization, Base64Url, DeviceId, DeviceInfo, GroupId, RegisterRequest, Removal};

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Engine, Tx, UserKey};

impl Tx<'_> {
    /// Every device that a user has or had, oldest first.
    pub(crate) fn device_list(&self, user: UserKey) -> Result<Vec<DeviceInfo>, Fault> {
        self.rows(
            "SELECT d.name, d.auth_key, d.signature_key, a.name, d.link_signature, d.removed_at, r.name,
                    d.removal_signature
             FROM devices d LEFT JOIN devices a ON a.user_id = d.user_id AND a.id = d.authorized_by
                 LEFT JOIN devices r ON r.user_id = d.user_id AND r.id = d.removed_by
             WHERE d.user_id = ?1 ORDER BY d.id",
            params![user],
            |row| {
                let named = |name: String| name.parse().map_err(|_| Fault::Corrupt("a device id"));
                let authorization = match (row.optional(3)?, row.optional(4)?) {
                    (Some(by), Some(signature)) => Some(Authorization {
                        by: named(by)?,
                        signature: Base64Url(signature),
                    }),
                    (None, None) => None,
                    (Some(_), None) | (None, Some(_)) => {
                        return Err(Fault::Corrupt("the authorization of a device"));
                    }
                };
                let removal = match (row.optional(6)?, row.optional(7)?) {
                    (Some(by), Some(signature)) => Some(Removal {
                        by: named(by)?,
                        signature: Base64Url(signature),
                    }),
                    (None, None) => None,
                    (Some(_), None) | (None, Some(_)) => {
                        return Err(Fault::Corrupt("the removal of a device"));
                    }
                };
                Ok(DeviceInfo {
                    device_id: named(row.get(0)?)?,
                    auth_key: Base64Url(row.get(1)?),
                    mls_signature_key: Base64Url(row.get(2)?),
                    authorization,
                    removed_at: row.optional::<UnixSeconds>(5)?.map(|time| time.0),
                    removal,
                })
            },
        )
    }

    /// Adds a device to the user of `by`, who is locked and has or had `earlier` ones; `None` when the device id or the signature
    /// key is taken, and then the transaction must not be committed.
    pub(crate) fn insert_linked_device(
        &self,
        device: &RegisterRequest,
        (by, earlier): (DeviceKey, u8),
        signature: &[u8],
        now: UnixSeconds,
    ) -> Result<Option<DeviceKey>, Fault> {
        let new = by.user().device(earlier);
        if !self.register_device(new, &device.device_id, &device.mls_signature_key.0)? {
            return Ok(None);
        }
        self.queue(
            "INSERT INTO devices
                 (user_id, id, name, auth_key, signature_key, created_at, authorized_by, link_signature)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                by.user(),
                new,
                device.device_id.as_str(),
                device.auth_key.0.as_slice(),
                device.mls_signature_key.0.as_slice(),
                now,
                by,
                signature
            ],
        )?;
        Ok(Some(new))
    }

    /// The groups that any device of a user is a member of, by id: they are told when one of its devices comes or goes.
    pub(crate) fn groups_of_user(&self, user: UserKey) -> Result<Vec<GroupId>, Fault> {
        self.rows(
            "SELECT DISTINCT m.group_id FROM members m
             WHERE m.device_id >> 8 = ?1 AND m.until_seq IS NULL ORDER BY m.group_id",
            params![user],
            |row| row.get(0),
        )
    }

    /// Bars a device: no request of it is carried out from here on. Comes before any other lock.
    pub(crate) fn end_state(&self, device: DeviceKey) -> Result<(), Fault> {
        match self.engine() {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(_) => self.queue(
                "DELETE FROM device_states WHERE user_id = ?1 AND device_id = ?2",
                params![device.user(), device],
            ),
        }
    }

    /// Notes which device has removed one that is removed, unless that is known.
    pub(crate) fn sign_removal(
        &self,
        user: UserKey,
        device: &DeviceId,
        (by, signature): (DeviceKey, &[u8]),
    ) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET removed_by = ?3, removal_signature = ?4
             WHERE user_id = ?1 AND name = ?2 AND removed_at IS NOT NULL AND removed_by IS NULL",
            params![user, device.as_str(), by, signature],
        )
    }

    /// Turns a device into a tombstone, and takes its sessions and its place in every group away.
    pub(crate) fn remove_device(&self, device: DeviceKey, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE devices SET removed_at = ?3 WHERE user_id = ?1 AND id = ?2 AND removed_at IS NULL",
            params![device.user(), device, now],
        )?;
        let groups: Vec<GroupId> = self.rows(
            "SELECT DISTINCT m.group_id FROM members m
             WHERE m.device_id >> 8 = ?1 AND m.device_id = ?2 ORDER BY m.group_id",
            params![device.user(), device],
            |row| row.get(0),
        )?;
        for group in &groups {
            self.drop_intervals(group, device)?;
        }
        self.forget_introduction(device)?;
        self.count_ended_sessions()?;
        for table in ["sessions", "mail", "idempotent_answers"] {
            self.queue(
                &format!("DELETE FROM {table} WHERE user_id = ?1 AND device_id = ?2"),
                params![device.user(), device],
            )?;
        }
        Ok(())
    }
}
