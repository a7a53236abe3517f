use larder_lifecycle::{Kind, PoolState, UnixSeconds};
use openmls::prelude::{
    GroupEpoch, JoinBuilder, KeyPackageBundle, KeyPackageRef, LeafNodeIndex, MlsGroup, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedWelcome, RatchetTreeIn, StagedWelcome,
    Welcome,
};
use openmls_traits::storage::StorageProvider as _;
use tls_codec::Deserialize as _;

use crate::error::{Corrupt, PoolError, StoreError};
use crate::join_error::{Erasure, JoinError};
use crate::metadata::{self, Metadata};
use crate::pool::{KeyPackagePool, bundle};
use crate::provider::Provider;
use crate::quarantine;
use crate::store::Tx;
use crate::{last_resort_joins, transition};

/// A group joined from a Welcome.
#[derive(Debug)]
pub struct Joined {
    /// The group, stored.
    pub group: MlsGroup,
    /// The leaf of the member who made the Welcome: its key has signed the GroupInfo in it (RFC 9420 §12.4.3.1).
    pub adder: LeafNodeIndex,
    /// The KeyPackage that the Welcome was for. It is spent and its private keys are gone, unless it is a last resort.
    pub key_package_ref: KeyPackageRef,
    /// What it is. A last resort opens other invitations too, so its private keys are kept until it is replaced;
    /// [`KeyPackagePool::last_resort_due`] says so from here on.
    pub kind: Kind,
}

impl KeyPackagePool {
    /// Joins a group: stores it, spends the KeyPackage and erases its private keys, all in `tx`. A last resort is not
    /// spent: its use is noted and its private keys stay. KeyPackages of older generations join like any others.
    ///
    /// `welcome` is an `MLSMessage` (RFC 9420 §6); `ratchet_tree` is needed unless the Welcome brings it along. A group
    /// that this device was removed from is replaced. The lifetimes of other members' leaves are not checked: a member
    /// who has never committed keeps its KeyPackage's lifetime, and nobody could join the group after its end.
    ///
    /// # Errors
    /// [`JoinError`]. Everything that the attempt did is undone then, even if the caller commits `tx`; OpenMLS alone
    /// would delete the private keys before it decrypts, and any hostile Welcome would burn them. Tell
    /// [`quarantine`](Self::quarantine) of it; after [`JOIN_ATTEMPTS_MAX`](crate::JOIN_ATTEMPTS_MAX) failures the
    /// answer is [`JoinError::Quarantined`].
    pub fn join(
        &self,
        tx: &Tx<'_>,
        welcome: &[u8],
        ratchet_tree: Option<&[u8]>,
        config: &MlsGroupJoinConfig,
        now: UnixSeconds,
    ) -> Result<Joined, JoinError> {
        quarantine::admit(tx, welcome)?;
        let parsed = parse(welcome)?;
        let ratchet_tree = ratchet_tree
            .map(RatchetTreeIn::tls_deserialize_exact)
            .transpose()
            .map_err(|_| JoinError::MalformedRatchetTree)?;
        tx.atomically(|| {
            let joined = self.join_parsed(tx, parsed, ratchet_tree, config, now)?;
            quarantine::release(tx, welcome)?;
            Ok(joined)
        })
    }

    /// The epoch of the group that a Welcome is to, as its sender has encrypted it: the ratchet tree to [join](Self::join) it
    /// with is that of this epoch. Nothing has verified it yet. `None` when the Welcome cannot be opened; joining says why.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn welcome_epoch(
        &self,
        tx: &Tx<'_>,
        welcome: &[u8],
        config: &MlsGroupJoinConfig,
    ) -> Result<Option<u64>, StoreError> {
        let mut epoch = None;
        // OpenMLS deletes the private keys before it decrypts, so all of it is undone.
        let undone: Result<(), JoinError> = tx.atomically(|| {
            let parsed = parse(welcome)?;
            look_up(tx, &parsed)?;
            let processed = ProcessedWelcome::new_from_welcome(&tx.provider(), config, parsed)?;
            epoch = Some(processed.unverified_group_info().epoch().as_u64());
            Err(JoinError::Malformed)
        });
        match undone {
            Err(JoinError::Pool(PoolError::Store(error))) => Err(error),
            Ok(()) | Err(_) => Ok(epoch),
        }
    }

    fn join_parsed(
        &self,
        tx: &Tx<'_>,
        welcome: Welcome,
        ratchet_tree: Option<RatchetTreeIn>,
        config: &MlsGroupJoinConfig,
        now: UnixSeconds,
    ) -> Result<Joined, JoinError> {
        let (key_package_ref, bundle) = look_up(tx, &welcome)?;
        let row = metadata::find(tx.connection(), &key_package_ref)?.ok_or(Corrupt::Bundle)?;
        let not_after = row.lifetime.not_after;
        if now >= self.policy.erase_at(not_after) {
            return Err(JoinError::Expired {
                key_package_ref,
                not_after,
            });
        }

        let provider = tx.provider();
        let staged = stage(&provider, welcome, ratchet_tree, config)?;
        // OpenMLS finds our leaf by the signature key alone.
        if staged.own_leaf_node() != Some(bundle.key_package().leaf_node()) {
            return Err(JoinError::NotOurLeaf(key_package_ref));
        }
        refuse_replay(tx, &row, &staged)?;
        let adder = staged.welcome_sender_index();
        let group = staged.into_group(&provider)?;

        transition::join(tx, &row, &group, now)?;
        Ok(Joined {
            group,
            adder,
            key_package_ref,
            kind: row.kind,
        })
    }
}

/// The keys of a last resort outlive its use, so an old Welcome could be joined once more, for instance after this device
/// was removed. Every genuine one is of a later epoch than the last.
fn refuse_replay(tx: &Tx<'_>, row: &Metadata, staged: &StagedWelcome) -> Result<(), JoinError> {
    match row.kind {
        Kind::SingleUse => return Ok(()),
        Kind::LastResort => {}
    }
    let context = staged.group_context();
    match last_resort_joins::latest(tx.connection(), &row.key_package_ref, context.group_id())? {
        Some((epoch, at)) if context.epoch().as_u64() <= epoch => Err(JoinError::Replayed {
            key_package_ref: row.key_package_ref.clone(),
            group_id: context.group_id().clone(),
            at,
        }),
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn parse(welcome: &[u8]) -> Result<Welcome, JoinError> {
    // Not `tls_deserialize_exact_bytes`: its debug assertions panic on truncated bytes.
    let message = MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| JoinError::Malformed)?;
    match message.extract() {
        MlsMessageBodyIn::Welcome(welcome) => Ok(welcome),
        _ => Err(JoinError::Malformed),
    }
}

/// The KeyPackage that OpenMLS is going to use: the first that it has the private keys of. Consumes nothing.
fn look_up(tx: &Tx<'_>, welcome: &Welcome) -> Result<(KeyPackageRef, KeyPackageBundle), JoinError> {
    for secrets in welcome.secrets() {
        let key_package_ref = secrets.new_member();
        if let Some(bundle) = bundle(tx, &key_package_ref).map_err(StoreError::from)? {
            return Ok((key_package_ref, bundle));
        }
    }
    Err(explain(tx, welcome)?)
}

/// Why no private keys open this Welcome.
fn explain(tx: &Tx<'_>, welcome: &Welcome) -> Result<JoinError, JoinError> {
    for secrets in welcome.secrets() {
        let key_package_ref = secrets.new_member();
        if let Some(row) = metadata::find(tx.connection(), &key_package_ref)? {
            return explain_row(row);
        }
    }
    Ok(JoinError::NotOurs)
}

fn explain_row(row: Metadata) -> Result<JoinError, JoinError> {
    let key_package_ref = row.key_package_ref;
    let at = row.ended_at.ok_or(Corrupt::Bundle)?;
    let cause = match row.state {
        PoolState::Spent => {
            return Ok(JoinError::AlreadySpent {
                key_package_ref,
                group_id: row.spent_group_id.ok_or(Corrupt::End)?,
                at,
            });
        }
        PoolState::Lapsed => Erasure::Lapsed,
        PoolState::Expired => Erasure::Expired,
        PoolState::Revoked => Erasure::Revoked,
        PoolState::Gone => Erasure::Replaced,
        PoolState::Created
        | PoolState::Available
        | PoolState::Reserved
        | PoolState::Retiring { .. }
        | PoolState::Lost => return Err(Corrupt::Bundle.into()),
    };
    Ok(JoinError::Erased {
        key_package_ref,
        cause,
        at,
    })
}

/// Deletes a group that this device was removed from. The Commit that did so moved the epoch on and brought no keys for us,
/// so that our last path's are those of the epoch before; OpenMLS deletes those of the present one only.
fn delete_inactive(provider: &Provider<'_>, group: &mut MlsGroup) -> Result<(), rusqlite::Error> {
    let before = GroupEpoch::from(group.epoch().as_u64().saturating_sub(1));
    let leaf = group.own_leaf_index().u32();
    provider
        .storage()
        .delete_encryption_epoch_key_pairs(group.group_id(), &before, leaf)?;
    group.delete(provider.storage())
}

fn stage(
    provider: &Provider<'_>,
    welcome: Welcome,
    ratchet_tree: Option<RatchetTreeIn>,
    config: &MlsGroupJoinConfig,
) -> Result<StagedWelcome, JoinError> {
    let processed = ProcessedWelcome::new_from_welcome(provider, config, welcome)?;
    let group_id = processed.unverified_group_info().group_id().clone();
    if let Some(mut group) = MlsGroup::load(provider.storage(), &group_id).map_err(StoreError::from)? {
        if group.is_active() {
            return Err(JoinError::GroupExists { group_id });
        }
        delete_inactive(provider, &mut group).map_err(StoreError::from)?;
    }
    let mut builder = JoinBuilder::new(provider, processed).skip_lifetime_validation();
    if let Some(ratchet_tree) = ratchet_tree {
        builder = builder.with_ratchet_tree(ratchet_tree);
    }
    Ok(builder.build()?)
}
