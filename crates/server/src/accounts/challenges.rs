//! Challenges that nothing is stored for: whoever has the key knows its own again. So nobody can use up a device's challenges, or
//! fill the store, by asking for many.

use hmac::{Hmac, KeyInit as _, Mac};
use larder_lifecycle::UnixSeconds;
use larder_wire::DeviceId;
use sha2::Sha256;

use crate::error::Fault;

/// How long a challenge is good, in seconds: one minute.
pub(crate) const CHALLENGE_SECONDS: u64 = 60;
/// The bytes of a key.
pub(crate) const CHALLENGE_KEY_BYTES: usize = 32;
/// Random bytes, so that no two are alike.
pub(crate) const NONCE_BYTES: usize = 16;

/// What says which challenges are a store's own, whichever node gave them. No secret of a device depends on it.
#[derive(Clone)]
pub(crate) struct ChallengeKey(Hmac<Sha256>);

impl ChallengeKey {
    /// # Errors
    /// [`Fault::Corrupt`] for a key of another length.
    pub(crate) fn new(key: &[u8]) -> Result<Self, Fault> {
        let corrupt = Fault::Corrupt("the key of the challenges");
        match Hmac::new_from_slice(key) {
            Ok(mac) if key.len() == CHALLENGE_KEY_BYTES => Ok(Self(mac)),
            Ok(_) | Err(_) => Err(corrupt),
        }
    }

    /// A challenge for a device: when it was made, a nonce, and the MAC.
    pub(crate) fn challenge(&self, device: &DeviceId, now: UnixSeconds, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let mut challenge = now.0.to_be_bytes().to_vec();
        challenge.extend(nonce);
        let mac = self.mac(device, &challenge).finalize().into_bytes();
        challenge.extend(mac);
        challenge
    }

    /// Whether this is a challenge for this device that is still good. It may come from a node whose clock is ahead.
    pub(crate) fn is_good(&self, device: &DeviceId, challenge: &[u8], now: UnixSeconds) -> bool {
        let Some((signed, mac)) = challenge.split_at_checked(size_of::<u64>() + NONCE_BYTES) else {
            return false;
        };
        let Some((made, _)) = signed.split_first_chunk() else {
            return false;
        };
        let made = u64::from_be_bytes(*made);
        self.mac(device, signed).verify_slice(mac).is_ok() && now.0.abs_diff(made) < CHALLENGE_SECONDS
    }

    fn mac(&self, device: &DeviceId, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(b"larder challenge v1\0");
        // Of fixed length, so that no device's name runs into it.
        mac.update(signed);
        mac.update(device.as_str().as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    #[test]
    fn a_challenge_is_good_for_its_device_for_a_minute_and_as_it_was_made() {
        let key = ChallengeKey::new(&[1; CHALLENGE_KEY_BYTES]).unwrap();
        let (alice, bob): (DeviceId, DeviceId) = ("alice-1".parse().unwrap(), "bob-1".parse().unwrap());
        let challenge = key.challenge(&alice, NOW, [7; NONCE_BYTES]);
        for (now, is_good) in [
            (NOW, true),
            (NOW.plus(CHALLENGE_SECONDS - 1), true),
            (NOW.plus(CHALLENGE_SECONDS), false),
            // Another node's clock.
            (NOW.minus(CHALLENGE_SECONDS - 1), true),
            (NOW.minus(CHALLENGE_SECONDS), false),
        ] {
            assert_eq!(key.is_good(&alice, &challenge, now), is_good, "{now:?}");
        }
        assert!(!key.is_good(&bob, &challenge, NOW));
        let other = ChallengeKey::new(&[2; CHALLENGE_KEY_BYTES]).unwrap();
        assert!(!other.is_good(&alice, &challenge, NOW));
        for index in 0..challenge.len() {
            let mut changed = challenge.clone();
            changed[index] ^= 1;
            assert!(!key.is_good(&alice, &changed, NOW), "{index}");
            assert!(!key.is_good(&alice, &challenge[..index], NOW), "{index}");
        }
        assert!(!key.is_good(&alice, &[challenge.as_slice(), &[0]].concat(), NOW));
        assert!(ChallengeKey::new(&[1; 31]).is_err());
    }
}
