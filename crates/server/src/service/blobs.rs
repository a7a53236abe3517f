use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_wire::{BlobId, BlobStored, ProblemType};
use sha2::{Digest, Sha256};

use super::{Caller, Service, malformed};
use crate::blobs::{self, Begun, UNFINISHED_SECONDS};
use crate::error::{Fault, ServiceError};
use crate::metrics::{self, Transfer};
use crate::random::random_bytes;
use crate::store::{BLOB_PART_BYTES, BlobRow};
use crate::transfers::TransferPlace;

/// Blobs.
impl Service {
    /// Begins to store a blob of `size` bytes. Refuses with `forbidden` (none can be stored), `malformed` (an empty one),
    /// `too-large` (the blob, or with it all that is stored for the user or on the server), `rate-limited` or `idempotency-mismatch`.
    pub async fn store_blob(
        &self,
        caller: &Caller,
        idempotency_key: String,
        size: u64,
    ) -> Result<BlobUpload, ServiceError> {
        let limits = self.inner.config.blobs;
        match size {
            _ if limits.bytes_max == 0 => return Err(ProblemType::Forbidden.into()),
            0 => return Err(malformed("a blob has at least one byte")),
            _ if size > limits.bytes_max => return Err(ProblemType::TooLarge.into()),
            _ => {}
        }
        let place = self.inner.transfers.enter(caller.device.user_key())?;
        let device = Arc::clone(&caller.device);
        let (now, ended_by) = (self.now(), self.blobs_ended_by());
        let name = BlobId::from_bytes(random_bytes(&self.inner.crypto)?);
        let given = name.clone();
        let begun = self
            .change(caller, move |tx| {
                blobs::begin(
                    tx,
                    &device,
                    &idempotency_key,
                    (&given, size),
                    &limits,
                    (now, ended_by),
                )
            })
            .await?;
        Ok(BlobUpload {
            service: self.clone(),
            begun,
            name,
            size,
            received: 0,
            part: Vec::new(),
            hasher: Sha256::new(),
            _place: place,
        })
    }

    /// A place among those who fetch something large. Fails with [`Fault::Busy`] while there is none, or the caller's user has as
    /// many as one may.
    pub(crate) fn place_to_fetch(&self, caller: &Caller) -> Result<TransferPlace, ServiceError> {
        let place = self.inner.transfers.enter(caller.device.user_key());
        place.map_err(|_| Fault::Busy.into())
    }

    /// Begins to fetch a blob. Refuses with `not-found` (it never was, is not all there, or is over) or `rate-limited`.
    pub async fn fetch_blob(&self, caller: &Caller, blob: BlobId) -> Result<BlobDownload, ServiceError> {
        let place = self.inner.transfers.enter(caller.device.user_key())?;
        let ended_by = self.blobs_ended_by();
        let row = self
            .inner
            .store
            .read(move |tx| Ok(tx.blob(&blob, ended_by)?))
            .await?
            .ok_or(ProblemType::NotFound)?;
        Ok(BlobDownload {
            service: self.clone(),
            row,
            next: 0,
            _place: place,
        })
    }

    /// Ends a blob that a device of the caller's user has stored. Refuses with `not-found`.
    pub async fn remove_blob(&self, caller: &Caller, blob: BlobId) -> Result<(), ServiceError> {
        let (device, ended_by) = (Arc::clone(&caller.device), self.blobs_ended_by());
        self.change(caller, move |tx| blobs::remove(tx, &device, &blob, ended_by))
            .await
    }

    /// Blobs that ended by then are over.
    fn blobs_ended_by(&self) -> UnixSeconds {
        self.inner
            .watch
            .ended_by(self.inner.config.blobs.retention_seconds)
    }
}

/// A blob that is being stored, part by part. Dropped before its end, it is over in an hour.
pub struct BlobUpload {
    service: Service,
    begun: Begun,
    name: BlobId,
    size: u64,
    received: u64,
    /// What has come and is not stored yet: less than a part.
    part: Vec<u8>,
    hasher: Sha256,
    _place: TransferPlace,
}

impl BlobUpload {
    /// Takes what comes next. Refuses with `malformed` (more than was announced).
    pub async fn append(&mut self, mut bytes: &[u8]) -> Result<(), ServiceError> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > self.size {
            return Err(malformed("more bytes than were announced"));
        }
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let room = BLOB_PART_BYTES - self.part.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == BLOB_PART_BYTES {
                self.store_part(self.received - bytes.len() as u64).await?;
            }
        }
        Ok(())
    }

    /// Stores the part that ends at `end`.
    async fn store_part(&mut self, end: u64) -> Result<(), ServiceError> {
        let part = std::mem::take(&mut self.part);
        let key = match self.begun {
            Begun::New(key) => key,
            // It is there already; only its hash is wanted.
            Begun::Known { .. } => return Ok(()),
        };
        let offset = end - part.len() as u64;
        let now = self.service.now();
        let times = (now, now.plus(UNFINISHED_SECONDS));
        self.service
            .inner
            .store
            .write(move |tx| {
                match tx.append_to_blob(key, offset, &part, times)? {
                    true => Ok(()),
                    // The device has begun anew under the same key.
                    false => Err(Fault::Busy.into()),
                }
            })
            .await
    }

    /// All has come: the blob can be fetched. Refuses with `malformed` (less than was announced) or
    /// `idempotency-mismatch`.
    pub async fn finish(mut self) -> Result<BlobStored, ServiceError> {
        if self.received != self.size {
            return Err(malformed("fewer bytes than were announced"));
        }
        if !self.part.is_empty() {
            self.store_part(self.size).await?;
        }
        let sha256: [u8; 32] = self.hasher.finalize().into();
        let key = match self.begun {
            Begun::New(key) => key,
            Begun::Known {
                name,
                sha256: known,
                expires_at,
            } => {
                if known != sha256 {
                    return Err(ProblemType::IdempotencyMismatch.into());
                }
                return Ok(BlobStored {
                    blob_id: name,
                    expires_at: expires_at.0,
                });
            }
        };
        let now = self.service.now();
        let expires_at = now.plus(self.service.inner.config.blobs.retention_seconds);
        self.service
            .inner
            .store
            .write(
                move |tx| match tx.complete_blob(key, &sha256, (now, expires_at))? {
                    true => Ok(()),
                    false => Err(Fault::Busy.into()),
                },
            )
            .await?;
        metrics::transferred(Transfer::Stored, self.size);
        Ok(BlobStored {
            blob_id: self.name,
            expires_at: expires_at.0,
        })
    }
}

/// A blob that is being fetched, part by part.
pub struct BlobDownload {
    service: Service,
    row: BlobRow,
    next: u64,
    _place: TransferPlace,
}

impl BlobDownload {
    /// All of it, in bytes.
    pub fn size(&self) -> u64 {
        self.row.size
    }

    /// The next part; `None` after the last one. Refuses with `not-found`: it is over by now.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ServiceError> {
        if self.next * BLOB_PART_BYTES as u64 >= self.row.size {
            metrics::transferred(Transfer::Fetched, self.row.size);
            return Ok(None);
        }
        let (key, number) = (self.row.key, self.next);
        self.next += 1;
        let part = self
            .service
            .inner
            .store
            .read(move |tx| Ok(tx.blob_part(key, number)?))
            .await?;
        part.map(Some).ok_or_else(|| ProblemType::NotFound.into())
    }
}
