use std::sync::Arc;

use larder_lifecycle::{DirectoryPolicy, INBOX_RETENTION_SECONDS, UnixSeconds};
use larder_wire::{Registration, SUITE_X25519_AES128GCM};

use crate::store::StoreLocation;

/// Where the time comes from. The server never reads a clock itself; OpenMLS does, to judge lifetimes in Commits.
pub type Clock = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// A session, in seconds: one hour.
const SESSION_SECONDS: u64 = 60 * 60;

/// Devices that a user can have at a time.
const USER_DEVICES_MAX: u32 = 8;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that sessions and registrations are signed for.
    pub server_name: String,
    /// Where everything is kept.
    pub store: StoreLocation,
    /// The ciphersuites (RFC 9420 §17.1) that clients stock, in order; new groups have the first. They are accepted, and
    /// besides them 0x0001 and 0x0003.
    pub group_suites: Vec<u16>,
    /// What the directory demands of KeyPackages.
    pub directory: DirectoryPolicy,
    /// Who may register.
    pub registration: Registration,
    /// How many devices a user can have at a time.
    pub user_devices_max: u32,
    /// How long a session lasts, in seconds.
    pub session_seconds: u64,
    /// How long an unacknowledged inbox row is kept, in seconds.
    pub inbox_retention_seconds: u64,
}

impl Config {
    /// The defaults, with this store; a path is a SQLite database.
    pub fn new(store: impl Into<StoreLocation>) -> Self {
        Self {
            server_name: "localhost".to_owned(),
            store: store.into(),
            group_suites: vec![SUITE_X25519_AES128GCM],
            directory: DirectoryPolicy::default(),
            registration: Registration::Open,
            user_devices_max: USER_DEVICES_MAX,
            session_seconds: SESSION_SECONDS,
            inbox_retention_seconds: INBOX_RETENTION_SECONDS,
        }
    }
}
