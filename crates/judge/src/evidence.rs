use larder_wire::{DeviceId, DeviceInfo, USER_DEVICES_EVER_MAX};
use openmls::prelude::OpenMlsCrypto;

use crate::leaf::Leaf;
use crate::link::{Link, link_verifies};
use crate::parts::{MalformedPart, push, take, text};

/// The first byte, so that a later form is told apart.
const VERSION: u8 = 1;
/// Links of one piece of evidence: as many devices as a user can have had.
pub const LINKS_MAX: usize = USER_DEVICES_EVER_MAX;
/// The evidence of one Commit, in bytes.
pub const EVIDENCE_BYTES_MAX: usize = 64 * 1024;

/// Why a device may come into a group by itself: a device that is in it has let it in, or one that was let in by it, and so on.
///
/// The chain begins at a leaf of the group, with the key that the group's tree has. A chain from a common root would prove
/// nothing: whoever runs the server can make up a root that lets in the key of a member and a key of its own.
///
/// It travels as the authenticated data of an external Commit that removes no leaf: one byte, 1; then, each with its length
/// before it as in RFC 9420 §2.1.2, the id of the device whose leaf it begins at and all links together. A link is the id of a
/// device, its authentication key, its MLS signature key and the signature that lets it in, each with its length before it. The
/// first link is signed by the leaf's key, every other one by the MLS signature key of the link before it; the last one is of
/// the device that comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    from: DeviceId,
    links: Vec<Link>,
}

/// Bytes that are no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the evidence of a device")]
pub struct MalformedEvidence;

impl From<MalformedPart> for MalformedEvidence {
    fn from(_: MalformedPart) -> Self {
        Self
    }
}

impl Evidence {
    /// Looks for the chain from the nearest of these leaves to a device, in the list of its user's devices. Nothing in it is
    /// verified. `None` where there is no such chain: then somebody who is in the group has to add the device.
    pub fn gather(leaves: &[Leaf], joiner: &Leaf, devices: &[DeviceInfo]) -> Option<Self> {
        let find = |id: &DeviceId| devices.iter().find(|device| device.device_id == *id);
        let mut links = Vec::new();
        let mut device =
            find(&joiner.device).filter(|device| device.mls_signature_key.0 == joiner.signature_key)?;
        loop {
            let authorization = device.authorization.as_ref()?;
            links.push(Link {
                device: device.device_id.clone(),
                auth_key: device.auth_key.0.clone(),
                mls_signature_key: device.mls_signature_key.0.clone(),
                signature: authorization.signature.0.clone(),
            });
            if links.len() > LINKS_MAX {
                return None;
            }
            device = find(&authorization.by)?;
            let is_in = leaves.iter().any(|leaf| {
                leaf.user == joiner.user
                    && leaf.device == device.device_id
                    && leaf.signature_key == device.mls_signature_key.0
            });
            if is_in {
                links.reverse();
                return Some(Self {
                    from: device.device_id.clone(),
                    links,
                });
            }
        }
    }

    /// Whether it leads from one of these leaves to this device, each step with the signature of the one before.
    pub(crate) fn proves(
        &self,
        crypto: &impl OpenMlsCrypto,
        server_name: &str,
        mut leaves: impl Iterator<Item = Leaf>,
        joiner: &Leaf,
    ) -> bool {
        let Some(from) = leaves.find(|leaf| leaf.user == joiner.user && leaf.device == self.from) else {
            return false;
        };
        let leads_to_joiner = self.links.last().is_some_and(|last| {
            last.device == joiner.device && last.mls_signature_key == joiner.signature_key
        });
        let mut by = from.signature_key.as_slice();
        leads_to_joiner
            && self.links.iter().all(|link| {
                let verifies = link_verifies(crypto, (server_name, &joiner.user), link, by);
                by = &link.mls_signature_key;
                verifies
            })
    }

    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut links = Vec::new();
        for link in &self.links {
            let parts = [
                link.device.as_str().as_bytes(),
                &link.auth_key,
                &link.mls_signature_key,
                &link.signature,
            ];
            parts.into_iter().for_each(|part| push(&mut links, part));
        }
        let mut bytes = vec![VERSION];
        push(&mut bytes, self.from.as_str().as_bytes());
        push(&mut bytes, &links);
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`MalformedEvidence`] for anything that [`to_bytes`](Self::to_bytes) does not make, for more than [`LINKS_MAX`] links
    /// and [`EVIDENCE_BYTES_MAX`] bytes, and for none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedEvidence> {
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err(MalformedEvidence);
        };
        if bytes.len() > EVIDENCE_BYTES_MAX {
            return Err(MalformedEvidence);
        }
        let (from, rest) = take(rest)?;
        let (all, rest) = take(rest)?;
        let mut unread = all.as_slice();
        let mut links = Vec::new();
        while !unread.is_empty() {
            let (device, after) = take(unread)?;
            let (auth_key, after) = take(after)?;
            let (mls_signature_key, after) = take(after)?;
            let (signature, after) = take(after)?;
            links.push(Link {
                device: text(device)?,
                auth_key,
                mls_signature_key,
                signature,
            });
            unread = after;
        }
        let evidence = Self {
            from: text(from)?,
            links,
        };
        let is_whole = rest.is_empty() && (1..=LINKS_MAX).contains(&evidence.links.len());
        // A length that is written longer than it need be is another text for the same.
        if is_whole && evidence.to_bytes() == bytes {
            Ok(evidence)
        } else {
            Err(MalformedEvidence)
        }
    }
}
