//! `register`, `block`, `unblock`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Error, MlsConnection, UserName};

use super::Context;
use crate::cli::DEFAULT_SERVER;
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn register(context: &Context<'_>, user: UserName, no_encryption: bool) -> Result<ExitCode> {
    let key = context.sources().of_new(no_encryption)?;
    let encrypted = key.is_some();
    let server = context.global.server.as_deref().unwrap_or(DEFAULT_SERVER);
    let client = match MlsConnection::register(context.options(key), server, user).await {
        Err(Error::Refused(problem)) if problem.problem_type == larder_client::ProblemType::NameTaken => {
            return Err(Failure::new(
                Exit::Refused,
                problem.problem_type.code(),
                "that name is taken; choose another",
            )
            .into());
        }
        registered => registered?,
    };
    // Without KeyPackages nobody can invite this device.
    let refreshed = client.refresh_key_packages().await?;
    let me = client.me();
    context.output.print(&[Record::Registered {
        user: me.user.to_string(),
        device_id: me.device_id.to_string(),
        server: me.server.clone(),
        profile: context.global.profile.to_string(),
        pool_available: refreshed.health.available,
        encrypted,
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn block(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    let declined = client.block(user).await?;
    context.output.print(&[Record::Blocked {
        user: user.to_string(),
        declined: declined.iter().map(ToString::to_string).collect(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unblock(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    client.unblock(user).await?;
    context.output.print(&[Record::Unblocked {
        user: user.to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

async fn open_as_other_than(context: &Context<'_>, user: &UserName) -> Result<MlsConnection> {
    let client = context.open().await?;
    match client.me().user == *user {
        true => Err(Failure::new(Exit::Usage, "oneself", format!("{user} is you")).into()),
        false => Ok(client),
    }
}
