//! What a Commit did to a group, for its history.

use larder_judge::Leaf;
use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{DeviceId, UserName};
use openmls::prelude::{LeafNodeIndex, MlsGroup, Sender, StagedCommit};
use rusqlite::Connection;

use crate::core::messages::{self, NewMessage};
use crate::core::{devices, mls, peers, requests};
use crate::error::Error;
use crate::types::{GroupKey, MessageKind, SendStatus};

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

/// What a Commit of `by` does. A user who comes or goes with several devices does so once. Of the leaves that have `departed` the
/// history has said that already.
pub(super) fn events(
    group: &MlsGroup,
    staged: &StagedCommit,
    by: Option<(&UserName, &DeviceId)>,
    departed: &[LeafNodeIndex],
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
        if departed.contains(&leaf) {
            continue;
        }
        let whose = whose(&user, &device, stays(&user));
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

/// A device has left by its own word. Its user may stay, with others.
pub(super) fn left(leaf: &Leaf, stays: bool) -> Event {
    let Leaf { user, device, .. } = leaf;
    let text = format!("{} left", whose(user, device, stays));
    Event::new(MessageKind::Left, Some((user.clone(), device.clone())), text)
}

/// Who goes: a user, or one device of a user who stays.
fn whose(user: &UserName, device: &DeviceId, stays: bool) -> String {
    match stays {
        true => format!("the device {} of {user}", devices::short(device)),
        false => user.to_string(),
    }
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
        // Who is in a group that was not accepted is known by nothing yet.
        let is_request = requests::find(connection, group)?.is_some();
        for (user, device, key) in &event.came {
            let pin = match is_request {
                true => peers::compare(connection, user, device, key)?,
                false => peers::pin(connection, user, device, key, now)?,
            };
            if pin == peers::Pin::Changed {
                tell_changed(connection, group, (user, device), now)?;
            }
        }
    }
    Ok(())
}

/// A device in a group has another key than the one that is known.
pub(super) fn tell_changed(
    connection: &Connection,
    group: &GroupKey,
    (user, device): (&UserName, &DeviceId),
    now: UnixSeconds,
) -> Result<(), Error> {
    let text = format!("the signature key of {user}'s device {device} is not the one known before");
    messages::notice(connection, Some(group), &text, now)
}
