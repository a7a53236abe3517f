use larder_judge::Departure;
use larder_lifecycle::UnixSeconds;
use larder_wire::{GroupId, Problem, ProblemType};
use openmls_rust_crypto::RustCrypto;

use crate::delivery::state::Held;
use crate::error::ServiceError;
use crate::store::{DeviceRow, Tx};

/// Judges the word of `caller` that it leaves, with the leaf that it has now.
pub(crate) fn judge_departure(
    (crypto, server_name): (&RustCrypto, &str),
    caller: &DeviceRow,
    group: &GroupId,
    held: &Held,
    signature: Vec<u8>,
) -> Result<Departure, ServiceError> {
    let mut leaves = held.public_group.treesync().full_leaves();
    let own = leaves.find(|(_, leaf)| leaf.signature_key().as_slice() == caller.signature_key);
    own.and_then(|(_, leaf)| {
        Departure::of_leaf(leaf, signature)
            .filter(|departure| departure.verifies(crypto, server_name, group, leaf))
    })
    .ok_or_else(|| {
        Problem::new(ProblemType::Forbidden)
            .with_detail("this is not signed by the device for the leaf that it has in the group")
            .into()
    })
}

/// Takes everything of a group away from a member that leaves, what it has not read included, and tells the others.
pub(crate) fn leave(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    group: &GroupId,
    departure: &Departure,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    tx.lock_group(group)?;
    if !tx.is_member(group, caller.key)? {
        return Err(ProblemType::NotFound.into());
    }
    tx.drop_intervals(group, caller.key)?;
    tx.note_roster_change(group, now)?;
    Ok(tx.append_departure(group, &departure.to_bytes(), now)?)
}
