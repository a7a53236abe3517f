use larder_lifecycle::{DirectoryPolicy, Lifetime, LifetimeRefusal, UnixSeconds};
use larder_wire::{KEY_PACKAGE_BYTES_MAX, KeyPackageCheck, KeyPackageRef, credential_identity};
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    BasicCredential, KeyPackageIn, KeyPackageVerifyError, MlsMessageBodyIn, MlsMessageIn, ProtocolVersion,
};
use openmls::treesync::errors::LifetimeError;
use openmls_rust_crypto::RustCrypto;
use sha2::{Digest, Sha256};

use crate::store::DeviceRow;

/// A KeyPackage that may enter the directory, as far as it can be judged by itself.
#[derive(Clone)]
pub(crate) struct Validated {
    pub(crate) key_package_ref: KeyPackageRef,
    pub(crate) suite: u16,
    pub(crate) init_key_hash: [u8; 32],
    pub(crate) not_after: UnixSeconds,
    /// Marked as a last resort, which `validate` of OpenMLS accepts only with the capability announced.
    pub(crate) is_last_resort: bool,
}

/// A refused KeyPackage: which one, if that much could be told, and why.
type Refused = (Option<KeyPackageRef>, KeyPackageCheck);

/// Judges an uploaded KeyPackage (RFC 9420 §10.1). The reference is computed here; nothing is taken from the caller
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
    // is kept unless `validate` below accepts the same bytes.
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

    let verdict = parsed.validate(crypto, ProtocolVersion::Mls10);
    // `validate` judges the lifetime last and by the system clock; ours is judged below, with tolerance for skew.
    if let Err(error) = &verdict
        && !matches!(
            error,
            KeyPackageVerifyError::LifetimeError(
                LifetimeError::Expired { .. } | LifetimeError::NotValidYet { .. }
            )
        )
    {
        return Err(refuse(check_of(error)));
    }
    let lifetime = unchecked.life_time();
    let not_after = UnixSeconds(lifetime.not_after());
    policy
        .check_lifetime(
            Lifetime {
                not_before: UnixSeconds(lifetime.not_before()),
                not_after,
            },
            now,
        )
        .map_err(|refusal| {
            refuse(match refusal {
                LifetimeRefusal::TooLong => KeyPackageCheck::LifetimeTooLong,
                LifetimeRefusal::TooShort => KeyPackageCheck::LifetimeTooShort,
                LifetimeRefusal::NotYetValid => KeyPackageCheck::NotYetValid,
            })
        })?;
    Ok(Validated {
        key_package_ref,
        suite,
        init_key_hash: Sha256::digest(unchecked.hpke_init_key().as_slice()).into(),
        not_after,
        is_last_resort: unchecked.last_resort(),
    })
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
    let mut rest = bytes;
    let message = MlsMessageIn::tls_deserialize(&mut rest).map_err(|_| KeyPackageCheck::Malformed)?;
    if !rest.is_empty() {
        return Err(KeyPackageCheck::TrailingBytes);
    }
    match message.extract() {
        MlsMessageBodyIn::KeyPackage(key_package) => Ok(key_package),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::GroupInfo(_) => Err(KeyPackageCheck::Malformed),
    }
}

fn check_of(error: &KeyPackageVerifyError) -> KeyPackageCheck {
    match error {
        KeyPackageVerifyError::InvalidSignature | KeyPackageVerifyError::InvalidLeafNodeSignature => {
            KeyPackageCheck::Signature
        }
        KeyPackageVerifyError::UnsupportedExtension
        | KeyPackageVerifyError::ExtensionTypeNotValidInKeyPackage(_) => {
            KeyPackageCheck::UnsupportedExtension
        }
        KeyPackageVerifyError::LifetimeError(_) | KeyPackageVerifyError::MissingLifetime => {
            KeyPackageCheck::LifetimeTooShort
        }
        KeyPackageVerifyError::LibraryError(_)
        | KeyPackageVerifyError::InvalidLeafNodeSourceType
        | KeyPackageVerifyError::InitKeyEqualsEncryptionKey
        | KeyPackageVerifyError::InvalidProtocolVersion => KeyPackageCheck::Malformed,
    }
}
