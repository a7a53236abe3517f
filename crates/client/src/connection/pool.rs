use std::sync::atomic::Ordering;

use larder_lifecycle::{DirectoryStatus, UnixSeconds};
use larder_pool::{DirectoryRow, KeyPackageRef, Upload, Verdict, key_package_ref_from_slice};
use larder_wire::{
    Base64Url, Inventory, KeyPackageState, UPLOAD_KEY_PACKAGES_MAX, UploadOutcome, UploadRequest, Uploaded,
};

use crate::connection::MlsConnection;
use crate::core;
use crate::error::{Error, Unreachable};
use crate::types::Refreshed;

impl MlsConnection {
    /// Brings the pool and the directory to agree, and fills both up to the target.
    ///
    /// Sweeps what has expired; takes over the directory's inventory if it changed; revokes there what cannot be opened
    /// here; mints what is missing, in one transaction; uploads, noting the attempt first; takes over the verdicts.
    /// After a lost answer the same KeyPackages are sent again, as the same bytes. When nothing is due it costs one
    /// request and writes nothing. Calls at the same time run one after the other.
    ///
    /// [`sync`](Self::sync) calls this at its first run and after every Welcome. An application that stays open should
    /// call it every hour or so besides.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and [`Error::Refused`], with what was done so far kept; [`Error::Pool`].
    pub async fn refresh_key_packages(&self) -> Result<Refreshed, Error> {
        let _one_at_a_time = self.0.refreshing.lock().await;
        self.0.refresh_due.store(false, Ordering::Relaxed);
        let refreshed = self.refresh().await;
        if refreshed.is_err() {
            self.0.refresh_due.store(true, Ordering::Relaxed);
        }
        refreshed
    }

    async fn refresh(&self) -> Result<Refreshed, Error> {
        let core = &self.0.core;
        let swept = core
            .write(|tx, context| Ok(context.pool.sweep(tx, context.now())?))
            .await?;
        // What was erased here may still be handed out there, so the whole inventory is wanted.
        let digest = match swept.expired {
            0 => core.write(|tx, _| core::inventory_digest(tx)).await?,
            _ => None,
        };
        let revoked = match self.0.transport.inventory(digest).await? {
            Some(inventory) => self.reconcile(inventory).await?,
            None => 0,
        };
        let minted = core
            .write(|tx, context| {
                let (pool, now) = (&context.pool, context.now());
                let missing = pool.plan(tx, now)?.mint;
                let identity = &context.identity;
                if missing > 0 {
                    pool.mint(tx, &identity.mls, &identity.credential, missing, now)?;
                }
                Ok(missing)
            })
            .await?;
        let uploaded = self.upload().await?;
        let health = self.pool_health().await?;
        tracing::debug!(
            minted,
            uploaded,
            revoked,
            available = health.available,
            "pool refreshed"
        );
        Ok(Refreshed {
            minted,
            uploaded,
            revoked,
            health,
        })
    }

    /// Returns how many were revoked.
    async fn reconcile(&self, inventory: Inventory) -> Result<u32, Error> {
        let core = &self.0.core;
        let Inventory { digest, items, .. } = inventory;
        let rows = items
            .into_iter()
            .map(|item| {
                Ok(DirectoryRow {
                    key_package_ref: local_ref(&item.key_package_ref)?,
                    status: status(item.state),
                    reserved_until: item.reserved_until.map(UnixSeconds),
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let revoke_there = core
            .write(move |tx, context| {
                let reconciled = context.pool.reconcile(tx, &rows, context.now())?;
                // The digest is remembered only when nothing is left to do: until then the inventory is fetched again.
                if reconciled.revoke_there.is_empty() {
                    core::set_inventory_digest(tx, &digest)?;
                }
                Ok(reconciled.revoke_there)
            })
            .await?;
        if revoke_there.is_empty() {
            return Ok(0);
        }
        let refs = revoke_there
            .iter()
            .map(|key_package_ref| {
                larder_wire::KeyPackageRef::from_bytes(key_package_ref.as_slice())
                    .map_err(|_| Error::Corrupt("KeyPackageRef"))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let revoked = self.0.transport.revoke(refs).await?;
        Ok(u32::try_from(revoked.refs.len()).unwrap_or(u32::MAX))
    }

    /// Uploads what the directory has not confirmed. Returns how many it holds now.
    async fn upload(&self) -> Result<u32, Error> {
        let core = &self.0.core;
        let mut held = 0;
        let mut last: Vec<KeyPackageRef> = Vec::new();
        loop {
            // The attempt is noted, and durable, before a byte leaves.
            let uploads = core
                .write(|tx, context| {
                    Ok(context
                        .pool
                        .begin_upload(tx, UPLOAD_KEY_PACKAGES_MAX, context.now())?)
                })
                .await?;
            let refs: Vec<_> = uploads
                .iter()
                .map(|upload| upload.key_package_ref.clone())
                .collect();
            if refs.is_empty() || refs == last {
                return Ok(held);
            }
            let request = UploadRequest {
                key_packages: uploads
                    .iter()
                    .map(|upload| Base64Url(upload.key_package.clone()))
                    .collect(),
            };
            let answer = self.0.transport.upload(&request).await?;
            let verdicts = verdicts(&uploads, &answer)?;
            held += u32::try_from(
                verdicts
                    .iter()
                    .filter(|(_, verdict)| *verdict == Verdict::Held(DirectoryStatus::Available))
                    .count(),
            )
            .unwrap_or(u32::MAX);
            core.write(move |tx, context| {
                context.pool.confirm(tx, &verdicts, context.now())?;
                Ok(())
            })
            .await?;
            last = refs;
        }
    }
}

/// The verdicts in the order of the request. An answer that does not fit the request proves nothing.
fn verdicts(uploads: &[Upload], answer: &Uploaded) -> Result<Vec<(KeyPackageRef, Verdict)>, Error> {
    let unfit = || Error::Unreachable(Unreachable::NotLarder { status: 200 });
    if answer.results.len() != uploads.len() {
        return Err(unfit());
    }
    uploads
        .iter()
        .zip(&answer.results)
        .map(|(upload, result)| {
            let sent = &upload.key_package_ref;
            let named = result.key_package_ref.as_ref();
            if named.is_some_and(|named| named.as_bytes() != sent.as_slice()) {
                return Err(unfit());
            }
            let verdict = match (result.outcome, result.state) {
                (UploadOutcome::Accepted | UploadOutcome::Present, Some(state)) => {
                    Verdict::Held(status(state))
                }
                (UploadOutcome::Accepted, None) => Verdict::Held(DirectoryStatus::Available),
                (UploadOutcome::Present, None) => return Err(unfit()),
                (UploadOutcome::Rejected, _) => {
                    let check = result
                        .problem
                        .as_ref()
                        .and_then(|problem| problem.check.as_deref());
                    tracing::warn!(check, "the directory refused a KeyPackage");
                    Verdict::Rejected
                }
            };
            Ok((sent.clone(), verdict))
        })
        .collect()
}

fn local_ref(key_package_ref: &larder_wire::KeyPackageRef) -> Result<KeyPackageRef, Error> {
    key_package_ref_from_slice(key_package_ref.as_bytes()).ok_or(Error::Corrupt("KeyPackageRef"))
}

fn status(state: KeyPackageState) -> DirectoryStatus {
    match state {
        KeyPackageState::Available => DirectoryStatus::Available,
        KeyPackageState::Reserved => DirectoryStatus::Reserved,
        KeyPackageState::Spent => DirectoryStatus::Spent,
        KeyPackageState::Lapsed => DirectoryStatus::Lapsed,
        KeyPackageState::Expired => DirectoryStatus::Expired,
        KeyPackageState::Revoked => DirectoryStatus::Revoked,
    }
}
