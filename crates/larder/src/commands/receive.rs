//! `recv`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use larder_client::{ContactRequest, GroupKey, GroupSummary, Message, MessageKind, MlsConnection};
use tokio::sync::Notify;

use super::Context;
use super::groups::asked;
use crate::cli::Recv;
use crate::follow::{self, Connection};
use crate::output::Output;
use crate::record::{Record, Shown};
use crate::shutdown::Shutdown;
use crate::text::plain;

/// Messages printed before they are marked as read. A crash in between shows them again.
const PRINT_AT_ONCE: u32 = 64;

pub(super) async fn receive(context: &Context<'_>, options: Recv) -> Result<ExitCode> {
    // Whoever listens to signals has to obey them; without it they end the process.
    let shutdown = options.follow.then(Shutdown::listen).transpose()?;
    let (client, group) = match &options.group {
        Some(group) => {
            let (client, key) = context.open_group(group).await?;
            (client, Some(key))
        }
        None => (context.open().await?, None),
    };
    let mut reading = Reading {
        group,
        since: options.since,
        left: options.count,
    };
    if let Some(mut shutdown) = shutdown {
        let tell = |connection| {
            match connection {
                Connection::Lost(why) => tracing::warn!("{}; trying again", plain(&why)),
                Connection::Back => tracing::warn!("the server answers again"),
            }
            Ok(())
        };
        let (output, nudge) = (context.output, Notify::new());
        follow::follow(&client, output, reading, &nudge, shutdown.requested(), tell).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let synced = client.sync().await;
    let mut printed = reading.print(&client, context.output).await?;
    synced?;
    let deadline = Duration::from_secs(options.wait.unwrap_or(0));
    let waiting = async {
        while printed == 0 {
            client.wait(deadline).await?;
            client.sync().await?;
            printed = reading.print(&client, context.output).await?;
        }
        anyhow::Ok(())
    };
    // Nothing came in time: that is an answer too.
    if let Ok(result) = tokio::time::timeout(deadline, waiting).await {
        result?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be printed of what there is: by default all that was not shown yet.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Only what concerns this group.
    group: Option<GroupKey>,
    /// What came after this row, shown or not.
    since: Option<i64>,
    /// How much more.
    left: Option<u64>,
}

impl Reading {
    /// Whether as much was printed as was asked for.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Prints what there is, and marks it as read once it has left the process, unless it was asked for by its row. Returns
    /// how much there was.
    pub(crate) async fn print(&mut self, client: &MlsConnection, output: &Output) -> Result<usize> {
        let mut printed = 0;
        if let Some(mut since) = self.since {
            while !self.is_done() {
                let messages = client.messages_after(since, PRINT_AT_ONCE).await?;
                let Some(last) = messages.last() else { break };
                since = last.row;
                printed += self.print_some(client, output, messages).await?;
                self.since = Some(since);
            }
            return Ok(printed);
        }
        let unread = client.unread().await?;
        for messages in unread.chunks(PRINT_AT_ONCE as usize) {
            if self.is_done() {
                break;
            }
            printed += self.print_some(client, output, messages.to_vec()).await?;
        }
        Ok(printed)
    }

    async fn print_some(
        &mut self,
        client: &MlsConnection,
        output: &Output,
        mut messages: Vec<Message>,
    ) -> Result<usize> {
        let (groups, unanswered) = (client.groups().await?, client.unanswered().await?);
        let came_with_request = |message: &Message| {
            let before = message.group.as_ref().and_then(|group| unanswered.get(group));
            before.is_some_and(|before| message.row > *before)
        };
        let request = |message: &Message| -> Option<&ContactRequest> {
            let is_its = |group: &&GroupSummary| Some(&group.id) == message.group.as_ref();
            let group = groups.iter().find(is_its)?;
            group.request.as_ref().filter(|_| came_with_request(message))
        };
        // Of what came with a stranger's invitation, no more than that it came is shown.
        messages.retain(|message| {
            self.group
                .as_ref()
                .is_none_or(|group| message.group.as_ref() == Some(group))
                && (message.kind == MessageKind::Joined || !came_with_request(message))
        });
        if let Some(left) = &mut self.left {
            messages.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= messages.len() as u64;
        }
        let shown = match self.since {
            Some(_) => Shown::Later,
            None => Shown::Now,
        };
        let records: Vec<Record> = messages
            .iter()
            .map(|message| match request(message) {
                Some(request) => invitation_record(message, request),
                None => message_record(message, shown),
            })
            .collect();
        output.print(&records)?;
        if let (Some(last), None) = (messages.last(), self.since) {
            match &self.group {
                Some(group) => client.mark_group_read(group, last.row).await?,
                None => client.mark_read(last.row).await?,
            }
        }
        Ok(messages.len())
    }
}

/// That somebody asks this user into a group, or the server says that the user is in it: all that is told of it.
fn invitation_record(message: &Message, request: &ContactRequest) -> Record {
    let (by, listed) = asked(Some(request));
    Record::Invitation {
        row: message.row,
        group: message
            .group
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        group_name: message.group_name.clone(),
        by,
        listed,
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
