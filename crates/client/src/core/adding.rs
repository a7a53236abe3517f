//! The Commit that adds whom it can: one KeyPackage that the group does not accept does not keep the others out.

use std::collections::BTreeSet;
use std::convert::Infallible;

use larder_judge::{Leaf, NotTaken, Rule};
use larder_lifecycle::UnixSeconds;
use larder_pool::{StoreError, Tx};
use larder_wire::{CommitRequest, Problem, UserName};
use openmls::group::ProposalValidationError;
use openmls::prelude::{CreateCommitError, KeyPackage, OpenMlsProvider as _};

use crate::core::gate::{self, Cleared, Closed};
use crate::core::invitation::Extent;
use crate::core::outbox::{self, Intent, InvitePackage};
use crate::core::profile::Context;
use crate::core::{commits, departures, messages};
use crate::error::{Error, KeyPackageFlaw};
use crate::types::{GroupKey, NotAdded};

/// A Commit that adds whom it can.
pub(super) struct Adding {
    /// The Commit, staged; none when nobody is left to add.
    pub(super) request: Option<CommitRequest>,
    /// Those whom it adds.
    pub(super) packages: Vec<InvitePackage>,
    /// Users whom no Commit can add to the group, with all of their devices.
    pub(super) left_out: Vec<(UserName, KeyPackageFlaw)>,
}

impl Adding {
    fn of(
        request: CommitRequest,
        packages: Vec<InvitePackage>,
        left_out: Vec<(UserName, KeyPackageFlaw)>,
    ) -> Self {
        Self {
            request: Some(request),
            packages,
            left_out,
        }
    }

    fn nobody(left_out: Vec<(UserName, KeyPackageFlaw)>) -> Self {
        Self {
            request: None,
            packages: Vec::new(),
            left_out,
        }
    }
}

/// Stages the Commit that adds the owners of these KeyPackages, without those who are members already and those whom the
/// group does not accept. When nobody may be left out and somebody has to be, nothing is staged.
pub(super) fn stage_adds(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    packages: &[InvitePackage],
    (reservation_id, extent): (Option<&str>, Extent),
) -> Result<Result<Adding, Closed>, Error> {
    let cleared = match gate::clear(tx, group)? {
        Ok(cleared) => cleared,
        Err(closed) => return Ok(Err(closed)),
    };
    let attempt = Attempt {
        tx,
        context,
        group,
        reservation_id,
    };
    let packages = still_to_add(&departures::staying(tx, context, cleared.state())?, packages);
    if packages.is_empty() {
        return Ok(Ok(Adding::nobody(Vec::new())));
    }
    match attempt.make(cleared, &packages) {
        Ok(request) => return Ok(Ok(Adding::of(request, packages, Vec::new()))),
        Err(Error::Mls { .. }) => {}
        Err(Error::VerificationChanged { user }) => return Ok(Err(Closed::VerificationChanged(user))),
        Err(other) => return Err(other),
    }
    let (packages, left_out) = attempt.sort_out(packages)?;
    if packages.is_empty() || (extent == Extent::AllOrNobody && !left_out.is_empty()) {
        return Ok(Ok(Adding::nobody(left_out)));
    }
    let request = attempt.make_again(&packages)?;
    Ok(Ok(Adding::of(request, packages, left_out)))
}

/// The server does not let these KeyPackages be added, because their owners have withdrawn them, say. That keeps nobody
/// else out: the Commit is made again without those users. Whether it is.
pub(super) fn without_refused(
    tx: &Tx<'_>,
    (group, id): (&GroupKey, i64),
    intent: &Intent,
    problem: &Problem,
    now: UnixSeconds,
) -> Result<bool, Error> {
    let Intent::Invite {
        reservation_id,
        packages,
        extent: extent @ Extent::WhoeverCan,
    } = intent
    else {
        return Ok(false);
    };
    let concerned: BTreeSet<&UserName> = packages
        .iter()
        .filter(|package| problem.refs.contains(&package.key_package_ref))
        .map(|package| &package.user)
        .collect();
    let others = packages
        .iter()
        .filter(|package| !concerned.contains(&package.user));
    let others: Vec<InvitePackage> = others.cloned().collect();
    if concerned.is_empty() || others.is_empty() {
        return Ok(false);
    }
    for user in concerned {
        messages::note_not_added(tx, group, user, &NotAdded::Overtaken, now)?;
    }
    commits::clear(tx, group)?;
    let intent = Intent::Invite {
        reservation_id: reservation_id.clone(),
        packages: others,
        extent: *extent,
    };
    outbox::remake_as(tx.connection(), id, &intent)?;
    Ok(true)
}

/// Those whose device is not a member yet.
fn still_to_add(members: &[Leaf], packages: &[InvitePackage]) -> Vec<InvitePackage> {
    let is_member = |package: &InvitePackage| {
        members
            .iter()
            .any(|leaf| leaf.user == package.user && leaf.device == package.device_id)
    };
    let remaining = packages.iter().filter(|package| !is_member(package));
    remaining.cloned().collect()
}

/// The KeyPackages that go together, and the users who are left out.
type SortedOut = (Vec<InvitePackage>, Vec<(UserName, KeyPackageFlaw)>);

struct Attempt<'a, 'tx> {
    tx: &'a Tx<'tx>,
    context: &'a Context,
    group: &'a GroupKey,
    reservation_id: Option<&'a str>,
}

impl Attempt<'_, '_> {
    /// Stages the Commit; a failure leaves the group as it was.
    fn make(&self, cleared: Cleared<'_>, packages: &[InvitePackage]) -> Result<CommitRequest, Error> {
        self.tx.atomically(|| {
            let adds: Vec<KeyPackage> = packages
                .iter()
                .map(|package| read(self.tx, package))
                .collect::<Result<_, _>>()?;
            let reservation_id = self.reservation_id.map(str::to_owned);
            let admitted = cleared.admit(self.tx, adds)??;
            commits::stage(self.tx, self.context, admitted, reservation_id)
        })
    }

    /// Stages it when another one could not be made: each uses a proof up.
    fn make_again(&self, packages: &[InvitePackage]) -> Result<CommitRequest, Error> {
        self.make(gate::clear(self.tx, self.group)??, packages)
    }

    /// Why this Commit cannot be made, if it cannot. Nothing of it stays.
    fn rehearse(&self, packages: &[InvitePackage]) -> Result<Option<Error>, Error> {
        let Err(Rehearsed(made)) = self
            .tx
            .atomically(|| Err::<Infallible, _>(Rehearsed(Box::new(self.make_again(packages).map(drop)))));
        match *made {
            Ok(()) => Ok(None),
            Err(error @ Error::Mls { .. }) => Ok(Some(error)),
            Err(other) => Err(other),
        }
    }

    /// Finds those whom a Commit can add together, in their order; whoever does not go with those before is left out.
    ///
    /// # Errors
    /// The one of the Commit that adds nobody: then it is not for those who were to be added.
    fn sort_out(&self, packages: Vec<InvitePackage>) -> Result<SortedOut, Error> {
        let of_users: Vec<&[InvitePackage]> =
            packages.chunk_by(|one, other| one.user == other.user).collect();
        let (mut kept, mut left_out) = (Vec::new(), Vec::new());
        let mut open = vec![of_users.as_slice()];
        while let Some(users) = open.pop() {
            let Some(first) = users.first().and_then(|packages| packages.first()) else {
                continue;
            };
            let together = [kept.clone(), users.concat()].concat();
            match (self.rehearse(&together)?, users.len()) {
                (None, _) => kept = together,
                (Some(error), 1) => left_out.push((first.user.clone(), flaw_of(&error))),
                (Some(_), several) => {
                    let (former, latter) = users.split_at(several / 2);
                    open.extend([latter, former]);
                }
            }
        }
        if kept.is_empty()
            && let Some(error) = self.rehearse(&[])?
        {
            return Err(error);
        }
        Ok((kept, left_out))
    }
}

/// Carries what became of an attempt out of a transaction that is always undone.
struct Rehearsed(Box<Result<(), Error>>);

impl From<StoreError> for Rehearsed {
    fn from(error: StoreError) -> Self {
        Self(Box::new(Err(error.into())))
    }
}

/// A KeyPackage that passed the checks when it was handed out. Whether it is still valid is for the Commit to find out.
fn read(tx: &Tx<'_>, package: &InvitePackage) -> Result<KeyPackage, Error> {
    let parsed =
        larder_key_package::read(&package.key_package.0).map_err(Error::mls("reading a KeyPackage"))?;
    larder_key_package::check(tx.provider().crypto(), parsed).map_err(Error::mls("checking a KeyPackage"))
}

fn flaw_of(error: &Error) -> KeyPackageFlaw {
    let Error::Mls { source, .. } = error else {
        return KeyPackageFlaw::NotAccepted;
    };
    let is_in_use = match source.downcast_ref::<NotTaken>() {
        Some(reason) => *reason == NotTaken::Against(Rule::KeyTwice),
        None => matches!(
            source.downcast_ref(),
            Some(CreateCommitError::ProposalValidationError(
                ProposalValidationError::DuplicateSignatureKey
                    | ProposalValidationError::DuplicateEncryptionKey
                    | ProposalValidationError::DuplicateInitKey
                    | ProposalValidationError::InitEncryptionKeyCollision,
            ))
        ),
    };
    match is_in_use {
        true => KeyPackageFlaw::KeyInUse,
        false => KeyPackageFlaw::NotAccepted,
    }
}
