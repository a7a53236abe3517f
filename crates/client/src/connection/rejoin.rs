use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_wire::{Handshake, ProblemType};

use crate::connection::MlsConnection;
use crate::connection::doubts::{HANDSHAKES_BYTES_MAX, HANDSHAKES_MAX, size, unless_refused};
use crate::connection::sync::Progress;
use crate::core::{self, Rejoined};
use crate::error::Error;
use crate::types::GroupKey;

/// How long the server's word that this device is not in a group holds before it is asked again.
const DENIALS_APART: Duration = Duration::from_secs(60);

/// Attempts to rejoin one group in one sync. Each may lose a race.
const REJOINS_MAX: u32 = 4;

impl MlsConnection {
    /// Queues an external Commit for every group that this device lost track of. Whether there was any.
    pub(super) async fn rejoin(&self, progress: &mut Progress) -> Result<bool, Error> {
        let core = &self.0.core;
        let mut any = false;
        let mut own_devices = None;
        for group in core.write(|tx, _| core::groups_to_rejoin(tx)).await? {
            let attempts = progress.rejoins.entry(group.clone()).or_default();
            if *attempts == REJOINS_MAX {
                continue;
            }
            *attempts += 1;
            let info = match self.0.transport.group_info(&group).await {
                Ok(info) => info,
                Err(Error::Refused(problem))
                    if matches!(
                        problem.problem_type,
                        ProblemType::NotFound | ProblemType::Forbidden
                    ) =>
                {
                    core.write(move |tx, context| core::not_let_in(tx, context, &group))
                        .await?;
                    continue;
                }
                Err(other) => return Err(other),
            };
            let devices = match &own_devices {
                Some(devices) => Arc::clone(devices),
                None => Arc::clone(own_devices.insert(self.own_device_list().await?)),
            };
            let handshakes = self.handshakes_since_last_known(&group).await?;
            let vouched_tree = self.vouched_tree(&group, info.epoch).await?;
            let offer = core::Offer {
                info,
                handshakes,
                devices,
                vouched_tree,
            };
            let staged = core
                .write(move |tx, context| core::stage_rejoin(tx, context, &group, &offer))
                .await;
            match staged {
                Ok(Rejoined::Staged) => any = true,
                Ok(Rejoined::NotLetIn) => {
                    tracing::debug!("a group is joined once a device that is in it has added this one")
                }
                Ok(Rejoined::Unexplained) => {}
                Ok(Rejoined::Unlinked) => {
                    tracing::warn!("the server offers a group that nothing links to the one that was known")
                }
                // One group that cannot be rejoined does not keep the others from going on.
                Err(
                    error @ (Error::Mls { .. }
                    | Error::Corrupt(_)
                    | Error::KeyChanged { .. }
                    | Error::GroupNotActive(_)
                    | Error::NotAccepted { .. }),
                ) => {
                    tracing::warn!(code = error.code(), "a group could not be rejoined");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(any)
    }

    /// Asks the server again about the groups that it says this device is not in; now and then.
    pub(super) async fn ask_about_denials(&self) -> Result<(), Error> {
        if !self.0.core.write(|tx, _| core::any_denied(tx)).await? {
            return Ok(());
        }
        {
            let mut asked = self.0.denials_asked.lock().await;
            if asked.is_some_and(|asked| asked.elapsed() < DENIALS_APART) {
                return Ok(());
            }
            *asked = Some(Instant::now());
        }
        let memberships = self.0.transport.memberships().await?.groups;
        self.0
            .core
            .write(move |tx, _| core::lift_denials(tx, &memberships))
            .await
    }

    /// The ratchet tree of the epoch that a group was vouched for at, unless that is this epoch.
    async fn vouched_tree(&self, group: &GroupKey, present: u64) -> Result<Option<Vec<u8>>, Error> {
        let asked = group.clone();
        let vouched = self
            .0
            .core
            .write(move |tx, _| core::vouched_epoch(tx, &asked))
            .await?;
        match vouched {
            Some(epoch) if epoch != present => {
                unless_refused(self.0.transport.ratchet_tree(group, epoch).await)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The Commits and proposals that led a group on from where this device last knew it.
    async fn handshakes_since_last_known(&self, group: &GroupKey) -> Result<Vec<Vec<u8>>, Error> {
        let asked = group.clone();
        let core = &self.0.core;
        let known = core
            .write(move |tx, _| core::last_known_epoch(tx, &asked))
            .await?;
        match known {
            Some(from) => self.handshakes_since(group, from).await,
            None => Ok(Vec::new()),
        }
    }

    /// The Commits and proposals that led a group on from this epoch; none where the server does not have all of them.
    pub(super) async fn handshakes_since(
        &self,
        group: &GroupKey,
        mut from: u64,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let (mut found, mut bytes, mut rows): (Vec<Handshake>, usize, usize) = (Vec::new(), 0, 0);
        loop {
            let Some(answer) = unless_refused(self.0.transport.handshakes(group, from).await)? else {
                return Ok(Vec::new());
            };
            let page = answer.handshakes;
            let last = page.last().map_or(from, |last| last.epoch);
            // A page begins with the epoch that the one before may have ended in.
            found.retain(|handshake| handshake.epoch < from);
            bytes += page.iter().map(size).sum::<usize>();
            rows += page.len();
            found.extend(page);
            if bytes > HANDSHAKES_BYTES_MAX || rows > HANDSHAKES_MAX {
                tracing::warn!("a group has more Commits than are looked at");
                return Ok(Vec::new());
            }
            if last <= from {
                break;
            }
            from = last;
        }
        let all: Option<Vec<Vec<u8>>> = found
            .into_iter()
            .map(|handshake| handshake.message.map(|message| message.0))
            .collect();
        Ok(all.unwrap_or_default())
    }
}
