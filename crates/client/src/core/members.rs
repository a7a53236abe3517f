use larder_pool::Tx;
use sha2::{Digest, Sha256};

use crate::core::profile::Context;
use crate::core::{groups, mls};
use crate::error::Error;
use crate::types::{GroupKey, Member};

/// The members of a group that this device takes part in.
pub(crate) fn members(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<Vec<Member>, Error> {
    groups::group_state(tx, group)?;
    let Some(state) = mls::find(tx, group)? else {
        return Ok(Vec::new());
    };
    let me = &context.identity.me;
    Ok(state
        .members()
        .filter_map(|member| {
            let (user, device_id) = mls::who(&member.credential)?;
            Some(Member {
                is_me: device_id == me.device_id && user == me.user,
                user,
                device_id,
                signature_key_fingerprint: fingerprint(&member.signature_key),
            })
        })
        .collect())
}

/// SHA-256 of a signature key, for people to compare.
pub(super) fn fingerprint(signature_key: &[u8]) -> String {
    Sha256::digest(signature_key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
