//! `send` and `recv`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use larder_client::{GroupKey, Message, MessageKind, MlsConnection, SendStatus, SentMessage, UserName};
use tokio::sync::Notify;

use super::{Context, group_name};
use crate::failure::Exit;
use crate::files::Outgoing;
use crate::follow::{self, Connection};
use crate::output::Output;
use crate::record::{Record, Shown};
use crate::shutdown::Shutdown;

/// Messages printed before they are marked as read. A crash in between shows them again.
const PRINT_AT_ONCE: usize = 64;

pub(super) async fn send(
    context: &Context<'_>,
    group: &str,
    attach: Option<&Path>,
    text: &str,
) -> Result<ExitCode> {
    let file = match attach {
        Some(path) => Some(Outgoing::read(path).await?),
        None => None,
    };
    let (client, key) = context.open_group(group).await?;
    let mut status = SendStatus::Sent;
    let has_file = file.is_some();
    if let Some(file) = file {
        let sent = file.send(&client, &key).await?;
        context
            .output
            .print(&[sent_record(&client, &key, &sent).await?])?;
        status = sent.status;
    }
    if !text.is_empty() || !has_file {
        let sent = client.send(&key, text).await?;
        context
            .output
            .print(&[sent_record(&client, &key, &sent).await?])?;
        if status == SendStatus::Sent {
            status = sent.status;
        }
    }
    Ok(exit_of(status))
}

pub(super) async fn retry(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    let messages = client.retry(&key).await?;
    let mut status = SendStatus::Sent;
    for row in client.pending().await? {
        let message = client.message(row).await?;
        if message.is_some_and(|message| message.group.as_ref() == Some(&key)) {
            status = SendStatus::Pending;
        }
    }
    context.output.print(&[Record::Retried {
        group: key.to_string(),
        group_name: group_name(&client, &key).await?,
        messages,
        status: status.as_str(),
    }])?;
    Ok(exit_of(status))
}

fn exit_of(status: SendStatus) -> ExitCode {
    match status {
        SendStatus::Sent => ExitCode::SUCCESS,
        SendStatus::Pending => Exit::Unreachable.into(),
        SendStatus::Failed => Exit::Refused.into(),
    }
}

pub(crate) async fn sent_record(
    client: &MlsConnection,
    key: &GroupKey,
    sent: &SentMessage,
) -> Result<Record> {
    Ok(Record::Sent {
        group: key.to_string(),
        group_name: group_name(client, key).await?,
        id: sent.id.clone(),
        status: sent.status.as_str(),
    })
}

pub(super) async fn receive(context: &Context<'_>, wait: Option<u64>) -> Result<ExitCode> {
    let client = context.open().await?;
    let synced = client.sync().await;
    let mut printed = print_unread(&client, context.output).await?;
    synced?;
    let deadline = Duration::from_secs(wait.unwrap_or(0));
    let waiting = async {
        while printed == 0 {
            client.wait(deadline).await?;
            client.sync().await?;
            printed = print_unread(&client, context.output).await?;
        }
        anyhow::Ok(())
    };
    // Nothing came in time: that is an answer too.
    if let Ok(result) = tokio::time::timeout(deadline, waiting).await {
        result?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn follow(context: &Context<'_>) -> Result<ExitCode> {
    let mut shutdown = Shutdown::listen()?;
    let client = context.open().await?;
    let tell = |connection| {
        match connection {
            Connection::Lost => tracing::warn!("the server cannot be reached; trying again"),
            Connection::Back => tracing::warn!("the server answers again"),
        }
        Ok(())
    };
    follow::follow(
        &client,
        context.output,
        &Notify::new(),
        shutdown.requested(),
        tell,
    )
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what was not shown yet, and marks it as read once it has left the process. Returns how much there was.
pub(crate) async fn print_unread(client: &MlsConnection, output: &Output) -> Result<usize> {
    let unread = client.unread().await?;
    let requests = if unread.iter().any(|message| message.kind == MessageKind::Joined) {
        client.groups().await?
    } else {
        Vec::new()
    };
    for messages in unread.chunks(PRINT_AT_ONCE) {
        let records: Vec<Record> = messages
            .iter()
            .map(|message| {
                let group = requests
                    .iter()
                    .find(|group| Some(&group.id) == message.group.as_ref());
                match group.and_then(|group| group.request.as_ref()) {
                    Some(by) => invitation_record(message, by),
                    None => message_record(message, Shown::Now),
                }
            })
            .collect();
        output.print(&records)?;
        if let Some(last) = messages.last() {
            client.mark_read(last.row).await?;
        }
    }
    Ok(unread.len())
}

/// That somebody asks this user into a group, which is all that is told of it.
fn invitation_record(message: &Message, by: &UserName) -> Record {
    Record::Invitation {
        row: message.row,
        group: message
            .group
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        group_name: message.group_name.clone(),
        by: by.to_string(),
        text: message.text.clone(),
        received_at: message.received_at.0,
    }
}

pub(super) fn message_record(message: &Message, shown: Shown) -> Record {
    Record::Message {
        row: message.row,
        id: (!message.id.is_empty()).then(|| message.id.clone()),
        group: message.group.as_ref().map(ToString::to_string),
        group_name: message.group_name.clone(),
        sender: message.sender.as_ref().map(ToString::to_string),
        kind: message.kind.as_str(),
        text: message.text.clone(),
        sent_at: message.sent_at.0,
        received_at: message.received_at.0,
        mine: message.mine,
        status: message.status.as_str(),
        shown,
    }
}
