use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bytes::{Base64Url, GroupId, StateMark};
use crate::invite_code::InviteCode;
use crate::names::{DeviceId, UserName};

/// `GET /.well-known/larder`: what a client needs to know before it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerInfo {
    /// The name that sessions and registrations are signed for.
    pub server_name: String,
    /// The API version: `v1`.
    pub api_version: String,
    /// The ciphersuites (RFC 9420 §17.1) that KeyPackages and groups may have.
    pub suites: Vec<u16>,
    /// Those of them that the deployment is run with, 1 to 8 in its order: a new group has the first that its creator
    /// supports, and a client stocks KeyPackages of each that it supports. The list may change; a group keeps its
    /// ciphersuite.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub group_suites: Vec<u16>,
    /// Bounds that requests are held to.
    pub limits: Limits,
    /// Who may register.
    pub registration: Registration,
}

/// Who may register an account. A further device of a user who has one is linked, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Anyone.
    Open,
    /// Whoever has an invitation code.
    Invited,
    /// Nobody.
    Closed,
}

/// Bounds that requests are held to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    /// The longest total lifetime of a KeyPackage, in seconds (RFC 9420 §7.2).
    pub key_package_lifetime_seconds_max: u64,
    /// A KeyPackage is handed out only while at least this much of its life is left, in seconds.
    pub serving_margin_seconds: u64,
    /// One KeyPackage, in bytes.
    pub key_package_bytes_max: u64,
    /// KeyPackages in one upload.
    pub upload_key_packages_max: u32,
    /// Live KeyPackages of one device.
    pub live_key_packages_max: u32,
    /// A reservation, in seconds.
    pub reservation_seconds: u64,
    /// One application message, in bytes.
    pub message_bytes_max: u64,
    /// Application messages in one request.
    pub messages_max: u32,
    /// One request body, in bytes.
    pub body_bytes_max: u64,
    /// A Commit, and its Welcome, in bytes each.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub commit_bytes_max: u64,
    /// Adds in one Commit.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub commit_adds_max: u32,
    /// A standalone proposal, in bytes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub proposal_bytes_max: u64,
    /// Proposals of a group that wait for a Commit.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub proposals_waiting_max: u32,
    /// A leaf node (RFC 9420 §7.2), in bytes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub leaf_bytes_max: u64,
    /// The ratchet tree of a group (RFC 9420 §12.4.3.3), in bytes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub tree_bytes_max: u64,
    /// A GroupInfo (RFC 9420 §12.4.3), in bytes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub group_info_bytes_max: u64,
    /// Unacknowledged inbox rows are kept this long, in seconds.
    pub inbox_retention_seconds: u64,
    /// Devices of one user at a time.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub user_devices_max: u32,
    /// One blob, in bytes; 0 where none can be stored.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub blob_bytes_max: u64,
    /// Blobs of one user that are stored together, in bytes.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub user_blob_bytes_max: u64,
    /// Blobs are kept this long, in seconds.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required))]
    pub blob_retention_seconds: u64,
}

/// `POST /v1/accounts`: registers a user with a first device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccountRequest {
    /// The first device.
    #[serde(flatten)]
    pub device: RegisterRequest,
    /// Where registration is `invited`: a code of the operator's, which is used up. The proofs do not cover it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite_code: Option<InviteCode>,
}

/// A device that the server is to know: a user's first, or a further one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterRequest {
    /// The user's name.
    pub user: UserName,
    /// The device's id, chosen by the device.
    pub device_id: DeviceId,
    /// The device's Ed25519 authentication key, 32 bytes.
    pub auth_key: Base64Url,
    /// The device's MLS signature public key (RFC 9420 §5.1.2), Ed25519, 32 bytes.
    pub mls_signature_key: Base64Url,
    /// Proof that the device holds both private keys.
    pub proofs: Proofs,
}

/// Signatures over [`registration_content`](crate::registration_content).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proofs {
    /// By the authentication key.
    pub auth: Base64Url,
    /// By the MLS signature key, through SignWithLabel with [`LABEL_REGISTER`](crate::LABEL_REGISTER).
    pub mls: Base64Url,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Registered {
    /// The user.
    pub user: UserName,
    /// The device.
    pub device_id: DeviceId,
}

/// `POST /v1/devices`: links a further device to the caller's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRequest {
    /// The new device, with the same proofs as at a registration.
    #[serde(flatten)]
    pub device: RegisterRequest,
    /// A device of the user lets it in.
    pub authorization: Authorization,
    /// What that device has to say to the new one. The server stores it and gives it to the new device alone.
    pub introduction: Introduction,
}

/// `GET /v1/introduction`: what the device that let the caller in has to say to it: to whom it belongs, and which groups are
/// its user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Introduction {
    /// The device that let the new one in.
    pub by: DeviceId,
    /// Its MLS signature key, 32 bytes.
    pub by_key: Base64Url,
    /// The user's first device.
    pub root: DeviceId,
    /// Its MLS signature key, 32 bytes.
    pub root_key: Base64Url,
    /// HMAC-SHA-256 (RFC 2104) under the secret of the link code, over [`introduction_content`](crate::introduction_content).
    pub proof: Base64Url,
    /// The groups that the user is in and has accepted, as the device that let the new one in knows them: at most 4,096, of
    /// different ids.
    pub vouchers: Vec<Voucher>,
}

/// A group as a device of the user knows it, for a further device of the same user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Voucher {
    /// The group.
    pub group_id: GroupId,
    /// The epoch that it was in.
    pub epoch: u64,
    /// The GroupInfo of that epoch (RFC 9420 §12.4.3) as an `MLSMessage`, without the ratchet tree.
    pub group_info: Base64Url,
    /// By the MLS signature key of the device that let the new one in, over [`voucher_content`](crate::voucher_content), through
    /// SignWithLabel with [`LABEL_VOUCHER`](crate::LABEL_VOUCHER).
    pub signature: Base64Url,
}

/// Why a device that is not the user's first one is the user's: another one says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Authorization {
    /// The device that says so.
    pub by: DeviceId,
    /// By its MLS signature key, over [`link_content`](crate::link_content), through SignWithLabel with
    /// [`LABEL_DEVICE_LINK`](crate::LABEL_DEVICE_LINK).
    pub signature: Base64Url,
}

/// `DELETE /v1/devices/{device}`: removes a device of the caller's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RemovalRequest {
    /// By the caller's MLS signature key, over [`removal_content`](crate::removal_content), through SignWithLabel with
    /// [`LABEL_DEVICE_REMOVAL`](crate::LABEL_DEVICE_REMOVAL).
    pub signature: Base64Url,
}

/// Why a device is not its user's any more: a device of the user says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Removal {
    /// The device that says so; it may be the removed one.
    pub by: DeviceId,
    /// By its MLS signature key, over [`removal_content`](crate::removal_content), through SignWithLabel with
    /// [`LABEL_DEVICE_REMOVAL`](crate::LABEL_DEVICE_REMOVAL).
    pub signature: Base64Url,
}

/// `POST /v1/sessions/challenge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChallengeRequest {
    /// The device that wants a session.
    pub device_id: DeviceId,
}

/// What to sign for a session. An unknown device gets one too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Challenge {
    /// 32 random bytes, good once.
    pub challenge: Base64Url,
    /// How long it is good, in seconds.
    pub expires_in_seconds: u64,
}

/// `POST /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionRequest {
    /// The device that wants a session.
    pub device_id: DeviceId,
    /// The challenge it was given.
    pub challenge: Base64Url,
    /// By the authentication key, over [`session_content`](crate::session_content).
    pub signature: Base64Url,
}

/// A session. `Debug` hides the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// The bearer token.
    pub token: String,
    /// How long it lasts, in seconds. Clocks differ, so no time is told.
    pub expires_in_seconds: u64,
    /// The mark of the device's last request that was carried out, if it uses marks. A device that does not know it was
    /// restored from an older copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateMark>,
    /// Changes when the server was restored from a backup. A device that sees another one than before does not send what it
    /// had made for the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("token", &"..")
            .field("expires_in_seconds", &self.expires_in_seconds)
            .field("state", &self.state)
            .field("incarnation", &self.incarnation)
            .finish()
    }
}

/// `GET /v1/users/{user}/devices`: what a client pins, and verifies from the first device on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserDevices {
    /// The user.
    pub user: UserName,
    /// Every device that the user has or had, oldest first: each one comes after the one that authorized it.
    pub devices: Vec<DeviceInfo>,
}

/// One device of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceInfo {
    /// The device's id.
    pub device_id: DeviceId,
    /// Its authentication key, which its authorization covers.
    pub auth_key: Base64Url,
    /// Its MLS signature public key.
    pub mls_signature_key: Base64Url,
    /// Who linked it. The first device, with which the user registered, has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// When it was removed, in Unix seconds. It stays in the list for the sake of those that it authorized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<u64>,
    /// Which device of the user has removed it. Without one the operator has, or the account was ended whole: nobody is taken
    /// out of a group for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_redacts_its_token() {
        let session = Session {
            token: "secret".into(),
            expires_in_seconds: 9,
            state: None,
            incarnation: None,
        };
        assert_eq!(
            format!("{session:?}"),
            r#"Session { token: "..", expires_in_seconds: 9, state: None, incarnation: None }"#
        );
    }

    #[test]
    fn a_server_need_not_say_which_suites_it_is_run_with() {
        let limits = r#"{"key_package_lifetime_seconds_max":1,"serving_margin_seconds":1,"key_package_bytes_max":1,
            "upload_key_packages_max":1,"live_key_packages_max":1,"reservation_seconds":1,"message_bytes_max":1,"messages_max":1,
            "body_bytes_max":1,"inbox_retention_seconds":1}"#;
        let info = format!(
            r#"{{"server_name":"s","api_version":"v1","suites":[1],"registration":"open","limits":{limits}}}"#
        );
        let info: ServerInfo = serde_json::from_str(&info).unwrap();
        assert_eq!((info.suites, info.group_suites), (vec![1], vec![]));
        assert_eq!(
            info.limits.blob_bytes_max, 0,
            "a server that does not know blobs stores none"
        );
    }

    #[test]
    fn unknown_members_are_ignored() {
        let request: ChallengeRequest =
            serde_json::from_str(r#"{"device_id":"d-1","later":{"x":1}}"#).unwrap();
        assert_eq!(request.device_id.as_str(), "d-1");
    }
}
