//! Blobs: what members of a group send each other beside messages, encrypted by them. To the server they are bytes of a
//! user, with a size and an end.

use larder_lifecycle::UnixSeconds;
use larder_wire::{BlobId, Problem, ProblemType};

use crate::config::BlobLimits;
use crate::error::{ServiceError, rate_limited};
use crate::store::{BlobKey, DeviceRow, NewBlob, Tx};

/// What has come of a blob is kept this long for the next part of it, in seconds: one hour.
pub(crate) const UNFINISHED_SECONDS: u64 = 60 * 60;

/// What a request to store a blob finds.
#[derive(Debug, Clone)]
pub(crate) enum Begun {
    /// A new blob, to be appended to.
    New(BlobKey),
    /// The blob that the device has stored under the same idempotency key.
    Known {
        name: BlobId,
        sha256: Vec<u8>,
        expires_at: UnixSeconds,
    },
}

/// Begins to store a blob of `size` bytes. What came of it under the same idempotency key before is given up, unless it is
/// all there and has not `ended_by` its time.
pub(crate) fn begin(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    idempotency_key: &str,
    (name, size): (&BlobId, u64),
    limits: &BlobLimits,
    (now, ended_by): (UnixSeconds, UnixSeconds),
) -> Result<Begun, ServiceError> {
    tx.lock_user(caller.user_key())?;
    if let Some(earlier) = tx.blob_of_key(caller.key, idempotency_key)? {
        match earlier.sha256 {
            Some(sha256) if earlier.expires_at > ended_by => {
                if earlier.size != size {
                    return Err(ProblemType::IdempotencyMismatch.into());
                }
                return Ok(Begun::Known {
                    name: earlier.name,
                    sha256,
                    expires_at: earlier.expires_at,
                });
            }
            Some(_) | None => tx.end_blob(earlier.key)?,
        }
    }
    let rate = limits.rate.take(tx.blob_rate_memory(caller.user_key())?, now);
    let forgotten_at = rate.map_err(rate_limited)?;
    if tx.blob_bytes_of_user(caller.user_key())?.saturating_add(size) > limits.user_bytes_max {
        return Err(no_room("as much as may be is stored for the user").into());
    }
    tx.remember_blob(caller.user_key(), forgotten_at)?;
    let key = tx.insert_blob(&NewBlob {
        name,
        device: caller.key,
        idempotency_key,
        size,
        expires_at: now.plus(UNFINISHED_SECONDS),
    })?;
    // With this one, and nobody else's since: the refusal takes it back.
    if tx.blob_bytes()? > limits.store_bytes_max {
        return Err(no_room("as much as may be is stored on this server").into());
    }
    Ok(Begun::New(key))
}

fn no_room(detail: &str) -> Problem {
    Problem::new(ProblemType::TooLarge).with_detail(detail)
}

/// Ends a blob of the caller's user.
pub(crate) fn remove(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    name: &BlobId,
    ended_by: UnixSeconds,
) -> Result<(), ServiceError> {
    match tx.blob(name, ended_by)? {
        Some(blob) if blob.key.user == caller.user_key() => Ok(tx.end_blob(blob.key)?),
        Some(_) | None => Err(ProblemType::NotFound.into()),
    }
}
