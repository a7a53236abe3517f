use std::sync::Arc;

use larder_wire::{
    AccountRequest, Base64Url, Challenge, ChallengeRequest, DeviceId, Introduction, LinkRequest, Problem,
    ProblemType, Registered, Registration, RemovalRequest, Session, SessionRequest, UserDevices, UserName,
};

use super::{Caller, Service, malformed};
use crate::accounts::{self, CHALLENGE_SECONDS, NONCE_BYTES, Opening, SignedChallenge, secret_hash};
use crate::error::ServiceError;
use crate::random::random_bytes;
use crate::sessions::{Known, LookedUp, SessionKey};
use crate::store::UserKey;

/// Users that one user blocks at most.
const BLOCKS_PER_USER_MAX: u32 = 1000;

/// Accounts and sessions.
impl Service {
    /// Registers a user with a first device. Refuses with `registration-closed`, `malformed` (a key is not 32 bytes, or
    /// both are the same), `unauthenticated` (a proof does not verify), `invitation-required` (whatever is wrong with the
    /// code), `name-taken` or `rate-limited` (as many accounts as may be were created within the hour), which leave the code
    /// unused.
    pub async fn register(&self, request: AccountRequest) -> Result<Registered, ServiceError> {
        let AccountRequest { device, invite_code } = request;
        let invitation = match (self.inner.config.registration, invite_code) {
            (Registration::Open, _) => None,
            (Registration::Invited, Some(code)) => Some(secret_hash(code.secret())),
            (Registration::Invited, None) => return Err(ProblemType::InvitationRequired.into()),
            (Registration::Closed, _) => return Err(ProblemType::RegistrationClosed.into()),
        };
        accounts::check_registration(&self.inner.crypto, &self.inner.config.server_name, &device)?;
        let (per_hour, now) = (self.inner.config.accounts_per_hour, self.now());
        let registered = Registered {
            user: device.user.clone(),
            device_id: device.device_id.clone(),
        };
        self.inner
            .store
            .write(move |tx| accounts::register(tx, &device, invitation.as_ref(), per_hour, now))
            .await?;
        Ok(registered)
    }

    /// A challenge to sign. An unknown device gets one, too, for which there is no session.
    pub fn challenge(&self, request: &ChallengeRequest) -> Result<Challenge, ServiceError> {
        let nonce: [u8; NONCE_BYTES] = random_bytes(&self.inner.crypto)?;
        let challenge = self
            .inner
            .challenges
            .challenge(&request.device_id, self.now(), nonce);
        Ok(Challenge {
            challenge: Base64Url(challenge),
            expires_in_seconds: CHALLENGE_SECONDS,
        })
    }

    /// Trades a signed challenge for a session. Refuses with `unauthenticated`, whatever was wrong, and with
    /// `device-removed` when nothing was but that.
    pub async fn open_session(&self, request: SessionRequest) -> Result<Session, ServiceError> {
        let secret = random_bytes(&self.inner.crypto)?;
        let now = self.now();
        let expires_at = now.plus(self.inner.config.session_seconds);
        let inner = Arc::clone(&self.inner);
        let (opened, incarnation) = self
            .inner
            .store
            .write(move |tx| {
                let signed = SignedChallenge {
                    key: &inner.challenges,
                    crypto: &inner.crypto,
                    server_name: &inner.config.server_name,
                    device_id: &request.device_id,
                    challenge: &request.challenge.0,
                    signature: &request.signature.0,
                };
                let opened = accounts::open_session(tx, &signed, secret, now, expires_at)?;
                Ok((opened, tx.incarnation()?))
            })
            .await?;
        let (token, state) = match opened {
            Opening::Opened { token, mark } => (token, mark),
            Opening::Unauthenticated => return Err(ProblemType::Unauthenticated.into()),
            Opening::DeviceRemoved => return Err(ProblemType::DeviceRemoved.into()),
        };
        Ok(Session {
            token,
            expires_in_seconds: self.inner.config.session_seconds,
            state,
            incarnation: Some(incarnation),
        })
    }

    /// The device that a token belongs to. Refuses with `unauthenticated`.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, ServiceError> {
        self.authenticate_session(SessionKey::of(token)).await
    }

    /// The same, by what the session is looked up by.
    pub(crate) async fn authenticate_session(&self, session: SessionKey) -> Result<Caller, ServiceError> {
        let now = self.now();
        let known = match self.inner.sessions.find(&session, now) {
            Ok(known) => known,
            Err(look) => {
                let looked_up = self.inner.store.read(move |tx| {
                    let found = tx.device_by_session(&session, now)?;
                    Ok(LookedUp {
                        session: found.map(|(device, ends)| Known {
                            device: Arc::new(device),
                            ends,
                        }),
                        ended: tx.ended_sessions()?,
                    })
                });
                let looked_up = looked_up.await?;
                self.inner.sessions.learned(look, &session, &looked_up);
                looked_up.session.ok_or(ProblemType::Unauthenticated)?
            }
        };
        Ok(Caller {
            device: known.device,
            session,
            session_ends: known.ends,
            claim: None,
        })
    }

    /// Ends the caller's session.
    pub async fn end_session(&self, caller: &Caller) -> Result<(), ServiceError> {
        let (session, now) = (caller.session, self.now());
        self.inner
            .store
            .write(move |tx| Ok(tx.end_session(&session, now)?))
            .await
    }

    /// Takes over the caller's mark, whatever the last one was: the caller knows that it was restored from an old copy,
    /// and has stopped using what that copy may have used before. Refuses with `malformed` (no claim).
    pub async fn take_over_state(&self, caller: &Caller) -> Result<(), ServiceError> {
        let (device, claim) = (caller.device.key, caller.claim.clone());
        let claim = claim.ok_or_else(|| malformed("a Larder-State is needed"))?;
        self.inner
            .store
            .write(move |tx| Ok(tx.set_state_mark(device, &claim.next)?))
            .await
    }

    /// Hides the caller's user and all of its devices from another user, who may or may not exist. Refuses with
    /// `malformed` (the caller's own name) or `too-large` (so many are blocked already).
    pub async fn block(&self, caller: &Caller, user: UserName) -> Result<(), ServiceError> {
        let own = not_oneself(caller, &user)?;
        self.change(caller, move |tx| {
            tx.lock_user(own)?;
            if tx.insert_block(own, &user, BLOCKS_PER_USER_MAX)? {
                return Ok(());
            }
            let problem = Problem::new(ProblemType::TooLarge);
            Err(problem.with_detail("too many users are blocked already").into())
        })
        .await
    }

    /// Undoes [`block`](Self::block). Refuses with `malformed` (the caller's own name).
    pub async fn unblock(&self, caller: &Caller, user: UserName) -> Result<(), ServiceError> {
        let own = not_oneself(caller, &user)?;
        self.change(caller, move |tx| Ok(tx.remove_block(own, &user)?))
            .await
    }

    /// Every device that a user has or had. Refuses with `not-found`, also when the user has blocked the caller's.
    pub async fn user_devices(&self, caller: &Caller, user: UserName) -> Result<UserDevices, ServiceError> {
        let (asked, asked_by) = (user.clone(), Arc::clone(&caller.device));
        let devices = self
            .inner
            .store
            .read(move |tx| accounts::list(tx, &asked, &asked_by.user))
            .await?;
        Ok(UserDevices { user, devices })
    }

    /// Links a further device to the caller's user. Refuses with `malformed` and `unauthenticated` like
    /// [`register`](Self::register), `malformed` and `too-large` (what is to be said to it), `forbidden` (no device of the user
    /// authorized it), `too-many-devices` or `name-taken`.
    pub async fn link_device(
        &self,
        caller: &Caller,
        request: LinkRequest,
    ) -> Result<Registered, ServiceError> {
        accounts::check_registration(
            &self.inner.crypto,
            &self.inner.config.server_name,
            &request.device,
        )?;
        accounts::check_introduction(&request.introduction)?;
        let linked = Registered {
            user: request.device.user.clone(),
            device_id: request.device.device_id.clone(),
        };
        let (inner, by, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            let server = (&inner.crypto, inner.config.server_name.as_str());
            accounts::link(tx, server, &by, &request, inner.config.user_devices_max, now)
        })
        .await?;
        Ok(linked)
    }

    /// What the device that let the caller in has to say to it. Refuses with `not-found`.
    pub async fn introduction(&self, caller: &Caller) -> Result<Introduction, ServiceError> {
        let device = caller.device.key;
        let found = self
            .inner
            .store
            .read(move |tx| Ok(tx.introduction(device)?))
            .await?;
        found.ok_or_else(|| ProblemType::NotFound.into())
    }

    /// Forgets it: the caller has what it needs of it.
    pub async fn forget_introduction(&self, caller: &Caller) -> Result<(), ServiceError> {
        let device = caller.device.key;
        self.change(caller, move |tx| Ok(tx.forget_introduction(device)?))
            .await
    }

    /// Removes a device of the caller's user; the last one ends the account. Refuses with `not-found`, and with `forbidden` what
    /// the caller has not signed.
    pub async fn remove_device(
        &self,
        caller: &Caller,
        device_id: DeviceId,
        request: RemovalRequest,
    ) -> Result<(), ServiceError> {
        let (inner, by, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| {
            let server = (&inner.crypto, inner.config.server_name.as_str());
            accounts::remove(tx, server, &by, (&device_id, &request.signature.0), now)
        })
        .await
    }

    /// Ends the caller's account: all of its devices are removed, and its name stays taken. Refuses with `not-found`
    /// (another's account).
    pub async fn remove_account(&self, caller: &Caller, user: UserName) -> Result<(), ServiceError> {
        if user != caller.device.user {
            return Err(ProblemType::NotFound.into());
        }
        let (by, now) = (Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| accounts::remove_account(tx, &by, now))
            .await
    }
}

fn not_oneself(caller: &Caller, user: &UserName) -> Result<UserKey, ServiceError> {
    if caller.user() == user {
        return Err(malformed("nobody blocks themselves"));
    }
    Ok(caller.device.user_key())
}
