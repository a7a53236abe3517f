use larder_lifecycle::UnixSeconds;
use larder_wire::{DeviceId, StateMark, UserName};

use crate::accounts::{CHALLENGE_SECONDS, ChallengeKey};
use crate::error::Fault;
use crate::store::statement::{Param, Row, params};
use crate::store::tx::{DeviceKey, Engine, Tx, UserKey};

/// A registered device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceRow {
    pub(crate) key: DeviceKey,
    pub(crate) user_key: UserKey,
    pub(crate) user: UserName,
    pub(crate) device_id: DeviceId,
    pub(crate) auth_key: Vec<u8>,
    pub(crate) signature_key: Vec<u8>,
}

/// The stored answer to a request with an idempotency key.
pub(crate) struct IdempotentAnswer {
    pub(crate) request_hash: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

impl DeviceRow {
    /// The identity of the device's credential, as text.
    pub(crate) fn identity(&self) -> String {
        format!("{}/{}", self.user, self.device_id)
    }
}

/// Every device, those that were removed included.
pub(super) const EVERY_DEVICE: &str = "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key, d.user_id
    FROM devices d JOIN users u ON u.id = d.user_id";

/// The devices that are not removed.
pub(super) const DEVICE: &str = "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key, d.user_id
    FROM devices d JOIN users u ON u.id = d.user_id AND d.removed_at IS NULL";

pub(super) fn device(row: &Row<'_>) -> Result<DeviceRow, Fault> {
    let (user, device_id): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(DeviceRow {
        key: row.get(0)?,
        user: user.parse().map_err(|_| Fault::Corrupt("a user name"))?,
        device_id: device_id.parse().map_err(|_| Fault::Corrupt("a device id"))?,
        auth_key: row.get(3)?,
        signature_key: row.get(4)?,
        user_key: row.get(5)?,
    })
}

impl Tx<'_> {
    /// Registers a user with a first device; `false` when the user name, the device id or the signature key is taken.
    pub(crate) fn insert_account(
        &self,
        user: &UserName,
        device_id: &DeviceId,
        auth_key: &[u8],
        signature_key: &[u8],
        now: UnixSeconds,
    ) -> Result<bool, Fault> {
        let user_id: Option<i64> = self.row(
            "INSERT INTO users (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING RETURNING id",
            params![user.as_str(), now],
            |row| row.get(0),
        )?;
        let Some(user_id) = user_id else {
            return Ok(false);
        };
        let devices = self.execute(
            "INSERT INTO devices (user_id, name, auth_key, signature_key, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![user_id, device_id.as_str(), auth_key, signature_key, now],
        )?;
        Ok(devices == 1)
    }

    pub(crate) fn device_by_id(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        self.row(
            &format!("{DEVICE} WHERE d.name = ?1"),
            params![device_id.as_str()],
            device,
        )
    }

    /// The devices of these ids, in their order; `None` for one that is unknown or was removed.
    pub(crate) fn devices_by_id<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Vec<Option<DeviceRow>>, Fault> {
        let ids: Vec<_> = ids.into_iter().map(|id| [Param::from(id.as_str())]).collect();
        self.row_of_each(&format!("{DEVICE} WHERE d.name = ?1"), &ids, device)
    }

    /// Like [`device_by_id`](Self::device_by_id), or a device that was removed.
    pub(crate) fn device_that_was(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        self.row(
            &format!("{EVERY_DEVICE} WHERE d.name = ?1"),
            params![device_id.as_str()],
            device,
        )
    }

    /// The devices of a user, oldest first; none when the user is unknown, or has blocked the one who asks.
    pub(crate) fn devices_of_user(
        &self,
        user: &UserName,
        asked_by: &UserName,
    ) -> Result<Vec<DeviceRow>, Fault> {
        let mut devices = self.devices_of_users(std::slice::from_ref(user), asked_by)?;
        Ok(devices.pop().unwrap_or_default())
    }

    /// The same of each of these users.
    pub(crate) fn devices_of_users(
        &self,
        users: &[UserName],
        asked_by: &UserName,
    ) -> Result<Vec<Vec<DeviceRow>>, Fault> {
        let asked: Vec<_> = users
            .iter()
            .map(|user| [Param::from(user.as_str()), Param::from(asked_by.as_str())])
            .collect();
        self.rows_of_each(
            &format!(
                "{DEVICE} WHERE u.name = ?1
                   AND NOT EXISTS (SELECT 1 FROM blocks WHERE user_id = u.id AND blocked = ?2)
                 ORDER BY d.id"
            ),
            &asked,
            device,
        )
    }

    /// Whether a user has blocked another.
    pub(crate) fn has_blocked(&self, user: &UserName, other: &UserName) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM blocks b JOIN users u ON u.id = b.user_id WHERE u.name = ?1 AND b.blocked = ?2",
            params![user.as_str(), other.as_str()],
        )
    }

    /// The owner of a session that has not ended, and when it ends.
    pub(crate) fn device_by_session(
        &self,
        hash: &[u8],
        now: UnixSeconds,
    ) -> Result<Option<(DeviceRow, UnixSeconds)>, Fault> {
        self.row(
            "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key, d.user_id, s.expires_at
             FROM sessions s JOIN devices d ON d.id = s.device_id AND d.removed_at IS NULL
             JOIN users u ON u.id = d.user_id WHERE s.hash = ?1 AND s.expires_at > ?2",
            params![hash, now],
            |row| Ok((device(row)?, row.get(6)?)),
        )
    }

    /// Opens a session; `false` when the challenge was traded for one already.
    pub(crate) fn insert_session(
        &self,
        hash: &[u8],
        device: DeviceKey,
        challenge_hash: &[u8],
        expires_at: UnixSeconds,
    ) -> Result<bool, Fault> {
        let inserted = self.execute(
            "INSERT INTO sessions (hash, device_id, challenge_hash, expires_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
            params![hash, device, challenge_hash, expires_at],
        )?;
        Ok(inserted == 1)
    }

    /// Ends a session before its time. Its row stays for as long as its challenge is good.
    pub(crate) fn end_session(&self, hash: &[u8], now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE sessions SET expires_at = ?2 WHERE hash = ?1 AND expires_at > ?2",
            params![hash, now],
        )?;
        self.count_ended_sessions()
    }

    /// How often sessions have ended before their time.
    pub(crate) fn ended_sessions(&self) -> Result<u64, Fault> {
        self.one_row("SELECT ended_sessions FROM server WHERE id = 1", &[], |row| {
            row.get(0)
        })
    }

    /// Some session ends before its time: nobody is to go by what they know of sessions.
    pub(super) fn count_ended_sessions(&self) -> Result<(), Fault> {
        self.note_ended_sessions();
        self.queue(
            "UPDATE server SET ended_sessions = ended_sessions + 1 WHERE id = 1",
            &[],
        )
    }

    /// The mark of the device's last request that was carried out; the inner `None` while it uses no marks, the outer one
    /// when the device is removed. Until the end of the transaction no other request of the device passes it.
    pub(crate) fn state_mark(&self, device: DeviceKey) -> Result<Option<Option<StateMark>>, Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "SELECT state_mark FROM devices WHERE id = ?1 AND removed_at IS NULL",
            Engine::Postgres(_) => "SELECT state_mark FROM device_states WHERE device_id = ?1 FOR UPDATE",
        };
        self.row(sql, params![device], |row| row.optional(0))
    }

    /// Like [`state_mark`](Self::state_mark), and lets others pass.
    pub(crate) fn last_state_mark(&self, device: DeviceKey) -> Result<Option<Option<StateMark>>, Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "SELECT state_mark FROM devices WHERE id = ?1 AND removed_at IS NULL",
            Engine::Postgres(_) => "SELECT state_mark FROM device_states WHERE device_id = ?1",
        };
        self.row(sql, params![device], |row| row.optional(0))
    }

    pub(crate) fn set_state_mark(&self, device: DeviceKey, mark: &StateMark) -> Result<(), Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "UPDATE devices SET state_mark = ?2 WHERE id = ?1",
            Engine::Postgres(_) => "UPDATE device_states SET state_mark = ?2 WHERE device_id = ?1",
        };
        self.queue(sql, params![device, mark.as_bytes()])
    }

    /// The stored answer to an idempotency key.
    pub(crate) fn idempotent_answer(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
    ) -> Result<Option<IdempotentAnswer>, Fault> {
        self.row(
            "SELECT request_hash, answer FROM idempotent_answers WHERE device_id = ?1 AND idempotency_key = ?2",
            params![device, idempotency_key],
            |row| {
                Ok(IdempotentAnswer {
                    request_hash: row.get(0)?,
                    answer: row.get(1)?,
                })
            },
        )
    }

    pub(crate) fn insert_idempotent_answer(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
        request_hash: &[u8],
        answer: &[u8],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO idempotent_answers (device_id, idempotency_key, request_hash, answer, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![device, idempotency_key, request_hash, answer, now],
        )?;
        Ok(())
    }

    /// Removes invitations that have ended, sessions that have for so long that their challenges have, too, and idempotent answers
    /// from before `answers_before`.
    pub(crate) fn sweep_accounts(
        &self,
        now: UnixSeconds,
        answers_before: UnixSeconds,
        limit: u32,
    ) -> Result<u64, Fault> {
        let mut removed = 0;
        for (table, ended) in [("sessions", now.minus(CHALLENGE_SECONDS)), ("invitations", now)] {
            removed += self.execute(
                &format!(
                    "DELETE FROM {table} WHERE hash IN (SELECT hash FROM {table} WHERE expires_at <= ?1 LIMIT ?2)"
                ),
                params![ended, limit],
            )?;
        }
        removed += self.execute(
            "DELETE FROM idempotent_answers WHERE (device_id, idempotency_key) IN (
                 SELECT device_id, idempotency_key FROM idempotent_answers WHERE created_at < ?1 LIMIT ?2
             )",
            params![answers_before, limit],
        )?;
        Ok(removed)
    }

    /// What authenticates the challenges of this store's nodes.
    pub(crate) fn challenge_key(&self) -> Result<ChallengeKey, Fault> {
        let key: Vec<u8> = self.one_row("SELECT challenge_key FROM server WHERE id = 1", &[], |row| {
            row.get(0)
        })?;
        ChallengeKey::new(&key)
    }

    /// Touches the database.
    pub(crate) fn incarnation(&self) -> Result<String, Fault> {
        self.one_row("SELECT incarnation FROM server WHERE id = 1", &[], |row| {
            row.get(0)
        })
    }
}
