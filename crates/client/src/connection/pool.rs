use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use larder_lifecycle::{DirectoryStatus, Kind, UnixSeconds};
use larder_pool::{
    DirectoryRow, Held, KeyPackageRef, Swept, Tx, Upload, Verdict, key_package_ref_from_slice,
};
use larder_wire::{
    Base64Url, Inventory, InventoryItem, KeyPackageState, UPLOAD_KEY_PACKAGES_MAX, UploadOutcome,
    UploadRequest, Uploaded,
};

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core::{self, Context, Standing, Suites};
use crate::error::{Error, NotTheServer};
use crate::types::Refreshed;

impl MlsConnection {
    /// Brings the pools and the directory to agree, and fills those of the deployment's ciphersuites up to their targets.
    ///
    /// Sweeps what has expired; takes over the directory's inventory if it changed; revokes there what cannot be opened
    /// here; mints what is missing, and a last resort if the present one is missing, used or old, and notes the attempt to
    /// upload, in one transaction; uploads; takes over the verdicts; then withdraws what is left of an earlier generation.
    /// After a lost answer the same KeyPackages are sent again, as the same bytes. When nothing is due it costs one
    /// request and writes nothing, once an hour one more: for the server's ciphersuites. Calls at the same time run one after the other.
    ///
    /// [`sync`](Self::sync) calls this when there is a reason. An application that stays open should call it every hour
    /// or so besides, and not before [`Error::retry_after`] when it was refused.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and [`Error::Refused`], with what was done so far kept; [`Error::ClocksApart`], and nothing was
    /// done; [`Error::Pool`].
    pub async fn refresh_key_packages(&self) -> Result<Refreshed, Error> {
        let _one_at_a_time = self.0.refreshing.lock().await;
        self.0.refresh_due.store(false, Ordering::Relaxed);
        let refreshed = self.refresh().await;
        let mut not_before = 0;
        if let Err(error) = &refreshed {
            self.0.refresh_due.store(true, Ordering::Relaxed);
            if let Some(asked) = error.retry_after() {
                let now = self.0.server_clock.here();
                not_before = now.plus(asked.as_secs()).0;
                self.0.refresh_asked_at.store(now.0, Ordering::Relaxed);
            }
        }
        self.0.refresh_not_before.store(not_before, Ordering::Relaxed);
        refreshed
    }

    /// Whether there is a reason for a refresh, and nothing that speaks against it.
    pub(super) fn refresh_is_due(&self) -> bool {
        let now = self.0.server_clock.here().0;
        let patience = self.0.refresh_asked_at.load(Ordering::Relaxed)
            ..self.0.refresh_not_before.load(Ordering::Relaxed);
        self.0.refresh_due.load(Ordering::Relaxed) && !patience.contains(&now)
    }

    /// The server was gone: whatever happened meanwhile is a reason for a refresh, and it may have gone back.
    pub(super) fn note_outage<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Unreachable(_) | Error::NotTheServer(_)) = &answer {
            self.0.refresh_due.store(true, Ordering::Relaxed);
            self.0.tell_everything.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn refresh(&self) -> Result<Refreshed, Error> {
        let core = &self.0.core;
        self.catch_up_if_behind().await?;
        self.require_clocks_close().await?;
        self.check_suites().await?;
        let swept = self.sweep().await?;
        // What was erased here may still be handed out there, so the whole inventory is wanted.
        let digest = match swept.expired + swept.retired {
            0 => core.write(|tx, _| core::inventory_digest(tx)).await?,
            _ => None,
        };
        let revoked = match self.0.transport.inventory(digest).await? {
            Some(inventory) => self.reconcile(inventory).await?,
            None => 0,
        };
        let Published {
            minted,
            uploaded,
            last_resort_replaced,
        } = self.publish().await?;
        let revoked = revoked + self.revoke_outdated().await?;
        let (health, pools) = (self.pool_health().await?, self.pools().await?);
        tracing::debug!(
            minted,
            uploaded,
            revoked,
            last_resort_replaced,
            available = health.available,
            "pool refreshed"
        );
        Ok(Refreshed {
            minted,
            uploaded,
            revoked,
            last_resort_replaced,
            health,
            pools,
        })
    }

    /// An older copy of this profile is brought up to date before its pool is, and so is one whose server was restored.
    async fn catch_up_if_behind(&self) -> Result<(), Error> {
        self.0.transport.authenticate().await?;
        let is_current = |tx: &Tx<'_>, _: &Context| {
            Ok(core::standing(tx)? == Standing::Current && !core::server_was_restored(tx)?)
        };
        if self.0.core.write(is_current).await? {
            return Ok(());
        }
        let _operation = self.0.operation.lock().await;
        self.pump(&mut Progress::default()).await
    }

    /// Asks the server for its ciphersuites from time to time: a deployment may move to others.
    async fn check_suites(&self) -> Result<(), Error> {
        let core = &self.0.core;
        if core.write(core::suites_are_due).await? {
            let suites = Suites::of_server(&self.0.transport.info().await?);
            core.write(move |tx, context| core::set_suites(tx, &suites, context.now()))
                .await?;
        }
        Ok(())
    }

    /// Erases what is due, but only once the inbox has been read: an invitation may have waited there for longer than the
    /// private keys that open it are kept after their end.
    async fn sweep(&self) -> Result<Swept, Error> {
        let core = &self.0.core;
        if let Some(swept) = core.write(core::sweep_if_it_erases_nothing).await? {
            return Ok(swept);
        }
        {
            let _operation = self.0.operation.lock().await;
            match self.pump(&mut Progress::default()).await {
                Ok(()) => {}
                Err(error @ (Error::Unreachable(_) | Error::NotTheServer(_))) => return Err(error),
                // What is due can wait for the next refresh; filling the pool cannot.
                Err(error) => {
                    tracing::warn!(code = error.code(), "the inbox could not be read before a sweep");
                    return Ok(Swept::default());
                }
            }
        }
        core.write(core::sweep).await
    }

    /// Fails when the clocks are too far apart. The server is asked before: the clock that was wrong may have been set.
    pub(super) async fn require_clocks_close(&self) -> Result<(), Error> {
        if self.0.server_clock.require_close().is_err() {
            self.0.transport.info().await?;
        }
        self.0.core.write(core::heed_clocks).await?;
        self.0.server_clock.require_close()
    }

    /// Takes over the directory's inventory if it changed, and nothing more: afterwards the pool counts what is there.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`]; [`Error::ClocksApart`], and nothing was taken over.
    pub async fn take_inventory(&self) -> Result<(), Error> {
        let _one_at_a_time = self.0.refreshing.lock().await;
        self.catch_up_if_behind().await?;
        self.require_clocks_close().await?;
        let digest = self.0.core.write(|tx, _| core::inventory_digest(tx)).await?;
        if let Some(inventory) = self.0.transport.inventory(digest).await? {
            self.reconcile(inventory).await?;
        }
        Ok(())
    }

    /// Returns how many were revoked.
    async fn reconcile(&self, inventory: Inventory) -> Result<u32, Error> {
        // The answer has told the time, too: a clock that has just gone wrong may have ended what it names.
        self.0.server_clock.require_close()?;
        let core = &self.0.core;
        let Inventory {
            digest,
            items,
            incarnation,
            ..
        } = inventory;
        core.write(move |tx, _| core::heed_incarnation(tx, &incarnation))
            .await?;
        core.write(|tx, _| core::require_not_behind(tx)).await?;
        let rows = directory_rows(items)?;
        let revoke_there = core
            .write(move |tx, context| {
                let reconciled = context.pool.reconcile(tx, &rows, context.server_now())?;
                // The digest is remembered only when nothing is left to do: until then the inventory is fetched again.
                if reconciled.revoke_there.is_empty() {
                    core::set_inventory_digest(tx, &digest)?;
                }
                Ok(reconciled.revoke_there)
            })
            .await?;
        let revoked = self.revoke(&revoke_there).await?;
        Ok(u32::try_from(revoked.len()).unwrap_or(u32::MAX))
    }

    /// Withdraws from the directory what is left of an earlier generation, once this one is published. Returns how many.
    async fn revoke_outdated(&self) -> Result<u32, Error> {
        let core = &self.0.core;
        let outdated = core
            .write(|tx, context| {
                let mut outdated = Vec::new();
                for pool in context.pools(tx)?.stocked {
                    outdated.extend(pool.outdated(tx, context.server_now())?);
                }
                Ok(outdated)
            })
            .await?;
        if outdated.is_empty() {
            return Ok(0);
        }
        let revoked = self.revoke(&outdated).await?;
        let Some(inventory) = self.0.transport.inventory(None).await? else {
            return Err(unfit());
        };
        let known = inventory
            .items
            .iter()
            .map(|item| local_ref(&item.key_package_ref))
            .collect::<Result<Vec<_>, Error>>()?;
        self.reconcile(inventory).await?;
        // An upload that never arrived.
        let unknown: Vec<_> = outdated
            .into_iter()
            .filter(|key_package_ref| !known.contains(key_package_ref))
            .map(|key_package_ref| (key_package_ref, Verdict::Rejected))
            .collect();
        core.write(move |tx, context| {
            context.pool.confirm(tx, &unknown, context.server_now())?;
            Ok(())
        })
        .await?;
        Ok(u32::try_from(revoked.len()).unwrap_or(u32::MAX))
    }

    /// Withdraws KeyPackages from the directory. Returns those that it does not hand out any more.
    async fn revoke(&self, refs: &[KeyPackageRef]) -> Result<Vec<KeyPackageRef>, Error> {
        if refs.is_empty() {
            return Ok(Vec::new());
        }
        let refs = refs
            .iter()
            .map(|key_package_ref| {
                larder_wire::KeyPackageRef::from_bytes(key_package_ref.as_slice())
                    .map_err(|_| Error::Corrupt("KeyPackageRef"))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let revoked = self.0.transport.revoke(refs).await?;
        revoked.refs.iter().map(local_ref).collect()
    }

    /// Mints what is missing, a last resort included, and uploads what the directory has not confirmed.
    ///
    /// The last resort that is replaced still opens invitations for a day; then the sweep erases it. A directory takes only
    /// so many of them a day.
    async fn publish(&self) -> Result<Published, Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        let mut published = Published::default();
        let mut last: Option<Vec<KeyPackageRef>> = None;
        loop {
            // One transaction: what is minted, that its upload was attempted, and the mark of the request are durable together,
            // before a byte leaves.
            let first = last.is_none();
            let claimed = transport
                .claim(move |tx, context| {
                    context.require_clocks_close()?;
                    let now = context.server_now();
                    let minted = if first { mint(tx, context)? } else { 0 };
                    let mut uploads = Vec::new();
                    for pool in context.pools(tx)?.all() {
                        let room = UPLOAD_KEY_PACKAGES_MAX - uploads.len();
                        uploads.extend(pool.begin_upload(tx, room, now)?);
                    }
                    Ok((!uploads.is_empty()).then_some((minted, uploads)))
                })
                .await?;
            let Some((claim, (minted, uploads))) = claimed else {
                break;
            };
            published.minted += minted;
            let refs: Vec<_> = uploads
                .iter()
                .map(|upload| upload.key_package_ref.clone())
                .collect();
            if last.as_ref() == Some(&refs) {
                break;
            }
            let request = UploadRequest {
                key_packages: uploads
                    .iter()
                    .map(|upload| Base64Url(upload.key_package.clone()))
                    .collect(),
            };
            let answer = transport.upload(claim, &request).await?;
            let verdicts = verdicts(&uploads, &answer)?;
            let available = |kind| {
                let available = Verdict::Held(Held::available(kind));
                verdicts.iter().filter(move |(_, verdict)| *verdict == available)
            };
            let single_use = available(Kind::SingleUse).count();
            published.uploaded += u32::try_from(single_use).unwrap_or(u32::MAX);
            published.last_resort_replaced |= available(Kind::LastResort).count() > 0;
            core.write(move |tx, context| {
                context.pool.confirm(tx, &verdicts, context.server_now())?;
                Ok(())
            })
            .await?;
            last = Some(refs);
        }
        Ok(published)
    }
}

/// What a refresh published.
#[derive(Default)]
struct Published {
    minted: u32,
    uploaded: u32,
    last_resort_replaced: bool,
}

/// Mints what is missing, and the last resorts that are due. Returns how many, without the last resorts.
fn mint(tx: &Tx<'_>, context: &Context) -> Result<u32, Error> {
    let (pools, now) = (context.pools(tx)?, context.server_now());
    let mut minted = 0;
    for pool in &pools.stocked {
        let missing = pool.plan(tx, now)?.mint;
        if missing > 0 {
            pool.mint(tx, &context.identity.mls, missing, now)?;
        }
        minted += missing;
    }
    for pool in pools.all() {
        if context.last_resort_due(tx, pool)? {
            pool.mint_last_resort(tx, &context.identity.mls, now)?;
        }
    }
    Ok(minted)
}

/// The verdicts in the order of the request. An answer that does not fit the request proves nothing.
fn verdicts(uploads: &[Upload], answer: &Uploaded) -> Result<Vec<(KeyPackageRef, Verdict)>, Error> {
    if answer.results.len() != uploads.len() {
        return Err(unfit());
    }
    let mut refused = BTreeSet::new();
    let verdicts = uploads
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
                    // Whether it was used is for the inventory to tell.
                    Verdict::Held(held(state, upload.kind, None)?)
                }
                (UploadOutcome::Accepted, None) => Verdict::Held(Held::available(upload.kind)),
                (UploadOutcome::Present, None) => return Err(unfit()),
                (UploadOutcome::Rejected, _) => {
                    let problem = result.problem.as_ref();
                    refused.insert(
                        problem
                            .and_then(|problem| problem.check.as_deref())
                            .unwrap_or("none"),
                    );
                    Verdict::Rejected
                }
            };
            Ok((sent.clone(), verdict))
        })
        .collect();
    if !refused.is_empty() {
        tracing::warn!(checks = ?refused, "the directory refused KeyPackages");
    }
    verdicts
}

/// The directory's inventory, for the pool.
pub(super) fn directory_rows(items: Vec<InventoryItem>) -> Result<Vec<DirectoryRow>, Error> {
    items
        .into_iter()
        .map(|item| {
            Ok(DirectoryRow {
                key_package_ref: local_ref(&item.key_package_ref)?,
                held: held(item.state, kind_of(&item), item.used)?,
                reserved_until: item.reserved_until.map(UnixSeconds),
            })
        })
        .collect()
}

fn kind_of(item: &InventoryItem) -> Kind {
    match item.last_resort {
        true => Kind::LastResort,
        false => Kind::SingleUse,
    }
}

fn local_ref(key_package_ref: &larder_wire::KeyPackageRef) -> Result<KeyPackageRef, Error> {
    key_package_ref_from_slice(key_package_ref.as_bytes()).ok_or(Error::Corrupt("KeyPackageRef"))
}

/// An answer that does not fit the request.
fn unfit() -> Error {
    NotTheServer::NotLarder { status: 200 }.into()
}

/// What the directory says of a KeyPackage. A state that none of its kind is ever in does not fit.
fn held(state: KeyPackageState, kind: Kind, used: Option<bool>) -> Result<Held, Error> {
    use KeyPackageState as S;
    let status = match state {
        S::Available => DirectoryStatus::Available,
        S::Reserved => DirectoryStatus::Reserved,
        S::Retiring => DirectoryStatus::Retiring,
        S::Spent => DirectoryStatus::Spent,
        S::Lapsed => DirectoryStatus::Lapsed,
        S::Expired => DirectoryStatus::Expired,
        S::Revoked => DirectoryStatus::Revoked,
        S::Gone => DirectoryStatus::Gone,
    };
    Held::new(kind, status, used.unwrap_or(false)).ok_or_else(unfit)
}
