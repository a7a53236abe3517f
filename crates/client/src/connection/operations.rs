use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_wire::{ProblemType, UserName};

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core::{self, Outcome};
use crate::error::Error;
use crate::types::{GroupKey, GroupSummary, SendStatus, SentMessage};

/// A message of which its request came to this. What leaves it waiting is no error, but why it does.
fn come_to<E>(mut sent: SentMessage, outcome: Result<Option<Outcome>, E>) -> Result<SentMessage, E>
where
    E: Borrow<Error> + Into<Arc<Error>> + From<Error>,
{
    match outcome {
        Ok(Some(outcome)) => {
            finish(Some(outcome))?;
            sent.status = SendStatus::Sent;
        }
        Ok(None) => {}
        Err(error) if error.borrow().leaves_waiting() => {
            tracing::info!(code = error.borrow().code(), "a message stays in the outbox");
            sent.because = Some(error.into());
        }
        Err(other) => return Err(other),
    }
    Ok(sent)
}

impl MlsConnection {
    /// Creates a group with this device as its only member, and the other devices of its user, of the first of the deployment's ciphersuites that this program
    /// supports. The name stays on this device until someone is invited; then it travels inside an encrypted message.
    ///
    /// # Errors
    /// [`Error::InvalidGroupName`]; [`Error::UnsupportedSuites`], when the deployment has moved on without this program;
    /// [`Error::Refused`], and there is no group then; [`Error::Unreachable`], and the group is
    /// [`Creating`](crate::GroupState::Creating) until a [`sync`](Self::sync) succeeds.
    pub async fn create_group(&self, name: &str) -> Result<GroupSummary, Error> {
        core::check_name(name)?;
        let _operation = self.0.operation.lock().await;
        let name = name.to_owned();
        let core = &self.0.core;
        let (group, id) = core
            .write(move |tx, context| core::create(tx, context, &name))
            .await?;
        finish(self.settle(id).await?)?;
        if core.write(core::has_other_devices).await? {
            self.0.own_devices_due.store(true, Ordering::Relaxed);
            let added = self.pump(&mut Progress::default()).await;
            unless_later(added, "the user's other devices are added to a new group later")?;
        }
        core.write(move |tx, _| core::summary(tx, &group)).await
    }

    /// Encrypts and sends a text.
    ///
    /// It is stored and in the outbox before anything is sent, and goes out in order. When the server cannot
    /// be reached, or something else keeps it waiting, its status is [`SendStatus::Pending`],
    /// [`SentMessage::because`] says why, and the next [`sync`](Self::sync) that can sends it.
    ///
    /// # Errors
    /// [`Error::InvalidText`], [`Error::UnknownGroup`], [`Error::GroupNotActive`], [`Error::NotAccepted`];
    /// [`Error::VerificationChanged`], when a verified member has other keys; [`Error::Refused`], and the message has
    /// [failed](SendStatus::Failed).
    pub async fn send(&self, group: &GroupKey, text: &str) -> Result<SentMessage, Error> {
        let _operation = self.0.operation.lock().await;
        let (sent, id) = self.queue_one(group, text).await?;
        self.settle_message(sent, id).await
    }

    /// Encrypts and sends texts like [`send`](Self::send), in their order and as many together as the server takes: all of them are
    /// stored and in the outbox, in one transaction, before anything is sent. Returns what each came to.
    ///
    /// # Errors
    /// Those of [`send`](Self::send) for which nothing is stored; then nothing of any of them is.
    pub async fn send_all(
        &self,
        group: &GroupKey,
        texts: Vec<String>,
    ) -> Result<Vec<Result<SentMessage, Arc<Error>>>, Error> {
        let _operation = self.0.operation.lock().await;
        let queued = self.queue(group, texts).await?;
        let ids: Vec<i64> = queued.iter().map(|(_, id)| *id).collect();
        let settled = queued.into_iter().zip(self.settle_each(&ids).await);
        Ok(settled
            .map(|((sent, _), outcome)| come_to(sent, outcome))
            .collect())
    }

    async fn queue(&self, group: &GroupKey, texts: Vec<String>) -> Result<Vec<(SentMessage, i64)>, Error> {
        let group = group.clone();
        let queueing = self
            .0
            .core
            .write(move |tx, context| core::send(tx, context, &group, &texts));
        queueing.await
    }

    async fn queue_one(&self, group: &GroupKey, text: &str) -> Result<(SentMessage, i64), Error> {
        let queued = self.queue(group, vec![text.to_owned()]).await?;
        queued.into_iter().next().ok_or(Error::InvalidText)
    }

    /// Sends a message that is in the outbox.
    pub(super) async fn settle_message(&self, sent: SentMessage, id: i64) -> Result<SentMessage, Error> {
        come_to(sent, self.settle(id).await)
    }

    /// Puts a text into the history and the outbox, as [`send`](Self::send) does, and leaves the sending to the next
    /// [`sync`](Self::sync). It waits neither for the server nor for another operation that does, so an interface can show
    /// at once what was written. What was posted first is sent first.
    ///
    /// # Errors
    /// [`Error::InvalidText`], [`Error::UnknownGroup`], [`Error::GroupNotActive`], [`Error::NotAccepted`],
    /// [`Error::VerificationChanged`].
    pub async fn post(&self, group: &GroupKey, text: &str) -> Result<SentMessage, Error> {
        let (posted, _) = self.queue_one(group, text).await?;
        Ok(posted)
    }

    /// The same for texts, in their order and in one transaction.
    ///
    /// # Errors
    /// Those of [`post`](Self::post); nothing of any of them is stored then.
    pub async fn post_all(&self, group: &GroupKey, texts: Vec<String>) -> Result<Vec<SentMessage>, Error> {
        let posted = self.queue(group, texts).await?;
        Ok(posted.into_iter().map(|(posted, _)| posted).collect())
    }

    /// Sends the messages of a group again that have [failed](SendStatus::Failed), or that the server has [lost](SendStatus::Lost),
    /// in their order. They keep their ids, so that nobody gets one twice. Returns how many there were; when the server cannot be
    /// reached they are [pending](SendStatus::Pending), and the next [`sync`](Self::sync) sends them. A file that was lost with
    /// its message stays lost, and the history says so.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupNotActive`], when nothing can be sent there any more; [`Error::NotAccepted`],
    /// [`Error::VerificationChanged`]; [`Error::Refused`], and they have failed again.
    pub async fn retry(&self, group: &GroupKey) -> Result<u64, Error> {
        let _operation = self.0.operation.lock().await;
        self.look_for_lost_files(group).await?;
        let group = group.clone();
        let retried = self
            .0
            .core
            .write(move |tx, context| core::retry(tx, context, &group))
            .await?;
        let mut progress = Progress::default();
        unless_temporary(
            self.pump_and_upload(&mut progress).await,
            "messages stay in the outbox",
        )?;
        for id in &retried.queued {
            if let Some(outcome) = progress.take(*id) {
                finish(Some(outcome))?;
            }
        }
        let mut files = progress.files_not_sent.into_iter();
        if let Some((_, error)) = files.find(|(row, _)| retried.uploads.contains(row)) {
            return Err(error);
        }
        Ok(retried.messages)
    }

    /// Takes note of the files that the server has lost with their messages.
    async fn look_for_lost_files(&self, group: &GroupKey) -> Result<(), Error> {
        let core = &self.0.core;
        let group = group.clone();
        let files = core.write(move |tx, _| core::lost_files(tx, &group)).await?;
        for core::LostFile { row, blob, bytes } in files {
            match self.0.transport.fetch_blob(&blob, bytes).await {
                Ok(_) => {}
                Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                    core.write(move |tx, context| core::file_is_gone(tx, context, row))
                        .await?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Gives a group another name. Any member may; the history of each says who did. The name travels inside an encrypted
    /// message, and when the server cannot be reached the next [`sync`](Self::sync) sends it.
    ///
    /// # Errors
    /// [`Error::InvalidGroupName`], [`Error::UnknownGroup`], [`Error::GroupNotActive`], [`Error::NotAccepted`],
    /// [`Error::VerificationChanged`]; [`Error::Refused`], and the others do not learn of it.
    pub async fn rename_group(&self, group: &GroupKey, name: &str) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        let (group, name) = (group.clone(), name.to_owned());
        let queued = self
            .0
            .core
            .write(move |tx, context| core::rename(tx, context, &group, &name))
            .await?;
        let Some(id) = queued else {
            return Ok(());
        };
        match unless_temporary(self.settle(id).await, "a name stays in the outbox")?.flatten() {
            Some(outcome) => finish(Some(outcome)),
            None => Ok(()),
        }
    }

    /// Silences a group, or no longer. Nothing but [`GroupSummary::muted`] depends on it: what it means is for the interface
    /// to say.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn set_muted(&self, group: &GroupKey, muted: bool) -> Result<(), Error> {
        let group = group.clone();
        self.0
            .core
            .write(move |tx, _| core::set_muted(tx, &group, muted))
            .await
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
}

/// Nothing, where the server cannot be reached or asks to wait: what was to be done is kept, and the next
/// sync does it.
fn unless_temporary<T>(done: Result<T, Error>, otherwise: &str) -> Result<Option<T>, Error> {
    match done {
        Err(error) if !error.is_temporary() => Err(error),
        done => unless_later(done, otherwise),
    }
}

/// The same for whatever keeps it waiting.
pub(super) fn unless_later<T>(done: Result<T, Error>, otherwise: &str) -> Result<Option<T>, Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.leaves_waiting() => {
            tracing::info!(code = error.code(), "{otherwise}");
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// What a request of the outbox came to. One that has not ended waits for a better time.
pub(super) fn finish(outcome: Option<Outcome>) -> Result<(), Error> {
    match outcome {
        Some(Outcome::Done | Outcome::Moot) => Ok(()),
        Some(Outcome::Refused(problem)) => Err(Error::Refused(problem)),
        Some(Outcome::Raced) | None => Err(Error::TooManyRaces),
        Some(Outcome::NotActive(state)) => Err(Error::GroupNotActive(state)),
        Some(Outcome::Closed(closed)) => Err(closed.into()),
    }
}
