use larder_wire::{Problem, ProblemType, UserName};

use crate::connection::MlsConnection;
use crate::connection::operations::unless_later;
use crate::connection::sync::Progress;
use crate::core;
use crate::error::Error;
use crate::types::{Blocked, GroupKey};

impl MlsConnection {
    /// Hides from another user, at once: invitations of theirs that were not answered are [declined](Self::decline), and those
    /// to come are not shown. To them this user is, from when the server knows, as one who does not exist, and they can add none of
    /// its devices to a group. Nothing tells whether there is such a user. Groups that both are in stay as they are.
    ///
    /// # Errors
    /// [`Error::Refused`]: with `malformed`, it is this user, and nothing is done; with `too-large`, the server hides from nobody
    /// more, and this device alone does.
    pub async fn block(&self, user: &UserName) -> Result<Blocked, Error> {
        self.require_other(user)?;
        let _operation = self.0.operation.lock().await;
        let mut declined = self.hide_from(user).await?;
        let told = unless_later(self.tell_of_blocks().await, "the server is told later of a block")?;
        // What they sent before that is on its way, too, and the server is to be told of what was declined.
        let caught_up = self.pump(&mut Progress::default()).await;
        let late = self.hide_from(user).await?;
        unless_later(caught_up, "the server is told later of what was declined")?;
        if !late.is_empty() {
            self.tell_of_leaving().await?;
        }
        declined.extend(late);
        let told = match told {
            Some(Some(problem)) => return Err(Error::Refused(problem)),
            Some(None) => true,
            None => false,
        };
        Ok(Blocked { declined, told })
    }

    /// Undoes [`block`](Self::block), if there was one. Returns whether the server knows; otherwise the next sync that reaches it
    /// tells it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `malformed`: it is this user.
    pub async fn unblock(&self, user: &UserName) -> Result<bool, Error> {
        self.require_other(user)?;
        let _operation = self.0.operation.lock().await;
        let other = user.clone();
        let core = &self.0.core;
        core.write(move |tx, _| core::note_block(tx, &other, false))
            .await?;
        match unless_later(
            self.tell_of_blocks().await,
            "the server is told later that a block has ended",
        )? {
            Some(Some(problem)) => Err(Error::Refused(problem)),
            Some(None) => Ok(true),
            None => Ok(false),
        }
    }

    fn require_other(&self, user: &UserName) -> Result<(), Error> {
        match self.me().user == *user {
            true => Err(Error::Refused(
                Problem::new(ProblemType::Malformed).with_detail("a user does not hide from itself"),
            )),
            false => Ok(()),
        }
    }

    /// Notes the block and declines what the user has invited this one to. Returns the groups.
    async fn hide_from(&self, user: &UserName) -> Result<Vec<GroupKey>, Error> {
        let user = user.clone();
        let hidden = self.0.core.write(move |tx, context| {
            core::note_block(tx, &user, true)?;
            let groups = core::requests_of(tx, &user)?;
            for group in &groups {
                core::decline(tx, context, group)?;
            }
            Ok(groups)
        });
        hidden.await
    }

    /// Tells the server of the blocks that it does not know of. Returns the last refusal for good, if there was any: that one is not
    /// told again.
    ///
    /// # Errors
    /// What keeps the others waiting.
    pub(super) async fn tell_of_blocks(&self) -> Result<Option<Problem>, Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        let mut refusal = None;
        for (user, is_blocked) in core.write(|tx, _| core::untold_blocks(tx)).await? {
            match transport.set_block(&user, is_blocked).await {
                Ok(()) => {}
                Err(Error::Refused(problem)) if is_for_good(&problem) => {
                    tracing::warn!(
                        code = problem.problem_type.code(),
                        "the server does not take a block"
                    );
                    refusal = Some(problem);
                }
                Err(other) => return Err(other),
            }
            core.write(move |tx, _| core::told_block(tx, &user, is_blocked))
                .await?;
        }
        Ok(refusal)
    }
}

fn is_for_good(problem: &Problem) -> bool {
    matches!(
        problem.problem_type,
        ProblemType::TooLarge | ProblemType::Malformed | ProblemType::NotFound
    )
}
