//! What follows from the lists of users' devices: who is pinned, what the groups are told, which leaves go.

use std::collections::BTreeSet;

use larder_judge::{Evidence, Leaf};
use larder_pool::Tx;
use larder_wire::{DeviceId, DeviceInfo, Membership, UserName};
use openmls::prelude::{MlsGroup, OpenMlsProvider};

use crate::core::chain::{self, Distrust, Judged};
use crate::core::members::fingerprint;
use crate::core::messages::{self, NewMessage};
use crate::core::peers::{self, Peer, Standing};
use crate::core::profile::Context;
use crate::core::{gate, groups, mls, outbox, requests, verdicts, verification, vouchers};
use crate::error::Error;
use crate::types::{Device, GroupKey, GroupState, MessageKind, SendStatus};

/// Names the notice about a device in a group's history, so that each is there once.
pub(super) const NOTICE_NEW: &str = "new-device";
pub(super) const NOTICE_REMOVED: &str = "removed-device";
const NOTICE_SAID_REMOVED: &str = "said-removed-device";
const NOTICE_UNAUTHORIZED: &str = "unauthorized-device";
const NOTICE_LIST: &str = "list-of-devices";
const NOTICE_LIST_ROOT: &str = "list-of-devices-root";
const NOTICE_LIST_TOO_LONG: &str = "list-of-devices-too-long";

/// The characters of a device's id by which people are told which one is meant.
const SHORT_ID_CHARS: usize = 8;

/// A device's id as far as people are told.
pub(super) fn short(device: &DeviceId) -> &str {
    let id = device.as_str();
    id.get(..SHORT_ID_CHARS).unwrap_or(id)
}

/// What the members of a group are told when a user has a new device.
pub(super) fn new_device(user: &UserName, device: &DeviceId) -> String {
    format!("new device of {user}: {}", short(device))
}

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
    let (devices, judged) = match listed {
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
            Ok(judged) => (devices, judged),
            Err(distrust) => {
                distrusted(tx, context, user, &shared, &distrust)?;
                return Ok(false);
            }
        },
    };
    peers::checked(connection, user)?;
    let list_was_known = known.iter().any(|peer| peer.root);
    for (index, (device, judged)) in devices.iter().zip(judged).enumerate() {
        let peer = known.iter().find(|peer| peer.device_id == device.device_id);
        let before = peer.map(|peer| peer.standing);
        let standing = match (judged, before) {
            // Whatever the list says of it now.
            (_, Some(Standing::Removed)) | (Judged::Removed, _) => Standing::Removed,
            (Judged::Theirs, _) => Standing::Authorized,
            (Judged::SaidRemoved, _) => Standing::SaidRemoved,
            (Judged::NotTheirs, _) => Standing::Unauthorized,
        };
        let accepted = judged != Judged::NotTheirs;
        // A forged key is not one to remember.
        if accepted || peer.is_some() {
            let new = Peer {
                device_id: device.device_id.clone(),
                signature_key: peer
                    .map_or(&device.mls_signature_key.0, |peer| &peer.signature_key)
                    .clone(),
                standing,
                root: accepted && index == 0,
            };
            peers::set(connection, user, &new, context.now())?;
        }
        let notice = match standing {
            Standing::Authorized => {
                let is_news = match before {
                    None => !known.is_empty(),
                    Some(Standing::Seen) => list_was_known,
                    Some(Standing::Unauthorized) => true,
                    Some(Standing::Authorized | Standing::Removed | Standing::SaidRemoved) => false,
                };
                is_news.then(|| (NOTICE_NEW, new_device(user, &device.device_id)))
            }
            Standing::Removed => {
                let is_news = matches!(
                    before,
                    Some(Standing::Seen | Standing::Authorized | Standing::SaidRemoved)
                );
                is_news.then(|| (NOTICE_REMOVED, removed(user, &device.device_id)))
            }
            Standing::SaidRemoved => matches!(before, Some(Standing::Seen | Standing::Authorized))
                .then(|| (NOTICE_SAID_REMOVED, said_removed(user, &device.device_id))),
            Standing::Unauthorized | Standing::Seen => {
                Some((NOTICE_UNAUTHORIZED, unauthorized(user, &device.device_id)))
            }
        };
        if let Some((id, text)) = notice {
            for (group, _) in &shared {
                tell(tx, context, group, (user, &device.device_id), id, &text)?;
            }
        }
    }
    warn_of_leaves(tx, context, user, &shared, unauthorized)?;
    Ok(true)
}

/// Warns of devices in groups that are not known to be the user's, and of those that a verified user has beside the verified.
fn warn_of_leaves(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    shared: &[(GroupKey, Vec<DeviceId>)],
    text: fn(&UserName, &DeviceId) -> String,
) -> Result<(), Error> {
    for (group, leaves) in shared {
        for device in leaves {
            match peers::standing(tx.connection(), user, device)? {
                Some(Standing::Authorized | Standing::Removed | Standing::SaidRemoved) => {}
                Some(Standing::Unauthorized | Standing::Seen) | None => {
                    let text = text(user, device);
                    tell(tx, context, group, (user, device), NOTICE_UNAUTHORIZED, &text)?;
                }
            }
        }
    }
    verification::warn(tx, context, user, shared)
}

pub(super) fn removed(user: &UserName, device: &DeviceId) -> String {
    format!("{user} removed the device {}", short(device))
}

fn said_removed(user: &UserName, device: &DeviceId) -> String {
    format!(
        "the server says that the device {0} of {user} was removed, and no device of {user} has signed that: {0} is not invited \
         any more, and stays in the groups that it is in. Ask {user}",
        short(device)
    )
}

fn not_told(user: &UserName, device: &DeviceId) -> String {
    format!(
        "WARNING: the server does not tell whether the device {} is one of {user}'s; it may be somebody else's",
        short(device)
    )
}

fn unauthorized(user: &UserName, device: &DeviceId) -> String {
    format!(
        "WARNING: no other device of {user} has authorized the device {}; it may be somebody else's. Ask {user}, and remove \
         {user} from the group if it is not theirs",
        short(device)
    )
}

/// Nothing of the list is taken over, and the groups are told.
fn distrusted(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    shared: &[(GroupKey, Vec<DeviceId>)],
    distrust: &Distrust,
) -> Result<(), Error> {
    let (device, id, what) = match distrust {
        Distrust::TooLong => (None, NOTICE_LIST_TOO_LONG, "is longer than one can be".to_owned()),
        Distrust::OtherRoot => {
            let what = "begins with another device than the one known before";
            (None, NOTICE_LIST_ROOT, what.to_owned())
        }
        Distrust::Omits(device) => {
            let what = format!("leaves out the device {}, which was theirs", short(device));
            (Some(device), NOTICE_LIST, what)
        }
        Distrust::Denies(device) => {
            let what = format!("denies the device {}, which was theirs", short(device));
            (Some(device), NOTICE_LIST, what)
        }
    };
    tracing::warn!("a list of devices is not believed");
    peers::distrusted(tx.connection(), user)?;
    let mut text =
        format!("WARNING: the list of {user}'s devices that the server gave {what}; it was not believed");
    if *user != context.identity.me.user {
        text.push_str(match distrust {
            Distrust::TooLong => "",
            Distrust::OtherRoot => {
                ". Either they registered anew, or the server shows somebody else: verify their new identity"
            }
            Distrust::Omits(_) | Distrust::Denies(_) => {
                ". Either the server has lost some, or it shows somebody else's: verify their new identity"
            }
        });
    }
    for (group, leaves) in shared {
        if let Some(device) = device.or(leaves.first()) {
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

/// The groups that this device takes part in and this user is in, each with the user's devices in it.
pub(super) fn groups_with(tx: &Tx<'_>, user: &UserName) -> Result<Vec<(GroupKey, Vec<DeviceId>)>, Error> {
    let mut found = Vec::new();
    for group in groups::in_states(tx.connection(), &[GroupState::Active])? {
        let leaves: Vec<DeviceId> = mls::load(tx, &group)?
            .members()
            .filter_map(|member| mls::who(&member.credential))
            .filter(|(name, _)| name == user)
            .map(|(_, device)| device)
            .collect();
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

fn leaves(group: &MlsGroup) -> Vec<Leaf> {
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
