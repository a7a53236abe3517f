//! Which devices are a user's: the first one, and those that one of them has authorized.

use std::collections::BTreeMap;

use larder_judge::{Link, link_verifies};
use larder_wire::{Authorization, DeviceId, DeviceInfo, USER_DEVICES_EVER_MAX, UserName};
use openmls::prelude::OpenMlsCrypto;

use crate::core::peers::{Peer, Standing};

/// Why a list of devices is not believed at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// It has more devices than a user can ever have had, or more bytes than such a list.
    TooLong,
    /// It begins with another device than the one known before, or with another key of it.
    OtherRoot,
    /// A device that was the user's is not in it, not even as one that was removed.
    Omits(DeviceId),
    /// A device that was the user's is in it with another key, or without a good signature of one before it.
    Denies(DeviceId),
}

/// Which of these devices are the user's, in the order of the list.
///
/// The first device is pinned at first sight. Every other one needs the signature of one before it, and the key that we know
/// it by, if we do. A device that we know to be removed lets nobody in: whoever has it now may not be its owner. What was
/// verified once stays so: a list in which a known device is not the user's any more is refused. This device is one of the
/// known, so a list of its own user's devices leads to it or is refused.
pub(super) fn verify(
    crypto: &impl OpenMlsCrypto,
    (server_name, user): (&str, &UserName),
    devices: &[DeviceInfo],
    known: &[Peer],
) -> Result<Vec<bool>, Distrust> {
    if devices.len() > USER_DEVICES_EVER_MAX {
        return Err(Distrust::TooLong);
    }
    if let (Some(root), Some(first)) = (known.iter().find(|peer| peer.root), devices.first())
        && (root.device_id != first.device_id || root.signature_key != first.mls_signature_key.0)
    {
        return Err(Distrust::OtherRoot);
    }
    let known: BTreeMap<&DeviceId, &Peer> = known.iter().map(|peer| (&peer.device_id, peer)).collect();
    // Those accepted so far, with their keys.
    let mut keys: BTreeMap<&DeviceId, &[u8]> = BTreeMap::new();
    let mut accepted: Vec<bool> = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        let peer = known.get(&device.device_id);
        let as_known = peer.is_none_or(|peer| peer.signature_key == device.mls_signature_key.0);
        let is_new = !peer.is_some_and(|peer| was_theirs(peer.standing));
        let let_in = || match &device.authorization {
            None => index == 0,
            Some(Authorization { by, signature }) => keys.get(by).is_some_and(|by_key| {
                let by_removed = known.get(by).is_some_and(|by| by.standing == Standing::Removed);
                let link = Link {
                    device: device.device_id.clone(),
                    auth_key: device.auth_key.0.clone(),
                    mls_signature_key: device.mls_signature_key.0.clone(),
                    signature: signature.0.clone(),
                };
                !(is_new && by_removed) && link_verifies(crypto, (server_name, user), &link, by_key)
            }),
        };
        let is_theirs = as_known && !keys.contains_key(&device.device_id) && let_in();
        if is_theirs {
            keys.insert(&device.device_id, &device.mls_signature_key.0);
        }
        accepted.push(is_theirs);
    }
    for (device_id, peer) in known {
        if was_theirs(peer.standing) && !keys.contains_key(device_id) {
            let is_listed = devices.iter().any(|device| device.device_id == *device_id);
            return Err(match is_listed {
                true => Distrust::Denies(device_id.clone()),
                false => Distrust::Omits(device_id.clone()),
            });
        }
    }
    Ok(accepted)
}

/// Whether a device of this standing is known to be, or to have been, its user's.
fn was_theirs(standing: Standing) -> bool {
    match standing {
        Standing::Authorized | Standing::Removed => true,
        Standing::Seen | Standing::Unauthorized => false,
    }
}

#[cfg(test)]
mod tests {
    use larder_wire::{Base64Url, LABEL_DEVICE_LINK, link_content, sign_with_label_content};
    use openmls_basic_credential::SignatureKeyPair;
    use openmls_traits::signatures::Signer as _;

    use super::*;
    use crate::core::identity::SCHEME;

    const SERVER: &str = "chat.example";

    fn alice() -> UserName {
        "alice".parse().unwrap()
    }

    fn device(id: &str) -> (SignatureKeyPair, DeviceInfo) {
        let keys = SignatureKeyPair::new(SCHEME).unwrap();
        let info = DeviceInfo {
            device_id: id.parse().unwrap(),
            auth_key: Base64Url(vec![7; 32]),
            mls_signature_key: Base64Url(keys.to_public_vec()),
            authorization: None,
            removed_at: None,
        };
        (keys, info)
    }

    fn authorize(by: (&SignatureKeyPair, &DeviceInfo), new: &mut DeviceInfo) {
        let content = link_content(
            SERVER,
            &alice(),
            &new.device_id,
            &new.auth_key.0,
            &new.mls_signature_key.0,
        );
        let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
        new.authorization = Some(Authorization {
            by: by.1.device_id.clone(),
            signature: Base64Url(by.0.sign(&labelled).unwrap()),
        });
    }

    fn peer(info: &DeviceInfo, standing: Standing, root: bool) -> Peer {
        Peer {
            device_id: info.device_id.clone(),
            signature_key: info.mls_signature_key.0.clone(),
            standing,
            root,
        }
    }

    fn verified(devices: &[DeviceInfo], known: &[Peer]) -> Result<Vec<bool>, Distrust> {
        let crypto = openmls_rust_crypto::RustCrypto::default();
        verify(&crypto, (SERVER, &alice()), devices, known)
    }

    /// A first device, a second that it authorized, a third that the second did.
    fn chain() -> Vec<DeviceInfo> {
        let ((first_keys, first), (second_keys, mut second), (_, mut third)) =
            (device("d-1"), device("d-2"), device("d-3"));
        authorize((&first_keys, &first), &mut second);
        authorize((&second_keys, &second), &mut third);
        vec![first, second, third]
    }

    #[test]
    fn r_c8_each_device_is_let_in_by_one_before_it() {
        let devices = chain();
        assert_eq!(verified(&devices, &[]), Ok(vec![true; 3]));
        let mut without_link = devices.clone();
        without_link.remove(1);
        assert_eq!(verified(&without_link, &[]), Ok(vec![true, false]));
        let mut backwards = devices.clone();
        backwards.swap(1, 2);
        assert_eq!(verified(&backwards, &[]), Ok(vec![true, false, true]));
    }

    #[test]
    fn r_c8_what_a_signature_does_not_cover_is_not_let_in() {
        let forge = |change: fn(&mut DeviceInfo)| {
            let mut devices = chain();
            change(&mut devices[1]);
            verified(&devices, &[]).unwrap()
        };
        assert_eq!(forge(|_| {}), [true; 3]);
        for forged in [
            forge(|device| device.mls_signature_key = Base64Url(vec![1; 32])),
            forge(|device| device.auth_key = Base64Url(vec![1; 32])),
            forge(|device| device.device_id = "d-4".parse().unwrap()),
            forge(|device| device.authorization = None),
            forge(|device| {
                if let Some(authorization) = &mut device.authorization {
                    authorization.by = "d-2".parse().unwrap();
                }
            }),
        ] {
            assert!(!forged[1], "{forged:?}");
            assert!(!forged[2], "nor what it authorized: {forged:?}");
        }
        // The same device under another name, and one of another user.
        let mut devices = chain();
        devices.push(devices[1].clone());
        assert_eq!(verified(&devices, &[]), Ok(vec![true, true, true, false]));
        let crypto = openmls_rust_crypto::RustCrypto::default();
        let bob = "bob".parse().unwrap();
        assert_eq!(
            verify(&crypto, (SERVER, &bob), &chain(), &[]),
            Ok(vec![true, false, false])
        );
        assert_eq!(
            verify(&crypto, ("other.example", &alice()), &chain(), &[]),
            Ok(vec![true, false, false])
        );
    }

    #[test]
    fn r_c8_the_first_device_is_the_one_pinned_and_none_that_was_known_is_left_out() {
        let devices = chain();
        let known = [
            peer(&devices[0], Standing::Authorized, true),
            peer(&devices[1], Standing::Removed, false),
        ];
        assert_eq!(verified(&devices[..2], &known), Ok(vec![true; 2]));
        let others = chain();
        let mut other_key = devices.clone();
        other_key[0].mls_signature_key = others[0].mls_signature_key.clone();
        assert_eq!(verified(&other_key, &known), Err(Distrust::OtherRoot));
        assert_eq!(
            verified(&devices[..1], &known),
            Err(Distrust::Omits(devices[1].device_id.clone()))
        );
        assert_eq!(
            verified(&[], &known),
            Err(Distrust::Omits(devices[0].device_id.clone()))
        );
        // A key that was seen in a group holds.
        let mut seen = peer(&devices[1], Standing::Seen, false);
        seen.signature_key = vec![1; 32];
        assert_eq!(verified(&devices, &[seen]), Ok(vec![true, false, false]));
    }

    #[test]
    fn a_device_that_was_verified_once_is_not_denied_later() {
        let devices = chain();
        let known: Vec<Peer> = devices
            .iter()
            .map(|device| peer(device, Standing::Authorized, device.authorization.is_none()))
            .collect();
        assert_eq!(verified(&devices, &known), Ok(vec![true; 3]));
        let denied = |change: &dyn Fn(&mut DeviceInfo), which: usize| {
            let mut devices = devices.clone();
            change(&mut devices[which]);
            assert_eq!(
                verified(&devices, &known),
                Err(Distrust::Denies(devices[which].device_id.clone()))
            );
        };
        denied(&|device| device.authorization = None, 2);
        denied(&|device| device.mls_signature_key = Base64Url(vec![1; 32]), 2);
        // A root is one because nobody authorized it.
        let authorization = devices[1].authorization.clone();
        denied(&|device| device.authorization = authorization.clone(), 0);
    }

    #[test]
    fn the_list_of_this_devices_user_leads_from_its_root_to_it() {
        let ((own_keys, own), (evil_keys, evil)) = (device("d-1"), device("d-evil"));
        // A device that registered is its own root.
        let registered = [peer(&own, Standing::Authorized, true)];
        let mut let_in = own.clone();
        authorize((&evil_keys, &evil), &mut let_in);
        assert_eq!(
            verified(&[evil.clone(), let_in.clone()], &registered),
            Err(Distrust::OtherRoot)
        );
        assert_eq!(
            verified(&[evil.clone(), own.clone()], &registered),
            Err(Distrust::OtherRoot)
        );
        assert_eq!(
            verified(&[own.clone(), evil.clone()], &registered),
            Ok(vec![true, false])
        );
        // One that was linked and has seen no list takes what leads to it, and nothing else.
        let linked = [peer(&own, Standing::Authorized, false)];
        assert_eq!(verified(&[evil.clone(), let_in], &linked), Ok(vec![true; 2]));
        assert_eq!(
            verified(&[evil.clone(), own.clone()], &linked),
            Err(Distrust::Denies(own.device_id.clone()))
        );
        assert_eq!(
            verified(&[evil], &linked),
            Err(Distrust::Omits(own.device_id.clone()))
        );
        drop(own_keys);
    }

    #[test]
    fn a_list_is_no_longer_than_one_can_be() {
        let (keys, first) = device("d-0");
        let mut devices = vec![first];
        for number in 1..=USER_DEVICES_EVER_MAX {
            let mut next = devices[0].clone();
            next.device_id = format!("d-{number}").parse().unwrap();
            authorize((&keys, &devices[0]), &mut next);
            devices.push(next);
        }
        assert_eq!(verified(&devices, &[]), Err(Distrust::TooLong));
        devices.pop();
        assert_eq!(verified(&devices, &[]), Ok(vec![true; USER_DEVICES_EVER_MAX]));
    }

    #[test]
    fn r_s7_a_device_that_is_known_to_be_removed_lets_nobody_in_any_more() {
        let mut devices = chain();
        devices[1].removed_at = Some(1);
        let mut known = vec![
            peer(&devices[0], Standing::Authorized, true),
            peer(&devices[1], Standing::Removed, false),
        ];
        assert_eq!(verified(&devices, &known), Ok(vec![true, true, false]));
        // What it let in while it was the user's stays.
        known.push(peer(&devices[2], Standing::Authorized, false));
        assert_eq!(verified(&devices, &known), Ok(vec![true; 3]));
        known.truncate(1);
        assert_eq!(verified(&devices, &known), Ok(vec![true; 3]));
    }
}
