//! What a Commit did to a group, for its history.

use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{DeviceId, UserName};
use openmls::prelude::{LeafNodeIndex, MlsGroup, Sender, StagedCommit};

use crate::core::messages::{self, NewMessage};
use crate::core::profile::Context;
use crate::core::{devices, groups, mls, peers};
use crate::error::Error;
use crate::types::{GroupKey, GroupState, MessageKind, SendStatus};

/// Something that a Commit did to the group, for the history.
pub(super) struct Event {
    kind: MessageKind,
    by: Option<(UserName, DeviceId)>,
    text: String,
    /// Names a notice that others may write too, so that it is there once.
    id: Option<&'static str>,
    /// Devices that came, with their signature keys.
    came: Vec<(UserName, DeviceId, Vec<u8>)>,
}

impl Event {
    fn new(kind: MessageKind, by: Option<(UserName, DeviceId)>, text: String) -> Self {
        Self {
            kind,
            by,
            text,
            id: None,
            came: Vec::new(),
        }
    }
}

/// What a Commit of `by` does. A user who comes or goes with several devices does so once.
pub(super) fn events(
    group: &MlsGroup,
    staged: &StagedCommit,
    by: Option<(&UserName, &DeviceId)>,
) -> Vec<Event> {
    let owned = by.map(|(user, device)| (user.clone(), device.clone()));
    let actor = by.map_or_else(|| "someone".to_owned(), |(user, _)| user.to_string());
    let mut events: Vec<Event> = Vec::new();
    let removed: Vec<LeafNodeIndex> = staged
        .remove_proposals()
        .map(|remove| remove.remove_proposal().removed())
        .collect();
    let stays = |user: &UserName| {
        group.members().any(|member| {
            !removed.contains(&member.index)
                && mls::who(&member.credential).is_some_and(|(name, _)| name == *user)
        })
    };
    for add in staged.add_proposals() {
        let leaf = add.add_proposal().key_package().leaf_node();
        let Some((user, device)) = mls::who(leaf.credential()) else {
            continue;
        };
        let key = leaf.signature_key().as_slice().to_vec();
        if stays(&user) {
            events.push(further_device(user, device, key));
            continue;
        }
        let text = format!("{actor} added {user}");
        match events.iter_mut().find(|event| event.text == text) {
            Some(event) => event.came.push((user, device, key)),
            None => {
                let mut event = Event::new(MessageKind::Added, owned.clone(), text);
                event.came.push((user, device, key));
                events.push(event);
            }
        }
    }
    for remove in staged.remove_proposals() {
        let leaf = remove.remove_proposal().removed();
        let Some((user, device)) = group.member(leaf).and_then(mls::who) else {
            continue;
        };
        let whose = if stays(&user) {
            format!("the device {} of {user}", devices::short(&device))
        } else {
            user.to_string()
        };
        let (kind, text) = match remove.sender() {
            Sender::Member(sender) if *sender == leaf => (MessageKind::Left, format!("{whose} left")),
            Sender::NewMemberCommit => (
                MessageKind::Notice,
                format!("{user} came back by an external Commit"),
            ),
            _ => (MessageKind::Removed, format!("{actor} removed {whose}")),
        };
        let by = match kind {
            MessageKind::Left => Some((user, device)),
            _ => owned.clone(),
        };
        if !events.iter().any(|event| event.text == text) {
            events.push(Event::new(kind, by, text));
        }
    }
    events
}

/// A further device of a member user came by an external Commit (RFC 9420 §12.4.3.2): it replaced no leaf.
pub(super) fn came(by: Option<&(UserName, DeviceId)>, staged: &StagedCommit) -> Vec<Event> {
    let key = staged
        .update_path_leaf_node()
        .map(|leaf| leaf.signature_key().as_slice().to_vec());
    by.zip(key)
        .map(|((user, device), key)| further_device(user.clone(), device.clone(), key))
        .into_iter()
        .collect()
}

/// A user who is in the group is in it with one more device.
fn further_device(user: UserName, device: DeviceId, key: Vec<u8>) -> Event {
    let text = devices::new_device(&user, &device);
    Event {
        id: Some(devices::NOTICE_NEW),
        came: vec![(user.clone(), device.clone(), key)],
        ..Event::new(MessageKind::Notice, Some((user, device)), text)
    }
}

/// Whether another device of this user leaves of its own accord.
pub(super) fn sibling_leaves(
    tx: &Tx<'_>,
    context: &Context,
    group: &MlsGroup,
    staged: &StagedCommit,
) -> Result<bool, Error> {
    for remove in staged.remove_proposals() {
        let index = remove.remove_proposal().removed();
        if !matches!(remove.sender(), Sender::Member(sender) if *sender == index) {
            continue;
        }
        let leaving = group.members().find(|member| member.index == index);
        if let Some(leaf) = leaving.and_then(|member| Leaf::of_member(&member))
            && devices::is_sibling(tx, context, &leaf)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Another device of our user has left: a user leaves with all devices.
pub(super) fn leave_too(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    match groups::group_state(tx, group)? {
        GroupState::Active => groups::set_state(tx.connection(), group, GroupState::Leaving),
        GroupState::Creating | GroupState::Leaving | GroupState::Left | GroupState::NeedsRejoin => Ok(()),
    }
}

/// Writes what a Commit did into the history, and pins the keys of devices that came.
pub(super) fn record(
    tx: &Tx<'_>,
    group: &GroupKey,
    events: &[Event],
    now: UnixSeconds,
    mine: bool,
) -> Result<(), Error> {
    let connection = tx.connection();
    for event in events {
        messages::insert(
            connection,
            &NewMessage {
                group: Some(group),
                sender: event.by.as_ref().map(|(user, device)| (user, device)),
                id: event.id,
                kind: event.kind,
                text: &event.text,
                sent_at: now,
                received_at: now,
                // Who leaves does so by itself, even if the Commit is ours.
                mine: mine && event.kind != MessageKind::Left,
                status: SendStatus::Sent,
            },
        )?;
        for (user, device, key) in &event.came {
            if peers::pin(connection, user, device, key, now)? == peers::Pin::Changed {
                let text =
                    format!("the signature key of {user}'s device {device} is not the one known before");
                messages::notice(connection, Some(group), &text, now)?;
            }
        }
    }
    Ok(())
}
