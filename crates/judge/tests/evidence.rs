//! How evidence travels: one text for each, bounded, and nothing after it.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use larder_judge::{EVIDENCE_BYTES_MAX, Evidence, LINKS_MAX, Leaf, MalformedEvidence};
use larder_wire::{Authorization, Base64Url, DeviceInfo};
use proptest::prelude::*;

fn leaf(device: usize) -> Leaf {
    Leaf {
        user: "bob".parse().unwrap(),
        device: format!("d-{device}").parse().unwrap(),
        signature_key: vec![1; 32],
    }
}

/// A list in which each device was let in by the one before.
fn chain(devices: usize) -> Vec<DeviceInfo> {
    (0..devices)
        .map(|device| DeviceInfo {
            device_id: leaf(device).device,
            auth_key: Base64Url(vec![2; 32]),
            mls_signature_key: Base64Url(vec![1; 32]),
            authorization: device.checked_sub(1).map(|by| Authorization {
                by: leaf(by).device,
                signature: Base64Url(vec![3; 64]),
            }),
            removed_at: None,
            removal: None,
        })
        .collect()
}

fn evidence(devices: usize) -> Option<Evidence> {
    Evidence::gather(&[leaf(0)], &leaf(devices - 1), &chain(devices))
}

#[test]
fn evidence_is_the_documented_byte_string() {
    let mut expected = vec![1, 3];
    expected.extend(b"d-0");
    // 4 + 33 + 33 + 66 bytes: a length of 64 and more takes two.
    expected.extend([0x40, 136, 3]);
    expected.extend(b"d-1");
    expected.push(32);
    expected.extend([2; 32]);
    expected.push(32);
    expected.extend([1; 32]);
    expected.extend([0x40, 64]);
    expected.extend([3; 64]);
    assert_eq!(evidence(2).unwrap().to_bytes(), expected);
}

#[test]
fn evidence_survives_its_journey_and_nothing_else_reads_as_it() {
    let bytes = evidence(3).unwrap().to_bytes();
    assert_eq!(Evidence::from_bytes(&bytes), Ok(evidence(3).unwrap()));
    let mut later = bytes.clone();
    later[0] = 2;
    // The first length in two bytes instead of one.
    let longer = [&bytes[..1], &[0x40, 3], &bytes[2..]].concat();
    let none = [1, 3, b'd', b'-', b'0', 0];
    for bad in [
        &[][..],
        &[1],
        &later,
        &longer,
        &none,
        &bytes[..bytes.len() - 1],
        &[&bytes[..], &[0]].concat(),
        &vec![1; EVIDENCE_BYTES_MAX + 1],
    ] {
        assert_eq!(Evidence::from_bytes(bad), Err(MalformedEvidence));
    }
}

#[test]
fn a_chain_is_as_long_as_a_user_can_have_devices_and_no_longer() {
    let longest = evidence(LINKS_MAX + 1).unwrap().to_bytes();
    assert!(longest.len() <= EVIDENCE_BYTES_MAX, "{}", longest.len());
    assert!(Evidence::from_bytes(&longest).is_ok());
    assert_eq!(evidence(LINKS_MAX + 2), None);
    // A list that goes round in circles.
    let mut circle = chain(3);
    circle[1].authorization = Some(Authorization {
        by: leaf(2).device,
        signature: Base64Url(vec![3; 64]),
    });
    assert_eq!(Evidence::gather(&[leaf(0)], &leaf(2), &circle), None);
}

proptest! {
    #[test]
    fn bytes_are_evidence_only_if_they_are_its_one_text(
        mut bytes in Just(evidence(2).unwrap().to_bytes()),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(read) = Evidence::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes.clone());
        }
        prop_assert!(Evidence::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
