use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_wire::ProblemType;

use crate::connection::MlsConnection;
use crate::connection::sync::{Progress, is_final};
use crate::core;
use crate::error::{Error, NotTheServer};

/// How long the server's word about groups that nothing explains holds before it is asked again.
const LISTS_APART: Duration = Duration::from_secs(60);

impl MlsConnection {
    /// Finds the groups that the server lists and this device does not know: those of the user's other devices, at the start and
    /// when the server says that there is something new; and its own, when rows of a group come that it does not know. Now and
    /// then the list is fetched again while it had groups that nothing explains: what it does not have any more is forgotten.
    pub(super) async fn follow_groups(&self, progress: &mut Progress) -> Result<(), Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        let (due, own_due) = (&self.0.groups_due, &self.0.own_groups_due);
        let of_user = due.load(Ordering::Relaxed) && core.write(core::has_other_devices).await?
            || self.is_to_list_again().await?;
        if !of_user && !own_due.load(Ordering::Relaxed) {
            return Ok(());
        }
        let listed = match of_user {
            true => transport.memberships_of_user().await?.groups,
            false => transport.memberships().await?.groups,
        };
        let asked = listed.clone();
        let unknown = core.write(move |tx, _| core::unknown_groups(tx, asked)).await?;
        // The Welcomes of those that this device was added to have come before it was listed.
        if !unknown.is_empty() && self.drain(progress).await? {
            return Ok(());
        }
        let is_any_left = core
            .write(move |tx, _| {
                if of_user {
                    core::keep_vouchers(tx, &listed)?;
                    core::keep_listed(tx, &listed)?;
                }
                let unknown = core::unknown_groups(tx, unknown)?;
                core::take_note_of_listed(tx, &unknown)
            })
            .await?;
        self.0.more_listed.store(is_any_left, Ordering::Relaxed);
        if of_user {
            due.store(false, Ordering::Relaxed);
            *self.0.listed_at.lock().await = Some(Instant::now());
        }
        own_due.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it is time to ask again for the list of groups, because there are some that nothing explains, or were too many.
    async fn is_to_list_again(&self) -> Result<bool, Error> {
        let listed_at = *self.0.listed_at.lock().await;
        if listed_at.is_some_and(|listed_at| listed_at.elapsed() < LISTS_APART) {
            return Ok(false);
        }
        let more = self.0.more_listed.load(Ordering::Relaxed);
        Ok(more || self.0.core.write(|tx, _| core::any_unexplained(tx)).await?)
    }

    /// Asks the person about the groups that the server lists and nothing explains, once it has told who is in them.
    pub(super) async fn ask_about_listed(&self) -> Result<(), Error> {
        let core = &self.0.core;
        for group in core.write(|tx, _| core::groups_to_ask(tx)).await? {
            let info = match self.0.transport.group_info(&group).await {
                Ok(info) => Some(info),
                Err(Error::Refused(problem))
                    if matches!(
                        problem.problem_type,
                        ProblemType::NotFound | ProblemType::Forbidden
                    ) =>
                {
                    core.write(move |tx, _| core::drop_listed(tx, &group)).await?;
                    continue;
                }
                // It names nobody, then.
                Err(Error::Refused(problem)) if is_final(problem.problem_type) => None,
                Err(Error::NotTheServer(NotTheServer::TooMuch)) => None,
                Err(other) => return Err(other),
            };
            core.write(move |tx, context| core::ask_about_listed(tx, context, &group, info.as_ref()))
                .await?;
        }
        Ok(())
    }
}
