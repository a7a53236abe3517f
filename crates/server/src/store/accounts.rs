use larder_lifecycle::UnixSeconds;
use larder_wire::{DeviceId, StateMark, UserName};
use rusqlite::{OptionalExtension, Row};

use crate::error::Fault;
use crate::store::tx::{DeviceKey, Tx, to_sql};

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
}

const DEVICE: &str = "SELECT d.id, u.name, d.name, d.auth_key, d.signature_key
    FROM devices d JOIN users u ON u.id = d.user_id";

type RawDevice = (i64, String, String, Vec<u8>, Vec<u8>);

fn device_row(row: &Row<'_>) -> rusqlite::Result<RawDevice> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn device((key, user, device_id, auth_key, signature_key): RawDevice) -> Result<DeviceRow, Fault> {
    Ok(DeviceRow {
        key: DeviceKey(key),
        user: user.parse().map_err(|_| Fault::Corrupt("a user name"))?,
        device_id: device_id.parse().map_err(|_| Fault::Corrupt("a device id"))?,
        auth_key,
        signature_key,
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
        let users = self
            .connection()
            .prepare_cached("INSERT INTO users (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute((user.as_str(), to_sql(now.0)))?;
        if users == 0 {
            return Ok(false);
        }
        let user_id = self.connection().last_insert_rowid();
        let devices = self
            .connection()
            .prepare_cached(
                "INSERT INTO devices (user_id, name, auth_key, signature_key, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            )?
            .execute((
                user_id,
                device_id.as_str(),
                auth_key,
                signature_key,
                to_sql(now.0),
            ))?;
        Ok(devices == 1)
    }

    pub(crate) fn device_by_id(&self, device_id: &DeviceId) -> Result<Option<DeviceRow>, Fault> {
        let row = self
            .connection()
            .prepare_cached(&format!("{DEVICE} WHERE d.name = ?1"))?
            .query_row([device_id.as_str()], device_row)
            .optional()?;
        row.map(device).transpose()
    }

    /// The devices of a user, oldest first; none when the user is unknown.
    pub(crate) fn devices_of_user(&self, user: &UserName) -> Result<Vec<DeviceRow>, Fault> {
        let mut statement = self
            .connection()
            .prepare_cached(&format!("{DEVICE} WHERE u.name = ?1 ORDER BY d.id"))?;
        let rows = statement.query_map([user.as_str()], device_row)?;
        rows.map(|row| device(row?)).collect()
    }

    /// The owner of a session that has not ended.
    pub(crate) fn device_by_session(
        &self,
        hash: &[u8],
        now: UnixSeconds,
    ) -> Result<Option<DeviceRow>, Fault> {
        let row = self
            .connection()
            .prepare_cached(&format!(
                "{DEVICE} JOIN sessions s ON s.device_id = d.id WHERE s.hash = ?1 AND s.expires_at > ?2"
            ))?
            .query_row((hash, to_sql(now.0)), device_row)
            .optional()?;
        row.map(device).transpose()
    }

    /// Stores a challenge, and drops the device's oldest beyond `keep`.
    pub(crate) fn insert_challenge(
        &self,
        hash: &[u8],
        device: DeviceKey,
        expires_at: UnixSeconds,
        keep: u32,
    ) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("INSERT INTO challenges (hash, device_id, expires_at) VALUES (?1, ?2, ?3)")?
            .execute((hash, device.0, to_sql(expires_at.0)))?;
        self.connection()
            .prepare_cached(
                "DELETE FROM challenges WHERE hash IN (
                     SELECT hash FROM challenges WHERE device_id = ?1 ORDER BY expires_at DESC LIMIT -1 OFFSET ?2
                 )",
            )?
            .execute((device.0, keep))?;
        Ok(())
    }

    /// Takes a challenge away; `false` when it is not this device's, was used, or has ended.
    pub(crate) fn take_challenge(
        &self,
        hash: &[u8],
        device: DeviceKey,
        now: UnixSeconds,
    ) -> Result<bool, Fault> {
        let taken = self
            .connection()
            .prepare_cached("DELETE FROM challenges WHERE hash = ?1 AND device_id = ?2 AND expires_at > ?3")?
            .execute((hash, device.0, to_sql(now.0)))?;
        Ok(taken == 1)
    }

    pub(crate) fn insert_session(
        &self,
        hash: &[u8],
        device: DeviceKey,
        expires_at: UnixSeconds,
    ) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("INSERT INTO sessions (hash, device_id, expires_at) VALUES (?1, ?2, ?3)")?
            .execute((hash, device.0, to_sql(expires_at.0)))?;
        Ok(())
    }

    /// The mark of the device's last request that was carried out; `None` while it uses no marks.
    pub(crate) fn state_mark(&self, device: DeviceKey) -> Result<Option<StateMark>, Fault> {
        let mark: Option<Vec<u8>> = self
            .connection()
            .prepare_cached("SELECT state_mark FROM devices WHERE id = ?1")?
            .query_row([device.0], |row| row.get(0))?;
        mark.map(|mark| StateMark::from_bytes(&mark).map_err(|_| Fault::Corrupt("a state mark")))
            .transpose()
    }

    pub(crate) fn set_state_mark(&self, device: DeviceKey, mark: &StateMark) -> Result<(), Fault> {
        self.connection()
            .prepare_cached("UPDATE devices SET state_mark = ?2 WHERE id = ?1")?
            .execute((device.0, mark.as_bytes()))?;
        Ok(())
    }

    /// The stored answer to an idempotency key.
    pub(crate) fn idempotent_answer(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
    ) -> Result<Option<IdempotentAnswer>, Fault> {
        Ok(self
            .connection()
            .prepare_cached(
                "SELECT request_hash, answer FROM idempotent_answers WHERE device_id = ?1 AND idempotency_key = ?2",
            )?
            .query_row((device.0, idempotency_key), |row| {
                Ok(IdempotentAnswer { request_hash: row.get(0)?, answer: row.get(1)? })
            })
            .optional()?)
    }

    pub(crate) fn insert_idempotent_answer(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
        request_hash: &[u8],
        answer: &[u8],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.connection()
            .prepare_cached(
                "INSERT INTO idempotent_answers (device_id, idempotency_key, request_hash, answer, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((device.0, idempotency_key, request_hash, answer, to_sql(now.0)))?;
        Ok(())
    }

    /// Removes ended challenges and sessions, and idempotent answers from before `answers_before`.
    pub(crate) fn sweep_accounts(
        &self,
        now: UnixSeconds,
        answers_before: UnixSeconds,
        limit: u32,
    ) -> Result<usize, Fault> {
        let mut removed = 0;
        for table in ["challenges", "sessions"] {
            removed += self
                .connection()
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE hash IN (SELECT hash FROM {table} WHERE expires_at <= ?1 LIMIT ?2)"
                ))?
                .execute((to_sql(now.0), limit))?;
        }
        removed += self
            .connection()
            .prepare_cached(
                "DELETE FROM idempotent_answers WHERE (device_id, idempotency_key) IN (
                     SELECT device_id, idempotency_key FROM idempotent_answers WHERE created_at < ?1 LIMIT ?2
                 )",
            )?
            .execute((to_sql(answers_before.0), limit))?;
        Ok(removed)
    }

    /// Touches the database.
    pub(crate) fn incarnation(&self) -> Result<String, Fault> {
        Ok(self
            .connection()
            .query_row("SELECT incarnation FROM server WHERE id = 1", [], |row| {
                row.get(0)
            })?)
    }
}
