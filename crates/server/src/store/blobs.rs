use larder_lifecycle::UnixSeconds;
use larder_wire::BlobId;
use uuid::Uuid;

use crate::error::Fault;
use crate::store::statement::{Row, params};
use crate::store::tx::{BlobKey, DeviceKey, Tx, UserKey};

/// A part of a blob, in bytes; the last one of a blob may be shorter.
pub(crate) const BLOB_PART_BYTES: usize = 256 * 1024;

/// A blob that is there to be fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlobRow {
    pub(crate) key: BlobKey,
    pub(crate) size: u64,
}

/// What a device has stored, or begun to store, under an idempotency key.
pub(crate) struct BlobOfKey {
    pub(crate) key: BlobKey,
    pub(crate) name: BlobId,
    pub(crate) size: u64,
    /// Of all of it; `None` while not all has come.
    pub(crate) sha256: Option<Vec<u8>>,
    pub(crate) expires_at: UnixSeconds,
}

/// A blob of which nothing has come yet.
pub(crate) struct NewBlob<'a> {
    pub(crate) name: &'a BlobId,
    pub(crate) device: DeviceKey,
    pub(crate) idempotency_key: &'a str,
    pub(crate) size: u64,
    pub(crate) expires_at: UnixSeconds,
}

/// The first two columns.
fn blob_key(row: &Row<'_>) -> Result<BlobKey, Fault> {
    Ok(BlobKey {
        user: row.get(0)?,
        id: row.get(1)?,
    })
}

impl Tx<'_> {
    pub(crate) fn insert_blob(&self, new: &NewBlob<'_>) -> Result<BlobKey, Fault> {
        // Never one of before, for which more may come.
        let key = BlobKey {
            user: new.device.user(),
            id: (Uuid::new_v4().as_u64_pair().1 >> 2).cast_signed(),
        };
        self.queue(
            "INSERT INTO blob_names (name, user_id, blob_id) VALUES (?1, ?2, ?3)",
            params![new.name, key.user, key.id],
        )?;
        self.queue(
            "INSERT INTO blobs (user_id, id, name, device_id, idempotency_key, size, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                key.user,
                key.id,
                new.name,
                new.device,
                new.idempotency_key,
                new.size,
                new.expires_at
            ],
        )?;
        Ok(key)
    }

    pub(crate) fn blob_of_key(
        &self,
        device: DeviceKey,
        idempotency_key: &str,
    ) -> Result<Option<BlobOfKey>, Fault> {
        self.row(
            "SELECT id, name, size, sha256, expires_at FROM blobs
             WHERE user_id = ?1 AND device_id = ?2 AND idempotency_key = ?3",
            params![device.user(), device, idempotency_key],
            |row| {
                Ok(BlobOfKey {
                    key: BlobKey {
                        user: device.user(),
                        id: row.get(0)?,
                    },
                    name: row.get(1)?,
                    size: row.get(2)?,
                    sha256: row.optional(3)?,
                    expires_at: row.get(4)?,
                })
            },
        )
    }

    /// The blob with this name, if all of it is there and it has not ended by this time.
    pub(crate) fn blob(&self, name: &BlobId, ended_by: UnixSeconds) -> Result<Option<BlobRow>, Fault> {
        let named = self.row(
            "SELECT user_id, blob_id FROM blob_names WHERE name = ?1",
            params![name],
            blob_key,
        )?;
        let Some(key) = named else {
            return Ok(None);
        };
        self.row(
            "SELECT size FROM blobs WHERE user_id = ?1 AND id = ?2 AND sha256 IS NOT NULL AND expires_at > ?3",
            params![key.user, key.id, ended_by],
            |row| {
                Ok(BlobRow {
                    key,
                    size: row.get(0)?,
                })
            },
        )
    }

    /// What is stored and announced of a user's blobs, in bytes.
    pub(crate) fn blob_bytes_of_user(&self, user: UserKey) -> Result<u64, Fault> {
        // Read as rows: the sum of integers is not one to PostgreSQL.
        let sizes: Vec<u64> = self.rows(
            "SELECT size FROM blobs WHERE user_id = ?1",
            params![user],
            |row| row.get(0),
        )?;
        Ok(sizes.into_iter().fold(0, u64::saturating_add))
    }

    /// Stores the next part of a blob, which is kept until `expires_at` for those to come. `false` when the blob is over, or
    /// something else came in this part's place.
    pub(crate) fn append_to_blob(
        &self,
        blob: BlobKey,
        offset: u64,
        bytes: &[u8],
        (now, expires_at): (UnixSeconds, UnixSeconds),
    ) -> Result<bool, Fault> {
        let appended = self.execute(
            "UPDATE blobs SET stored = stored + ?4, expires_at = ?6
             WHERE user_id = ?1 AND id = ?2 AND stored = ?3 AND stored + ?4 <= size AND sha256 IS NULL
               AND expires_at > ?5",
            params![blob.user, blob.id, offset, bytes.len() as u64, now, expires_at],
        )?;
        if appended == 0 {
            return Ok(false);
        }
        self.queue(
            "INSERT INTO blob_parts (user_id, blob_id, number, bytes) VALUES (?1, ?2, ?3, ?4)",
            params![blob.user, blob.id, offset / BLOB_PART_BYTES as u64, bytes],
        )?;
        Ok(true)
    }

    /// All of a blob has come: from now on it can be fetched, until `expires_at`. `false` when it is over, or not all has.
    pub(crate) fn complete_blob(
        &self,
        blob: BlobKey,
        sha256: &[u8],
        (now, expires_at): (UnixSeconds, UnixSeconds),
    ) -> Result<bool, Fault> {
        let completed = self.execute(
            "UPDATE blobs SET sha256 = ?3, expires_at = ?5
             WHERE user_id = ?1 AND id = ?2 AND stored = size AND sha256 IS NULL AND expires_at > ?4",
            params![blob.user, blob.id, sha256, now, expires_at],
        )?;
        Ok(completed == 1)
    }

    /// A part of a blob, if the blob is still there.
    pub(crate) fn blob_part(&self, blob: BlobKey, number: u64) -> Result<Option<Vec<u8>>, Fault> {
        self.row(
            "SELECT bytes FROM blob_parts WHERE user_id = ?1 AND blob_id = ?2 AND number = ?3",
            params![blob.user, blob.id, number],
            |row| row.get(0),
        )
    }

    /// The blob is over. The sweeper takes its parts.
    pub(crate) fn end_blob(&self, blob: BlobKey) -> Result<(), Fault> {
        self.queue(
            "UPDATE blobs SET expires_at = 0, idempotency_key = NULL WHERE user_id = ?1 AND id = ?2",
            params![blob.user, blob.id],
        )
    }

    /// Ends blobs whose time has come, and removes parts of those that are over, and what has no parts (any more).
    pub(crate) fn sweep_blobs(&self, now: UnixSeconds, (parts, blobs): (u32, u32)) -> Result<u64, Fault> {
        let ended = self.execute(
            "UPDATE blobs SET expires_at = 0, idempotency_key = NULL WHERE (user_id, id) IN (
                 SELECT user_id, id FROM blobs WHERE expires_at > 0 AND expires_at <= ?1 LIMIT ?2
             )",
            params![now, blobs],
        )?;
        let parts = self.execute(
            "DELETE FROM blob_parts WHERE (user_id, blob_id, number) IN (
                 SELECT p.user_id, p.blob_id, p.number FROM blobs b
                 JOIN blob_parts p ON p.user_id = b.user_id AND p.blob_id = b.id
                 WHERE b.expires_at = 0 LIMIT ?1
             )",
            params![parts],
        )?;
        let over: Vec<(BlobKey, BlobId)> = self.rows(
            "SELECT b.user_id, b.id, b.name FROM blobs b WHERE b.expires_at = 0
               AND NOT EXISTS (SELECT 1 FROM blob_parts p WHERE p.user_id = b.user_id AND p.blob_id = b.id) LIMIT ?1",
            params![blobs],
            |row| Ok((blob_key(row)?, row.get(2)?)),
        )?;
        for (blob, name) in &over {
            self.queue("DELETE FROM blob_names WHERE name = ?1", params![name])?;
            self.queue(
                "DELETE FROM blobs WHERE user_id = ?1 AND id = ?2",
                params![blob.user, blob.id],
            )?;
        }
        Ok(ended + parts + over.len() as u64)
    }

    // Rates

    pub(crate) fn blob_rate_memory(&self, user: UserKey) -> Result<Option<UnixSeconds>, Fault> {
        self.row(
            "SELECT forgotten_at FROM blob_rates WHERE user_id = ?1",
            params![user],
            |row| row.get(0),
        )
    }

    pub(crate) fn remember_blob(&self, user: UserKey, forgotten_at: UnixSeconds) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO blob_rates (user_id, forgotten_at) VALUES (?1, ?2)
             ON CONFLICT (user_id) DO UPDATE SET forgotten_at = excluded.forgotten_at",
            params![user, forgotten_at],
        )
    }
}
