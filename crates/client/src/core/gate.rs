//! The one gate: what this device makes for a group needs a proof from here that it may leave.
//!
//! A proof is made in the transaction that uses it and holds the group's MLS state, so it is good for one epoch. Whoever
//! encrypts or stages uses it up: what is made again needs another one. (What tells the server of a new group needs none:
//! nobody else is in it yet.)

use std::marker::PhantomData;

use larder_pool::Tx;
use larder_wire::UserName;
use openmls::prelude::{KeyPackage, MlsGroup};

use crate::core::{groups, holds, mls, requests, verification};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// What is to leave for a group.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// What a person says, files, names, and Commits that add members or renew our keys.
    Anything,
    /// A Commit that removes whom the person wants out. Keys that changed do not keep it back: it is one of the answers to
    /// them.
    Expulsion,
    /// A Commit that removes nobody but members who left or asked to, and leaves that their users gave up. It gives nobody
    /// anything, and without it nobody could leave a group while keys are looked at.
    Departures,
    /// A Commit that removes whom this device has seen removed, by a Commit that the server has lost.
    Again,
    /// The external Commit that brings this device back to a group that its person wants to be in.
    Rejoin,
}

/// What a purpose needs, beside a state of the group that it makes sense in.
struct Needs {
    verified: bool,
    /// That the group is not held.
    unheld: bool,
}

impl Purpose {
    fn needs(self) -> Needs {
        match self {
            Self::Anything => Needs {
                verified: true,
                unheld: true,
            },
            Self::Expulsion | Self::Departures => Needs {
                verified: false,
                unheld: true,
            },
            Self::Again | Self::Rejoin => Needs {
                verified: false,
                unheld: false,
            },
        }
    }

    fn fits(self, state: GroupState) -> bool {
        match self {
            Self::Anything | Self::Expulsion | Self::Departures | Self::Again => state == GroupState::Active,
            Self::Rejoin => state == GroupState::NeedsRejoin,
        }
    }
}

/// Why something does not leave for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Closed {
    /// This device is no member, or is about to be none, or has to rejoin first.
    NotActive(GroupState),
    /// The person has not accepted the invitation.
    NotAccepted(GroupKey),
    /// Others are in the group than this device knew, and the person has not said that this is right.
    Held(GroupKey),
    /// This member, or whoever is to be added, was verified and has other keys now.
    VerificationChanged(UserName),
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::NotActive(state) => Self::GroupNotActive(state),
            Closed::NotAccepted(group) => Self::NotAccepted { group },
            Closed::Held(group) => Self::Held { group },
            Closed::VerificationChanged(user) => Self::VerificationChanged { user },
        }
    }
}

/// Proof that anything may leave for a group, in the epoch of the state that it holds.
#[must_use]
pub(super) struct Cleared<'tx> {
    group: GroupKey,
    mls: MlsGroup,
    transaction: PhantomData<&'tx ()>,
}

impl Cleared<'_> {
    pub(super) fn group(&self) -> &GroupKey {
        &self.group
    }

    pub(super) fn state(&self) -> &MlsGroup {
        &self.mls
    }

    /// Uses the proof up.
    pub(super) fn into_state(self) -> MlsGroup {
        self.mls
    }
}

/// Proof that a Commit may leave which adds these.
#[must_use]
pub(super) struct Admitted<'tx> {
    cleared: Cleared<'tx>,
    adds: Vec<KeyPackage>,
}

impl<'tx> Cleared<'tx> {
    /// Lets these in, unless one of them was verified with other keys than it has.
    pub(super) fn admit(
        self,
        tx: &'tx Tx<'_>,
        adds: Vec<KeyPackage>,
    ) -> Result<Result<Admitted<'tx>, Closed>, Error> {
        for add in &adds {
            let leaf = add.leaf_node();
            if let Some((user, device)) = mls::who(leaf.credential())
                && verification::has_changed(tx, &user, &device, leaf.signature_key().as_slice())?
            {
                return Ok(Err(Closed::VerificationChanged(user)));
            }
        }
        Ok(Ok(Admitted { cleared: self, adds }))
    }

    /// For a Commit that adds nobody.
    pub(super) fn nobody(self) -> Admitted<'tx> {
        Admitted {
            cleared: self,
            adds: Vec::new(),
        }
    }
}

impl Admitted<'_> {
    /// Uses the proof up.
    pub(super) fn into_parts(self) -> (MlsGroup, Vec<KeyPackage>) {
        (self.cleared.mls, self.adds)
    }
}

/// Proof that a Commit may leave which removes members, in the epoch of the state that it holds.
#[must_use]
pub(super) struct Removal<'tx> {
    mls: MlsGroup,
    /// Whether anything else might leave, too.
    verified: bool,
    transaction: PhantomData<&'tx ()>,
}

impl Removal<'_> {
    pub(super) fn state(&self) -> &MlsGroup {
        &self.mls
    }

    /// Whether the keys of all members are as verified, so that the Commit may take over fresh keys of theirs.
    pub(super) fn keys_are_as_verified(&self) -> bool {
        self.verified
    }

    /// Uses the proof up.
    pub(super) fn into_state(self) -> MlsGroup {
        self.mls
    }
}

/// Proof that an external Commit of ours may leave.
#[must_use]
pub(super) struct Rejoining<'tx> {
    transaction: PhantomData<&'tx ()>,
}

/// Whether anything may leave for a group.
pub(super) fn clear<'tx>(tx: &'tx Tx<'_>, group: &GroupKey) -> Result<Result<Cleared<'tx>, Closed>, Error> {
    let cleared = enter(tx, group, Purpose::Anything)?.map(|mls| Cleared {
        group: group.clone(),
        mls,
        transaction: PhantomData,
    });
    Ok(cleared)
}

/// Fails unless anything may leave for a group.
pub(crate) fn require_open(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    clear(tx, group)?.map(drop).map_err(Error::from)
}

/// Whether a Commit may leave that removes whom the person wants out.
pub(super) fn clear_expulsion<'tx>(
    tx: &'tx Tx<'_>,
    group: &GroupKey,
) -> Result<Result<Removal<'tx>, Closed>, Error> {
    removal(tx, group, Purpose::Expulsion)
}

/// Whether a Commit may leave that removes members who left or asked to, and leaves that their users gave up.
pub(super) fn clear_departures<'tx>(
    tx: &'tx Tx<'_>,
    group: &GroupKey,
) -> Result<Result<Removal<'tx>, Closed>, Error> {
    removal(tx, group, Purpose::Departures)
}

/// Whether a Commit may leave that removes whom this device has seen removed before.
pub(super) fn clear_again<'tx>(
    tx: &'tx Tx<'_>,
    group: &GroupKey,
) -> Result<Result<Removal<'tx>, Closed>, Error> {
    removal(tx, group, Purpose::Again)
}

/// Whether this device may come back by an external Commit. What is left of its old state is no part of the proof: the Commit
/// is built from the server's GroupInfo.
pub(super) fn clear_rejoin<'tx>(
    tx: &'tx Tx<'_>,
    group: &GroupKey,
) -> Result<Result<Rejoining<'tx>, Closed>, Error> {
    let rejoining = match judge(tx, group, Purpose::Rejoin)? {
        None => Ok(Rejoining {
            transaction: PhantomData,
        }),
        Some(closed) => Err(closed),
    };
    Ok(rejoining)
}

fn removal<'tx>(
    tx: &'tx Tx<'_>,
    group: &GroupKey,
    purpose: Purpose,
) -> Result<Result<Removal<'tx>, Closed>, Error> {
    match enter(tx, group, purpose)? {
        Ok(mls) => Ok(Ok(Removal {
            verified: verification::changed_member(tx, &mls)?.is_none(),
            mls,
            transaction: PhantomData,
        })),
        Err(closed) => Ok(Err(closed)),
    }
}

/// The group's state, if something for this purpose may leave in its epoch.
fn enter(tx: &Tx<'_>, group: &GroupKey, purpose: Purpose) -> Result<Result<MlsGroup, Closed>, Error> {
    if let Some(closed) = judge(tx, group, purpose)? {
        return Ok(Err(closed));
    }
    let mls = mls::load(tx, group)?;
    if purpose.needs().verified
        && let Some(user) = verification::changed_member(tx, &mls)?
    {
        return Ok(Err(Closed::VerificationChanged(user)));
    }
    Ok(Ok(mls))
}

/// What keeps it back of what is known of the group without its MLS state.
fn judge(tx: &Tx<'_>, group: &GroupKey, purpose: Purpose) -> Result<Option<Closed>, Error> {
    let state = groups::group_state(tx, group)?;
    if !purpose.fits(state) {
        return Ok(Some(Closed::NotActive(state)));
    }
    let (connection, needs) = (tx.connection(), purpose.needs());
    if requests::find(connection, group)?.is_some() {
        return Ok(Some(Closed::NotAccepted(group.clone())));
    }
    Ok((needs.unheld && holds::is_held(connection, group)?).then(|| Closed::Held(group.clone())))
}
