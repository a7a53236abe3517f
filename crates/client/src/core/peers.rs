use larder_lifecycle::UnixSeconds;
use larder_wire::{DeviceId, UserName};
use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;

/// Whether a device's signature key is the one that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    /// It is, or it is the first one that we see.
    Holds,
    /// We know another one. A device never changes its key: a new device has a new id.
    Changed,
}

/// Compares without remembering.
pub(super) fn compare(
    connection: &Connection,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
) -> Result<Pin, Error> {
    let known: Option<Vec<u8>> = connection
        .prepare_cached("SELECT signature_key FROM peers WHERE user = ?1 AND device_id = ?2")?
        .query_row([user.as_str(), device.as_str()], |row| row.get(0))
        .optional()?;
    Ok(match known {
        Some(known) if known != signature_key => Pin::Changed,
        Some(_) | None => Pin::Holds,
    })
}

/// Compares, and remembers a key that is seen for the first time.
pub(super) fn pin(
    connection: &Connection,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
    now: UnixSeconds,
) -> Result<Pin, Error> {
    let held = compare(connection, user, device, signature_key)?;
    connection
        .prepare_cached(
            "INSERT INTO peers (user, device_id, signature_key, first_seen) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute((user.as_str(), device.as_str(), signature_key, now.0.cast_signed()))?;
    Ok(held)
}
