use larder_key_package::Flaw;
use larder_lifecycle::{DirectoryPolicy, Kind, Lifetime, LifetimeRefusal, UnixSeconds};
use larder_wire::{KEY_PACKAGE_BYTES_MAX, KeyPackageCheck, KeyPackageRef, credential_identity};
use openmls::prelude::{BasicCredential, KeyPackageIn};
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::store::DeviceRow;

/// A KeyPackage that may enter the directory, as far as it can be judged by itself.
#[derive(Clone)]
pub(crate) struct Validated {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) suite: u16,
    pub(crate) init_key_hash: [u8; 32],
    pub(crate) encryption_key_hash: [u8; 32],
    pub(crate) lifetime: Lifetime,
    /// Marked as a last resort, which is accepted only with the capability announced.
    pub(crate) kind: Kind,
}

/// A refused KeyPackage: which one, if that much could be told, and why.
type Refused = (Option<KeyPackageRef>, KeyPackageCheck);

/// Judges an uploaded KeyPackage: whether it is its uploader's, and whether anybody will be able to add it. The reference is computed here; nothing is taken from the caller
/// but the bytes.
pub(crate) fn validate(
    crypto: &RustCrypto,
    bytes: &[u8],
    uploader: &DeviceRow,
    (policy, suites): (&DirectoryPolicy, &[u16]),
    now: UnixSeconds,
) -> Result<Validated, Refused> {
    // OpenMLS does not parse a KeyPackage of a ciphersuite that this build does not have.
    if announced_suite(bytes).is_some_and(|suite| !suites.contains(&suite)) {
        return Err((None, KeyPackageCheck::UnsupportedSuite));
    }
    let parsed = parse(bytes).map_err(|check| (None, check))?;
    // Read before the signatures are checked, to name the reason in the order that helps a person most. Nothing of it
    // is kept unless `check` below accepts the same bytes.
    let unchecked = parsed.clone().into_unchecked();
    let suite = u16::from(unchecked.ciphersuite());
    if !suites.contains(&suite) {
        return Err((None, KeyPackageCheck::UnsupportedSuite));
    }
    let key_package_ref = unchecked
        .hash_ref(crypto)
        .ok()
        .and_then(|hash| KeyPackageRef::from_bytes(hash.as_slice()).ok())
        .ok_or((None, KeyPackageCheck::Malformed))?;
    let refuse = |check| (Some(key_package_ref.clone()), check);

    let leaf = unchecked.leaf_node();
    let identity = BasicCredential::try_from(leaf.credential().clone())
        .map_err(|_| refuse(KeyPackageCheck::WrongCredential))?;
    if identity.identity() != credential_identity(&uploader.user, &uploader.device_id) {
        return Err(refuse(KeyPackageCheck::WrongCredential));
    }
    if leaf.signature_key().as_slice() != uploader.signature_key {
        return Err(refuse(KeyPackageCheck::WrongSignatureKey));
    }

    larder_key_package::check(crypto, parsed).map_err(|flaw| refuse(check_of(flaw)))?;
    let encryption_key =
        larder_key_package::encryption_key(leaf).ok_or(refuse(KeyPackageCheck::Malformed))?;
    let lifetime = Lifetime {
        not_before: UnixSeconds(unchecked.life_time().not_before()),
        not_after: UnixSeconds(unchecked.life_time().not_after()),
    };
    check_lifetime(lifetime, policy, now).map_err(refuse)?;
    Ok(Validated {
        key_package_ref,
        suite,
        init_key_hash: Sha256::digest(unchecked.hpke_init_key().as_slice()).into(),
        encryption_key_hash: Sha256::digest(encryption_key).into(),
        lifetime,
        kind: match unchecked.last_resort() {
            true => Kind::LastResort,
            false => Kind::SingleUse,
        },
    })
}

fn check_lifetime(
    lifetime: Lifetime,
    policy: &DirectoryPolicy,
    now: UnixSeconds,
) -> Result<(), KeyPackageCheck> {
    policy
        .check_lifetime(lifetime, now)
        .map_err(|refusal| match refusal {
            LifetimeRefusal::TooLong => KeyPackageCheck::LifetimeTooLong,
            LifetimeRefusal::TooShort => KeyPackageCheck::LifetimeTooShort,
            LifetimeRefusal::NotYetValid => KeyPackageCheck::NotYetValid,
        })?;
    // One that is not served yet must be served at some time.
    match policy.served_from(lifetime.not_before) < policy.served_before(lifetime.not_after) {
        true => Ok(()),
        false => Err(KeyPackageCheck::LifetimeTooShort),
    }
}

/// The ciphersuite of what is a KeyPackage by its first bytes: version and wire format of the `MLSMessage` (RFC 9420 §6), then
/// version and ciphersuite of the KeyPackage (§10).
fn announced_suite(bytes: &[u8]) -> Option<u16> {
    const MLS10_KEY_PACKAGE_MLS10: [u8; 6] = [0, 1, 0, 5, 0, 1];
    let suite = bytes.strip_prefix(&MLS10_KEY_PACKAGE_MLS10)?.first_chunk()?;
    Some(u16::from_be_bytes(*suite))
}

fn parse(bytes: &[u8]) -> Result<KeyPackageIn, KeyPackageCheck> {
    if bytes.len() > KEY_PACKAGE_BYTES_MAX {
        return Err(KeyPackageCheck::Malformed);
    }
    larder_key_package::read(bytes).map_err(check_of)
}

fn check_of(flaw: Flaw) -> KeyPackageCheck {
    match flaw {
        Flaw::Malformed => KeyPackageCheck::Malformed,
        Flaw::TrailingBytes => KeyPackageCheck::TrailingBytes,
        Flaw::Signature => KeyPackageCheck::Signature,
        Flaw::Extension => KeyPackageCheck::UnsupportedExtension,
        Flaw::CiphersuiteNotListed => KeyPackageCheck::CiphersuiteNotListed,
        Flaw::VersionNotListed => KeyPackageCheck::VersionNotListed,
        Flaw::CredentialNotListed => KeyPackageCheck::CredentialNotListed,
        Flaw::SameKeys => KeyPackageCheck::SameKeys,
        Flaw::UnusableKey => KeyPackageCheck::UnusableKey,
        Flaw::LifetimeTooLong => KeyPackageCheck::LifetimeTooLong,
        Flaw::NotYetValid { .. } => KeyPackageCheck::NotYetValid,
        Flaw::Expired => KeyPackageCheck::LifetimeTooShort,
    }
}
