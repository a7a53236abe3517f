use std::collections::BTreeSet;

use larder_wire::{
    COMMIT_ADDS_MAX, Problem, ProblemType, RESERVE_USERS_MAX, ReserveRequest, Reserved,
    USER_DEVICES_EVER_MAX, UserName,
};

use crate::connection::MlsConnection;
use crate::connection::operations::finish;
use crate::connection::sync::Progress;
use crate::core::{self, Checked, Extent};
use crate::error::{Error, KeyPackageFlaw, NotTheServer};
use crate::types::{GroupKey, Invited, NotAdded};

/// Users whom KeyPackages are reserved of at once: where each has no more than 8 devices, which a server allows unless it is
/// told otherwise, one Commit adds them. What is more is added by several.
const USERS_AT_ONCE: usize = COMMIT_ADDS_MAX / 8;

impl MlsConnection {
    /// Adds users to a group, each with all of their devices: by one Commit, or by several where they have more than one may
    /// add.
    ///
    /// Reserves a KeyPackage of each device, checks everything that the directory handed out (what fails is reported and
    /// never added, and its reservation is given up, so that nobody gets it again), stages Commit and Welcome, and merges the Commit when the server has accepted it. When another
    /// Commit was faster, it catches up and tries again with the same KeyPackages. Whom the group does not accept, and whose
    /// KeyPackage was withdrawn meanwhile, is left out; the others are added.
    ///
    /// # Errors
    /// When nobody could be added: [`Error::KeyChanged`], [`Error::UnauthorizedDevice`], [`Error::InvalidKeyPackage`],
    /// [`Error::VerificationChanged`] (also when it is a member who has other keys) or else
    /// [`Error::NoKeyPackages`] with each user's reason. (Users who are members already are no error.)
    /// [`Error::ClocksApart`]: nobody is asked for. [`Error::Unreachable`]: if the Commit was staged by then, the next [`sync`](Self::sync) sends the same bytes and
    /// finishes the invitation. [`Error::Refused`] and [`Error::TooManyRaces`]: nobody was added.
    /// [`Error::UnknownGroup`], [`Error::GroupNotActive`].
    pub async fn invite(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
        let _operation = self.0.operation.lock().await;
        let (users, mut invited) = self.begin_invitation(group, users).await?;
        let failed = self.invite_chunks(group, &users, &mut invited).await?;
        // Of two KeyPackages with one key the first was taken, and the fault may be its owner's: the other owner has others.
        let key_in_use = NotAdded::InvalidKeyPackage(KeyPackageFlaw::KeyInUse);
        let (again, mut failed): (Vec<_>, Vec<_>) =
            failed.into_iter().partition(|(_, why)| *why == key_in_use);
        let again: Vec<UserName> = again.into_iter().map(|(user, _)| user).collect();
        failed.extend(self.invite_chunks(group, &again, &mut invited).await?);
        if invited.added.is_empty() && !failed.is_empty() {
            return Err(nobody(failed));
        }
        invited.not_added.extend(failed);
        Ok(invited)
    }

    /// Adds whoever can be added, as many at once as one Commit may add. Returns the others.
    async fn invite_chunks(
        &self,
        group: &GroupKey,
        users: &[UserName],
        invited: &mut Invited,
    ) -> Result<Vec<(UserName, NotAdded)>, Error> {
        let mut failed = Vec::new();
        for users in users.chunks(USERS_AT_ONCE) {
            let some = match self.invite_some(group, users, Extent::WhoeverCan).await {
                Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                    self.invite_known(group, users).await?
                }
                outcome => outcome?,
            };
            invited.added.extend(some.added);
            invited.by_last_resort.extend(some.by_last_resort);
            failed.extend(some.not_added);
        }
        Ok(failed)
    }

    /// Adds users to a group, all of them or nobody: when one cannot be added, the others are not either, and their reason is
    /// [`NotAdded::Withheld`]. Nothing of theirs is used up if the directory knows it, and what else was reserved is given
    /// back. (Users who are members already keep nobody out.)
    ///
    /// # Errors
    /// [`Error::TooManyUsers`], also when they have more devices than one Commit may add; otherwise those of [`invite`](Self::invite), except that the reasons are in the answer also when
    /// nobody was added.
    pub async fn invite_all(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
        let _operation = self.0.operation.lock().await;
        let (users, mut invited) = self.begin_invitation(group, users).await?;
        if users.len() > RESERVE_USERS_MAX {
            return Err(Error::TooManyUsers);
        }
        if users.is_empty() {
            return Ok(invited);
        }
        let all = match self.invite_some(group, &users, Extent::AllOrNobody).await {
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                let (known, unknown) = self.sort_out(&users).await?;
                if unknown.is_empty() {
                    return Err(Error::Refused(problem));
                }
                let withheld = known.into_iter().map(|user| (user, NotAdded::Withheld));
                Invited {
                    not_added: withheld.chain(unknown).collect(),
                    ..Invited::default()
                }
            }
            outcome => outcome?,
        };
        invited.added = all.added;
        invited.by_last_resort = all.by_last_resort;
        invited.not_added.extend(all.not_added);
        Ok(invited)
    }

    /// Whom to add, and the answer so far, which names those who are members already.
    async fn begin_invitation(
        &self,
        group: &GroupKey,
        users: &[UserName],
    ) -> Result<(Vec<UserName>, Invited), Error> {
        let core = &self.0.core;
        let key = group.clone();
        core.write(move |tx, _| core::require_open(tx, &key)).await?;
        self.pump(&mut Progress::default()).await?;
        self.require_clocks_close().await?;

        // Each once, in a fixed order, so that a repeated request is the same request.
        let users: Vec<UserName> = users
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let (key, asked) = (group.clone(), users.clone());
        let members = core
            .write(move |tx, context| core::already_members(tx, context, &key, &asked))
            .await?;
        let invited = Invited {
            not_added: members
                .iter()
                .map(|user| (user.clone(), NotAdded::AlreadyMember))
                .collect(),
            ..Invited::default()
        };
        let users: Vec<UserName> = users.into_iter().filter(|user| !members.contains(user)).collect();
        Ok((users, invited))
    }

    /// The directory refuses a request with an unknown user whole, and does not say which one: those are sorted out.
    async fn invite_known(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
        let (known, unknown) = self.sort_out(users).await?;
        let mut invited = if known.is_empty() {
            Invited::default()
        } else {
            self.invite_some(group, &known, Extent::WhoeverCan).await?
        };
        invited.not_added.extend(unknown);
        Ok(invited)
    }

    /// Those whom the server knows, and those whom it does not, or not for us.
    async fn sort_out(
        &self,
        users: &[UserName],
    ) -> Result<(Vec<UserName>, Vec<(UserName, NotAdded)>), Error> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for user in users {
            match self.0.transport.user_devices(user).await {
                Ok(listed) if listed.devices.iter().any(|device| device.removed_at.is_none()) => {
                    known.push(user.clone());
                }
                Ok(_) => unknown.push((user.clone(), NotAdded::NotFound)),
                Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                    unknown.push((user.clone(), NotAdded::NotFound));
                }
                Err(other) => return Err(other),
            }
        }
        Ok((known, unknown))
    }

    async fn invite_some(
        &self,
        group: &GroupKey,
        users: &[UserName],
        extent: Extent,
    ) -> Result<Invited, Error> {
        let core = &self.0.core;
        let reserved = self.reserve(group, users, extent).await?;
        let answered = reserved.clone();
        let unknown = core
            .write(move |tx, _| {
                let devices = answered.users.iter().flat_map(|answer| {
                    let devices = answer.devices.iter().take(USER_DEVICES_EVER_MAX);
                    devices.map(|device| (&answer.user, &device.device_id))
                });
                core::users_to_look_up(tx, devices)
            })
            .await?;
        for user in unknown.iter().filter(|user| users.contains(user)) {
            self.learn_devices(user).await?;
        }
        let reservation_id = reserved.reservation_id.clone();
        let of_users = reserved.users.iter().flat_map(|answer| &answer.devices);
        let handed_out = of_users.filter(|device| device.key_package_ref.is_some()).count();
        // One transaction, so that until the first Commit is in the outbox the reservation can be asked for again.
        let (key, asked, terms) = (group.clone(), users.to_vec(), (reservation_id.clone(), extent));
        let (not_added, parts, first) = core
            .write(move |tx, context| {
                core::reserve_finished(tx, &key, &asked, extent)?;
                let mut checked = core::check_reservation(tx, context, &key, &asked, &reserved, extent)?;
                let mut parts = checked.take_parts(COMMIT_ADDS_MAX);
                let first = match parts.as_mut_slice() {
                    [_, _, ..] if extent == Extent::AllOrNobody => None,
                    [first, ..] => core::stage_invite(tx, context, &key, first, terms)?,
                    [] => None,
                };
                Ok((checked.not_added, parts, first))
            })
            .await?;
        let fits = extent == Extent::WhoeverCan || parts.len() < 2;
        let mut invited = Invited {
            not_added,
            ..Invited::default()
        };
        let mut count = 0;
        let mut staged = Some(first);
        for part in parts.into_iter().filter(|_| fits) {
            let (mut part, id) = match staged.take() {
                Some(first) => (part, first),
                None => {
                    self.stage_part(group, part, (reservation_id.clone(), extent))
                        .await?
                }
            };
            self.settle_part(group, &mut part, id, extent).await?;
            count += part.count();
            invited.added.extend(part.users());
            invited.by_last_resort.extend(part.by_last_resort());
            invited.not_added.extend(part.not_added);
        }
        if let Some(id) = reservation_id.filter(|_| count < handed_out) {
            self.give_back(&id).await;
        }
        match fits {
            true => Ok(invited),
            false => Err(Error::TooManyUsers),
        }
    }

    /// Stages the Commit that adds a part of what was reserved, when one before it is merged.
    async fn stage_part(
        &self,
        group: &GroupKey,
        mut part: Checked,
        terms: (Option<String>, Extent),
    ) -> Result<(Checked, Option<i64>), Error> {
        let key = group.clone();
        let staging = self.0.core.write(move |tx, context| {
            let staged = core::stage_invite(tx, context, &key, &mut part, terms)?;
            Ok((part, staged))
        });
        staging.await
    }

    /// Has the server judge the Commit that adds these, and leaves out whom it does not let in.
    async fn settle_part(
        &self,
        group: &GroupKey,
        part: &mut Checked,
        staged: Option<i64>,
        extent: Extent,
    ) -> Result<(), Error> {
        if let Some(id) = staged {
            match finish(self.settle(id).await?) {
                Err(Error::Refused(problem))
                    if extent == Extent::WhoeverCan && names_key_packages(&problem) => {}
                finished => finished?,
            }
        }
        let (key, asked) = (group.clone(), part.users());
        let overtaken = self
            .0
            .core
            .write(move |tx, context| core::not_members(tx, context, &key, &asked))
            .await?;
        part.leave_out(overtaken.into_iter().map(|user| (user, NotAdded::Overtaken)));
        Ok(())
    }

    /// Gives up what is left of a reservation: it lapses, and nobody gets it again.
    async fn give_back(&self, reservation_id: &str) {
        if let Err(error) = self.0.transport.abandon(reservation_id).await {
            // It lapses by itself.
            tracing::debug!(code = error.code(), "a reservation could not be abandoned");
        }
    }

    /// Reserves a KeyPackage of each device.
    pub(super) async fn reserve(
        &self,
        group: &GroupKey,
        users: &[UserName],
        extent: Extent,
    ) -> Result<Reserved, Error> {
        match self.reserve_once(group, users, extent).await {
            // What an earlier attempt was given, whose answer was lost, is of no use any more.
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::ReservationLapsed => {
                self.reserve_once(group, users, extent).await
            }
            reserved => reserved,
        }
    }

    async fn reserve_once(
        &self,
        group: &GroupKey,
        users: &[UserName],
        extent: Extent,
    ) -> Result<Reserved, Error> {
        let core = &self.0.core;
        let (key, asked) = (group.clone(), users.to_vec());
        let (idempotency_key, suite) = core
            .write(move |tx, context| core::reserve_key(tx, context, &key, &asked, extent))
            .await?;
        let request = ReserveRequest {
            users: users.to_vec(),
            group_id: group.clone(),
            suites: vec![suite],
            all_or_nothing: extent == Extent::AllOrNobody,
        };
        let answer = self.0.transport.reserve(&idempotency_key, &request).await;
        if let Err(Error::Refused(_)) = &answer {
            let (key, asked) = (group.clone(), users.to_vec());
            core.write(move |tx, _| core::reserve_finished(tx, &key, &asked, extent))
                .await?;
        }
        match answer {
            Ok(reserved) if reserved.users.len() > users.len() => Err(NotTheServer::TooMuch.into()),
            answer => answer,
        }
    }
}

/// Whether the server refuses KeyPackages, not the Commit: somebody has withdrawn them, say.
fn names_key_packages(problem: &Problem) -> bool {
    let of_key_packages = [ProblemType::AlreadySpent, ProblemType::ReservationLapsed];
    of_key_packages.contains(&problem.problem_type) && !problem.refs.is_empty()
}

/// Nobody was added: what concerns security comes first.
fn nobody(outcomes: Vec<(UserName, NotAdded)>) -> Error {
    for (user, reason) in &outcomes {
        match reason {
            NotAdded::KeyChanged { device } => {
                return Error::KeyChanged {
                    user: user.clone(),
                    device: device.clone(),
                };
            }
            NotAdded::InvalidKeyPackage(flaw) => {
                return Error::InvalidKeyPackage {
                    user: user.clone(),
                    flaw: *flaw,
                };
            }
            NotAdded::Unauthorized { device } => {
                return Error::UnauthorizedDevice {
                    user: user.clone(),
                    device: device.clone(),
                };
            }
            NotAdded::OtherIdentity => {
                return Error::OtherIdentity { user: user.clone() };
            }
            NotAdded::VerificationChanged => {
                return Error::VerificationChanged { user: user.clone() };
            }
            NotAdded::AlreadyMember
            | NotAdded::NotFound
            | NotAdded::Exhausted
            | NotAdded::TooManyDevices
            | NotAdded::Withheld
            | NotAdded::Overtaken
            | NotAdded::Incompatible { .. }
            | NotAdded::RateLimited { .. } => {}
        }
    }
    Error::NoKeyPackages { outcomes }
}
