use larder_wire::{DeviceId, UserName, parse_credential_identity};
use openmls::prelude::{BasicCredential, Credential, LeafNode, Member};

/// Who a credential says it is; `None` unless it is a `basic` one of `user/device_id`.
pub fn who(credential: &Credential) -> Option<(UserName, DeviceId)> {
    let basic = BasicCredential::try_from(credential.clone()).ok()?;
    parse_credential_identity(basic.identity()).ok()
}

/// Whose leaf a leaf is: what no Commit may change about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The user.
    pub user: UserName,
    /// The device of the user.
    pub device: DeviceId,
    /// The device's MLS signature key.
    pub signature_key: Vec<u8>,
}

impl Leaf {
    /// Reads it off a leaf; `None` for one that names no device of a user.
    pub fn of_node(leaf: &LeafNode) -> Option<Self> {
        Self::of(leaf.credential(), leaf.signature_key().as_slice())
    }

    /// Reads it off a member; `None` for one that names no device of a user.
    pub fn of_member(member: &Member) -> Option<Self> {
        Self::of(&member.credential, &member.signature_key)
    }

    fn of(credential: &Credential, signature_key: &[u8]) -> Option<Self> {
        let (user, device) = who(credential)?;
        Some(Self {
            user,
            device,
            signature_key: signature_key.to_vec(),
        })
    }
}
