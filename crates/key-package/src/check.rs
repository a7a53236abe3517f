use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, VLBytes};
use openmls::prelude::{
    Capabilities, Ciphersuite, ExtensionType, KeyPackage, KeyPackageIn, KeyPackageVerifyError, LeafNode,
    MlsMessageBodyIn, MlsMessageIn, ProtocolVersion,
};
use openmls::treesync::errors::LifetimeError;
use openmls_traits::crypto::OpenMlsCrypto;

use crate::flaw::Flaw;

/// Reads one `MLSMessage` with a KeyPackage, and nothing after it. Nothing is checked but its form.
///
/// # Errors
/// [`Flaw::Malformed`] and [`Flaw::TrailingBytes`].
pub fn read(bytes: &[u8]) -> Result<KeyPackageIn, Flaw> {
    let mut rest = bytes;
    let message = MlsMessageIn::tls_deserialize(&mut rest).map_err(|_| Flaw::Malformed)?;
    if !rest.is_empty() {
        return Err(Flaw::TrailingBytes);
    }
    match message.extract() {
        MlsMessageBodyIn::KeyPackage(key_package) => Ok(key_package),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::GroupInfo(_) => Err(Flaw::Malformed),
    }
}

/// Checks all that adding a KeyPackage checks and that does not depend on the group: the signatures, its leaf as that of a
/// future member (RFC 9420 §7.3), its extensions and its keys. Whose it is, and [its lifetime](crate::check_lifetime),
/// is for the caller to judge.
///
/// # Errors
/// The first [`Flaw`] that is found.
pub fn check(crypto: &impl OpenMlsCrypto, key_package: KeyPackageIn) -> Result<KeyPackage, Flaw> {
    let checked = match key_package.clone().validate(crypto, ProtocolVersion::Mls10) {
        Ok(checked) => checked,
        // By the system's clock, and after everything else that `validate` checks.
        Err(KeyPackageVerifyError::LifetimeError(
            LifetimeError::Expired { .. }
            | LifetimeError::NotValidYet { .. }
            | LifetimeError::SystemTimeBeforeUnixEpoch,
        )) => key_package.into_unchecked(),
        Err(error) => return Err(flaw_of(&error)),
    };
    check_leaf(checked.leaf_node(), checked.ciphersuite())?;
    check_keys(crypto, &checked)?;
    Ok(checked)
}

fn flaw_of(error: &KeyPackageVerifyError) -> Flaw {
    match error {
        KeyPackageVerifyError::InvalidSignature | KeyPackageVerifyError::InvalidLeafNodeSignature => {
            Flaw::Signature
        }
        KeyPackageVerifyError::UnsupportedExtension
        | KeyPackageVerifyError::ExtensionTypeNotValidInKeyPackage(_) => Flaw::Extension,
        KeyPackageVerifyError::InitKeyEqualsEncryptionKey => Flaw::SameKeys,
        KeyPackageVerifyError::LibraryError(_)
        | KeyPackageVerifyError::LifetimeError(_)
        | KeyPackageVerifyError::MissingLifetime
        | KeyPackageVerifyError::InvalidLeafNodeSourceType
        | KeyPackageVerifyError::InvalidProtocolVersion => Flaw::Malformed,
    }
}

/// What OpenMLS asks of a leaf when it is added, and not before.
fn check_leaf(leaf: &LeafNode, suite: Ciphersuite) -> Result<(), Flaw> {
    let capabilities = leaf.capabilities();
    if !capabilities.versions().contains(&ProtocolVersion::Mls10) {
        return Err(Flaw::VersionNotListed);
    }
    if !capabilities.ciphersuites().contains(&suite.into()) {
        return Err(Flaw::CiphersuiteNotListed);
    }
    if !capabilities
        .credentials()
        .contains(&leaf.credential().credential_type())
    {
        return Err(Flaw::CredentialNotListed);
    }
    let mut carried = leaf
        .extensions()
        .iter()
        .map(|extension| extension.extension_type());
    match carried.all(|carried| may_be_in_a_leaf(carried, capabilities)) {
        true => Ok(()),
        false => Err(Flaw::Extension),
    }
}

/// A GREASE extension is listed as one, and carried as one that nobody knows: it is never among the listed.
fn may_be_in_a_leaf(carried: ExtensionType, capabilities: &Capabilities) -> bool {
    match carried {
        ExtensionType::ApplicationId => true,
        ExtensionType::RatchetTree
        | ExtensionType::RequiredCapabilities
        | ExtensionType::ExternalPub
        | ExtensionType::ExternalSenders
        | ExtensionType::LastResort => false,
        ExtensionType::Grease(_) | ExtensionType::Unknown(_) => capabilities.extensions().contains(&carried),
    }
}

/// The Welcome is encrypted to the init key, and every later Commit of another member to the leaf's encryption key: one
/// that nothing can be encrypted to would stop the group.
fn check_keys(crypto: &impl OpenMlsCrypto, key_package: &KeyPackage) -> Result<(), Flaw> {
    let suite = key_package.ciphersuite();
    for key in [
        key_package.hpke_init_key().as_slice(),
        &encryption_key(key_package.leaf_node()).ok_or(Flaw::Malformed)?,
    ] {
        if !can_be_encrypted_to(crypto, suite, key) {
            return Err(Flaw::UnusableKey);
        }
    }
    Ok(())
}

/// Whether anything can be encrypted to a public HPKE key of this ciphersuite. Bytes of the right length can be none, or a point of
/// small order, with which every shared secret is zero (RFC 9180 §7.1.4); no signature tells.
pub fn can_be_encrypted_to(crypto: &impl OpenMlsCrypto, suite: Ciphersuite, key: &[u8]) -> bool {
    crypto
        .hpke_seal(suite.hpke_config(), key, b"", b"", b"larder key probe")
        .is_ok()
}

/// The bytes of a leaf's encryption key, which OpenMLS shows as they travel only. They are there whenever the leaf was
/// read.
pub fn encryption_key(leaf: &LeafNode) -> Option<Vec<u8>> {
    let travelling = leaf.encryption_key().tls_serialize_detached().ok()?;
    VLBytes::tls_deserialize_exact(travelling).ok().map(Into::into)
}
