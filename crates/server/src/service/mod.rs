//! The façade of the server: every request of the API as one method, with typed requests and answers.

mod accounts;
mod blobs;
mod directory;
mod groups;
mod inbox;
mod states;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use larder_lifecycle::UnixSeconds;
use larder_wire::{
    AUDIT_RETENTION_SECONDS_MIN, BODY_BYTES_MAX, COMMIT_ADDS_MAX, COMMIT_BYTES_MAX, DeviceId,
    GROUP_INFO_BYTES_MAX, KEY_PACKAGE_BYTES_MAX, LEAF_BYTES_MAX, Limits, MESSAGE_BYTES_MAX, MESSAGES_MAX,
    PROPOSAL_BYTES_MAX, PROPOSALS_WAITING_MAX, Problem, ProblemType, ServerInfo, StateClaim, TREE_BYTES_MAX,
    UPLOAD_KEY_PACKAGES_MAX, UserName,
};
use openmls_rust_crypto::RustCrypto;

pub use blobs::{BlobDownload, BlobUpload};
pub use sweep::Swept;

use crate::accounts::ChallengeKey;
use crate::clock::Watch;
use crate::config::{AddressLimits, Clock, Config, ServerLimits};
use crate::delivery::judges::Judges;
use crate::delivery::states::States;
use crate::directory::Terms;
use crate::error::{Fault, ServiceError};
use crate::sessions::{SessionKey, Sessions};
use crate::store::{Beginning, DeviceRow, Store, Tx};
use crate::suites::{accepted, check_group_suites};
use crate::transfers::Transfers;
use crate::wakeups::Wakeups;

/// Everything that a client can ask for. A clone is another handle on the same server.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// The accepted ciphersuites.
    suites: Vec<u16>,
    watch: Watch,
    store: Store,
    wakeups: Wakeups,
    judges: Judges,
    states: States,
    transfers: Transfers,
    crypto: RustCrypto,
    sessions: Sessions,
    challenges: ChallengeKey,
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
    session: SessionKey,
    session_ends: UnixSeconds,
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

impl Service {
    /// Opens the server's store and brings its schema up to date. A clock that does not fit what the store knows is not
    /// believed (see [`clock_suspension`](Self::clock_suspension)).
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be opened or migrated, or a configured ciphersuite cannot be used.
    pub async fn open(mut config: Config, clock: Clock) -> Result<Self, Fault> {
        check_group_suites(&config.group_suites)?;
        let stocked = u32::try_from(config.group_suites.len()).unwrap_or(u32::MAX);
        config.directory = config.directory.shared_between(stocked);
        config.drain = config.drain.shared_between(stocked);
        config.audit_retention_seconds = config.audit_retention_seconds.max(AUDIT_RETENTION_SECONDS_MIN);
        let crypto = RustCrypto::default();
        let sessions = Sessions::default();
        let wakeups = Wakeups::knowing(sessions.clone());
        let wait = Duration::from_secs(config.postgres_wait_seconds);
        let store = Store::open(&config.store, &Beginning::new(&crypto)?, wakeups.clone(), wait).await?;
        let known = store.read(|tx| Ok((tx.clock()?, tx.challenge_key()?)));
        let (known, challenges) = known.await.map_err(of_the_store)?;
        let watch = Watch::start(clock, &known);
        let store = store.for_requests(config.limits.store_requests_max);
        Ok(Self {
            inner: Arc::new(Inner {
                suites: accepted(&config.group_suites),
                transfers: Transfers::new(config.limits.transfers_max, config.limits.transfers_per_user_max),
                config,
                watch,
                store,
                wakeups,
                judges: Judges::start()?,
                states: States::default(),
                crypto,
                sessions,
                challenges,
            }),
        })
    }

    /// Runs what a device asked for in one transaction, unless its state is behind what it has done before.
    async fn change<T, F>(&self, caller: &Caller, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        self.change_ahead(caller, |_| Ok(()), work).await
    }

    /// Like [`change`](Self::change), where `ahead` reads ahead what `work` will ask for first.
    async fn change_ahead<T, A, F>(&self, caller: &Caller, ahead: A, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        A: Fn(&Tx<'_>) -> Result<(), Fault> + Send + 'static,
        F: Fn(&Tx<'_>) -> Result<T, ServiceError> + Send + 'static,
    {
        let (device, claim) = (caller.device.key, caller.claim.clone());
        self.inner
            .store
            .write(move |tx| {
                tx.state_mark_ahead(device);
                ahead(tx)?;
                crate::accounts::follow(tx, device, claim.as_deref())?;
                work(tx)
            })
            .await
    }

    /// What is spent on those who connect.
    pub(crate) fn limits(&self) -> ServerLimits {
        self.inner.config.limits
    }

    /// What one address may do.
    pub(crate) fn address_limits(&self) -> &AddressLimits {
        &self.inner.config.addresses
    }

    /// The time that the server goes by: not always what its clock says (see [`clock_suspension`](Self::clock_suspension)).
    pub(crate) fn now(&self) -> UnixSeconds {
        self.inner.watch.now()
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
                messages_max: MESSAGES_MAX as u32,
                body_bytes_max: BODY_BYTES_MAX as u64,
                commit_bytes_max: COMMIT_BYTES_MAX as u64,
                commit_adds_max: COMMIT_ADDS_MAX as u32,
                proposal_bytes_max: PROPOSAL_BYTES_MAX as u64,
                proposals_waiting_max: PROPOSALS_WAITING_MAX as u32,
                leaf_bytes_max: LEAF_BYTES_MAX as u64,
                tree_bytes_max: TREE_BYTES_MAX as u64,
                group_info_bytes_max: GROUP_INFO_BYTES_MAX as u64,
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
}

/// Reading the store is refused by nobody.
fn of_the_store(error: ServiceError) -> Fault {
    match error {
        ServiceError::Fault(fault) => fault,
        ServiceError::Refused(_) => Fault::Corrupt("a read that was refused"),
    }
}

fn malformed(detail: &str) -> ServiceError {
    Problem::new(ProblemType::Malformed).with_detail(detail).into()
}
