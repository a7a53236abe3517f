use std::collections::BTreeSet;

use larder_wire::{ProblemType, RESERVE_USERS_MAX, ReserveRequest, Reserved, UserName};

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core::{self, Outcome};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, GroupSummary, Invited, NotAdded, SendStatus, SentMessage};

impl MlsConnection {
    /// Creates a group with this device as its only member, of the first of the deployment's ciphersuites that this program
    /// supports. The name stays on this device until someone is invited; then it travels inside an encrypted message.
    ///
    /// # Errors
    /// [`Error::InvalidGroupName`]; [`Error::UnsupportedSuites`], when the deployment has moved on without this program;
    /// [`Error::Refused`], and there is no group then; [`Error::Unreachable`], and the group is
    /// [`Creating`](GroupState::Creating) until a [`sync`](Self::sync) succeeds.
    pub async fn create_group(&self, name: &str) -> Result<GroupSummary, Error> {
        core::check_name(name)?;
        let _operation = self.0.operation.lock().await;
        let name = name.to_owned();
        let core = &self.0.core;
        let (group, id) = core
            .write(move |tx, context| core::create(tx, context, &name))
            .await?;
        finish(self.settle(id).await?)?;
        core.write(move |tx, _| core::summary(tx, &group)).await
    }

    /// Adds users to a group: all of their devices, by one Commit.
    ///
    /// Reserves a KeyPackage of each device, checks everything that the directory handed out (what fails is reported and
    /// never added), stages Commit and Welcome, and merges the Commit when the server has accepted it. When another
    /// Commit was faster, it catches up and tries again with the same KeyPackages.
    ///
    /// # Errors
    /// When nobody could be added: [`Error::KeyChanged`], [`Error::UnauthorizedDevice`], [`Error::InvalidKeyPackage`] or else
    /// [`Error::NoKeyPackages`] with each user's reason. (Users who are members already are no error.)
    /// [`Error::Unreachable`]: if the Commit was staged by then, the next [`sync`](Self::sync) sends the same bytes and
    /// finishes the invitation. [`Error::Refused`] and [`Error::TooManyRaces`]: nobody was added.
    /// [`Error::UnknownGroup`], [`Error::GroupNotActive`].
    pub async fn invite(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
        let _operation = self.0.operation.lock().await;
        let core = &self.0.core;
        let key = group.clone();
        core.write(move |tx, _| core::require_active(tx, &key)).await?;
        self.pump(&mut Progress::default()).await?;

        // Each once, in a fixed order, so that a repeated request is the same request.
        let users: Vec<UserName> = users
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let (key, asked) = (group.clone(), users.clone());
        let members = core
            .write(move |tx, _| core::already_members(tx, &key, &asked))
            .await?;
        let mut invited = Invited {
            not_added: members
                .iter()
                .map(|user| (user.clone(), NotAdded::AlreadyMember))
                .collect(),
            ..Invited::default()
        };
        let users: Vec<UserName> = users.into_iter().filter(|user| !members.contains(user)).collect();
        let mut failed = Vec::new();
        for users in users.chunks(RESERVE_USERS_MAX) {
            let some = match self.invite_some(group, users).await {
                Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                    self.invite_known(group, users).await?
                }
                outcome => outcome?,
            };
            invited.added.extend(some.added);
            invited.by_last_resort.extend(some.by_last_resort);
            failed.extend(some.not_added);
        }
        if invited.added.is_empty() && !failed.is_empty() {
            return Err(nobody(failed));
        }
        invited.not_added.extend(failed);
        Ok(invited)
    }

    /// The directory refuses a request with an unknown user whole, and does not say which one: those are sorted out.
    async fn invite_known(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
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
        let mut invited = if known.is_empty() {
            Invited::default()
        } else {
            self.invite_some(group, &known).await?
        };
        invited.not_added.extend(unknown);
        Ok(invited)
    }

    async fn invite_some(&self, group: &GroupKey, users: &[UserName]) -> Result<Invited, Error> {
        let core = &self.0.core;
        let reserved = self.reserve(group, users).await?;
        let answered = reserved.clone();
        let unknown = core
            .write(move |tx, _| {
                let devices = answered.users.iter().flat_map(|answer| {
                    let ids = answer.devices.iter().map(|device| &device.device_id);
                    ids.map(|id| (&answer.user, id))
                });
                core::users_to_look_up(tx, devices)
            })
            .await?;
        for user in unknown.iter().filter(|user| users.contains(user)) {
            self.learn_devices(user).await?;
        }
        let reservation_id = reserved.reservation_id.clone();
        // One transaction, so that until the Commit is in the outbox the reservation can be asked for again.
        let (key, asked) = (group.clone(), users.to_vec());
        let (checked, staged) = core
            .write(move |tx, context| {
                core::reserve_finished(tx, &key, &asked)?;
                let checked = core::check_reservation(tx, context, &key, &asked, &reserved)?;
                let staged = if checked.users().is_empty() {
                    None
                } else {
                    let id = reserved.reservation_id;
                    Some(core::stage_invite(tx, context, &key, &checked, id)?)
                };
                Ok((checked, staged))
            })
            .await?;
        match (staged, reservation_id) {
            (Some(id), _) => finish(self.settle(id).await?)?,
            (None, Some(id)) => {
                if let Err(error) = self.0.transport.abandon(&id).await {
                    // It lapses by itself.
                    tracing::debug!(code = error.code(), "a reservation could not be abandoned");
                }
            }
            (None, None) => {}
        }
        Ok(Invited {
            added: checked.users(),
            by_last_resort: checked.by_last_resort(),
            not_added: checked.not_added,
        })
    }

    /// Reserves a KeyPackage of each device.
    async fn reserve(&self, group: &GroupKey, users: &[UserName]) -> Result<Reserved, Error> {
        let core = &self.0.core;
        let (key, asked) = (group.clone(), users.to_vec());
        let (idempotency_key, suite) = core
            .write(move |tx, context| core::reserve_key(tx, context, &key, &asked))
            .await?;
        let request = ReserveRequest {
            users: users.to_vec(),
            group_id: group.clone(),
            suites: vec![suite],
            all_or_nothing: false,
        };
        let answer = self.0.transport.reserve(&idempotency_key, &request).await;
        if let Err(Error::Refused(_)) = &answer {
            let (key, asked) = (group.clone(), users.to_vec());
            core.write(move |tx, _| core::reserve_finished(tx, &key, &asked))
                .await?;
        }
        answer
    }

    /// Encrypts and sends a text.
    ///
    /// It is stored and in the outbox before anything is sent, and goes out in order. When the server cannot be reached
    /// its status is [`SendStatus::Pending`] and the next [`sync`](Self::sync) sends it.
    ///
    /// # Errors
    /// [`Error::InvalidText`], [`Error::UnknownGroup`], [`Error::GroupNotActive`]; [`Error::Refused`], and the message has
    /// [failed](SendStatus::Failed).
    pub async fn send(&self, group: &GroupKey, text: &str) -> Result<SentMessage, Error> {
        let _operation = self.0.operation.lock().await;
        let (group, text) = (group.clone(), text.to_owned());
        let (mut sent, id) = self
            .0
            .core
            .write(move |tx, context| core::send(tx, context, &group, &text))
            .await?;
        match self.settle(id).await {
            Ok(Some(outcome)) => {
                finish(Some(outcome))?;
                sent.status = SendStatus::Sent;
                Ok(sent)
            }
            Ok(None) => Ok(sent),
            // The message is in the outbox; what kept it there is not its fault.
            Err(error @ (Error::Unreachable(_) | Error::Refused(_))) => {
                tracing::info!(code = error.code(), "a message stays in the outbox");
                Ok(sent)
            }
            Err(other) => Err(other),
        }
    }

    /// Removes a user, with all of its devices, from a group.
    ///
    /// # Errors
    /// [`Error::NotAMember`] (also for this user itself: see [`leave`](Self::leave)); [`Error::Unreachable`], and the
    /// next [`sync`](Self::sync) finishes the removal; [`Error::Refused`], [`Error::TooManyRaces`];
    /// [`Error::UnknownGroup`], [`Error::GroupNotActive`].
    pub async fn remove(&self, group: &GroupKey, user: &UserName) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        let core = &self.0.core;
        let key = group.clone();
        core.write(move |tx, _| core::require_active(tx, &key)).await?;
        self.pump(&mut Progress::default()).await?;
        let (group, user) = (group.clone(), user.clone());
        let id = core
            .write(move |tx, context| core::stage_remove(tx, context, &group, &user))
            .await?;
        finish(self.settle(id).await?)
    }

    /// Leaves a group. Another member has to commit it (RFC 9420 §12.1.2): until one has been online, the group is
    /// [`Leaving`](GroupState::Leaving). The only member leaves at once. Leaving twice is no error.
    ///
    /// # Errors
    /// [`Error::Unreachable`], and the next [`sync`](Self::sync) goes on; [`Error::UnknownGroup`],
    /// [`Error::GroupNotActive`].
    pub async fn leave(&self, group: &GroupKey) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        let core = &self.0.core;
        let key = group.clone();
        let state = core.write(move |tx, _| core::group_state(tx, &key)).await?;
        if state == GroupState::Active {
            self.pump(&mut Progress::default()).await?;
        }
        let group = group.clone();
        let proposed = core
            .write(move |tx, context| core::stage_leave(tx, context, &group))
            .await?;
        let Some(id) = proposed else {
            return Ok(());
        };
        match self.settle(id).await? {
            // The epoch was over; a round of catching up proposes again for the new one.
            Some(Outcome::Raced) => self.pump(&mut Progress::default()).await,
            outcome => finish(outcome),
        }
    }
}

/// What a request of the outbox came to. One that has not ended waits for a better time.
fn finish(outcome: Option<Outcome>) -> Result<(), Error> {
    match outcome {
        Some(Outcome::Done | Outcome::Moot) => Ok(()),
        Some(Outcome::Refused(problem)) => Err(Error::Refused(problem)),
        Some(Outcome::Raced) | None => Err(Error::TooManyRaces),
        Some(Outcome::NotActive(state)) => Err(Error::GroupNotActive(state)),
    }
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
            NotAdded::AlreadyMember
            | NotAdded::NotFound
            | NotAdded::Exhausted
            | NotAdded::Incompatible { .. }
            | NotAdded::RateLimited { .. } => {}
        }
    }
    Error::NoKeyPackages { outcomes }
}
