use serde::{Deserialize, Serialize};

use crate::bytes::{Base64Url, GroupId, KeyPackageRef};
use crate::names::{DeviceId, UserName};
use crate::problem::Problem;

/// The state of a KeyPackage in the directory.
///
/// A last resort is never `reserved`, `spent` or `lapsed`: it stays `available` when it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum KeyPackageState {
    /// May be handed out; a last resort only when nothing else is left.
    Available,
    /// Handed out, once; a Commit may spend it.
    Reserved,
    /// An accepted Commit added it.
    Spent,
    /// Handed out, and no Commit came in time.
    Lapsed,
    /// Too little life is left to hand it out, and it never was; or the life of a last resort is over.
    Expired,
    /// Withdrawn by its owner.
    Revoked,
    /// A last resort that a newer one replaced: not handed out any more, but a Commit of a device that reserved it
    /// before is accepted for 24 hours. Last resorts only.
    Retiring,
    /// A last resort that was replaced a day ago: no Commit can add it any more. Last resorts only.
    Gone,
}

/// `POST /v1/key-packages`: adds KeyPackages to the caller's pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadRequest {
    /// Each a whole `MLSMessage` holding a KeyPackage; 1 to 64.
    pub key_packages: Vec<Base64Url>,
}

/// The answer to an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Uploaded {
    /// One verdict per KeyPackage, in the order of the request.
    pub results: Vec<UploadResult>,
    /// The device's KeyPackages that may be handed out after the upload, without the last resort.
    pub available: u32,
}

/// The verdict on one uploaded KeyPackage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadResult {
    /// Its reference, computed by the server; absent when it could not be parsed.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub key_package_ref: Option<KeyPackageRef>,
    /// What became of it.
    pub outcome: UploadOutcome,
    /// Its state now (`accepted`, `present`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<KeyPackageState>,
    /// Why it was refused (`rejected`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What became of an uploaded KeyPackage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum UploadOutcome {
    /// Stored; it may be handed out once it has been valid for 5 minutes.
    Accepted,
    /// The same KeyPackage was uploaded before; nothing changed, not even if it is spent.
    Present,
    /// Refused; see `problem`.
    Rejected,
}

/// `GET /v1/key-packages`: the caller's live KeyPackages and tombstones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inventory {
    /// Changes when the server was restored from a backup.
    pub incarnation: String,
    /// Grows with every change of the device's KeyPackages.
    pub generation: u64,
    /// Stands for the whole answer; send it back as `?digest=` to be told 304 while nothing changed.
    pub digest: String,
    /// Every KeyPackage of the device that the directory knows, oldest first.
    pub items: Vec<InventoryItem>,
}

/// One KeyPackage of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InventoryItem {
    /// Its reference.
    #[serde(rename = "ref")]
    pub key_package_ref: KeyPackageRef,
    /// Its state.
    pub state: KeyPackageState,
    /// Its ciphersuite (RFC 9420 §17.1).
    pub suite: u16,
    /// When it expires, in Unix seconds.
    pub not_after: u64,
    /// Whether it is a last resort (RFC 9420 §16.8), which is not single-use.
    pub last_resort: bool,
    /// Whether it was ever handed out (last resorts only): its owner should replace it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<bool>,
    /// When its reservation lapses, in Unix seconds (`reserved`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_until: Option<u64>,
}

/// `GET /v1/key-packages/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PoolStatus {
    /// One entry per ciphersuite that the device has KeyPackages of.
    pub suites: Vec<SuiteStatus>,
}

/// The caller's pool for one ciphersuite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SuiteStatus {
    /// The ciphersuite (RFC 9420 §17.1).
    pub suite: u16,
    /// May be handed out.
    pub available: u32,
    /// Handed out and not yet spent.
    pub reserved: u32,
    /// Spent, tombstones included.
    pub spent: u32,
    /// Lapsed, tombstones included.
    pub lapsed: u32,
    /// Expired, tombstones included.
    pub expired: u32,
    /// Available, but not for much longer (2 days).
    pub expiring_soon: u32,
    /// The last resort. It counts in none of the numbers above.
    pub last_resort: LastResortStatus,
    /// When a KeyPackage was last accepted, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_upload: Option<u64>,
    /// In one word.
    pub health: Health,
    /// What the owner should do, for a person.
    pub recommended_action: String,
}

/// Whether a device can be added when nothing else is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastResortStatus {
    /// Whether there is a last resort that may be handed out.
    pub present: bool,
    /// Whether it was handed out: replace it. `false` when there is none.
    pub used: bool,
}

/// The health of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// At or above the low watermark.
    Good,
    /// Below the low watermark.
    Low,
    /// Nothing but perhaps the last resort.
    Empty,
}

/// `POST /v1/key-packages/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokeRequest {
    /// The KeyPackages to withdraw; those that are terminal, unknown or not the caller's stay as they are.
    pub refs: Vec<KeyPackageRef>,
}

/// What `POST /v1/key-packages/revoke` takes: some KeyPackages, or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Revocation {
    /// These.
    Some(RevokeRequest),
    /// All of one signature key.
    All(RevokeAllRequest),
}

/// Withdraws every KeyPackage of the caller that could still be handed out or added, last resorts included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokeAllRequest {
    /// The MLS signature public key of their leaves. Those of another key stay as they are.
    pub all_of: Base64Url,
}

/// The answer to a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revoked {
    /// The KeyPackages that are withdrawn now, by this request or an earlier one: `revoked`, or a last resort that is
    /// `gone`.
    pub refs: Vec<KeyPackageRef>,
}

/// `POST /v1/key-packages/reserve`: asks for one KeyPackage of every device of some users.
///
/// Needs an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReserveRequest {
    /// The users to add; 1 to 64, each once.
    pub users: Vec<UserName>,
    /// The group that they are to be added to.
    pub group_id: GroupId,
    /// The ciphersuites that will do (RFC 9420 §17.1), usually one: the group's.
    pub suites: Vec<u16>,
    /// Reserve nothing unless every user has a device that can be added, if only with its last resort.
    #[serde(default)]
    pub all_or_nothing: bool,
}

/// The answer to a reserve request. A retry with the same idempotency key gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reserved {
    /// Names the reservation in the Commit; absent when nothing was reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<String>,
    /// When the reservation lapses, in Unix seconds.
    pub expires_at: u64,
    /// One entry per user, in the order of the request.
    pub users: Vec<UserReservation>,
}

/// `POST /v1/reservations/{id}/spend`: a Commit that travelled through another delivery service added these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SpendRequest {
    /// The KeyPackages that it added, all of this reservation; 1 to 256.
    pub refs: Vec<KeyPackageRef>,
    /// The group that it added them to: the one that they are reserved for.
    pub group_id: GroupId,
}

/// What was reserved for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserReservation {
    /// The user.
    pub user: UserName,
    /// One entry per device, oldest first. The caller's own device is left out.
    pub devices: Vec<DeviceReservation>,
}

/// What was reserved for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceReservation {
    /// The device.
    pub device_id: DeviceId,
    /// Whether it can be added.
    pub outcome: DeviceOutcome,
    /// The reference of its KeyPackage (`ok`, `last_resort`).
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub key_package_ref: Option<KeyPackageRef>,
    /// Its KeyPackage as an `MLSMessage` (`ok`, `last_resort`). Hostile until checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_package: Option<Base64Url>,
    /// Whether this is the device's last resort, which is not single-use.
    #[serde(default)]
    pub last_resort: bool,
    /// How long to wait at least before asking again, in seconds (`rate_limited`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

/// Whether a device can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeviceOutcome {
    /// A KeyPackage is reserved.
    Ok,
    /// The last resort is reserved: nothing else was left for this caller.
    LastResort,
    /// Nothing is left.
    Exhausted,
    /// Nothing of an asked ciphersuite.
    Incompatible,
    /// The caller's user asked for it too often, or holds too many reservations; `retry_after_seconds` tells when to ask
    /// again.
    RateLimited,
    /// Could have been reserved, but `all_or_nothing` was asked and another user cannot be added. Nothing was
    /// disclosed.
    Withheld,
}
