use larder_wire::Handshake;

use crate::connection::MlsConnection;
use crate::connection::sync::is_final;
use crate::core::{self, Caught, DoubtedPlace};
use crate::error::Error;
use crate::types::GroupKey;

/// The most that is fetched of a group's Commits and proposals at once, in bytes.
pub(super) const HANDSHAKES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// And in number.
pub(super) const HANDSHAKES_MAX: usize = 16 * 1024;

impl MlsConnection {
    /// Settles what a row of a group, or an answer, raised that does not fit the group as it is here: asks the server where the
    /// group was at the epoch that it has here. If that is where it is, the Commits since then, up to row `up_to`, are taken over
    /// as if they had come by the inbox. If it is not, the server's store has gone back, or it lies: this device gives its state up
    /// for the server's group where a member has signed that and it is as far; otherwise the group stays as it is, and the person
    /// is told.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::NotTheServer`], and [`Error::Refused`] with what is not for good: it is to be done again.
    pub(super) async fn settle_doubt(&self, group: &GroupKey, up_to: Option<u64>) -> Result<(), Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        let asked = group.clone();
        let Some(mut place) = core.write(move |tx, _| core::doubted_place(tx, &asked)).await? else {
            return Ok(());
        };
        if !self.is_of_the_servers_branch(group, &place).await?
            && !self.is_led_to_the_servers_branch(group, &place).await?
        {
            return Ok(());
        }
        let (mut bytes, mut rows) = (0, 0);
        loop {
            let Some(answer) = unless_refused(transport.handshakes(group, place.epoch).await)? else {
                return Ok(());
            };
            let page = answer.handshakes;
            bytes += page.iter().map(size).sum::<usize>();
            rows += page.len();
            if bytes > HANDSHAKES_BYTES_MAX || rows > HANDSHAKES_MAX {
                tracing::warn!("a group has more Commits than are fetched at once");
                return Ok(());
            }
            let asked = group.clone();
            let caught_up = core
                .write(move |tx, context| core::catch_up(tx, context, &asked, page, up_to))
                .await?;
            match caught_up {
                Caught::Up(further) => place = further,
                Caught::OnTags(page) => return self.settle_tags(group, page).await,
                Caught::Over => return Ok(()),
            }
        }
    }

    /// Settles what the server has said of the epochs of groups in refusing requests. Whether there was any.
    pub(super) async fn settle_epochs(&self) -> Result<bool, Error> {
        let core = &self.0.core;
        let behind = core.write(|tx, _| core::groups_behind(tx)).await?;
        let any = !behind.is_empty();
        for group in behind {
            let asked = group.clone();
            let Some(before) = core.write(move |tx, _| core::doubted_place(tx, &asked)).await? else {
                continue;
            };
            self.settle_doubt(&group, None).await?;
            core.write(move |tx, context| core::forget_server_epochs(tx, context, &group, &before))
                .await?;
        }
        Ok(any)
    }

    /// Settles, of groups that a restored server has led on perhaps, whether it has them as they are here.
    pub(super) async fn settle_branches(&self) -> Result<(), Error> {
        let core = &self.0.core;
        for group in core.write(|tx, _| core::doubted_branches(tx)).await? {
            let asked = group.clone();
            let is_the_servers = match core.write(move |tx, _| core::doubted_place(tx, &asked)).await? {
                Some(place) => self.is_of_the_servers_branch(&group, &place).await?,
                None => true,
            };
            core.write(move |tx, context| core::settle_branch(tx, context, &group, is_the_servers))
                .await?;
        }
        Ok(())
    }

    /// Settles whose fault the tags of a Commit are, which its signature does not cover: a member's if a member describes the
    /// group that the Commit has led to.
    async fn settle_tags(&self, group: &GroupKey, page: Vec<Handshake>) -> Result<(), Error> {
        let Some(info) = unless_refused(self.0.transport.group_info(group).await)? else {
            return Ok(());
        };
        let group = group.clone();
        let core = &self.0.core;
        core.write(move |tx, context| core::lose_if_vouched_for(tx, context, &group, &page, &info))
            .await
    }

    /// Whether Commits lead from this place to the group that the server says is another than it. Where none do, this device goes
    /// over to it, or stays and tells the person.
    async fn is_led_to_the_servers_branch(
        &self,
        group: &GroupKey,
        place: &DoubtedPlace,
    ) -> Result<bool, Error> {
        let handshakes = self.handshakes_since(group, place.epoch).await?;
        let info = unless_refused(self.0.transport.group_info(group).await)?;
        let asked = group.clone();
        let core = &self.0.core;
        core.write(move |tx, context| {
            core::settle_other_branch(tx, context, &asked, (info.as_ref(), &handshakes))
        })
        .await
    }

    /// Whether the server knows the group as having been at this place.
    async fn is_of_the_servers_branch(&self, group: &GroupKey, place: &DoubtedPlace) -> Result<bool, Error> {
        let answer = unless_refused(self.0.transport.epoch(group, place.epoch).await)?;
        Ok(answer.is_some_and(|answer| answer.confirmed_transcript_hash.0 == place.transcript_hash))
    }
}

pub(super) fn size(handshake: &Handshake) -> usize {
    handshake.message.as_ref().map_or(0, |message| message.0.len())
}

/// What the server answers; `None` when it refuses for good.
pub(super) fn unless_refused<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Refused(problem)) if is_final(problem.problem_type) => Ok(None),
        Err(other) => Err(other),
    }
}
