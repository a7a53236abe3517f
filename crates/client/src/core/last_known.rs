//! What this device last knew of a group whose MLS state it has given up, or is about to. Whatever the server says of the group
//! from then on is held against that: without it, a group of the server's own making could take its place.

use larder_judge::{Leaf, PublicState, Replay, signed_by};
use larder_pool::Tx;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{LeafNode, OpenMlsProvider, PublicGroup};
use rusqlite::OptionalExtension;

use crate::core::profile::Context;
use crate::core::{epochs, groups, mls, verdicts};
use crate::error::Error;
use crate::types::GroupKey;

/// A group as it was when this device last knew.
pub(super) struct LastKnown {
    state: PublicGroup,
}

/// What shows that a group is the one that was last known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The signed Commits since then lead there. All that has changed is known to be the members' will.
    Replayed,
    /// It is at an epoch that this device was in before: the server was restored from a backup.
    Past,
    /// Somebody has signed it who was a member then. Who else came or went since nothing shows.
    Signed,
}

impl LastKnown {
    /// The group as it is now.
    pub(super) fn of(tx: &Tx<'_>, group: &GroupKey, state: &PublicGroup) -> Result<Self, Error> {
        Ok(Self {
            state: copied(tx, group, state)?,
        })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state.group_context().epoch().as_u64()
    }

    pub(super) fn state(&self) -> &PublicGroup {
        &self.state
    }

    /// Whose leaves there were.
    pub(super) fn leaves(&self) -> Vec<Leaf> {
        self.state
            .members()
            .filter_map(|member| Leaf::of_member(&member))
            .collect()
    }

    /// How the group of a GroupInfo is linked to this, if it is. `handshakes` are the Commits and proposals since then, as the
    /// server gives them.
    ///
    /// An epoch that is over is linked only if the group `may_go_back`.
    pub(super) fn link(
        self,
        tx: &Tx<'_>,
        context: &Context,
        (group, info): (&GroupKey, &VerifiableGroupInfo),
        handshakes: &[Vec<u8>],
    ) -> Result<Option<Link>, Error> {
        if info.epoch() < self.state.group_context().epoch() {
            if !groups::may_go_back(tx, group)? {
                return Ok(None);
            }
            if epochs::knows(tx, group, info)? {
                return Ok(Some(Link::Past));
            }
        }
        let provider = tx.provider();
        let keys: Vec<Vec<u8>> = self.leaves().into_iter().map(|leaf| leaf.signature_key).collect();
        let mut replay = Replay::new(verdicts::judge(context, provider.crypto()), self.state);
        for handshake in handshakes {
            if replay.state().group_context().epoch() == info.epoch() {
                break;
            }
            if let Err(reason) = replay.follow(handshake) {
                tracing::debug!("the Commits of a group cannot be followed: {reason}");
                break;
            }
        }
        if replay.leads_to(info) {
            return Ok(Some(Link::Replayed));
        }
        let is_signed = signed_by(provider.crypto(), info, keys.iter().map(Vec::as_slice));
        Ok(is_signed.then_some(Link::Signed))
    }
}

/// Keeps what is known of a group, before its MLS state goes; what was kept before that stays.
pub(super) fn keep(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    if stored(tx, group)?.is_some() {
        return Ok(());
    }
    match mls::find(tx, group)? {
        Some(state) => set(tx, group, state.public_group()),
        None => Ok(()),
    }
}

/// Keeps this as what is known of a group of which nothing was.
pub(super) fn set(tx: &Tx<'_>, group: &GroupKey, state: &PublicGroup) -> Result<(), Error> {
    let state = public_state(tx, state)?
        .encode()
        .map_err(Error::mls("keeping the state of a group"))?;
    tx.connection().execute(
        "INSERT INTO last_known (group_id, state) VALUES (?1, ?2)",
        (group.as_bytes(), state),
    )?;
    Ok(())
}

/// What was last known of a group: while nothing was kept, its MLS state is that.
pub(super) fn find(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<LastKnown>, Error> {
    let state = match stored(tx, group)? {
        Some(bytes) => {
            PublicState::decode(&bytes).map_err(|_| Error::Corrupt("the kept state of a group"))?
        }
        None => match mls::find(tx, group)? {
            Some(state) => public_state(tx, state.public_group())?,
            None => return Ok(None),
        },
    };
    Ok(Some(LastKnown {
        state: loaded(&state, group)?,
    }))
}

/// The leaf in a group with this signature key.
pub(super) fn leaf_of(state: &PublicGroup, signature_key: &[u8]) -> Option<LeafNode> {
    let mut leaves = state.treesync().full_leaves();
    let found = leaves.find(|(_, leaf)| leaf.signature_key().as_slice() == signature_key);
    found.map(|(_, leaf)| leaf.clone())
}

/// A copy of the public half of a group, to be led on elsewhere.
pub(super) fn copied(tx: &Tx<'_>, group: &GroupKey, state: &PublicGroup) -> Result<PublicGroup, Error> {
    loaded(&public_state(tx, state)?, group)
}

fn loaded(state: &PublicState, group: &GroupKey) -> Result<PublicGroup, Error> {
    state
        .load(&mls::mls_id(group))
        .map_err(|_| Error::Corrupt("the kept state of a group"))
}

/// The group has an MLS state again that is held against nothing, or this device has left it.
pub(super) fn forget(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .execute("DELETE FROM last_known WHERE group_id = ?1", [group.as_bytes()])?;
    Ok(())
}

fn stored(tx: &Tx<'_>, group: &GroupKey) -> Result<Option<Vec<u8>>, Error> {
    Ok(tx
        .connection()
        .prepare_cached("SELECT state FROM last_known WHERE group_id = ?1")?
        .query_row([group.as_bytes()], |row| row.get(0))
        .optional()?)
}

fn public_state(tx: &Tx<'_>, state: &PublicGroup) -> Result<PublicState, Error> {
    PublicState::of(tx.provider().crypto(), state).map_err(Error::mls("keeping the state of a group"))
}
