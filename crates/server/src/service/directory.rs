use std::sync::Arc;

use larder_wire::{
    AUDIT_PAGE_ROWS_MAX, AuditPage, Base64Url, DeviceReservation, GroupId, Inventory, PoolStatus,
    ProblemType, RESERVE_USERS_MAX, REVOKE_REFS_MAX, ReserveRequest, Reserved, Revocation, RevokeAllRequest,
    Revoked, SPEND_REFS_MAX, SpendRequest, UPLOAD_KEY_PACKAGES_MAX, UploadRequest, Uploaded,
};
use sha2::{Digest, Sha256};

use super::{Caller, Service, malformed};
use crate::accounts::{answered_once, answered_once_as};
use crate::directory;
use crate::error::{Fault, ServiceError};
use crate::metrics;
use crate::random::random_bytes;
use crate::store::{ReservationId, Tx};

/// Ciphersuites in one reserve request.
const RESERVE_SUITES_MAX: usize = 16;

/// The KeyPackage directory.
impl Service {
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
        let judged: Vec<_> = tokio::task::spawn_blocking(move || {
            let accepted = (&inner.config.directory, inner.suites.as_slice());
            request
                .key_packages
                .into_iter()
                .map(|Base64Url(bytes)| {
                    let verdict = directory::validate(&inner.crypto, &bytes, &uploader, accepted, now);
                    (bytes, verdict)
                })
                .collect()
        })
        .await
        .map_err(|_| Fault::Closed)?;
        let (inner, uploader) = (Arc::clone(&self.inner), Arc::clone(&caller.device));
        self.change(caller, move |tx| {
            directory::upload(tx, &uploader, &judged, &inner.config.directory, now)
        })
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

    /// What happened to the caller's KeyPackages: rows of its audit chain after `after`, at most `limit` (and at most
    /// [`AUDIT_PAGE_ROWS_MAX`]).
    pub async fn audit(&self, caller: &Caller, after: u64, limit: u32) -> Result<AuditPage, ServiceError> {
        let (owner, limit) = (caller.device.key, limit.min(AUDIT_PAGE_ROWS_MAX));
        self.inner
            .store
            .read(move |tx| {
                let checkpoint = tx.audit_checkpoint(owner)?;
                Ok(AuditPage {
                    incarnation: tx.incarnation()?,
                    head: tx.audit_head(owner)?,
                    checkpoint: checkpoint.filter(|checkpoint| after < checkpoint.seq),
                    rows: tx.audit_rows(owner, after, limit)?,
                })
            })
            .await
    }

    /// Withdraws KeyPackages of the caller. Refuses with `too-large`.
    pub async fn revoke(&self, caller: &Caller, request: Revocation) -> Result<Revoked, ServiceError> {
        if let Revocation::Some(request) = &request
            && request.refs.len() > REVOKE_REFS_MAX
        {
            return Err(ProblemType::TooLarge.into());
        }
        let (owner, now) = (Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| match &request {
            Revocation::Some(request) => directory::revoke(tx, &owner, request, now),
            Revocation::All(RevokeAllRequest { all_of }) => directory::revoke_all(tx, &owner, &all_of.0, now),
        })
        .await
    }

    /// Spends KeyPackages that a Commit added which travelled through another delivery service. Refuses with `forbidden`
    /// unless the deployment is set up for that, `malformed`, `already-spent` or `reservation-lapsed`.
    pub async fn spend(
        &self,
        caller: &Caller,
        reservation_id: String,
        request: SpendRequest,
    ) -> Result<(), ServiceError> {
        if !self.inner.config.external_delivery {
            return Err(ProblemType::Forbidden.into());
        }
        let refs = &request.refs;
        if refs.is_empty() || refs.len() > SPEND_REFS_MAX {
            return Err(malformed("between 1 and 256 KeyPackages"));
        }
        if (1..refs.len()).any(|index| refs[..index].contains(&refs[index])) {
            return Err(malformed("a KeyPackage is named twice"));
        }
        let (device, now) = (Arc::clone(&caller.device), self.now());
        // A reservation on a last resort goes when it is used, so that the same request could not be told by it. No client
        // chooses a key with a space in it.
        let bytes = serde_json::to_vec(&request).map_err(|_| Fault::Corrupt("a request"))?;
        let hash = Base64Url(Sha256::digest(bytes).to_vec());
        let key = format!("spend {reservation_id} {hash}");
        self.change(caller, move |tx| {
            answered_once(tx, device.key, &key, ("spend", &request), now, || {
                directory::spend_reserved(tx, &device, ReservationId::parse(&reservation_id), &request, now)
            })
        })
        .await
    }

    /// Reserves one KeyPackage of every device of some users. Refuses with `malformed`, `not-found` (a user is unknown
    /// or cannot be reached; nothing is reserved), `idempotency-mismatch` or, where the request was answered before,
    /// `reservation-lapsed` when what was reserved then cannot be added any more.
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
        check_suites(&request.suites)?;
        let (inner, device, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        let asked = Arc::new((idempotency_key, request));
        let ahead = {
            let (inner, device, asked) = (Arc::clone(&inner), Arc::clone(&device), Arc::clone(&asked));
            move |tx: &Tx<'_>| {
                let (idempotency_key, request) = &*asked;
                tx.idempotent_answer_ahead(device.key, idempotency_key);
                directory::reserve_ahead(tx, &device, request, inner.terms(now))
            }
        };
        let reserved = self
            .change_ahead(caller, ahead, move |tx| {
                let (idempotency_key, request) = &*asked;
                let reserve = || {
                    let id = ReservationId::made_at(now);
                    directory::reserve(tx, &device, request, id, inner.terms(now))
                };
                // The bytes are in the directory as long as they are good for anything.
                let recall = |reserved| directory::recall(tx, reserved);
                answered_once_as(
                    tx,
                    (device.key, idempotency_key),
                    ("reserve", request),
                    now,
                    (reserve, directory::without_bytes, recall),
                )
            })
            .await?;
        metrics::reserved(&reserved);
        Ok(reserved)
    }

    /// What a stranger who asks for the caller's device in one of `suites` would get now. Nothing is reserved or disclosed
    /// to anybody else. Refuses with `malformed`.
    pub async fn probe(&self, caller: &Caller, suites: Vec<u16>) -> Result<DeviceReservation, ServiceError> {
        check_suites(&suites)?;
        let (inner, owner, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        let group = GroupId::from_bytes(&random_bytes::<16>(&self.inner.crypto)?)
            .map_err(|_| Fault::Crypto("no randomness"))?;
        self.inner
            .store
            .rehearse(move |tx| directory::probe(tx, &owner, group.clone(), &suites, inner.terms(now)))
            .await
    }

    /// Gives a reservation up; what was not spent lapses. Refuses with `not-found` when another device holds it.
    pub async fn abandon(&self, caller: &Caller, reservation_id: String) -> Result<(), ServiceError> {
        let (device, now) = (Arc::clone(&caller.device), self.now());
        self.change(caller, move |tx| match ReservationId::parse(&reservation_id) {
            Some(id) => directory::abandon(tx, &device, id, now),
            None => Ok(()),
        })
        .await
    }
}

fn check_suites(suites: &[u16]) -> Result<(), ServiceError> {
    if suites.is_empty() || suites.len() > RESERVE_SUITES_MAX {
        return Err(malformed("between 1 and 16 suites"));
    }
    Ok(())
}
