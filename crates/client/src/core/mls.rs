use larder_lifecycle::{PoolPolicy, UnixSeconds};
use openmls::prelude::{
    Ciphersuite, GroupContext, Lifetime, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, OpenMlsProvider,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use openmls_traits::storage::StorageProvider as _;

pub(super) use larder_judge::who;
use larder_pool::Tx;

use crate::error::Error;
use crate::types::GroupKey;

/// How many past epochs stay readable. The server accepts a message of the present and of the previous epoch, and
/// delivers Commits and messages in one order, so one would do; a few more let messages through that several members
/// had under way while Commits raced. Each costs forward secrecy for its messages until it is dropped.
const PAST_EPOCHS: usize = 4;

/// Application messages are padded to a multiple of this, in bytes, so that their length tells less.
const PADDING_BYTES: usize = 32;

/// How we take part in groups.
///
/// Handshake messages are PublicMessages, so that the server can check each Commit against the group's public state
/// before anyone has to process it; application messages are PrivateMessages always. The ratchet tree is served by the
/// server and not embedded: a Welcome stays small, and the signed GroupInfo protects the tree by its hash. The sender
/// ratchets tolerate what OpenMLS does by default (5 out of order, 1,000 skipped); the server keeps the order anyway.
pub(super) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING_BYTES)
        .build()
}

/// The same for a group that we create. Our leaf has the lifetime of a KeyPackage that is minted `now`, by the server's clock;
/// our first Commit replaces it.
pub(super) fn create_config(suite: Ciphersuite, now: UnixSeconds) -> MlsGroupCreateConfig {
    let lifetime = PoolPolicy::default().lifetime(now);
    MlsGroupCreateConfig::builder()
        .ciphersuite(suite)
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(PAST_EPOCHS)
        .padding_size(PADDING_BYTES)
        .lifetime(Lifetime::init(lifetime.not_before.0, lifetime.not_after.0))
        .build()
}

pub(super) fn mls_id(group: &GroupKey) -> openmls::prelude::GroupId {
    openmls::prelude::GroupId::from_slice(group.as_bytes())
}

/// The group's MLS state.
pub(super) fn load(tx: &Tx<'_>, group: &GroupKey) -> Result<MlsGroup, Error> {
    find(tx, group)?.ok_or(Error::Corrupt("the MLS state of a group is missing"))
}

/// The group's MLS state, if there is any.
pub(super) fn find(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<MlsGroup>, Error> {
    MlsGroup::load(tx.provider().storage(), &mls_id(group)).map_err(Error::mls("loading a group"))
}

/// The group's ciphersuite, without loading the group.
pub(super) fn ciphersuite(tx: &Tx<'_>, group: &GroupKey) -> Result<Ciphersuite, Error> {
    let context: Option<GroupContext> = tx.provider().storage().group_context(&mls_id(group))?;
    let context = context.ok_or(Error::Corrupt("the MLS state of a group is missing"))?;
    Ok(context.ciphersuite())
}

/// Deletes the group's MLS state, if there is any. Its secrets leave the write-ahead log too.
pub(super) fn delete(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    if let Some(mut mls) = find(tx, group)? {
        tx.note_erasure();
        mls.delete(tx.provider().storage())
            .map_err(Error::mls("deleting a group"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer who sends numbers far ahead makes us derive as many keys (RFC 9420 §15.3).
    #[test]
    fn r_c14_the_steps_of_a_sender_ratchet_and_the_keys_kept_for_late_messages_are_bounded() {
        let ratchet = *join_config().sender_ratchet_configuration();
        assert_eq!(ratchet.maximum_forward_distance(), 1000);
        assert_eq!(ratchet.out_of_order_tolerance(), 5);
    }
}
