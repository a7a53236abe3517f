use larder_wire::{
    DeviceId, LABEL_DEVICE_LINK, LABEL_DEVICE_REMOVAL, UserName, link_content, removal_content,
    sign_with_label_content,
};
use openmls::prelude::{OpenMlsCrypto, SignatureScheme};

/// Of every key of a device.
const SCHEME: SignatureScheme = SignatureScheme::ED25519;
/// The length of an Ed25519 public key, in bytes.
const KEY_BYTES: usize = 32;

/// A device that another one of its user has let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The device.
    pub device: DeviceId,
    /// Its authentication key.
    pub auth_key: Vec<u8>,
    /// Its MLS signature key.
    pub mls_signature_key: Vec<u8>,
    /// By the MLS signature key of the device that lets it in, over [`link_content`].
    pub signature: Vec<u8>,
}

/// Whether the device that has this MLS signature key has let another one of its user in, at this server.
pub fn link_verifies(
    crypto: &impl OpenMlsCrypto,
    (server_name, user): (&str, &UserName),
    link: &Link,
    by_key: &[u8],
) -> bool {
    // What is signed tells where one key ends and the other begins only if both are as long as they should be.
    if link.auth_key.len() != KEY_BYTES || link.mls_signature_key.len() != KEY_BYTES {
        return false;
    }
    let content = link_content(
        server_name,
        user,
        &link.device,
        &link.auth_key,
        &link.mls_signature_key,
    );
    let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
    crypto
        .verify_signature(SCHEME, &labelled, by_key, &link.signature)
        .is_ok()
}

/// Whether the device that has `by_key` as its MLS signature key has removed a device of its user, at this server: one of this
/// id and MLS signature key.
pub fn removal_verifies(
    crypto: &impl OpenMlsCrypto,
    (server_name, user): (&str, &UserName),
    (device, mls_signature_key): (&DeviceId, &[u8]),
    signature: &[u8],
    by_key: &[u8],
) -> bool {
    if mls_signature_key.len() != KEY_BYTES {
        return false;
    }
    let content = removal_content(server_name, user, device, mls_signature_key);
    let labelled = sign_with_label_content(LABEL_DEVICE_REMOVAL, &content);
    crypto
        .verify_signature(SCHEME, &labelled, by_key, signature)
        .is_ok()
}
