use larder_lifecycle::UnixSeconds;
use larder_wire::{DeviceId, StateMark, UserName};

use crate::accounts::{CHALLENGE_SECONDS, ChallengeKey};
use crate::error::Fault;
use crate::sessions::SessionKey;
use crate::store::statement::{Param, Row, params};
use crate::store::tx::{DeviceKey, Engine, Tx, UserKey};

/// A registered device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceRow {
    pub(crate) key: DeviceKey,
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

    /// The row of the device's user.
    pub(crate) fn user_key(&self) -> UserKey {
        self.key.user()
    }
}

const USER_BY_NAME: &str = "SELECT user_id FROM user_names WHERE name = ?1";
const DEVICE_BY_NAME: &str = "SELECT device_id FROM device_names WHERE name = ?1";
const IDEMPOTENT_ANSWER: &str = "SELECT request_hash, answer FROM idempotent_answers
     WHERE user_id = ?1 AND device_id = ?2 AND idempotency_key = ?3";
/// On PostgreSQL.
const STATE_MARK_LOCKED: &str =
    "SELECT state_mark FROM device_states WHERE user_id = ?1 AND device_id = ?2 FOR UPDATE";

/// Every device, those that were removed included.
pub(super) const EVERY_DEVICE: &str = "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key
    FROM devices d JOIN users u ON u.id = d.user_id";

/// The devices that are not removed.
pub(super) const DEVICE: &str = "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key
    FROM devices d JOIN users u ON u.id = d.user_id AND d.removed_at IS NULL";

pub(super) fn device(row: &Row<'_>) -> Result<DeviceRow, Fault> {
    let (user, device_id): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(DeviceRow {
        key: row.get(0)?,
        user: user.parse().map_err(|_| Fault::Corrupt("a user name"))?,
        device_id: device_id.parse().map_err(|_| Fault::Corrupt("a device id"))?,
        auth_key: row.get(3)?,
        signature_key: row.get(4)?,
    })
}

impl Tx<'_> {
    /// Registers a user with a first device; `false` when the user name, the device id or the signature key is taken, and then
    /// the transaction must not be committed.
    pub(crate) fn insert_account(
        &self,
        user: &UserName,
        device_id: &DeviceId,
        auth_key: &[u8],
        signature_key: &[u8],
        now: UnixSeconds,
    ) -> Result<bool, Fault> {
        let last = self.one_row("SELECT max(id) FROM users", &[], |row| row.optional(0))?;
        let user_key = UserKey::after(last, now);
        let named = self.execute(
            "INSERT INTO user_names (name, user_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![user.as_str(), user_key],
        )?;
        let device = user_key.device(0);
        if named == 0 || !self.register_device(device, device_id, signature_key)? {
            return Ok(false);
        }
        self.queue(
            "INSERT INTO users (id, name, created_at) VALUES (?1, ?2, ?3)",
            params![user_key, user.as_str(), now],
        )?;
        self.queue(
            "INSERT INTO devices (user_id, id, name, auth_key, signature_key, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![user_key, device, device_id.as_str(), auth_key, signature_key, now],
        )?;
        Ok(true)
    }

    /// Registers what no other device may have; `false` when one has it.
    pub(super) fn register_device(
        &self,
        device: DeviceKey,
        device_id: &DeviceId,
        signature_key: &[u8],
    ) -> Result<bool, Fault> {
        let named = self.execute(
            "INSERT INTO device_names (name, device_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![device_id.as_str(), device],
        )?;
        let keyed = self.execute(
            "INSERT INTO signature_keys (key, device_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![signature_key, device],
        )?;
        Ok(named == 1 && keyed == 1)
    }

    /// The user with this name.
    pub(crate) fn user_by_name(&self, user: &UserName) -> Result<Option<UserKey>, Fault> {
        Ok(self.users_by_name(std::slice::from_ref(user))?.pop().flatten())
    }

    /// Reads ahead who the users with these names are.
    pub(crate) fn users_by_name_ahead(&self, users: &[UserName]) {
        for user in users {
            self.read_ahead(USER_BY_NAME, params![user.as_str()]);
        }
    }

    /// The users with these names, in their order.
    fn users_by_name(&self, users: &[UserName]) -> Result<Vec<Option<UserKey>>, Fault> {
        let names: Vec<_> = users.iter().map(|user| [Param::from(user.as_str())]).collect();
        self.row_of_each(USER_BY_NAME, &names, |row| row.get(0))
    }

    pub(crate) fn device_by_id(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        Ok(self.devices_by_id([device_id])?.pop().flatten())
    }

    /// Reads ahead which devices have these ids.
    pub(crate) fn device_ids_ahead<'a>(&self, ids: impl IntoIterator<Item = &'a DeviceId>) {
        for id in ids {
            self.read_ahead(DEVICE_BY_NAME, params![id.as_str()]);
        }
    }

    /// The devices of these ids, in their order; `None` for one that is unknown or was removed.
    pub(crate) fn devices_by_id<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Vec<Option<DeviceRow>>, Fault> {
        self.devices_of_ids(DEVICE, ids)
    }

    /// Like [`device_by_id`](Self::device_by_id), or a device that was removed.
    pub(crate) fn device_that_was(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        Ok(self.devices_of_ids(EVERY_DEVICE, [device_id])?.pop().flatten())
    }

    /// The device with this id, if it was removed.
    pub(crate) fn removed_device(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        let removed = format!("{EVERY_DEVICE} AND d.removed_at IS NOT NULL");
        Ok(self.devices_of_ids(&removed, [device_id])?.pop().flatten())
    }

    /// Those of `devices` that have these ids, in their order.
    fn devices_of_ids<'a>(
        &self,
        devices: &str,
        ids: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Vec<Option<DeviceRow>>, Fault> {
        let ids: Vec<_> = ids.into_iter().map(|id| [Param::from(id.as_str())]).collect();
        let keys: Vec<Option<DeviceKey>> = self.row_of_each(DEVICE_BY_NAME, &ids, |row| row.get(0))?;
        let known: Vec<_> = keys
            .iter()
            .flatten()
            .map(|key| [Param::from(key.user()), Param::from(*key)])
            .collect();
        let sql = format!("{devices} WHERE d.user_id = ?1 AND d.id = ?2");
        let mut rows = self.row_of_each(&sql, &known, device)?.into_iter();
        let of_key = |key: Option<DeviceKey>| key.and_then(|_| rows.next().flatten());
        Ok(keys.into_iter().map(of_key).collect())
    }

    /// The devices of a user, oldest first.
    pub(crate) fn devices_of(&self, user: UserKey) -> Result<Vec<DeviceRow>, Fault> {
        self.rows(
            &format!("{DEVICE} WHERE d.user_id = ?1 ORDER BY d.id"),
            params![user],
            device,
        )
    }

    /// The devices of each of these users, oldest first; none when the user is unknown, or has blocked the one who asks.
    pub(crate) fn devices_of_users(
        &self,
        users: &[UserName],
        asked_by: &UserName,
    ) -> Result<Vec<Vec<DeviceRow>>, Fault> {
        let keys = self.users_by_name(users)?;
        let known: Vec<_> = keys
            .iter()
            .flatten()
            .map(|user| [Param::from(*user), Param::from(asked_by.as_str())])
            .collect();
        let devices = self.rows_of_each(
            &format!(
                "{DEVICE} WHERE d.user_id = ?1
                   AND NOT EXISTS (SELECT 1 FROM blocks WHERE user_id = ?1 AND blocked = ?2)
                 ORDER BY d.id"
            ),
            &known,
            device,
        )?;
        let mut devices = devices.into_iter();
        let of_key = |key: Option<UserKey>| key.and_then(|_| devices.next()).unwrap_or_default();
        Ok(keys.into_iter().map(of_key).collect())
    }

    /// Whether a user has blocked another.
    pub(crate) fn has_blocked(&self, user: UserKey, other: &UserName) -> Result<bool, Fault> {
        self.exists(
            "SELECT 1 FROM blocks WHERE user_id = ?1 AND blocked = ?2",
            params![user, other.as_str()],
        )
    }

    /// The owner of a session that has not ended, and when it ends.
    pub(crate) fn device_by_session(
        &self,
        session: &SessionKey,
        now: UnixSeconds,
    ) -> Result<Option<(DeviceRow, UnixSeconds)>, Fault> {
        self.row(
            "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key, s.expires_at
             FROM sessions s JOIN devices d ON d.user_id = s.user_id AND d.id = s.device_id AND d.removed_at IS NULL
             JOIN users u ON u.id = d.user_id WHERE s.user_id = ?1 AND s.hash = ?2 AND s.expires_at > ?3",
            params![session.user, session.hash.as_slice(), now],
            |row| Ok((device(row)?, row.get(5)?)),
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
            "INSERT INTO sessions (user_id, hash, device_id, challenge_hash, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            params![device.user(), hash, device, challenge_hash, expires_at],
        )?;
        Ok(inserted == 1)
    }

    /// Ends a session before its time. Its row stays for as long as its challenge is good.
    pub(crate) fn end_session(&self, session: &SessionKey, now: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "UPDATE sessions SET expires_at = ?3 WHERE user_id = ?1 AND hash = ?2 AND expires_at > ?3",
            params![session.user, session.hash.as_slice(), now],
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
            Engine::Sqlite(_) => {
                "SELECT state_mark FROM devices WHERE user_id = ?1 AND id = ?2 AND removed_at IS NULL"
            }
            Engine::Postgres(_) => STATE_MARK_LOCKED,
        };
        self.row(sql, params![device.user(), device], |row| row.optional(0))
    }

    /// Reads it ahead.
    pub(crate) fn state_mark_ahead(&self, device: DeviceKey) {
        self.read_ahead(STATE_MARK_LOCKED, params![device.user(), device]);
    }

    /// Like [`state_mark`](Self::state_mark), and lets others pass.
    pub(crate) fn last_state_mark(&self, device: DeviceKey) -> Result<Option<Option<StateMark>>, Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => {
                "SELECT state_mark FROM devices WHERE user_id = ?1 AND id = ?2 AND removed_at IS NULL"
            }
            Engine::Postgres(_) => {
                "SELECT state_mark FROM device_states WHERE user_id = ?1 AND device_id = ?2"
            }
        };
        self.row(sql, params![device.user(), device], |row| row.optional(0))
    }

    pub(crate) fn set_state_mark(&self, device: DeviceKey, mark: &StateMark) -> Result<(), Fault> {
        let sql = match self.engine() {
            Engine::Sqlite(_) => "UPDATE devices SET state_mark = ?3 WHERE user_id = ?1 AND id = ?2",
            Engine::Postgres(_) => {
                "UPDATE device_states SET state_mark = ?3 WHERE user_id = ?1 AND device_id = ?2"
            }
        };
        self.queue(sql, params![device.user(), device, mark.as_bytes()])
    }

    /// Reads it ahead.
    pub(crate) fn idempotent_answer_ahead(&self, device: DeviceKey, idempotency_key: &str) {
        self.read_ahead(IDEMPOTENT_ANSWER, params![device.user(), device, idempotency_key]);
    }

    /// The stored answer to an idempotency key.
    pub(crate) fn idempotent_answer(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
    ) -> Result<Option<IdempotentAnswer>, Fault> {
        self.row(
            IDEMPOTENT_ANSWER,
            params![device.user(), device, idempotency_key],
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
            "INSERT INTO idempotent_answers (user_id, device_id, idempotency_key, request_hash, answer, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![device.user(), device, idempotency_key, request_hash, answer, now],
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
        let mut removed = self.execute(
            "DELETE FROM sessions WHERE (user_id, hash) IN (
                 SELECT user_id, hash FROM sessions WHERE expires_at <= ?1 LIMIT ?2
             )",
            params![now.minus(CHALLENGE_SECONDS), limit],
        )?;
        removed += self.execute(
            "DELETE FROM invitations WHERE hash IN (SELECT hash FROM invitations WHERE expires_at <= ?1 LIMIT ?2)",
            params![now, limit],
        )?;
        removed += self.execute(
            "DELETE FROM idempotent_answers WHERE (user_id, device_id, idempotency_key) IN (
                 SELECT user_id, device_id, idempotency_key FROM idempotent_answers WHERE created_at < ?1 LIMIT ?2
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
