//! The number that two people compare to know that nobody stands between them, and that of a group's epoch.
//!
//! It is made as Signal makes its numeric fingerprints (libsignal, `rust/protocol/src/fingerprint.rs`): each side has 30 digits, a
//! hash of its keys and its name that takes 5,200 rounds to try another key; both are put in order, so that both people see the
//! same. Where Signal hashes one identity key, this hashes all keys of a user's devices, because each of them reads along.

use std::collections::BTreeSet;

use larder_wire::{Base64Url, UserName};
use sha2::{Digest, Sha512};

/// Changes whenever anything else in here does.
const VERSION: u8 = 1;
const LABEL: &[u8] = b"larder safety number";
const EPOCH_LABEL: &[u8] = b"larder epoch code";
const ROUNDS: u32 = 5200;
/// Digits of each side, and of each group.
const DIGITS: usize = 30;
const GROUP_DIGITS: usize = 5;
/// Digits of the code of an epoch: 66 bits, and whoever wants to make two epochs alike has to stretch each try.
const EPOCH_DIGITS: usize = 20;
/// Bytes of the hash that make one group of digits.
const GROUP_BYTES: usize = 5;
/// The part of the hash that a scanned code carries.
const SCANNED_BYTES: usize = 32;
/// Tells a scanned code from any other.
const SCANNED_PREFIX: &str = "larder-safety:";

/// A user's keys in one hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 64]);

impl Fingerprint {
    pub(super) fn of<'a>(user: &UserName, keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // A set has one order.
        let keys: BTreeSet<&[u8]> = keys.into_iter().collect();
        Self(stretched(
            LABEL,
            [user.as_str().as_bytes()].into_iter().chain(keys),
        ))
    }

    fn digits(&self) -> String {
        digits(&self.0, DIGITS)
    }

    fn scanned(&self) -> &[u8] {
        self.0.get(..SCANNED_BYTES).unwrap_or_default()
    }
}

/// A hash that takes all rounds to try others.
fn stretched<'a>(label: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 64] {
    let mut identity = vec![VERSION];
    identity.extend_from_slice(label);
    for part in parts {
        // Where one part ends and the next begins is hashed too. No part is as long as a length can say.
        identity.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        identity.extend_from_slice(part);
    }
    let mut hash: [u8; 64] = Sha512::digest(&identity).into();
    for _ in 1..ROUNDS {
        hash = Sha512::new()
            .chain_update(hash)
            .chain_update(&identity)
            .finalize()
            .into();
    }
    hash
}

/// So many digits of a hash, in groups of five.
fn digits(hash: &[u8; 64], count: usize) -> String {
    hash.chunks_exact(GROUP_BYTES)
        .take(count / GROUP_DIGITS)
        .map(|bytes| {
            let number = bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte));
            format!("{:05}", number % 100_000)
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// What members of a group compare, of its id, its epoch and the epoch authenticator (RFC 9420 §8.7).
pub(super) fn epoch_code(group_id: &[u8], epoch: u64, authenticator: &[u8]) -> String {
    let hash = stretched(EPOCH_LABEL, [group_id, &epoch.to_be_bytes(), authenticator]);
    digits(&hash, EPOCH_DIGITS)
}

/// 60 digits in groups of five, the same for both.
pub(super) fn number(one: &Fingerprint, other: &Fingerprint) -> String {
    let (one, other) = (one.digits(), other.digits());
    if one <= other {
        format!("{one} {other}")
    } else {
        format!("{other} {one}")
    }
}

/// What a device of `mine`'s user shows for one of `theirs` to scan: more of the hashes than fits into digits, own ones first.
pub(super) fn code(mine: &Fingerprint, theirs: &Fingerprint) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(mine.scanned());
    bytes.extend_from_slice(theirs.scanned());
    format!("{SCANNED_PREFIX}{}", Base64Url(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn fingerprint(user: &str, keys: &[[u8; 32]]) -> Fingerprint {
        Fingerprint::of(&name(user), keys.iter().map(<[u8; 32]>::as_slice))
    }

    /// Computed by another program, from the description.
    #[test]
    fn r_c8_the_number_of_these_keys_is_this_one() {
        let alice = fingerprint("alice", &[[1; 32], [2; 32]]);
        let bob = fingerprint("bob", &[[3; 32]]);
        assert_eq!(
            number(&alice, &bob),
            "09949 66015 23179 47414 01480 06347 74568 50808 35200 33876 41913 70924"
        );
        assert_eq!(
            code(&alice, &bob),
            "larder-safety:ATLIFNooBiyrp3istH-VwMFp7ReUHz8f6HmDXVOHDOO45EbL4L2mplIL_54JmgtrDxZS_vaTG0gVqHz6br4rwII"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn both_see_the_same_number_and_any_other_key_or_name_makes_another(
            mine in prop::collection::vec(any::<[u8; 32]>(), 1..4),
            theirs in prop::collection::vec(any::<[u8; 32]>(), 1..4),
            at in any::<prop::sample::Index>(),
            bit in 0..256_usize,
        ) {
            let (alice, bob) = (fingerprint("alice", &mine), fingerprint("bob", &theirs));
            let same = number(&alice, &bob);
            prop_assert_eq!(&same, &number(&bob, &alice));
            let mut backwards = theirs.clone();
            backwards.reverse();
            prop_assert_eq!(&same, &number(&alice, &fingerprint("bob", &backwards)));
            prop_assert_eq!(same.len(), 71);
            prop_assert!(same.split(' ').all(|group| group.len() == 5 && group.parse::<u32>().is_ok()));

            let mut forged = theirs.clone();
            forged[at.index(theirs.len())][bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(&same, &number(&alice, &fingerprint("bob", &forged)));
            forged = [theirs.clone(), vec![[bit as u8; 32]]].concat();
            prop_assert_ne!(&same, &number(&alice, &fingerprint("bob", &forged)));
            prop_assert_ne!(&same, &number(&alice, &fingerprint("bo", &theirs)));
            prop_assert_ne!(code(&alice, &bob), code(&bob, &alice));
        }
    }
}
