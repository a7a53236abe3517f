use larder_pool::Tx;
use sha2::{Digest, Sha256};

use crate::core::profile::Context;
use crate::core::{groups, mls, safety_number, verification};
use crate::error::Error;
use crate::types::{GroupKey, Member};
use crate::verification::EpochCode;

/// The members of a group that this device takes part in.
pub(crate) fn members(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<Vec<Member>, Error> {
    groups::group_state(tx, group)?;
    let Some(state) = mls::find(tx, group)? else {
        return Ok(Vec::new());
    };
    let me = &context.identity.me;
    let mut members = Vec::new();
    for member in state.members() {
        let Some((user, device_id)) = mls::who(&member.credential) else {
            continue;
        };
        members.push(Member {
            is_me: device_id == me.device_id && user == me.user,
            verification: verification::of_leaf(tx, &user, &device_id, &member.signature_key)?,
            user,
            device_id,
            signature_key_fingerprint: fingerprint(&member.signature_key),
        });
    }
    Ok(members)
}

/// What the members of a group that this device takes part in can compare; `None` of a group that it has no state of.
pub(crate) fn epoch_code(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<EpochCode>, Error> {
    groups::group_state(tx, group)?;
    Ok(mls::find(tx, group)?.map(|state| {
        let epoch = state.epoch().as_u64();
        let authenticator = state.epoch_authenticator().as_slice();
        EpochCode {
            epoch,
            code: safety_number::epoch_code(group.as_bytes(), epoch, authenticator),
        }
    }))
}

/// SHA-256 of a signature key, for people to compare.
pub(super) fn fingerprint(signature_key: &[u8]) -> String {
    Sha256::digest(signature_key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
