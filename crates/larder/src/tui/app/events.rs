use std::path::PathBuf;

use larder_client::{GroupKey, GroupSummary, Message};

use super::{Panel, PoolLevel};
use crate::slash::Slash;

/// Something that has to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tui) enum Effect {
    /// Fetch messages older than this one, or the newest.
    Load {
        group: GroupKey,
        before: Option<i64>,
    },
    /// Put a message into the outbox.
    Post {
        group: GroupKey,
        text: String,
    },
    /// What is up to this row was seen.
    MarkRead {
        group: GroupKey,
        up_to: i64,
    },
    /// Who is in the group, to be suggested.
    Members(GroupKey),
    /// Do what was typed, in the group that was open.
    Do {
        group: Option<GroupKey>,
        slash: Slash,
    },
    /// Store the attachment of a message.
    Save {
        row: i64,
        to: Option<PathBuf>,
    },
    /// Put a text on the terminal's clipboard.
    Copy(String),
    /// Let `$EDITOR` go on with a text.
    Edit(String),
    /// Something arrived that nobody looks at: this many messages, the last of them in this group.
    Alert {
        group: String,
        count: usize,
    },
    /// Draw everything anew.
    Redraw,
    Quit,
}

impl Effect {
    /// Whether the terminal does it, and not the client.
    pub(in crate::tui) fn is_of_terminal(&self) -> bool {
        match self {
            Self::Copy(_) | Self::Edit(_) | Self::Alert { .. } | Self::Redraw | Self::Quit => true,
            Self::Load { .. }
            | Self::Post { .. }
            | Self::MarkRead { .. }
            | Self::Members(_)
            | Self::Do { .. }
            | Self::Save { .. } => false,
        }
    }
}

/// Something that happened outside.
#[derive(Debug, Clone)]
pub(in crate::tui) enum Update {
    /// All groups.
    Groups(Vec<GroupSummary>),
    /// Messages that are new, or whose status is.
    Messages(Vec<Message>),
    /// What was asked for with [`Effect::Load`], oldest first.
    History {
        group: GroupKey,
        messages: Vec<Message>,
        /// Whether there are no older ones.
        complete: bool,
    },
    /// Who is in a group, others first.
    Members {
        group: GroupKey,
        users: Vec<String>,
    },
    /// Whether the server answers.
    Connection(bool),
    Pool(PoolLevel),
    /// Verified users whose keys are not those that were verified.
    Changed(Vec<String>),
    /// Something was done.
    Done(String),
    /// Something could not be done.
    Failed(String),
    /// A text was not taken, and why.
    NotPosted {
        group: GroupKey,
        text: String,
        why: String,
    },
    /// Something to be looked at.
    Panel(Panel),
    /// A group to be opened: it was created or joined.
    Open(GroupKey),
    /// What `$EDITOR` left.
    Edited(String),
}
