use larder_wire::{
    LABEL_DEVICE_LINK, LABEL_DEVICE_REMOVAL, link_content, removal_content, sign_with_label_content,
};
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
        removal: None,
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

/// A known device. A removed one was so by the first device of these tests.
fn peer(info: &DeviceInfo, standing: Standing, root: bool) -> Peer {
    Peer {
        standing,
        removed_by: match standing {
            Standing::Removed => vec!["d-1".parse().unwrap()],
            _ => Vec::new(),
        },
        ..Peer::present(info.device_id.clone(), info.mls_signature_key.0.clone(), root)
    }
}

fn remove(by: (&SignatureKeyPair, &DeviceInfo), device: &mut DeviceInfo) {
    let content = removal_content(SERVER, &alice(), &device.device_id, &device.mls_signature_key.0);
    let labelled = sign_with_label_content(LABEL_DEVICE_REMOVAL, &content);
    device.removed_at = Some(1);
    device.removal = Some(Removal {
        by: by.1.device_id.clone(),
        signature: Base64Url(by.0.sign(&labelled).unwrap()),
    });
}

fn entries(devices: &[DeviceInfo], known: &[Peer]) -> Result<Vec<Entry>, Distrust> {
    let crypto = openmls_rust_crypto::RustCrypto::default();
    verify(&crypto, (SERVER, &alice()), devices, known)
}

fn judged(devices: &[DeviceInfo], known: &[Peer]) -> Result<Vec<Judged>, Distrust> {
    Ok(entries(devices, known)?
        .iter()
        .map(|entry| entry.judged)
        .collect())
}

/// What is known after this list.
fn known_by(devices: &[DeviceInfo], known: &[Peer]) -> Vec<Peer> {
    let listed = devices.iter().zip(entries(devices, known).unwrap());
    let peers = listed.enumerate().map(|(index, (device, entry))| Peer {
        standing: match entry.judged {
            Judged::Theirs => Standing::Authorized,
            Judged::Removed => Standing::Removed,
            Judged::SaidRemoved => Standing::SaidRemoved,
            Judged::NotTheirs => Standing::Unauthorized,
        },
        let_in_by: entry.let_in_by,
        removed_by: entry.removed_by,
        ..peer(device, Standing::Authorized, index == 0)
    });
    peers.collect()
}

/// Which of them are or were the user's.
fn verified(devices: &[DeviceInfo], known: &[Peer]) -> Result<Vec<bool>, Distrust> {
    Ok(judged(devices, known)?
        .iter()
        .map(|judged| *judged != Judged::NotTheirs)
        .collect())
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
    // One of another user, and at another server.
    let crypto = openmls_rust_crypto::RustCrypto::default();
    let bob = "bob".parse().unwrap();
    for elsewhere in [(SERVER, &bob), ("other.example", &alice())] {
        let entries = verify(&crypto, elsewhere, &chain(), &[]).unwrap();
        let theirs = entries.iter().map(|entry| entry.judged != Judged::NotTheirs);
        assert_eq!(theirs.collect::<Vec<_>>(), [true, false, false]);
    }
}

#[test]
fn a_list_that_names_a_device_or_a_key_twice_is_not_believed() {
    let devices = chain();
    for first_seen in [true, false] {
        let known = match first_seen {
            true => Vec::new(),
            false => known_by(&devices, &[]),
        };
        let mut by_id = devices.clone();
        by_id.push(devices[1].clone());
        assert_eq!(judged(&by_id, &known), Err(Distrust::Twice));
        // With another key, and with a key that another device has.
        by_id[3].mls_signature_key = Base64Url(vec![1; 32]);
        assert_eq!(judged(&by_id, &known), Err(Distrust::Twice));
        let mut by_key = devices.clone();
        by_key.push(DeviceInfo {
            device_id: "d-4".parse().unwrap(),
            ..devices[1].clone()
        });
        assert_eq!(judged(&by_key, &known), Err(Distrust::Twice));
    }
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
    // It was let in by another one, which has signed that, too.
    let (keys, mut family) = family();
    let known = known_by(&family, &[]);
    let other = family[1].clone();
    authorize((&keys[1], &other), &mut family[2]);
    assert_eq!(
        verified(&family, &known),
        Err(Distrust::Denies(family[2].device_id.clone()))
    );
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
        next.mls_signature_key.0[..2].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
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

/// A first device, two that it authorized, and one that the second of these did, with their keys.
fn family() -> (Vec<SignatureKeyPair>, Vec<DeviceInfo>) {
    let (keys, mut devices): (Vec<_>, Vec<_>) = ["d-1", "d-2", "d-3", "d-4"].map(device).into_iter().unzip();
    for (by, new) in [(0, 1), (0, 2), (2, 3)] {
        let authorizing = devices[by].clone();
        authorize((&keys[by], &authorizing), &mut devices[new]);
    }
    (keys, devices)
}

/// The family, in which these have removed those.
fn family_after(removals: &[(usize, usize)]) -> Vec<DeviceInfo> {
    let (keys, mut devices) = family();
    for &(by, device) in removals {
        let removing = devices[by].clone();
        remove((&keys[by], &removing), &mut devices[device]);
    }
    devices
}

fn judge_removals(removals: &[(usize, usize)]) -> Vec<Judged> {
    judged(&family_after(removals), &[]).unwrap()
}

#[test]
fn a_removal_counts_when_a_device_of_the_user_signed_it() {
    use Judged::{Removed, Theirs};
    assert_eq!(judge_removals(&[]), [Theirs; 4]);
    assert_eq!(judge_removals(&[(0, 1)]), [Theirs, Removed, Theirs, Theirs]);
    assert_eq!(judge_removals(&[(3, 0)]), [Removed, Theirs, Theirs, Theirs]);
    // Itself, after it has removed another.
    assert_eq!(
        judge_removals(&[(2, 1), (2, 2)]),
        [Theirs, Removed, Removed, Theirs]
    );
    let all = [(0, 0), (0, 1), (0, 2), (0, 3)];
    assert_eq!(judge_removals(&all), [Removed; 4]);
}

#[test]
fn of_mutual_removals_the_one_nearer_to_the_root_counts() {
    use Judged::{Removed, SaidRemoved, Theirs};
    assert_eq!(
        judge_removals(&[(0, 3), (3, 0)]),
        [SaidRemoved, Theirs, Theirs, Removed]
    );
    assert_eq!(
        judge_removals(&[(3, 2), (2, 3)]),
        [Theirs, Theirs, SaidRemoved, Removed]
    );
    // What was removed by the nearer one has removed nobody else either.
    assert_eq!(
        judge_removals(&[(0, 3), (3, 1)]),
        [Theirs, SaidRemoved, Theirs, Removed]
    );
    // And whom the farther one had removed has removed whom it has.
    assert_eq!(
        judge_removals(&[(0, 2), (2, 3), (3, 1)]),
        [Theirs, Removed, Removed, SaidRemoved]
    );
}

#[test]
fn a_removal_without_a_good_signature_is_the_servers_word() {
    use Judged::{SaidRemoved, Theirs};
    let signed = family_after(&[(0, 1)]);
    let forge = |change: &dyn Fn(&mut Removal)| {
        let mut devices = signed.clone();
        change(devices[1].removal.as_mut().unwrap());
        judged(&devices, &[]).unwrap()
    };
    let said = [Theirs, SaidRemoved, Theirs, Theirs];
    assert_eq!(forge(&|_| {})[1], Judged::Removed);
    assert_eq!(forge(&|removal| removal.signature.0[0] ^= 1), said);
    assert_eq!(forge(&|removal| removal.by = "d-3".parse().unwrap()), said);
    assert_eq!(forge(&|removal| removal.by = "d-9".parse().unwrap()), said);
    let mut unsigned = signed.clone();
    unsigned[1].removal = None;
    assert_eq!(judged(&unsigned, &[]).unwrap(), said);
    // One that nobody let in removes nobody.
    let (stranger_keys, stranger) = device("d-5");
    let mut by_a_stranger = signed.clone();
    remove((&stranger_keys, &stranger), &mut by_a_stranger[1]);
    by_a_stranger.push(stranger);
    assert_eq!(judged(&by_a_stranger, &[]).unwrap()[1], SaidRemoved);
}

#[test]
fn a_device_that_is_known_to_be_removed_removes_nobody_any_more() {
    let devices = family_after(&[(0, 0), (0, 1)]);
    let known_as = |second: Standing| {
        let mut known = vec![peer(&devices[0], Standing::Removed, true)];
        known.push(peer(&devices[1], second, false));
        let others = devices[2..].iter();
        known.extend(others.map(|device| peer(device, Standing::Authorized, false)));
        judged(&devices, &known).unwrap()[1]
    };
    assert_eq!(known_as(Standing::Authorized), Judged::SaidRemoved);
    assert_eq!(known_as(Standing::Removed), Judged::Removed);
}

#[test]
fn a_known_removal_gives_way_to_that_of_a_nearer_device() {
    use Judged::{Removed, SaidRemoved, Theirs};
    let (keys, unremoved) = family();
    let after = |removals: &[(usize, usize)]| {
        let mut devices = unremoved.clone();
        for &(by, device) in removals {
            let removing = unremoved[by].clone();
            remove((&keys[by], &removing), &mut devices[device]);
        }
        devices
    };
    let then = |first: &[(usize, usize)], second: &[(usize, usize)]| {
        judged(&after(second), &known_by(&after(first), &[])).unwrap()
    };
    // The farther one is heard first, the nearer one later, with or without it.
    assert_eq!(then(&[(3, 0)], &[]), [Removed, Theirs, Theirs, Theirs]);
    assert_eq!(
        then(&[(3, 0)], &[(3, 0), (0, 3)]),
        [SaidRemoved, Theirs, Theirs, Removed]
    );
    assert_eq!(then(&[(3, 0)], &[(0, 3)]), [Theirs, Theirs, Theirs, Removed]);
    // The nearer one first.
    assert_eq!(
        then(&[(0, 3)], &[(3, 0), (0, 3)]),
        [SaidRemoved, Theirs, Theirs, Removed]
    );
    // Both are known for good.
    let both = known_by(&after(&[(3, 0), (0, 3)]), &known_by(&after(&[(3, 0)]), &[]));
    assert_eq!(
        judged(&unremoved, &both).unwrap(),
        [Theirs, Theirs, Theirs, Removed]
    );
    // Who is removed removes nobody else, nor does one that stands no nearer undo it; what it did to others
    // stays.
    assert_eq!(
        then(&[(3, 2)], &[(3, 2), (2, 1)]),
        [Theirs, SaidRemoved, Removed, Theirs]
    );
    assert_eq!(
        then(&[(1, 2)], &[(1, 2), (2, 1)]),
        [Theirs, SaidRemoved, Removed, Theirs]
    );
    assert_eq!(
        then(&[(3, 1)], &[(3, 1), (0, 3)]),
        [Theirs, Removed, Theirs, Removed]
    );
}

#[test]
fn a_removal_by_a_nearer_one_is_not_undone_through_another() {
    use Judged::{Removed, SaidRemoved, Theirs};
    let (keys, unremoved) = family();
    let removed = |by: usize, device: usize, devices: &mut [DeviceInfo]| {
        let removing = unremoved[by].clone();
        remove((&keys[by], &removing), &mut devices[device]);
    };
    let mut devices = unremoved.clone();
    removed(3, 2, &mut devices);
    let known = known_by(&devices, &[]);
    // The first device has removed it, too, before the list says again that another one has.
    removed(0, 2, &mut devices);
    let known = known_by(&devices, &known);
    let removers: Vec<DeviceId> = ["d-4", "d-1"].map(|id| id.parse().unwrap()).into();
    assert_eq!(known[2].removed_by, removers);
    removed(3, 2, &mut devices);
    removed(2, 3, &mut devices);
    let entries = entries(&devices, &known).unwrap();
    assert_eq!(entries[2].removed_by, removers, "none is given up for another");
    let judged: Vec<Judged> = entries.iter().map(|entry| entry.judged).collect();
    assert_eq!(judged, [Theirs, Theirs, Removed, SaidRemoved]);
}

#[test]
fn who_comes_back_lets_others_in_again() {
    let (keys, mut devices) = family();
    let (_, mut new) = device("d-5");
    let (first, fourth) = (devices[0].clone(), devices[3].clone());
    remove((&keys[3], &fourth), &mut devices[0]);
    let known = known_by(&devices, &[]);
    authorize((&keys[0], &first), &mut new);
    devices.push(new);
    assert_eq!(judged(&devices, &known).unwrap()[4], Judged::NotTheirs);
    remove((&keys[0], &first), &mut devices[3]);
    assert_eq!(judged(&devices, &known).unwrap()[4], Judged::Theirs);
}
