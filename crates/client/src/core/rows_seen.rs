//! What the rows of a group were that this device has taken over last.

use larder_wire::{InboxKind, InboxRow};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest as _, Sha256};

use crate::core::positions::column;
use crate::error::Error;
use crate::types::GroupKey;

/// So many rows are remembered of a group.
const KNOWN_GROUP_ROWS: u32 = 1024;
/// The same of a group that this device does not know.
const UNKNOWN_GROUP_ROWS: u32 = 4;

/// What a row carried.
pub(super) type Digest = [u8; 32];

/// Whether what a row carries has come before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not in the rows that are remembered.
    Never,
    /// It has, and could not be taken over.
    WithoutEffect,
    /// It has, and was taken over.
    WithEffect,
}

/// The digest of what a row carries; `None` of one that carries nothing.
pub(super) fn digest(row: &InboxRow) -> Option<Digest> {
    let mut hash = Sha256::new();
    match row.kind {
        InboxKind::Passed | InboxKind::KeyPackagesLow => return None,
        // No two are alike: each says what it is.
        InboxKind::Welcome => hash.update([0]),
        InboxKind::Commit | InboxKind::Proposal | InboxKind::Message if row.gone.is_some() => return None,
        InboxKind::Commit => hash.update([1]),
        InboxKind::Proposal => hash.update([2]),
        InboxKind::Message => hash.update([3]),
        // The same may happen twice.
        InboxKind::Departure => {
            hash.update([4]);
            hash.update(row.seq.to_be_bytes());
        }
        InboxKind::DeviceChange => {
            hash.update([5]);
            hash.update(row.seq.to_be_bytes());
        }
    }
    hash.update(&row.body.0);
    Some(hash.finalize().into())
}

/// Whether it has come before.
pub(super) fn look(connection: &Connection, group: &GroupKey, digest: &Digest) -> Result<Seen, Error> {
    let effect: Option<bool> = connection
        .prepare_cached("SELECT effect FROM rows_seen WHERE group_id = ?1 AND sha256 = ?2")?
        .query_row((group.as_bytes(), digest), |row| row.get(0))
        .optional()?;
    Ok(match effect {
        None => Seen::Never,
        Some(false) => Seen::WithoutEffect,
        Some(true) => Seen::WithEffect,
    })
}

/// Remembers a row, whose position is noted already, and forgets the oldest one.
pub(super) fn remember(
    connection: &Connection,
    group: &GroupKey,
    (seq, digest): (u64, &Digest),
    effect: bool,
    group_is_known: bool,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO rows_seen (group_id, sha256, seq, effect) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (group_id, sha256) DO UPDATE SET seq = excluded.seq, effect = max(effect, excluded.effect)",
        )?
        .execute((group.as_bytes(), digest, column(seq), effect))?;
    let kept = match group_is_known {
        true => KNOWN_GROUP_ROWS,
        false => UNKNOWN_GROUP_ROWS,
    };
    let last_to_go: Option<i64> = connection
        .prepare_cached("SELECT id FROM rows_seen WHERE group_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2")?
        .query_row((group.as_bytes(), kept), |row| row.get(0))
        .optional()?;
    if let Some(last) = last_to_go {
        connection
            .prepare_cached(
                "UPDATE positions SET forgotten = max(forgotten,
                     (SELECT max(seq) FROM rows_seen WHERE group_id = ?1 AND id <= ?2))
                 WHERE group_id = ?1",
            )?
            .execute((group.as_bytes(), last))?;
        connection
            .prepare_cached("DELETE FROM rows_seen WHERE group_id = ?1 AND id <= ?2")?
            .execute((group.as_bytes(), last))?;
    }
    Ok(())
}
