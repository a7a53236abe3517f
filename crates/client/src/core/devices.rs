//! What follows from the lists of users' devices: who is pinned, what the groups are told, which leaves go.

use std::collections::BTreeSet;

use larder_judge::{Evidence, Leaf};
use larder_pool::Tx;
use larder_wire::{DeviceId, DeviceInfo, Membership, UserName};
use openmls::prelude::{MlsGroup, OpenMlsProvider};

use crate::core::chain::{self, Distrust, Entry, Judged};
use crate::core::members::fingerprint;
use crate::core::messages::{self, NewMessage};
use crate::core::peers::{self, Peer, Standing};
use crate::core::profile::Context;
use crate::core::{gate, groups, mls, outbox, removals, requests, verdicts, verification, vouchers};
use crate::error::Error;
use crate::types::{Device, GroupKey, GroupState, MessageKind, SendStatus};

mod texts;

pub(super) use texts::{new_device, removed, short};
use texts::{not_told, restored, said_removed, unauthorized};

/// Names the notice about a device in a group's history, so that each is there once.
pub(super) const NOTICE_NEW: &str = "new-device";
pub(super) const NOTICE_REMOVED: &str = "removed-device";
const NOTICE_SAID_REMOVED: &str = "said-removed-device";
const NOTICE_RESTORED: &str = "restored-device";
const NOTICE_UNAUTHORIZED: &str = "unauthorized-device";
const NOTICE_LIST: &str = "list-of-devices";
const NOTICE_LIST_ROOT: &str = "list-of-devices-root";
const NOTICE_LIST_TOO_LONG: &str = "list-of-devices-too-long";
const NOTICE_LIST_TWICE: &str = "list-of-devices-twice";

/// The users whose lists of devices are to be fetched.
pub(crate) fn device_checks(tx: &Tx<'_>) -> Result<Vec<UserName>, Error> {
    peers::checks(tx.connection())
}

/// What the server answers when it is asked for the list of a user's devices.
#[derive(Debug)]
pub(crate) enum Listed {
    /// The list.
    Given(Vec<DeviceInfo>),
    /// It has none, or none for us: it need not give the list of everybody.
    Withheld,
    /// More bytes than a list can have.
    TooLong,
}

impl Listed {
    /// What it lists, believed or not.
    pub(crate) fn into_devices(self) -> Vec<DeviceInfo> {
        match self {
            Self::Given(devices) => devices,
            Self::Withheld | Self::TooLong => Vec::new(),
        }
    }
}

/// Takes a user's list of devices over: verifies it from the first device on, pins what is new, and tells every group that
/// the user is in, once: of devices that came and went, and loudly of what does not verify. Without a list what was known
/// before holds. `false` for a list that is not believed: nothing of it is taken over, and it is to be fetched again.
pub(crate) fn learn_devices(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    listed: &Listed,
) -> Result<bool, Error> {
    let connection = tx.connection();
    let shared = groups_with(tx, user)?;
    let known = peers::of_user(connection, user)?;
    let provider = tx.provider();
    let server = (context.identity.me.server_name.as_str(), user);
    let (devices, entries) = match listed {
        Listed::Withheld => {
            peers::checked(connection, user)?;
            warn_of_leaves(tx, context, user, &shared, not_told)?;
            return Ok(true);
        }
        Listed::TooLong => {
            distrusted(tx, context, user, &shared, &Distrust::TooLong)?;
            return Ok(false);
        }
        Listed::Given(devices) => match chain::verify(provider.crypto(), server, devices, &known) {
            Ok(entries) => (devices, entries),
            Err(distrust) => {
                distrusted(tx, context, user, &shared, &distrust)?;
                return Ok(false);
            }
        },
    };
    peers::checked(connection, user)?;
    let learned = take_over(tx, context, user, &known, devices.iter().zip(entries))?;
    for device in learned {
        let Some((id, text)) = device.news(user, &known) else {
            continue;
        };
        for (group, leaves) in &shared {
            // Where it stays, that is told instead.
            let leaf = leaves.iter().find(|leaf| leaf.device == *device.id);
            if let Some(leaf) = leaf.filter(|_| id == NOTICE_REMOVED)
                && !removals::goes(tx, context, group, leaf, leaves)?
            {
                continue;
            }
            tell(tx, context, group, (user, device.id), id, &text)?;
        }
    }
    warn_of_leaves(tx, context, user, &shared, unauthorized)?;
    Ok(true)
}

/// What came to be known of a device of a list.
struct Learned<'a> {
    id: &'a DeviceId,
    before: Option<Standing>,
    now: Standing,
}

/// Remembers what a list that is believed says of a user's devices.
fn take_over<'a>(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    known: &[Peer],
    listed: impl Iterator<Item = (&'a DeviceInfo, Entry)>,
) -> Result<Vec<Learned<'a>>, Error> {
    let (mut learned, mut peers) = (Vec::new(), Vec::new());
    for (index, (device, entry)) in listed.enumerate() {
        let peer = known.iter().find(|peer| peer.device_id == device.device_id);
        let now = match entry.judged {
            Judged::Theirs => Standing::Authorized,
            Judged::Removed => Standing::Removed,
            Judged::SaidRemoved => Standing::SaidRemoved,
            Judged::NotTheirs => Standing::Unauthorized,
        };
        learned.push(Learned {
            id: &device.device_id,
            before: peer.map(|peer| peer.standing),
            now,
        });
        let accepted = entry.judged != Judged::NotTheirs;
        // A forged key is not one to remember.
        if accepted || peer.is_some() {
            peers.push(Peer {
                device_id: device.device_id.clone(),
                signature_key: peer
                    .map_or(&device.mls_signature_key.0, |peer| &peer.signature_key)
                    .clone(),
                standing: now,
                root: accepted && index == 0,
                let_in_by: entry.let_in_by,
                removed_by: entry.removed_by,
            });
        }
    }
    // A removed device comes back only when its remover is removed.
    peers.sort_by_key(|peer| peer.standing != Standing::Removed);
    for peer in &peers {
        peers::set(tx.connection(), user, peer, context.now())?;
    }
    Ok(learned)
}

impl Learned<'_> {
    /// What the groups are told of it, and the name of the notice; `None` if it is no news.
    fn news(&self, user: &UserName, known: &[Peer]) -> Option<(&'static str, String)> {
        let list_was_known = known.iter().any(|peer| peer.root);
        match (self.now, self.before) {
            (Standing::Authorized | Standing::SaidRemoved, Some(Standing::Removed)) => {
                Some((NOTICE_RESTORED, restored(user, self.id)))
            }
            (Standing::Authorized, before) => {
                let is_news = match before {
                    None => !known.is_empty(),
                    Some(Standing::Seen) => list_was_known,
                    Some(Standing::Unauthorized) => true,
                    Some(Standing::Authorized | Standing::Removed | Standing::SaidRemoved) => false,
                };
                is_news.then(|| (NOTICE_NEW, new_device(user, self.id)))
            }
            (Standing::Removed, Some(Standing::Seen | Standing::Authorized | Standing::SaidRemoved)) => {
                Some((NOTICE_REMOVED, removed(user, self.id)))
            }
            (Standing::SaidRemoved, Some(Standing::Seen | Standing::Authorized)) => {
                Some((NOTICE_SAID_REMOVED, said_removed(user, self.id)))
            }
            (
                Standing::Removed | Standing::SaidRemoved,
                None | Some(Standing::Removed | Standing::Unauthorized | Standing::SaidRemoved),
            ) => None,
            (Standing::Seen | Standing::Unauthorized, _) => {
                Some((NOTICE_UNAUTHORIZED, unauthorized(user, self.id)))
            }
        }
    }
}

/// Warns of devices in groups that are not known to be the user's, of those that are said to be removed and
/// that nothing in the group shows to be, and of those that a verified user has beside the verified.
fn warn_of_leaves(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    shared: &[(GroupKey, Vec<Leaf>)],
    text: fn(&UserName, &DeviceId) -> String,
) -> Result<(), Error> {
    for (group, leaves) in shared {
        for leaf in leaves {
            let device = &leaf.device;
            let (id, text) = match peers::standing(tx.connection(), user, device)? {
                Some(Standing::Authorized | Standing::SaidRemoved) => continue,
                Some(Standing::Removed) if removals::goes(tx, context, group, leaf, leaves)? => continue,
                Some(Standing::Removed) => (NOTICE_SAID_REMOVED, said_removed(user, device)),
                Some(Standing::Unauthorized | Standing::Seen) | None => {
                    (NOTICE_UNAUTHORIZED, text(user, device))
                }
            };
            tell(tx, context, group, (user, device), id, &text)?;
        }
    }
    verification::warn(tx, context, user, shared)
}

/// Nothing of the list is taken over, and the groups are told.
fn distrusted(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    shared: &[(GroupKey, Vec<Leaf>)],
    distrust: &Distrust,
) -> Result<(), Error> {
    tracing::warn!("a list of devices is not believed");
    peers::distrusted(tx.connection(), user)?;
    let (device, id) = match distrust {
        Distrust::TooLong => (None, NOTICE_LIST_TOO_LONG),
        Distrust::Twice => (None, NOTICE_LIST_TWICE),
        Distrust::OtherRoot => (None, NOTICE_LIST_ROOT),
        Distrust::Omits(device) | Distrust::Denies(device) => (Some(device), NOTICE_LIST),
    };
    let text = texts::distrusted(user, distrust, *user == context.identity.me.user);
    for (group, leaves) in shared {
        if let Some(device) = device.or(leaves.first().map(|leaf| &leaf.device)) {
            tell(tx, context, group, (user, device), id, &text)?;
        }
    }
    Ok(())
}

/// Writes a notice about a device into a group's history, unless it is there already.
pub(super) fn tell(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    about: (&UserName, &DeviceId),
    id: &str,
    text: &str,
) -> Result<(), Error> {
    let now = context.now();
    messages::insert(
        tx.connection(),
        &NewMessage {
            group: Some(group),
            sender: Some(about),
            id: Some(id),
            kind: MessageKind::Notice,
            text,
            sent_at: now,
            received_at: now,
            mine: false,
            status: SendStatus::Sent,
        },
    )?;
    Ok(())
}

/// The groups that this device takes part in and this user is in, each with the user's leaves in it.
pub(super) fn groups_with(tx: &Tx<'_>, user: &UserName) -> Result<Vec<(GroupKey, Vec<Leaf>)>, Error> {
    let mut found = Vec::new();
    for group in groups::in_states(tx.connection(), &[GroupState::Active])? {
        let mut leaves = leaves(&mls::load(tx, &group)?);
        leaves.retain(|leaf| leaf.user == *user);
        if !leaves.is_empty() {
            found.push((group, leaves));
        }
    }
    Ok(found)
}

/// Those of these users with a device that is not known to be theirs: their lists are to be fetched before anything is made
/// of these.
pub(crate) fn users_to_look_up<'a>(
    tx: &Tx<'_>,
    devices: impl IntoIterator<Item = (&'a UserName, &'a DeviceId)>,
) -> Result<BTreeSet<UserName>, Error> {
    let mut users = BTreeSet::new();
    for (user, device) in devices {
        match peers::standing(tx.connection(), user, device)? {
            Some(Standing::Authorized) => {}
            Some(Standing::Seen | Standing::Removed | Standing::Unauthorized | Standing::SaidRemoved)
            | None => {
                users.insert(user.clone());
            }
        }
    }
    Ok(users)
}

/// Whether the user is known to have other devices: then there may be groups that this one does not know yet.
pub(crate) fn has_other_devices(tx: &Tx<'_>, context: &Context) -> Result<bool, Error> {
    let me = &context.identity.me;
    let known = peers::of_user(tx.connection(), &me.user)?;
    Ok(known
        .iter()
        .any(|peer| peer.device_id != me.device_id && peer.standing == Standing::Authorized))
}

/// Whose leaf ours is.
pub(super) fn own_leaf(context: &Context) -> Leaf {
    let me = &context.identity.me;
    Leaf {
        user: me.user.clone(),
        device: me.device_id.clone(),
        signature_key: context.identity.mls.public().to_vec(),
    }
}

/// Whether a leaf is of another device of this user. A name alone does not make it one: anybody can give it to a leaf.
pub(super) fn is_sibling(tx: &Tx<'_>, context: &Context, leaf: &Leaf) -> Result<bool, Error> {
    let me = &context.identity.me;
    Ok(leaf.user == me.user && leaf.device != me.device_id && peers::is_authorized(tx.connection(), leaf)?)
}

/// The groups of this device that a device of its user is not in, and to which one could be added now.
pub(crate) fn groups_without_own_devices(tx: &Tx<'_>, context: &Context) -> Result<Vec<GroupKey>, Error> {
    let me = &context.identity.me;
    let mut own = peers::of_user(tx.connection(), &me.user)?;
    own.retain(|peer| peer.standing == Standing::Authorized && peer.device_id != me.device_id);
    let mut found = Vec::new();
    let active = groups::in_states(tx.connection(), &[GroupState::Active])?;
    for group in requests::only_accepted(tx.connection(), active)? {
        if outbox::handshake_waits(tx.connection(), &group)?
            || verdicts::holds(tx, &group)?
            || gate::clear(tx, &group)?.is_err()
        {
            continue;
        }
        let leaves = leaves(&mls::load(tx, &group)?);
        let is_in = |peer: &Peer| leaves.iter().any(|leaf| leaf.device == peer.device_id);
        if !own.iter().all(is_in) {
            found.push(group);
        }
    }
    Ok(found)
}

/// Those of its user's devices that this device is to add to a group: all of them to one that it has just created; later those
/// that no device in the group has let in, and those that this one has let in and not vouched for the group to. The others come by
/// themselves, or are added by the one that has let them in.
pub(crate) fn own_devices_to_add(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    listed: &[DeviceInfo],
) -> Result<Vec<DeviceId>, Error> {
    let me = &context.identity.me;
    let state = mls::load(tx, group)?;
    let leaves = leaves(&state);
    let mut wanted = Vec::new();
    for device in listed {
        let is_in = leaves.iter().any(|leaf| leaf.device == device.device_id);
        if is_in
            || peers::standing(tx.connection(), &me.user, &device.device_id)? != Some(Standing::Authorized)
        {
            continue;
        }
        let joiner = Leaf {
            user: me.user.clone(),
            device: device.device_id.clone(),
            signature_key: device.mls_signature_key.0.clone(),
        };
        let authorization = device.authorization.as_ref();
        let is_ours = authorization.is_some_and(|authorization| authorization.by == me.device_id);
        if state.epoch().as_u64() == 0
            || Evidence::gather(&leaves, &joiner, listed).is_none()
            || (is_ours && !vouchers::is_vouched_to(tx, &device.device_id, group)?)
        {
            wanted.push(device.device_id.clone());
        }
    }
    Ok(wanted)
}

pub(super) fn leaves(group: &MlsGroup) -> Vec<Leaf> {
    group
        .members()
        .filter_map(|member| Leaf::of_member(&member))
        .collect()
}

/// Those groups that this device has never known. One that was left is not among them.
pub(crate) fn unknown_groups(tx: &Tx<'_>, all: Vec<Membership>) -> Result<Vec<Membership>, Error> {
    let mut unknown = Vec::new();
    for membership in all {
        if groups::find(tx.connection(), &membership.group_id)?.is_none() {
            unknown.push(membership);
        }
    }
    Ok(unknown)
}

/// The user's own devices, as this one judges the list.
pub(crate) fn own_devices(
    tx: &Tx<'_>,
    context: &Context,
    devices: &[DeviceInfo],
) -> Result<Vec<Device>, Error> {
    let me = &context.identity.me;
    let mut found = Vec::new();
    for device in devices {
        let standing = peers::standing(tx.connection(), &me.user, &device.device_id)?;
        found.push(Device {
            device_id: device.device_id.clone(),
            signature_key_fingerprint: fingerprint(&device.mls_signature_key.0),
            authorized_by: device
                .authorization
                .as_ref()
                .map(|authorization| authorization.by.clone()),
            is_authorized: matches!(
                standing,
                Some(Standing::Authorized | Standing::Removed | Standing::SaidRemoved)
            ),
            is_removed: device.removed_at.is_some() || standing == Some(Standing::Removed),
            is_me: device.device_id == me.device_id,
        });
    }
    Ok(found)
}
