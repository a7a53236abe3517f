use std::num::NonZeroUsize;
use std::sync::Arc;

use larder_lifecycle::{
    BLOB_RETENTION_SECONDS, ClockReading, DirectoryPolicy, DrainLimits, INBOX_RETENTION_SECONDS, Rate,
};
use larder_wire::{AUDIT_RETENTION_SECONDS_MIN, Registration, SUITE_X25519_AES128GCM};

use crate::http::TrustedProxy;
use crate::store::StoreLocation;

/// Where the time comes from. The server never reads a clock itself; OpenMLS does, to judge lifetimes in Commits.
pub type Clock = Arc<dyn Fn() -> ClockReading + Send + Sync>;

/// A session, in seconds: one hour.
const SESSION_SECONDS: u64 = 60 * 60;

/// A database that is down at start, in seconds: one minute.
const POSTGRES_WAIT_SECONDS: u64 = 60;

/// Open connections.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// The first request of a connection, in seconds.
const FIRST_REQUEST_SECONDS_MAX: u64 = 10;
/// A connection without a request, in seconds.
const IDLE_SECONDS: u64 = 30;
/// A stream of events whose client does not read, in seconds.
const SEND_SECONDS_MAX: u64 = 10;
/// Requests that use the store or wait for it.
const STORE_REQUESTS_MAX: usize = 1024;
/// Long polls and streams of one device.
const WAITING_PER_DEVICE_MAX: usize = 8;

/// Blobs that are stored or fetched.
const TRANSFERS_MAX: usize = 128;
/// Those of one user.
const TRANSFERS_PER_USER_MAX: usize = 4;
/// A part of a blob, in seconds.
const TRANSFER_PART_SECONDS_MAX: u64 = 30;

/// What a server spends at most on those who connect to it.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Open connections. Each may need a file descriptor; others are turned away.
    pub connections_max: usize,
    /// A connection whose first request head has not come within this time is closed, in seconds; that of a trusted proxy is not.
    pub first_request_seconds_max: u64,
    /// A connection that asks for nothing is closed after this time, or twice as much, in seconds.
    pub idle_seconds: u64,
    /// A stream of events whose client has taken nothing for this time ends, in seconds. The client catches up when it
    /// connects again.
    pub send_seconds_max: u64,
    /// Requests that use the store or wait for it at once. Others are told to come back (`unavailable`).
    pub store_requests_max: usize,
    /// Long polls and streams of one device at once. Others are refused (`rate-limited`).
    pub waiting_per_device_max: usize,
    /// Blobs that are stored or fetched at once; each needs memory for two parts of 256 KiB. Others are told to come back
    /// (`unavailable`).
    pub transfers_max: usize,
    /// Those of one user. Others are refused (`rate-limited`).
    pub transfers_per_user_max: usize,
    /// A client that takes longer to send or to take 256 KiB of a blob is given up, in seconds.
    pub transfer_part_seconds_max: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            first_request_seconds_max: FIRST_REQUEST_SECONDS_MAX,
            idle_seconds: IDLE_SECONDS,
            send_seconds_max: SEND_SECONDS_MAX,
            store_requests_max: STORE_REQUESTS_MAX,
            waiting_per_device_max: WAITING_PER_DEVICE_MAX,
            transfers_max: TRANSFERS_MAX,
            transfers_per_user_max: TRANSFERS_PER_USER_MAX,
            transfer_part_seconds_max: TRANSFER_PART_SECONDS_MAX,
        }
    }
}

/// Open connections of one address.
const ADDRESS_CONNECTIONS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Registrations from one address: 100 at once, then one in 30 seconds.
const ADDRESS_REGISTRATION_RATE: Rate = Rate {
    burst: 100,
    interval_seconds: 30,
};
/// Requests without a session from one address, in a second.
const ADDRESS_REQUESTS_PER_SECOND: u32 = 10;
/// MiB of blobs that are stored from one address: 1,024 at once, then one in a second.
const ADDRESS_UPLOAD_RATE: Rate = Rate {
    burst: 1024,
    interval_seconds: 1,
};

/// What one address may do. An IPv6 address counts as all of its /64 network. Each node counts for itself.
#[derive(Debug, Clone)]
pub struct AddressLimits {
    /// Proxies whose `X-Forwarded-For` says where a request comes from, and whose connections are not limited. From anybody
    /// else the header says nothing.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Open connections; `None` for any number. Others are turned away.
    pub connections_max: Option<NonZeroUsize>,
    /// Attempts to register; `None` for any number. Others are refused (`rate-limited`).
    pub registrations: Option<Rate>,
    /// Requests without a valid session in a second, those of a minute at once; 0 for any number. Others are refused
    /// (`rate-limited`).
    pub requests_per_second: u32,
    /// MiB of blobs whose upload begins; `None` for any number. Others are refused (`rate-limited`).
    pub upload_mibs: Option<Rate>,
}

impl Default for AddressLimits {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            connections_max: Some(ADDRESS_CONNECTIONS_MAX),
            registrations: Some(ADDRESS_REGISTRATION_RATE),
            requests_per_second: ADDRESS_REQUESTS_PER_SECOND,
            upload_mibs: Some(ADDRESS_UPLOAD_RATE),
        }
    }
}

impl AddressLimits {
    /// No limits: for tests and measurements, where many clients have one address.
    pub fn none() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            connections_max: None,
            registrations: None,
            requests_per_second: 0,
            upload_mibs: None,
        }
    }
}

/// The largest file, in bytes: 16 MiB.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What encryption adds to a file, in bytes, and some more.
const ENCRYPTION_BYTES: u64 = 1024;
/// Blobs of all users, in bytes: 64 GiB.
const STORE_BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Blobs of one user, in bytes: 512 MiB.
const USER_BLOB_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Blobs that one user stores: 64 at once, then one in a minute.
const BLOB_RATE: Rate = Rate {
    burst: 64,
    interval_seconds: 60,
};

/// What is stored of files that members of a group send each other: encrypted by them, and opaque here.
#[derive(Debug, Clone, Copy)]
pub struct BlobLimits {
    /// One blob, in bytes; with 0 none can be stored.
    pub bytes_max: u64,
    /// Blobs of one user together, in bytes. One counts until the sweeper has removed it.
    pub user_bytes_max: u64,
    /// Blobs of all users together, in bytes. All nodes count together.
    pub store_bytes_max: u64,
    /// How often one user may store one.
    pub rate: Rate,
    /// How long one is kept, in seconds.
    pub retention_seconds: u64,
}

impl BlobLimits {
    /// How large one blob may be so that a file of so many bytes can be sent; none for files of 0 bytes.
    pub fn for_files_of(bytes: u64) -> u64 {
        match bytes {
            0 => 0,
            bytes => bytes.saturating_add(ENCRYPTION_BYTES),
        }
    }
}

impl Default for BlobLimits {
    fn default() -> Self {
        Self {
            bytes_max: Self::for_files_of(FILE_BYTES_MAX),
            user_bytes_max: USER_BLOB_BYTES_MAX,
            store_bytes_max: STORE_BLOB_BYTES_MAX,
            rate: BLOB_RATE,
            retention_seconds: BLOB_RETENTION_SECONDS,
        }
    }
}

/// Messages that wait in one group, in bytes: 64 MiB.
const GROUP_WAITING_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Accounts that are created in an hour.
const ACCOUNTS_PER_HOUR: u32 = 1000;

/// Devices that a user can have at a time.
const USER_DEVICES_MAX: u32 = 8;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name that sessions and registrations are signed for.
    pub server_name: String,
    /// Where everything is kept.
    pub store: StoreLocation,
    /// How long a PostgreSQL database that is down is waited for at start, in seconds.
    pub postgres_wait_seconds: u64,
    /// The ciphersuites (RFC 9420 §17.1) that clients stock, in order; new groups have the first. They are accepted, and
    /// besides them 0x0001 and 0x0003.
    pub group_suites: Vec<u16>,
    /// What the directory demands of KeyPackages.
    pub directory: DirectoryPolicy,
    /// Whether Commits may travel through another delivery service, whose clients say themselves what they have spent.
    pub external_delivery: bool,
    /// What keeps others from draining a pool.
    pub drain: DrainLimits,
    /// What is spent on those who connect.
    pub limits: ServerLimits,
    /// What one address may do.
    pub addresses: AddressLimits,
    /// Who may register.
    pub registration: Registration,
    /// How many accounts can be created within an hour, counted from the first of them; 0 for any number. All nodes count
    /// together.
    pub accounts_per_hour: u32,
    /// How many devices a user can have at a time.
    pub user_devices_max: u32,
    /// How long a session lasts, in seconds.
    pub session_seconds: u64,
    /// How long a device can ask what happened to its KeyPackages, in seconds: [`AUDIT_RETENTION_SECONDS_MIN`] if this is
    /// less: clients rely on it.
    pub audit_retention_seconds: u64,
    /// How long a message is kept for members who have not come for it, in seconds.
    pub inbox_retention_seconds: u64,
    /// Messages that wait in one group for members who have not come for them, in bytes. Beyond that, those of the sender with
    /// most of them go, oldest first.
    pub group_waiting_bytes_max: u64,
    /// What is stored of files.
    pub blobs: BlobLimits,
}

impl Config {
    /// The defaults, with this store; a path is a SQLite database.
    pub fn new(store: impl Into<StoreLocation>) -> Self {
        Self {
            server_name: "localhost".to_owned(),
            store: store.into(),
            postgres_wait_seconds: POSTGRES_WAIT_SECONDS,
            group_suites: vec![SUITE_X25519_AES128GCM],
            directory: DirectoryPolicy::default(),
            external_delivery: false,
            drain: DrainLimits::default(),
            limits: ServerLimits::default(),
            addresses: AddressLimits::default(),
            registration: Registration::Open,
            accounts_per_hour: ACCOUNTS_PER_HOUR,
            user_devices_max: USER_DEVICES_MAX,
            session_seconds: SESSION_SECONDS,
            audit_retention_seconds: AUDIT_RETENTION_SECONDS_MIN,
            inbox_retention_seconds: INBOX_RETENTION_SECONDS,
            group_waiting_bytes_max: GROUP_WAITING_BYTES_MAX,
            blobs: BlobLimits::default(),
        }
    }
}
