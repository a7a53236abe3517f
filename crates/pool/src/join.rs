use larder_lifecycle::{PoolEvent, PoolState, UnixSeconds};
use openmls::prelude::{
    GroupId, JoinBuilder, KeyPackageBundle, KeyPackageRef, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn,
    MlsMessageIn, OpenMlsProvider as _, ProcessedWelcome, RatchetTreeIn, StagedWelcome, Welcome,
    WelcomeError,
};
use tls_codec::Deserialize as _;

use crate::error::{Corrupt, PoolError, StoreError};
use crate::metadata;
use crate::pool::{KeyPackagePool, bundle, enter};
use crate::provider::Provider;
use crate::store::Tx;

/// A group joined from a Welcome.
#[derive(Debug)]
pub struct Joined {
    /// The group, stored.
    pub group: MlsGroup,
    /// The KeyPackage that the Welcome was for; it is spent, and its init key is gone.
    pub key_package_ref: KeyPackageRef,
}

/// Why a Welcome was not joined. Nothing has changed: the private keys are still there and the genuine Welcome joins.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Not exactly one `MLSMessage` with a Welcome.
    #[error("not a Welcome")]
    Malformed,
    /// The ratchet tree is not exactly one ratchet tree (RFC 9420 §12.4.3.3).
    #[error("not a ratchet tree")]
    MalformedRatchetTree,
    /// It names no KeyPackage of this pool.
    #[error("the Welcome is not for this device")]
    NotOurs,
    /// A Welcome was joined with this KeyPackage before.
    #[error("KeyPackage {key_package_ref:?} was spent at {at}")]
    AlreadySpent {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// The group that was joined with it.
        group_id: GroupId,
        /// When.
        at: UnixSeconds,
    },
    /// The private keys of this KeyPackage are gone.
    #[error("KeyPackage {key_package_ref:?} was erased at {at} ({state:?})")]
    Erased {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// Why it is gone.
        state: PoolState,
        /// When.
        at: UnixSeconds,
    },
    /// Our own leaf is past its lifetime and the grace after it.
    #[error("KeyPackage {key_package_ref:?} expired at {not_after}")]
    Expired {
        /// The KeyPackage.
        key_package_ref: KeyPackageRef,
        /// The end of its lifetime.
        not_after: UnixSeconds,
    },
    /// This device is a member of the group already.
    #[error("the group is joined already")]
    GroupExists {
        /// The group.
        group_id: GroupId,
    },
    /// The Welcome brings no ratchet tree, and none was given.
    #[error("the ratchet tree is missing")]
    MissingRatchetTree,
    /// The leaf with our signature key is not the one of the KeyPackage (RFC 9420 §12.4.3.1).
    #[error("the ratchet tree does not hold the leaf of KeyPackage {0:?}")]
    NotOurLeaf(KeyPackageRef),
    /// OpenMLS refuses the Welcome.
    #[error("the Welcome is refused")]
    Mls(#[source] Box<WelcomeError<rusqlite::Error>>),
    /// The pool could not be changed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self::Pool(error.into())
    }
}

impl From<Corrupt> for JoinError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Pool(corrupt.into())
    }
}

impl From<WelcomeError<rusqlite::Error>> for JoinError {
    fn from(error: WelcomeError<rusqlite::Error>) -> Self {
        match error {
            WelcomeError::MissingRatchetTree => Self::MissingRatchetTree,
            WelcomeError::StorageError(error) => Self::Pool(error.into()),
            other => Self::Mls(Box::new(other)),
        }
    }
}

impl KeyPackagePool {
    /// Joins a group: stores it, spends the KeyPackage and erases its private keys, all in `tx`.
    ///
    /// `welcome` is an `MLSMessage` (RFC 9420 §6); `ratchet_tree` is needed unless the Welcome brings it along. A group
    /// that this device was removed from is replaced. The lifetimes of other members' leaves are not checked: a member
    /// who has never committed keeps its KeyPackage's lifetime, and nobody could join the group after its end.
    ///
    /// # Errors
    /// [`JoinError`]. Everything that the attempt did is undone then, even if the caller commits `tx`; OpenMLS alone
    /// would delete the private keys before it decrypts, and any hostile Welcome would burn them.
    pub fn join(
        &self,
        tx: &Tx<'_>,
        welcome: &[u8],
        ratchet_tree: Option<&[u8]>,
        config: &MlsGroupJoinConfig,
        now: UnixSeconds,
    ) -> Result<Joined, JoinError> {
        let welcome = parse(welcome)?;
        let ratchet_tree = ratchet_tree
            .map(RatchetTreeIn::tls_deserialize_exact)
            .transpose()
            .map_err(|_| JoinError::MalformedRatchetTree)?;
        tx.atomically(|| self.join_parsed(tx, welcome, ratchet_tree, config, now))
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
        let next = row.state.apply(PoolEvent::Joined).map_err(|_| Corrupt::Bundle)?;
        if now >= self.policy.erase_at(row.not_after) {
            return Err(JoinError::Expired {
                key_package_ref,
                not_after: row.not_after,
            });
        }

        let provider = tx.provider();
        let staged = stage(&provider, welcome, ratchet_tree, config)?;
        // OpenMLS finds our leaf by the signature key alone.
        if staged.own_leaf_node() != Some(bundle.key_package().leaf_node()) {
            return Err(JoinError::NotOurLeaf(key_package_ref));
        }
        let group = staged.into_group(&provider)?;

        enter(tx, &row, next, Some(group.group_id()), now)?;
        Ok(Joined {
            group,
            key_package_ref,
        })
    }
}

fn parse(welcome: &[u8]) -> Result<Welcome, JoinError> {
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
        let Some(row) = metadata::find(tx.connection(), &key_package_ref)? else {
            continue;
        };
        let at = row.ended_at.ok_or(Corrupt::Bundle)?;
        return Ok(match row.spent_group_id {
            Some(group_id) => JoinError::AlreadySpent {
                key_package_ref,
                group_id,
                at,
            },
            None => JoinError::Erased {
                key_package_ref,
                state: row.state,
                at,
            },
        });
    }
    Ok(JoinError::NotOurs)
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
        group.delete(provider.storage()).map_err(StoreError::from)?;
    }
    let mut builder = JoinBuilder::new(provider, processed).skip_lifetime_validation();
    if let Some(ratchet_tree) = ratchet_tree {
        builder = builder.with_ratchet_tree(ratchet_tree);
    }
    Ok(builder.build()?)
}
