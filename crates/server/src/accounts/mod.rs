//! Who is who: accounts, devices and sessions.

mod challenges;
mod devices;
mod idempotency;
mod state;

use larder_lifecycle::UnixSeconds;
use larder_wire::{
    LABEL_REGISTER, ProblemType, RegisterRequest, StateMark, registration_content, session_content,
    sign_with_label_content,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::SignatureScheme;
use sha2::{Digest, Sha256};

use crate::error::{ServiceError, rate_limited};
use crate::sessions::{TOKEN_SECRET_BYTES, token};
use crate::store::Tx;

pub(crate) use challenges::{CHALLENGE_KEY_BYTES, CHALLENGE_SECONDS, ChallengeKey, NONCE_BYTES};
pub(crate) use devices::{check_introduction, link, list, remove, remove_account};
pub(crate) use idempotency::{answered_once, answered_once_as};
pub(crate) use state::{follow, may_follow};

/// An Ed25519 public key, in bytes.
const PUBLIC_KEY_BYTES: usize = 32;

/// Checks what a registration or a new device claims: key lengths, and possession of both private keys.
pub(crate) fn check_registration(
    crypto: &RustCrypto,
    server_name: &str,
    request: &RegisterRequest,
) -> Result<(), ServiceError> {
    let (auth_key, signature_key) = (&request.auth_key.0, &request.mls_signature_key.0);
    if auth_key.len() != PUBLIC_KEY_BYTES
        || signature_key.len() != PUBLIC_KEY_BYTES
        || auth_key == signature_key
    {
        return Err(ProblemType::Malformed.into());
    }
    let content = registration_content(server_name, request);
    let labelled = sign_with_label_content(LABEL_REGISTER, &content);
    if !verifies(crypto, &content, auth_key, &request.proofs.auth.0)
        || !verifies(crypto, &labelled, signature_key, &request.proofs.mls.0)
    {
        return Err(ProblemType::Unauthenticated.into());
    }
    Ok(())
}

/// Registers a user; where an invitation is needed, with the one that has this hash, which is used up. That comes first:
/// without an invitation nobody learns whether a name is taken. No more than so many accounts an hour (0: any number).
pub(crate) fn register(
    tx: &Tx<'_>,
    request: &RegisterRequest,
    invitation: Option<&[u8; 32]>,
    per_hour: u32,
    now: UnixSeconds,
) -> Result<(), ServiceError> {
    if let Some(hash) = invitation
        && !tx.take_invitation(hash, now)?
    {
        return Err(ProblemType::InvitationRequired.into());
    }
    let registered = tx.insert_account(
        &request.user,
        &request.device_id,
        &request.auth_key.0,
        &request.mls_signature_key.0,
        now,
    )?;
    if !registered {
        return Err(ProblemType::NameTaken.into());
    }
    match per_hour {
        0 => Ok(()),
        most => Ok(tx.count_account(most, now)?.map_err(rate_limited)?),
    }
}

/// Trades a signed challenge for a session, once. That a device was removed learns only who signs with its key.
pub(crate) fn open_session(
    tx: &Tx<'_>,
    signed: &SignedChallenge<'_>,
    secret: [u8; TOKEN_SECRET_BYTES],
    now: UnixSeconds,
    expires_at: UnixSeconds,
) -> Result<Opening, ServiceError> {
    if !signed.key.is_good(signed.device_id, signed.challenge, now) {
        return Ok(Opening::Unauthenticated);
    }
    let Some(device) = tx.device_that_was(signed.device_id)? else {
        return Ok(Opening::Unauthenticated);
    };
    let content = session_content(signed.server_name, signed.challenge);
    if !verifies(signed.crypto, &content, &device.auth_key, signed.signature) {
        return Ok(Opening::Unauthenticated);
    }
    let Some(mark) = tx.state_mark(device.key)? else {
        return Ok(Opening::DeviceRemoved);
    };
    let token = token(device.key.user(), secret);
    let (hash, challenge) = (secret_hash(token.as_bytes()), secret_hash(signed.challenge));
    Ok(
        match tx.insert_session(&hash, device.key, &challenge, expires_at)? {
            true => Opening::Opened { token, mark },
            // It was traded for another one, by whichever node.
            false => Opening::Unauthenticated,
        },
    )
}

/// What becomes of a signed challenge.
pub(crate) enum Opening {
    /// A session, for a device whose last request had this mark, if it uses marks.
    Opened { token: String, mark: Option<StateMark> },
    /// Whatever was wrong.
    Unauthenticated,
    /// Nothing was, but the device is none of its user's any more.
    DeviceRemoved,
}

/// What a device presents to open a session.
pub(crate) struct SignedChallenge<'a> {
    pub(crate) key: &'a ChallengeKey,
    pub(crate) crypto: &'a RustCrypto,
    pub(crate) server_name: &'a str,
    pub(crate) device_id: &'a larder_wire::DeviceId,
    pub(crate) challenge: &'a [u8],
    pub(crate) signature: &'a [u8],
}

/// How tokens and challenges are stored. They are random, so a plain hash hides them.
pub(crate) fn secret_hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn verifies(crypto: &RustCrypto, content: &[u8], public_key: &[u8], signature: &[u8]) -> bool {
    crypto
        .verify_signature(SignatureScheme::ED25519, content, public_key, signature)
        .is_ok()
}
