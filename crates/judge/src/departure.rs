use larder_wire::{DeviceId, GroupId, LABEL_LEAVE, UserName, leave_content, sign_with_label_content};
use openmls::prelude::{LeafNode, OpenMlsCrypto, SignatureScheme};
use sha2::{Digest, Sha256};
use tls_codec::Serialize as _;

use crate::leaf::Leaf;
use crate::parts::{MalformedPart, push, take, text};

/// The first byte, so that a later form is told apart.
const VERSION: u8 = 1;
/// Of every key of a device.
const SCHEME: SignatureScheme = SignatureScheme::ED25519;

/// A device's word that it leaves a group, with the leaf that it has: nobody else can give it, and it does not concern a leaf
/// that the device may have later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// The user.
    pub user: UserName,
    /// The device of the user.
    pub device: DeviceId,
    /// The SHA-256 of its LeafNode (RFC 9420 §7.2).
    pub leaf_hash: [u8; 32],
    /// By the leaf's signature key, over [`signed_content`](Self::signed_content).
    pub signature: Vec<u8>,
}

/// Bytes that are no word of a departure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the word of a device that leaves")]
pub struct MalformedDeparture;

impl From<MalformedPart> for MalformedDeparture {
    fn from(_: MalformedPart) -> Self {
        Self
    }
}

impl Departure {
    /// The departure of the device of a leaf, with this signature; nothing of it is verified. `None` for a leaf that names no
    /// device of a user.
    pub fn of_leaf(leaf: &LeafNode, signature: Vec<u8>) -> Option<Self> {
        let Leaf { user, device, .. } = Leaf::of_node(leaf)?;
        Some(Self {
            user,
            device,
            leaf_hash: leaf_hash(leaf)?,
            signature,
        })
    }

    /// What the device of a leaf signs to leave a group at this server. `None` for a leaf that names no device of a user.
    pub fn signed_content(leaf: &LeafNode, server_name: &str, group: &GroupId) -> Option<Vec<u8>> {
        let Leaf { user, device, .. } = Leaf::of_node(leaf)?;
        let content = leave_content(server_name, &user, &device, &leaf_hash(leaf)?, group);
        Some(sign_with_label_content(LABEL_LEAVE, &content))
    }

    /// Whether it concerns this leaf. The signature is not verified.
    pub fn is_of_leaf(&self, leaf: &LeafNode) -> bool {
        Leaf::of_node(leaf).is_some_and(|leaf| leaf.user == self.user && leaf.device == self.device)
            && leaf_hash(leaf) == Some(self.leaf_hash)
    }

    /// Whether the device of this leaf has given its word, at this server and for this group.
    pub fn verifies(
        &self,
        crypto: &impl OpenMlsCrypto,
        server_name: &str,
        group: &GroupId,
        leaf: &LeafNode,
    ) -> bool {
        let key = leaf.signature_key().as_slice();
        self.is_of_leaf(leaf)
            && Self::signed_content(leaf, server_name, group).is_some_and(|signed| {
                crypto
                    .verify_signature(SCHEME, &signed, key, &self.signature)
                    .is_ok()
            })
    }

    /// As it travels: one byte, 1, and then, each with its length before it as in RFC 9420 §2.1.2, the user, the device, the hash
    /// and the signature.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for part in [
            self.user.as_str().as_bytes(),
            self.device.as_str().as_bytes(),
            &self.leaf_hash,
            &self.signature,
        ] {
            push(&mut bytes, part);
        }
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`MalformedDeparture`] for anything that [`to_bytes`](Self::to_bytes) does not make.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedDeparture> {
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err(MalformedDeparture);
        };
        let (user, rest) = take(rest)?;
        let (device, rest) = take(rest)?;
        let (leaf_hash, rest) = take(rest)?;
        let (signature, rest) = take(rest)?;
        let departure = Self {
            user: text(user)?,
            device: text(device)?,
            leaf_hash: leaf_hash.try_into().map_err(|_| MalformedDeparture)?,
            signature,
        };
        // A length that is written longer than it need be is another text for the same.
        if rest.is_empty() && departure.to_bytes() == bytes {
            Ok(departure)
        } else {
            Err(MalformedDeparture)
        }
    }
}

fn leaf_hash(leaf: &LeafNode) -> Option<[u8; 32]> {
    let bytes = leaf.tls_serialize_detached().ok()?;
    Some(Sha256::digest(bytes).into())
}
