//! Blobs: bodies that are neither read nor answered in one piece.

use std::io;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt as _, unfold};
use larder_wire::{BlobId, BlobStored, ProblemType};
use tokio::time::{Instant, timeout, timeout_at};

use super::App;
use super::admission::Client;
use super::extract::{IdempotencyKey, Json, OCTET_STREAM, Path, content_type, malformed};
use super::openapi::BlobBytes;
use super::parts::in_parts;
use super::problem::{Failure, FetchBlobProblems, FindAndChangeProblems, StoreBlobProblems};
use crate::store::BLOB_PART_BYTES;
use crate::{BlobDownload, BlobUpload, Caller};

/// Stores a blob. Whoever is told its id can fetch it, and only the caller is told.
#[utoipa::path(
    post, path = "/v1/blobs", operation_id = "store_blob", tag = "blobs",
    params((
        "Idempotency-Key" = String, Header, min_length = 1, max_length = 64,
        description = "Chosen by the caller; the same bytes with the same key get the same answer while the blob is kept",
    )),
    request_body(content((BlobBytes = "application/octet-stream"))),
    responses((status = 201, description = "Stored", body = BlobStored), StoreBlobProblems),
    security(("session" = [])),
)]
pub(super) async fn store(
    caller: Caller,
    client: Client,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    request: Request,
) -> Result<(StatusCode, Json<BlobStored>), Failure> {
    if content_type(request.headers()).as_deref() != Some(OCTET_STREAM) {
        return Err(ProblemType::UnsupportedMediaType.into());
    }
    let size = content_length(request.headers()).ok_or_else(|| malformed("a Content-Length is needed"))?;
    let limits = app.service.limits();
    let mut body = Incoming::new(
        request.into_body(),
        Duration::from_secs(limits.transfer_part_seconds_max),
    );
    let bytes_max = app.service.info().limits.blob_bytes_max;
    let begun = match client.upload(size.min(bytes_max)) {
        Ok(()) => app
            .service
            .store_blob(&caller, key, size)
            .await
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let mut upload = match begun {
        Ok(upload) => upload,
        Err(failure) => {
            body.skip(bytes_max).await;
            return Err(failure);
        }
    };
    body.take_all(&mut upload).await?;
    Ok((StatusCode::CREATED, Json(upload.finish().await?)))
}

/// A blob. It is cut off where it ends while it is fetched.
#[utoipa::path(
    get, path = "/v1/blobs/{id}", operation_id = "fetch_blob", tag = "blobs",
    params(("id" = BlobId, Path, description = "The blob")),
    responses(
        (status = 200, description = "All of it", content((BlobBytes = "application/octet-stream"))),
        FetchBlobProblems,
    ),
    security(("session" = [])),
)]
pub(super) async fn fetch(
    caller: Caller,
    State(app): State<App>,
    Path(blob): Path<BlobId>,
) -> Result<Response, Failure> {
    let download = app.service.fetch_blob(&caller, blob).await?;
    let patience = Duration::from_secs(app.service.limits().transfer_part_seconds_max);
    let headers = [
        (header::CONTENT_TYPE, OCTET_STREAM.to_owned()),
        (header::CONTENT_LENGTH, download.size().to_string()),
    ];
    Ok((headers, in_parts(parts(download), patience)).into_response())
}

/// Ends a blob that a device of the caller's user has stored.
#[utoipa::path(
    delete, path = "/v1/blobs/{id}", operation_id = "remove_blob", tag = "blobs",
    params(("id" = BlobId, Path, description = "The blob")),
    responses((status = 204, description = "It is over"), FindAndChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn remove(
    caller: Caller,
    State(app): State<App>,
    Path(blob): Path<BlobId>,
) -> Result<StatusCode, Failure> {
    app.service.remove_blob(&caller, blob).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body of a request as it comes.
struct Incoming {
    body: BodyDataStream,
    /// How long a part of [`BLOB_PART_BYTES`] may take.
    patience: Duration,
    part: Option<Part>,
}

/// The part that is coming. Its end counts from its beginning: whoever sends a byte now and then gains nothing.
struct Part {
    ends: Instant,
    bytes_left: usize,
}

impl Incoming {
    fn new(body: Body, patience: Duration) -> Self {
        Self {
            body: body.into_data_stream(),
            patience,
            part: None,
        }
    }

    async fn take_all(&mut self, upload: &mut BlobUpload) -> Result<(), Failure> {
        while let Some(bytes) = self.next().await? {
            upload.append(&bytes).await?;
        }
        Ok(())
    }

    /// Reads so many bytes for nothing, if they come soon: many clients see no answer before they have sent everything.
    async fn skip(&mut self, most: u64) {
        let mut left = most;
        let skipping = async {
            while let Some(Ok(bytes)) = self.body.next().await {
                left = left.saturating_sub(bytes.len() as u64);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(self.patience, skipping).await;
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let mut part = self.part.take().unwrap_or_else(|| Part {
            ends: Instant::now() + self.patience,
            bytes_left: BLOB_PART_BYTES,
        });
        let next = timeout_at(part.ends, self.body.next())
            .await
            .map_err(|_| Failure::from(ProblemType::Unavailable))?
            .transpose()
            .map_err(|_| malformed("the body could not be read"))?;
        part.bytes_left = part
            .bytes_left
            .saturating_sub(next.as_ref().map_or(0, Bytes::len));
        // The next part begins when it is asked for: what the store takes is not the client's.
        self.part = (part.bytes_left > 0).then_some(part);
        Ok(next)
    }
}

/// The parts of a blob. The last one is an error when the blob is over.
fn parts(download: BlobDownload) -> impl Stream<Item = io::Result<Bytes>> {
    unfold(Some(download), |download| async {
        let mut download = download?;
        match download.next().await {
            Ok(Some(part)) => Some((Ok(part.into()), Some(download))),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// Bytes of these numbers, each this long after the one before; the time is the test's own.
    fn dripping(pieces: usize, bytes: usize, pause: Duration) -> Incoming {
        let drops = stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, io::Error>(Bytes::from(vec![0; bytes]))
        });
        Incoming::new(Body::from_stream(drops), Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_comes_a_byte_at_a_time_ends_with_its_own_time() {
        let begun = Instant::now();
        let mut body = dripping(1000, 1, Duration::from_secs(11));
        let mut taken = 0;
        while let Ok(Some(bytes)) = body.next().await {
            taken += bytes.len();
        }
        assert_eq!(taken, 2, "another one would have come after 33 s");
        assert_eq!(begun.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_parts_come_in_time_may_take_long() {
        const PIECES: usize = 40;
        let mut body = dripping(PIECES, BLOB_PART_BYTES / 2, Duration::from_secs(10));
        let mut taken = 0;
        while let Some(bytes) = body
            .next()
            .await
            .unwrap_or_else(|_| panic!("after {taken} bytes"))
        {
            taken += bytes.len();
        }
        assert_eq!(taken, PIECES * BLOB_PART_BYTES / 2);
    }
}
