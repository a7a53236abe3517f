//! Whether a device knows its own last request: one that was restored from an old copy does not.

use larder_wire::{ProblemType, StateClaim, StateMark};

use crate::error::ServiceError;
use crate::store::{DeviceKey, Tx};

/// Whether a request that would change something would pass.
///
/// # Errors
/// Those of [`follow`].
pub(crate) fn may_follow(
    tx: &Tx<'_>,
    device: DeviceKey,
    claim: Option<&StateClaim>,
) -> Result<(), ServiceError> {
    let last = tx.last_state_mark(device)?.ok_or(ProblemType::Unauthenticated)?;
    follows(claim, last.as_ref())
}

fn follows(claim: Option<&StateClaim>, last: Option<&StateMark>) -> Result<(), ServiceError> {
    match (claim, last) {
        (None, None) => Ok(()),
        (Some(claim), last) if last.is_none_or(|last| claim.follows(last)) => Ok(()),
        (None | Some(_), Some(_)) | (Some(_), None) => Err(ProblemType::StateBehind.into()),
    }
}

/// Lets a request that changes something pass, and remembers its mark with what it changes.
///
/// A device that has never used marks need not; one that has, cannot do without any more: an old copy could have been
/// made before it did.
///
/// # Errors
/// `state-behind`; `unauthenticated` when the device was removed since its session was looked up.
pub(crate) fn follow(tx: &Tx<'_>, device: DeviceKey, claim: Option<&StateClaim>) -> Result<(), ServiceError> {
    let last = tx.state_mark(device)?.ok_or(ProblemType::Unauthenticated)?;
    follows(claim, last.as_ref())?;
    match claim {
        Some(claim) if last.as_ref() != Some(&claim.next) => Ok(tx.set_state_mark(device, &claim.next)?),
        Some(_) | None => Ok(()),
    }
}
