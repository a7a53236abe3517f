//! `accept` and `decline`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::GroupState;

use super::{Context, group_name};
use crate::record::Record;

pub(super) async fn accept(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_request(group).await?;
    let state = client.accept(&key).await?;
    context.output.print(&[Record::Accepted {
        group: key.to_string(),
        group_name: group_name(&client, &key).await?,
        over: state == GroupState::Left,
    }])?;
    // It is accepted whether the server can be reached or not.
    if let Err(error) = client.sync().await {
        tracing::warn!(code = error.code(), "the group will be told later");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn decline(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_request(group).await?;
    let group_name = group_name(&client, &key).await?;
    let declined = client.decline(&key).await?;
    context.output.print(&[Record::Declined {
        group: key.to_string(),
        group_name,
        kept: declined.kept,
        over: declined.was_over,
        told: declined.told,
    }])?;
    Ok(ExitCode::SUCCESS)
}
