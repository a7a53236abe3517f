//! The delivery service (RFC 9750 §5): groups, Commits, messages and inboxes.

mod checks;
mod commit;
mod groups;
mod messages;
mod parse;
mod public_state;
mod scrub;

pub(crate) use commit::commit;
pub(crate) use groups::{create_group, group_info, ratchet_tree};
pub(crate) use messages::{propose, send_message};
pub(crate) use scrub::{GroupProblem, check_group};

use larder_wire::GroupId;
use openmls::prelude::PublicGroup;

use crate::error::{Fault, ServiceError};

/// Loads the public state of a stored group.
fn load(
    group: &GroupId,
    public_state: &[u8],
) -> Result<(public_state::PublicState, PublicGroup), ServiceError> {
    let state = public_state::PublicState::decode(public_state)?;
    let group_id = openmls::group::GroupId::from_slice(group.as_bytes());
    let public_group = PublicGroup::load(&state, &group_id)
        .map_err(Fault::from)?
        .ok_or(Fault::Corrupt("a group without public state"))?;
    Ok((state, public_group))
}
