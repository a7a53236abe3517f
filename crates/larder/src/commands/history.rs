//! `history` and `search`: what is on this device, whether it was shown before or not. Nothing is marked as read.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::Message;

use super::Context;
use super::receive::message_record;
use crate::record::{Record, Shown};

pub(super) async fn history(
    context: &Context<'_>,
    group: &str,
    before: Option<i64>,
    limit: u32,
) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    print(context, &client.history_before(&key, before, limit).await?)
}

pub(super) async fn search(
    context: &Context<'_>,
    text: &str,
    group: Option<&str>,
    limit: u32,
) -> Result<ExitCode> {
    let (client, key) = match group {
        Some(group) => {
            let (client, key) = context.open_group(group).await?;
            (client, Some(key))
        }
        None => (context.open().await?, None),
    };
    print(context, &client.search(text, key.as_ref(), limit).await?)
}

fn print(context: &Context<'_>, messages: &[Message]) -> Result<ExitCode> {
    let records: Vec<Record> = messages
        .iter()
        .map(|message| message_record(message, Shown::Later))
        .collect();
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}
