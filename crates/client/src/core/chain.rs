//! Which devices are a user's: the first one, and those that one of them has authorized and none has removed.

use std::collections::{BTreeMap, BTreeSet};

use larder_judge::{Link, link_verifies, removal_verifies};
use larder_wire::{Authorization, Base64Url, DeviceId, DeviceInfo, Removal, USER_DEVICES_EVER_MAX, UserName};
use openmls::prelude::OpenMlsCrypto;

use crate::core::peers::{Peer, REMOVERS_MAX, Standing};

/// Why a list of devices is not believed at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// It has more devices than a user can ever have had, or more bytes than such a list.
    TooLong,
    /// It names a device twice, or two devices with one key.
    Twice,
    /// It begins with another device than the one known before, or with another key of it.
    OtherRoot,
    /// A device that was the user's is not in it, not even as one that was removed.
    Omits(DeviceId),
    /// A device that was the user's is in it with another key, or without a good signature of one before it.
    Denies(DeviceId),
}

/// What a list of devices, which is believed, says of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// It is one of the user's.
    Theirs,
    /// It was, and one of the user's has removed it.
    Removed,
    /// It is, and the server says that it was removed. None of the user's has signed that, or none that may.
    SaidRemoved,
    /// None of the user's has let it in.
    NotTheirs,
}

/// What is to be known of a device of the list, and by whose signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) judged: Judged,
    /// The device of the user that let it in; `None` for the first one, and for one that is not theirs.
    pub(super) let_in_by: Option<DeviceId>,
    /// The devices of the user that removed it; none unless it is [removed](Judged::Removed).
    pub(super) removed_by: Vec<DeviceId>,
}

/// What the list says of each device, in its order.
///
/// The first device is pinned at first sight. Every other one needs the signature of one before it, and the
/// key that we know it by and the device that let it in as we know it, if we do. A device that we know to be
/// removed lets nobody in and removes nobody: whoever has it now may not be its owner. It stays removed,
/// unless it has itself removed the one that removed it, and stands nearer to the first device. What was
/// verified once stays so: a list in which a known device is not the user's any more is refused. This device
/// is one of the known, so a list of its own user's devices leads to it or is refused.
pub(super) fn verify(
    crypto: &impl OpenMlsCrypto,
    server_and_user: (&str, &UserName),
    devices: &[DeviceInfo],
    known: &[Peer],
) -> Result<Vec<Entry>, Distrust> {
    if devices.len() > USER_DEVICES_EVER_MAX {
        return Err(Distrust::TooLong);
    }
    let ids: BTreeSet<&DeviceId> = devices.iter().map(|device| &device.device_id).collect();
    let keys: BTreeSet<&[u8]> = devices
        .iter()
        .map(|device| &*device.mls_signature_key.0)
        .collect();
    if ids.len() < devices.len() || keys.len() < devices.len() {
        return Err(Distrust::Twice);
    }
    if let (Some(root), Some(first)) = (known.iter().find(|peer| peer.root), devices.first())
        && (root.device_id != first.device_id || root.signature_key != first.mls_signature_key.0)
    {
        return Err(Distrust::OtherRoot);
    }
    let known = known.iter().map(|peer| (&peer.device_id, peer)).collect();
    let mut judging = Judging {
        crypto,
        server_and_user,
        devices,
        known: &known,
        restored: BTreeSet::new(),
    };
    let mut theirs = judging.let_in();
    for (device_id, peer) in &known {
        if was_theirs(peer.standing) && !theirs.contains_key(device_id) {
            return Err(match ids.contains(device_id) {
                true => Distrust::Denies((*device_id).clone()),
                false => Distrust::Omits((*device_id).clone()),
            });
        }
    }
    judging.restored = judging.restored(&theirs);
    if !judging.restored.is_empty() {
        // They let others in again.
        theirs = judging.let_in();
    }
    let removed = judging.removed(&theirs);
    let entries = devices.iter().map(|device| {
        let is_theirs = theirs.contains_key(&device.device_id);
        let removers = removed.get(&device.device_id);
        Entry {
            judged: match (is_theirs, removers, device.removed_at) {
                (false, _, _) => Judged::NotTheirs,
                (true, Some(_), _) => Judged::Removed,
                (true, None, Some(_)) => Judged::SaidRemoved,
                (true, None, None) => Judged::Theirs,
            },
            let_in_by: device
                .authorization
                .as_ref()
                .filter(|_| is_theirs)
                .map(|authorization| authorization.by.clone()),
            removed_by: removers.into_iter().flatten().map(|&by| by.clone()).collect(),
        }
    });
    Ok(entries.collect())
}

/// The place of a device among its user's.
struct Place<'a> {
    /// In the list.
    index: usize,
    signature_key: &'a [u8],
    /// How many others stand between it and the first device, which let it in one by the other.
    distance: usize,
}

struct Judging<'a, C> {
    crypto: &'a C,
    server_and_user: (&'a str, &'a UserName),
    devices: &'a [DeviceInfo],
    known: &'a BTreeMap<&'a DeviceId, &'a Peer>,
    /// Those that we know to be removed, and that are not, by this list.
    restored: BTreeSet<&'a DeviceId>,
}

impl<'a, C: OpenMlsCrypto> Judging<'a, C> {
    /// Those that are or were the user's.
    fn let_in(&self) -> BTreeMap<&'a DeviceId, Place<'a>> {
        let mut theirs: BTreeMap<&DeviceId, Place<'a>> = BTreeMap::new();
        for (index, device) in self.devices.iter().enumerate() {
            let peer = self.known.get(&device.device_id);
            if !peer.is_none_or(|peer| is_as_known(peer, device)) {
                continue;
            }
            let distance = match &device.authorization {
                None => (index == 0).then_some(0),
                Some(Authorization { by, signature }) => theirs
                    .get(by)
                    .filter(|by_place| self.links(device, (by, by_place.signature_key), signature))
                    .map(|by_place| by_place.distance + 1),
            };
            if let Some(distance) = distance {
                let place = Place {
                    index,
                    signature_key: &device.mls_signature_key.0,
                    distance,
                };
                theirs.insert(&device.device_id, place);
            }
        }
        theirs
    }

    fn links(&self, device: &DeviceInfo, (by, by_key): (&DeviceId, &[u8]), signature: &Base64Url) -> bool {
        let link = Link {
            device: device.device_id.clone(),
            auth_key: device.auth_key.0.clone(),
            mls_signature_key: device.mls_signature_key.0.clone(),
            signature: signature.0.clone(),
        };
        let was_theirs = self.standing(&device.device_id).is_some_and(was_theirs);
        (was_theirs || !self.is_known_as_removed(by))
            && link_verifies(self.crypto, self.server_and_user, &link, by_key)
    }

    /// Those that we know to be removed and that have removed whoever removed them, all of which stand farther
    /// from the first device. So it does not matter which of such removals was heard of first.
    fn restored(&self, theirs: &BTreeMap<&'a DeviceId, Place<'a>>) -> BTreeSet<&'a DeviceId> {
        let gives_way_to = |by: &DeviceId, (device, place): (&DeviceId, &Place<'a>)| {
            theirs.get_key_value(by).is_some_and(|(by, by_place)| {
                place.distance < by_place.distance
                    && self
                        .removal(by, by_place, theirs)
                        .is_some_and(|(_, by)| by == device)
            })
        };
        let is_restored = |(device, peer): (&&'a DeviceId, &&'a Peer)| {
            let place = theirs.get(*device)?;
            let is_removed = peer.standing == Standing::Removed;
            let give_way = |by| gives_way_to(by, (*device, place));
            (is_removed && peer.removed_by.iter().all(give_way)).then_some(*device)
        };
        self.known.iter().filter_map(is_restored).collect()
    }

    /// Those of the user's that are removed, and by which of them. A removal counts unless its signer was
    /// itself removed by one that stands nearer to the first device: of two that remove one another, the
    /// nearer one counts.
    fn removed(
        &self,
        theirs: &BTreeMap<&'a DeviceId, Place<'a>>,
    ) -> BTreeMap<&'a DeviceId, Vec<&'a DeviceId>> {
        let mut removed: BTreeMap<&DeviceId, Vec<&DeviceId>> = BTreeMap::new();
        for (device, peer) in self.known {
            if self.is_known_as_removed(device) {
                removed.insert(*device, peer.removed_by.iter().collect());
            }
        }
        let mut by_signer: BTreeMap<(usize, &DeviceId), Vec<&DeviceId>> = BTreeMap::new();
        for (&device, place) in theirs {
            if let Some(signer) = self.removal(device, place, theirs) {
                by_signer.entry(signer).or_default().push(device);
            }
        }
        for ((_, by), devices) in by_signer {
            if removed.contains_key(by) {
                continue;
            }
            for device in devices {
                // None that is known is given up for another: it may be the one that a group shows to be theirs.
                let removers = removed.entry(device).or_default();
                if removers.len() < REMOVERS_MAX && !removers.contains(&by) {
                    removers.push(by);
                }
            }
        }
        removed
    }

    /// Which device of the user has signed the removal of this one that the list has, and how far that one
    /// stands from the first.
    fn removal(
        &self,
        device: &'a DeviceId,
        place: &Place<'a>,
        theirs: &BTreeMap<&'a DeviceId, Place<'a>>,
    ) -> Option<(usize, &'a DeviceId)> {
        let Removal { by, signature } = self.devices.get(place.index)?.removal.as_ref()?;
        let by_place = theirs.get(by)?;
        removal_verifies(
            self.crypto,
            self.server_and_user,
            (device, place.signature_key),
            &signature.0,
            by_place.signature_key,
        )
        .then_some((by_place.distance, by))
    }

    fn standing(&self, device: &DeviceId) -> Option<Standing> {
        self.known.get(device).map(|peer| peer.standing)
    }

    fn is_known_as_removed(&self, device: &DeviceId) -> bool {
        self.standing(device) == Some(Standing::Removed) && !self.restored.contains(device)
    }
}

/// Whether the list has a known device with the key, and let in by the device, that it is known by.
fn is_as_known(peer: &Peer, device: &DeviceInfo) -> bool {
    let by = device
        .authorization
        .as_ref()
        .map(|authorization| &authorization.by);
    peer.signature_key == device.mls_signature_key.0
        && (peer.let_in_by.is_none() || peer.let_in_by.as_ref() == by)
}

/// Whether a device of this standing is known to be, or to have been, its user's.
fn was_theirs(standing: Standing) -> bool {
    match standing {
        Standing::Authorized | Standing::Removed | Standing::SaidRemoved => true,
        Standing::Seen | Standing::Unauthorized => false,
    }
}

#[cfg(test)]
mod tests;
