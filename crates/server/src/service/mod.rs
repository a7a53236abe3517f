//! The façade of the server: every request of the API as one method, with typed requests and answers.

mod accounts;
mod blobs;
mod delivery;
mod directory;

use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_wire::{
    BODY_BYTES_MAX, DeviceId, KEY_PACKAGE_BYTES_MAX, Limits, MESSAGE_BYTES_MAX, Problem, ProblemType,
    ServerInfo, StateClaim, UPLOAD_KEY_PACKAGES_MAX, UserName,
};
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

pub use blobs::{BlobDownload, BlobUpload};

use crate::config::{Clock, Config, ServerLimits};
use crate::directory::Terms;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, Store, Tx};
use crate::suites::{accepted, check_group_suites};
use crate::transfers::Transfers;
use crate::wakeups::Wakeups;

/// Rows of each kind that one transaction of the sweeper touches, so that it never holds up a request for long.
const SWEEP_ROWS_MAX: u32 = 500;
/// The same of blobs, whose parts are large.
const SWEEP_BLOB_PARTS_MAX: u32 = 64;
/// Idempotent answers are kept this long, in seconds: one day.
const IDEMPOTENT_ANSWER_SECONDS: u64 = 24 * 60 * 60;

/// Everything that a client can ask for. A clone is another handle on the same server.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// The accepted ciphersuites.
    suites: Vec<u16>,
    clock: Clock,
    store: Store,
    wakeups: Wakeups,
    transfers: Transfers,
    crypto: RustCrypto,
}

impl Inner {
    /// What reservations are held against.
    fn terms(&self, now: UnixSeconds) -> Terms<'_> {
        Terms {
            policy: &self.config.directory,
            limits: &self.config.drain,
            now,
        }
    }
}

/// An authenticated device.
#[derive(Clone)]
pub struct Caller {
    device: Arc<DeviceRow>,
    /// What it says of its own state.
    claim: Option<Arc<StateClaim>>,
}

impl Caller {
    /// The device's user.
    pub fn user(&self) -> &UserName {
        &self.device.user
    }

    /// The same device with what it says of its own state. Every request that changes something is held against it.
    #[must_use]
    pub fn claiming(self, claim: Option<StateClaim>) -> Self {
        Self {
            claim: claim.map(Arc::new),
            ..self
        }
    }

    /// The device.
    pub fn device_id(&self) -> &DeviceId {
        &self.device.device_id
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// KeyPackages that lapsed, expired or were forgotten.
    pub key_packages: u64,
    /// Inbox rows, sessions, answers, memories of rates, trees and parts of blobs that were removed.
    pub other_rows: u64,
}

impl Service {
    /// Opens the server's store and brings its schema up to date.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be opened or migrated, or a configured ciphersuite cannot be used.
    pub async fn open(mut config: Config, clock: Clock) -> Result<Self, Fault> {
        check_group_suites(&config.group_suites)?;
        let stocked = u32::try_from(config.group_suites.len()).unwrap_or(u32::MAX);
        config.directory = config.directory.shared_between(stocked);
        config.drain = config.drain.shared_between(stocked);
        let wakeups = Wakeups::default();
        let incarnation = Uuid::new_v4().to_string();
        let store = Store::open(&config.store, &incarnation, wakeups.clone())
            .await?
            .for_requests(config.limits.store_requests_max);
        Ok(Self {
            inner: Arc::new(Inner {
                suites: accepted(&config.group_suites),
                transfers: Transfers::new(config.limits.transfers_max, config.limits.transfers_per_user_max),
                config,
                clock,
                store,
                wakeups,
                crypto: RustCrypto::default(),
            }),
        })
    }

    /// Runs what a device asked for in one transaction, unless its state is behind what it has done before.
    async fn change<T, F>(&self, caller: &Caller, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let (device, claim) = (caller.device.key, caller.claim.clone());
        self.inner
            .store
            .write(move |tx| {
                crate::accounts::follow(tx, device, claim.as_deref())?;
                work(tx)
            })
            .await
    }

    /// What is spent on those who connect.
    pub(crate) fn limits(&self) -> ServerLimits {
        self.inner.config.limits
    }

    pub(crate) fn now(&self) -> UnixSeconds {
        (self.inner.clock)()
    }

    /// What a client needs to know before it registers.
    pub fn info(&self) -> ServerInfo {
        let Config {
            server_name,
            group_suites,
            directory,
            registration,
            user_devices_max,
            inbox_retention_seconds,
            blobs,
            ..
        } = &self.inner.config;
        ServerInfo {
            server_name: server_name.clone(),
            api_version: "v1".to_owned(),
            suites: self.inner.suites.clone(),
            group_suites: group_suites.clone(),
            limits: Limits {
                key_package_lifetime_seconds_max: directory.lifetime_seconds_max,
                serving_margin_seconds: directory.serving_margin_seconds,
                key_package_bytes_max: KEY_PACKAGE_BYTES_MAX as u64,
                upload_key_packages_max: UPLOAD_KEY_PACKAGES_MAX as u32,
                live_key_packages_max: directory.hard_cap,
                reservation_seconds: directory.reservation_seconds,
                message_bytes_max: MESSAGE_BYTES_MAX as u64,
                body_bytes_max: BODY_BYTES_MAX as u64,
                inbox_retention_seconds: *inbox_retention_seconds,
                user_devices_max: *user_devices_max,
                blob_bytes_max: blobs.bytes_max,
                user_blob_bytes_max: blobs.user_bytes_max,
                blob_retention_seconds: blobs.retention_seconds,
            },
            registration: *registration,
        }
    }

    /// Fails when the database cannot be read.
    pub async fn ready(&self) -> Result<(), ServiceError> {
        self.inner
            .store
            .read(|tx| Ok(tx.incarnation().map(|_| ())?))
            .await
    }

    /// Does what is due: reservations lapse, KeyPackages expire, what nobody needs any more is removed. Each
    /// transaction is small; a large backlog takes several.
    pub async fn sweep(&self) -> Result<Swept, ServiceError> {
        let mut total = Swept {
            key_packages: 0,
            other_rows: 0,
        };
        loop {
            let (inner, now) = (Arc::clone(&self.inner), self.now());
            let swept = self
                .inner
                .store
                .write(move |tx| {
                    let Config {
                        directory,
                        inbox_retention_seconds,
                        ..
                    } = &inner.config;
                    if !tx.take_turn_to_sweep()? {
                        return Ok(Swept {
                            key_packages: 0,
                            other_rows: 0,
                        });
                    }
                    let kept_since = now.minus(*inbox_retention_seconds);
                    Ok(Swept {
                        key_packages: crate::directory::sweep(tx, directory, now, SWEEP_ROWS_MAX)?,
                        other_rows: tx.sweep_accounts(
                            now,
                            now.minus(IDEMPOTENT_ANSWER_SECONDS),
                            SWEEP_ROWS_MAX,
                        )? + tx.sweep_rates(now, SWEEP_ROWS_MAX)?
                            + tx.sweep_inboxes(kept_since, SWEEP_ROWS_MAX)?
                            + tx.sweep_groups(kept_since, SWEEP_ROWS_MAX)?
                            + tx.sweep_blobs(now, (SWEEP_BLOB_PARTS_MAX, SWEEP_ROWS_MAX))?,
                    })
                })
                .await?;
            if swept
                == (Swept {
                    key_packages: 0,
                    other_rows: 0,
                })
            {
                return Ok(total);
            }
            total.key_packages += swept.key_packages;
            total.other_rows += swept.other_rows;
        }
    }
}

fn malformed(detail: &str) -> ServiceError {
    Problem::new(ProblemType::Malformed).with_detail(detail).into()
}
