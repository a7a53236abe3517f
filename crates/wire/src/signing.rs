//! The exact bytes that registration and sessions sign. Client and server build them with these functions.
//!
//! Every signature is separated by domain: authentication keys sign content that starts with `larder … v1`, MLS
//! signature keys sign through RFC 9420's SignWithLabel with a label of our own, which no MLS message uses.

use tls_codec::{Serialize as _, VLByteSlice};

use crate::accounts::{Introduction, RegisterRequest};
use crate::bytes::GroupId;
use crate::names::{DeviceId, UserName};

/// The SignWithLabel label (RFC 9420 §5.1.2) for [`registration_content`].
pub const LABEL_REGISTER: &str = "LarderRegister";
/// The SignWithLabel label (RFC 9420 §5.1.2) for [`link_content`].
pub const LABEL_DEVICE_LINK: &str = "LarderDeviceLink";
/// The SignWithLabel label (RFC 9420 §5.1.2) for [`removal_content`].
pub const LABEL_DEVICE_REMOVAL: &str = "LarderDeviceRemoval";
/// The SignWithLabel label (RFC 9420 §5.1.2) for [`leave_content`].
pub const LABEL_LEAVE: &str = "LarderLeave";
/// The SignWithLabel label (RFC 9420 §5.1.2) for [`voucher_content`].
pub const LABEL_VOUCHER: &str = "LarderVoucher";

/// What a device signs with its authentication key to open a session.
pub fn session_content(server_name: &str, challenge: &[u8]) -> Vec<u8> {
    domain_separated("larder session v1", &[server_name.as_bytes(), challenge])
}

/// What a registering device signs with both of its keys: with the authentication key as it is, with the MLS
/// signature key through [`sign_with_label_content`] under [`LABEL_REGISTER`].
pub fn registration_content(server_name: &str, request: &RegisterRequest) -> Vec<u8> {
    domain_separated(
        "larder register v1",
        &[
            server_name.as_bytes(),
            request.user.as_str().as_bytes(),
            request.device_id.as_str().as_bytes(),
            &request.auth_key.0,
            &request.mls_signature_key.0,
        ],
    )
}

/// What a device signs with its MLS signature key to let a further device of its user in, through
/// [`sign_with_label_content`] under [`LABEL_DEVICE_LINK`].
pub fn link_content(
    server_name: &str,
    user: &UserName,
    device_id: &DeviceId,
    auth_key: &[u8],
    mls_signature_key: &[u8],
) -> Vec<u8> {
    domain_separated(
        "larder device link v1",
        &[
            server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            auth_key,
            mls_signature_key,
        ],
    )
}

/// What the proof of an [`Introduction`] covers, by the secret of the link code: the new device, the device that lets it in, and
/// the user's first device, each with its MLS signature key.
pub fn introduction_content(
    server_name: &str,
    user: &UserName,
    (device_id, mls_signature_key): (&DeviceId, &[u8]),
    introduction: &Introduction,
) -> Vec<u8> {
    domain_separated(
        "larder introduction v1",
        &[
            server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            mls_signature_key,
            introduction.by.as_str().as_bytes(),
            &introduction.by_key.0,
            introduction.root.as_str().as_bytes(),
            &introduction.root_key.0,
        ],
    )
}

/// What a device signs with its MLS signature key to vouch for a group to a further device of its user, through
/// [`sign_with_label_content`] under [`LABEL_VOUCHER`]. `device_id` and `mls_signature_key` are the further device's.
pub fn voucher_content(
    server_name: &str,
    user: &UserName,
    (device_id, mls_signature_key): (&DeviceId, &[u8]),
    group_info: &[u8],
) -> Vec<u8> {
    domain_separated(
        "larder voucher v1",
        &[
            server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            mls_signature_key,
            group_info,
        ],
    )
}

/// What a device signs with its MLS signature key to remove a device of its user, itself or another, through
/// [`sign_with_label_content`] under [`LABEL_DEVICE_REMOVAL`].
pub fn removal_content(
    server_name: &str,
    user: &UserName,
    device_id: &DeviceId,
    mls_signature_key: &[u8],
) -> Vec<u8> {
    domain_separated(
        "larder device removal v1",
        &[
            server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            mls_signature_key,
        ],
    )
}

/// What a device signs with the signature key of its leaf to leave a group, through [`sign_with_label_content`] under
/// [`LABEL_LEAVE`]. `leaf_hash` is the SHA-256 of the LeafNode (RFC 9420 §7.2): a device that comes back has another leaf, and
/// what it said before does not concern that.
pub fn leave_content(
    server_name: &str,
    user: &UserName,
    device_id: &DeviceId,
    leaf_hash: &[u8; 32],
    group_id: &GroupId,
) -> Vec<u8> {
    domain_separated(
        "larder leave v1",
        &[
            server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            leaf_hash,
            group_id.as_bytes(),
        ],
    )
}

/// The `SignContent` of RFC 9420 §5.1.2, serialized: what an MLS signature key signs under `label`.
pub fn sign_with_label_content(label: &str, content: &[u8]) -> Vec<u8> {
    let label = format!("MLS 1.0 {label}");
    [label.as_bytes(), content]
        .iter()
        .flat_map(|part| VLByteSlice(part).tls_serialize_detached().unwrap_or_default())
        .collect()
}

/// `domain || 0x00 || part || 0x00 || part …`. Every part but the last is text without NUL or of fixed length.
fn domain_separated(domain: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = domain.as_bytes().to_vec();
    for part in parts {
        bytes.push(0);
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Base64Url;

    #[test]
    fn session_content_is_the_documented_byte_string() {
        assert_eq!(
            session_content("chat.example", &[1, 2]),
            b"larder session v1\0chat.example\0\x01\x02"
        );
    }

    #[test]
    fn link_content_is_the_documented_byte_string() {
        let content = link_content(
            "chat.example",
            &"alice".parse().unwrap(),
            &"d-2".parse().unwrap(),
            &[1; 2],
            &[2; 2],
        );
        assert_eq!(
            content,
            b"larder device link v1\0chat.example\0alice\0d-2\0\x01\x01\0\x02\x02"
        );
    }

    #[test]
    fn introduction_content_is_the_documented_byte_string() {
        let introduction = Introduction {
            by: "d-1".parse().unwrap(),
            by_key: Base64Url(vec![3; 2]),
            root: "d-0".parse().unwrap(),
            root_key: Base64Url(vec![4; 2]),
            proof: Base64Url::default(),
            vouchers: Vec::new(),
        };
        let content = introduction_content(
            "chat.example",
            &"alice".parse().unwrap(),
            (&"d-2".parse().unwrap(), &[2; 2]),
            &introduction,
        );
        assert_eq!(
            content,
            b"larder introduction v1\0chat.example\0alice\0d-2\0\x02\x02\0d-1\0\x03\x03\0d-0\0\x04\x04"
        );
    }

    #[test]
    fn voucher_content_is_the_documented_byte_string() {
        let content = voucher_content(
            "chat.example",
            &"alice".parse().unwrap(),
            (&"d-2".parse().unwrap(), &[2; 2]),
            &[9; 2],
        );
        assert_eq!(
            content,
            b"larder voucher v1\0chat.example\0alice\0d-2\0\x02\x02\0\x09\x09"
        );
    }

    #[test]
    fn removal_content_is_the_documented_byte_string() {
        let content = removal_content(
            "chat.example",
            &"alice".parse().unwrap(),
            &"d-2".parse().unwrap(),
            &[2; 2],
        );
        assert_eq!(
            content,
            b"larder device removal v1\0chat.example\0alice\0d-2\0\x02\x02"
        );
    }

    #[test]
    fn sign_content_has_the_label_prefix_and_two_length_prefixed_fields() {
        assert_eq!(sign_with_label_content("X", b"ab"), b"\x09MLS 1.0 X\x02ab");
        let long = sign_with_label_content("X", &[7; 100]);
        assert_eq!(
            &long[..12],
            b"\x09MLS 1.0 X\x40\x64",
            "a length of 64 and more takes two bytes"
        );
    }
}
