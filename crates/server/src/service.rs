use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Accepted, BODY_BYTES_MAX, Base64Url, Challenge, ChallengeRequest, CommitRequest, CreateGroupRequest,
    DeviceId, DeviceInfo, GroupCreated, GroupId, GroupInfoAnswer, INBOX_PAGE_ROWS_MAX, Inbox, Inventory,
    KEY_PACKAGE_BYTES_MAX, Limits, MESSAGE_BYTES_MAX, PoolStatus, Problem, ProblemType, RESERVE_USERS_MAX,
    RegisterRequest, Registered, Registration, ReserveRequest, Reserved, RevokeRequest, Revoked, Sent,
    ServerInfo, Session, SessionRequest, UPLOAD_KEY_PACKAGES_MAX, UploadRequest, Uploaded, UserDevices,
    UserName,
};
use openmls_rust_crypto::RustCrypto;
use tokio::sync::watch;
use uuid::Uuid;

use crate::accounts::{self, CHALLENGE_SECONDS, SignedChallenge, answered_once, secret_hash};
use crate::config::{Clock, Config};
use crate::error::{Fault, ServiceError};
use crate::random::random_bytes;
use crate::store::{DeviceRow, Store};
use crate::wakeups::Wakeups;
use crate::{delivery, directory};

/// Ciphersuites in one reserve request.
const RESERVE_SUITES_MAX: usize = 16;
/// Rows of each kind that one transaction of the sweeper touches, so that it never holds up a request for long.
const SWEEP_ROWS_MAX: u32 = 500;
/// Idempotent answers are kept this long, in seconds: one day.
const IDEMPOTENT_ANSWER_SECONDS: u64 = 24 * 60 * 60;

/// Everything that a client can ask for. A clone is another handle on the same server.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    clock: Clock,
    store: Store,
    wakeups: Wakeups,
    crypto: RustCrypto,
}

/// An authenticated device.
#[derive(Clone)]
pub struct Caller {
    device: Arc<DeviceRow>,
}

impl Caller {
    /// The device's user.
    pub fn user(&self) -> &UserName {
        &self.device.user
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
    pub key_packages: usize,
    /// Inbox rows, sessions, answers and trees that were removed.
    pub other_rows: usize,
}

impl Service {
    /// Opens the server's database, creating it when absent.
    ///
    /// # Errors
    /// [`Fault`] when the database cannot be opened or migrated.
    pub fn open(config: Config, clock: Clock) -> Result<Self, Fault> {
        let wakeups = Wakeups::default();
        let waking = wakeups.clone();
        let incarnation = Uuid::new_v4().to_string();
        let store = Store::open(&config.database, &incarnation, move |devices| {
            waking.wake(devices)
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                clock,
                store,
                wakeups,
                crypto: RustCrypto::default(),
            }),
        })
    }

    fn now(&self) -> UnixSeconds {
        (self.inner.clock)()
    }

    /// What a client needs to know before it registers.
    pub fn info(&self) -> ServerInfo {
        let Config {
            server_name,
            suites,
            directory,
            registration,
            inbox_retention_seconds,
            ..
        } = &self.inner.config;
        ServerInfo {
            server_name: server_name.clone(),
            api_version: "v1".to_owned(),
            suites: suites.clone(),
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

    // Accounts --------------------------------------------------------------------------------------------------------

    /// Registers a user with a first device. Refuses with `forbidden` (registration is closed), `malformed` (a key is
    /// not 32 bytes, or both are the same), `unauthenticated` (a proof does not verify) or `name-taken`.
    pub async fn register(&self, request: RegisterRequest) -> Result<Registered, ServiceError> {
        match self.inner.config.registration {
            Registration::Open => {}
            Registration::Closed => return Err(ProblemType::Forbidden.into()),
        }
        accounts::check_registration(&self.inner.crypto, &self.inner.config.server_name, &request)?;
        let now = self.now();
        let registered = Registered {
            user: request.user.clone(),
            device_id: request.device_id.clone(),
        };
        self.inner
            .store
            .write(move |tx| accounts::register(tx, &request, now))
            .await?;
        Ok(registered)
    }

    /// A challenge to sign. An unknown device gets one that nothing will accept.
    pub async fn challenge(&self, request: ChallengeRequest) -> Result<Challenge, ServiceError> {
        let challenge: [u8; 32] = random_bytes(&self.inner.crypto)?;
        let expires_at = self.now().plus(CHALLENGE_SECONDS);
        self.inner
            .store
            .write(move |tx| accounts::open_challenge(tx, &request.device_id, &challenge, expires_at))
            .await?;
        Ok(Challenge {
            challenge: Base64Url(challenge.to_vec()),
            expires_at: expires_at.0,
        })
    }

    /// Trades a signed challenge for a session. Refuses with `unauthenticated`, whatever was wrong.
    pub async fn open_session(&self, request: SessionRequest) -> Result<Session, ServiceError> {
        let token = Base64Url(random_bytes::<32>(&self.inner.crypto)?.to_vec()).to_string();
        let now = self.now();
        let expires_at = now.plus(self.inner.config.session_seconds);
        let session = Session {
            token,
            expires_at: expires_at.0,
        };
        let (inner, token) = (Arc::clone(&self.inner), session.token.clone());
        let opened = self
            .inner
            .store
            .write(move |tx| {
                let signed = SignedChallenge {
                    crypto: &inner.crypto,
                    server_name: &inner.config.server_name,
                    device_id: &request.device_id,
                    challenge: &request.challenge.0,
                    signature: &request.signature.0,
                };
                accounts::open_session(tx, &signed, &token, now, expires_at)
            })
            .await?;
        if opened.is_some() {
            Ok(session)
        } else {
            Err(ProblemType::Unauthenticated.into())
        }
    }

    /// The device that a token belongs to. Refuses with `unauthenticated`.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, ServiceError> {
        let hash = secret_hash(token.as_bytes());
        let now = self.now();
        let device = self
            .inner
            .store
            .read(move |tx| Ok(tx.device_by_session(&hash, now)?))
            .await?;
        device
            .map(|device| Caller {
                device: Arc::new(device),
            })
            .ok_or_else(|| ProblemType::Unauthenticated.into())
    }

    /// The devices of a user. Refuses with `not-found`.
    pub async fn user_devices(&self, _caller: &Caller, user: UserName) -> Result<UserDevices, ServiceError> {
        let asked = user.clone();
        let devices = self
            .inner
            .store
            .read(move |tx| Ok(tx.devices_of_user(&asked)?))
            .await?;
        if devices.is_empty() {
            return Err(ProblemType::NotFound.into());
        }
        let devices = devices
            .into_iter()
            .map(|device| DeviceInfo {
                device_id: device.device_id,
                mls_signature_key: Base64Url(device.signature_key),
            })
            .collect();
        Ok(UserDevices { user, devices })
    }

    // Directory -------------------------------------------------------------------------------------------------------

    /// Adds KeyPackages to the caller's pool; each gets its own verdict. Refuses with `malformed` (an empty batch) or
    /// `too-large`.
    pub async fn upload(&self, caller: &Caller, request: UploadRequest) -> Result<Uploaded, ServiceError> {
        if request.key_packages.is_empty() {
            return Err(malformed("no KeyPackages"));
        }
        if request.key_packages.len() > UPLOAD_KEY_PACKAGES_MAX {
            return Err(ProblemType::TooLarge.into());
        }
        let now = self.now();
        let (inner, uploader) = (Arc::clone(&self.inner), Arc::clone(&caller.device));
        // Signatures are checked before the batch takes its turn in the writer.
        let judged = tokio::task::spawn_blocking(move || {
            let Config {
                directory, suites, ..
            } = &inner.config;
            request
                .key_packages
                .into_iter()
                .map(|Base64Url(bytes)| {
                    let verdict =
                        directory::validate(&inner.crypto, &bytes, &uploader, (directory, suites), now);
                    (bytes, verdict)
                })
                .collect()
        })
        .await
        .map_err(|_| Fault::Closed)?;
        let (inner, uploader) = (Arc::clone(&self.inner), Arc::clone(&caller.device));
        self.inner
            .store
            .write(move |tx| directory::upload(tx, &uploader, judged, &inner.config.directory, now))
            .await
    }

    /// The caller's KeyPackages; `None` when `digest` stands for the present answer.
    pub async fn inventory(
        &self,
        caller: &Caller,
        digest: Option<String>,
    ) -> Result<Option<Inventory>, ServiceError> {
        let owner = caller.device.key;
        self.inner
            .store
            .read(move |tx| directory::inventory(tx, owner, digest.as_deref()))
            .await
    }

    /// The caller's pool in numbers.
    pub async fn pool_status(&self, caller: &Caller) -> Result<PoolStatus, ServiceError> {
        let (inner, owner, now) = (Arc::clone(&self.inner), caller.device.key, self.now());
        self.inner
            .store
            .read(move |tx| directory::pool_status(tx, owner, &inner.config.directory, now))
            .await
    }

    /// Withdraws KeyPackages of the caller.
    pub async fn revoke(&self, caller: &Caller, request: RevokeRequest) -> Result<Revoked, ServiceError> {
        let (owner, now) = (Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| directory::revoke(tx, &owner, &request, now))
            .await
    }

    /// Reserves one KeyPackage of every device of some users. Refuses with `malformed`, `not-found` (a user is unknown
    /// or cannot be reached; nothing is reserved) or `idempotency-mismatch`.
    pub async fn reserve(
        &self,
        caller: &Caller,
        idempotency_key: String,
        request: ReserveRequest,
    ) -> Result<Reserved, ServiceError> {
        let users = &request.users;
        if users.is_empty() || users.len() > RESERVE_USERS_MAX {
            return Err(malformed("between 1 and 64 users"));
        }
        if (1..users.len()).any(|index| users[..index].contains(&users[index])) {
            return Err(malformed("a user is named twice"));
        }
        if request.suites.is_empty() || request.suites.len() > RESERVE_SUITES_MAX {
            return Err(malformed("between 1 and 16 suites"));
        }
        let (inner, caller, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| {
                answered_once(
                    tx,
                    caller.key,
                    &idempotency_key,
                    ("reserve", &request),
                    now,
                    || {
                        let id = Uuid::new_v4().to_string();
                        directory::reserve(tx, &caller, &request, &id, &inner.config.directory, now)
                    },
                )
            })
            .await
    }

    /// Gives a reservation up; what was not spent lapses. Refuses with `not-found` when another device holds it.
    pub async fn abandon(&self, caller: &Caller, reservation_id: String) -> Result<(), ServiceError> {
        let (caller, now) = (Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| directory::abandon(tx, &caller, &reservation_id, now))
            .await
    }

    // Delivery --------------------------------------------------------------------------------------------------------

    /// Creates a group with the caller as its only member. Refuses with `malformed`, `invalid-commit`, `group-exists`
    /// or `idempotency-mismatch`.
    pub async fn create_group(
        &self,
        caller: &Caller,
        idempotency_key: String,
        request: CreateGroupRequest,
    ) -> Result<GroupCreated, ServiceError> {
        let (inner, caller, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| {
                answered_once(
                    tx,
                    caller.key,
                    &idempotency_key,
                    ("create-group", &request),
                    now,
                    || {
                        delivery::create_group(
                            tx,
                            &inner.crypto,
                            &inner.config.suites,
                            &caller,
                            &request,
                            now,
                        )
                    },
                )
            })
            .await
    }

    /// Accepts a Commit and all that belongs to it. Refuses with `malformed`, `not-found`, `wrong-epoch`,
    /// `invalid-commit`, `already-spent` or `reservation-lapsed`.
    pub async fn commit(
        &self,
        caller: &Caller,
        group: GroupId,
        request: CommitRequest,
    ) -> Result<Accepted, ServiceError> {
        let (inner, caller, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| delivery::commit(tx, &inner.crypto, &caller, &group, &request, now))
            .await
    }

    /// Queues a standalone Remove or Update. Refuses like [`commit`](Self::commit).
    pub async fn propose(
        &self,
        caller: &Caller,
        group: GroupId,
        proposal: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let (inner, caller, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| delivery::propose(tx, &inner.crypto, &caller, &group, &proposal, now))
            .await
    }

    /// Delivers an application message. Refuses with `malformed`, `not-found`, `too-large` or `wrong-epoch`.
    pub async fn send_message(
        &self,
        caller: &Caller,
        group: GroupId,
        message: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let (caller, now) = (Arc::clone(&caller.device), self.now());
        self.inner
            .store
            .write(move |tx| delivery::send_message(tx, &caller, &group, &message, now))
            .await
    }

    /// What an external Commit needs. Refuses with `not-found`.
    pub async fn group_info(&self, caller: &Caller, group: GroupId) -> Result<GroupInfoAnswer, ServiceError> {
        let caller = Arc::clone(&caller.device);
        self.inner
            .store
            .read(move |tx| delivery::group_info(tx, &caller, &group))
            .await
    }

    /// The ratchet tree of the epoch of a Welcome in the caller's inbox. Refuses with `not-found`.
    pub async fn ratchet_tree(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: u64,
    ) -> Result<Vec<u8>, ServiceError> {
        let caller = Arc::clone(&caller.device);
        self.inner
            .store
            .read(move |tx| delivery::ratchet_tree(tx, &caller, &group, epoch))
            .await
    }

    /// Unacknowledged rows with a number above `after`, at most `limit` (and at most [`INBOX_PAGE_ROWS_MAX`]).
    pub async fn inbox(
        &self,
        caller: &Caller,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Inbox, ServiceError> {
        let (device, limit) = (caller.device.key, limit.min(INBOX_PAGE_ROWS_MAX));
        let rows = self
            .inner
            .store
            .read(move |tx| Ok(tx.inbox(device, after.unwrap_or(0), limit)?))
            .await?;
        Ok(Inbox { rows })
    }

    /// The rows up to and including `up_to` are stored by the device and go away here.
    pub async fn acknowledge(&self, caller: &Caller, up_to: u64) -> Result<(), ServiceError> {
        let device = caller.device.key;
        self.inner
            .store
            .write(move |tx| Ok(tx.acknowledge(device, up_to)?))
            .await
    }

    /// Changes whenever rows may have arrived in the caller's inbox. Subscribe first, then read.
    pub fn subscribe(&self, caller: &Caller) -> watch::Receiver<u64> {
        self.inner.wakeups.subscribe(caller.device.key)
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
                    let kept_since = now.minus(*inbox_retention_seconds);
                    Ok(Swept {
                        key_packages: directory::sweep(tx, directory, now, SWEEP_ROWS_MAX)?,
                        other_rows: tx.sweep_accounts(
                            now,
                            now.minus(IDEMPOTENT_ANSWER_SECONDS),
                            SWEEP_ROWS_MAX,
                        )? + tx.sweep_inboxes(kept_since, SWEEP_ROWS_MAX)?
                            + tx.sweep_groups(kept_since, SWEEP_ROWS_MAX)?,
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
