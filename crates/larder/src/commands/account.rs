//! `register`, `block`, `unblock`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Error, MlsConnection, ProblemType, UserName};

use super::{Context, guide};
use crate::cli::DEFAULT_SERVER;
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn register(
    context: &Context<'_>,
    user: Option<UserName>,
    no_encryption: bool,
) -> Result<ExitCode> {
    let server = context.global.server.as_deref().unwrap_or(DEFAULT_SERVER);
    guide::require_server(server).await?;
    let mut user = guide::user_name(context, user)?;
    guide::before(
        context,
        &format!(
            "{user} will be registered at {server}, and the profile {} is the first device",
            context.global.profile
        ),
    )?;
    let key = context.sources().of_new(no_encryption)?;
    let encrypted = key.is_some();
    let client = loop {
        match MlsConnection::register(context.options(key.clone()), server, user.clone()).await {
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NameTaken => {
                let refused = Failure::new(
                    Exit::Refused,
                    problem.problem_type.code(),
                    "that name is taken; choose another",
                );
                user = guide::another_name(context, &user)?.ok_or(refused)?;
            }
            registered => break registered?,
        }
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
    guide::next(
        context,
        &[
            ("group create NAME", "makes a group"),
            (
                "invite NAME USER",
                "adds somebody to it, whether they are there or not",
            ),
            ("chat NAME", "writes to it, and shows what others write"),
            ("recv", "tells who has invited you"),
        ],
    )?;
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
