use std::sync::Arc;

use larder_wire::ProblemType;

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core;
use crate::error::Error;

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
            let answer = match self.0.transport.group_info(&group).await {
                Ok(answer) => answer,
                Err(Error::Refused(problem))
                    if matches!(
                        problem.problem_type,
                        ProblemType::NotFound | ProblemType::Forbidden
                    ) =>
                {
                    // Not a member any more.
                    core.write(move |tx, _| core::give_up_rejoining(tx, &group))
                        .await?;
                    continue;
                }
                Err(other) => return Err(other),
            };
            let devices = match &own_devices {
                Some(devices) => Arc::clone(devices),
                None => Arc::clone(own_devices.insert(self.own_device_list().await?)),
            };
            let staged = core
                .write(move |tx, context| core::stage_rejoin(tx, context, &group, &answer, &devices))
                .await;
            match staged {
                Ok(true) => any = true,
                Ok(false) => {
                    tracing::debug!("a group is joined once a device that is in it has added this one")
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
}
