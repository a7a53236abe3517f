//! The epochs that this device has been in of each group, so that it knows one of them again, and the Commit that led there: a server
//! that was restored from a backup has the group as it was then, and one that has forgotten what was read delivers it once more.

use larder_pool::Tx;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{ConfirmationTag, PublicGroup, Verifiable as _};
use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};
use tls_codec::Serialize as _;

use crate::error::Error;
use crate::types::GroupKey;

/// How many epochs of a group are remembered.
const EPOCHS_MAX: i64 = 1024;

/// Remembers the epoch that a group is in.
pub(super) fn note(tx: &Tx<'_>, group: &GroupKey, state: &PublicGroup) -> Result<(), Error> {
    let failed = || Error::mls("remembering an epoch");
    let context = state.group_context();
    let tag = state
        .confirmation_tag()
        .tls_serialize_detached()
        .map_err(failed())?;
    let mut bytes = context.tls_serialize_detached().map_err(failed())?;
    bytes.extend(&tag);
    let (connection, epoch) = (tx.connection(), context.epoch().as_u64().cast_signed());
    connection
        .prepare_cached(
            "INSERT INTO epochs (group_id, epoch, fingerprint, confirmation_tag) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, confirmation_tag = excluded.confirmation_tag",
        )?
        .execute((group.as_bytes(), epoch, fingerprint(&bytes).as_slice(), tag))?;
    // What is later was on another branch of the group, which this device has left.
    connection
        .prepare_cached("DELETE FROM epochs WHERE group_id = ?1 AND (epoch <= ?2 OR epoch > ?3)")?
        .execute((group.as_bytes(), epoch.saturating_sub(EPOCHS_MAX), epoch))?;
    Ok(())
}

/// Whether a Commit with this tag has led this device to an epoch that it has been in since it joined, or that was so long ago that it
/// is not remembered by what. The tag depends on all that the group has agreed on (RFC 9420 §6.1, §8.2), so no Commit of another
/// branch has it.
pub(super) fn has_led_to(
    tx: &Tx<'_>,
    group: &GroupKey,
    epoch: u64,
    tag: Option<&ConfirmationTag>,
) -> Result<bool, Error> {
    let known: Option<Vec<u8>> = tx
        .connection()
        .prepare_cached("SELECT confirmation_tag FROM epochs WHERE group_id = ?1 AND epoch = ?2")?
        .query_row((group.as_bytes(), epoch.cast_signed()), |row| row.get(0))
        .optional()?;
    let Some(known) = known else {
        return Ok(true);
    };
    let tag = tag.and_then(|tag| tag.tls_serialize_detached().ok());
    Ok(tag == Some(known))
}

/// Whether a GroupInfo is of exactly an epoch that this device has been in: with the same GroupContext, and so the same tree,
/// and the same confirmation tag.
pub(super) fn knows(tx: &Tx<'_>, group: &GroupKey, info: &VerifiableGroupInfo) -> Result<bool, Error> {
    let Some(bytes) = context_and_tag(info) else {
        return Ok(false);
    };
    Ok(tx
        .connection()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM epochs WHERE group_id = ?1 AND epoch = ?2 AND fingerprint = ?3)",
        )?
        .query_row(
            (
                group.as_bytes(),
                info.epoch().as_u64().cast_signed(),
                fingerprint(&bytes).as_slice(),
            ),
            |row| row.get(0),
        )?)
}

/// GroupContext and confirmation tag of a GroupInfo, which OpenMLS keeps for itself: between them are the extensions, behind them
/// the signer and the signature (RFC 9420 §12.4.3).
fn context_and_tag(info: &VerifiableGroupInfo) -> Option<Vec<u8>> {
    let whole = info.tls_serialize_detached().ok()?;
    let context = info.group_context().tls_serialize_detached().ok()?;
    let extensions = info.extensions().tls_serialize_detached().ok()?;
    let signature = info.signature().tls_serialize_detached().ok()?;
    let begin = context.len() + extensions.len();
    let end = whole.len().checked_sub(signature.len() + size_of::<u32>())?;
    let tag = whole.get(begin..end)?;
    Some([context.as_slice(), tag].concat())
}

fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
