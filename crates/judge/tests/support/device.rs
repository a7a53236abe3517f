//! A device of a user, and what it needs to be in groups.

use larder_judge::Leaf;
use larder_wire::{
    Authorization, Base64Url, DeviceInfo, LABEL_DEVICE_LINK, link_content, sign_with_label_content,
};
use openmls::prelude::{BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, SignatureScheme};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;

pub(crate) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
pub(crate) const SERVER: &str = "chat.example";

/// A device with its keys.
pub(crate) struct Device {
    pub(crate) leaf: Leaf,
    pub(crate) keys: SignatureKeyPair,
    pub(crate) provider: OpenMlsRustCrypto,
}

impl Device {
    pub(crate) fn new(user: &str, device: &str) -> Self {
        let keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
        Self {
            leaf: Leaf {
                user: user.parse().unwrap(),
                device: device.parse().unwrap(),
                signature_key: keys.to_public_vec(),
            },
            keys,
            provider: OpenMlsRustCrypto::default(),
        }
    }

    pub(crate) fn identity(&self) -> Vec<u8> {
        larder_wire::credential_identity(&self.leaf.user, &self.leaf.device)
    }

    pub(crate) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.identity()).into(),
            signature_key: self.keys.to_public_vec().into(),
        }
    }

    pub(crate) fn key_package(&self) -> KeyPackage {
        KeyPackage::builder()
            .build(SUITE, &self.provider, &self.keys, self.credential())
            .unwrap()
            .into_key_package()
    }

    /// The entry of a list of devices, let in by this one if there is one.
    pub(crate) fn listed(&self, by: Option<&Device>) -> DeviceInfo {
        let auth_key = vec![9; 32];
        let content = link_content(
            SERVER,
            &self.leaf.user,
            &self.leaf.device,
            &auth_key,
            &self.leaf.signature_key,
        );
        let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
        DeviceInfo {
            device_id: self.leaf.device.clone(),
            auth_key: Base64Url(auth_key),
            mls_signature_key: Base64Url(self.leaf.signature_key.clone()),
            authorization: by.map(|by| Authorization {
                by: by.leaf.device.clone(),
                signature: Base64Url(by.keys.sign(&labelled).unwrap()),
            }),
            removed_at: None,
            removal: None,
        }
    }
}
